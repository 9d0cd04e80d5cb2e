"""The rollouts stage and its command, against a real server: shards, resume, limits, failures, one prompt at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from common.cli import run_script
from common.errors import ConfigError, UserError
from common.rollouts import Message, read_jsonl
from common.stages import Session
from config import (
    ColumnsText,
    Config,
    FilesReader,
    GenerationConfig,
    MessagesText,
    RolloutsConfig,
    SamplingConfig,
    SourceConfig,
)
from rollout import ROLLOUTS, load_rollouts, read_samples, rollout_requests, rollout_table, rollouts_of
from tests.openai_server import Hang, Server, Status, prompt_of, saying, serving

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "rollout.py"
QUESTIONS = ROOT / "configs" / "data" / "questions.jsonl"
KEY = "sk-test-5up3rs3cr3t-0123456789"


@pytest.fixture
def server():
    with serving(saying(lambda body: f"Four: {prompt_of(body)[:20]}")) as running:
        yield running


def questions(path: Path, count: int) -> SourceConfig:
    """A file of questions as GSM8K has them."""
    rows = [{"question": f"{n} + {n}? 漢字 🙂", "answer": f"It is {2 * n}\n#### {2 * n}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(name="sums", reader=FilesReader(paths=(str(path),)), text=ColumnsText(("question",)))


def make_config(folder: Path, server: Server, count: int = 7, **rollouts: Any) -> Config:
    source = rollouts.pop("source", None) or questions(folder / "questions.jsonl", count)
    generation = GenerationConfig(
        model="tiny",
        base_url=server.base_url,
        api_key_variable="",
        max_wait=0.05,
        max_attempts=2,
        sampling=SamplingConfig(max_tokens=10),
    )
    settings = RolloutsConfig(source=source, **rollouts)
    return Config(name="test", rollouts=settings, generation=generation, data_dir=str(folder / "data"))


def run(config: Config, **options):
    session = Session(config, **options)
    return session.run(ROLLOUTS)


# --- the stage -----------------------------------------------------------------------------------------------


def test_every_sample_has_its_rollout(tmp_path, server):
    artifact = run(make_config(tmp_path, server, template="Sum: {prompt}", system="Be brief."))
    rollouts = list(load_rollouts(artifact))
    assert artifact.rows == 7
    assert [each.request_id for each in rollouts] == [f"sums/questions.jsonl:{n}" for n in range(1, 8)]
    for number, rollout in enumerate(rollouts):
        assert rollout.messages == (
            Message("system", "Be brief."),
            Message("user", f"Sum: {number} + {number}? 漢字 🙂"),
        )
        assert rollout.completion == f"Four: {f'Sum: {number} + {number}? 漢字 🙂'[:20]}"
        assert rollout.metadata["reference"] == f"It is {2 * number}\n#### {2 * number}"
        assert rollout.metadata["final_answer"] == str(2 * number)
    stats = artifact.json("stats.json")
    assert (stats["completions"], stats["failed"], stats["finish_reasons"]) == (7, 0, {"stop": 7})
    assert stats["completion_tokens"] == sum(each.completion_tokens or 0 for each in rollouts)


def test_an_endpoint_is_asked_from_here_on_any_engine(tmp_path, server, monkeypatch):
    """With engine=ray: the same key and answers, and no cluster is looked for."""
    config = make_config(tmp_path, server)
    here = list(load_rollouts(run(config)))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # where nothing answers
    cluster = replace(config, engine="ray", workers=4, data_dir=str(tmp_path / "other"))
    there = run(cluster)
    assert there.key == run(config).key
    assert [replace(each, latency=None) for each in load_rollouts(there)] == [
        replace(each, latency=None) for each in here
    ]


def test_columns_for_other_stages(tmp_path, server):
    table = run(make_config(tmp_path, server)).table("rollouts-00000.parquet")
    row = table.to_pylist()[3]
    assert row["sample_id"] == row["request_id"] == "sums/questions.jsonl:4"
    assert (row["text"], row["reference"]) == ("3 + 3? 漢字 🙂", "It is 6\n#### 6")
    assert json.loads(row["messages"]) == [{"role": "user", "content": "3 + 3? 漢字 🙂"}]
    assert row["error"] is None
    assert rollouts_of(rollout_table(rollouts_of(table))) == rollouts_of(table)


def test_several_draws_of_each_sample(tmp_path, server):
    artifact = run(make_config(tmp_path, server, count=2, draws=3))
    found = [(each.request_id, each.draw, each.seed) for each in load_rollouts(artifact)]
    first = "sums/questions.jsonl:1"
    assert found[:3] == [(f"{first}#0", 0, 42), (f"{first}#1", 1, 43), (f"{first}#2", 2, 44)]
    assert len(found) == 6
    assert {each.metadata["sample_id"] for each in load_rollouts(artifact)} == {first, "sums/questions.jsonl:2"}


def test_finished_rollouts_are_found_again_wherever_the_file_lies(tmp_path, server):
    config = make_config(tmp_path, server)
    artifact = run(config)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "questions.jsonl").rename(tmp_path / "elsewhere" / "questions.jsonl")
    source = replace(questions(tmp_path / "other.jsonl", 1), reader=FilesReader(paths=(str(tmp_path / "elsewhere"),)))
    assert run(replace(config, rollouts=replace(config.rollouts, source=source))).key == artifact.key
    assert len(server.bodies) == 7


CHANGES = {
    "template": lambda c: replace(c, rollouts=replace(c.rollouts, template="Q: {prompt}")),
    "system": lambda c: replace(c, rollouts=replace(c.rollouts, system="Be brief.")),
    "draws": lambda c: replace(c, rollouts=replace(c.rollouts, draws=2)),
    "model": lambda c: replace(c, generation=replace(c.generation, model="other")),
    "sampling": lambda c: replace(c, generation=replace(c.generation, sampling=SamplingConfig(max_tokens=11))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_rollouts_changes_their_key(tmp_path, server, name):
    config = make_config(tmp_path, server)
    assert Session(CHANGES[name](config)).key(ROLLOUTS) != Session(config).key(ROLLOUTS)
    cheaper = replace(config, generation=replace(config.generation, price_input=1.0, max_concurrency=1))
    assert Session(cheaper).key(ROLLOUTS) == Session(config).key(ROLLOUTS)


def test_a_longer_run_asks_only_what_is_new(tmp_path, server):
    run(make_config(tmp_path, server, count=4))
    run(make_config(tmp_path, server, count=7))
    assert len(server.bodies) == 7


def test_several_shards(tmp_path, server, monkeypatch):
    monkeypatch.setattr("rollout.SHARD_REQUESTS", 3)
    artifact = run(make_config(tmp_path, server))
    assert artifact.names("rollouts-*") == [f"rollouts-0000{n}.parquet" for n in range(3)]
    assert [each.metadata["final_answer"] for each in load_rollouts(artifact)] == [str(2 * n) for n in range(7)]


# --- failures ------------------------------------------------------------------------------------------------


def fails_for(*numbers: int):
    wanted = {f"{number} + {number}? 漢字 🙂" for number in numbers}
    return lambda body: Status(400, "refused") if prompt_of(body) in wanted else None


def test_a_failed_call_is_no_answer_and_the_next_run_repeats_it_alone(tmp_path, server, monkeypatch):
    monkeypatch.setattr("rollout.SHARD_REQUESTS", 3)
    server.rule = fails_for(2, 4)
    config = make_config(tmp_path, server)
    with pytest.raises(
        UserError, match=r"5 of 7 completions are there and kept; no answer: 2 http \(status 400: refused"
    ):
        run(config)
    assert not [path for path in (tmp_path / "data" / "rollouts").iterdir() if path.is_dir() and not path.suffix]
    server.rule = lambda body: None
    server.bodies.clear()
    artifact = run(config)
    assert sorted(prompt_of(body)[0] for body in server.bodies) == ["2", "4"]
    assert artifact.rows == 7
    assert artifact.names("failed-*") == []


def test_failures_that_are_allowed_are_kept_apart_with_their_reason(tmp_path, server, monkeypatch):
    monkeypatch.setattr("rollout.SHARD_REQUESTS", 3)
    server.rule = fails_for(2, 4)
    artifact = run(make_config(tmp_path, server, max_failures=0.3))
    assert [each.metadata["final_answer"] for each in load_rollouts(artifact)] == ["0", "2", "6", "10", "12"]
    failed = list(load_rollouts(artifact, failed=True))
    assert [each.metadata["final_answer"] for each in failed] == ["4", "8"]
    assert {(each.error.kind, each.error.status) for each in failed if each.error} == {("http", 400)}
    assert [each.completion for each in failed] == [None, None]
    assert artifact.json("stats.json")["failed"] == 2
    assert artifact.rows == 5


def test_a_run_that_was_stopped_is_never_published(tmp_path, server):
    """Not even where failures are allowed: those were not sent."""
    server.rule = lambda body: Status(401, "no such key")
    with pytest.raises(UserError, match="no such key"):
        run(make_config(tmp_path, server, max_failures=1.0))


def test_max_cost_holds_for_the_whole_run_and_the_next_one_goes_on(tmp_path, server, monkeypatch):
    monkeypatch.setattr("rollout.SHARD_REQUESTS", 2)
    config = make_config(tmp_path, server, count=12)
    # An answer costs 6 (its words), and may cost 10.
    priced = replace(config.generation, price_input=0.0, price_output=1e6, max_cost=36.0)
    with pytest.raises(
        UserError, match=r"5 of 12 completions .*generation.max_cost=36 leaves no room: \$30.00 are spent"
    ):
        run(replace(config, generation=priced))
    assert len(server.bodies) == 5
    with pytest.raises(UserError, match="10 of 12"):
        run(replace(config, generation=priced))
    artifact = run(replace(config, generation=priced))
    assert (artifact.rows, len(server.bodies)) == (12, 12)
    assert artifact.json("stats.json")["cost"] == 72


# --- death ---------------------------------------------------------------------------------------------------


def write_config(folder: Path, server: Server, count: int) -> Path:
    """A config file of its own process."""
    file = folder / "questions.jsonl"
    questions(file, count)
    text = f"""
