"""Search of a finished corpus: as a stage, as a script in a process of its own, and as a library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common.arrays import ShardedArray
from common.columns import text_column
from common.errors import ConfigError, MissingArtifact, UserError
from common.stages import Session
from common.stored_chunks import take_chunks
from config import (
    ChunkingConfig,
    Config,
    EmbeddingConfig,
    PackagesReader,
    PrepareConfig,
    SearchConfig,
    SourceConfig,
)
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from search import (
    NEIGHBOURS,
    Hits,
    asked_texts,
    has_queries,
    print_hits,
    read_queries,
    search,
    search_arrays,
)
from tests.common.test_neighbours import METRICS, random_vectors, reference, same_bytes
from tests.toy_project import run_here

ROOT = Path(__file__).resolve().parent.parent
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
TOOLS = ("hammer", "chisel", "plane", "saw", "drill")
COMET = "A comet with [bold]markup[/bold]\nand a\ttail of ice and dust. " + "Ice and dust. " * 40

CONFIG = """
from config import *
config = Config(
    name="sky",
    prepare=PrepareConfig(sources=(
        SourceConfig(name="planets", reader=FilesReader(paths=("{folder}/planets.jsonl",)), stage="pretrain"),
        SourceConfig(name="tools", reader=FilesReader(paths=("{folder}/tools.jsonl",)), stage="sft"),
    )),
    chunking=ChunkingConfig(strategy="paragraph"),
    embedding=EmbeddingConfig(dimensions=16),
    search=SearchConfig(queries={queries!r}, k=3),
    data_dir="{folder}/data",
)
"""


def write_corpus(folder: Path, queries: tuple[str, ...]) -> Path:
    """Two sources of two training stages, and a config that reads them."""
    skies = [f"The planet {name} moves around the sun, and its orbit is number {n}." for n, name in enumerate(PLANETS)]
    benches = [f"The {name} lies on the bench of the workshop, beside tool {n}." for n, name in enumerate(TOOLS)]
    for name, texts in (("planets", [*skies, COMET]), ("tools", benches)):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    (folder / "sky.py").write_text(CONFIG.format(folder=folder, queries=queries), encoding="utf-8")
    return folder / "sky.py"


def built(config: Config) -> Session:
    session = Session(config)
    for stage in (DOCUMENTS, CHUNKS, VECTORS):
        session.run(stage)
    return session


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Session]:
    """A config file and the session that has made its vectors."""
    from common.configs import load_config

    folder = tmp_path_factory.mktemp("sky")
    path = write_corpus(folder, ("the orbit of a planet", "a chisel in the workshop"))
    return path, built(load_config(str(path), []))


def find(session: Session, texts: list[str], **changes: object) -> Hits:
    config = replace(session.config, search=replace(session.config.search, **changes))
    return search(session.load(CHUNKS), session.load(VECTORS), texts, config, session.store.cache_dir)


def script(path: Path, *words: str, columns: int = 100, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "search.py"), str(path), *words]
    environment = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, input=stdin, cwd=ROOT, env=environment)


def here(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script in this process: for what it prints."""
    return run_here(ROOT / "search.py", str(path), *words, folder=ROOT)


# --- known and unknown sentences -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def docstrings(tmp_path_factory) -> Session:
    """A few hundred real documents: docstrings of installed packages, whole, in LSA vectors."""
    reader = PackagesReader(packages=("hypothesis", "rich"), min_chars=120)
    config = Config(
        name="docstrings",
        prepare=PrepareConfig(sources=(SourceConfig(name="packages", reader=reader, sample_documents=400),)),
        chunking=ChunkingConfig(strategy="paragraph"),
        embedding=EmbeddingConfig(dimensions=96),
        search=SearchConfig(k=5),
        data_dir=str(tmp_path_factory.mktemp("docstrings")),
    )
    return built(config)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_a_sentence_of_the_corpus_finds_itself_first_and_a_foreign_one_does_not(docstrings, metric):
    chunks = docstrings.load(CHUNKS)
    every = chunks.table("chunks-00000.parquet")
    known = every.slice(0, 200).to_pylist()
    hits = find(docstrings, [row["text"] for row in known], metric=metric).table.to_pylist()
    first = {row["query"]: row for row in hits if row["rank"] == 1}
    assert len(first) >= 150
    for row in known:
        nearest = first[row["text"]]
        # A paragraph may occur twice, or share all of its known words with another: either is at distance 0 too.
        assert nearest["distance"] < 1e-3
    own = [first[row["text"]]["text"] == row["text"] for row in known]
    assert np.mean(own) > 0.95
    foreign = "Quarterly barley prices in the harbour towns fell while the fishing fleet waited for the spring tide."
    (nearest, *_) = find(docstrings, [foreign], metric=metric).table.to_pylist()
    assert nearest["distance"] > 0.1
    assert nearest["text"] != foreign


