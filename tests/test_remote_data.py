"""The real scripts with data_dir=s3://..., as a user runs them, against S3 servers on loopback.

    uv run pytest -m slow tests/test_remote_data.py

A machine is a folder for its mirror ($XDG_CACHE_HOME): deleting it, or taking another, is going to another machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.remote_lease import STALE
from tests.s3_servers import BUCKET, SECRET, SERVERS, S3Server, running
from tests.test_faults import CLUSTER, EMBED, NAME, PREPARE, REPORT, SEARCH, main_job, store_checksums
from tests.toy_project import CONFIG, NUMBERS, ROOT, SUMS, Project, toy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
KILLED = -signal.SIGKILL
PATIENCE = 600.0  # seconds, for what is done in ten on an idle machine
URL = f"s3://{BUCKET}/some/prefix"
KILLED_AT = str(ROOT / "tests" / "killed_at.py")
ARTIFACTS, ANNOTATE = str(ROOT / "artifacts.py"), str(ROOT / "annotate_with_clusters.py")


@pytest.fixture(params=SERVERS)
def server(request, tmp_path: Path) -> Iterator[S3Server]:
    with running(request.param, tmp_path / "server") as started:
        yield started


def on_machine(project: Project, server: S3Server, name: str) -> Project:
    """The project on a machine of its own."""
    mirror = {"XDG_CACHE_HOME": str(project.folder / name)}
    return replace(project, environment=project.environment | server.environment | mirror, patience=PATIENCE)


def remote_checksums(server: S3Server) -> dict[str, dict[str, str]]:
    """Checksums of every artifact behind the URL, by stage and key, from its manifest (`verify` reads the files)."""
    found = {path: content for path, content in server.contents().items() if path.endswith("/manifest.json")}
    out = {}
    for path, content in found.items():
        files = json.loads(content)["files"]
        out["/".join(path.split("/")[-3:-1])] = {name: entry["sha256"] for name, entry in files.items()}
    return out


def wait_for_object(server: S3Server, process: subprocess.Popen[str], words: str) -> None:
    """Return once there is an object of such a name."""
    files, limit = server.files, time.monotonic() + PATIENCE
    while not any(words in path for path in files.find(BUCKET)):
        assert process.poll() is None, f"ended too early with {process.returncode}: {process.communicate()[1]}"
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.1)


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


# --- the pipeline --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["nanio"], indirect=True)
def test_killed_in_mid_embed_lost_with_its_disk_and_finished_elsewhere(server, tmp_path):
    """SIGKILL, the mirror deleted, the same command with two workers: no finished shard is made again, same bytes."""
    job = replace(main_job(tmp_path, 9_000), patience=PATIENCE)
    local = {}
    for script in (PREPARE, EMBED):
        succeeded(job.run(script, "job.py"))
        local = store_checksums(job.data)
    first = on_machine(job, server, "first")
    succeeded(first.run(PREPARE, "job.py", f"data_dir={URL}"))
    killed = first.run(KILLED_AT, "rows-00001", "after", EMBED, "job.py", f"data_dir={URL}")
    assert killed.returncode == KILLED, killed.stderr
    shutil.rmtree(tmp_path / "first")
    before = {path for path in server.files.find(BUCKET) if "/vectors-" in path or "/rows-" in path}
    assert len(before) == 4, "vectors and rows of two shards of three"
    second = on_machine(job, server, "second")
    done = succeeded(second.run(EMBED, "job.py", f"data_dir={URL}", "workers=2", "--json"))
    assert [step["status"] for step in json.loads(done.stdout)["steps"]] == ["cached", "computed"]
    assert before <= set(server.files.find(BUCKET))
    assert remote_checksums(server) == local
    manifest = next(
        content for path, content in server.contents().items() if "/vectors/" in path and "manifest" in path
    )
    assert json.loads(manifest)["resumed_files"] >= len(before)
    assert "all whole" in succeeded(second.run(ARTIFACTS, "verify", "--data-dir", URL)).stdout


@pytest.mark.parametrize("server", ["nanio"], indirect=True)
def test_workers_of_a_ray_cluster_write_into_one_part(server, tmp_path):
    """engine=ray and a URL: a worker puts its own shards, the driver publishes all; the bytes are the local ones."""
    pytest.importorskip("ray", reason="the extra ray is not installed: uv sync --extra ray")
    job = replace(main_job(tmp_path, 9_000), patience=PATIENCE)
    for script in (PREPARE, EMBED):
        succeeded(job.run(script, "job.py"))
        command = (script, "job.py", f"data_dir={URL}", "engine=ray", "workers=2")
        process = on_machine(job, server, "driver").start(*command)
        _, err = process.communicate(timeout=800)  # a cluster is slow to start on a busy machine
        assert process.returncode == 0, err
    assert remote_checksums(server) == store_checksums(job.data)


@pytest.mark.parametrize("server", ["nanio"], indirect=True)
def test_the_main_job_is_the_local_one_and_holds_no_secret(server, tmp_path):
    """Each script on a machine that has nothing: the same checksums, and the secret in no object, file or line."""
    job = replace(main_job(tmp_path, 500), patience=PATIENCE)
    said = ""
    for number, script in enumerate((PREPARE, EMBED, SEARCH, CLUSTER, NAME, ANNOTATE, REPORT)):
        succeeded(job.run(script, "job.py"))
        done = on_machine(job, server, f"machine-{number}").run(script, "job.py", f"data_dir={URL}", "--debug")
        said += succeeded(done).stdout + done.stderr
        assert f"output: {URL}/" in done.stdout
    local, remote = store_checksums(job.data), remote_checksums(server)
    assert remote.keys() == local.keys()
    # The page tells how long its inputs took.
    assert {name for name in local if local[name] != remote[name]} <= {
        key for key in local if key.startswith("report/")
    }
    for command in ("ls", "verify", "gc"):
        said += succeeded(on_machine(job, server, "last").run(ARTIFACTS, command, "--data-dir", URL, "--debug")).stdout
    assert SECRET not in said
    assert all(SECRET.encode() not in content for content in server.contents().values())
    written = [path for path in tmp_path.rglob("*") if path.is_file() and server.log not in (path, path.parent)]
    assert all(SECRET.encode() not in path.read_bytes() for path in written)


# --- every server --------------------------------------------------------------------------------------------


def four_numbers(*more: str) -> tuple[str, ...]:
    return (NUMBERS, CONFIG, f"data_dir={URL}", "numbers.shards=4", *more)


def held_run(machine: Project, server: S3Server) -> subprocess.Popen[str]:
    """A run that has put two of its four shards, and waits until there is a file `go`."""
    process = machine.start(*four_numbers("numbers.hold=2", "--json"))
    wait_for_object(server, process, "numbers-00001.")
    return process


def test_two_machines_at_once_build_once(server, tmp_path):
    project = toy_project(tmp_path)
    machines = [on_machine(project, server, name) for name in ("one", "two")]
    first = held_run(machines[0], server)
    second = machines[1].start(*four_numbers("--json"))
    assert second.stderr and "waiting for another run of it" in second.stderr.readline()
    (tmp_path / "go").touch()
    ends = [process.communicate(timeout=PATIENCE) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], ends
    assert [json.loads(out)["steps"][0]["status"] for out, _ in ends] == ["computed", "cached"]
    assert "1 artifacts, 5 files" in succeeded(machines[0].run("artifacts.py", "verify", "--data-dir", URL)).stdout
    assert len([path for path in server.files.find(BUCKET) if "numbers-0" in path]) == 4


def test_killed_and_taken_over_by_another_machine(server, tmp_path):
    project = toy_project(tmp_path)
    one, two = on_machine(project, server, "one"), on_machine(project, server, "two")
    process = held_run(one, server)
    process.kill()
    assert process.wait() == KILLED
    started = time.monotonic()
    (step,) = two.outcomes(*four_numbers())
    assert step["status"] == "computed"
    assert time.monotonic() - started > STALE, "it waits until the lease has been silent for so long"
    assert step["folder"] == f"{URL}/numbers/{step['key']}"
    (local,) = project.outcomes(NUMBERS, CONFIG, "numbers.shards=4")
    assert (
        remote_checksums(server)[f"numbers/{step['key']}"] == store_checksums(project.data)[f"numbers/{local['key']}"]
    )


def test_killed_and_run_again_on_the_same_machine_does_not_wait(server, tmp_path):
    one = on_machine(toy_project(tmp_path), server, "one")
    process = held_run(one, server)
    process.kill()
    process.wait()
    again = succeeded(one.run(*four_numbers("--json")))
    assert json.loads(again.stdout)["steps"][0]["status"] == "computed"
    assert "waiting for another run" not in again.stderr


def test_a_changed_object_is_found_and_mended(server, tmp_path):
    project = toy_project(tmp_path)
    one, two, three = (on_machine(project, server, name) for name in ("one", "two", "three"))
    succeeded(one.run(NUMBERS, CONFIG, f"data_dir={URL}"))
    files = server.files
    (path,) = [path for path in files.find(BUCKET) if "numbers-00001." in path]
    files.pipe_file(path, files.cat_file(path)[:-1] + b" ")
    done = two.run(SUMS, CONFIG, f"data_dir={URL}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"s3://{path}: its checksum is not the manifest's" in line
    assert two.run("artifacts.py", "verify", "--data-dir", URL).returncode == 1
    command = line.split("to rebuild it: ")[1]
    assert two.repair(command).returncode == 0
    assert "all whole" in succeeded(three.run("artifacts.py", "verify", "--data-dir", URL)).stdout
    succeeded(three.run(SUMS, CONFIG, f"data_dir={URL}"))


def test_what_is_wrong_is_said_in_one_line(server, tmp_path):
    project = on_machine(toy_project(tmp_path), server, "one")
    away = replace(project, environment=project.environment | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"})
    nobody = replace(project, environment=project.environment | {"AWS_ACCESS_KEY_ID": "", "HOME": str(tmp_path)})
    cases = [
        (away, URL, "cannot be reached (EndpointConnectionError)"),
        (nobody, URL, "no credentials in the environment"),
        (project, "s3://another/x", "there is no such bucket"),
    ]
    if server.process.args[0].rpartition("/")[2] != "moto_server":
        wrong = replace(project, environment=project.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"})
        cases.append((wrong, URL, "access denied"))
    for machine, url, words in cases:
        done = machine.run(NUMBERS, CONFIG, f"data_dir={url}")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert words in line
        assert SECRET not in line


def test_credentials_may_come_from_the_env_file(server, tmp_path):
    project = toy_project(tmp_path)
    lines = [f"{name}={value}" for name, value in server.environment.items()]
    (tmp_path / ".env").write_text("\n".join(lines))
    assert not server.environment.keys() & os.environ.keys(), "the environment says already what .env is to say"
    alone = replace(project, environment=project.environment | {"XDG_CACHE_HOME": str(tmp_path / "one")})
    assert alone.run(NUMBERS, CONFIG, f"data_dir={URL}").returncode == 0


def test_a_server_that_is_away_for_a_moment_costs_nothing(server, tmp_path):
    """Stopped (not killed) for three seconds while shards are to be put: requests wait or are tried again."""
    process = held_run(on_machine(toy_project(tmp_path), server, "one"), server)
    server.process.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    time.sleep(3)
    server.process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert json.loads(out)["steps"][0]["status"] == "computed"
