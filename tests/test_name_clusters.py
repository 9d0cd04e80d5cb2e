"""Named trees: planted topics get their own words, siblings differ, and corpus text cannot act on the terminal."""

from __future__ import annotations

import csv
import io
import json
import re
from argparse import ArgumentParser, Namespace
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import name_clusters
from cluster_corpus import CLUSTERS, load_tree, load_vectors
from common.cluster_tree import ClusterNode, find, validate
from common.columns import TextsOnDisk
from common.errors import ConfigError, MissingArtifact, UserError
from common.naming_view import CSV_COLUMNS, print_tree, tree_rows
from common.rollouts import read_jsonl
from common.stages import Session
from config import ClusteringConfig, GenerationConfig, NamingConfig
from embed_chunks import CHUNKS, VECTORS
from name_clusters import (
    NAMES,
    ROOT_NAME,
    ChunkTexts,
    central_chunks,
    counted_rows,
    gather_evidence,
    inspect,
    load_texts,
    name_tree,
    open_vectors,
    present,
    print_named_tree,
    runs_stages,
    search_clusters,
    tree_keyphrases,
)
from prepare_data import DOCUMENTS
from tests.openai_server import Server, Status, saying, serving
from tests.planted import FILLER, HOSTILE, SUBTOPICS, TOPICS, planted_config

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    clustering = ClusteringConfig(
        base_pct=0.1, min_cluster_size_root=10, silhouette_threshold=0.99, umap_n_components=5, refit=False
    )
    session = Session(planted_config(tmp_path_factory.mktemp("planted"), clustering=clustering), "planted.py")
    for stage in (DOCUMENTS, CHUNKS, VECTORS, CLUSTERS, NAMES):
        session.run(stage)
    return session


@pytest.fixture(scope="module")
def names(session) -> dict:
    return session.load(NAMES).json("names.json")


@pytest.fixture(scope="module")
def root(session) -> ClusterNode:
    return load_tree(session.load(CLUSTERS))


def words_of(name: str) -> set[str]:
    return set(name.replace(",", " ").split())


def printed(names: dict, root: ClusterNode, width: int = 100, *, colour: bool = False) -> str:
    out = io.StringIO()
    print_tree(names, root, Console(file=out, width=width, force_terminal=colour, emoji=False, highlight=False))
    return out.getvalue()


def arguments(*argv: str, json: bool = False) -> Namespace:
    """What the command line makes of these options."""
    parser = ArgumentParser()
    name_clusters.arguments(parser)
    return Namespace(**vars(parser.parse_args(argv)), json=json)


def test_no_terminal_is_too_narrow_for_ids_and_sizes(session):
    names, root = session.load(NAMES).json("names.json"), load_tree(session.load(CLUSTERS))
    narrow = printed(names, root, width=20).splitlines()[1:]
    for line, row in zip(narrow, tree_rows(names, root), strict=True):
        assert {row.cluster_id, f"{row.size:,}"} <= set(line.split())


# --- names ---------------------------------------------------------------------------------------------------


def labels(session: Session, name: str) -> np.ndarray:
    """The planted topic or subtopic of every chunk, by global row."""
    tables = session.load(CHUNKS).tables("chunks-*.parquet")
    return np.array([json.loads(each)[name] for table in tables for each in table["metadata"].to_pylist()])


def test_planted_subtopics_are_named_by_their_words(session, names, root):
    planted = labels(session, "subtopic")
    assert len(root.children) == len(SUBTOPICS)
    for child in root.children:
        assert words_of(names[child.cluster_id]["name"]) <= SUBTOPICS[planted[child.indices[0]]]


def planted_tree(session: Session) -> ClusterNode:
    """The true tree: topics, and below each its subtopics."""
    embedded = load_vectors(session.load(VECTORS)).chunk_rows
    topics, subtopics = labels(session, "topic"), labels(session, "subtopic")

    def node(cluster_id: str, parent: str | None, depth: int, rows: np.ndarray, children: tuple = ()) -> ClusterNode:
        noise = np.setdiff1d(rows, np.concatenate([child.indices for child in children])) if children else rows[:0]
        why = None if children else "max_depth"
        return ClusterNode(cluster_id, parent, depth, rows, noise, None, None, None, None, None, why, children)

    top = []
    for number, (topic, (_, *words)) in enumerate(TOPICS.items()):
        rows = embedded[topics[embedded] == topic]
        below = [rows[subtopics[rows] == each[0]] for each in words]
        kids = tuple(node(f"{number}.{n}", str(number), 2, each) for n, each in enumerate(below))
        top.append(node(str(number), "root", 1, rows, kids))
    root = node("root", None, 0, embedded, tuple(top))
    validate(root)
    return root


