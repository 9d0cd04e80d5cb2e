"""Chunking: the invariants of every strategy on text made to break them, and each strategy's own rule."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chunking
from chunking import ChunkSpans, chunk_batch, sentence_identity, token_limit
from common.errors import UserError
from common.token_counters import load_token_counter
from common.windows import is_joined
from config import ChunkingConfig, EmbeddingConfig
from tests.common.test_token_counters import TEXTS, rank_file, saved, train_bytelevel
from tests.models import TRAINING_TEXT, train_wordpiece

EXAMPLES = settings(max_examples=75, derandomize=True, deadline=None)
PROSE = " ".join(TRAINING_TEXT) + "\n\n" + " ".join(reversed(TRAINING_TEXT))

ADVERSARIAL = {
    "nothing": "",
    "white space": " \n\t\u3000\u00a0 ",
    "prose": PROSE,
    "one word": "x",
    "emoji": "👩‍👩‍👧‍👦🏽🇫🇷" * 40,
    "zalgo": "a" + "\u0301" * 300 + "b",
    "decomposed": "e\u0301o\u0302 " * 60,
    "CJK": "中文没有空格。" * 40 + "日本語のテキスト！" * 20,
    "Thai": "ภาษาไทยไม่มีช่องว่าง" * 20,
    "Arabic": "النص العربي يكتب من اليمين إلى اليسار ﷽ " * 12,
    "no spaces": "abcdefghij" * 120,
    "no spaces, one letter": "a" * 2000,
    "symbols": "+-*/=<>" * 100,
    "controls": "\x00\x01\x02" * 200,
    "zero width": "\u200b\u200d" * 200,
    "a wide gap": "left" + " " * 3000 + "right",
    "line ends": "a\r\nb\r\n\r\n" * 60,
    "long sentence": "word " * 300 + ". Short one. Another.",
    "special tokens": "[CLS] [SEP][SEP] <|endoftext|> " * 20,
}

COUNTED = ("fixed_tokens", "sentence_spacy", "sentence_nltk")
STRATEGIES = ("paragraph", "fixed_chars", *COUNTED)
COUNTERS = ("words", "wordpiece", "bytelevel", "metaspace", "tiktoken", "prompted")


def train_metaspace():
    """A Unigram tokenizer that normalises (one ligature becomes many letters) and marks spaces, as XLM-R's does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def counters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counters")
    plain = EmbeddingConfig()
    prompted = EmbeddingConfig(engine="sentence_transformers", model=str(folder / "prompted"))
    saved(train_wordpiece(), folder / "prompted")
    (folder / "prompted" / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    (folder / "prompted" / "config_sentence_transformers.json").write_text('{"prompts": {"document": "passage: "}}')
    return {
        "words": load_token_counter(ChunkingConfig(), plain),
        "wordpiece": saved(train_wordpiece(), folder / "wordpiece"),
        "bytelevel": saved(train_bytelevel(), folder / "bytelevel"),
        "metaspace": saved(train_metaspace(), folder / "metaspace"),
        "tiktoken": load_token_counter(ChunkingConfig(tokenizer=f"tiktoken:{rank_file(folder)}"), plain),
        "prompted": load_token_counter(ChunkingConfig(), prompted),
    }


def spans_of(found: ChunkSpans, document: int) -> list[tuple[int, int]]:
    of = found.document == document
    return list(zip(found.start[of].tolist(), found.end[of].tolist(), strict=True))


def assert_invariants(texts: list[str], found: ChunkSpans, config: ChunkingConfig, counter=None) -> None:
    """What holds for every strategy: slices, coverage, order, limit."""
    assert (np.diff(found.document) >= 0).all()
    for document, text in enumerate(texts):
        spans = spans_of(found, document)
        covered = np.zeros(len(text), bool)
        for start, end in spans:
            assert 0 <= start < end <= len(text)
            assert text[start:end] == text[start:end].strip() != ""
            covered[start:end] = True
        assert all(covered[position] or text[position].isspace() for position in range(len(text)))
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(spans))
    slices = [texts[d][s:e] for d, s, e in zip(found.document, found.start, found.end, strict=True)]
    if counter is not None:
        alone = counter.count(slices)
        assert alone.tolist() == found.tokens.tolist()
        assert (alone <= token_limit(config, counter).most).all()
    else:
        assert all(len(text) <= config.max_chars for text in slices)


