"""Difficulty from end to end: several models on a real server, faults, limits, interrupts, and answers in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import spearmanr

from benchmark_difficulty import ANSWERS, DIFFICULTY, answers_reader, asked_models
from common.cli import run_script
from common.errors import ConfigError, UserError
from common.rollouts import write_jsonl
from common.stages import Session
from config import (
    ColumnsText,
    Config,
    DifficultyConfig,
    FilesReader,
    GenerationConfig,
    OutputText,
    RolloutsConfig,
    SamplingConfig,
    SourceConfig,
)
from rollout import ROLLOUTS, load_rollouts
from tests.models import build_language_model, one_thread
from tests.openai_server import Cut, Hang, Raw, Server, Status, prompt_of, saying, serving

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = 40
ABILITIES = {"small": -1.0, "middle": 0.5, "large": 2.0}


def hardness(number: int) -> float:
    return -2 + 4 * number / (QUESTIONS - 1)


def is_right(model: str, number: int) -> bool:
    """Drawn once, from an item response model: harder questions are answered by abler models."""
    draw = np.random.default_rng([number, len(model)]).random()
    return bool(draw < expit(3 * (ABILITIES[model] - hardness(number))))


def number_of(body: dict[str, Any]) -> int:
    return int(prompt_of(body).split()[0])


def responder(body: dict[str, Any]) -> str:
    number = number_of(body)
    return f"It is\n#### {2 * number if is_right(body['model'], number) else 2 * number + 1}"


@pytest.fixture
def server():
    with serving(saying(responder)) as running:
        yield running


def questions(path: Path, count: int = QUESTIONS) -> SourceConfig:
    """GSM8K's columns, with MATH's level."""
    rows = [
        {"question": f"{n} + {n}?", "answer": f"It is\n#### {2 * n}", "level": 1 + 5 * n // count} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(
        name="sums",
        reader=FilesReader(paths=(str(path),)),
        text=ColumnsText(("question",)),
        label_columns=("level",),
    )


def make_config(folder: Path, server: Server, models: tuple[Any, ...] = tuple(ABILITIES), **settings: Any) -> Config:
    generation = GenerationConfig(
        model="unused",
        base_url=server.base_url,
        api_key_variable="",
        max_wait=0.05,
        max_attempts=3,
        timeout=5.0,
        max_concurrency=4,
        sampling=SamplingConfig(max_tokens=10),
    )
    rollouts = RolloutsConfig(
        source=questions(folder / "sums.jsonl"), sample="text", reference_column="answer", template="{prompt} #### n"
    )
    difficulty = DifficultyConfig(benchmark="sums", models=models, bootstraps=199, **settings)
    return Config(
        name="test", generation=generation, rollouts=rollouts, difficulty=difficulty, data_dir=str(folder / "data")
    )


def run(config: Config) -> dict[str, Any]:
    session = Session(config)
    session.run(ANSWERS)
    return session.run(DIFFICULTY).json("difficulty.json")


def truth(models: tuple[str, ...] = tuple(ABILITIES)) -> list[float]:
    return [1 - float(np.mean([is_right(model, number) for model in models])) for number in range(QUESTIONS)]


# --- asked ---------------------------------------------------------------------------------------------------


def test_every_model_is_asked_everything_once_and_graded(tmp_path, server):
    found = run(make_config(tmp_path, server))
    assert Counter(body["model"] for body in server.bodies) == dict.fromkeys(ABILITIES, QUESTIONS)
    assert [each["difficulty"] for each in found["difficulty"].values()] == pytest.approx(truth())
    assert next(iter(found["difficulty"])) == "sums/sums.jsonl:1"
    right = {each["model"]: each["right"] for each in found["models"]}
    assert right == {model: sum(is_right(model, n) for n in range(QUESTIONS)) for model in ABILITIES}
    assert [each["model"] for each in found["models"]] == list(ABILITIES)
    ability = [each["ability"] for each in found["models"]]
    assert ability == sorted(ability)
    host = server.base_url.split("/")[2]
    assert {(each["endpoint"], *each["answered_by"]) for each in found["models"]} == {
        (host, f"{model} fp_test") for model in ABILITIES
    }


def test_the_estimate_follows_the_planted_difficulty_and_the_benchmarks_level(tmp_path, server):
    found = run(make_config(tmp_path, server))
    planted = [hardness(number) for number in range(QUESTIONS)]
    assert spearmanr([each["irt"] for each in found["difficulty"].values()], planted).statistic > 0.75
    assert found["levels"]["rho"] > 0.6
    assert found["levels"]["p"] < 0.01
    assert [each["level"] for each in found["levels"]["by_level"]] == [1, 2, 3, 4, 5]


def test_faults_on_the_way_change_nothing(tmp_path, server):
    """429 with a wait, 500, a cut reply, no JSON, a closed connection: each is asked again, none becomes an answer."""
    server.faults += [
        Status(429, headers={"Retry-After": "0.05"}),
        Status(500),
        Cut(0.5),
        Raw(b"<html>a proxy</html>", "text/html"),
        Cut(0.0),
        None,
        Raw(json.dumps({"error": {"message": "overloaded", "code": 503}}).encode()),
    ]
    found = run(make_config(tmp_path, server))
    assert [each["difficulty"] for each in found["difficulty"].values()] == pytest.approx(truth())
    assert len(server.bodies) == 3 * QUESTIONS + 6


def test_a_server_that_hangs_is_a_missing_answer_not_a_wrong_one(tmp_path, server):
    server.rule = lambda body: Hang(20) if (body["model"], number_of(body)) == ("large", 3) else None
    config = make_config(tmp_path, server, max_missing=0.1)
    config = replace(config, generation=replace(config.generation, timeout=4.0, max_attempts=1))
    found = run(config)
    rows = {each["model"]: each for each in found["models"]}
    assert (rows["large"]["graded"], rows["large"]["missing"]) == (QUESTIONS - 1, 1)
    assert rows["large"]["reasons"] == {"timeout: no answer within 4 s": 1}
    entry = found["difficulty"]["sums/sums.jsonl:4"]
    assert entry["models"] == 2
    assert entry["difficulty"] == 1 - np.mean([is_right(model, 3) for model in ("small", "middle")])


def test_a_model_that_fails_stops_the_run_and_costs_the_others_nothing_again(tmp_path, server):
    server.rule = lambda body: Status(404, "no such model") if body["model"] == "middle" else None
    config = make_config(tmp_path, server)
    with pytest.raises(UserError, match=r"80 of 120 answers are there and kept; middle: .*no such model"):
        run(config)
    server.rule = lambda body: None
    server.bodies.clear()
    found = run(config)
    assert Counter(body["model"] for body in server.bodies) == {"middle": QUESTIONS}
    assert [each["difficulty"] for each in found["difficulty"].values()] == pytest.approx(truth())


def test_refusals_are_missing_up_to_the_share_that_is_allowed(tmp_path, server):
    server.rule = lambda body: Status(400, "too long") if number_of(body) % 20 == 7 else None
    with pytest.raises(UserError, match="114 of 120 answers"):
        run(make_config(tmp_path, server, max_missing=0.04))
    found = run(make_config(tmp_path, server, max_missing=0.05))
    assert [each["missing"] for each in found["models"]] == [2, 2, 2]
    assert found["difficulty"]["sums/sums.jsonl:8"] == found["difficulty"]["sums/sums.jsonl:8"] | {
        "difficulty": None, "models": 0, "low": 0.0, "high": 1.0,
    }  # fmt: skip


def test_one_limit_on_the_cost_of_all_models_together(tmp_path, server):
    """An answer has three words, at 1 each, and may have ten; the models' prices differ."""
    config = make_config(tmp_path, server)
    base = replace(config.generation, price_input=0.0, price_output=1e6, max_cost=100.0)
    dear = replace(base, model="large", price_output=2e6)
    config = replace(config, generation=base, difficulty=replace(config.difficulty, models=("small", "middle", dear)))
    with pytest.raises(UserError, match=r"max_cost=100 leaves no room"):
        run(config)
    spent = sum({"large": 6.0}.get(body["model"], 3.0) for body in server.bodies)
    assert 60 < spent <= 100
    before = len(server.bodies)
    plenty = replace(config, generation=replace(base, max_cost=10_000.0))
    plenty = replace(
        plenty, difficulty=replace(config.difficulty, models=("small", "middle", replace(dear, max_cost=None)))
    )
    found = run(plenty)
    assert len(server.bodies) == 3 * QUESTIONS
    assert before < 3 * QUESTIONS
    assert [each["cost"] for each in found["models"]] == [3.0 * QUESTIONS, 3.0 * QUESTIONS, 6.0 * QUESTIONS]


