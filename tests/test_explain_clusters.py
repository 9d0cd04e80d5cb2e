"""The stage: planted topics are told apart by their words, metadata that leak are named, stages are compared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control

import explain_clusters
from cluster_corpus import CLUSTERS, load_tree
from common.console import stdout
from common.errors import ConfigError
from common.stages import Session
from config import ColumnsText, Config, ExplainConfig, FilesReader, SourceConfig
from embed_chunks import CHUNKS, VECTORS
from explain_clusters import COMPARED, EXPLANATIONS, _reading, can_differ, chunk_facts, label_columns, present
from name_clusters import NAMES
from prepare_data import DOCUMENTS
from tests.planted import HOSTILE, SUBTOPICS, config_with_tree, planted_config, planted_texts
from tests.toy_project import checksums

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = (DOCUMENTS, CHUNKS, VECTORS, CLUSTERS, NAMES)
EXPLAIN = ExplainConfig(permutations=199, refits=2, rounds=20)


def staged_config(folder: Path, data: str = "data") -> Config:
    """The planted corpus as three training stages: two mixed alike, a third of cooking alone."""
    config = planted_config(folder, data)
    draw = np.random.default_rng(5)
    rows = {"base": [], "mid": [], "sft": []}
    for row in planted_texts():
        kind = "sft" if row["topic"] == "cooking" and draw.random() < 0.8 else str(draw.choice(["base", "mid"]))
        rows[kind].append(row)
    sources = []
    for name, mine in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in mine), encoding="utf-8")
        reader, text = FilesReader(paths=(str(path),)), ColumnsText(columns=("text",))
        sources.append(
            SourceConfig(name=name, reader=reader, text=text, stage=name, label_columns=("topic", "subtopic"))
        )
    return replace(config, prepare=replace(config.prepare, sources=tuple(sources)), explain=EXPLAIN)


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    session = Session(staged_config(tmp_path_factory.mktemp("explained")), "planted.py")
    for stage in (*UPSTREAM, EXPLANATIONS):
        session.run(stage)
    return session


@pytest.fixture(scope="module")
def found(session) -> dict:
    return session.load(EXPLANATIONS).json("explanations.json")


def shown(**options) -> Namespace:
    return Namespace(**{"json": False, "cluster": None, "compare": None, "png": None, "features": "terms"} | options)


def subtopic_of(session: Session) -> dict[str, str]:
    """The planted subtopic of every cluster at depth 1."""
    facts = chunk_facts(session.load(CHUNKS), 42)
    root = load_tree(session.load(CLUSTERS))
    return {node.cluster_id: facts.columns["subtopic"][node.indices[0]] for node in root.children}


# --- what is found -------------------------------------------------------------------------------------------


def test_every_cluster_is_told_from_its_siblings_by_its_own_words(session, found):
    planted = subtopic_of(session)
    assert len(planted) == len(SUBTOPICS)
    for cluster_id, subtopic in planted.items():
        view = found["clusters"][cluster_id]["models"]["terms"]
        assert {each["feature"] for each in view["present"][:3]} <= SUBTOPICS[subtopic]
        assert view["separation"]["auc"] > 0.95
        assert view["separation"]["q"] <= 0.05
        assert view["separation"]["p"] <= view["separation"]["q"]


def test_a_label_that_is_the_cluster_is_said_to_tell_it(session, found):
    for cluster_id in subtopic_of(session):
        cluster = found["clusters"][cluster_id]
        assert "subtopic" in cluster["told_by"]
        scores = {each["column"]: each["separation"]["auc"] for each in cluster["metadata"]}
        assert scores["subtopic"] > 0.98
        assert set(scores) == {"source", "stage", "topic", "subtopic"}


def test_stages_are_compared_cluster_by_cluster(session, found):
    compared, planted = found["composition"]["stage"], subtopic_of(session)
    assert compared["labels"] == ["base", "mid", "sft"]
    assert compared["splits"]["root"]["v"] > 0.4
    assert compared["splits"]["root"]["p"] <= 0.01
    for cluster_id, subtopic in planted.items():
        mixed = compared["clusters"][cluster_id]
        shares = {each["label"]: each for each in mixed["shares"]}
        assert sum(each["share"] for each in shares.values()) == pytest.approx(1)
        cooking = subtopic in ("bread", "curry")
        assert (shares["sft"]["share"] > 0.5) == cooking
        assert shares["sft"]["interval"]["low"] <= shares["sft"]["share"] <= shares["sft"]["interval"]["high"]
        if cooking:
            assert mixed["q"] <= 0.05
            assert mixed["test"]["method"] in ("chi-squared", "Monte Carlo")
    whole = sum(each["rows"] for each in compared["clusters"]["0"]["shares"])
    assert whole == load_tree(session.load(CLUSTERS)).children[0].size


def test_clusters_that_cannot_differ_do_not_count_as_tested(session, found):
    compared = found["composition"]["stage"]["clusters"]
    tested = {name: each for name, each in compared.items() if can_differ(each)}
    assert {each["p"] for name, each in compared.items() if name not in tested} <= {1.0}
    expected = false_discovery_control([each["p"] for each in tested.values()])
    assert [each["q"] for each in tested.values()] == pytest.approx(expected)
    mixed = {"shares": [{"overall": 1.0}, {"overall": 0.0}]}
    assert not can_differ(mixed)


def test_one_stage_is_nothing_to_compare(tmp_path, planted_tree, capsys):
    config = config_with_tree(tmp_path, planted_tree)
    session = Session(replace(config, explain=replace(EXPLAIN, refits=0)), "planted.py")
    session.run(EXPLANATIONS)
    compared = session.load(EXPLANATIONS).json("explanations.json")["composition"]
    assert compared["stage"] == {"labels": ["pretrain"], "splits": {}, "clusters": {}}
    present(session, shown())
    assert "stage: all chunks are of one, 'pretrain'" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--compare stage: all chunks are of one, 'pretrain'"):
        present(session, shown(compare="stage"))


def test_shap_values_are_those_of_held_out_chunks_and_words_the_chunks_have(session):
    table = session.load(EXPLANATIONS).table("shap.parquet").to_pydict()
    texts = [each for part in session.load(CHUNKS).tables("chunks-*.parquet") for each in part["text"].to_pylist()]
    assert set(table["model"]) == {"terms", "terms and metadata"}
    for row, feature, value in zip(table["chunk_row"], table["feature"], table["value"], strict=True):
        if "=" not in feature:
            assert (value > 0) == (feature in re.findall(r"\w+", texts[row].lower()))


def test_the_artifact_is_the_same_again(session, tmp_path):
    again = Session(replace(session.config), "planted.py", fresh=True)
    before = checksums(session.load(EXPLANATIONS).folder)
    assert checksums(again.run(EXPLANATIONS).folder) == before


def test_trees_find_the_same_words(session, found):
    pytest.importorskip("shap")
    trees = Session(replace(session.config, explain=replace(EXPLAIN, model="trees")), "planted.py")
    boosted = trees.run(EXPLANATIONS).json("explanations.json")
    for cluster_id, subtopic in subtopic_of(session).items():
        view = boosted["clusters"][cluster_id]["models"]["terms"]
        assert {each["feature"] for each in view["present"][:3]} <= SUBTOPICS[subtopic]
        assert view["separation"]["auc"] > 0.95
    assert boosted["composition"] == found["composition"]


def test_keys_follow_the_settings_that_are_used(session):
    def key(**changes) -> str:
        return Session(replace(session.config, explain=replace(EXPLAIN, **changes))).key(EXPLANATIONS)

    assert key(rounds=7) == key()
    assert key(strength=2.0) != key()
    assert key(model="trees", strength=2.0) == key(model="trees")
    assert key(model="trees", rounds=7) != key(model="trees")


# The stage, killed right after the first node is explained.
DYING = """
import os, signal, sys
import explain_clusters
from pathlib import Path
from common.stages import Session
from tests.test_explain_clusters import staged_config
real = explain_clusters._explain_node
def explain(*given):
    real(*given)
    os.kill(os.getpid(), signal.SIGKILL)
