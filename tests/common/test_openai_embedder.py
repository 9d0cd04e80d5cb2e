"""The endpoint engine against a real server with a real embedder behind it: the vectors, the faults, the bill, keys."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.embedders import embedding_content, embedding_settings, load_embedder
from common.errors import ConfigError, UserError
from common.openai_embedder import OpenAIEmbedder, announcement, batches, cut_texts, estimated_tokens, rows_of
from common.openai_wire import CallError
from common.rowcache import RowCache
from common.token_counters import endpoint_counter
from common.vector_cache import VectorCache, encode_cached
from config import EmbeddingConfig
from tests.models import build_tokenizer, random_texts
from tests.openai_server import Cut, Hang, LsaVectors, Raw, Status, embedding_server
from tests.test_embed_chunks import Run, all_chunks, all_rows, checksums, corpus

KEY = "sk-test-5up3rs3cr3t-0123456789"
TEXTS = random_texts(60, seed=3)


@pytest.fixture(scope="module")
def direct() -> LsaVectors:
    """The embedder itself, without a server."""
    return LsaVectors()


@pytest.fixture
def server():
    with embedding_server() as running:
        yield running


def settings(server, **changes) -> EmbeddingConfig:
    base = EmbeddingConfig(engine="openai", model="lsa", base_url=server.base_url, api_key_variable="")
    return replace(base, **{"batch_tokens": 300, "max_wait": 0.1, "timeout": 20.0, "max_attempts": 3, **changes})


# --- the vectors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_vectors_are_the_models_in_the_order_of_the_texts(server, direct, encoding):
    server.vectors.backwards = True
    ours = OpenAIEmbedder(settings(server, encoding=encoding)).embed_documents(TEXTS)
    np.testing.assert_allclose(ours, direct.embed(TEXTS), atol=1e-6)
    assert ours.dtype == np.float32
    assert len(server.bodies) > 3
    assert {body["encoding_format"] for body in server.bodies} == {encoding}


def test_many_requests_are_on_their_way_but_no_more_than_allowed(server):
    server.delay, server.together = 0.02, 3
    OpenAIEmbedder(settings(server, max_concurrency=3)).embed_documents(TEXTS)
    assert server.most_at_once == 3


def test_prompts_go_before_documents_and_queries(server, direct):
    embedder = OpenAIEmbedder(settings(server, document_prompt="water ", query_prompt="bread "))
    np.testing.assert_allclose(embedder.embed_documents(["rises"]), direct.embed(["water rises"]), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries(["rises"]), direct.embed(["bread rises"]), atol=1e-6)


def test_fewer_dimensions_are_the_endpoints_and_have_length_one(server, direct):
    ours = OpenAIEmbedder(settings(server, truncate_dimensions=3)).embed_documents(TEXTS)
    cut = direct.embed(TEXTS)[:, :3]
    np.testing.assert_allclose(ours, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    assert server.bodies[0]["dimensions"] == 3


def test_an_empty_text_is_not_sent_and_has_no_direction(server):
    encoded = OpenAIEmbedder(settings(server)).encode_documents(["", "water boils"])
    assert not encoded.vectors[0].any() and encoded.vectors[1].any()
    assert OpenAIEmbedder(settings(server)).encode_documents([]).vectors.shape[0] == 0


def test_it_works_where_an_event_loop_is_running(server, direct):
    async def notebook_cell():
        return OpenAIEmbedder(settings(server)).embed_queries(["water"])

    np.testing.assert_allclose(asyncio.run(notebook_cell()), direct.embed(["water"]), atol=1e-6)


# --- faults --------------------------------------------------------------------------------------------------

FAULTS = {
    "busy": Status(429, headers={"Retry-After": "0.01"}),
    "broken": Status(503),
    "silent": Hang(0.5),
    "cut": Cut(0.5),
    "no JSON": Raw(b"<html>"),
    "too few": Raw(json.dumps({"data": [{"index": 0, "embedding": [1.0, 2.0]}]}).encode()),
    "an error of status 200": Raw(b'{"error": {"message": "upstream", "code": 502}}'),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_leaves_no_trace(server, direct, fault):
    server.faults = [None, fault]
    patience = 0.4 if isinstance(fault, Hang) else 20.0
    ours = OpenAIEmbedder(settings(server, timeout=patience, max_attempts=8)).embed_documents(TEXTS)
    np.testing.assert_allclose(ours, direct.embed(TEXTS), atol=1e-6)


def test_what_has_arrived_before_a_fault_that_stays_is_kept_and_never_sent_again(server, direct, tmp_path):
    one = settings(server, max_concurrency=1)
    served: list[str] = []

    def only_three_requests(body):
        if len(server.bodies) > 3:
            return Status(403, "this key may not")
        served.extend(body["input"])
        return None

    server.rule = only_three_requests
    cache = VectorCache(tmp_path / "vectors.sqlite")
    with pytest.raises(UserError, match=r"this key may not.*run the same command again"):
        encode_cached(OpenAIEmbedder(one), TEXTS, cache)
    assert len(server.bodies) == 4  # nothing is sent after it
    server.rule, server.bodies = (lambda body: None), []
    again = encode_cached(OpenAIEmbedder(one), TEXTS, cache)
    assert not {text for body in server.bodies for text in body["input"]} & set(served)
    assert again.computed == len(TEXTS) - len(served)
    np.testing.assert_allclose(again.vectors, direct.embed(TEXTS), atol=1e-6)


def test_a_reply_is_kept_the_moment_it_arrives(server, tmp_path):
    cache = VectorCache(tmp_path / "vectors.sqlite")
    kept: list[int] = []

    def look(body):
        kept.append(len(RowCache(tmp_path / "vectors.sqlite")))

    server.rule = look
    encode_cached(OpenAIEmbedder(settings(server, max_concurrency=1)), TEXTS, cache)
    assert kept[0] == 0 and kept[1] > 0 and kept == sorted(kept) and kept[-1] < len(set(TEXTS))


def test_a_server_that_takes_fewer_texts_gets_fewer(direct):
    with embedding_server(most=4) as server:
        ours = OpenAIEmbedder(settings(server, batch_tokens=100_000)).embed_documents(TEXTS)
    np.testing.assert_allclose(ours, direct.embed(TEXTS), atol=1e-6)


def test_a_text_that_is_too_long_is_named_and_all_others_have_vectors(tmp_path):
    texts = [text for text in TEXTS if len(text.split()) < 40]
    long = "sediment " * 50
    with embedding_server(longest=40) as server:
        one, cache = settings(server, max_concurrency=1), VectorCache(tmp_path / "vectors.sqlite")
        with pytest.raises(UserError, match=r"450 characters \('sediment.*maximum context length is 40") as error:
            encode_cached(OpenAIEmbedder(one), [*texts, long], cache)
        assert "embedding.max_seq_length" in str(error.value)
        assert encode_cached(OpenAIEmbedder(one), texts, cache).computed == 0


def test_a_text_that_is_too_long_is_cut_and_counted(tmp_path, direct):
    build_tokenizer(tmp_path)
    with embedding_server(longest=40) as server:
        cutting = settings(server, max_seq_length=22, tokenizer=str(tmp_path), document_prompt="water ")
        encoded = OpenAIEmbedder(cutting).encode_documents(["a river", "sediment " * 50, "the sea"])
        queries = OpenAIEmbedder(replace(cutting, query_prompt="water water ")).embed_queries(["sediment " * 50])
    assert encoded.truncated.tolist() == [False, True, False]
    # Of 22 tokens [CLS], [SEP] and the prompt take three, or four.
    np.testing.assert_allclose(encoded.vectors[1], direct.embed(["water " + "sediment " * 19])[0], atol=1e-6)
    np.testing.assert_allclose(queries, direct.embed(["water water " + "sediment " * 18]), atol=1e-6)


def test_texts_are_cut_to_the_limit_whatever_the_cut_makes_of_their_tokens(tmp_path):
    build_tokenizer(tmp_path)
    config = EmbeddingConfig(engine="openai", model="m", tokenizer=str(tmp_path), max_seq_length=16)
    counter = endpoint_counter(config)
    texts = [*random_texts(50, seed=9, longest=80), "naïve 漢字🙂" * 20]
    cut, truncated = cut_texts(texts, "", counter)
    counts = counter.count(cut)
    assert counts.max() == 16 and counts[truncated].min() >= 14
    assert truncated.tolist() == (counter.count(texts) > 16).tolist()
    assert all(text.startswith(shorter) for text, shorter in zip(texts, cut, strict=True))


# --- requests ------------------------------------------------------------------------------------------------


def test_requests_hold_every_text_once_within_the_budget():
    made = list(batches(["", *TEXTS, ""], 200))
    assert [row for batch in made for row in batch.rows] == list(range(1, len(TEXTS) + 1))
    assert all(len(batch.rows) == 1 or estimated_tokens(batch.texts) <= 200 for batch in made)
    assert sum(len(batch.rows) > 1 for batch in made) > 3


@pytest.mark.parametrize(
    "data",
    [
        None,
        [{"index": 0, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": "not base64!"}, {"index": 1, "embedding": "not base64!"}],
        [{"index": 0, "embedding": base64.b64encode(b"abc").decode()}, {"index": 1, "embedding": ""}],
        [{"index": 0, "embedding": [[1.0]]}, {"index": 1, "embedding": [[1.0]]}],
        [{"index": 0, "embedding": None}, {"index": 1, "embedding": {}}],
    ],
)
def test_a_reply_that_is_not_one_vector_for_each_text_is_refused(data):
    with pytest.raises(CallError) as error:
        rows_of({"data": data}, 2)
    assert error.value.passing


# --- cost, keys, settings ------------------------------------------------------------------------------------


def test_the_bill_is_kept_and_nothing_is_sent_beyond_the_limit(server):
    priced = settings(server, price_input=1_000.0, max_concurrency=1)
    embedder = OpenAIEmbedder(priced)
    embedder.embed_documents(TEXTS)
    words = sum(len(text.split()) for text in TEXTS)
    assert (embedder.tokens, embedder.requests) == (words, len(server.bodies))
    assert embedder.spent == pytest.approx(words / 1_000)
    sent = len(server.bodies)
    with pytest.raises(UserError, match=r"max_cost=2 leaves no room"):
        OpenAIEmbedder(replace(priced, max_cost=2.0)).embed_documents(TEXTS)
    assert 0 < len(server.bodies) - sent < sent
    assert "8 chunks, about 1,000 tokens: about $1.00" in announcement(4_000, 8, priced)
    with pytest.raises(ConfigError, match="price_input"):
        OpenAIEmbedder(replace(priced, max_cost=1.0, price_input=None))


def test_the_key_goes_into_one_header_and_nowhere_else(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    keyed = settings(server, api_key_variable="MY_KEY")
    embedder = OpenAIEmbedder(keyed)
    embedder.embed_documents(["water"])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.rule = lambda body: Status(401, f"Incorrect API key: {KEY}")
    with pytest.raises(UserError, match=r"status 401: Incorrect API key: \[key\]"):
        embedder.embed_documents(["bread"])
    assert KEY not in json.dumps([server.bodies, embedding_settings(keyed), embedder.identity])


def test_an_endpoint_and_its_model_are_in_the_key_and_what_moves_no_vector_is_not(tmp_path):
    build_tokenizer(tmp_path)
    base = EmbeddingConfig(engine="openai", model="m", base_url="http://localhost:1/v1")
    same = [{"timeout": 1.0}, {"base_url": "http://localhost:1/v1/"}, {"dtype": "float16"}, {"query_prompt": "q"}]
    changes: list[dict[str, Any]] = [
        {"model": "n"},
        {"base_url": "http://localhost:2/v1"},
        {"revision": "b"},
        {"document_prompt": "d"},
    ]
    changes += [{"truncate_dimensions": 4}, {"encoding": "float"}, {"max_seq_length": 9, "tokenizer": str(tmp_path)}]
    assert {OpenAIEmbedder(replace(base, **change)).identity for change in same} == {OpenAIEmbedder(base).identity}
    identities = {OpenAIEmbedder(replace(base, **change)).identity for change in changes}
    assert len(identities | {OpenAIEmbedder(base).identity}) == len(changes) + 1
    written = [json.dumps(embedding_settings(replace(base, **change))) for change in changes]
    assert str(tmp_path) not in written[-1]
    assert embedding_content(replace(base, **changes[-1]), tmp_path)["tokenizer"].startswith("tokenizer:")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "embedding.model is not set"),
        ({"base_url": "localhost:8000"}, "embedding.base_url: 'localhost:8000' is no URL"),
        ({"base_url": "https://user:word@host/v1"}, "embedding.base_url must hold no user"),
        ({"max_seq_length": 64}, "embedding.tokenizer: an endpoint does not show its tokenizer"),
    ],
)
def test_settings_that_cannot_work_say_so(change, words):
    base = EmbeddingConfig(engine="openai", model="m", base_url="http://127.0.0.1:1/v1", api_key_variable="")
    with pytest.raises(UserError, match=words):
        OpenAIEmbedder(replace(base, **change)).embed_documents(["water"])


def test_an_endpoint_that_is_not_there_is_one_line():
    base = EmbeddingConfig(engine="openai", model="m", base_url="http://127.0.0.1:1/v1", api_key_variable="")
    with pytest.raises(UserError, match=r"cannot connect to http://127\.0\.0\.1:1/v1"):
        OpenAIEmbedder(replace(base, max_attempts=2, max_wait=0.01)).embed_queries(["water"])
    with pytest.raises(ConfigError, match="OPENAI_EMBEDDING_KEY is not set"):
        remote = replace(base, base_url="https://api.example.org/v1", api_key_variable="OPENAI_EMBEDDING_KEY")
        OpenAIEmbedder(remote).embed_queries(["water"])


# --- the stage and its queries -------------------------------------------------------------------------------


def test_an_endpoint_that_gives_up_in_mid_run_costs_no_finished_shard(server, direct, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    paid = settings(server, api_key_variable="MY_KEY", max_concurrency=1, batch_tokens=2_000)
    texts = corpus(200)

    def enough(body):
        return Status(402, "no credit left") if len(server.bodies) > 9 else None

    server.rule = enough
    run = Run(tmp_path / "broken", texts, paid, strategy="paragraph")
    with pytest.raises(UserError, match=r"no credit left; what has arrived is kept: run the same command again"):
        run.make()
    answered = [text for body in server.bodies[:9] for text in body["input"]]
    server.rule, server.bodies = (lambda body: None), []
    resumed = run.make()
    assert not {text for body in server.bodies for text in body["input"]} & set(answered)
    whole = Run(tmp_path / "whole", texts, paid, strategy="paragraph").make()
    assert checksums(resumed) == checksums(whole)

    vectors, rows = all_rows(resumed)
    chunks = all_chunks(run.make_chunks())["text"].to_pylist()
    np.testing.assert_allclose(vectors, direct.embed([chunks[row] for row in rows]), atol=1e-6)
    asked = load_embedder(resumed, paid).embed_queries(["Why does bread rise?"])
    np.testing.assert_allclose(asked, direct.embed(["Why does bread rise?"]), atol=1e-6)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and not any(KEY.encode() in content for content in written)


def test_chunks_fit_the_tokenizer_that_is_named_for_the_endpoint(server, tmp_path):
    build_tokenizer(tmp_path / "tokenizer")
    named = settings(server, tokenizer=str(tmp_path / "tokenizer"), document_prompt="passage: ", max_seq_length=24)
    chunks = Run(tmp_path / "data", corpus(40), named, max_tokens=512).make_chunks()
    stats = chunks.json("stats.json")
    assert (stats["limit"], stats["over_limit"]) == (24, 0)
    with pytest.raises(ConfigError, match=r"embedding\.tokenizer: an endpoint"):
        Run(tmp_path / "data", corpus(40), settings(server)).make_chunks()


def test_an_endpoint_that_serves_another_model_by_now_is_noticed(server, tmp_path):
    mine = settings(server)
    vectors = Run(tmp_path / "data", corpus(20), mine, strategy="paragraph").make()
    server.vectors = LsaVectors(seed=7)
    with pytest.raises(
        UserError, match=r"serves another model as 'lsa' .*cosine of one sentence .*embedding\.revision"
    ):
        load_embedder(vectors, mine).embed_queries(["water"])
    # Nor do its vectors come to stand beside those of the first one.
    with pytest.raises(UserError, match=r"serves another model"):
        Run(tmp_path / "data", corpus(30), mine, strategy="paragraph").make()
    anew = Run(tmp_path / "data", corpus(30), replace(mine, revision="second"), strategy="paragraph").make()
    assert load_embedder(anew, replace(mine, revision="second")).embed_queries(["water"]).any()
