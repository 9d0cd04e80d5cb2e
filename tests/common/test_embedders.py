"""The sentence-transformers engine against `SentenceTransformer.encode`, on a small real transformer built here."""

from __future__ import annotations

import json
import platform
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.embedders import PAD_MULTIPLE, SentenceTransformerEmbedder, token_budget_batches
from common.errors import UserError
from common.token_counters import ModelFiles
from common.units import unit_rows
from common.vllm_embedder import pooler_arguments, refuse_other_modules, refuse_unpooled_prompt, token_ids
from config import EmbeddingConfig
from tests.models import build_static, build_transformer, one_thread, random_texts, spoil_weights

TEXTS = random_texts(60, seed=3)
PROMPTS = {"query": "find the answer: ", "document": "passage of text: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transformer that reads 64 tokens and has no prompts."""
    return one_thread(build_transformer(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """The same with a query and a document prompt of its own."""
    return build_transformer(tmp_path_factory.mktemp("prompted"), prompts=PROMPTS)


def embedder(folder, **settings) -> SentenceTransformerEmbedder:
    config = EmbeddingConfig(engine="sentence_transformers", model=str(folder), device="cpu", **settings)
    return SentenceTransformerEmbedder(config, "folder:test")


def reference(folder, texts, *, prompt="", max_seq_length=None):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    if max_seq_length:
        model.max_seq_length = max_seq_length
    return model.encode(texts, prompt=prompt, normalize_embeddings=True)


# --- the same vectors as the library's own -------------------------------------------------------------------


def test_vectors_are_the_librarys_in_the_order_of_the_texts(folder):
    ours = embedder(folder, batch_tokens=256).embed_documents(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(folder, TEXTS), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    # The model tells texts apart, so that the order of the rows is really tested.
    assert np.abs(ours[:-1] - ours[1:]).max(axis=1).min() > 1e-3


def test_shuffled_texts_give_shuffled_rows(folder):
    order = np.random.default_rng(0).permutation(len(TEXTS))
    one = embedder(folder)
    shuffled = one.embed_documents([TEXTS[row] for row in order])
    np.testing.assert_allclose(shuffled, one.embed_documents(TEXTS)[order], atol=1e-6)


def test_cls_pooling_is_the_models_own(tmp_path):
    folder = build_transformer(tmp_path, pooling="cls")
    np.testing.assert_allclose(embedder(folder).embed_documents(TEXTS), reference(folder, TEXTS), atol=1e-5)


def test_the_models_own_prompts_go_before_documents_and_queries(prompted):
    own = embedder(prompted)
    documents, queries = own.embed_documents(TEXTS), own.embed_queries(TEXTS)
    np.testing.assert_allclose(documents, reference(prompted, TEXTS, prompt=PROMPTS["document"]), atol=1e-5)
    np.testing.assert_allclose(queries, reference(prompted, TEXTS, prompt=PROMPTS["query"]), atol=1e-5)
    assert np.abs(documents - queries).max() > 1e-2


def test_prompts_of_the_config_replace_the_models(prompted):
    given = embedder(prompted, query_prompt="", document_prompt="light: ")
    np.testing.assert_allclose(given.embed_queries(TEXTS), reference(prompted, TEXTS), atol=1e-5)
    expected = reference(prompted, TEXTS, prompt="light: ")
    np.testing.assert_allclose(given.embed_documents(TEXTS), expected, atol=1e-5)


def test_a_length_limit_cuts_and_says_so(folder):
    short = embedder(folder, max_seq_length=20)
    encoded = short.encode_documents(["water", "water " * 18, "water " * 19])
    # [CLS] and [SEP] take two of the twenty.
    assert encoded.truncated.tolist() == [False, False, True]
    np.testing.assert_allclose(short.embed_documents(TEXTS), reference(folder, TEXTS, max_seq_length=20), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_close_and_comes_back_as_unit_float32(folder, dtype):
    ours = embedder(folder, dtype=dtype).embed_documents(TEXTS)
    assert ours.dtype == np.float32
    similarity = (ours * reference(folder, TEXTS)).sum(axis=1)
    assert similarity.min() > 0.98 and not np.array_equal(ours, embedder(folder).embed_documents(TEXTS))
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_a_static_model_has_no_length_limit_and_no_padding(tmp_path):
    folder = build_static(tmp_path)
    texts = [*TEXTS, "water " * 500]
    static = embedder(folder)
    encoded = static.encode_documents(texts)
    np.testing.assert_allclose(encoded.vectors, reference(folder, texts), atol=1e-5)
    assert not encoded.truncated.any()
    alone = np.concatenate([static.embed_documents([text]) for text in texts])
    assert np.array_equal(encoded.vectors, alone)


@pytest.mark.realdata
def test_potion_gives_the_librarys_vectors_and_keeps_meaning(realdata):
    folder = realdata / "embedder" / "potion-base-4m"
    potion = embedder(folder)
    np.testing.assert_allclose(potion.embed_documents(TEXTS), reference(folder, TEXTS), atol=1e-5)
    cat, kitten, tax = potion.embed_documents(["a cat slept", "the kitten is sleeping", "corporate income tax law"])
    assert cat @ kitten > cat @ tax + 0.2


# --- batches -------------------------------------------------------------------------------------------------


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=80), st.integers(1, 600), st.sampled_from([20, 64, float("inf")]))
def test_batches_hold_every_text_once_within_the_budget(lengths, budget, longest):
    batches = token_budget_batches(np.array(lengths, np.int64), budget, longest)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    widths = []
    for batch in batches:
        padded = {min(-(-max(lengths[row], 1) // PAD_MULTIPLE) * PAD_MULTIPLE, longest) for row in batch}
        assert len(padded) == 1
        widths.append(padded.pop())
        assert len(batch) == 1 or len(batch) * widths[-1] <= budget
    assert widths == sorted(widths, reverse=True)


def test_no_batch_of_the_model_exceeds_the_token_budget(folder):
    one = embedder(folder, batch_tokens=200)
    shapes: list[tuple[int, int]] = []
    pooling = one.model[1]
    pooling.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0]["attention_mask"].shape)))
    one.embed_documents(TEXTS)
    assert sum(rows for rows, _ in shapes) == len(TEXTS)
    assert all(rows * width <= 200 and width % PAD_MULTIPLE == 0 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 2


def test_a_vector_does_not_depend_on_its_batch_mates(folder):
    one, crowded = embedder(folder, batch_tokens=1), embedder(folder, batch_tokens=100_000)
    alone, together = one.embed_documents(TEXTS), crowded.embed_documents(TEXTS)
    np.testing.assert_allclose(alone, together, atol=1e-6)
    if platform.machine() == "x86_64":
        assert np.array_equal(alone, together)


# --- identity ------------------------------------------------------------------------------------------------


def test_identity_knows_what_changes_a_document_vector_and_loads_nothing(tmp_path):
    base = embedder(tmp_path / "absent")
    same = [replace(base.config, device="cuda"), replace(base.config, batch_tokens=7, query_prompt="q: ")]
    assert {SentenceTransformerEmbedder(config, base.model_id).identity for config in same} == {base.identity}
    changes = [{"document_prompt": "d: "}, {"max_seq_length": 32}, {"dtype": "float16"}, {"backend": "onnx"}]
    others = [SentenceTransformerEmbedder(replace(base.config, **change), base.model_id) for change in changes]
    others.append(SentenceTransformerEmbedder(base.config, "folder:other"))
    assert len({base.identity, *(other.identity for other in others)}) == 6
    assert base.device == "none"


def test_unit_rows_keep_zeros_and_nan():
    rows = unit_rows(np.array([[3, 4], [0, 0], [np.nan, 1], [1e-20, 0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [np.nan, np.nan], [0, 0]], atol=1e-7)


# --- errors --------------------------------------------------------------------------------------------------


def refused(folder, **settings) -> str:
    with pytest.raises(UserError) as caught:
        embedder(folder, **settings).embed_queries(["water"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_loaded_is_a_one_line_error(folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "cannot be loaded" in refused(tmp_path)
    assert "uv sync --extra onnx" in refused(folder, backend="onnx")
    assert "uv sync --extra openvino" in refused(folder, backend="openvino")
    assert "reads at most 64 tokens" in refused(folder, max_seq_length=65)
    config = EmbeddingConfig(engine="sentence_transformers")
    with pytest.raises(UserError, match=r"embedding\.model is not set"):
        SentenceTransformerEmbedder(config, "").embed_queries(["water"])


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_a_one_line_error(folder, device):
    config = EmbeddingConfig(engine="sentence_transformers", model=str(folder), device=device)
    with pytest.raises(UserError, match=f"'{device}' is not on this machine"):
        SentenceTransformerEmbedder(config, "folder:test").embed_queries(["water"])


def test_a_static_model_refuses_a_length_limit(tmp_path):
    assert "has no length limit" in refused(build_static(tmp_path), max_seq_length=32)


def test_remote_code_runs_only_when_the_config_says_so(tmp_path):
    folder = build_transformer(tmp_path)
    (folder / "own.py").write_text("raise SystemExit('this code was run')\n")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "their_own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    assert "embedding.trust_remote_code=true" in refused(folder)
    with pytest.raises(SystemExit, match="this code was run"):
        embedder(folder, trust_remote_code=True).embed_queries(["water"])


def test_nan_weights_give_nan_not_a_wrong_direction(tmp_path):
    folder = build_transformer(tmp_path)
    spoil_weights(folder)
    assert np.isnan(embedder(folder).embed_documents(TEXTS[:3])).all()


# --- what vLLM is told of a model; tests/test_real_servers.py compares its vectors ---------------------------


@pytest.mark.parametrize(("pooling", "named"), [("mean", "MEAN"), ("cls", "CLS"), ("lasttoken", "LAST")])
def test_vllm_pools_as_the_model_does_in_either_form_of_its_file(tmp_path, pooling, named):
    build_transformer(tmp_path / "old", pooling=pooling)
    build_transformer(tmp_path / "new")
    if pooling == "lasttoken":
        (tmp_path / "old" / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    (tmp_path / "new" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    for folder in ("old", "new"):
        files = ModelFiles(str(tmp_path / folder), "main")
        assert pooler_arguments(files) == {"seq_pooling_type": named, "use_activation": False}


def test_a_model_without_a_word_of_its_pooling_has_the_mean_as_in_sentence_transformers(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert pooler_arguments(ModelFiles(str(bare), "main"))["seq_pooling_type"] == "MEAN"
    np.testing.assert_allclose(reference(bare, TEXTS), reference(folder, TEXTS), atol=1e-5)


def test_what_vllm_cannot_do_as_the_model_does_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"does not run \(StaticEmbedding\); use embedding\.engine=sentence_transformers"
    ):
        refuse_other_modules(ModelFiles(str(build_static(tmp_path / "static")), "main"))
    files = ModelFiles(str(build_transformer(tmp_path / "bert")), "main")
    pooling = tmp_path / "bert" / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}))
    with pytest.raises(UserError, match=r"cannot pool as it does \(several\)"):
        pooler_arguments(files)
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "include_prompt": False}))
    refuse_unpooled_prompt(files, "")
    with pytest.raises(UserError, match="leaves its prompt out of the pooling"):
        refuse_unpooled_prompt(files, "query: ")


def test_tokens_for_vllm_are_cut_as_sentence_transformers_cuts_them(folder):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids, truncated = token_ids(tokenizer, ["water", "water " * 90, ""], 64)
    assert [len(row) for row in ids] == [3, 64, 2]
    assert truncated.tolist() == [False, True, False]
    assert ids[1][-1] == tokenizer.sep_token_id