# --- all queries together ------------------------------------------------------------------------------------


def double_argsort(session: Session, texts: list[str], metric: Any) -> tuple[np.ndarray, list[str]]:
    """(queries, distinct chunks) ranks from 1 by a full sort of each query's distances, and the chunks' ids."""
    from scipy.stats import rankdata

    from search import embed_texts

    vectors = session.load(VECTORS)
    chunks = session.load(CHUNKS).table("chunks-00000.parquet").to_pylist()
    rows = np.concatenate([vectors.array(name) for name in vectors.names("rows-*.npy")])
    known = [chunks[row] for row in rows]
    first = [n for n, row in enumerate(known) if row["text"] not in {other["text"] for other in known[:n]}]
    stored = np.concatenate([vectors.array(name) for name in vectors.names("vectors-*.npy")])[first]
    asked = embed_texts(vectors, texts, session.config)
    distances = cdist(asked, stored, {"manhattan": "cityblock"}.get(metric, metric))
    # Distances that differ by rounding alone are one.
    return rankdata(np.round(distances, 6), method="min", axis=1), [known[n]["chunk_id"] for n in first]


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
@pytest.mark.parametrize("strategy", ["rank_max", "rank_mean"])
def test_ranked_together_is_what_sorting_every_distance_gives(docstrings, metric, strategy):
    texts = ["measure the time a test takes", "print a table with colours", "draw an integer between bounds"]
    hits = find(docstrings, texts, metric=metric, aggregation_strategy=strategy, k=8)
    ranks, ids = double_argsort(docstrings, texts, metric)
    expected = ranks.min(axis=0) if strategy == "rank_max" else ranks.mean(axis=0)
    rows = hits.table.to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, 9))
    assert hits.stats["ranked_chunks"] == len(ids)
    place = {chunk_id: number for number, chunk_id in enumerate(ids)}
    for row in rows:
        column = place[row["chunk_id"]]
        assert row["score"] == pytest.approx(expected[column], abs=0.51)
        assert row["percentile"] == pytest.approx((row["score"] - 1) / len(ids))
        assert ranks[texts.index(row["best_query"]), column] == ranks[:, column].min()
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
    np.testing.assert_allclose([row["score"] for row in rows], np.sort(expected)[:8], atol=0.51)


def test_ranked_together_each_stage_lists_its_own_chunks(corpus):
    _, session = corpus
    hits = find(session, ["the orbit of Mars", "a saw"], aggregation_strategy="rank_mean", per_stage=True, k=2)
    rows = hits.table.to_pylist()
    assert [(row["stage_group"], row["rank"]) for row in rows] == [
        ("pretrain", 1), ("pretrain", 2), ("sft", 1), ("sft", 2)
    ]  # fmt: skip
    assert all(row["stage"] == row["stage_group"] for row in rows)
    assert {row["query"] for row in rows} == {"2 queries together, by rank_mean"}


def test_ranked_together_is_printed_with_its_score_and_best_query(corpus):
    path, session = corpus
    printed = here(path, "search.aggregation_strategy=rank_max", "search.k=14").stdout
    assert "2 queries together, by rank_max" in printed
    assert f"1.0 of {session.load(VECTORS).rows}" in printed
    assert "best for: a chisel in the workshop" in printed
    found = json.loads(here(path, "search.aggregation_strategy=rank_max", "--json").stdout)
    assert found["result"]["stats"]["aggregation"] == "rank_max"


def test_ranks_need_an_exact_index_and_leave_keys_of_distances_alone(corpus):
    _, session = corpus
    with pytest.raises(ConfigError, match=r"needs search\.index=exact"):
        find(session, ["a saw"], aggregation_strategy="rank_max", index="ivf")
    assert "aggregation_strategy" not in NEIGHBOURS.settings(session.config)
    ranked = replace(session.config, search=replace(session.config.search, aggregation_strategy="rank_max"))
    assert NEIGHBOURS.settings(ranked)["aggregation_strategy"] == "rank_max"


def test_without_a_query_nothing_is_ranked(corpus):
    _, session = corpus
    hits = find(session, [], aggregation_strategy="rank_max")
    assert len(hits.table) == 0
    assert {"score", "percentile", "best_query"} <= set(hits.table.column_names)


# --- the library ---------------------------------------------------------------------------------------------


