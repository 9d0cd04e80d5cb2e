"""Sources -> documents: filters with reasons, duplicates, samples, resuming, and the command."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prepare_data
from common import fates
from common.configs import load_config
from common.errors import UserError
from common.stages import Session
from common.store import Artifact
from config import Config, FilesReader, PackagesReader, PrepareConfig, SourceConfig, TemplateText
from prepare_data import DOCUMENTS, examine
from tests.toy_project import run_here

ROOT = Path(__file__).resolve().parent.parent


def jsonl(path: Path, *texts: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [text if isinstance(text, dict) else {"text": text} for text in texts]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def source(path: Path, name: str = "own", *, reader: dict | None = None, **settings) -> SourceConfig:
    return SourceConfig(name=name, reader=FilesReader(paths=(str(path),), **(reader or {})), **settings)


def session(data_dir: Path, *sources: SourceConfig, fresh: bool = False, **settings) -> Session:
    prepare = PrepareConfig(sources=sources, **settings)
    return Session(Config(name="test", prepare=prepare, data_dir=str(data_dir), progress=False), fresh=fresh)


def run(data_dir: Path, *sources: SourceConfig, **settings) -> Artifact:
    return session(data_dir, *sources, **settings).run(DOCUMENTS)


def documents(artifact: Artifact) -> list[dict]:
    return [row for table in artifact.tables("documents-*.parquet") for row in table.to_pylist()]


def dropped(artifact: Artifact) -> list[dict]:
    return [row for table in artifact.tables("dropped-*.parquet") for row in table.to_pylist()]


def kept_ids(artifact: Artifact) -> list[str]:
    return [row["doc_id"] for row in documents(artifact)]


def reasons(artifact: Artifact) -> dict[str, str]:
    return {row["doc_id"]: row["reason"] for row in dropped(artifact)}


def checksums(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


def prose(number: int, length: int = 40) -> str:
    """Words that no two numbers share."""
    return " ".join(f"w{hashlib.md5(f'{number} {place}'.encode()).hexdigest()[:6]}" for place in range(length))


# --- rows and filters ----------------------------------------------------------------------------------------


def test_documents_have_ids_sources_stages_text_and_metadata(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"q": "Why?\r\n", "a": "Because.", "topic": "x", "n": 1})
    artifact = run(
        tmp_path / "data",
        source(path, stage="sft", text=TemplateText("{q} {a}"), label_columns=("topic", "n")),
    )
    assert documents(artifact) == [
        {
            "doc_id": "own/a.jsonl:1",
            "source": "own",
            "stage": "sft",
            "text": "Why?\n Because.",
            "metadata": '{"n":1,"topic":"x"}',
        }
    ]
    assert artifact.rows == 1
    assert artifact.names() == ["documents-00000.parquet", "dropped-00000.parquet", "stats.json"]


def test_every_dropped_row_is_kept_with_its_reason(tmp_path):
    lines = ["", " \x00\n", "tiny", "long " * 100, "== ## == 12 // 34 ++ --", prose(1), f" {prose(1)}\r\n", prose(2)]
    path = jsonl(tmp_path / "a.jsonl", *lines)
    path.write_bytes(path.read_bytes() + b"{broken\n" + b'{"text": "caf\xe9"}\n' + b'{"body": "x"}\n{"text": ["x"]}\n')
    artifact = run(
        tmp_path / "data",
        source(path, reader={"malformed": "skip", "undecodable": "skip"}),
        min_chars=10,
        max_chars=400,
        quality_filter=True,
    )
    assert kept_ids(artifact) == ["own/a.jsonl:6", "own/a.jsonl:8"]
    assert {doc_id.rsplit(":")[-1]: reason for doc_id, reason in reasons(artifact).items()} == {
        "1": "empty",
        "2": "empty",
        "3": "too_short",
        "4": "too_long",
        "5": "symbols",
        "7": "exact_duplicate",
        "9": "malformed",
        "10": "undecodable",
        "11": "missing_column",
        "12": "unrenderable",
    }
    by_id = {row["doc_id"]: row for row in dropped(artifact)}
    assert by_id["own/a.jsonl:7"]["detail"] == "of own/a.jsonl:6"
    assert by_id["own/a.jsonl:3"]["text"] == "tiny"
    assert by_id["own/a.jsonl:9"]["text"] == "{broken"
    assert by_id["own/a.jsonl:9"]["detail"].startswith("a.jsonl:9: not JSON")
    (stats,) = artifact.json("stats.json")["sources"]
    assert (stats["read"], stats["documents"], stats["not_sampled"]) == (12, 2, 0)
    assert stats["dropped"]["empty"] == 2
    assert sum(stats["dropped"].values()) == 10
    assert stats["characters"] == len(prose(1)) + len(prose(2))


def test_text_is_normalised_before_duplicates_are_looked_for(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", "Café \ud800!", "\ufeffCafe\u0301 \udfff!\r\n", "Cafe\u0301\u00a0\ufffd!")
    assert kept_ids(run(tmp_path / "data", source(path))) == ["own/a.jsonl:1", "own/a.jsonl:3"]
    assert kept_ids(run(tmp_path / "data", source(path), unicode_form="NFKC")) == ["own/a.jsonl:1"]
    assert len(kept_ids(run(tmp_path / "data", source(path), unicode_form="none"))) == 3
    assert len(kept_ids(run(tmp_path / "data", source(path), exact_dedup=False))) == 3


def test_duplicates_across_sources_leave_the_first(tmp_path):
    one = source(jsonl(tmp_path / "1.jsonl", "a", "b", "a"), "one")
    two = source(jsonl(tmp_path / "2.jsonl", "b", "c"), "two")
    artifact = run(tmp_path / "data", one, two)
    assert kept_ids(artifact) == ["one/1.jsonl:1", "one/1.jsonl:2", "two/2.jsonl:2"]
    assert [row["detail"] for row in dropped(artifact)] == ["of one/1.jsonl:1", "of one/1.jsonl:2"]
    assert kept_ids(run(tmp_path / "data", two, one)) == ["two/2.jsonl:1", "two/2.jsonl:2", "one/1.jsonl:1"]


def test_a_text_of_two_training_stages_belongs_to_both(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", prose(1), prose(1), f"{prose(1)} again")
    sources = (
        source(path, "mid", stage="midtrain"),
        source(path, "sft", stage="sft"),
        source(path, "more", stage="sft"),
    )
    assert kept_ids(run(tmp_path / "data", *sources, near_dedup=True)) == ["mid/a.jsonl:1", "sft/a.jsonl:1"]


def test_near_duplicates_name_what_they_resemble(tmp_path):
    texts = [f"{prose(1, 80)} first", prose(2), f"{prose(1, 80)} second edition", prose(3), "😀", "!"]
    path = jsonl(tmp_path / "a.jsonl", *texts)
    artifact = run(tmp_path / "data", source(path), near_dedup=True)
    assert kept_ids(artifact) == [f"own/a.jsonl:{row}" for row in (1, 2, 4, 5, 6)]
    (row,) = dropped(artifact)
    assert (row["doc_id"], row["reason"]) == ("own/a.jsonl:3", "near_duplicate")
    # 76 shared 5-grams of 77 and 78: 76 / 79.
    assert row["detail"] == f"Jaccard {int(76 / 79 * 10_000) / 10_000:.4f} with own/a.jsonl:1"
    strict = run(tmp_path / "data", source(path), near_dedup=True, near_dedup_threshold=0.99)
    assert len(kept_ids(strict)) == 6


# --- sampling ------------------------------------------------------------------------------------------------


def test_asking_for_more_only_adds_and_the_order_stays(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *(prose(number % 90) for number in range(100)))
    whole = kept_ids(run(tmp_path / "data", source(path)))
    assert len(whole) == 90
    before: set[str] = set()
    for number in (5, 6, 30, 89):
        artifact = run(tmp_path / "data", source(path, sample_documents=number))
        sample = kept_ids(artifact)
        assert len(sample) == number
        assert before < set(sample)
        assert sample == [doc_id for doc_id in whole if doc_id in set(sample)]
        assert artifact.json("stats.json")["sources"][0]["not_sampled"] == 90 - number
        before = set(sample)
    assert kept_ids(run(tmp_path / "data", source(path, sample_documents=1_000))) == whole
    assert kept_ids(run(tmp_path / "data", source(path, sample_documents=30), seed=1)) != sample


def test_another_source_reshuffles_nothing(tmp_path):
    one = source(jsonl(tmp_path / "1.jsonl", *map(prose, range(60))), "one", sample_documents=20)
    two = source(jsonl(tmp_path / "2.jsonl", *map(prose, range(50, 120))), "two", sample_documents=20)
    alone = kept_ids(run(tmp_path / "data", one))
    together = kept_ids(run(tmp_path / "data", one, two))
    assert [doc_id for doc_id in together if doc_id.startswith("one/")] == alone
    # In front, it takes away only what it holds itself; the places of those are filled, no other document moves.
    after = [doc_id for doc_id in kept_ids(run(tmp_path / "data", two, one)) if doc_id.startswith("one/")]
    shared = {f"one/1.jsonl:{row}" for row in range(51, 61)}
    assert set(alone) - shared <= set(after)
    assert len(after) == 20


# --- nothing to do -------------------------------------------------------------------------------------------


def test_no_document_left_says_how_many_were_dropped_and_why(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", "x", "x", "yy", "")
    with pytest.raises(UserError, match=r"all 4 rows were dropped \(3 too_short, 1 empty\); check prepare"):
        run(tmp_path / "data", source(path), min_chars=5)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="no documents: own held no rows"):
        run(tmp_path / "data", source(tmp_path / "empty.jsonl"))
    assert len(kept_ids(run(tmp_path / "data", source(tmp_path / "empty.jsonl"), source(path, "other")))) == 2


def test_duplicate_ids_stop_the_stage(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"id": 7, "text": "a"}, {"id": 7, "text": "b"})
    with pytest.raises(UserError, match=r"id '7' is at a\.jsonl:1 and again at a\.jsonl:2"):
        run(tmp_path / "data", source(path, id_column="id"))


# --- keys ----------------------------------------------------------------------------------------------------


def test_the_key_follows_content_and_settings_not_places(tmp_path):
    here, there = (jsonl(tmp_path / folder / "a.jsonl", "x") for folder in ("here", "there"))
    key = session(tmp_path / "data", source(here)).key(DOCUMENTS)
    assert session(tmp_path / "other", source(there)).key(DOCUMENTS) == key
    assert session(tmp_path / "data", source(here), near_dedup_threshold=0.5).key(DOCUMENTS) == key
    changes: list[dict[str, Any]] = [{"min_chars": 2}, {"seed": 1}, {"near_dedup": True}, {"unicode_form": "NFKC"}]
    keys = {session(tmp_path / "data", source(here), **change).key(DOCUMENTS) for change in changes}
    assert len(keys | {key}) == 5
    jsonl(there, "y")
    assert session(tmp_path / "data", source(there)).key(DOCUMENTS) != key


# --- resuming ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def counted(monkeypatch, kill_at: int | None = None) -> list[str]:
    """The ids of examined rows, in order; the run dies at the `kill_at`th."""
    seen: list[str] = []

    def counting(document, config):
        seen.append(document.doc_id)
        if len(seen) == kill_at:
            raise Killed
        return examine(document, config)

    monkeypatch.setattr(prepare_data, "examine", counting)
    return seen


@pytest.fixture
def two_sources(tmp_path) -> tuple[SourceConfig, SourceConfig]:
    one = jsonl(tmp_path / "1.jsonl", *(prose(number % 70, 12) for number in range(95)))
    two = jsonl(tmp_path / "2.jsonl", *({"id": number, "text": prose(number, 12)} for number in range(60, 130)))
    return source(one, "one"), source(two, "two", id_column="id", sample_documents=30)


@pytest.mark.parametrize("kill_at", [1, 20, 21, 95, 100, 165])
def test_a_killed_run_goes_on_at_its_last_shard(tmp_path, monkeypatch, two_sources, kill_at):
    monkeypatch.setattr(prepare_data, "SHARD_ROWS", 20)
    whole = run(tmp_path / "whole", *two_sources, near_dedup=True)
    assert len(whole.names("documents-*.parquet")) > 1
    seen = counted(monkeypatch, kill_at)
    with pytest.raises(Killed):
        run(tmp_path / "data", *two_sources, near_dedup=True)
    seen.clear()
    again = counted(monkeypatch)
    resumed = run(tmp_path / "data", *two_sources, near_dedup=True)
    # 95 rows of the first source in shards of 20, then 70 of the second.
    done = (kill_at - 1) // 20 * 20 if kill_at <= 95 else 95 + (kill_at - 96) // 20 * 20
    assert len(again) == 165 - done
    assert checksums(resumed) == checksums(whole)


@pytest.mark.parametrize("writing", ["documents-00001.parquet", "dropped-00000.parquet", "stats.json"])
def test_a_run_killed_while_writing_examines_nothing_again(tmp_path, monkeypatch, two_sources, writing):
    monkeypatch.setattr(prepare_data, "SHARD_ROWS", 20)
    whole = run(tmp_path / "whole", *two_sources)
    original = prepare_data.Part.write

    def dying(part, name):
        if name == writing:
            raise Killed
        return original(part, name)

    with monkeypatch.context() as patched:
        patched.setattr(prepare_data.Part, "write", dying)
        with pytest.raises(Killed):
            run(tmp_path / "data", *two_sources)
    seen = counted(monkeypatch)
    monkeypatch.setattr(fates, "decide", None)  # what was decided is not decided again
    assert checksums(run(tmp_path / "data", *two_sources)) == checksums(whole)
    assert seen == []


def test_shards_of_any_size_give_the_same_documents(tmp_path, monkeypatch, two_sources):
    whole = run(tmp_path / "whole", *two_sources, near_dedup=True)
    monkeypatch.setattr(prepare_data, "STAGED_CHARS", 500)
    staged_finely = run(tmp_path / "data", *two_sources, near_dedup=True)
    assert documents(staged_finely) == documents(whole)
    assert dropped(staged_finely) == dropped(whole)
    tables = list(staged_finely.tables("documents-*.parquet"))
    assert len(tables) > len(list(whole.tables("documents-*.parquet")))
    assert max(sum(map(len, table["text"].to_pylist())) for table in tables) <= 500


def test_a_shard_holds_no_more_than_its_rows_and_its_characters(monkeypatch):
    monkeypatch.setattr(prepare_data, "SHARD_ROWS", 3)
    monkeypatch.setattr(prepare_data, "STAGED_CHARS", 10)
    cuts = prepare_data.shard_slices(np.array([4, 6, 1, 1, 1, 1, 25, 2, 9]))
    assert [(cut.start, cut.stop) for cut in cuts] == [(0, 2), (2, 5), (5, 6), (6, 7), (7, 8), (8, 9)]
    assert prepare_data.shard_slices(np.array([], dtype=np.int64)) == []


def test_runs_are_identical_byte_for_byte(tmp_path, two_sources):
    first, second = (run(tmp_path / folder, *two_sources, near_dedup=True) for folder in ("a", "b"))
    assert checksums(first) == checksums(second)


CONFIG = """
from config import *
config = Config(
    name="killed",
    prepare=PrepareConfig(
        sources=(SourceConfig(name="own", reader=FilesReader(paths=({path!r},)), sample_documents=5_000),),
        near_dedup=True,
    ),
    data_dir={data!r},
)
"""


def prepare_command(tmp_path: Path, data: str, *flags: str) -> list[str]:
    config = tmp_path / f"{data}.py"
    config.write_text(CONFIG.format(path=str(tmp_path / "big.jsonl"), data=str(tmp_path / data)))
    return ["prepare_data.py", str(config), *flags]


def run_command(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], check=check, cwd=ROOT, capture_output=True, text=True)


def test_the_command_killed_for_real_and_run_again(tmp_path):
    jsonl(tmp_path / "big.jsonl", *(prose(number, 12) for number in range(8_000)))
    whole = run_command(*prepare_command(tmp_path, "whole", "--json"))
    killed = run_command(
        "tests/killed_at.py", "000-00001.parquet", "after", *prepare_command(tmp_path, "data"), check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "data").glob("documents/*.part/scratch/000-00001.parquet"))
    assert not list((tmp_path / "data").glob("documents/*/manifest.json"))
    again = run_command(*prepare_command(tmp_path, "data", "--json"))
    assert json.loads(again.stdout)["result"] == json.loads(whole.stdout)["result"]
    assert manifest(tmp_path / "data")["files"] == manifest(tmp_path / "whole")["files"]
    assert manifest(tmp_path / "data")["resumed_files"] >= 2


def manifest(data: Path) -> dict:
    (path,) = data.glob("documents/*/manifest.json")
    return json.loads(path.read_text())


def test_the_command_prints_a_table_and_its_errors_are_one_line(tmp_path):
    jsonl(tmp_path / "big.jsonl", prose(1), prose(1), prose(2))
    done = run_command(*prepare_command(tmp_path, "data"))
    assert "1 exact_duplicate" in done.stdout
    assert "next:   uv run embed_chunks.py" in done.stdout
    cached = run_here(ROOT / "prepare_data.py", *prepare_command(tmp_path, "data")[1:], folder=ROOT)
    assert "cached" in cached.stdout
    (tmp_path / "big.jsonl").write_text('{"text": "x"}\n{oops\n')
    failed = run_here(ROOT / "prepare_data.py", *prepare_command(tmp_path, "data")[1:], folder=ROOT)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "big.jsonl:2: not JSON" in failed.stderr


# --- configs -------------------------------------------------------------------------------------------------


def test_the_nanochat_configs_name_the_mix():
    tiny, full = (load_config(ROOT / "configs" / name) for name in ("nanochat_01_tiny.py", "nanochat_02_full.py"))
    from corpus import resolve_sources

    small, large = resolve_sources(tiny.prepare), resolve_sources(full.prepare)
    assert [item.name for item in small] == [item.name for item in large]
    assert {item.sample_documents for item in small} == {300}
    assert [replace(item, take_rows=None, sample_documents=None) for item in small] == [
        replace(item, take_rows=None) for item in large
    ]


def test_docstrings_of_a_real_package(tmp_path):
    packages = SourceConfig(name="packages", reader=PackagesReader(packages=("networkx",)), sample_documents=50)
    rows = documents(run(tmp_path / "data", packages))
    assert len(rows) == 50
    assert {json.loads(row["metadata"])["package"] for row in rows} == {"networkx"}


# --- real data -----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_digit_perturbed_questions_are_found_as_near_duplicates(tmp_path, realdata):
    """Most of GSM-Hard are GSM8K test questions with other numbers, in another order."""
    original = source(realdata / "benchmarks" / "gsm8k" / "test.jsonl", "gsm8k", text=TemplateText("{question}"))
    perturbed = source(realdata / "benchmarks" / "gsm_hard" / "test.jsonl", "hard", text=TemplateText("{input}"))
    artifact = run(
        tmp_path / "data", original, perturbed, near_dedup=True, near_dedup_threshold=0.5, near_dedup_ngram=2
    )
    found = [row for row in dropped(artifact) if row["source"] == "hard"]
    assert len(found) > 1_000


@pytest.mark.realdata
def test_real_textbooks_pass_the_quality_filter(tmp_path, realdata):
    books = source(
        realdata / "corpora" / "openstax" / "us-history.jsonl.gz", "books", label_columns=("book", "chapter")
    )
    (stats,) = run(tmp_path / "data", books, quality_filter=True).json("stats.json")["sources"]
    judged = sum(number for reason, number in stats["dropped"].items() if reason != "exact_duplicate")
    assert judged < 0.02 * stats["read"]
