"""The engine for local models, against the plainest decoding there is: one sequence, no cache, no padding."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.chat_prompts import prompt_ids, prompt_text
from common.errors import UserError
from common.generation import estimate, generate, generate_all, generate_many, make_request
from common.local_models import first_stop, tokens_of
from common.rollouts import Failure, Message, Request
from config import GenerationConfig, SamplingConfig
from tests.models import build_language_model, one_thread
from tests.openai_server import LanguageModel

if TYPE_CHECKING:
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from common.transformers_engine import LoadedModel, Row, batches_of, left_padded, load_model

# Of very different lengths, with characters of several bytes.
TEXTS = [
    "Why?",
    "The cell membrane controls what enters and what leaves the living cell, and when it does so.",
    "naïve 漢字 🙂",
    "a",
    "Rivers carry sediment. " * 5,
    "",
]


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported here, not above: every worker collects this file, and one runs it."""
    global torch, AutoTokenizer, GPT2Config, GPT2LMHeadModel
    global LoadedModel, Row, batches_of, left_padded, load_model
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from common.transformers_engine import LoadedModel, Row, batches_of, left_padded, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return one_thread(build_language_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def reference(folder) -> LanguageModel:
    return LanguageModel(folder)


@pytest.fixture
def settings(folder) -> GenerationConfig:
    sampling = SamplingConfig(max_tokens=16, logprobs=True)
    return GenerationConfig(engine="transformers", model=str(folder), dtype="float32", sampling=sampling)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def requests(settings: GenerationConfig, texts: list[str] = TEXTS, draws: int = 1) -> list[Request]:
    return [make_request(text, settings, draw=draw) for text in texts for draw in range(draws)]


def loaded(settings: GenerationConfig) -> LoadedModel:
    return load_model(settings.model, "", settings.dtype, False, "cpu")


# --- greedy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["chat", "text"])
def test_a_batch_says_what_each_of_its_rows_says_alone(settings, reference, cache, form):
    """Left padding is right: the completions, counts and log-probabilities are those of decoding without any."""
    settings = replace(settings, format=form)
    for text, rollout in zip(TEXTS, generate_all(requests(settings), settings, cache), strict=True):
        asked = {"messages": [{"role": "user", "content": text}]} if form == "chat" else {"prompt": text}
        reply = reference({**asked, "max_tokens": 16, "temperature": 0})
        pieces = list(reply.pieces)
        assert rollout.completion == "".join(piece.text for piece in pieces)
        assert (rollout.finish_reason, rollout.completion_tokens) == (reply.finish_reason, reply.completion_tokens)
        assert rollout.prompt_tokens == reply.prompt_tokens
        assert [each.logprob for each in rollout.logprobs or ()] == pytest.approx(
            [piece.logprob for piece in pieces], abs=1e-4
        )
        assert generate(text, settings, cache, fresh=True).completion == rollout.completion


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_the_size_of_batches_changes_nothing(settings, cache, batch_tokens):
    want = [each.completion for each in generate_all(requests(settings), settings, cache)]
    smaller = replace(settings, batch_tokens=batch_tokens)
    assert [each.completion for each in generate_all(requests(settings), smaller, cache, fresh=True)] == want


def test_a_record_of_a_local_model(settings, folder, cache):
    rollout = generate("Why?", settings, cache)
    assert (rollout.engine, rollout.model, rollout.cost, rollout.error) == ("transformers", folder.name, 0.0, None)
    assert rollout.revision.startswith("folder:")
    assert str(folder) not in json.dumps(rollout.revision + rollout.model)
    assert generate("Why?", settings, cache).cached


def test_each_row_has_its_own_length(settings, cache):
    lengths = [1, 9, 4]
    asked = [replace(make_request("Why?", settings), sampling=SamplingConfig(max_tokens=length)) for length in lengths]
    rollouts = generate_all(asked, settings, cache)
    whole = generate("Why?", settings, cache)
    assert [each.completion_tokens for each in rollouts] == lengths
    assert {each.finish_reason for each in rollouts} == {"length"}
    assert whole.logprobs is not None
    for rollout in rollouts:
        assert (whole.completion or "").startswith((rollout.completion or "").rstrip("\ufffd"))


# --- sampling ------------------------------------------------------------------------------------------------


def test_a_draw_depends_on_its_seed_and_prompt_alone(settings, cache):
    settings = replace(settings, sampling=SamplingConfig(max_tokens=12, temperature=1.0, top_k=50, top_p=0.95))
    together = generate_all(requests(settings, draws=3), settings, cache)
    alone = [generate_all([each], settings, cache, fresh=True)[0] for each in requests(settings, draws=3)]
    assert [each.completion for each in together] == [each.completion for each in alone]
    assert len({each.completion for each in together}) == len(together)
    other = replace(settings, sampling=replace(settings.sampling, seed=7))
    assert generate("Why?", other, cache).completion != together[0].completion


def test_two_prompts_share_no_random_numbers(settings, cache):
    """With one seed for all, equal distributions would be drawn from alike: here after the same raw text."""
    settings = replace(settings, format="text", sampling=SamplingConfig(max_tokens=6, temperature=5.0))
    rollouts = generate_all([make_request("a", settings, draw=draw) for draw in range(8)], settings, cache)
    assert len({each.completion for each in rollouts}) == 8


def test_without_a_seed_every_draw_is_new(settings, cache):
    settings = replace(settings, sampling=SamplingConfig(max_tokens=16, temperature=1.0, seed=None))
    first = generate("Why?", settings, cache)
    again = generate("Why?", settings, cache, fresh=True)
    assert first.completion != again.completion
    assert first.seed is None


# --- where a text ends ---------------------------------------------------------------------------------------


def words_of(text: str | None) -> str:
    """A few plain characters within a text, as a stop text."""
    (found,) = re.findall(r"(?<=.)[ -~]{3,}", text or "", re.DOTALL)[:1]
    return found[:3]


def test_a_stop_text_ends_a_completion_and_is_cut_from_it(settings, cache):
    whole = generate(TEXTS[1], settings, cache)
    stop = words_of(whole.completion)
    stopping = replace(settings, sampling=replace(settings.sampling, stop=("not there", stop)))
    for draw in (whole, *generate_all(requests(settings), settings, cache)):
        text = draw.completion or ""
        rollout = generate_all([Request("", draw.messages)], stopping, cache)[0]
        assert rollout.completion == text.partition(stop)[0]
        assert rollout.finish_reason == ("stop" if stop in text else "length")
        assert len(rollout.logprobs or ()) == rollout.completion_tokens
    assert (generate(TEXTS[1], stopping, cache).completion_tokens or 0) < (whole.completion_tokens or 0)


def test_an_end_token_ends_a_completion(settings, cache, tmp_path):
    """The model's end is whatever its folder says: here a token that its greedy answer holds."""
    model = loaded(settings)
    ids = prompt_ids(model.tokenizer, make_request("Why?", settings), None)
    assert isinstance(ids, list)
    made = model.model.generate(torch.tensor([ids]), max_new_tokens=16)[0, len(ids) :].tolist()
    other = copy_of(settings, tmp_path, {"eos_token_id": [1, made[4]]})
    rollout = generate("Why?", other, cache)
    assert rollout.finish_reason == "stop"
    assert rollout.completion_tokens == made.index(made[4])
    assert rollout.completion == model.decode(made[: made.index(made[4])])


def copy_of(settings: GenerationConfig, folder: Path, changes: Mapping[str, object]) -> GenerationConfig:
    """The model with another `generation_config.json`."""
    other = folder / "other"
    shutil.copytree(settings.model, other)
    facts = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(facts | changes))
    return replace(settings, model=str(other))


