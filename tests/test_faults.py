"""Faults that really happen: processes killed with SIGKILL, two runs at once, damaged files, full and read-only disks.

What must hold: nothing finished is lost or computed again, no half artifact is ever loaded, and the bytes in the end
are those of a run that nothing disturbed. Every moment of every stage: uv run pytest -m slow tests/test_faults.py
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.inventory import held
from tests.toy_project import (
    CONFIG,
    NUMBERS,
    ROOT,
    SUMS,
    HereProject,
    Project,
    checksums,
    identities,
    toy_project,
    wait_for,
)

KILLED = -signal.SIGKILL


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy_project(tmp_path)


@pytest.fixture
def here(project: Project) -> HereProject:
    """For faults of files, which no process needs to die for."""
    return HereProject(project.folder)


def six_numbers(*more: str) -> tuple[str, ...]:
    return (NUMBERS, CONFIG, "numbers.shards=6", *more)


def undisturbed(project: Project, *overrides: str) -> dict[str, str]:
    """Checksums of the numbers that a run in another data folder makes."""
    (step,) = project.outcomes(NUMBERS, CONFIG, "numbers.shards=6", "data_dir=undisturbed", *overrides)
    return checksums(project.folder / step["folder"])


def parts(project: Project) -> list[Path]:
    return list(project.data.glob("*/*.part"))


def assert_clean(project: Project) -> None:
    """Nothing damaged, nothing left over."""
    done = project.run("artifacts.py", "verify", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["leftovers"] == []


# --- killed --------------------------------------------------------------------------------------------------


def test_killed_from_outside_and_continued(project):
    process = project.start(*six_numbers("numbers.hold=3"))
    wait_for(lambda: list(project.data.glob("numbers/*.part/numbers-00002.json")), process)
    process.kill()
    assert process.wait() == KILLED
    (part,) = parts(project)
    before = identities(part)
    assert len(before) == 3
    (step,) = project.outcomes(*six_numbers())
    folder = project.folder / step["folder"]
    after = identities(folder)
    assert {name: after[name] for name in before} == before
    assert json.loads((folder / "manifest.json").read_text())["resumed_files"] == len(before)
    assert checksums(folder) == undisturbed(project)
    assert_clean(project)


def killed_run(project: Project, moment: int, side: str, *command: str) -> None:
    done = project.run(str(ROOT / "tests" / "killed_at.py"), str(moment), side, *command)
    assert done.returncode == KILLED, done.stderr


def moments(project: Project, *command: str) -> int:
    """How many renames a whole run makes."""
    count = project.folder / "count"
    done = Project(project.folder, {**project.environment, "KILLED_AT_COUNT": str(count)}).run(
        str(ROOT / "tests" / "killed_at.py"), "-1", "after", *command
    )
    assert done.returncode == 0, done.stderr
    return int(count.read_text())


def test_killed_at_every_moment_of_replacing_an_artifact(project, here):
    """--fresh over a finished artifact: at each moment there is a whole one, the old or the new."""
    fresh = (NUMBERS, CONFIG, "numbers.shards=1", "--fresh")
    wanted = checksums(project.folder / project.outcomes(*fresh)[0]["folder"])
    last = moments(project, *fresh)
    assert last >= 7  # note, shard, scratch, total, manifest, parking, naming, ...
    for moment, side in [(moment, side) for moment in range(last - 4, last) for side in ("before", "after")]:
        killed_run(project, moment, side, *fresh)
        (step,) = here.outcomes(*fresh[:-1])
        assert checksums(project.folder / step["folder"]) == wanted, (moment, side)
    here.outcomes(*fresh)
    assert_clean(here)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_at_every_moment_of_a_first_run(project, side):
    command = (NUMBERS, CONFIG, "numbers.shards=3")
    last = moments(project, *command)
    wanted = checksums(project.artifact("numbers"))
    for moment in range(last):
        shutil.rmtree(project.data)
        killed_run(project, moment, side, *command)
        before = [identities(part) for part in parts(project)]
        (step,) = project.outcomes(*command)
        assert checksums(project.folder / step["folder"]) == wanted
        after = identities(project.folder / step["folder"])
        for name, identity in (item for part in before for item in part.items()):
            assert name.startswith("scratch/") or not name.startswith("numbers") or after[name] == identity
    assert_clean(project)


# --- killed: the real stages ---------------------------------------------------------------------------------

WORDS = [
    first + second
    for first in ("alpha", "beta", "gamma", "delta", "omega", "sigma")
    for second in ("one", "two", "three", "four", "five", "six")
]
CONFIG_TEXT = """
from config import (
    ChunkingConfig, ClusteringConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, ReportConfig, SearchConfig,
    SourceConfig,
)
config = Config(
    name="faults",
    prepare=PrepareConfig(sources=(SourceConfig(name="mine", reader=FilesReader(paths=("rows.jsonl",))),)),
    chunking=ChunkingConfig(strategy="fixed_chars", max_chars=200),
    embedding=EmbeddingConfig(dimensions=8, max_features=500, fit_documents=1000),
    search=SearchConfig(queries=("alphaone betatwo",)),
    clustering=ClusteringConfig(base_pct=0.05, umap_n_components=2, max_depth=2),
    report=ReportConfig(map_points=200),
)
"""
PREPARE, EMBED, CLUSTER, NAME = (
    str(ROOT / f"{name}.py") for name in ("prepare_data", "embed_chunks", "cluster_corpus", "name_clusters")
)
SEARCH, ANNOTATE, REPORT = (str(ROOT / f"{name}.py") for name in ("search", "annotate_with_clusters", "report"))
SHARD = re.compile(r"(?:documents|chunks|vectors|rows)-(\d{5})\.")


def main_job(folder: Path, rows: int) -> Project:
    """A folder with a corpus of short rows and a config; the real scripts are run in it."""
    chooser = random.Random(0)
    with (folder / "rows.jsonl").open("w") as stream:
        for row in range(rows):
            stream.write(json.dumps({"text": f"{' '.join(chooser.choices(WORDS, k=8))} {row}"}) + "\n")
    (folder / "job.py").write_text(CONFIG_TEXT)
    return Project(folder, {"PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """9,000 documents (three shards) prepared, chunked and embedded without disturbance."""
    job = main_job(tmp_path_factory.mktemp("job"), 9_000)
    for script in (PREPARE, EMBED):
        done = job.run(script, "job.py")
        assert done.returncode == 0, done.stderr
    return job


def store_checksums(data: Path) -> dict[str, dict[str, str]]:
    """Checksums of every artifact, by stage and key."""
    folders = [path.parent for path in data.glob("*/*/manifest.json") if "." not in path.parent.name]
    return {path.relative_to(data).as_posix(): checksums(path) for path in folders}


def work_on(finished: Project, folder: Path, *stages: str) -> Project:
    """A new job on the same corpus that has only these stages finished."""
    for name in ("rows.jsonl", "job.py"):
        shutil.copy(finished.folder / name, folder / name)
    for stage in stages:
        shutil.copytree(finished.data / stage, folder / "data" / stage)
    return Project(folder, finished.environment)


def shards_of(folders: list[Path]) -> dict[tuple[str, str], tuple[int, int]]:
    """Identity of every finished shard, by stage and file."""
    return {
        (folder.parent.name, name): identity
        for folder in folders
        for name, identity in identities(folder).items()
        if SHARD.match(name)
    }


def assert_continued(job: Project, wanted: Project, script: str, *, redone: int) -> None:
    """The rerun keeps every finished shard but at most `redone`, and ends with the undisturbed run's bytes."""
    before = shards_of([path for path in job.data.glob("*/*") if path.is_dir() and path.suffix in ("", ".part")])
    done = job.run(script, "job.py")
    assert done.returncode == 0, done.stderr
    after = shards_of([path.parent for path in job.data.glob("*/*/manifest.json")])
    again = {(stage, SHARD.match(name)[1]) for stage, name in before if after[stage, name] != before[stage, name]}  # ty: ignore[not-subscriptable]  (shards_of matched it)
    assert len(again) <= redone, again
    made = store_checksums(job.data)
    assert made == {name: store_checksums(wanted.data)[name] for name in made}