def test_hits_are_those_of_a_full_sort_and_carry_their_chunks(corpus):
    _, session = corpus
    texts = ["Saturn and its orbit", "hammer and drill"]
    rows = find(session, texts, k=4).table.to_pylist()
    vectors, chunks = session.load(VECTORS), session.load(CHUNKS).table("chunks-00000.parquet").to_pylist()
    from common.embedders import load_embedder

    queries = load_embedder(vectors, session.config.embedding).embed_queries(texts)
    stored = vectors.array("vectors-00000.npy")
    wanted = reference(np.asarray(stored), queries, 4, "cosine")
    chunk_rows = vectors.array("rows-00000.npy")[wanted.indices]
    assert [row["chunk_row"] for row in rows] == chunk_rows.ravel().tolist()
    assert [row["rank"] for row in rows] == [1, 2, 3, 4] * 2
    assert [row["query"] for row in rows] == [text for text in texts for _ in range(4)]
    assert {row["stage_group"] for row in rows} == {"all"}
    for row in rows:
        chunk = chunks[row["chunk_row"]]
        assert all(row[name] == chunk[name] for name in ("chunk_id", "source", "stage", "text"))
    np.testing.assert_allclose([row["distance"] for row in rows], wanted.distances.ravel(), rtol=1e-6, atol=1e-9)


def test_per_stage_gives_k_of_every_stage(corpus):
    _, session = corpus
    table = find(session, ["the planet Mars"], k=2, per_stage=True).table.to_pylist()
    assert [(row["stage_group"], row["stage"], row["rank"]) for row in table] == [
        ("pretrain", "pretrain", 1),
        ("pretrain", "pretrain", 2),
        ("sft", "sft", 1),
        ("sft", "sft", 2),
    ]
    assert "Mars" in table[0]["text"]


def test_k_larger_than_the_corpus_gives_all_of_it_and_says_so(corpus):
    _, session = corpus
    everything = find(session, ["planet"], k=1_000)
    assert sorted(everything.table["chunk_row"].to_pylist()) == list(range(session.load(CHUNKS).rows))
    assert everything.stats["notes"] == ["search.k is 1000 but the corpus has 14 vectors: all of them are returned"]
    by_stage = find(session, ["planet"], k=7, per_stage=True)
    assert by_stage.stats["notes"] == ["search.k is 7 but stage 'sft' has 5 vectors: all of them are returned"]


def test_queries_without_a_vector_are_named(corpus):
    _, session = corpus
    with pytest.raises(UserError, match="query 'xyzzy plugh' has no part that the embedder knows"):
        find(session, ["planet", "xyzzy plugh"])
    with pytest.raises(UserError, match="query 2 is empty"):
        find(session, ["planet", " "])
    with pytest.raises(UserError, match="query 1 is not valid Unicode"):
        find(session, ["planet \udcff"])


@pytest.mark.parametrize("metric", METRICS)
def test_arrays_are_searched_by_the_settings(metric):
    vectors, queries = random_vectors(500), random_vectors(20, seed=1)
    wanted = reference(vectors, queries, 6, metric)
    found = search_arrays(vectors, queries, SearchConfig(k=6, metric=metric, block_rows=77))
    np.testing.assert_array_equal(found.neighbours[0].indices, wanted.indices)
    assert found.recall_at_k == 1
    groups = np.arange(500) % 2
    halves = search_arrays(vectors, queries, SearchConfig(k=6, metric=metric), groups=groups).neighbours
    for label, half in halves.items():
        rows = np.flatnonzero(groups == label)
        np.testing.assert_array_equal(half.indices, rows[reference(vectors[rows], queries, 6, metric).indices])


# --- inverted lists ------------------------------------------------------------------------------------------


def clustered(rows: int, seed: int) -> np.ndarray:
    """Rows around forty centres that every seed shares."""
    rng = np.random.default_rng(seed)
    return random_vectors(40, seed=7)[rng.integers(0, 40, rows)] + 0.4 * random_vectors(rows, seed=seed)


@pytest.mark.parametrize("metric", METRICS)
def test_reading_every_list_is_exact_search(metric, tmp_path):
    from common.ivf import build_lists, lists_top_k

    vectors, queries = clustered(1_500, 1), clustered(30, 2)
    np.save(tmp_path / "v.npy", vectors)
    exact = search_arrays(vectors, queries, SearchConfig(k=8, metric=metric)).neighbours[0]
    lists = build_lists(vectors, metric, lists=25)
    assert sorted(lists.rows.tolist()) == list(range(1_500))
    for source, threads in ((vectors, 1), (ShardedArray([tmp_path / "v.npy"]), 2)):
        found = lists_top_k(lists, source, queries, 8, metric, probes=25, threads=threads)
        assert same_bytes(found, exact)