def test_at_each_level_names_are_what_the_siblings_lack(session):
    """A topic is named by the words its subtopics share, a subtopic by its own, never by its topic's."""
    root = planted_tree(session)
    named = name_tree(root, load_texts(session.load(CHUNKS)), load_vectors(session.load(VECTORS)), NamingConfig())
    for number, (shared, *subtopics) in enumerate(TOPICS.values()):
        assert words_of(named[str(number)].name) <= set(shared)
        for below, words in enumerate(subtopics):
            assert words_of(named[f"{number}.{below}"].name) <= set(words)


def test_names_are_distinct_among_siblings_and_two_to_five_words(names, root):
    assert set(names) == {node.cluster_id for node in root.walk()}
    for node in root.walk():
        siblings = [names[child.cluster_id]["name"] for child in node.children]
        assert len(set(siblings)) == len(siblings)
        assert all(2 <= len(words_of(name)) <= 5 for name in siblings)
    assert names["root"]["name"] == ROOT_NAME


def test_filler_is_no_keyphrase(names):
    for named in names.values():
        assert not set(FILLER) & set(named["keyphrases"])
        assert named["scores"] == sorted(named["scores"], reverse=True)
        assert len(named["scores"]) == len(named["keyphrases"])


def test_examples_are_nearest_to_the_real_centroid(session, names, root):
    loaded, chunks = load_vectors(session.load(VECTORS)), load_texts(session.load(CHUNKS))
    for node in root.walk():
        positions = np.searchsorted(loaded.chunk_rows, node.indices)
        centroid = loaded.vectors[positions].astype(float).mean(axis=0)
        assert np.linalg.norm(centroid) > 0.05
        cosines = loaded.vectors[positions] @ centroid / np.linalg.norm(centroid)
        examples = names[node.cluster_id]["example_chunks"]
        assert len(examples) == 5
        assert [each["similarity"] for each in examples] == pytest.approx(np.sort(cosines)[::-1][:5], abs=1e-4)
        for each, text in zip(examples, names[node.cluster_id]["examples"], strict=True):
            assert each["chunk_id"] == chunks.ids[each["chunk_row"]]
            assert text == chunks.texts[each["chunk_row"]]
            assert each["chunk_row"] in node.indices


def test_a_corpus_too_large_for_memory_is_read_where_it_lies_and_named_alike(session, root):
    chunks, vectors, settings = session.load(CHUNKS), session.load(VECTORS), NamingConfig()
    told = []
    for most_bytes in (10**9, 0):
        texts, loaded = load_texts(chunks, most_bytes), open_vectors(vectors, most_bytes)
        phrases = tree_keyphrases(root, texts, settings)
        told.append((name_tree(root, texts, loaded, settings), gather_evidence(root, phrases, texts, loaded, settings)))
    assert isinstance(texts.texts, TextsOnDisk)
    assert told[0] == told[1]


def test_a_repeated_text_is_shown_once(session):
    loaded = load_vectors(session.load(VECTORS))
    rows = loaded.chunk_rows[:6]
    chunks = ChunkTexts([f"id{row}" for row in range(int(rows[-1]) + 1)], ["same"] * int(rows[-1]) + ["other"])
    assert len(central_chunks(rows, chunks, loaded, 5)) == 2


def test_naming_twice_gives_the_same(session, names, root):
    again = name_tree(root, load_texts(session.load(CHUNKS)), load_vectors(session.load(VECTORS)), NamingConfig())
    assert {cluster_id: named.name for cluster_id, named in again.items()} == {
        key: each["name"] for key, each in names.items()
    }


def test_settings_change_the_names_key_alone(session):
    other = Session(planted_config(session.data_dir.parent))
    other.config = type(session.config)(**{**vars(session.config), "naming": NamingConfig(terms=1)})
    assert other.key(NAMES) != session.key(NAMES)
    assert other.key(CLUSTERS) == session.key(CLUSTERS)


