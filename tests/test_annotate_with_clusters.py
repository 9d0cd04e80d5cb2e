"""Outputs in a planted tree: known topics get their places, other texts are outside, planted errors are found."""

from __future__ import annotations

import csv
import io
import json
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import annotate_with_clusters
from annotate_with_clusters import (
    ANNOTATIONS,
    EMPTY_OUTPUTS,
    NO_OUTPUTS,
    _held_out,
    load_fitted,
    present,
    read_outputs,
)
from cluster_corpus import CLUSTERS, load_tree
from common.annotation_report import error_verdict, length_lines, print_analysis
from common.assignment import ancestors
from common.configs import load_config
from common.errors import UserError
from common.stages import Session
from config import (
    AnnotationConfig,
    ColumnsText,
    Config,
    FilesReader,
    OutputText,
    PackagesReader,
    PrepareConfig,
    SourceConfig,
)
from embed_chunks import CHUNKS, VECTORS
from name_clusters import NAMES
from prepare_data import DOCUMENTS
from tests.planted import SUBTOPICS, TOPICS, config_with_tree, planted_config, planted_texts

NARROW = 80
OUTSIDE_TEXT = "boat soil recipe yeast wave petal cumin buoy onion flare chilli trophy"


@pytest.fixture(scope="module")
def config(tmp_path_factory, planted_tree) -> Config:
    return config_with_tree(tmp_path_factory.mktemp("planted"), planted_tree)


def annotated(config: Config, **settings: Any) -> Session:
    """A finished session over outputs, with few permutations."""
    quick: dict[str, Any] = {"permutations": 199, "calibration_chunks": 200}
    chosen = AnnotationConfig(**{**quick, **settings})
    session = Session(replace(config, annotation=chosen), "planted.py")
    session.run(ANNOTATIONS)
    return session


def rows_of(session: Session) -> list[dict[str, Any]]:
    return session.load(ANNOTATIONS).table("annotations.parquet").to_pylist()


def analysis_of(session: Session) -> dict[str, Any]:
    return session.load(ANNOTATIONS).json("analysis.json")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def topic_of(subtopic: str) -> str:
    return next(topic for topic, (_, *words) in TOPICS.items() if subtopic in {each[0] for each in words})


def text_about(subtopic: str, draw: np.random.Generator) -> str:
    """A new text of a planted subtopic."""
    shared, *others = TOPICS[topic_of(subtopic)]
    own = next(words for words in others if words[0] == subtopic)
    return " ".join(draw.permutation([*draw.choice(shared, 8), *draw.choice(own, 4)]))


# --- places --------------------------------------------------------------------------------------------------


def test_a_new_text_gets_the_cluster_of_its_topic(config, tmp_path):
    draw = np.random.default_rng(1)
    rows = [{"text": text_about(topic, draw), "topic": topic} for topic in SUBTOPICS for _ in range(15)]
    session = annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows), alpha=0.001)
    labels = session.load(CHUNKS).table("chunks-00000.parquet", ["metadata"])["metadata"].to_pylist()
    topics = [json.loads(label)["topic"] for label in labels]
    root = load_tree(session.load(CLUSTERS))
    most = {node.cluster_id: Counter(topics[row] for row in node.indices).most_common(1)[0][0] for node in root.walk()}
    right = [most[row["cluster_id_depth_0"]] == topic_of(row["topic"]) for row in rows_of(session)]
    assert np.mean(right) > 0.95


def test_paths_are_nested_and_named(config, tmp_path):
    draw = np.random.default_rng(2)
    rows = [{"text": text_about(topic, draw)} for topic in SUBTOPICS for _ in range(5)]
    session = annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows))
    names = session.load(NAMES).json("names.json")
    for row in rows_of(session):
        path = ancestors(row["cluster_path"])
        levels = [name for name in row if name.startswith("cluster_id_depth_")]
        ids = [row[name] for name in levels if row[name] is not None]
        assert ids == path
        assert [row[f"cluster_depth_{level}"] for level in range(len(ids))] == [names[one]["name"] for one in ids]
        assert 0 <= row["percentile"] <= 1
        assert row["outside"] == (row["cluster_path"] == "")