@pytest.mark.parametrize("metric", METRICS)
def test_a_few_lists_find_most_neighbours_and_the_recall_is_measured(metric):
    vectors, queries = clustered(3_000, 1), clustered(150, 2)
    settings = SearchConfig(k=10, metric=metric, index="ivf", ivf_lists=40, ivf_probes=6)
    found = search_arrays(vectors, queries, settings)
    wanted = reference(vectors, queries, 10, metric).indices
    true = np.mean(
        [len(set(mine) & set(best)) / 10 for mine, best in zip(found.neighbours[0].indices, wanted, strict=True)]
    )
    assert found.recall_queries == 150
    assert found.recall_at_k == pytest.approx(true)
    assert true > 0.8
    few = search_arrays(vectors, queries, replace(settings, ivf_probes=1))
    assert few.recall_at_k < found.recall_at_k


def test_lists_with_too_few_rows_are_filled_up_from_further_ones():
    vectors = clustered(60, 1)
    found = search_arrays(vectors, vectors[:9], SearchConfig(k=50, index="ivf", ivf_lists=30, ivf_probes=1))
    assert found.neighbours[0].indices.shape == (9, 50)
    assert np.isfinite(found.neighbours[0].distances).all()
    assert all(len(set(row)) == 50 for row in found.neighbours[0].indices.tolist())


