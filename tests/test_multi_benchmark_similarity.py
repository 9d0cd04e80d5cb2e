"""Benchmarks x corpus, end to end on a small corpus with planted copies: chunks, questions, leaks, clean copies."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.leaks import load_contamination
from common.stages import Session
from common.store import Artifact
from config import (
    BenchmarkConfig,
    BenchmarksConfig,
    ColumnsText,
    Config,
    EmbeddingConfig,
    FilesReader,
    PrepareConfig,
    SourceConfig,
)
from embed_chunks import CHUNKS, VECTORS
from multi_benchmark_similarity import BENCHMARKS, CONTAMINATION, HELD_OUT, present
from prepare_data import DOCUMENTS
from tests.common.test_leaks import HOSTILE

STAGES = (DOCUMENTS, CHUNKS, VECTORS, BENCHMARKS, CONTAMINATION, HELD_OUT)
RECIPES = (
    "Peel four onions and let them soften in butter for twenty minutes before the stock is poured over them.",
    "The dough rests overnight in a cool cellar, and in the morning it is shaped into nine small loaves.",
    "Roast the peppers until their skins turn black, then cover them so that the steam loosens the skins.",
    "A handful of lentils for each guest is rinsed twice and simmered with bay leaves until they give way.",
)
LOGS = (
    "At dawn the ketch left the harbour with two reefs in the main, and the barometer was falling slowly.",
    "We sounded eleven fathoms over sand, let go the anchor and rowed ashore for water before the tide turned.",
    "The lighthouse keeper reported a schooner under bare poles drifting towards the outer bank at midnight.",
    "Nobody slept, for the pumps had to be manned in watches of an hour until the carpenter found the leak.",
)
# A planted question each: word for word in the logs, with other numbers in the recipes; the rest stand nowhere.
VERBATIM = "A ferry carries 48 cars on each of its 7 crossings and leaves 13 of them on the island. How many return?"
DIGITS = "A baker shapes 9 loaves from each of 6 batches of dough and gives away 11. How many loaves can she sell?"
CLEAN = (
    "A tram stops every 400 metres on a line of 6 kilometres that is no loop. At how many stops can one board it?",
    "Two gardeners plant 35 tulips an hour between them and work for 4 hours. How many tulips do they plant?",
    "A clock loses 90 seconds a day and was right on Sunday at noon. By how much is it slow on Friday at noon?",
    "A choir of 24 sings in 3 voices, and each voice has the same number of singers. How many sing the second?",
)
CHOICE = {
    "question": "Which of these is true?",
    "choices": ["Ice sinks in oil", "Mercury is liquid", "Helium is a metal", "Salt is an acid"],
    "answer": 1,
    "subject": "chemistry",
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def source(name: str, stage: str, path: str) -> SourceConfig:
    reader, text = FilesReader(paths=(path,)), ColumnsText(columns=("text",))
    return SourceConfig(name=name, reader=reader, text=text, stage=stage, id_column="id")


def small_config(folder: Path, **benchmarks: Any) -> Config:
    """Two training stages, two benchmarks, a planted copy in each stage."""
    recipes = [{"id": f"r{n}", "text": text} for n, text in enumerate(RECIPES * 3)]
    for n, row in enumerate(recipes):
        row["text"] = f"Page {n}. {row['text']}"
    logs = [{"id": f"l{n}", "text": f"Day {n}. {text}"} for n, text in enumerate(LOGS * 5)]
    recipes.append({"id": "digits", "text": DIGITS.replace("9", "8").replace("6", "5").replace("11", "17")})
    logs += [{"id": "copy", "text": f"{HOSTILE} {VERBATIM} The mate said 245."}, {"id": "again", "text": VERBATIM}]
    asked = [{"id": "verbatim", "question": VERBATIM, "answer": "245", "planted": "verbatim"}]
    asked += [{"id": "digits", "question": DIGITS, "answer": "43", "planted": "digits"}]
    asked += [{"id": f"clean{n}", "question": text} for n, text in enumerate(CLEAN)]
    own = FilesReader(paths=(write(folder / "own.jsonl", asked),))
    broken = [CHOICE, {**CHOICE, "answer": 7}, {**CHOICE, "question": "???", "choices": ["!", "?", "-", "."]}]
    mmlu = FilesReader(paths=(write(folder / "mmlu.json", broken),), malformed="skip", format="jsonl")
    settings: dict[str, Any] = {"pool_draws": 2, "permutations": 99} | benchmarks
    return Config(
        name='small <b>"run"</b>',
        prepare=PrepareConfig(
            sources=(
                source("recipes", "pretrain", write(folder / "recipes.jsonl", recipes)),
                source("logs", "sft", write(folder / "logs.jsonl", logs)),
            )
        ),
        embedding=EmbeddingConfig(dimensions=16),
        benchmarks=BenchmarksConfig(
            benchmarks=(
                BenchmarkConfig(name="own", format="questions", readers=(own,), split="train"),
                BenchmarkConfig(name="chemistry", format="mmlu", readers=(mmlu,), split="held_out"),
            ),
            **settings,
        ),
        data_dir=str(folder / "data"),
        progress=False,
    )


def run(config: Config) -> Session:
    session = Session(config, "small.py")
    for stage in STAGES:
        session.run(stage)
    return session


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="module")
def session(folder) -> Session:
    return run(small_config(folder))


@pytest.fixture(scope="module")
def made(session) -> Artifact:
    return session.load(CONTAMINATION)


@pytest.fixture(scope="module")
def questions(made) -> list[dict[str, Any]]:
    return made.table("questions.parquet").to_pylist()


# --- questions -----------------------------------------------------------------------------------------------


def test_every_question_has_a_row_in_every_stage(questions):
    own = ["own/verbatim", "own/digits", *(f"own/clean{n}" for n in range(4))]
    ids = [*own, "chemistry/chemistry/0", "chemistry/chemistry/2"]
    assert [row["question_id"] for row in questions] == ids * 2
    assert {row["stage"] for row in questions[: len(ids)]} == {"pretrain"}


def test_planted_copies_are_flagged_where_they_are_and_nothing_else_is(questions):
    flagged = {(row["question_id"], row["stage"]): row["evidence_chunk"] for row in questions if row["contaminated"]}
    assert set(flagged) == {("own/verbatim", "sft"), ("own/digits", "pretrain")}
    assert flagged["own/digits", "pretrain"] == "recipes/digits#0"
    assert flagged["own/verbatim", "sft"] in {"logs/copy#0", "logs/again#0"}


def test_the_nearest_chunk_is_the_one_a_search_finds(session, questions):
    from search import search

    texts = [VERBATIM, DIGITS, CLEAN[0]]
    config = replace(session.config, search=replace(session.config.search, k=1, per_stage=True))
    hits = search(session.load(CHUNKS), session.load(VECTORS), texts, config, session.store.cache_dir).table.to_pylist()
    expected = {(row["query"], row["stage_group"]): (row["chunk_id"], row["distance"]) for row in hits}
    for text, name in zip(texts, ("own/verbatim", "own/digits", "own/clean0"), strict=True):
        for row in questions:
            if row["question_id"] == name:
                chunk, distance = expected[text, row["stage"]]
                assert row["distance"] == pytest.approx(distance, abs=1e-6)
                assert row["nearest_chunk"] == chunk or {row["nearest_chunk"], chunk} <= {"logs/copy#0", "logs/again#0"}


def test_pools_are_equal_and_a_pool_that_is_the_whole_stage_changes_nothing(questions):
    smaller = [row for row in questions if row["stage"] == "pretrain" and row["distance"] is not None]
    assert {row["pool_chunks"] for row in questions} == {13}
    assert {row["stage_chunks"] for row in questions} == {13, 22}
    assert all(row["pooled_distance"] == pytest.approx(row["distance"]) for row in smaller)
    larger = [row for row in questions if row["stage"] == "sft" and row["distance"] is not None]
    assert all(row["pooled_distance"] >= row["distance"] - 1e-6 for row in larger)


def test_a_row_that_cannot_be_read_is_neither_clean_nor_contaminated(made, questions):
    summary = made.json("summary.json")
    assert summary["third_state"]["unreadable"] == 1
    assert summary["third_state"]["no_words"] == 1
    wordless = [row for row in questions if row["question_id"] == "chemistry/chemistry/2"]
    assert [(row["status"], row["contaminated"], row["probability"]) for row in wordless] == [
        ("no_words", None, None)
    ] * 2
    (cell,) = [each for each in summary["cells"] if (each["benchmark"], each["stage"]) == ("chemistry", "sft")]
    assert cell["questions"] == 1


def test_the_truth_is_shown_beside_the_verdicts(made):
    truth = {each["planted"]: (each["questions"], each["found"]) for each in made.json("summary.json")["truth"]}
    assert truth == {"verbatim": (1, 1), "digits": (1, 1), "not planted": (4, 0)}


def test_shuffled_questions_stand_beside_every_verdict(made):
    cells = made.json("summary.json")["cells"]
    assert [(cell["null_questions"], cell["null"]) for cell in cells] == [(6, 0), (6, 0), (1, 0), (1, 0)]


# --- chunks --------------------------------------------------------------------------------------------------


def test_every_chunk_with_a_vector_has_its_most_similar_question(session, made):
    table = pa.concat_tables(made.tables("chunks-*.parquet"))
    vectors = session.load(VECTORS)
    assert len(table) == vectors.rows
    own = np.concatenate([vectors.array(name) for name in vectors.names("vectors-*.npy")])
    from search import embed_texts

    asked = session.load(BENCHMARKS).table("questions.parquet")
    known = [row for row in asked.to_pylist() if row["status"] == "scored"]
    product = own @ embed_texts(vectors, [row["text"] for row in known], session.config, keep_unknown=True).T
    assert table["max_similarity"].to_numpy() == pytest.approx(product.max(axis=1), abs=1e-5)
    best = product.argmax(axis=1)
    assert table["source_benchmark"].to_pylist() == [known[place]["benchmark"] for place in best]
    assert table["source_question"].to_pylist() == [known[place]["question_id"] for place in best]
    for row in table.select(["all_similarities", "max_similarity", "source_benchmark"]).to_pylist():
        assert max(row["all_similarities"].values()) == row["max_similarity"]
        assert row["all_similarities"][row["source_benchmark"]] == row["max_similarity"]


def test_the_copies_are_the_most_similar_chunks(session, made):
    from common.stored_chunks import ids_or_null

    table = pa.concat_tables(made.tables("chunks-*.parquet")).sort_by([("max_similarity", "descending")])
    first = ids_or_null(session.load(CHUNKS), table["chunk_row"].to_numpy()[:2]).to_pylist()
    assert set(first) == {"logs/again#0", "recipes/digits#0"}


@pytest.mark.parametrize("strategy", ["rank_max"])
def test_chunks_can_be_ordered_by_rank(session, strategy):
    config = replace(session.config, benchmarks=replace(session.config.benchmarks, aggregation_strategy=strategy))
    made = run(config).load(CONTAMINATION)
    table = pa.concat_tables(made.tables("chunks-*.parquet"))
    ranks = table[strategy].to_numpy()
    assert table["percentile"].to_numpy() == pytest.approx((ranks - 1) / len(ranks))
    assert ranks.min() == 1


# --- leaks and pages -----------------------------------------------------------------------------------------


def test_leaks_carry_their_evidence(made):
    rows = {row["question_id"]: row for row in made.table("leaks.parquet").to_pylist()}
    copy = rows["own/verbatim"]
    assert copy["answer"] == "245"
    assert copy["longest_words"] == 22
    assert copy["containment_8"] == 1.0
    assert VERBATIM.rstrip("?") in copy["passage"]
    assert (copy["planted"], copy["doc_id"]) in {("verbatim", "logs/copy"), ("verbatim", "logs/again")}
    changed = rows["own/digits"]
    assert changed["containment_8"] < changed["masked_containment_8"] == 1.0


def test_ids_of_contaminated_questions_are_exported_once_with_their_stages(made):
    lines = [json.loads(line) for line in made.path("contaminated.jsonl").read_text().splitlines()]
    assert [(each["question_id"], each["stages"]) for each in lines] == [
        ("own/verbatim", ["sft"]),
        ("own/digits", ["pretrain"]),
    ]


def test_the_page_is_inert_and_says_everything(made):
    page = made.path("contamination.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<script" not in page
    assert "http://" not in page and "https://" not in page
    for words in ("own/verbatim", "Heat map", "mmlu.json:2", "not planted"):
        assert words in page


def test_the_picture_is_a_picture(made):
    assert made.path("heat_map.png").read_bytes().startswith(b"\x89PNG")


def test_the_view_is_that_of_the_files(made):
    found = load_contamination(made)
    assert found.benchmarks == ("own", "chemistry")
    assert found.all_leaks == len(found.leaks) == 2
    assert (found.unreadable, len(found.truth)) == (2, 3)
    assert len(load_contamination(made, 1).leaks) == 1


def test_the_page_in_a_browser(browser, made):
    for width, scheme in ((1200, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, logged, requested = context.new_page(), [], []
        page.on("console", lambda message, logged=logged: logged.append(message.text))
        page.on("request", lambda request, requested=requested: requested.append(request.url))
        page.goto(made.path("contamination.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.pwned") is None
        assert page.locator("mark.run").count() >= 2
        assert (logged, len(requested)) == ([], 1)
        context.close()


# --- clean copies --------------------------------------------------------------------------------------------


def asked_for(**values: Any) -> Namespace:
    """What the command line gives `present`."""
    return Namespace(**{"shown": 3, "export_clean": None, "json": False} | values)


def test_a_clean_copy_holds_no_copy_of_a_flagged_question(session, folder, capsys):
    result: Any = present(session, asked_for(export_clean=str(folder / "clean")))
    documents = [json.loads(line) for line in (folder / "clean/corpus/documents.jsonl").read_text().splitlines()]
    removed = [json.loads(line) for line in (folder / "clean/corpus/removed.jsonl").read_text().splitlines()]
    # Both copies of the verbatim one, though a question has but one document behind its score.
    assert {each["id"] for each in removed} == {"logs/copy", "logs/again", "recipes/digits"}
    assert len(documents) == session.load(DOCUMENTS).rows - 3
    assert not any(VERBATIM in each["text"] for each in documents)
    left = [json.loads(line)["id"] for line in (folder / "clean/benchmarks/own.jsonl").read_text().splitlines()]
    assert left == [f"clean{n}" for n in range(4)]
    assert result["exported"] == {"documents": 32, "removed_documents": 3, "questions": 6, "removed_questions": 2}
    assert "3 removed" in capsys.readouterr().out


def test_the_clean_benchmark_is_clean(session, folder):
    """What was exported is read again, against the exported corpus."""
    clean = folder / "clean"
    assert clean.is_dir()
    own = FilesReader(paths=(str(clean / "benchmarks" / "own.jsonl"),))
    config = replace(
        session.config,
        prepare=PrepareConfig(sources=(source("clean", "sft", str(clean / "corpus" / "documents.jsonl")),)),
        benchmarks=BenchmarksConfig(benchmarks=(BenchmarkConfig(name="own", format="questions", readers=(own,)),)),
    )
    summary = run(config).load(CONTAMINATION).json("summary.json")
    assert (summary["questions"], summary["contaminated"]) == (4, 0)


# --- held-out validation -------------------------------------------------------------------------------------


def with_results(session: Session, path: str) -> Session:
    """The same session with graded answers."""
    settings = replace(session.config.benchmarks, results=(path,))
    return Session(replace(session.config, benchmarks=settings), "small.py")


def test_results_are_held_against_nearness_without_scoring_again(folder, session):
    names = ["verbatim", "digits", *(f"clean{n}" for n in range(4))]
    rows: list[dict[str, Any]] = [
        {"id": f"own/{name}", "model": model, "correct": n % 2 == 0} for n, name in enumerate(names) for model in "ab"
    ]
    rows += [{"id": "own/clean0", "model": "a", "correct": None}, {"id": "else/1", "model": "a", "correct": True}]
    graded = with_results(session, write(folder / "answers.jsonl", rows))
    assert graded.key(CONTAMINATION) == session.key(CONTAMINATION)
    made = graded.run(HELD_OUT)
    found = made.json("held_out.json")
    assert (found["models"], found["ungraded"], found["unknown"]) == (["a", "b"], 1, 1)
    # Six questions are too few for a correlation, and that is said.
    assert [test["train"] for test in found["tests"]] == [None] * 6
    assert "too few" in made.path("held_out.html").read_text(encoding="utf-8")


def test_other_results_are_another_artifact(folder, session):
    paths = [
        write(folder / f"{name}.jsonl", [{"id": "own/clean0", "correct": name == "one"}]) for name in ("one", "other")
    ]
    one, other = (with_results(session, path).key(HELD_OUT) for path in paths)
    assert len({one, other, session.key(HELD_OUT)}) == 3


def test_a_planted_effect_is_found_in_tables_of_two_splits():
    """Twenty questions of each split in two stages: the nearer one counts; on the train side near means right."""
    from common.benchmark_table import question_table
    from common.held_out_results import held_out_validation
    from common.question_rows import Question
    from common.rows import Row
    from common.samples import BenchmarkSample

    reader = (FilesReader(paths=("none.jsonl",)),)
    sides = [
        (BenchmarkConfig(name=name, format="questions", readers=reader, split=split), f"{name}/{n}")
        for name, split in (("near", "train"), ("far", "held_out"))
        for n in range(20)
    ]
    asked = question_table([(side, BenchmarkSample(name, Question("word " * 5))) for side, name in sides], 13)
    order = np.random.default_rng(0).permutation(40) / 100
    stages = [order + 0.5, np.where(np.arange(40) < 39, order, np.nan)]
    scores = pa.table({"pooled_distance": np.concatenate(stages), "probability": np.full(80, 0.1)})
    right = np.where(np.arange(40) < 20, order < np.median(order[:20]), np.arange(40) % 2 == 0)
    rows = [Row(str(n), {"id": name, "correct": bool(right[n])}, f"a.jsonl:{n}") for n, (_, name) in enumerate(sides)]
    settings = BenchmarksConfig(permutations=999)
    distance, probability = held_out_validation(asked, scores, rows, settings)["tests"]
    assert distance["train"]["rho"] > 0.8
    assert distance["train"]["p_holm"] < 0.01
    # Spearman's rho of a median split is known: sqrt(3)/2, less what ties in small samples take.
    assert distance["train"]["rho"] == pytest.approx(np.sqrt(3) / 2, abs=0.03)
    assert abs(distance["held_out"]["rho"]) < 0.5
    assert distance["difference"]["value"] > 0.4
    # All probabilities are alike: nothing can be said by them.
    assert (probability["train"], probability["held_out"]) == (None, None)


# --- nothing to look for, resuming, errors -------------------------------------------------------------------


def test_a_config_without_benchmarks_has_an_empty_result(session, capsys):
    config = replace(session.config, benchmarks=BenchmarksConfig())
    bare = run(config)
    assert bare.load(CONTAMINATION).rows == 0
    assert load_contamination(bare.load(CONTAMINATION)).cells == ()
    present(bare, asked_for())
    assert "names no benchmark" in capsys.readouterr().out
    # Settings of a side that is not there do not enter its key.
    other = replace(session.config, benchmarks=BenchmarksConfig(threshold=0.9))
    assert Session(other).key(CONTAMINATION) == bare.key(CONTAMINATION)


def test_keys_follow_what_is_asked_and_where_it_is_not(session, folder):
    config = session.config
    stricter = replace(config, benchmarks=replace(config.benchmarks, threshold=0.9))
    assert Session(stricter).key(BENCHMARKS) == session.key(BENCHMARKS)
    assert Session(stricter).key(CONTAMINATION) != session.key(CONTAMINATION)
    renamed = replace(config, name="another name")
    assert Session(renamed).key(CONTAMINATION) == session.key(CONTAMINATION)
    moved = folder / "moved"
    moved.mkdir()
    elsewhere = replace(small_config(moved), data_dir=config.data_dir)
    assert Session(elsewhere).key(CONTAMINATION) == session.key(CONTAMINATION)


def test_a_killed_run_goes_on_with_the_benchmark_it_was_at(session, monkeypatch):
    import common.benchmark_search

    config = replace(session.config, benchmarks=replace(session.config.benchmarks, threshold=0.4))
    whole, calls = common.benchmark_search.score_questions, []

    def until(most: int):
        def score(*arguments, **options):
            calls.append(len(arguments[0]))
            if len(calls) > most:
                raise KeyboardInterrupt
            return whole(*arguments, **options)

        monkeypatch.setattr(common.benchmark_search, "score_questions", score)

    until(5)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    calls.clear()
    until(100)
    made = run(config).load(CONTAMINATION)
    # Two calls a benchmark and stage: two of the four were whole.
    assert len(calls) == 4
    same = [
        made.table("questions.parquet").drop_columns(["contaminated"]),
        session.load(CONTAMINATION).table("questions.parquet").drop_columns(["contaminated"]),
    ]
    assert same[0].equals(same[1])
    assert not any(name.startswith("scratch") for name in made.names())


def test_fewer_questions_are_chosen_by_their_ids(folder, session):
    own, chemistry = session.config.benchmarks.benchmarks
    assert isinstance(own, BenchmarkConfig)
    chosen = []
    for benchmarks in ((replace(own, take_questions=3), chemistry), (replace(own, take_questions=3),)):
        config = replace(session.config, benchmarks=replace(session.config.benchmarks, benchmarks=benchmarks))
        found = Session(config, "small.py").run(BENCHMARKS).table("questions.parquet")
        chosen.append([name for name in found["question_id"].to_pylist() if name.startswith("own/")])
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 3


def test_what_is_printed(session, capsys):
    present(session, asked_for(shown=2))
    out = capsys.readouterr().out
    for words in (
        "Which questions are in the corpus?",
        "planted and found: verbatim 1 of 1, digits 1 of 1",
        "neither clean nor contaminated: 2 rows",
        "2 of 2 leaks",
        "own/verbatim  sft  p > 0.99",
        "contamination.html",
    ):
        assert words in out


def test_shown_cannot_be_negative(session):
    from common.errors import ConfigError

    with pytest.raises(ConfigError, match="--shown"):
        present(session, asked_for(shown=-1))