def test_of_a_large_corpus_every_cluster_gives_an_even_share(session, root, names, monkeypatch):
    """The same words are found in a third of the texts."""
    monkeypatch.setattr(name_clusters, "COUNTED_TEXTS", root.size // 3)
    monkeypatch.setattr(name_clusters, "COUNTED_OF_A_CLUSTER", 3)
    counted = counted_rows(root)
    assert root.size // 4 < len(counted) < root.size // 2
    assert (np.diff(counted) > 0).all()
    for node in root.walk():
        assert len(np.intersect1d(node.indices, counted)) >= 3
    planted = labels(session, "subtopic")
    found = tree_keyphrases(root, load_texts(session.load(CHUNKS)), NamingConfig())
    for child in root.children:
        best = {item.phrase for item in found[child.cluster_id][:3]}
        assert len(best & SUBTOPICS[planted[child.indices[0]]]) >= 2


def test_texts_without_words_are_named_by_their_id(session, root):
    count = len(load_texts(session.load(CHUNKS)).texts)
    silent = ChunkTexts([str(row) for row in range(count)], ["123 ..."] * count)
    named = name_tree(root, silent, load_vectors(session.load(VECTORS)), NamingConfig())
    assert named["0"].name == "cluster 0"
    assert named["1"].name == "cluster 1"


# --- the printed tree ----------------------------------------------------------------------------------------


def test_rows_give_what_a_reader_needs(names, root):
    rows = tree_rows(names, root)
    assert [row.cluster_id for row in rows] == [node.cluster_id for node in root.walk()]
    for row in rows:
        node = find(root, row.cluster_id)
        assert (row.size, row.depth, row.noise) == (node.size, node.depth, node.noise_fraction)
        assert row.share == node.size / root.size
        assert row.silhouette == node.cohesion_embedding


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_tree_keeps_to_the_terminals_width(names, root, width):
    lines = printed(names, root, width).splitlines()
    assert len(lines) == len(names) + 1, "one line a node, and the header"
    assert max(map(len, lines)) <= width
    for row, line in zip(tree_rows(names, root)[1:], lines[2:], strict=True):
        assert f" {row.cluster_id} " in line
        assert line.split()[-1] == f"{row.silhouette:.2f}", "numbers are never cut; names are"
    assert "…" not in "".join(lines)


def test_the_tree_is_coloured_on_a_terminal_only(names, root):
    assert ESCAPE in printed(names, root, colour=True)
    assert ESCAPE not in printed(names, root)


def test_corpus_words_are_neither_markup_nor_control_codes(names, root):
    evil = {key: {**named, "name": f"[red]x[/red] {ESCAPE}]0;owned\x07 :smile: <b>"} for key, named in names.items()}
    text = printed(evil, root)
    assert "[red]x[/red]" in text
    assert ":smile: <b>" in text
    assert ESCAPE not in text
    assert "\x07" not in text


def test_the_main_job_prints_the_named_tree(session, capsys):
    print_named_tree(session)
    assert ROOT_NAME in capsys.readouterr().out


# --- one cluster ---------------------------------------------------------------------------------------------


def test_inspect_shows_members_and_noise(session, root):
    node = next(node for node in root.walk() if len(node.noise_indices))
    found = inspect(session, node.cluster_id, samples=2, show_noise=True)
    assert (found["size"], found["noise"]) == (node.size, len(node.noise_indices))
    assert len(found["samples"]) == 2
    assert {each["chunk_row"] for each in found["noise_samples"]} <= set(node.noise_indices.tolist())
    assert inspect(session, node.cluster_id, 1, show_noise=False)["noise_samples"] is None


def test_where_there_is_no_noise_to_show_inspect_says_so(session, root, capsys):
    node = next(node for node in root.walk() if not len(node.noise_indices))
    present(session, arguments("--inspect", node.cluster_id, "--show-noise"))
    assert "noise: none here" in capsys.readouterr().out
    present(session, arguments("--inspect", node.cluster_id))
    assert "noise: none here" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [("--samples", "3"), ("--list", "--show-noise"), ("--search", "oven", "--show-noise"), ("--name", "--show-noise")],
)
def test_an_option_that_would_change_nothing_is_refused(session, given):
    with pytest.raises(ConfigError, match="--inspect"):
        present(session, arguments(*given))