def test_what_a_folder_says_of_sampling_is_left_alone(settings, cache, tmp_path):
    changes = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 3.0, "min_length": 40, "num_beams": 3}
    want = generate("Why?", settings, cache).completion
    assert generate("Why?", copy_of(settings, tmp_path, changes), cache).completion == want


def test_the_context_bounds_prompt_and_answer(settings, cache):
    """The model holds 256 tokens."""
    long = replace(settings, format="text", sampling=SamplingConfig(max_tokens=400))
    rollout = generate("a b c", long, cache)
    assert (rollout.prompt_tokens or 0) + (rollout.completion_tokens or 0) == 256
    assert rollout.finish_reason == "length"
    refused, answered = generate_all(requests(long, ["word " * 300, "short"]), long, cache)
    assert refused.error is not None
    assert refused.error.kind == "too_long"
    assert "the model holds 256" in refused.error.message
    assert answered.ok


def test_learned_positions_end_with_the_context(settings, cache, tmp_path):
    """A row that fills the context shares no batch with one that goes on beyond it: there are no positions left."""
    folder = tmp_path / "gpt2"
    shutil.copytree(settings.model, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    shape: Any = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.4}
    torch.manual_seed(0)  # some random weights end a text early
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    sampling = SamplingConfig(max_tokens=20)
    settings = replace(settings, model=str(folder), format="text", sampling=sampling)
    rollouts = generate_all(requests(settings, ["a b c d e f g h i j k l m n", "a"]), settings, cache)
    assert [rollout.error for rollout in rollouts] == [None, None]
    assert [(each.prompt_tokens or 0) + (each.completion_tokens or 0) for each in rollouts] == [32, 22]