def test_a_chunk_of_the_corpus_gets_its_fitted_label(config, tmp_path):
    """Embedded anew from its text, through the saved embedder."""
    session = annotated(config)
    chunks = session.load(CHUNKS).table("chunks-00000.parquet", ["chunk_id", "text"]).to_pylist()
    fitted = session.load(CLUSTERS).table("assignments.parquet").to_pylist()
    known = {row["chunk_id"]: row["filled_path"] for row in fitted}
    rows = [{"output_id": row["chunk_id"], "text": row["text"]} for row in chunks if row["chunk_id"] in known]
    path = write_jsonl(tmp_path / "o.jsonl", rows)
    found = rows_of(annotated(config, outputs=path, alpha=1e-6))
    agreement = np.mean([row["cluster_path"] == known[row["output_id"]].replace("root", "") for row in found])
    assert agreement >= 0.98
    assert analysis_of(session)["assignment"]["with_itself"] >= 0.98


def test_what_is_unlike_the_corpus_is_outside_and_what_is_unknown_has_no_place(config, tmp_path):
    rows = [
        {"text": OUTSIDE_TEXT},
        {"text": "?!?"},
        {"text": ""},
        {"text": text_about("bread", np.random.default_rng(3))},
    ]
    session = annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows))
    found = rows_of(session)
    assert [row["outside"] for row in found] == [True, True, True, False]
    assert [row["cluster_path"] == "" for row in found] == [True, True, True, False]
    assert [row["distance"] is None for row in found] == [False, True, True, False]
    counts = analysis_of(session)["outputs"]
    assert (counts["outside"], counts["unknown"]) == (1, 2)


def test_of_texts_drawn_like_the_corpus_about_the_stated_share_is_outside(config, tmp_path):
    """At 20%, 255 texts: within four standard errors, that of the 60 held-out ones included."""
    rows = [{"text": row["text"]} for row in planted_texts(seed=1)]
    found = rows_of(annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows), alpha=0.2))
    assert np.mean([row["outside"] for row in found if row["distance"] is not None]) == pytest.approx(0.2, abs=0.17)