def test_lists_are_kept_and_a_damaged_file_is_replaced(tmp_path):
    from common.ivf import load_or_build

    vectors, path = clustered(300, 1), tmp_path / "ivf" / "lists.npz"
    built = load_or_build(path, vectors, "cosine", lists=9, threads=1)
    whole = path.read_bytes()
    kept = load_or_build(path, vectors[:10], "cosine", lists=9, threads=1)  # other vectors: these must come from disk
    np.testing.assert_array_equal(kept.rows, built.rows)
    path.write_bytes(whole[: len(whole) // 2])
    again = load_or_build(path, vectors, "cosine", lists=9, threads=2)
    np.testing.assert_array_equal(again.centroids, built.centroids)
    np.testing.assert_array_equal(again.starts, built.starts)


def test_inverted_lists_do_not_search_per_stage(corpus):
    with pytest.raises(ConfigError, match=r"per_stage needs search\.index=exact"):
        find(corpus[1], ["planet"], index="ivf", per_stage=True)


# --- the stage -----------------------------------------------------------------------------------------------


def test_the_stage_searches_the_examples_of_the_config(corpus):
    _, session = corpus
    artifact = session.run(NEIGHBOURS)
    table = artifact.table("neighbours.parquet")
    assert table.column_names == [
        *("query", "stage_group", "rank", "distance", "chunk_row"),
        *("chunk_id", "source", "stage", "text"),
    ]
    assert table.equals(find(session, list(session.config.search.queries)).table)
    assert artifact.rows == len(table) == 6
    assert artifact.json("stats.json")["queries"] == 2


def test_a_config_without_queries_gives_an_empty_table(corpus):
    _, session = corpus
    silent = Session(replace(session.config, search=SearchConfig()))
    artifact = silent.run(NEIGHBOURS)
    assert artifact.rows == 0
    assert artifact.table("neighbours.parquet").num_rows == 0


def test_an_example_of_unknown_words_finds_nothing_and_says_so(corpus):
    _, session = corpus
    mixed = SearchConfig(queries=("xyzzy plugh", "planet"), k=2)
    artifact = Session(replace(session.config, search=mixed)).run(NEIGHBOURS)
    assert artifact.table("neighbours.parquet").equals(find(session, ["planet"], k=2).table)
    stats = artifact.json("stats.json")
    assert stats["queries"] == 2
    assert stats["notes"] == ["query 'xyzzy plugh' has no part that the embedder knows; ask it in words of the corpus"]
    strange = SearchConfig(queries=("xyzzy plugh",), per_stage=True)
    assert Session(replace(session.config, search=strange)).run(NEIGHBOURS).rows == 0


def test_settings_of_lists_matter_only_where_there_are_lists(corpus):
    def key(**changes: object) -> str:
        config = corpus[1].config
        return Session(replace(config, search=replace(config.search, **changes))).key(NEIGHBOURS)

    assert key(ivf_probes=3) == key(block_rows=9, threads=2) == key()
    assert len({key(), key(k=9), key(metric="manhattan"), key(index="ivf"), key(index="ivf", ivf_probes=3)}) == 5


# --- the script ----------------------------------------------------------------------------------------------


def test_the_script_prints_the_examples(corpus):
    done = script(corpus[0])
    assert done.returncode == 0, done.stderr
    assert "the orbit of a planet" in done.stdout
    assert "neighbours" in done.stdout
    quiet = here(corpus[0], "search.queries=[]")
    assert "no example queries in this config" in quiet.stdout, quiet.stderr


def test_the_script_answers_queries_from_options_a_file_and_stdin(corpus, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"text": "a saw"}\n\n{"text": "a drill", "id": 7}\n')
    words = ["--query", "Venus", "--query", "-", "--query-file", str(tmp_path / "q.jsonl"), "search.k=2", "--json"]
    done = script(corpus[0], *words, stdin="Neptune\n\nUranus\n")
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)["result"]["hits"]
    assert [hit["query"] for hit in hits[::2]] == ["Venus", "Neptune", "Uranus", "a saw", "a drill"]
    assert [hit["rank"] for hit in hits] == [1, 2] * 5
    for hit in hits[:6:2]:
        assert hit["query"] in hit["text"]


def test_long_text_is_cut_to_the_terminal_and_whole_as_json(corpus, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    done = here(corpus[0], "--query", "a comet of ice and dust", "search.k=1")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "[bold]markup[/bold]" in line]
    assert len(line) <= 60
    assert line.endswith("…")
    full = json.loads(here(corpus[0], "--query", "a comet of ice and dust", "search.k=1", "--json").stdout)
    hit = full["result"]["hits"][0]
    assert hit["text"] == take_chunks(corpus[1].load(CHUNKS), np.array([hit["chunk_row"]]))["text"][0].as_py()
    assert len(hit["text"]) > 500


def test_hostile_text_cannot_move_the_cursor_or_reorder_what_is_read(corpus, capsys):
    session = corpus[1]
    hits = find(session, ["a comet of ice and dust"], k=1)
    for name in ("query", "stage_group", "chunk_id", "source", "stage", "text"):
        column = hits.table.column_names.index(name)
        table = hits.table.set_column(column, name, text_column(["\x1b[2J\u202e[red]x\r\n\x9by"]))
        print_hits(replace(hits, table=table), session)
        printed = capsys.readouterr().out
        assert "[red]x" in printed
        assert not set("\x1b\u202e\r\x9b") & set(printed), name
        assert len(printed.strip().splitlines()) == 3


def test_without_vectors_the_script_names_the_command_that_makes_them(corpus):
    path, session = corpus
    done = script(path, "--query", "planet", "embedding.dimensions=7")
    assert done.returncode == 3
    assert f"uv run embed_chunks.py {path} embedding.dimensions=7" in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(MissingArtifact):
        Session(replace(session.config, embedding=EmbeddingConfig(dimensions=7))).load(VECTORS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", b"\n \n", "holds no query"),
        ("bad.txt", b"caf\xe9\n", "is not UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "bad.jsonl:2: is not JSON"),
        ("other.jsonl", b'{"question": "a"}\n', "other.jsonl:1: has no string field `text`; it has question"),
        ("list.jsonl", b"[1]\n", "list.jsonl:1: has no string field `text`; it is a list"),
        ("number.jsonl", b'{"text": 5}\n', "number.jsonl:1: has no string field `text`; its `text` is a int"),
        ("empty.jsonl", b"", "holds no query"),
    ],
)
def test_files_that_hold_no_queries_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_queries(tmp_path / name)


def test_a_query_file_without_a_name_and_a_closed_stdin_are_refused(monkeypatch):
    nameless = Namespace(query=[], query_file="")
    assert has_queries(nameless)
    with pytest.raises(ConfigError, match="Is a directory"):
        asked_texts(nameless)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="stdin: holds no query"):
        asked_texts(Namespace(query=["-"], query_file=None))


def test_query_files_of_other_systems_are_read(tmp_path):
    (tmp_path / "q.txt").write_bytes("\ufeffone\r\ntwo\x0cand a half\r\n".encode())
    assert read_queries(tmp_path / "q.txt") == ["one", "two\x0cand a half"]
    with pytest.raises(ConfigError, match="No such file"):
        read_queries(tmp_path / "absent.txt")


def test_euclidean_distances_are_those_of_scipy(corpus):
    _, session = corpus
    vectors = np.asarray(session.load(VECTORS).array("vectors-00000.npy"))
    found = search_arrays(vectors, vectors, SearchConfig(k=14, metric="euclidean")).neighbours[0]
    true = cdist(vectors.astype(np.float64), vectors.astype(np.float64))
    np.testing.assert_allclose(np.take_along_axis(true, found.indices, axis=1), found.distances, rtol=1e-6, atol=1e-9)