def has_joins(text: str) -> bool:
    return any(is_joined(text, position) for position in range(1, len(text)))


# --- every strategy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_invariants_on_adversarial_documents(strategy, counters):
    texts = list(ADVERSARIAL.values())
    config = ChunkingConfig(strategy=strategy, max_tokens=30, max_chars=50, overlap_pct=0.2)
    for counter in counters.values() if strategy in COUNTED else [None]:
        found = chunk_batch(texts, config, counter)
        assert_invariants(texts, found, config, counter)
        assert len(found.start) > 3 * len(texts)
        chunked = set(found.document.tolist())
        assert chunked == {i for i, text in enumerate(texts) if text.strip()}


@pytest.mark.parametrize("counter", COUNTERS)
@EXAMPLES
@given(texts=st.lists(TEXTS, max_size=4), max_tokens=st.integers(24, 60), overlap=st.floats(0, 0.95))
def test_token_windows_hold_for_any_text(counters, counter, texts, max_tokens, overlap):
    config = ChunkingConfig(strategy="fixed_tokens", max_tokens=max_tokens, overlap_pct=overlap)
    found = chunk_batch(texts, config, counters[counter])
    assert_invariants(texts, found, config, counters[counter])


@pytest.mark.parametrize("strategy", ["paragraph", "fixed_chars"])
@EXAMPLES
@given(texts=st.lists(TEXTS, max_size=4), max_chars=st.integers(1, 60), overlap=st.floats(0, 0.95))
def test_character_windows_hold_for_any_text(strategy, texts, max_chars, overlap):
    config = ChunkingConfig(strategy=strategy, max_chars=max_chars, overlap_pct=overlap)
    assert_invariants(texts, chunk_batch(texts, config, None), config)


