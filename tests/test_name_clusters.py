"""Named trees: planted topics get their own words, siblings differ, and corpus text cannot act on the terminal."""

from __future__ import annotations

import io
import json
from argparse import Namespace

import numpy as np
import pytest
from rich.console import Console

import name_clusters
from cluster_corpus import CLUSTERS, load_tree, load_vectors
from common.cluster_tree import ClusterNode, find, validate
from common.errors import ConfigError
from common.stages import Session
from config import NamingConfig
from embed_chunks import CHUNKS, VECTORS
from name_clusters import (
    NAMES,
    ROOT_NAME,
    ChunkTexts,
    central_chunks,
    inspect,
    load_texts,
    name_tree,
    present,
    print_named_tree,
    print_tree,
    tree_rows,
)
from prepare_data import DOCUMENTS
from tests.planted import FILLER, HOSTILE, SUBTOPICS, TOPICS, planted_config

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    session = Session(planted_config(tmp_path_factory.mktemp("planted")), "planted.py")
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


def test_no_terminal_is_too_narrow_for_ids_and_numbers(session):
    names, root = session.load(NAMES).json("names.json"), load_tree(session.load(CLUSTERS))
    narrow = printed(names, root, width=20).splitlines()[1:]
    for line, row in zip(narrow, tree_rows(names, root), strict=True):
        assert {row.cluster_id, f"{row.size:,}", f"{row.share:.1%}"} <= set(line.split())


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


@pytest.mark.parametrize("width", [60, 90, 140])
def test_the_tree_keeps_to_the_terminals_width(names, root, width):
    lines = printed(names, root, width).splitlines()
    assert len(lines) == len(names) + 1, "one line a node, and the header"
    assert max(map(len, lines)) <= width
    for row, line in zip(tree_rows(names, root)[1:], lines[2:], strict=True):
        assert f" {row.cluster_id} " in line
        assert line.split()[-1] == f"{row.silhouette:.2f}", "numbers are never cut; names are"
    assert ("…" in "".join(lines)) == (width == 60)


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


def test_inspecting_hostile_text_prints_it_as_text(session, root, capsys):
    texts = load_texts(session.load(CHUNKS)).texts
    row = next(row for row, text in enumerate(texts) if "[bold red]" in text)
    node = [node for node in root.walk() if row in node.indices][-1]
    present(session, Namespace(inspect=node.cluster_id, samples=node.size, show_noise=True, list=False, json=False))
    assert "[bold red]kitchen[/bold red]" in capsys.readouterr().out.replace("\n", " ")


def test_no_control_code_of_a_text_reaches_the_terminal(session, root):
    found = inspect(session, "0", samples=1, show_noise=False)
    found["samples"][0] |= {"text": HOSTILE, "chunk_id": HOSTILE}
    out = io.StringIO()
    name_clusters._print_inspection(found | {"name": HOSTILE, "keyphrases": [HOSTILE]}, Console(file=out, width=500))
    assert out.getvalue().count("[bold red]kitchen[/bold red]") == 4
    assert not {ESCAPE, "\x07"} & set(out.getvalue())


def test_an_unknown_cluster_is_a_usage_error(session):
    with pytest.raises(ConfigError, match=r"no cluster '7\.7' in this tree; --list shows"):
        inspect(session, "7.7", 1, False)


@pytest.mark.parametrize("as_list", [True, False])
def test_json_holds_every_cluster_and_prints_nothing_else(session, names, capsys, as_list):
    rows = present(session, Namespace(inspect=None, list=as_list, json=True))
    assert isinstance(rows, list)
    assert [row["cluster_id"] for row in rows] == list(names)
    assert capsys.readouterr().out == ""
    json.dumps(rows, allow_nan=False)


def test_the_list_is_by_size(session, names, capsys):
    present(session, Namespace(inspect=None, list=True, json=False))
    lines = capsys.readouterr().out.splitlines()
    sizes = [int(line.split()[1]) for line in lines[1:]]
    assert len(sizes) == len(names) - 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("value", ["0", "-3", "two"])
def test_a_number_of_samples_that_makes_no_sense_is_refused(value):
    with pytest.raises(Exception, match="whole number of at least 1"):
        name_clusters._at_least_one(value)
