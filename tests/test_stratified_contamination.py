"""Difficulty, scores and results from files that name questions in their own ways; planted effects from end to end."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from common.cli import run_script
from common.configs import load_config
from common.errors import ConfigError, UserError
from common.stages import Session
from common.store import Artifact
from config import ColumnsText, Config, DifficultyConfig, OutputText, StrataConfig
from stratified_contamination import STRATA

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "configs" / "data"
COUNT = 300


def recipe() -> dict[str, str]:
    """The files of configs/stratified_01_tiny.py: what was planted."""
    draw = np.random.default_rng(11)
    difficulty = np.round(draw.random(COUNT), 2)
    logit = draw.standard_normal(COUNT)
    pretrain = expit(logit)
    midtrain = expit(logit + 2.5 * (difficulty - 0.7))
    near = -(midtrain - midtrain.mean()) / midtrain.std()
    ease = 2 - 4 * difficulty
    base = draw.random(COUNT) < expit(ease)
    rl = draw.random(COUNT) < expit(ease + 1.0 + 1.2 * near)
    names = [f"q{number:03d}" for number in range(COUNT)]
    return {
        "strata_questions.csv": _csv(["question_id", "difficulty"], zip(names, difficulty.tolist(), strict=True)),
        "strata_scores.csv": _csv(
            ["question_id", "stage", "percentile"],
            [
                (name, stage, f"{values[row]:.4f}")
                for stage, values in (("pretrain", pretrain), ("midtrain", midtrain))
                for row, name in enumerate(names)
            ],
        ),
        "strata_results.csv": _csv(
            ["question_id", "model", "correct"],
            [
                (name, who, int(right[row]))
                for who, right in (("base", base), ("rl", rl))
                for row, name in enumerate(names)
            ],
        ),
    }


def _csv(header: list[str], rows: Any) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def test_the_shipped_files_are_those_of_the_recipe():
    for name, text in recipe().items():
        assert (DATA / name).read_text() == text


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as stream:
        return list(csv.DictReader(stream))


def shipped(folder: Path, *overrides: str) -> Config:
    config = load_config(str(ROOT / "configs" / "stratified_01_tiny.py"), list(overrides))
    return replace(config, data_dir=str(folder / "data"))


def run(config: Config) -> dict[str, Any]:
    return Session(config).run(STRATA).json("summary.json")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    """Of the shipped files, as they are."""
    return Session(shipped(tmp_path_factory.mktemp("strata"))).run(STRATA)


# --- planted -------------------------------------------------------------------------------------------------


def test_what_was_planted_is_found(artifact):
    found = artifact.json("summary.json")
    easy, _, hard = found["nearer"]["tiers"]
    assert (easy["tier"], hard["tier"]) == ("easy", "hard")
    assert easy["value"] > 0
    assert easy["p_holm"] < 0.01
    assert hard["value"] < easy["value"] / 2
    assert found["nearer"]["trend"]["value"] < -0.4
    assert found["nearer"]["trend"]["p"] < 0.01
    trends = {each["stage"]: each for each in found["trends"]}
    assert trends["midtrain"]["value"] < -0.3
    assert trends["midtrain"]["p_holm"] < 0.01
    assert trends["pretrain"]["p_holm"] > 0.05
    assert found["rl"]["verdict"] == "yes, more"
    assert found["rl"]["gain_interaction"]["slope"] > found["rl"]["gain_interaction"]["detectable"]
    assert found["rl"]["odds_interaction"]["interval"]["low"] > 0
    assert found["rl"]["held_fixed"] == "difficulty"
    assert {each["part"] for each in found["rl"]["halves"]} == {"nearer half", "farther half"}


def test_shuffled_scores_show_nothing(tmp_path):
    """The same files, contamination dealt out anew: nothing is left to find."""
    rows = rows_of("strata_scores.csv")
    order = np.random.default_rng(5).permutation(COUNT)
    ids = [row["question_id"] for row in rows[:COUNT]]
    again = {name: ids[place] for name, place in zip(ids, order, strict=True)}
    path = tmp_path / "shuffled.csv"
    path.write_text(_csv(list(rows[0]), [(again[row["question_id"]], row["stage"], row["percentile"]) for row in rows]))
    found = run(shipped(tmp_path, f"strata.proximity={path}"))
    assert found["rl"]["verdict"] == "not told from no difference"
    assert all(each["p_holm"] > 0.05 for each in found["trends"])
    assert found["nearer"]["trend"]["p"] > 0.05


def test_tiers_hold_every_question_once_and_means_are_plain_means(artifact):
    found = artifact.json("summary.json")
    rows = rows_of("strata_scores.csv")
    hard = {row["question_id"]: float(row["difficulty"]) for row in rows_of("strata_questions.csv")}
    assert sum(tier["questions"] for tier in found["tiers"]) == COUNT
    for stage in found["stages"]:
        for tier, cell in zip(found["tiers"], stage["tiers"], strict=True):
            mine = [
                float(row["percentile"])
                for row in rows
                if row["stage"] == stage["stage"] and tier["low"] <= hard[row["question_id"]] <= tier["high"]
            ]
            assert cell["questions"] == len(mine) == tier["questions"]
            assert cell["mean"] == pytest.approx(np.mean(mine))
            assert cell["contaminated"] == sum(value <= 0.05 for value in mine)
            assert cell["interval"]["low"] < cell["mean"] < cell["interval"]["high"]


def test_contaminated_ids_are_exported_nearest_first(artifact):
    lines = [json.loads(line) for line in artifact.path("contaminated.jsonl").read_text().splitlines()]
    rows = [row for row in rows_of("strata_scores.csv") if float(row["percentile"]) <= 0.05]
    assert {(line["question_id"], line["stage"]) for line in lines} == {
        (row["question_id"], row["stage"]) for row in rows
    }
    midtrain = [line["percentile"] for line in lines if line["stage"] == "midtrain"]
    assert midtrain == sorted(midtrain)
    assert {line["tier"] for line in lines} <= {"easy", "middle", "hard"}
    table = artifact.table("strata.parquet").to_pylist()
    assert len(table) == COUNT
    assert sum(row["contaminated_midtrain"] for row in table) == len(midtrain)
    assert all(row["gain"] == row["rl"] - row["base"] for row in table)


# --- files that name questions otherwise ---------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small(folder: Path, **strata: Any) -> Config:
    settings: dict[str, Any] = {"permutations": 199, "bootstraps": 99, **strata}
    return Config(name="t", strata=StrataConfig(**settings), data_dir=str(folder / "data"))


def asked(number: int) -> str:
    return f"How many are {number} and {number}, said {number} times?"


@pytest.fixture
def hard(tmp_path) -> Path:
    rows = [{"question_id": f"a/{n}", "question": asked(n), "difficulty": (n % 5) / 5} for n in range(40)]
    return write(tmp_path / "hard.jsonl", rows)


def test_questions_are_matched_by_their_own_words_where_ids_differ(tmp_path, hard):
    rows = [
        {"sample_id": f"b:{n}", "question": asked(n).upper(), "corpus_stage": "sft", "probability": n / 40}
        for n in reversed(range(40))
    ]
    artifact = Session(
        small(tmp_path, difficulty=str(hard), proximity=str(write(tmp_path / "scores.jsonl", rows)))
    ).run(STRATA)
    table = artifact.table("strata.parquet").to_pylist()
    assert [row["score_sft"] for row in table] == [n / 40 for n in range(40)]


def test_a_file_of_questions_links_ids(tmp_path, hard):
    rows = [{"sample_id": f"b:{n}", "corpus_stage": "sft", "probability": n / 40} for n in range(40)]
    links = [{"question_id": f"b:{n}", "text": asked(n)} for n in range(30)]
    config = small(
        tmp_path,
        difficulty=str(hard),
        proximity=str(write(tmp_path / "scores.jsonl", rows)),
        questions=str(write(tmp_path / "links.jsonl", links)),
    )
    artifact = Session(config).run(STRATA)
    table = artifact.table("strata.parquet").to_pylist()
    assert [row["score_sft"] for row in table] == [n / 40 if n < 30 else None for n in range(40)]
    notes = " ".join(artifact.json("summary.json")["notes"])
    assert "10 rows of scores name no question" in notes
    assert "sft: 10 questions have no score; they are neither clean nor contaminated" in notes


def test_files_that_share_no_question_are_an_error_with_examples(tmp_path, hard):
    rows = [{"sample_id": f"b:{n}", "probability": n / 40} for n in range(40)]
    with pytest.raises(UserError, match=r"ids such as a/0, a/1, the other b:0, b:1.*strata.questions"):
        run(small(tmp_path, difficulty=str(hard), proximity=str(write(tmp_path / "scores.jsonl", rows))))


def test_rows_of_other_variants_shuffled_texts_and_further_neighbours_are_passed_over(tmp_path, hard):
    """As scores.parquet and similarity.csv of gsm8k_corpus_similarity.py have them."""
    keep = {"variant": "question", "shuffle": None, "rank": 1, "percentile": 0.5}
    rows = [{"question_id": f"a/{n}", "corpus_stage": "sft", **keep} for n in range(40)]
    rows += [{**row, "percentile": 0.0, **change} for row in rows for change in (
        {"variant": "answer"}, {"shuffle": "words"}, {"rank": 2})]  # fmt: skip
    found = run(small(tmp_path, difficulty=str(hard), proximity=str(write(tmp_path / "scores.jsonl", rows))))
    assert found["stages"][0]["all"]["mean"] == 0.5


def test_an_artifacts_folder_is_read_by_its_stage(tmp_path, hard):
    folder = tmp_path / "artifact"
    folder.mkdir()
    table = pa.table(
        {
            "benchmark": ["a"] * 40,
            "question_id": [f"a/{n}" for n in range(40)],
            "stage": ["pretrain"] * 40,
            "distance": [0.5] * 40,
            "probability": [None if n == 3 else n / 40 for n in range(40)],
        }
    )
    pq.write_table(table, folder / "questions.parquet")
    (folder / "manifest.json").write_text('{"stage": "contamination"}')
    found = run(small(tmp_path, difficulty=str(hard), proximity=str(folder)))
    assert found["score"] == {"column": "probability", "near": "high", "threshold": 0.5}
    assert found["stages"][0]["all"]["questions"] == 39
    assert found["stages"][0]["all"]["contaminated"] == 20
    (folder / "manifest.json").write_text('{"stage": "chunks"}')
    with pytest.raises(UserError, match="'chunks', which scores no questions"):
        run(small(tmp_path, difficulty=str(hard), proximity=str(folder)))


def test_this_configs_own_difficulty_is_read_where_it_has_answers(tmp_path):
    from benchmark_difficulty import ANSWERS, DIFFICULTY

    answers = [
        {"question_id": f"a/{n}", "model": model, "output": str(n), "reference": str(n if n % k else n + 1)}
        for n in range(40)
        for k, model in ((2, "x"), (3, "y"))
    ]
    # One reference for both models.
    for row in answers:
        row["reference"] = str(int(row["question_id"][2:]) + (1 if int(row["question_id"][2:]) % 2 == 0 else 0))
    scores = [{"question_id": f"a/{n}", "percentile": n / 40} for n in range(40)]
    config = small(tmp_path, proximity=str(write(tmp_path / "scores.jsonl", scores)))
    config = replace(
        config, difficulty=DifficultyConfig(answers=str(write(tmp_path / "answers.jsonl", answers)), bootstraps=99)
    )
    session = Session(config)
    session.run(ANSWERS)
    session.run(DIFFICULTY)
    table = session.run(STRATA).table("strata.parquet").to_pylist()
    assert [row["difficulty"] for row in table] == [float(n % 2 == 0) for n in range(40)]
    assert {row["tier"] for row in table} == {"easy", "hard"}


def test_this_configs_own_similarity_is_read_and_its_ids_are_linked_by_the_questions_words(tmp_path):
    """Its ids are those of the questions' file, those of difficulty of the file of solutions."""
    from benchmark_difficulty import ANSWERS, DIFFICULTY
    from embed_chunks import CHUNKS, VECTORS
    from gsm8k_corpus_similarity import SIMILARITY
    from prepare_data import DOCUMENTS
    from tests.test_gsm8k_corpus_similarity import QUESTIONS, graded_rows, make_config, question

    texts = tuple(OutputText(text=ColumnsText((f"{name}.solution",)), model=name) for name in ("good", "bad"))
    answers = str(write(tmp_path / "solutions.jsonl", graded_rows()))
    config = replace(
        make_config(tmp_path, answers="none", variants=("question",)),
        difficulty=DifficultyConfig(answers=answers, texts=texts, bootstraps=99),
        strata=StrataConfig(proximity="similarity", permutations=199, bootstraps=99),
    )
    session = Session(config)
    for stage in (DOCUMENTS, CHUNKS, VECTORS, SIMILARITY, ANSWERS, DIFFICULTY):
        session.run(stage)
    table = session.run(STRATA).table("strata.parquet").to_pylist()
    assert [row["question"] for row in table] == [question(number) for number in range(QUESTIONS)]
    assert [row["question_id"] for row in table][:2] == ["solutions.jsonl:1", "solutions.jsonl:2"]
    scores = session.load(SIMILARITY).table("scores.parquet").to_pylist()
    questions = [each for each in scores if each["variant"] == "question" and not each["shuffle"]]
    for stage in ("pretrain", "midtrain", "sft"):
        of_file = {each["sample_id"]: each["percentile"] for each in questions if each["corpus_stage"] == stage}
        want = [of_file[f"gsm8k_test/test.jsonl:{number + 1}"] for number in range(QUESTIONS)]
        assert [row[f"score_{stage}"] for row in table] == want
    other = replace(config, similarity=replace(config.similarity, metric="euclidean"))
    assert Session(other).key(STRATA) != session.key(STRATA)