explain_clusters._explain_node = explain
Session(staged_config(Path(sys.argv[1])), "planted.py").run(explain_clusters.EXPLANATIONS)
"""


def test_a_killed_run_goes_on(session, monkeypatch):
    folder, key = Path(session.config.data_dir).parent, session.key(EXPLANATIONS)
    whole = checksums(session.load(EXPLANATIONS).folder)
    kept = Path(session.config.data_dir) / "explanations" / key
    kept.rename(kept.with_name("kept"))
    try:
        killed = subprocess.run([sys.executable, "-c", DYING, str(folder)], cwd=ROOT, env=os.environ, check=False)
        assert killed.returncode == -signal.SIGKILL
        explained = []
        real = explain_clusters._explain_node
        monkeypatch.setattr(explain_clusters, "_explain_node", lambda *given: explained.append(1) or real(*given))
        assert checksums(Session(session.config, "planted.py").run(EXPLANATIONS).folder) == whole
        parents = [node for node in load_tree(session.load(CLUSTERS)).walk() if node.children]
        assert len(explained) == len(parents) - 1
    finally:
        if not kept.exists():
            kept.with_name("kept").rename(kept)


# --- what it says --------------------------------------------------------------------------------------------


def test_every_cluster_is_compared_on_demand(session, found, capsys):
    present(session, shown(compare="stage"))
    lines = capsys.readouterr().out.splitlines()
    mixed = next(each for each in found["composition"]["stage"]["clusters"].values() if can_differ(each))
    base = next(share for share in mixed["shares"] if share["label"] == "base")
    row = next(line for line in lines if line.startswith(f"{mixed['name']} "))
    assert f"{base['share']:.1%} [{100 * base['interval']['low']:.1f}, {100 * base['interval']['high']:.1f}]" in row
    assert row.endswith(f"{mixed['q']:.2g}")


def test_clusters_that_words_do_not_tell_are_named():
    def cluster(q, low):
        score = {"auc": 0.7, "q": q, "interval": {"low": low, "high": 0.9}}
        return {"models": {"terms": {"separation": score}}, "told_by": []}

    lines = list(_reading({"0": cluster(0.01, 0.6), "1": cluster(0.2, 0.55), "2": cluster(0.01, 0.4)}))
    assert lines[-1].startswith("2 of 3 clusters are not told from their siblings by words")
    assert lines[-1].endswith(": 1, 2")
    assert list(_reading({})) == ["no cluster has siblings and enough documents to be told from them"]


def test_the_overview_has_a_line_a_cluster(session, found, capsys):
    assert present(session, shown()) == found
    lines = capsys.readouterr().out.splitlines()
    for cluster_id in found["clusters"]:
        assert any(line.startswith(f"{cluster_id} ") for line in lines)
    assert any(line.startswith("stage: clusters of the root differ with V") for line in lines)


@pytest.mark.parametrize("width", [60, 120])
def test_the_overview_fits_the_terminal_and_cuts_no_number(session, found, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    explain_clusters.print_overview(found, explain_clusters.cluster_names(session), stdout())
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= width
    for cluster_id, cluster in found["clusters"].items():
        line = next(line for line in lines if line.startswith(cluster_id))
        assert f"{cluster['models']['terms']['separation']['auc']:.3f}" in line.split()


def test_an_error_names_a_few_ids_of_many(session):
    root = load_tree(session.load(CLUSTERS))
    many = {"clusters": {f"{number}": {} for number in range(20, 220)}}
    message = explain_clusters._no_such("x", many, root)
    assert message.endswith("explained: 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 and 188 more")


def test_a_tree_without_clusters_has_no_table(found, capsys):
    explain_clusters.print_overview({**found, "clusters": {}}, {}, stdout())
    out = capsys.readouterr().out
    assert "no cluster has siblings" in out
    assert "AUC" not in out


def test_a_cluster_is_described_in_full_and_its_corpus_cannot_act_on_the_terminal(session, capsys):
    cooking = next(each for each, subtopic in subtopic_of(session).items() if subtopic == "bread")
    result = present(session, shown(cluster=cooking))
    out = capsys.readouterr().out
    assert isinstance(result, dict)
    assert result["cluster_id"] == cooking
    assert "permuted" in out
    assert "subtopic alone: AUC" in out
    assert "stage, " in out
    assert "\x1b" not in out
    assert HOSTILE not in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cluster": "99"}, "no cluster '99' in this tree"),
        ({"cluster": "root"}, "cluster 'root' has no siblings"),
        ({"png": "x.png"}, "name it with --cluster ID"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(session, given, message):
    with pytest.raises(ConfigError, match=message):
        present(session, shown(**{"json": True} | given))


@pytest.mark.parametrize("features", ["terms", "all"])
def test_a_beeswarm_is_drawn(session, tmp_path, features):
    target = tmp_path / "swarm.png"
    present(session, shown(json=True, cluster="0", png=str(target), features=features))
    assert target.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"--png .*missing"):
        present(session, shown(json=True, cluster="0", png=str(tmp_path / "missing" / "x.png"), features=features))


def test_label_columns_are_read_from_any_json():
    read = label_columns(['{"a": 1, "stage": "x", "b": [1]}', '{"a": "two"}', "{}"])
    assert read == {"a": ["1", "two", ""], "label stage": ["x", "", ""]}
    assert set(COMPARED) == {"stage", "source"}