def test_held_out_documents_are_whole(config):
    session = annotated(config)
    tree = load_fitted(*(session.load(stage) for stage in (CHUNKS, VECTORS, CLUSTERS)), AnnotationConfig())
    split = replace(tree, documents=np.arange(len(tree.documents)) // 7)
    held, rest = _held_out(split, AnnotationConfig(calibration_chunks=30))
    assert 30 <= len(held) < 37 + 7
    assert len(held) + len(rest) == len(tree.documents)
    assert not set(split.documents[held]) & set(split.documents[rest])


def test_a_corpus_of_one_document_is_measured_without_holding_any_out(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(row["text"] for row in planted_texts(each=10)), encoding="utf-8")
    source = SourceConfig(name="book", reader=FilesReader(paths=(str(path),)))
    small = planted_config(tmp_path)
    book = replace(
        small,
        prepare=PrepareConfig(sources=(source,)),
        chunking=replace(small.chunking, max_tokens=32, overlap_pct=0.0),
    )
    for stage in (DOCUMENTS, CHUNKS, VECTORS, CLUSTERS, NAMES):
        Session(book, "book.py").run(stage)
    session = annotated(book, outputs=write_jsonl(tmp_path / "o.jsonl", [{"text": "bread flour dough oven yeast"}]))
    assert rows_of(session)[0]["distance"] < 1


@pytest.mark.parametrize(("labels", "column"), [("raw", "path"), ("filled", "filled_path")])
def test_raw_or_filled_labels_vote(config, labels, column):
    session = annotated(config)
    inputs = [session.load(stage) for stage in (CHUNKS, VECTORS, CLUSTERS)]
    tree = load_fitted(*inputs, AnnotationConfig(labels=labels))
    deepest = [tree.codes.path(int(max(codes, default=-1))) for codes in tree.codes.codes]
    wanted = inputs[2].table("assignments.parquet", [column])[column].to_pylist()
    assert sorted(deepest, key=str) == sorted(wanted, key=str)


def test_a_long_output_is_placed_by_its_windows(config, tmp_path):
    """Three times as much about bread as about storms."""
    draw = np.random.default_rng(4)
    parts = [text_about(topic, draw) for topic in ["bread"] * 60 + ["storm"] * 20]
    rows = [{"text": "\n\n".join(parts)}, {"text": parts[0]}]
    chunking = replace(config.chunking, max_tokens=64, overlap_pct=0.0)
    small = replace(config, chunking=chunking)
    for stage in (CHUNKS, VECTORS, CLUSTERS, NAMES):
        Session(small, "planted.py").run(stage)
    session = annotated(small, outputs=write_jsonl(tmp_path / "o.jsonl", rows), alpha=1e-6)
    long, short = rows_of(session)
    assert long["cluster_id_depth_0"] == short["cluster_id_depth_0"]
    assert 0.5 < long["cluster_share"] < 1


# --- input ---------------------------------------------------------------------------------------------------


def test_a_table_of_neighbours_keeps_its_columns(config, tmp_path):
    """The clash is in `distance`; the texts come from the corpus, by chunk id."""
    chunk = annotated(config).load(CHUNKS).table("chunks-00000.parquet", ["chunk_id"])["chunk_id"][0].as_py()
    path = tmp_path / "similarity.csv"
    path.write_text(f"sample_id,variant,corpus_stage,rank,distance,chunk_id\n7,answer,pretrain,1,0.25,{chunk}\n")
    row = rows_of(annotated(config, outputs=str(path)))[0]
    assert (row["question_id"], row["variant"], row["sample_id"]) == ("7", "answer", "7")
    assert (row["input_distance"], row["corpus_stage"], row["chunk_id"]) == ("0.25", "pretrain", chunk)
    assert row["distance"] < 0.5
    assert "input_variant" not in row


@pytest.mark.parametrize(("labels", "column"), [("filled", "filled_path"), ("raw", "path")])
def test_the_chunks_of_a_table_of_neighbours_are_where_the_tree_has_them(config, tmp_path, labels, column):
    """None is outside the corpus, however far from its neighbours, or however little of its text the table shows."""
    fitted = annotated(config).load(CLUSTERS).table("assignments.parquet", ["chunk_id", column]).to_pylist()
    path = tmp_path / "similarity.csv"
    lines = [f"7,{rank},{row['chunk_id']},boat" for rank, row in enumerate(fitted)]
    path.write_text("\n".join(["sample_id,rank,chunk_id,chunk_text", *lines]) + "\n")
    session = annotated(config, outputs=str(path), alpha=0.5, labels=labels)
    rows = rows_of(session)
    assert [row["cluster_path"] for row in rows] == [row[column].removeprefix("root") for row in fitted]
    assert not any(row["outside"] for row in rows)
    assert analysis_of(session)["outputs"]["outside"] == 0
    assert {row["chunk_text"] for row in rows} == {"boat"}
    assert len({row["text"] for row in rows}) > 1


def test_an_answer_without_a_place_is_in_no_test_and_in_no_share(config, tmp_path):
    """Empty answers are wrong, all of them: counted as outside of the corpus, they would be a cluster of errors."""
    draw = np.random.default_rng(8)
    rows = [{"text": text_about("bread", draw), "correct": True} for _ in range(20)]
    rows += [{"text": "", "correct": False} for _ in range(20)]
    session = annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows), alpha=1e-6)
    found = analysis_of(session)
    assert [each["outside"] for each in found["places"]] == [found["outputs"]["outside"]] == [0]
    assert (found["places"][0]["outputs"], found["places"][0]["placed"]) == (40, 20)
    assert "" not in {each["cluster_id"] for each in found["errors"]["rates"]}
    assert sum(model["answers"] for model in found["errors"]["models"]) == 20
    text = " ".join(printed(session).split())
    assert "without a place: 20 (no text, or none that the embedder knows); no test counts them" in text


def test_the_folder_of_a_rollouts_artifact_is_read_by_its_tables(config, tmp_path):
    """Its manifest is no output; a call that failed is one without a text."""
    whole = {"request_id": "q1", "completion": "bread oven dough yeast", "model": "small", "reference": "#### 3"}
    failed = {**whole, "request_id": "q2", "completion": None}
    for kind, row in (("rollouts", whole), ("failed", failed)):
        pq.write_table(pa.Table.from_pylist([row], rollout_schema(whole)), tmp_path / f"{kind}-00000.parquet")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "stats.json").write_text("{}")
    rows = rows_of(annotated(config, outputs=str(tmp_path), grade_by="gsm8k"))
    assert [(row["question_id"], row["distance"] is None, row["correct"]) for row in rows] == [
        ("q1", False, False),
        ("q2", True, None),
    ]