def test_this_configs_own_contamination_is_read(tmp_path):
    """The planted copies are flagged in their stages; a benchmark without difficulty is left out, and counted."""
    from tests.test_multi_benchmark_similarity import CLEAN, DIGITS, VERBATIM, small_config
    from tests.test_multi_benchmark_similarity import run as measured

    asked = [VERBATIM, DIGITS, *CLEAN]
    rows = [{"id": f"mine-{n}", "question": text, "difficulty": n / 10} for n, text in enumerate(asked)]
    strata = StrataConfig(
        proximity="contamination", difficulty=str(write(tmp_path / "hard.jsonl", rows)), permutations=199, bootstraps=99
    )
    session = measured(replace(small_config(tmp_path), strata=strata))
    artifact = session.run(STRATA)
    table = artifact.table("strata.parquet").to_pylist()
    assert [row["contaminated_sft"] for row in table] == [True] + [False] * 5
    assert table[1]["score_pretrain"] > max(row["score_pretrain"] for row in table[2:])
    assert any("name no question that has a difficulty" in note for note in artifact.json("summary.json")["notes"])


def test_without_difficulty_gains_are_tested_and_the_ceiling_is_named(tmp_path):
    scores = [{"question_id": f"a/{n}", "percentile": n / 40} for n in range(40)]
    results = [
        {"question_id": f"a/{n}", "model": who, "correct": right}
        for n in range(40)
        for who, right in (("base", n % 3 == 0), ("rl", n % 2 == 0))
    ]
    path = str(write(tmp_path / "results.jsonl", results))
    config = small(
        tmp_path,
        proximity=str(write(tmp_path / "s.jsonl", scores)),
        base=path,
        rl=path,
        base_model="base",
        rl_model="rl",
    )
    found = run(config)
    assert (found["tiers"], found["trends"], found["nearer"]) == ([], [], None)
    assert found["rl"]["held_fixed"] is None
    assert found["rl"]["gain_interaction"]["strata"] == 1