@pytest.mark.parametrize("strategy", ["sentence_spacy", "sentence_nltk"])
@EXAMPLES
@given(texts=st.lists(TEXTS, max_size=3), max_tokens=st.integers(5, 40), overlap=st.floats(0, 0.95))
def test_sentence_windows_hold_for_any_text(counters, strategy, texts, max_tokens, overlap):
    config = ChunkingConfig(strategy=strategy, max_tokens=max_tokens, overlap_pct=overlap)
    found = chunk_batch(texts, config, counters["words"])
    assert_invariants(texts, found, config, counters["words"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_documents_do_not_depend_on_their_batch(strategy, counters, monkeypatch):
    texts = list(ADVERSARIAL.values())
    config = ChunkingConfig(strategy=strategy, max_tokens=40, max_chars=50)
    together = chunk_batch(texts, config, counters["bytelevel"])
    monkeypatch.setattr(chunking, "BATCH_CHARS", 500)
    apart = chunk_batch(texts, config, counters["bytelevel"])
    for column in ("document", "start", "end", "tokens"):
        assert getattr(together, column).tolist() == getattr(apart, column).tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_document_gives_no_chunk(strategy, counters):
    config = ChunkingConfig(strategy=strategy)
    for texts in ([], [""], [" \n "]):
        found = chunk_batch(texts, config, counters["words"])
        assert (len(found.start), found.tokens.dtype, found.start.dtype) == (0, np.int32, np.int64)


# --- tokens --------------------------------------------------------------------------------------------------


def tokens_between(tokens: np.ndarray, start: int, end: int) -> int:
    return int(((tokens[:, 0] < end) & (tokens[:, 1] > start)).sum())


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("overlap_pct", [0.0, 0.15, 0.5])
def test_neighbouring_token_windows_share_the_overlap_asked(counters, counter, overlap_pct):
    text = " ".join(random.Random(3).choices(PROSE.split(), k=800))
    config = ChunkingConfig(strategy="fixed_tokens", max_tokens=60, overlap_pct=overlap_pct)
    limit = token_limit(config, counters[counter])
    spans = spans_of(chunk_batch([text], config, counters[counter]), 0)
    (tokens,) = counters[counter].spans([text])
    assert len(spans) > 10
    for (_, end), (start, _) in pairwise(spans):
        least = tokens_between(tokens, start, end)
        # Tokens of white space at the two ends were part of the windows, and are not part of the chunks.
        most = tokens_between(tokens, len(text[:start].rstrip()), end + len(text[end:]) - len(text[end:].lstrip()))
        assert least <= round(overlap_pct * limit.budget) <= most <= least + 2


def test_token_windows_are_full_but_for_the_last(counters):
    counter = counters["words"]
    text = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" * 8)
    found = chunk_batch([text], ChunkingConfig(max_tokens=50, overlap_pct=0.1), counter)
    assert found.tokens.tolist() == [50, 50, 50, 50, 28]
    assert [text[s:].split()[0] for s in found.start.tolist()] == ["worda", "wordt", "wordm", "wordf", "wordy"]


def test_special_tokens_and_prompt_come_off_the_budget(counters):
    counter = counters["prompted"]
    config = ChunkingConfig(max_tokens=64)
    assert counter.overhead > 2
    found = chunk_batch([PROSE], config, counter)
    assert 60 <= found.tokens.max() <= 64
    inside = counter.spans([PROSE[s:e] for s, e in spans_of(found, 0)])
    assert max(len(spans) for spans in inside) == found.tokens.max() - counter.overhead


def test_the_models_own_maximum_wins_over_a_larger_setting_and_says_so_once(counters, capsys):
    assert token_limit(ChunkingConfig(max_tokens=512), counters["prompted"]).most == 64
    assert token_limit(ChunkingConfig(max_tokens=32), counters["prompted"]).most == 32
    chunking._note.cache_clear()
    for _ in range(2):
        assert chunk_batch([PROSE], ChunkingConfig(max_tokens=512), counters["prompted"]).tokens.max() <= 64
    assert capsys.readouterr().err.count("the model reads 64 tokens, so chunks hold 64, not 512") == 1


def test_a_short_document_is_one_chunk_without_its_outer_white_space(counters):
    text = "\n  Water boils.\t\n"
    for strategy in STRATEGIES:
        found = chunk_batch([text], ChunkingConfig(strategy=strategy), counters["wordpiece"])
        assert [text[s:e] for s, e in spans_of(found, 0)] == ["Water boils."]
        assert found.tokens.tolist() == counters["wordpiece"].count(["Water boils."]).tolist()


@pytest.mark.parametrize("counter", ["wordpiece", "bytelevel", "metaspace", "tiktoken"])
def test_slices_that_grow_when_counted_alone_are_split(counters, counter, monkeypatch):
    """Without the repair these windows are over the limit: the test would see it if nothing ever grew."""
    grown = []
    halved = chunking._halved
    monkeypatch.setattr(chunking, "_halved", lambda texts, row, *rest: grown.append(row) or halved(texts, row, *rest))
    text = "unbelievable" * 40 + PROSE + " incomprehensibilities \ufdfa" * 60 + "e\u0301" * 200
    total = 0
    for max_tokens in range(24, 44):
        config = ChunkingConfig(max_tokens=max_tokens, overlap_pct=0.3)
        assert_invariants([text], chunk_batch([text], config, counters[counter]), config, counters[counter])
        total += len(grown)
    assert total > 0


def test_graphemes_stay_whole(counters):
    text = "👩\u200d👩\u200d👧e\u0301🏽\u200d" * 60
    for counter in ("bytelevel", "tiktoken", "wordpiece"):
        for start, end in spans_of(chunk_batch([text], ChunkingConfig(max_tokens=64), counters[counter]), 0):
            assert not is_joined(text, start)
            assert not is_joined(text, end)


def test_no_room_and_a_character_above_the_limit_are_one_line(counters):
    with pytest.raises(UserError, match="leave no room beside special tokens and prompt"):
        chunk_batch(["a"], ChunkingConfig(max_tokens=5), counters["prompted"])
    with pytest.raises(UserError, match=r"single character U\+1F600 takes 4 tokens"):
        chunk_batch(["😀😀"], ChunkingConfig(max_tokens=3), counters["bytelevel"])
    with pytest.raises(ValueError, match="needs a token counter"):
        chunk_batch(["a"], ChunkingConfig(), None)


# --- sentences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["sentence_spacy", "sentence_nltk"])
def test_sentences_are_packed_whole_and_repeated_whole(counters, strategy):
    sentences = [f"Sentence number {name} has six words." for name in "abcdefghijklmnopqrst"]
    text = " ".join(sentences)
    config = ChunkingConfig(strategy=strategy, max_tokens=20, overlap_pct=0.4)
    found = chunk_batch([text], config, counters["words"])
    packed = [text[start:end] for start, end in spans_of(found, 0)]
    # Three sentences of six words fit 20; one of them (6 <= 8) is repeated.
    expected = [" ".join(sentences[i : i + 3]) for i in range(0, 18, 2)] + [" ".join(sentences[18:])]
    assert packed[:9] == expected[:9]
    assert packed[-1].endswith(sentences[-1])
    without = chunk_batch([text], replace(config, overlap_pct=0.2), counters["words"])
    assert [text[s:e] for s, e in spans_of(without, 0)][:2] == [" ".join(sentences[:3]), " ".join(sentences[3:6])]


@pytest.mark.parametrize("strategy", ["sentence_spacy", "sentence_nltk"])
def test_an_over_long_sentence_is_windowed_by_tokens(counters, strategy):
    text = "Short one. " + "word " * 100 + "end. Short two."
    config = ChunkingConfig(strategy=strategy, max_tokens=30, overlap_pct=0.1)
    spans = spans_of(chunk_batch([text], config, counters["words"]), 0)
    packed = [text[start:end] for start, end in spans]
    assert packed[0] == "Short one."
    assert packed[-1].endswith("Short two.")
    assert [len(part.split()) for part in packed[1:4]] == [30, 30, 30]
    assert spans[1][1] - spans[2][0] == len("word word word")


def test_a_missing_spacy_model_names_the_command_that_installs_it(counters):
    config = ChunkingConfig(strategy="sentence_spacy", spacy_model="xx_absent_sm", max_tokens=5)
    with pytest.raises(UserError, match="uv run python -m spacy download xx_absent_sm") as raised:
        chunk_batch(["one two three four five six seven"], config, counters["words"])
    assert "\n" not in str(raised.value)


def test_a_spacy_pipeline_is_loaded_by_name_and_given_a_sentencizer(counters, tmp_path):
    import spacy

    spacy.blank("en").to_disk(tmp_path / "pipeline")
    text = "Water boils. Bread rises. Rivers carry sediment."
    config = ChunkingConfig(strategy="sentence_spacy", spacy_model=str(tmp_path / "pipeline"), max_tokens=4)
    found = chunk_batch([text], config, counters["words"])
    assert [text[s:e] for s, e in spans_of(found, 0)] == ["Water boils. Bread rises.", "Rivers carry sediment."]


def test_the_identity_of_a_splitter_tells_trained_punkt_from_untrained(tmp_path):
    assert sentence_identity(ChunkingConfig(), tmp_path) == ""
    assert sentence_identity(ChunkingConfig(strategy="sentence_nltk"), tmp_path).split(":")[1] in (
        "punkt_tab-english",
        "punkt-untrained",
    )


def test_the_identity_of_a_spacy_pipeline_is_its_content_not_its_folder(tmp_path):
    import spacy

    def identity(model: str | None) -> str:
        return sentence_identity(ChunkingConfig(strategy="sentence_spacy", spacy_model=model), tmp_path / "cache")

    spacy.blank("en").to_disk(tmp_path / "en")
    spacy.blank("de").to_disk(tmp_path / "de")
    here = identity(str(tmp_path / "en"))
    assert len({here, identity(str(tmp_path / "de")), identity(None), identity("blank:en")}) == 4
    (tmp_path / "en").rename(tmp_path / "moved")
    assert identity(str(tmp_path / "moved")) == here
    (tmp_path / "moved" / "meta.json").write_text("{}")
    assert identity(str(tmp_path / "moved")) != here
    with pytest.raises(UserError, match="'xx_absent_sm' is not installed; run: uv run python -m spacy download"):
        identity("xx_absent_sm")


def test_a_folder_that_is_no_spacy_pipeline(counters, tmp_path):
    config = ChunkingConfig(strategy="sentence_spacy", spacy_model=str(tmp_path), max_tokens=4)
    with pytest.raises(UserError, match="is not a spaCy pipeline that loads"):
        chunk_batch(["one two three four five six seven"], config, counters["words"])


# --- characters ----------------------------------------------------------------------------------------------


def test_paragraphs_are_split_at_blank_lines_and_long_ones_at_sentences_words_characters():
    text = "One.\n\nTwo is here. Two goes on.\n \t\nThree " + "x" * 30 + "\n\n\n\nfour five six seven eight"
    config = ChunkingConfig(strategy="paragraph", max_chars=14)
    found = [text[s:e] for s, e in spans_of(chunk_batch([text], config, None), 0)]
    assert found == [
        "One.",
        "Two is here.",
        "Two goes on.",
        "Three",
        "x" * 14,
        "x" * 14,
        "xx",
        "four five six",
        "seven eight",
    ]


def test_a_paragraph_within_the_limit_is_kept_whole():
    text = "A. B. C.\nD.\n\nE. F."
    found = chunk_batch([text], ChunkingConfig(strategy="paragraph", max_chars=11), None)
    assert [text[s:e] for s, e in spans_of(found, 0)] == ["A. B. C.\nD.", "E. F."]
    assert found.tokens.tolist() == [-1, -1]


def test_character_windows_have_their_size_and_overlap():
    text = "abcdefghijklmnopqrstuvwxyz"
    found = chunk_batch([text], ChunkingConfig(strategy="fixed_chars", max_chars=10, overlap_pct=0.3), None)
    assert spans_of(found, 0) == [(0, 10), (7, 17), (14, 24), (21, 26)]


@EXAMPLES
@given(TEXTS, st.integers(2, 40))
def test_character_windows_part_no_grapheme_that_fits(text, max_chars):
    found = chunk_batch([text], ChunkingConfig(strategy="fixed_chars", max_chars=max_chars), None)
    if "\u0301" * 2 in text or max_chars < 12:
        return
    for start, _ in spans_of(found, 0):
        assert not has_joins(text[max(start - 1, 0) : start + 1]) or text[start - 1].isspace()


# --- size ----------------------------------------------------------------------------------------------------


def megabytes(kind: str, count: int = 3) -> str:
    words = PROSE.split() if kind == "spaces" else ["中文", "abc", "é", "x1"]
    separator = " " if kind == "spaces" else ""
    sample = separator.join(random.Random(1).choices(words, k=40_000)) + separator
    return (sample * (count * 1_000_000 // len(sample) + 1))[: count * 1_000_000]


def assert_large(text: str, config: ChunkingConfig, counter) -> None:
    found = chunk_batch([text, "a short one"], config, counter)
    start, end = found.start[:-1], found.end[:-1]
    assert "\n" not in text
    assert (start[0], end[-1]) == (0, len(text.rstrip()))
    assert (np.diff(start) > 0).all()
    assert all(not text[a:b].strip() for a, b in zip(end[:-1], start[1:], strict=True) if a < b)
    if counter is None:
        assert (end - start).max() <= config.max_chars
    else:
        assert found.tokens.max() <= config.max_tokens
        chosen = slice(None, None, 50)
        slices = [text[s:e] for s, e in zip(start[chosen], end[chosen], strict=True)]
        assert counter.count(slices).tolist() == found.tokens[:-1][chosen].tolist()
    assert spans_of(found, 1) == [(0, 11)]


@pytest.mark.parametrize("kind", ["spaces", "none"])
@pytest.mark.parametrize("strategy", ["paragraph", "fixed_chars"])
def test_megabytes_on_one_line_by_characters(kind, strategy):
    assert_large(megabytes(kind), ChunkingConfig(strategy=strategy), None)


def test_megabytes_on_one_line_by_tokens(counters):
    assert_large(megabytes("spaces"), ChunkingConfig(), counters["wordpiece"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spaces", "none"])
@pytest.mark.parametrize(
    ("strategy", "counter"),
    [
        ("fixed_tokens", "bytelevel"),
        ("fixed_tokens", "wordpiece"),
        ("fixed_tokens", "tiktoken"),
        ("fixed_tokens", "metaspace"),
        ("sentence_spacy", "words"),
        ("sentence_nltk", "words"),
    ],
)
def test_ten_megabytes_on_one_line_by_every_tokenizer(kind, strategy, counter, counters):
    assert_large(megabytes(kind, 10), ChunkingConfig(strategy=strategy), counters[counter])