def test_inspecting_hostile_text_prints_it_as_text(session, root, capsys):
    texts = load_texts(session.load(CHUNKS)).texts
    row = next(row for row, text in enumerate(texts) if "[bold red]" in text)
    node = [node for node in root.walk() if row in node.indices][-1]
    present(session, arguments("--inspect", node.cluster_id, "--samples", str(node.size), "--show-noise"))
    assert "[bold red]kitchen[/bold red]" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("measured", [(0.25, 0.5), (0.25, None), (None, None)])
def test_only_the_silhouettes_that_there_are_are_printed(session, measured):
    embedding, projected = measured
    found = inspect(session, "0", 1, False) | {"silhouette_embedding": embedding, "silhouette_projected": projected}
    out = io.StringIO()
    name_clusters._print_inspection(found, Console(file=out, width=500))
    assert ("silhouette 0.25" in out.getvalue()) == (embedding is not None)
    assert ("0.50 in the projection" in out.getvalue()) == (projected is not None)


def test_no_control_code_of_a_text_reaches_the_terminal(session, root):
    found = inspect(session, "0", samples=1, show_noise=False)
    found["samples"][0] |= {"text": HOSTILE, "chunk_id": HOSTILE}
    out = io.StringIO()
    name_clusters._print_inspection(
        found | {"name": HOSTILE, "keyphrases": [HOSTILE], "problem": HOSTILE}, Console(file=out, width=500)
    )
    assert out.getvalue().count("[bold red]kitchen[/bold red]") == 5
    assert not {ESCAPE, "\x07"} & set(out.getvalue())


def test_an_unknown_cluster_is_a_usage_error(session):
    with pytest.raises(ConfigError, match=r"no cluster '7\.7' in this tree; --list shows"):
        inspect(session, "7.7", 1, False)


@pytest.mark.parametrize("as_list", [True, False])
def test_json_holds_every_cluster_and_prints_nothing_else(session, names, capsys, as_list):
    rows = present(session, arguments("--list" if as_list else "--tree", json=True))
    assert isinstance(rows, list)
    assert [row["cluster_id"] for row in rows] == list(names)
    assert capsys.readouterr().out == ""
    json.dumps(rows, allow_nan=False)


def test_the_list_is_by_size(session, names, capsys):
    present(session, arguments("--list"))
    lines = capsys.readouterr().out.splitlines()
    sizes = [int(line.split()[1]) for line in lines[1:]]
    assert len(sizes) == len(names) - 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("value", ["0", "-3", "two"])
def test_a_number_of_samples_that_makes_no_sense_is_refused(value):
    with pytest.raises(Exception, match="whole number of at least 1"):
        name_clusters._at_least_one(value)


def test_depth_and_counts(session, names, root, capsys):
    present(session, arguments("--tree", "--depth", "1"))
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(root.children)
    present(session, arguments("--name"))
    assert capsys.readouterr().out == f"{len(names) - 1} clusters named: {len(names) - 1} keywords\n"


# --- search --------------------------------------------------------------------------------------------------


def test_search_finds_by_words_and_by_vector(session, names, root, capsys):
    """The words of a subtopic find its cluster in both ways; a word that no name holds finds it by its vector."""
    planted = labels(session, "subtopic")
    for child in root.children:
        words = SUBTOPICS[planted[child.indices[0]]] - {word for top in TOPICS.values() for word in top[0]}
        found = search_clusters(session, " ".join(sorted(words)))
        assert found["by_words"][0]["cluster_id"] == child.cluster_id
        near = [node.cluster_id for node in find(root, child.cluster_id).walk()]
        assert found["by_vector"][0]["cluster_id"] in near
        similarities = [each["similarity"] for each in found["by_vector"]]
        assert similarities == sorted(similarities, reverse=True)
    assert present(session, arguments("--search", "oven", json=True)) == search_clusters(session, "oven")
    assert capsys.readouterr().out == ""
    present(session, arguments("--search", "oven"))
    printed_hits = capsys.readouterr().out
    assert "clusters that hold its words" in printed_hits
    assert names[search_clusters(session, "oven")["by_vector"][0]["cluster_id"]]["name"] in printed_hits