def test_rollouts_are_graded_as_results(tmp_path, hard):
    """Answers without a verdict are graded by strata.rule; a failed call is left out, not wrong."""

    def rollouts(name: str, right: int) -> str:
        rows = [
            {
                "request_id": f"a/{n}", "model": name, "error": {"kind": "timeout", "message": "x"} if n == 7 else None,
                "completion": None if n == 7 else f"#### {n if n % right == 0 else -1}",
                "metadata": {"sample_id": f"a/{n}", "reference": f"#### {n}"},
            }
            for n in range(40)
        ]  # fmt: skip
        return str(write(tmp_path / f"{name}.jsonl", rows))

    scores = [{"question_id": f"a/{n}", "percentile": n / 40} for n in range(40)]
    config = small(
        tmp_path,
        difficulty=str(hard),
        proximity=str(write(tmp_path / "s.jsonl", scores)),
        base=rollouts("base", 4),
        rl=rollouts("rl", 2),
    )
    table = Session(config).run(STRATA).table("strata.parquet").to_pylist()
    assert [row["base"] for row in table] == [None if n == 7 else float(n % 4 == 0) for n in range(40)]
    assert [row["rl"] for row in table] == [None if n == 7 else float(n % 2 == 0) for n in range(40)]


def test_raw_distances_are_called_raw(tmp_path, hard):
    rows = [
        {"question_id": f"a/{n}", "stage": stage, "distance": n / 40 + shift}
        for n in range(40)
        for stage, shift in (("pretrain", 0.0), ("midtrain", 0.1))
    ]
    found = run(small(tmp_path, difficulty=str(hard), proximity=str(write(tmp_path / "s.jsonl", rows))))
    assert found["nearer"]["comparable"] is False
    assert any("'distance' is raw" in note for note in found["notes"])
    assert found["score"]["threshold"] is None