@pytest.mark.parametrize(
    ("script", "inputs", "file"),
    [
        (PREPARE, (), "documents-00001.parquet"),
        (EMBED, ("documents",), "chunks-00001.parquet"),
        (EMBED, ("documents", "chunks"), "rows-00001.npy"),
    ],
)
def test_a_real_stage_killed_in_the_middle(finished, tmp_path, script, inputs, file):
    job = work_on(finished, tmp_path, *inputs)
    process = job.start(script, "job.py", "progress=false", stdout=subprocess.DEVNULL)
    wait_for(lambda: list(job.data.glob(f"*/*.part/{file}")), process)
    process.kill()
    assert process.wait() == KILLED
    if not list(job.data.glob(f"*/*.part/{file}")):
        pytest.skip("the stage ended in the moment between seeing the shard and the kill")
    assert_continued(job, finished, script, redone=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("script", "inputs"), [(PREPARE, ()), (EMBED, ("documents",)), (EMBED, ("documents", "chunks"))]
)
def test_a_real_stage_killed_at_every_moment(finished, tmp_path, script, inputs, side):
    (tmp_path / "whole").mkdir()
    last = moments(work_on(finished, tmp_path / "whole", *inputs), script, "job.py")
    for moment in range(last):
        folder = tmp_path / str(moment)
        folder.mkdir()
        job = work_on(finished, folder, *inputs)
        killed_run(job, moment, side, script, "job.py")
        assert_continued(job, finished, script, redone=1)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_main_job_killed_all_along(tmp_path):
    """Every script, killed at a few moments spread over its run, one death after the other in one data folder."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, job = main_job(tmp_path / "whole", 500), main_job(tmp_path / "killed", 500)
    for script in (PREPARE, EMBED, SEARCH, CLUSTER, NAME, ANNOTATE, REPORT):
        last = moments(whole, script, "job.py")
        for moment in sorted({0, last // 3, 2 * last // 3, last - 2}):
            done = job.run(str(ROOT / "tests" / "killed_at.py"), str(moment), "before", script, "job.py")
            assert done.returncode in (0, KILLED), done.stderr
        done = job.run(script, "job.py")
        assert done.returncode == 0, done.stderr
        if script == REPORT:
            # The page tells how long its inputs took: its undisturbed twin is one made again from the same inputs.
            disturbed = store_checksums(job.data)
            shutil.rmtree(job.data / "report")
            assert job.run(script, "job.py").returncode == 0
            assert store_checksums(job.data) == disturbed
        else:
            assert store_checksums(job.data) == store_checksums(whole.data), script


# --- two at once ---------------------------------------------------------------------------------------------


def two_at_once(project: Project) -> list[subprocess.Popen[str]]:
    """A run that holds in the middle (until there is a file `go`), and another of the same key that waits for it."""
    command = six_numbers("numbers.hold=2", "--json")
    first = project.start(*command)
    wait_for(lambda: list(project.data.glob("numbers/*.part/numbers-00001.json")), first)
    second = project.start(*command)
    assert second.stderr and "waiting for another run" in second.stderr.readline()
    return [first, second]


def test_two_runs_of_one_key_share_the_work(project):
    processes = two_at_once(project)
    (project.folder / "go").touch()
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    steps = [json.loads(out)["steps"][0] for out, _ in results]
    assert sorted(step["status"] for step in steps) == ["cached", "computed"]
    assert steps[0]["key"] == steps[1]["key"]
    assert checksums(project.artifact("numbers")) == undisturbed(project)
    assert_clean(project)


def test_the_one_that_waits_takes_over_from_the_one_that_is_killed(project):
    first, second = two_at_once(project)
    first.kill()
    first.wait()
    (part,) = parts(project)
    before = identities(part)
    (project.folder / "go").touch()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    step = json.loads(out)["steps"][0]
    assert step["status"] == "computed"
    after = identities(project.folder / step["folder"])
    assert {name: after[name] for name in before} == before
    assert checksums(project.folder / step["folder"]) == undisturbed(project)


def test_readers_of_an_artifact_that_is_replaced_again_and_again(project):
    """--fresh in one process, readers in another: none of them ever meets a half."""
    assert project.run(NUMBERS, CONFIG).returncode == 0
    assert project.run(SUMS, CONFIG).returncode == 0
    writers = [project.start(NUMBERS, CONFIG, "--fresh") for _ in range(3)]
    while any(writer.poll() is None for writer in writers):
        done = project.run(NUMBERS, CONFIG)
        assert done.returncode == 0, done.stderr
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert_clean(project)


def test_gc_leaves_a_running_stage_alone(project):
    process = project.start(*six_numbers("numbers.hold=2"))
    wait_for(lambda: list(project.data.glob("numbers/*.part/numbers-00001.json")), process)
    done = project.run("artifacts.py", "gc", "--yes", "--json")
    assert json.loads(done.stdout)["items"] == []
    (project.folder / "go").touch()
    assert process.wait(60) == 0
    assert checksums(project.artifact("numbers")) == undisturbed(project)


def test_a_lock_file_deleted_by_hand_is_made_again(project):
    (step,) = project.outcomes(NUMBERS, CONFIG)
    lock = project.data / "numbers" / f"{step['key']}.lock"
    with held(lock) as free:
        assert free
        lock.unlink()
    assert project.outcomes(NUMBERS, CONFIG, "--fresh")[0]["status"] == "computed"


# --- damaged -------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def change(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("numbers-00001.json", lambda path: os.truncate(path, 20)),
        ("numbers-00001.json", flip),
        ("numbers-00001.json", lambda path: path.unlink()),
        ("manifest.json", change),
        ("manifest.json", lambda path: os.truncate(path, 20)),
    ],
)
def test_damage_is_found_refused_and_mended_by_the_very_command(here, file, harm):
    assert here.run(NUMBERS, CONFIG).returncode == 0
    wanted = checksums(here.artifact("numbers"))
    harm(here.artifact("numbers") / file)

    verified = here.run("artifacts.py", "verify", "--json")
    assert verified.returncode == 1
    (damage,) = json.loads(verified.stdout)["damaged"]
    assert damage["path"].endswith(file)

    for command in ((NUMBERS, CONFIG), (SUMS, CONFIG), (NUMBERS, CONFIG, "--plan")):
        refused = here.run(*command)
        assert refused.returncode == 1
        assert file in refused.stderr
        told = refused.stderr.strip().partition("to rebuild it: ")[2]
        assert told == f"uv run {NUMBERS} {CONFIG} --fresh"
    assert not list(here.data.glob("sums/*"))

    if not damage["repair"].startswith("rm "):
        assert damage["repair"] == told
    assert here.repair(told).returncode == 0
    assert checksums(here.artifact("numbers")) == wanted
    assert here.run(SUMS, CONFIG).returncode == 0
    assert_clean(here)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["chunks/*/chunks-00001.parquet", "vectors/*/vectors-00002.npy", "vectors/*/rows-00000.npy"]
)
def test_damage_to_real_artifacts(finished, tmp_path, file):
    job = work_on(finished, tmp_path, "documents", "chunks", "vectors")
    (path,) = job.data.glob(file)
    flip(path)
    refused = job.run(SEARCH, "job.py", "--query", "alphaone")
    assert refused.returncode == 1
    assert path.name in refused.stderr
    command = refused.stderr.strip().partition("to rebuild it: uv run ")[2].split()
    assert job.run(str(ROOT / command[0]), *command[1:]).returncode == 0
    assert job.run(SEARCH, "job.py", "--query", "alphaone").returncode == 0
    assert store_checksums(job.data) == store_checksums(finished.data)


# --- disks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(project: Project) -> Iterator[Project]:
    """The project with a data folder on a disk of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root; test_a_limit_on_file_sizes is the unprivileged variant")
    project.data.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(project.data)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield project
    finally:
        subprocess.run(["umount", str(project.data)], check=True)