# --- streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_equals_not_streaming(settings, cache, text):
    whole = generate(text, settings, cache)
    pieces: list[str] = []
    streamed = generate(text, settings, cache, on_text=pieces.append, fresh=True)
    assert replace(streamed, latency=whole.latency) == whole
    assert "".join(pieces) == whole.completion
    assert len(pieces) > 3


def test_a_stop_text_is_never_shown(settings, cache):
    stop = words_of(generate(TEXTS[1], settings, cache).completion)
    pieces: list[str] = []
    stopping = replace(settings, sampling=replace(settings.sampling, stop=(stop,)))
    rollout = generate(TEXTS[1], stopping, cache, on_text=pieces.append)
    assert "".join(pieces) == rollout.completion
    assert stop not in "".join(pieces)


# --- prompts -------------------------------------------------------------------------------------------------


def test_a_conversation_goes_through_the_models_template(settings):
    tokenizer = loaded(settings).tokenizer
    asked = Request("", (Message("system", "Be brief."), Message("user", "Why?")))
    assert prompt_text(tokenizer, asked) == ("<|system|>Be brief.<|end|><|user|>Why?<|end|><|assistant|>", True)
    going_on = replace(asked, messages=(*asked.messages, Message("assistant", "Because")))
    assert prompt_text(tokenizer, going_on)[0].endswith("<|end|><|assistant|>Because")
    assert prompt_text(tokenizer, Request("", prompt="Once")) == ("Once", False)
    template_ids = prompt_ids(tokenizer, asked, None)
    assert isinstance(template_ids, list)
    assert tokenizer.bos_token_id not in template_ids
    raw = prompt_ids(tokenizer, Request("", prompt="Once"), None)
    assert isinstance(raw, list)
    assert raw[0] == tokenizer.bos_token_id


def test_a_model_without_a_template_reads_the_contents(tmp_path):
    tokenizer: Any = AutoTokenizer.from_pretrained(build_language_model(tmp_path / "base", chat=False))
    asked = Request("", (Message("system", "Be brief."), Message("user", "Why?")))
    assert prompt_text(tokenizer, asked) == ("Be brief.\n\nWhy?", False)


def test_a_template_that_refuses_is_a_failed_call(settings):
    tokenizer = loaded(settings).tokenizer
    known = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    try:
        found = prompt_ids(tokenizer, Request("", (Message("user", "Why?"),)), None)
    finally:
        tokenizer.chat_template = known
    assert isinstance(found, Failure)
    assert "System role not supported" in found.message


# --- parts ---------------------------------------------------------------------------------------------------