def rollout_schema(row: dict[str, Any]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in row])


def test_a_chunk_that_is_not_in_the_corpus_is_named(config, tmp_path):
    path = tmp_path / "similarity.csv"
    path.write_text("sample_id,chunk_id\n7,other#0\n")
    with pytest.raises(UserError, match="chunk 'other#0' is not in this corpus"):
        annotated(config, outputs=str(path))


def test_own_columns_keep_their_types_and_tables_become_json(config, tmp_path):
    rows = [{"text": "bread oven", "n": 1, "tags": ["a"]}, {"text": "rose petal", "n": None, "tags": None}]
    found = rows_of(annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows)))
    assert [row["n"] for row in found] == [1, None]
    assert [row["tags"] for row in found] == ['["a"]', None]


def test_ids_that_occur_twice_are_refused(config, tmp_path):
    path = write_jsonl(tmp_path / "o.jsonl", [{"output_id": "a", "text": "x"}, {"output_id": "a", "text": "y"}])
    with pytest.raises(UserError, match="id 'a' occurs twice"):
        annotated(config, outputs=path)


def test_a_row_without_the_column_is_an_error_or_is_kept_with_the_reason(config, tmp_path):
    path = write_jsonl(tmp_path / "o.jsonl", [{"text": "bread"}, {"words": "oven"}])
    with pytest.raises(UserError, match=r"row o\.jsonl:2: has no column 'text'"):
        annotated(config, outputs=path)
    session = annotated(config, outputs=FilesReader(paths=(path,), malformed="skip"))
    assert len(rows_of(session)) == 1
    dropped = session.load(ANNOTATIONS).table("dropped.parquet").to_pylist()
    assert [(row["where"], row["reason"]) for row in dropped] == [("o.jsonl:2", "unrenderable")]


def test_packages_are_outputs_too(config):
    session = annotated(config, outputs=PackagesReader(packages=("threadpoolctl",)), variant_column="package")
    assert analysis_of(session)["places"][0]["variant"] == "threadpoolctl"


def test_outputs_are_keyed_by_content_and_not_by_place(config, tmp_path):
    rows = [{"text": "bread oven"}]
    (tmp_path / "elsewhere").mkdir()
    paths = [write_jsonl(tmp_path / name, rows) for name in ("o.jsonl", "elsewhere/o.jsonl")]
    keys = [annotated(config, outputs=path).key(ANNOTATIONS) for path in paths]
    assert keys[0] == keys[1]
    changed = write_jsonl(tmp_path / "o.jsonl", [*rows, *rows])
    assert annotated(config, outputs=changed).key(ANNOTATIONS) != keys[0]


@pytest.mark.realdata
def test_the_four_graded_models_are_read_whole(config, realdata):
    """286, 515, 458 and 742 of 1,319 right, as their file says."""
    path = realdata / "benchmarks" / "gsm8k" / "example_model_solutions.jsonl"
    settings = load_config("configs/annotation_01_gsm8k.py", [f"annotation.outputs={path}"]).annotation
    session = Session(config, "planted.py")
    outputs = read_outputs(settings, session.load(CHUNKS), session.store.cache_dir).outputs
    right = Counter(each.model for each in outputs if each.correct)
    wanted = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
    assert right == wanted
    assert Counter(each.variant for each in outputs) == {"question": 1319, "ground_truth": 1319, "answer": 4 * 1319}
    assert len({each.question_id for each in outputs}) == 1319


# --- analysis ------------------------------------------------------------------------------------------------