def remount(project: Project, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(project.data)], check=True)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_full_disk(small_disk):
    big = (NUMBERS, CONFIG, "numbers.shards=6", "numbers.shard_bytes=250000")
    line = one_line(small_disk.run(*big))
    assert line == (
        "error: numbers: no space left in data; 4 finished files are kept; free some and run the same command again"
    )
    (part,) = parts(small_disk)
    before = identities(part)
    assert len(before) == 4
    assert not list(part.rglob(".tmp-*"))
    assert one_line(small_disk.run(*big)) == line
    remount(small_disk, "size=8m")
    (step,) = small_disk.outcomes(*big)
    after = identities(small_disk.folder / step["folder"])
    assert {name: after[name] for name in before} == before
    assert checksums(small_disk.folder / step["folder"]) == undisturbed(small_disk, "numbers.shard_bytes=250000")
    assert_clean(small_disk)


def test_a_disk_that_is_full_at_the_last_moment(small_disk):
    """Room for every shard but not for the manifest: the next run must find all of them."""
    ballast = small_disk.data / "ballast"
    disk = os.statvfs(small_disk.data)
    # One block for the part's note, six shards, the scratch file, the total; one more is too few for the manifest.
    ballast.write_bytes(b"x" * disk.f_bsize * (disk.f_bavail - 10))
    command = (NUMBERS, CONFIG, "numbers.shards=6")
    line = one_line(small_disk.run(*command))
    assert "no space left in data" in line
    (part,) = parts(small_disk)
    before = identities(part)
    assert {"numbers-00005.json", "scratch/working.json", "total.json"} <= set(before)
    assert "manifest.json" not in before
    ballast.unlink()
    (step,) = small_disk.outcomes(*command)
    after = identities(small_disk.folder / step["folder"])
    kept = {name: identity for name, identity in before.items() if name.startswith("numbers")}
    assert {name: after[name] for name in kept} == kept


