"""A file that somebody asked for is whole, or as it was; where it cannot be written, one line says so."""

from __future__ import annotations

import os
import threading

import pytest

from common.errors import ConfigError
from common.exports import asked_file


def test_it_is_there_when_it_is_whole_and_untouched_before(tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), asked_file(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
    assert target.read_text() == "old"
    with asked_file(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out.csv", "new")]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("real")
    with asked_file(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with asked_file(pipe) as path:
        path.write_text("through")
    reader.join()
    assert read == ["through"]


@pytest.mark.parametrize(("name", "reason"), [("missing/out", "No such file"), ("file/out", "Not a directory")])
def test_what_cannot_be_written_is_one_line(tmp_path, name, reason):
    (tmp_path / "file").touch()
    expected = f"^--csv .*{name}: cannot be written: {reason}"
    with pytest.raises(ConfigError, match=expected), asked_file(tmp_path / name, "--csv") as path:
        path.write_text("x")