def solutions(path: Path, worse: str | None, questions: int = 240, seed: int = 5) -> str:
    """Two models' graded answers; those on the topic `worse` are wrong far more often."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(questions):
        topic = str(draw.choice(list(SUBTOPICS)))
        chance = 0.9 if topic == worse else 0.4
        row: dict[str, Any] = {"truth": text_about(topic, draw), "number": number}
        for model in ("small", "large"):
            row[model] = {"solution": text_about(topic, draw), "right": bool(draw.random() > chance)}
        rows.append(row)
    return write_jsonl(path, rows)


TEXTS = (
    OutputText(text=ColumnsText(columns=("truth",)), variant="ground_truth"),
    *(
        OutputText(text=ColumnsText(columns=(f"{model}.solution",)), model=model, correct=f"{model}.right")
        for model in ("small", "large")
    ),
)


@pytest.fixture(scope="module")
def graded(config, tmp_path_factory) -> Session:
    path = solutions(tmp_path_factory.mktemp("graded") / "solutions.jsonl", worse="bread")
    return annotated(config, outputs=path, texts=TEXTS, permutations=999, alpha=0.001)


def test_errors_planted_in_a_topic_are_found_in_its_cluster(graded):
    found = analysis_of(graded)
    pooled = [each for each in found["errors"]["rates"] if each["model"] is None and each["q"] is not None]
    worst = max(pooled, key=lambda each: each["difference"])
    assert worst["q"] < 0.05
    assert worst["low"] > worst["expected_rate"]
    rows = [row for row in rows_of(graded) if row["correct"] is not None]
    mine = [row for row in rows if worst["cluster_id"] in ancestors(row["cluster_path"])]
    assert worst["answers"] == len(mine)
    assert worst["wrong"] == sum(not row["correct"] for row in mine)
    assert np.mean(["bread" in row["text"] or "dough" in row["text"] for row in mine]) > 0.8
    assert all(each["p_holm"] < 0.05 for each in found["errors"]["associations"] if each["model"] is None)


def test_the_ground_truths_clusters_tell_the_same(graded):
    found = analysis_of(graded)["errors_by"]["ground_truth"]
    assert min(each["q"] for each in found["rates"] if each["q"] is not None) < 0.05


def test_answers_that_stay_on_their_topic_do_not_shift(graded):
    for each in analysis_of(graded)["shifts"]:
        assert each["pairs"] == 240
        assert each["same"] > 3 * each["same_by_chance"]
        assert each["p_holm"] > 0.05


def test_without_planted_errors_nothing_is_flagged(config, tmp_path):
    path = solutions(tmp_path / "solutions.jsonl", worse=None)
    found = analysis_of(annotated(config, outputs=path, texts=TEXTS))
    assert [each for each in found["errors"]["rates"] if each["q"] is not None and each["q"] < 0.01] == []
    assert all(each["p_holm"] > 0.01 for each in found["difficulty"])


def test_outputs_that_wander_off_are_a_shift(config, tmp_path):
    """The truth is about bread; the model writes of storms."""
    draw = np.random.default_rng(6)
    rows = [
        {"question_id": str(number), "variant": variant, "text": text_about(topic, draw), "model": model}
        for number in range(40)
        for variant, topic, model in (("ground_truth", "bread", None), ("answer", "storm", "small"))
    ]
    found = analysis_of(annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows), alpha=1e-6))
    assert found["errors"] is None
    assert found["shifts"][0]["same"] < 0.1
    assert found["shifts"][0]["p_holm"] < 0.05
    assert max(move["gained"] for move in found["shifts"][0]["clusters"]) > 30


# --- what it prints ------------------------------------------------------------------------------------------


def printed(session: Session, every: bool = False, width: int = NARROW) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_analysis(analysis_of(session), console, every=every)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, NARROW])
def test_the_tables_fit_a_narrow_terminal(graded, width):
    for every in (False, True):
        text = printed(graded, every, width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "Do errors follow clusters?" in text
        assert "Are harder questions farther" in text
        assert "corrected (95%)" in text
        assert "wrong (95%)" in text


def test_prose_below_a_table_that_is_too_wide_still_fits(graded):
    lines = printed(graded, width=30).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("Do errors follow"))
    end = next(number for number, line in enumerate(lines) if line.startswith("by the answers'"))
    assert max(len(line) for line in lines[begin:end]) <= 30


def test_where_all_answers_lie_in_one_place_there_is_nothing_to_test(config, tmp_path):
    draw = np.random.default_rng(9)
    rows = [{"text": text_about("bread", draw), "correct": n % 2 == 0, "model": "m"} for n in range(12)]
    session = annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows), alpha=1e-6)
    levels = {each["clusters"] for each in analysis_of(session)["errors"]["associations"]}
    text = " ".join(printed(session).split())
    assert "12 outputs, 1 model, 12 graded" in text
    assert ("nothing to test: an answer always lies in the same place" in text) == (levels == {1})
    one = {"associations": [{"clusters": 1, "p_holm": 1.0}], "rates": [], "models": []}
    assert error_verdict(one, "an answer") == "nothing to test: an answer always lies in the same place"


def test_where_every_model_is_always_right_or_always_wrong_there_is_nothing_to_test(graded):
    found = analysis_of(graded)["errors"]
    same = [{**each, "wrong": each["answers"] * (number % 2)} for number, each in enumerate(found["models"])]
    said = "nothing to test: no model has both right and wrong answers"
    assert error_verdict({**found, "models": same}, "an answer") == said
    assert error_verdict({**found, "models": [*same, {"wrong": 1, "answers": 2}]}, "an answer") != said


def test_every_question_is_answered_in_short(graded, config, tmp_path):
    text = " ".join(printed(graded).split())
    found = analysis_of(graded)["errors"]
    v = max(each["v_corrected"] for each in found["associations"] if each["p_holm"] <= 0.05)
    assert f"verdicts follow where an answer lies (corrected V up to {v:.2f}, 2 of 2 models alone)" in text
    assert "single clusters stand out" in text
    assert "some clusters gain what others lose for 0 of 2 models" in text
    blind = annotated(config, outputs=solutions(tmp_path / "solutions.jsonl", worse=None), texts=TEXTS, alpha=0.001)
    text = " ".join(printed(blind).split())
    assert "not shown: verdicts follow where an answer lies no more than by chance" in text
    assert "no single cluster stands out" in text
    assert "by the answer's distance: not shown" in text


def test_short_texts_that_lie_outside_are_said_to_be_short(config, tmp_path):
    found = analysis_of(annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", [{"text": "bread oven"}] * 9)))
    assert found["places"][0]["median_characters"] == len("bread oven")
    lengths = [
        len(text)
        for table in Session(config).load(CHUNKS).tables("chunks-*.parquet")
        for text in table["text"].to_pylist()
    ]
    assert found["corpus"]["median_characters"] == np.median(lengths)
    many = {**found, "places": [{**found["places"][0], "low": 0.5}]}
    assert next(length_lines(many)).startswith("output: 10 characters, a chunk of the corpus")
    assert list(length_lines({**many, "places": [{**found["places"][0], "low": 0.06}]})) == []
    assert list(length_lines({**many, "corpus": {"median_characters": 12.0}})) == []


def test_hostile_words_do_not_reach_the_terminal(config, tmp_path):
    hostile = "\x1b]0;owned\x07[bold]model[/bold]"
    rows = [{"text": "bread oven dough yeast", "model": hostile, "correct": number % 2 == 0} for number in range(12)]
    text = printed(annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", rows)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]model[/bold]" in text


def test_the_csv_holds_every_column_and_row(graded, tmp_path, capsys):
    target = tmp_path / "out.csv"
    present(graded, Namespace(csv=str(target), all=False, json=False))
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = rows_of(graded)
    assert [row["output_id"] for row in rows] == [row["output_id"] for row in wanted]
    assert set(rows[0]) == set(wanted[0])
    assert [row["text"] for row in rows] == [row["text"] for row in wanted]


def test_a_csv_that_cannot_be_written_is_one_line(graded, tmp_path):
    with pytest.raises(UserError, match=r"--csv .*: cannot be written"):
        present(graded, Namespace(csv=str(tmp_path / "no" / "out.csv"), all=False, json=False))


def test_a_config_without_outputs_says_how_to_give_some(config, capsys):
    session = annotated(config)
    assert session.load(ANNOTATIONS).rows == 0
    annotate_with_clusters.print_annotations(session)
    assert NO_OUTPUTS in capsys.readouterr().out


def test_a_file_without_rows_is_said_to_hold_none(config, tmp_path, capsys):
    annotate_with_clusters.print_annotations(annotated(config, outputs=write_jsonl(tmp_path / "o.jsonl", [])))
    assert capsys.readouterr().out.strip() == EMPTY_OUTPUTS