def test_a_limit_of_one_model_is_refused(tmp_path, server):
    own = GenerationConfig(model="a", max_cost=1.0)
    with pytest.raises(ConfigError, match=r"'a' has its own max_cost"):
        asked_models(make_config(tmp_path, server, models=(own,)))


def test_a_missing_key_of_one_is_noticed_before_the_others_are_asked(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ELSEWHERE_KEY", raising=False)
    keyless = GenerationConfig(model="a", base_url="https://elsewhere.example/v1", api_key_variable="ELSEWHERE_KEY")
    with pytest.raises(ConfigError, match="ELSEWHERE_KEY is not set"):
        run(make_config(tmp_path, server, models=("small", keyless)))
    assert server.bodies == []


def test_answers_that_are_all_there_need_no_key(tmp_path, server, monkeypatch):
    """Another machine, or a year later: the request cache came along, the key did not; not even the server is there."""
    config = make_config(tmp_path, server)
    want = run(config)
    monkeypatch.setattr("common.openai_engine.LOOPBACK", frozenset())
    keyed = replace(config.generation, api_key_variable="NO_SUCH_KEY")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    again = replace(config, generation=keyed, difficulty=replace(config.difficulty, irt="2pl", max_missing=0.5))
    assert run(again)["models"][0]["right"] == want["models"][0]["right"]
    assert len(server.bodies) == 3 * QUESTIONS


def test_the_same_model_twice_has_two_names(tmp_path, server):
    config = make_config(tmp_path, server)
    warm = replace(config.generation, model="small", sampling=SamplingConfig(temperature=1.0))
    config = replace(config, difficulty=replace(config.difficulty, models=("small", warm)))
    assert [model.name for model in asked_models(config)] == ["small", "small (2)"]


def test_prices_and_threads_are_in_no_key_and_models_are(tmp_path, server):
    config = make_config(tmp_path, server)
    cheaper = replace(config, generation=replace(config.generation, price_input=1.0, price_output=1.0, max_cost=9.0))
    assert Session(cheaper).key(ANSWERS) == Session(config).key(ANSWERS)
    fewer = replace(config, difficulty=replace(config.difficulty, models=("small",)))
    other = replace(config, difficulty=replace(config.difficulty, irt="2pl"))
    assert Session(fewer).key(ANSWERS) != Session(config).key(ANSWERS)
    assert Session(other).key(ANSWERS) == Session(config).key(ANSWERS)
    assert Session(other).key(DIFFICULTY) != Session(config).key(DIFFICULTY)


def test_a_local_model_is_asked_beside_the_endpoint(tmp_path, server):
    """One of its own, by its content: where its folder lies is in no key and no result."""
    folder = one_thread(build_language_model(tmp_path / "models" / "tiny"))
    config = make_config(tmp_path, server)
    local = GenerationConfig(engine="transformers", model=str(folder), sampling=SamplingConfig(max_tokens=4))
    config = replace(config, difficulty=replace(config.difficulty, models=("large", local)))
    found = run(config)
    assert [(each["model"], each["endpoint"] is None) for each in found["models"]] == [("large", False), ("tiny", True)]
    assert found["models"][1]["graded"] + found["models"][1]["missing"] == QUESTIONS
    assert found["models"][1]["right"] == 0
    assert found["reliability"] is None
    key, moved = Session(config).key(ANSWERS), folder.rename(tmp_path / "elsewhere")
    again = replace(config.difficulty, models=("large", replace(local, model=str(moved))))
    assert Session(replace(config, difficulty=again)).key(ANSWERS) == key


# --- death ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blow", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_was_ended_goes_on_and_asks_nothing_twice(tmp_path, server, blow):
    """Only what was on its way may be asked again: four calls of each model."""
    server.rule = lambda body: Hang(600) if len(server.bodies) > 36 else None
    questions(tmp_path / "sums.jsonl")
    text = f"""
from config import *
source = SourceConfig(name="sums", reader=FilesReader(paths=({str(tmp_path / "sums.jsonl")!r},)),
    text=ColumnsText(("question",)), label_columns=("level",))
config = Config(name="test", data_dir={str(tmp_path / "data")!r},
    rollouts=RolloutsConfig(source=source, sample="text", reference_column="answer"),
    generation=GenerationConfig(base_url={server.base_url!r}, api_key_variable="", max_concurrency=4,
        sampling=SamplingConfig(max_tokens=10)),
    difficulty=DifficultyConfig(benchmark="sums", models={tuple(ABILITIES)!r}, bootstraps=99))
"""
    path = tmp_path / "own_config.py"
    path.write_text(text)
    line = [sys.executable, str(ROOT / "benchmark_difficulty.py"), str(path), "--json"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    limit = time.monotonic() + 90
    while len(server.bodies) <= 36:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(blow)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    server.rule = lambda body: None
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(done.stdout)["result"]
    assert [each["difficulty"] for each in found["difficulty"].values()] == pytest.approx(truth())
    asked = Counter((body["model"], prompt_of(body)) for body in server.bodies)
    assert len(asked) == 3 * QUESTIONS
    assert sum(asked.values()) <= 3 * QUESTIONS + 3 * 4
    assert max(asked.values()) <= 2


# --- answers that are there ----------------------------------------------------------------------------------


def from_file(folder: Path, path: Path | str, **settings: Any) -> Config:
    difficulty = DifficultyConfig(benchmark="sums", answers=str(path), bootstraps=199, **settings)
    return Config(name="test", difficulty=difficulty, data_dir=str(folder / "data"))


def test_rollouts_that_were_made_before_are_graded_without_asking(tmp_path, server):
    """An artifact of rollout.py (its failed calls included) and its JSON Lines give what asking would have."""
    server.rule = lambda body: Status(400, "no") if number_of(body) == 5 else None
    config = make_config(tmp_path, server)
    config = replace(
        config,
        generation=replace(config.generation, model="middle"),
        rollouts=replace(config.rollouts, max_failures=0.1),
    )
    artifact = Session(config).run(ROLLOUTS)
    found = run(from_file(tmp_path, artifact.folder))
    row = found["models"][0]
    assert (row["model"], row["graded"], row["missing"]) == ("middle", QUESTIONS - 1, 1)
    assert row["reasons"] == {"http: status 400: no": 1}
    assert row["right"] == sum(is_right("middle", n) for n in range(QUESTIONS) if n != 5)
    lines = tmp_path / "rollouts.jsonl"
    write_jsonl(lines, [*load_rollouts(artifact), *load_rollouts(artifact, failed=True)])
    again = run(from_file(tmp_path, lines))
    assert again["models"] == [row | {"endpoint": None}]
    assert {name: each["difficulty"] for name, each in again["difficulty"].items()} == {
        name: each["difficulty"] for name, each in found["difficulty"].items()
    }
    reader = answers_reader(from_file(tmp_path, artifact.folder).difficulty)
    assert isinstance(reader, FilesReader)
    kinds = [Path(path).name for path in reader.paths]
    assert kinds == ["rollouts-*.parquet", "failed-*.parquet"]


def solutions(path: Path) -> Path:
    """Rows of two graded solutions; one verdict differs from the rule's."""
    rows = [
        {
            "question": f"{n} + {n}?",
            "ground_truth": f"#### {2 * n}",
            **{
                model: {
                    "solution": f"A: {2 * n + (not is_right(model, n))}",
                    "is_correct": is_right(model, n) ^ (n == 4),
                }
                for model in ("small", "large")
            },
        }
        for n in range(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TEXTS = tuple(
    OutputText(text=ColumnsText((f"{model}.solution",)), model=model, correct=f"{model}.is_correct")
    for model in ("small", "large")
)


def test_graded_solutions_are_graded_again_and_differences_listed(tmp_path):
    found = run(from_file(tmp_path, solutions(tmp_path / "solutions.jsonl"), texts=TEXTS))
    agreed = found["agreement"]
    assert (agreed["compared"], agreed["agree"]) == (2 * QUESTIONS, 2 * QUESTIONS - 2)
    assert {(each["question"], each["model"]) for each in agreed["disagreements"]} == {
        ("solutions.jsonl:5", "small"), ("solutions.jsonl:5", "large"),
    }  # fmt: skip
    assert all(each["correct"] != each["given"] for each in agreed["disagreements"])
    assert [each["difficulty"] for each in found["difficulty"].values()] == pytest.approx(truth(("small", "large")))


def test_the_page_and_the_figure(tmp_path):
    path = solutions(tmp_path / "solutions.jsonl")
    rows = path.read_text().replace('"solution": "A: 9"', '"solution": "<script>alert(1)</script> A: 9"')
    path.write_text(rows)
    session = Session(from_file(tmp_path, path, texts=TEXTS))
    session.run(ANSWERS)
    artifact = session.run(DIFFICULTY)
    html = artifact.path("difficulty.html").read_text()
    assert "<script>" not in html
    assert "Questions by difficulty" in html
    assert "agree" in html
    assert artifact.path("histogram.png").read_bytes().startswith(b"\x89PNG")
    table = artifact.table("difficulty.parquet")
    assert table.column_names[:4] == ["question_id", "question", "models", "difficulty"]
    assert table["question"].to_pylist()[3] == "3 + 3?"
    assert artifact.table("grades.parquet").num_rows == 2 * QUESTIONS


def test_verdicts_alone_are_enough(tmp_path):
    path = tmp_path / "results.csv"
    lines = [f"q{n},m{k},text,{int((n * k) % 3 == 0)}" for n in range(10) for k in (1, 2)]
    path.write_text("question_id,model,output,correct\n" + "\n".join(lines) + "\n")
    found = run(from_file(tmp_path, path))
    assert found["agreement"] is None
    assert found["difficulty"]["q3"]["difficulty"] == 0.0
    assert found["difficulty"]["q1"]["difficulty"] == 1.0


BAD = {
    "no question": ('{"output": "3", "correct": true}', "nothing says which question"),
    "no truth": ('{"question_id": "a", "output": "3"}', "difficulty.reference_column"),
    "no text": ('{"question_id": "a", "said": "3", "reference": "3"}', "difficulty.texts"),
    "twice": ('{"question_id": "a", "output": "3", "reference": "3"}\n' * 2, "two answers of 'model' to question 'a'"),
    "another reference": (
        '{"question_id": "a", "model": "x", "output": "3", "reference": "3"}\n'
        '{"question_id": "a", "model": "y", "output": "3", "reference": "4"}',
        "one reference for 'x' and another for 'y'",
    ),
    "wrong rule": ('{"question_id": "a", "output": "B", "reference": "B"}', "is difficulty.rule 'gsm8k'"),
    "a number": ('{"question_id": "a", "output": "3", "reference": "3", "draw": "first"}', "column 'draw'"),
    "nothing": ('{"question_id": "a", "output": " ", "reference": "3"}', "no answer that can be graded"),
}


@pytest.mark.parametrize("irt", ["1pl", "2pl"])
def test_both_item_response_models_stay_sane_where_all_or_none_are_right(tmp_path, irt):
    rows = [
        {"question_id": f"q{n}", "model": model, "output": "x", "correct": n < 5 or (n >= 10 and (n + k) % 2 == 0)}
        for n in range(15)
        for k, model in enumerate(("a", "b"))
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run(from_file(tmp_path, path, irt=irt))["difficulty"]
    assert all(abs(each["irt"]) < 6 and 0 < each["irt_sd"] < 4 for each in found.values())
    assert max(found[f"q{n}"]["irt"] for n in range(5)) < min(found[f"q{n}"]["irt"] for n in range(5, 10))


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, name):
    content, words = BAD[name]
    path = tmp_path / "answers.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(UserError, match=words):
        run(from_file(tmp_path, path))


def test_a_config_without_answers_says_so(tmp_path):
    with pytest.raises(UserError, match=r"difficulty\.models"):
        run(Config(name="test", data_dir=str(tmp_path)))


# --- the command ---------------------------------------------------------------------------------------------


def call(path: Path, capsys, *arguments: str) -> tuple[int, str]:
    import benchmark_difficulty as script

    code = run_script(
        script.__doc__ or "",
        (ANSWERS, DIFFICULTY),
        [str(path), *arguments],
        script=script.SCRIPT,
        arguments=script.arguments,
        present=script.present,
        runs_stages=lambda args: not args.estimate,
    )
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_estimate_of_the_shipped_config_sends_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions(tmp_path / "sums.jsonl")
    text = '{"kind":"columns","columns":["question"]}'
    source = f'{{"name":"sums","reader":{{"kind":"files","paths":["sums.jsonl"]}},"text":{text}}}'
    shipped = ROOT / "configs" / "difficulty_02_openrouter.py"
    code, out = call(shipped, capsys, "--estimate", f"rollouts.source={source}")
    assert code == 0, out
    assert "all: 480 requests: 0 cached, 480 to send" in out
    assert "anthropic/claude-3-haiku: 40 requests" in out
    assert "max_cost=20" in out


def test_printed_results(tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text(
        "from config import *\n"
        f"texts = tuple(OutputText(text=ColumnsText((f'{{m}}.solution',)), model=m, correct=f'{{m}}.is_correct')"
        " for m in ('small', 'large'))\n"
        f"config = Config(name='t', data_dir={str(tmp_path / 'data')!r}, difficulty=DifficultyConfig("
        f"answers={str(solutions(tmp_path / 'solutions.jsonl'))!r}, texts=texts, bootstraps=99))\n"
    )
    code, out = call(path, capsys, "--export", str(tmp_path / "out.json"))
    assert code == 0, out
    assert "78 of 80 agree" in out
    assert "reliability" in out
    assert "compare tiers, not two questions" in out
    assert json.loads((tmp_path / "out.json").read_text())["questions"] == QUESTIONS


@pytest.mark.realdata
def test_math_500_by_its_own_levels(tmp_path, realdata):
    """Its own solutions, given for a level's problems the less often the higher it is; otherwise the next one's."""
    from common.configs import load_config

    rows = [json.loads(line) for line in (realdata / "benchmarks/math500/test.jsonl").read_text().splitlines()][:60]
    path = tmp_path / "math500.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = {row["problem"]: number for number, row in enumerate(rows)}

    def knows(model: str, number: int) -> bool:
        return (number * 7 + len(model)) % 6 >= rows[number]["level"]

    def solve(body: dict[str, Any]) -> str:
        number = place[prompt_of(body).split("\n\nReason step by step")[0]]
        return rows[number]["solution"] if knows(body["model"], number) else r"It is \boxed{123456789}."

    shipped = load_config(str(ROOT / "configs" / "difficulty_03_math500.py"), [])
    with serving(saying(solve)) as math_server:
        local = replace(shipped.generation, base_url=math_server.base_url, api_key_variable="", max_cost=None)
        source = SourceConfig(
            name="math500_test",
            reader=FilesReader(paths=(str(path),)),
            text=ColumnsText(("problem",)),
            id_column="unique_id",
        )
        models = tuple(replace(local, model=name) for name in ("one", "three", "seventeen"))
        config = replace(
            shipped,
            generation=local,
            rollouts=replace(shipped.rollouts, source=source),
            difficulty=replace(shipped.difficulty, models=models, bootstraps=199),
            data_dir=str(tmp_path / "data"),
        )
        found = run(config)
    want = [1 - np.mean([knows(model.model, number) for model in models]) for number in range(60)]
    assert [each["difficulty"] for each in found["difficulty"].values()] == pytest.approx(want)
    assert [each["level"] for each in found["levels"]["by_level"]] == [1, 2, 3, 4, 5]
    assert found["levels"]["rho"] > 0.5
    assert found["levels"]["interval"]["low"] > 0


@pytest.mark.realdata
def test_the_four_graded_models_of_gsm8k(tmp_path, realdata):
    from common.configs import load_config

    path = realdata / "benchmarks/gsm8k/example_model_solutions.jsonl"
    shipped = load_config(str(ROOT / "configs" / "difficulty_01_gsm8k.py"), [f"difficulty.answers={path}"])
    found = run(replace(shipped, data_dir=str(tmp_path)))
    assert [each["right"] for each in found["models"]] == [286, 515, 458, 742]
    assert (found["agreement"]["compared"], found["agreement"]["agree"]) == (5276, 5276)
    assert found["agreement"]["kappa"] == 1.0
    assert sum(bar["questions"] for bar in found["histogram"]) == 1319
    assert 0.6 < found["reliability"]["split_half"] < 0.85