BAD = {
    "no score": ([{"question_id": "a/1", "nearness": 1}], {}, "no column 'probability or"),
    "no id": ([{"name": "a/1", "score": 1}], {}, "strata.id_column"),
    "which end": ([{"question_id": "a/1", "nearness": 1}], {"score_column": "nearness"}, "strata.near_is"),
    "no number": ([{"question_id": "a/1", "score": "much"}], {}, "holds 'much', not a number"),
    "no variant": ([{"question_id": "a/1", "score": 1, "variant": "answer"}], {}, "holds no row of a question"),
    "only base": ([{"question_id": "a/1", "score": 1}], {"base": "results.jsonl"}, "go together"),
    "no such stage": ([{"question_id": "a/1", "score": 1}], {"rl_stage": "sft"}, "no stage 'sft'; there are corpus"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, hard, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, settings, words = BAD[name]
    write(tmp_path / "results.jsonl", [{"question_id": "a/1", "correct": True}])
    with pytest.raises(UserError, match=words):
        run(small(tmp_path, difficulty=str(hard), proximity=str(write(tmp_path / "s.jsonl", rows)), **settings))


def test_results_that_are_no_shares_or_of_several_models(tmp_path, hard):
    scores = str(write(tmp_path / "s.jsonl", [{"question_id": f"a/{n}", "score": n} for n in range(40)]))
    several = str(write(tmp_path / "m.jsonl", [{"question_id": "a/1", "model": m, "correct": True} for m in "xy"]))
    percent = str(write(tmp_path / "p.jsonl", [{"question_id": "a/1", "score": 73}]))
    with pytest.raises(UserError, match=r"answers of several models \(x, y\)"):
        run(small(tmp_path, difficulty=str(hard), proximity=scores, base=several, rl=several))
    with pytest.raises(UserError, match="score 73 is not a share"):
        run(small(tmp_path, difficulty=str(hard), proximity=scores, base=percent, rl=percent))


def test_a_config_without_scores_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"strata\.proximity"):
        run(small(tmp_path))


# --- the command ---------------------------------------------------------------------------------------------


def test_printed_page_and_figure(tmp_path, capsys):
    import stratified_contamination as script

    code = run_script(
        script.__doc__ or "",
        (STRATA,),
        [str(ROOT / "configs/stratified_01_tiny.py"), f"data_dir={tmp_path / 'data'}", "--export", str(tmp_path / "x")],
        script=script.SCRIPT,
        arguments=script.arguments,
        present=script.present,
    )
    out = capsys.readouterr().out
    assert code == 0
    assert "Closer to midtrain than to pretrain?" in out
    assert "where contaminated, does RL gain more? yes, more" in out
    assert "80% power from" in out
    assert (tmp_path / "x").read_text().startswith('{"question_id"')
    folder = next(path for path in (tmp_path / "data" / "strata").iterdir() if path.is_dir())
    assert "Contamination by difficulty" in (folder / "strata.html").read_text()
    assert (folder / "tiers.png").read_bytes().startswith(b"\x89PNG")


if __name__ == "__main__" and "--write" in sys.argv:
    for file, content in recipe().items():
        (DATA / file).write_text(content)