@pytest.mark.parametrize("width", [40, 60])
def test_on_a_narrow_terminal_ids_sizes_and_scores_of_hits_are_whole(session, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    found = search_clusters(session, "oven")
    present(session, arguments("--search", "oven"))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for hit in found["by_vector"]:
        whole = {hit["cluster_id"], f"{hit['size']:,}", f"{hit['similarity']:.2f}"}
        assert any(whole <= set(line.split()) for line in lines)


def test_a_text_that_is_nowhere_is_said_to_be_nowhere(session, capsys):
    present(session, arguments("--search", "zyzzyva"))
    out = capsys.readouterr().out
    assert "no name, keyphrase or central text holds its words" in out
    assert "no part that the embedder knows" in out


def test_in_a_tree_without_clusters_none_is_near():
    out = io.StringIO()
    nothing = {"text": "oven", "clusters": 0, "by_words": [], "by_vector": []}
    name_clusters._print_search(nothing, Console(file=out, width=80))
    assert "this tree has no clusters to be near to" in out.getvalue()
    assert "no part that the embedder knows" not in out.getvalue()


def test_an_empty_search_is_refused(session):
    with pytest.raises(ConfigError, match="empty"):
        search_clusters(session, " ")


# --- export --------------------------------------------------------------------------------------------------


def test_export_prints_the_flat_tree_and_nothing_else(session, names, capsys):
    for kind in ("csv", "json"):
        assert not runs_stages(arguments("--export", kind)), "no closing table below the export"
    present(session, arguments("--export", "csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["cluster_id"] for row in rows] == list(names)
    assert [row["name"] for row in rows] == [named["name"] for named in names.values()]
    assert tuple(rows[0]) == CSV_COLUMNS
    present(session, arguments("--export", "json"))
    records = json.loads(capsys.readouterr().out)
    assert [record["keyphrases"] for record in records] == [named["keyphrases"] for named in names.values()]


def test_export_writes_a_file(session, names, tmp_path, capsys):
    path = tmp_path / "tree.csv"
    assert runs_stages(arguments("--export", "csv", "--output", str(path)))
    present(session, arguments("--export", "csv", "--output", str(path)))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + len(names)
    assert capsys.readouterr().out == f"export: {path}\n"
    with pytest.raises(ConfigError, match="--output"):
        present(session, arguments("--export", "csv", "--output", str(tmp_path / "absent" / "tree.csv")))
    with pytest.raises(ConfigError, match="add --export"):
        present(session, arguments("--output", str(path)))


def test_an_export_of_what_is_not_there_says_what_makes_it(session):
    config = replace(session.config, naming=replace(session.config.naming, terms=4))
    with pytest.raises(MissingArtifact, match=r"to make it: uv run name_clusters\.py"):
        present(Session(config, "planted.py"), arguments("--export", "csv"))


# --- names by a model ----------------------------------------------------------------------------------------


def rule(body: dict) -> str:
    """Stands for a good model: the first two keyphrases."""
    found = re.search(r"Keyphrases of this group: ([^,\n]*), ([^,\n]*)", body["messages"][-1]["content"])
    assert found
    return f"{found[1]} {found[2]}".capitalize()


def by_model(session: Session, server: Server, **changes) -> Session:
    """The same corpus and tree, to be named by the model behind the server."""
    generation = GenerationConfig(base_url=server.base_url, model="rules", max_attempts=2, max_wait=0.05, **changes)
    config = replace(session.config, naming=replace(session.config.naming, engine="llm"), generation=generation)
    return Session(config, "planted.py")


def test_a_model_names_every_cluster_and_all_calls_are_kept(session, root, capsys):
    clusters = sum(1 for _ in root.walk()) - 1
    with serving(saying(rule)) as server:
        mine = by_model(session, server, price_input=1.0, price_output=2.0)
        artifact = mine.run(NAMES)
        named = artifact.json("names.json")
        assert f"naming {clusters} clusters with rules" in (told := capsys.readouterr().err)
        assert f"{clusters} requests: 0 cached, {clusters} to send" in told
        assert {each["source"] for key, each in named.items() if key != "root"} == {"llm"}
        for node in root.walk():
            siblings = [named[child.cluster_id]["name"] for child in node.children]
            assert len(set(siblings)) == len(siblings)
        rollouts = list(read_jsonl(artifact.path("rollouts.jsonl")))
        assert sorted(rollout.request_id for rollout in rollouts) == sorted(set(named) - {"root"})
        stats = artifact.json("stats.json")
        assert stats["sources"] == {"fixed": 1, "llm": clusters}
        assert stats["calls"]["cost"] == pytest.approx(sum(rollout.cost or 0 for rollout in rollouts))
        before = len(server.bodies)
        again = replace_session(mine, fresh=True).run(NAMES)
        assert len(server.bodies) == before, "every answer is cached"
        assert again.json("names.json") == named
        assert again.json("stats.json")["calls"]["cached"] == clusters
        print_named_tree(mine)
        assert named["0"]["name"] in capsys.readouterr().out


def replace_session(session: Session, **changes) -> Session:
    return Session(session.config, session.config_path, **changes)


def test_the_prompt_holds_the_texts_of_the_cluster_fenced_and_without_controls(session, names):
    with serving(saying(rule)) as server:
        mine = by_model(session, server)
        mine.config = replace(mine.config, naming=replace(mine.config.naming, samples=50, sample_tokens=60))
        mine.run(NAMES)
        prompts = [body["messages"][-1]["content"] for body in server.bodies]
    assert len(prompts) == len(names) - 1
    assert any("<script>alert('dish')</script>" in prompt for prompt in prompts), "the hostile text is a member"
    for prompt in prompts:
        mark = re.match(r"=== data ([0-9a-f]{16})\n", prompt)
        assert mark
        assert prompt.count(mark[1]) == 2
        assert not {ESCAPE, "\x07"} & set(prompt)


def test_a_failed_call_is_reported_and_asked_for_again_on_request(session, names, capsys):
    clusters = len(names) - 1
    with serving(saying(rule)) as server:
        server.faults += [Status(400, "no")]
        mine = by_model(session, server)
        problems = mine.run(NAMES).json("stats.json")["problems"]
        assert list(problems.values()) == ["no answer: http (status 400: no)"]
        print_named_tree(mine)
        assert f"1 of {clusters} names are keywords" in (told := capsys.readouterr().err)
        assert "--fresh asks again" in told
        server.rule = lambda body: None
        again = replace_session(mine, fresh=True).run(NAMES)
        assert again.json("stats.json")["sources"] == {"fixed": 1, "llm": clusters}
        below = sum(cluster_id.rpartition(".")[0] in problems for cluster_id in names)
        assert again.json("stats.json")["calls"]["cached"] == clusters - 1 - below, "those below saw another name above"


def test_a_stopped_run_leaves_no_artifact_and_goes_on(session):
    with serving(saying(rule)) as server:
        server.faults += [None, None, None, Status(401, "expired")]
        mine = by_model(session, server, max_concurrency=1)
        with pytest.raises(UserError, match=r"naming: .*expired.*3 answers are kept"):
            mine.run(NAMES)
        assert mine.find(NAMES) is None
        assert mine.run(NAMES).json("stats.json")["calls"]["cached"] == 3


def test_the_key_holds_model_endpoint_and_prompt_but_not_how_it_is_asked(session, monkeypatch):
    def key(naming: dict | None = None, **generation) -> str:
        config = replace(
            session.config,
            naming=replace(session.config.naming, **({"engine": "llm"} | (naming or {}))),
            generation=GenerationConfig(**generation),
        )
        return Session(config).key(NAMES)

    base = key()
    assert key(max_concurrency=2, api_key_variable="OTHER", price_input=1.0, max_cost=1.0, timeout=3.0) == base
    others = [key(model="other"), key(base_url="http://localhost:1/v1"), key({"samples": 5}), key({"max_tokens": 9})]
    assert len({base, *others}) == 5
    keywords = {key({"engine": "keywords"}), key({"engine": "keywords", "samples": 5}, model="other")}
    assert keywords == {session.key(NAMES)}, "what only a model depends on does not rename keyword names"
    monkeypatch.setattr("common.naming_prompts.PROMPT_VERSION", 99)
    assert key() != base