from config import *
source = SourceConfig(name="sums", reader=FilesReader(paths=({str(file)!r},)),
    text=ColumnsText(("question",)))
config = Config(name="test", rollouts=RolloutsConfig(source=source), data_dir={str(folder / "data")!r},
    generation=GenerationConfig(model="tiny", base_url={server.base_url!r}, api_key_variable="TEST_API_KEY",
        max_concurrency=4, max_wait=0.2, max_attempts=2, sampling=SamplingConfig(max_tokens=10)))
"""
    path = folder / "test_config.py"
    path.write_text(text)
    return path


def command(path: Path, *arguments: str, **options):
    environment = os.environ | {"TEST_API_KEY": KEY, "NO_COLOR": "1"}
    streams: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "stdin": subprocess.PIPE,
        "text": True,
    }
    line = [sys.executable, str(SCRIPT), str(path), *arguments]
    return subprocess.Popen(line, cwd=path.parent, env=environment, **(streams | options))


def finished(path: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    process = command(path, *arguments)
    out, err = process.communicate(text, timeout=100)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def ended(path: Path, server: Server, answers: int, blow: signal.Signals) -> tuple[int, str]:
    """A run ended while four calls wait for an answer that never comes; its exit code and what it said."""
    server.rule = lambda body: Hang(600) if len(server.bodies) > answers else None
    process = command(path)
    limit = time.monotonic() + 100
    while len(server.bodies) < answers + 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(blow)
    _, err = process.communicate(timeout=100)
    server.rule = lambda body: None
    return process.returncode, err


def test_a_killed_run_is_taken_up_without_asking_twice(tmp_path, server):
    """SIGKILL while calls are on their way: only those are asked again. Every answer that had come is kept."""
    path = write_config(tmp_path, server, 60)
    assert ended(path, server, 24, signal.SIGKILL)[0] == -signal.SIGKILL
    again = finished(path)
    assert again.returncode == 0, again.stderr
    assert len(server.bodies) == 60 + 4
    assert len({prompt_of(body) for body in server.bodies}) == 60
    assert "60 requests: 24 cached" in again.stderr


def test_an_interrupted_run_says_so_and_goes_on(tmp_path, server):
    path = write_config(tmp_path, server, 40)
    code, err = ended(path, server, 9, signal.SIGINT)
    assert code == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert finished(path).returncode == 0
    assert len(server.bodies) == 40 + 4


# --- the command ---------------------------------------------------------------------------------------------


def test_the_key_is_in_no_file_and_no_output(tmp_path, server, capsys, monkeypatch):
    path = write_config(tmp_path, server, 3)
    server.faults += [Status(500, f"you sent {KEY}")]
    done = finished(path)
    assert done.returncode == 0, done.stderr
    server.rule = lambda body: Status(401, f"Incorrect API key provided: {KEY}")
    monkeypatch.setenv("TEST_API_KEY", KEY)
    code, out, err = call(path, capsys, "rollouts.system=other", "--debug")
    assert code == 1
    assert "Incorrect API key provided: [key]" in err
    assert KEY not in done.stdout + done.stderr + out + err
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def call(config_path: Path, capsys, *arguments: str) -> tuple[int, str, str]:
    """The command, in this process."""
    import rollout

    code = run_script(
        rollout.__doc__ or "",
        (ROLLOUTS,),
        [str(config_path), *arguments],
        arguments=rollout.arguments,
        present=rollout.present,
        runs_stages=rollout.runs_stages,
    )
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def config_path(tmp_path, server, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path, server, 5)


def test_a_run_prints_its_totals_and_first_rollouts(config_path, capsys):
    code, out, _ = call(config_path, capsys, "--export", "out.jsonl")
    assert code == 0
    assert "5 completions (5 stop); 0 failed" in out
    assert "sums/questions.jsonl:1: 0 + 0? 漢字 🙂\nFour: 0 + 0?" in out
    assert [each.metadata["final_answer"] for each in read_jsonl(Path("out.jsonl"))] == ["0", "2", "4", "6", "8"]
    code, out, _ = call(config_path, capsys, "--json")
    assert json.loads(out)["result"]["completions"] == 5


def test_an_estimate_sends_nothing(config_path, server, capsys):
    code, out, _ = call(config_path, capsys, "--estimate")
    assert code == 0
    assert out.startswith("5 requests: 0 cached, 5 to send: about ")
    assert "prices: set generation.price_input" in out
    prices = ("generation.price_input=1000", "generation.price_output=1000")
    assert "at most $0." in call(config_path, capsys, "--estimate", *prices)[1]
    found = json.loads(call(config_path, capsys, "--estimate", "--json", *prices)[1])["result"]
    assert (found["to_send"], found["completion_tokens"]) == (5, 50)
    assert server.bodies == []


def test_one_prompt_whole_and_streamed(config_path, server, capsys):
    code, whole, notes = call(config_path, capsys, "--prompt", "What is 2 + 2?", "--system", "Be brief.")
    assert (code, whole) == (0, "Four: What is 2 + 2?\n")
    assert notes.startswith("tiny: ")
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    again = ("--prompt", "What is 2 + 2?", "--system", "Be brief.", "--stream")
    assert call(config_path, capsys, *again)[1] == whole
    assert len(server.bodies) == 1
    assert call(config_path, capsys, *again, "--fresh")[1] == whole
    assert server.bodies[1]["stream"] is True
    record = json.loads(call(config_path, capsys, "--prompt", "What is 2 + 2?", "--json")[1])["result"]
    assert (record["completion"], record["error"]) == ("Four: What is 2 + 2?", None)
    assert not (Path("data") / "rollouts").exists()


def test_a_prompt_from_standard_input(config_path, server, capsys, monkeypatch):
    done = finished(config_path, "--prompt", "-", text="two\nlines 漢字\n")
    assert (done.returncode, done.stdout) == (0, "Four: two\nlines 漢字\n\n")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "two\nlines 漢字\n"}]
    monkeypatch.setattr("sys.stdin", StringIO(" \n"))
    assert call(config_path, capsys, "--prompt", "-") == (2, "", "error: --prompt: there is no text\n")


def test_a_text_cannot_move_the_cursor(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(saying(lambda body: "red \x1b[31m \x07\r\nline\u202e")) as server:
        path = write_config(tmp_path, server, 1)
        for flags in ((), ("--stream", "--fresh")):
            _, out, _ = call(path, capsys, "--prompt", "x", *flags)
            assert out == "red \ufffd[31m \ufffd\nline\ufffd\n"


def test_a_prompt_without_an_answer(config_path, server, capsys):
    server.rule = lambda body: Status(400, "too long")
    code, out, err = call(config_path, capsys, "--prompt", "x")
    assert (code, out, err) == (1, "", "error: no answer: http: status 400: too long\n")


def test_flags_that_go_together(config_path, capsys):
    code, _, err = call(config_path, capsys, "--stream", "--estimate")
    assert (code, "--system and --stream go with --prompt" in err) == (2, True)


# --- samples -------------------------------------------------------------------------------------------------


def test_our_own_questions_are_right():
    """Every calculation in them, and that each ends with its result."""
    source = SourceConfig(
        name="questions", reader=FilesReader(paths=(str(QUESTIONS),)), text=ColumnsText(("question",)), id_column="id"
    )
    samples = read_samples(RolloutsConfig(source=source)).found
    assert len(samples) == 20
    for sample in samples:
        steps = re.findall(r"<<([-+*/\d. ]+)=([\d.]+)>>", sample.reference or "")
        assert steps
        assert all(eval(left) == float(right) for left, right in steps)
        assert sample.metadata["final_answer"] == steps[-1][1]


def test_a_sample_of_a_source_depends_on_ids_alone(tmp_path):
    def ids(count: int, **rest) -> list[str]:
        source = replace(questions(tmp_path / "questions.jsonl", count), sample_documents=5)
        return [each.id for each in read_samples(RolloutsConfig(source=source, **rest)).found]

    chosen = ids(50)
    assert len(chosen) == 5
    assert set(ids(60)) - set(chosen) <= {f"sums/questions.jsonl:{n}" for n in range(51, 61)}
    assert ids(50, seed=1) != chosen
    assert chosen == sorted(chosen, key=lambda name: int(name.rsplit(":", 1)[1]))
    assert len(ids(3)) == 3


def test_prompts_of_a_file_with_references_in_a_column(tmp_path, server):
    path = tmp_path / "prompts.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a {b}", "c"], "gold": ["1", None], "unused": [1, 2]}), path)
    source = SourceConfig(name="p", reader=FilesReader(paths=(str(path),)), text=ColumnsText(("prompt",)))
    config = make_config(tmp_path, server, source=source, sample="text", reference_column="gold", template="<{prompt}>")
    found = [(each.messages[0].content, each.metadata["reference"]) for each in load_rollouts(run(config))]
    assert found == [("<a {b}>", "1"), ("<c>", "")]


def test_conversations_keep_their_turns(tmp_path, server):
    path = tmp_path / "chats.jsonl"
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    path.write_text(json.dumps({"chat": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    source = SourceConfig(name="chats", reader=FilesReader(paths=(str(path),)), text=MessagesText(column="chat"))
    config = make_config(tmp_path, server, source=source, sample="conversation", system="Be kind.")
    (rollout,) = load_rollouts(run(config))
    assert [message.content for message in rollout.messages] == ["Be kind.", "a", "b", "c"]
    assert rollout.metadata["reference"] == "d"
    with pytest.raises(ConfigError, match="these samples are conversations"):
        run(replace(config, generation=replace(config.generation, format="text")))


def test_raw_text_is_continued(tmp_path, server):
    config = make_config(tmp_path, server, count=1)
    (rollout,) = load_rollouts(run(replace(config, generation=replace(config.generation, format="text"))))
    assert (rollout.prompt, rollout.messages) == ("0 + 0? 漢字 🙂", ())
    assert server.bodies[0]["prompt"] == "0 + 0? 漢字 🙂"


def test_rows_that_cannot_be_read_are_kept_with_the_reason(tmp_path, server):
    config = make_config(tmp_path, server, count=3)
    with (tmp_path / "questions.jsonl").open("a") as stream:
        stream.write("{broken\n")
    with pytest.raises(UserError, match=r"questions.jsonl:4"):
        run(config)
    reader = FilesReader(paths=(str(tmp_path / "questions.jsonl"),), malformed="skip")
    source = replace(questions(tmp_path / "other.jsonl", 1), reader=reader)
    artifact = run(replace(config, rollouts=replace(config.rollouts, source=source)))
    (unreadable,) = artifact.json("unreadable.json")
    assert (unreadable["doc_id"], unreadable["reason"]) == ("sums/questions.jsonl:4", "malformed")
    assert (artifact.rows, artifact.json("stats.json")["unreadable"]) == (3, 1)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no place for the prompt": ({"template": "Q:"}, r"does not hold \{prompt\}"),
    "an unknown source": ({"source": "gsm9k_test"}, "did you mean 'gsm8k_test'"),
    "a mix": ({"source": "nanochat_2025_10"}, "is a mix of corpora"),
    "a column that is not there": ({"sample": "text", "reference_column": "gold"}, "no column 'gold'"),
    "no conversation": ({"sample": "conversation"}, "no column 'messages'"),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_that_cannot_work(tmp_path, server, name):
    changes, words = BAD[name]
    with pytest.raises(UserError, match=words):
        run(make_config(tmp_path, server, **changes))
    assert server.bodies == []


def test_a_source_without_rows(tmp_path, server):
    with pytest.raises(UserError, match="holds no sample"):
        run(make_config(tmp_path, server, count=0))


def test_vllm_that_is_not_installed_is_one_line(config_path, capsys):
    import importlib.util

    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    (config_path.parent / "model").mkdir()
    code, _, err = call(config_path, capsys, "generation.engine=vllm", "generation.model=model", "--prompt", "x")
    assert (code, err) == (1, "error: generation.engine 'vllm' is not installed; on Linux: uv sync --extra vllm\n")


# --- real data -----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_gsm8k_is_read_whole_and_asked(realdata, tmp_path, server):
    path = realdata / "benchmarks" / "gsm8k" / "test.jsonl"
    source = SourceConfig(name="gsm8k", reader=FilesReader(paths=(str(path),)), text=ColumnsText(("question",)))
    config = make_config(tmp_path, server, source=source)
    samples = read_samples(config.rollouts).found
    assert len(samples) == len(rollout_requests(samples, config)) == 1319
    assert all(re.fullmatch(r"-?[\d.]+", sample.metadata["final_answer"]) for sample in samples)
    # A call takes four milliseconds: two hundred questions are asked, more than one shard is another test's.
    config = replace(config, rollouts=replace(config.rollouts, source=replace(source, take_rows=200)))
    assert run(config).rows == 200
    assert len({prompt_of(body) for body in server.bodies}) == 200