def test_a_limit_on_file_sizes(project):
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))}
    big = (NUMBERS, CONFIG, "numbers.shards=6", "numbers.shard_bytes=200000")
    line = one_line(project.run(*big, **limited))
    assert "numbers: a file in data exceeds the limit on file sizes" in line
    assert project.run(*big).returncode == 0
    assert_clean(project)


def test_a_read_only_data_folder(small_disk):
    for script in (NUMBERS, SUMS):
        assert small_disk.run(script, CONFIG).returncode == 0
    remount(small_disk, "ro")
    check_read_only(HereProject(small_disk.folder))


def test_a_data_folder_without_permission_to_write(project):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; test_a_read_only_data_folder is the variant for root")
    for script in (NUMBERS, SUMS):
        assert project.run(script, CONFIG).returncode == 0
    folders = [project.data, *(path for path in project.data.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        check_read_only(project)
    finally:
        for folder in folders:
            folder.chmod(0o700)


def check_read_only(project: Project) -> None:
    """What is finished works in full; computing is one line."""
    (step,) = project.outcomes(SUMS, CONFIG)
    assert step["status"] == "cached"
    assert "sum: 14.447043" in project.run(SUMS, CONFIG).stdout
    assert [item["status"] for item in project.outcomes(SUMS, CONFIG, "sums.factor=2", "--plan")] == [
        "cached",
        "missing",
    ]
    assert project.run("artifacts.py", "ls").returncode == 0
    assert_clean(project)
    for command in ((SUMS, CONFIG, "sums.factor=2"), (NUMBERS, CONFIG, "numbers.seed=1"), (NUMBERS, CONFIG, "--fresh")):
        line = one_line(project.run(*command))
        assert "data is not writable" in line
        assert "set data_dir=FOLDER" in line
    assert [item["status"] for item in project.outcomes(NUMBERS, CONFIG, "numbers.seed=1", "data_dir=elsewhere")] == [
        "computed"
    ]
    garbage = project.run("artifacts.py", "gc")
    assert garbage.returncode == 0