def test_batches_hold_every_row_once_and_keep_to_the_budget(settings):
    from common.generation import make_call

    call = make_call(make_request("x", settings), settings, {})
    rows = [Row(call, [0] * length, most) for length, most in zip(range(1, 60), [5, 40, 9] * 20, strict=False)]
    batches = batches_of(rows, 200)
    assert sorted(len(row.ids) for batch in batches for row in batch) == list(range(1, 60))
    for batch in batches:
        size = len(batch) * (max(len(row.ids) for row in batch) + max(row.most for row in batch))
        assert size <= 200 or len(batch) == 1
    assert len(batches_of(rows, 1)) == len(rows)
    assert len(batches_of(rows, 10**6)) == 1
    assert batches_of([], 10) == []
    assert len(batches_of([Row(call, [0] * 90, 10), Row(call, [0] * 20, 80)], 10**6, context=100)) == 2


def test_padding_is_on_the_left_and_masked():
    ids, mask = left_padded([[5, 6, 7], [8]], pad=2)
    assert ids.tolist() == [[5, 6, 7], [2, 2, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_the_first_of_several_stops():
    assert first_stop("one two three", ["three", "two"]) == 4
    assert first_stop("one", ["two", ""]) is None


def test_tokens_of_the_beginning_of_a_text():
    words = ["a", "bc", "", "d"]

    def decode(ids) -> str:
        return "".join(words[each] for each in ids)

    assert [tokens_of(text, [0, 1, 2, 3], decode) for text in ("", "a", "ab", "abc", "abcd")] == [0, 1, 2, 2, 4]


# --- what can go wrong ---------------------------------------------------------------------------------------


def test_a_model_that_is_not_there(settings, cache, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        generate("x", replace(settings, model=str(tmp_path / "absent")), cache)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model '.*empty' cannot be loaded"):
        generate("x", replace(settings, model=str(empty)), cache)


def test_a_device_that_is_not_there(settings, cache):
    with pytest.raises(UserError, match=r"generation.device 'cuda:99' is not on this machine"):
        generate("x", replace(settings, device="cuda:99"), cache)


def test_memory_that_runs_out_halves_the_batch(settings, cache, monkeypatch):
    """The model itself says so, for more than two rows at once."""
    want = [each.completion for each in generate_all(requests(settings), settings, cache)]
    model = load_model(settings.model, generate("Why?", settings, cache).revision, "float32", False, "auto").model
    forward, sizes = model.forward, []

    def small(*args, input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", small)
    found = generate_all(requests(settings), settings, cache, fresh=True)
    assert [each.completion for each in found] == want
    assert max(sizes) > 2
    monkeypatch.setattr(model, "forward", lambda *args, **options: _out_of_memory())
    (failed,) = generate_all(requests(settings, ["Why?"]), settings, cache, fresh=True)
    assert failed.error is not None
    assert "out of memory" in failed.error.message


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_an_interrupted_batch_ends_with_its_next_token(settings, cache):
    """Cancelled at its third token of two hundred; nothing of it is kept as an answer."""
    settings = replace(settings, sampling=SamplingConfig(max_tokens=200))
    shown: list[str] = []

    async def cancelled_early() -> None:
        task = asyncio.ensure_future(
            generate_many(requests(settings, ["Why?"]), settings, cache, on_text=lambda piece: _cancel(piece))
        )
        loop = asyncio.get_running_loop()

        def _cancel(piece: str) -> None:
            shown.append(piece)
            if len(shown) == 3:
                loop.call_soon_threadsafe(task.cancel)

        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_early())
    assert 3 <= len(shown) < 150
    assert estimate(requests(settings, ["Why?"]), settings, cache).cached == 0


@pytest.mark.realdata
def test_a_trained_model_tells_a_story(realdata, cache):
    """Greedy, in one batch with prompts of other lengths: the same story as alone, in words of a child's book."""
    model = str(realdata / "lm" / "stories260k")
    sampling = SamplingConfig(max_tokens=60)
    settings = GenerationConfig(engine="transformers", model=model, format="text", sampling=sampling)
    texts = ["Once upon a time", "Lily and Tom went to the park. They saw a big", "The"]
    rollouts = generate_all([make_request(text, settings) for text in texts], settings, cache)
    for text, rollout in zip(texts, rollouts, strict=True):
        assert generate(text, settings, cache, fresh=True).completion == rollout.completion
        assert " the " in (rollout.completion or "")
