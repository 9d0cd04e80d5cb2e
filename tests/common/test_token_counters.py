"""Token counters: character offsets and counts, against the tokenizers themselves and against sentence-transformers."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, UserError
from common.token_counters import (
    WORD_PATTERN,
    ModelFiles,
    TokenCounter,
    WordMemo,
    document_prompt,
    load_token_counter,
    splits_at_spaces,
)
from config import ChunkingConfig, EmbeddingConfig
from tests.models import TRAINING_TEXT, build_static, build_transformer, train_wordpiece

# Letters, marks, joiners, scripts without spaces, odd white space, a control character, a special token in the text.
LETTERS = [
    "the cell",
    "Water",
    "boils",
    "naïve",
    "e\u0301",
    "👩\u200d👩\u200d👧",
    "🏽",
    "中文字",
    "ไทย",
    "नमस्ते",
    "שלום",
    "١٢٣",
]
SPACES = [" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\x1c", "\u200b"]
ODDITIES = ["\u0301", "\x00", "[SEP]", "##ing", "!?", "x" * 120]
PARTS = st.sampled_from([*LETTERS, *SPACES, *ODDITIES])
TEXTS = st.lists(PARTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=25).map("".join)


def train_bytelevel():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TRAINING_TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def saved(tokenizer, folder) -> TokenCounter:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_token_counter(ChunkingConfig(tokenizer=str(folder)), EmbeddingConfig())


def rank_file(folder, name="r50k_base"):
    """A tiktoken rank file: every byte, and some merges."""
    merges = [b"th", b"the", b" c", b" ce", b"ll", b" cell", b"\xf0\x9f", b"\xe4\xb8", b" \xe4\xb8"]
    tokens = [bytes([byte]) for byte in range(256)] + merges
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for rank, token in enumerate(tokens)]
    path = folder / f"{name}.tiktoken"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    tokenizer = train_wordpiece()
    return saved(tokenizer, tmp_path_factory.mktemp("wordpiece")), tokenizer


@pytest.fixture(scope="module")
def bytelevel(tmp_path_factory):
    tokenizer = train_bytelevel()
    return saved(tokenizer, tmp_path_factory.mktemp("bytelevel")), tokenizer


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    path = rank_file(tmp_path_factory.mktemp("ranks"))
    return load_token_counter(ChunkingConfig(tokenizer=f"tiktoken:{path}"), EmbeddingConfig())


# --- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't panic, x_1 = 42!", ["Don", "t", "panic", "x", "1", "42"]),
        ("naïve cafe\u0301 e\u0301", ["naïve", "cafe\u0301", "e\u0301"]),
        ("中文字と カナ", ["中", "文", "字", "と", "カ", "ナ"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("שלום עולם ١٢٣", ["שלום", "עולם", "١٢٣"]),
        ("น้ำ", ["น้", "ำ"]),
        ("👩‍👩‍👧 🏽 !?", []),
    ],
)
def test_words_are_letter_runs_digit_runs_or_characters_of_unspaced_scripts(text, words):
    assert re.findall(WORD_PATTERN, text) == words


def test_the_lsa_engine_counts_its_own_words():
    counter = load_token_counter(ChunkingConfig(), EmbeddingConfig())
    assert (counter.identity, counter.overhead, counter.max_length) == ("words-v1", 0, None)
    assert counter.count(["two words", "", "中文"]).tolist() == [2, 0, 2]
    assert [spans.tolist() for spans in counter.spans(["two words", ""])] == [[[0, 3], [4, 9]], []]


# --- tokenizer.json ------------------------------------------------------------------------------------------


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_remembered_words_give_exactly_the_tokenizers_spans_and_counts(wordpiece, texts):
    counter, tokenizer = wordpiece
    expected = [tokenizer.encode(text, add_special_tokens=False).offsets for text in texts]
    assert [[tuple(span) for span in spans.tolist()] for spans in counter.spans(texts)] == expected
    assert counter.count(texts).tolist() == [len(tokenizer.encode(text).ids) for text in texts]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(TEXTS)
def test_byte_level_spans_are_characters(bytelevel, text):
    counter, tokenizer = bytelevel
    (spans,) = counter.spans([text])
    assert len(spans) == counter.count([text])[0] == len(tokenizer.encode(text).ids)
    if text:
        covered = np.zeros(len(text), bool)
        for start, end in spans.tolist():
            covered[start:end] = True
        assert covered.all()
        assert spans.max() == len(text)


def test_wordpiece_is_memorised_and_byte_level_is_not(wordpiece, bytelevel):
    read = [json.loads(tokenizer.to_str()) for _, tokenizer in (wordpiece, bytelevel)]
    assert [splits_at_spaces(tokenizer) for tokenizer in read] == [True, False]
    spaced = {**read[0], "added_tokens": [{"content": "two words"}]}
    assert not splits_at_spaces(spaced)
    assert not splits_at_spaces({**read[0], "normalizer": {"type": "Replace"}})


def test_a_full_memo_starts_again_and_still_counts_right(wordpiece):
    counter, _ = wordpiece
    encoded: list[str] = []
    direct = counter._encode_spans  # the encoder below the memo
    memo = WordMemo(lambda lines: (encoded.extend(lines), direct(lines))[1], counter._encode_counts, max_chars=20)
    texts = ["the cell the cell", "water boils", "unbelievable lists"]
    for text in texts * 2:
        assert memo.count([text]).tolist() == [len(direct([text])[0])]
        assert memo.spans([text])[0].tolist() == direct([text])[0].tolist()
    assert encoded.count("cell the") == 2


def test_truncation_and_padding_stored_in_the_file_do_not_count(tmp_path):
    tokenizer = train_wordpiece()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    counter = saved(tokenizer, tmp_path)
    assert counter.count(["a", "the cell " * 20]).tolist() == [3, 42]


def test_a_tokenizer_without_offsets_is_one_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n")
    with pytest.raises(UserError, match=r"has no tokenizer.json, so its tokens have no character offsets"):
        load_token_counter(ChunkingConfig(tokenizer=str(tmp_path)), EmbeddingConfig())


def test_a_missing_model_and_a_broken_file_are_one_line(tmp_path):
    engine = EmbeddingConfig(engine="sentence_transformers", model=str(tmp_path / "absent" / "model"))
    with pytest.raises(UserError, match="does not exist"):
        load_token_counter(ChunkingConfig(), engine)
    with pytest.raises(ConfigError, match="needs a hub id or a local folder"):
        load_token_counter(ChunkingConfig(), EmbeddingConfig(engine="sentence_transformers"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read"):
        load_token_counter(ChunkingConfig(tokenizer=str(tmp_path)), EmbeddingConfig()).count(["a"])
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(UserError, match=r"modules.json is not valid JSON"):
        load_token_counter(ChunkingConfig(), EmbeddingConfig(engine="sentence_transformers", model=str(tmp_path)))


# --- embedding models ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    prompts = {"query": "find: ", "document": "passage: "}
    return build_transformer(tmp_path_factory.mktemp("transformer"), max_tokens=48, prompts=prompts)


def engine(model, **settings_) -> EmbeddingConfig:
    return EmbeddingConfig(engine="sentence_transformers", model=str(model), **settings_)


def test_counts_are_what_sentence_transformers_feeds_the_model(transformer):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(transformer), device="cpu")
    counter = load_token_counter(ChunkingConfig(), engine(transformer))
    assert counter.max_length == model.max_seq_length == 48
    assert counter.prompt == "passage: "
    texts = ["Water boils", "the cell 中文", "unbelievable!", "a"]
    fed = [int(model.preprocess([counter.prompt + text])["attention_mask"].sum()) for text in texts]
    assert counter.count(texts).tolist() == fed
    alone = counter.count([""])[0]
    assert counter.overhead == alone == 2 + len(counter.spans(["passage: "])[0])


def test_a_static_model_adds_no_special_tokens_and_has_no_limit(tmp_path):
    counter = load_token_counter(ChunkingConfig(), engine(build_static(tmp_path)))
    assert (counter.overhead, counter.max_length) == (0, None)
    assert counter.count(["a", "the cell"]).tolist() == [len(spans) for spans in counter.spans(["a", "the cell"])]


@pytest.mark.parametrize(
    ("prompts", "default", "chosen", "expected"),
    [
        ({"passage": "p: ", "query": "q: "}, None, None, "p: "),
        ({"passage": "p: ", "document": "d: "}, None, None, "d: "),
        ({"query": "q: ", "other": "o: "}, "other", None, "o: "),
        ({"query": "q: "}, None, None, ""),
        ({"document": "d: "}, None, "mine: ", "mine: "),
        ({"document": "d: "}, None, "", ""),
    ],
)
def test_the_document_prompt_is_the_configs_or_the_models(tmp_path, prompts, default, chosen, expected):
    settings_ = {"prompts": prompts, "default_prompt_name": default}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings_))
    assert document_prompt(engine(tmp_path, document_prompt=chosen)) == expected


def test_the_maximum_length_is_the_configs_the_modules_or_the_tokenizers(tmp_path):
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "modules.json").write_text('[{"path": "0_Transformer", "type": "x.Transformer"}]')
    (tmp_path / "0_Transformer" / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    (tmp_path / "0_Transformer" / "config.json").write_text('{"max_position_embeddings": 514}')
    assert ModelFiles(str(tmp_path), "main").max_length(None) == 512
    (tmp_path / "0_Transformer" / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert ModelFiles(str(tmp_path), "main").max_length(None) == 514
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert ModelFiles(str(tmp_path), "main").max_length(None) == 256
    assert ModelFiles(str(tmp_path), "main").max_length(100) == 100


def test_lower_casing_of_the_module_is_applied_before_its_tokenizer(tmp_path):
    from tokenizers import normalizers

    tokenizer = train_wordpiece()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "modules.json").write_text('[{"path": "", "type": "x.Transformer"}]')
    cased = load_token_counter(ChunkingConfig(), engine(tmp_path))
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    lowered = load_token_counter(ChunkingConfig(), engine(tmp_path))
    assert lowered.count(["CELL İ MEMBRANE"]).tolist() == cased.count(["cell i\u0307 membrane"]).tolist()
    assert cased.identity != lowered.identity


def test_identity_follows_content_not_place(tmp_path, wordpiece):
    _, tokenizer = wordpiece
    here, there = saved(tokenizer, tmp_path / "here"), saved(tokenizer, tmp_path / "there")
    other = saved(train_wordpiece(vocabulary=300), tmp_path / "other")
    assert here.identity == there.identity != other.identity


def test_prompt_and_limit_are_part_of_the_identity(transformer):
    counters = [
        load_token_counter(ChunkingConfig(), engine(transformer, **options))
        for options in ({}, {"document_prompt": ""}, {"max_seq_length": 32})
    ]
    assert len({counter.identity for counter in counters}) == 3


@pytest.mark.realdata
def test_a_real_static_model_counts_as_its_tokenizer(realdata):
    from tokenizers import Tokenizer

    folder = realdata / "embedder" / "potion-base-4m"
    counter = load_token_counter(ChunkingConfig(), engine(folder))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [line["question"] for line in map(json.loads, (realdata / "benchmarks/gsm8k/test.jsonl").open())][:300]
    expected = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    assert counter.count(texts).tolist() == expected
    assert (counter.overhead, counter.max_length) == (0, None)


# --- tiktoken ------------------------------------------------------------------------------------------------


@settings(max_examples=150, derandomize=True, deadline=None)
@given(TEXTS)
def test_tiktoken_spans_follow_its_own_offsets(ranks, text):
    encoding = ranks._encoding
    ids = encoding.encode_ordinary(text)
    _, starts = encoding.decode_with_offsets(ids)
    (spans,) = ranks.spans([text])
    assert spans[:, 0].tolist() == starts
    assert ranks.count([text])[0] == len(ids)
    for (start, end), token in zip(spans.tolist(), ids, strict=True):
        assert encoding.decode_single_token_bytes(token) in text[start:end].encode()


def test_bytes_of_one_character_share_its_span(ranks):
    assert ranks.spans(["a中😀"])[0].tolist() == [[0, 1], [1, 2], [1, 2], [2, 3], [2, 3], [2, 3]]


def test_rank_files_are_named_after_their_encoding(tmp_path):
    renamed = rank_file(tmp_path, "mine")
    with pytest.raises(UserError, match="does not say how it splits text"):
        load_token_counter(ChunkingConfig(tokenizer=f"tiktoken:{renamed}"), EmbeddingConfig())
    with pytest.raises(UserError, match="does not exist"):
        load_token_counter(ChunkingConfig(tokenizer="tiktoken:/absent/r50k_base.tiktoken"), EmbeddingConfig())
    with pytest.raises(ConfigError, match="tiktoken has no 'cl99k'"):
        load_token_counter(ChunkingConfig(tokenizer="tiktoken:cl99k"), EmbeddingConfig()).count(["a"])


@pytest.mark.parametrize("content", [b"not a rank file\n", base64.b64encode(b"a") + b" 0\n"])
def test_a_damaged_rank_file_is_one_line(tmp_path, content):
    path = tmp_path / "cl100k_base.tiktoken"
    path.write_bytes(content)
    counter = load_token_counter(ChunkingConfig(tokenizer=f"tiktoken:{path}"), EmbeddingConfig())
    with pytest.raises(UserError, match=r"not a tiktoken rank file|lacks 255 of the 256 single bytes"):
        counter.count(["a"])


def test_tiktoken_without_network_names_the_local_way(monkeypatch):
    import tiktoken

    def unreachable(name):
        raise OSError(f"no route to {name}")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    counter = load_token_counter(ChunkingConfig(tokenizer="tiktoken:cl100k_base"), EmbeddingConfig())
    with pytest.raises(UserError, match=r"chunking.tokenizer='tiktoken:/path/to/cl100k_base.tiktoken'"):
        counter.count(["a"])


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["cl100k_base", "r50k_base"])
def test_real_rank_files_agree_with_the_published_tokenizer(realdata, name):
    from tokenizers import Tokenizer

    path = realdata / "tokenizers" / "tiktoken" / f"{name}.tiktoken"
    counter = load_token_counter(ChunkingConfig(tokenizer=f"tiktoken:{path}"), EmbeddingConfig())
    texts = [line["question"] for line in map(json.loads, (realdata / "benchmarks/gsm8k/test.jsonl").open())][:100]
    texts += ["don't  stop\n\n  12345 中文 👩‍👩‍👧 \r\n x", "HE'S   HERE\t\t!!\n"]
    assert all(spans[-1, 1] == len(text) for spans, text in zip(counter.spans(texts), texts, strict=True))
    if name == "cl100k_base":  # OLMo 2 was trained with cl100k's vocabulary and splitting
        reference = Tokenizer.from_file(str(realdata / "tokenizers" / "olmo2" / "tokenizer.json"))
        assert counter.count(texts).tolist() == [len(reference.encode(text).ids) for text in texts]
    else:
        from tokenizers import ByteLevelBPETokenizer

        gpt2 = realdata / "tokenizers" / "gpt2"
        reference = ByteLevelBPETokenizer(str(gpt2 / "encoder.json"), str(gpt2 / "vocab.bpe"))
        assert counter.count(texts).tolist() == [len(reference.encode(text).ids) for text in texts]


# --- cost ----------------------------------------------------------------------------------------------------


def test_counting_loads_neither_torch_nor_transformers(tmp_path):
    train_wordpiece().save(str(tmp_path / "tokenizer.json"))
    code = (
        "import sys; from common.token_counters import load_token_counter; from config import *;"
        f"c = load_token_counter(ChunkingConfig(tokenizer={str(tmp_path)!r}), EmbeddingConfig());"
        "assert c.count(['a'])[0] == 3; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("content", ["[{}]", "[1]", '{"type": "x"}'])
def test_modules_that_name_no_module_are_an_error_of_the_model(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(UserError, match=r"modules\.json names no module; fetch the model again"):
        ModelFiles(str(tmp_path), "main").tokenizer()
