"""Docstrings of installed packages, from a package laid out in a folder and from a real one."""

from __future__ import annotations

import ast
import importlib.metadata

import pytest

from common import docstrings
from common.docstrings import definitions, module_name, packages_id, packages_of, read_packages
from common.errors import UserError
from common.rows import BadRow
from config import PackagesReader

MODULE = '''"""The module's docstring, long enough to count."""

class Shape:
    """A shape with sides, indented:

    so
        like this.
    """

    @property
    def area(self):
        """The area of this shape, in square metres."""

    @area.setter
    def area(self, value):
        """Set the area of this shape, in square metres."""

    def short(self):
        """Too short."""

if True:
    async def chosen():
        """Defined under a condition, and still found."""
        def inner():
            """Defined inside a function, and not a document."""
raise RuntimeError("nothing may run this file")
'''


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A distribution `Demo_Pkg`, installed in a folder of its own."""
    files = {
        "demo/__init__.py": MODULE,
        "demo/sub/deep.py": '"""A module deep in the package, with text."""\n',
        "demo/broken.py": "def (:\n" + "# padding so that the file is long enough to be read\n",
        "demo/latin.py": b'"""No coding cookie, and a byte that is not UTF-8: \xe9"""\n',
        "demo/tests/test_demo.py": '"""A test is not a document, however long it is."""\n',
        "demo/_vendor/other.py": '"""A copy of another package is not a document."""\n',
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "demo" / "unlisted.py").write_text('"""Not in RECORD, so not of this distribution."""\n')
    info = tmp_path / "demo_pkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Demo_Pkg\nVersion: 1.0\n")
    listed = [*files, "demo/gone.py", "../../../bin/script.py"]
    (info / "RECORD").write_text("".join(f"{name},sha256=x{number},1\n" for number, name in enumerate(listed)))
    found = importlib.metadata.Distribution.at(info)
    monkeypatch.setattr(docstrings, "_installed", lambda: {"demo-pkg": found})
    return info


def test_documents_of_a_package(demo):
    rows = list(read_packages(PackagesReader(packages=("demo.PKG",), min_chars=40)))
    good = {row.key: row for row in rows if not isinstance(row, BadRow)}
    assert list(good) == [
        "demo-pkg/demo",
        "demo-pkg/demo:Shape",
        "demo-pkg/demo:Shape.area",
        "demo-pkg/demo:Shape.area@15",
        "demo-pkg/demo:chosen",
        "demo-pkg/demo.sub.deep",
    ]
    assert good["demo-pkg/demo:Shape"].fields == {
        "text": "A shape with sides, indented:\n\nso\n    like this.",
        "package": "demo-pkg",
        "module": "demo",
        "kind": "class",
        "qualname": "Shape",
        "line": 3,
    }
    assert good["demo-pkg/demo:chosen"].fields["kind"] == "function"
    assert good["demo-pkg/demo.sub.deep"].fields["kind"] == "module"


def test_what_does_not_parse_is_skipped_with_the_reason(demo):
    bad = [
        row for row in read_packages(PackagesReader(packages=("demo-pkg",), min_chars=40)) if isinstance(row, BadRow)
    ]
    assert [(row.key, row.reason) for row in bad] == [
        ("demo-pkg/demo.broken", "unparsable"),
        ("demo-pkg/demo.gone", "unparsable"),
        ("demo-pkg/demo.latin", "unparsable"),
    ]
    assert bad[0].detail == "line 1: invalid syntax"
    assert "cannot be read" in bad[1].detail


def test_the_id_follows_record_and_not_the_files(demo):
    reader = PackagesReader(packages=("demo-pkg",))
    before = packages_id(reader)
    (demo.parent / "demo" / "sub" / "deep.py").write_text("changed")
    assert packages_id(reader) == before
    record = demo / "RECORD"
    record.write_text(record.read_text().replace("sha256=x1", "sha256=other"))
    changed = packages_id(reader)
    assert changed != before
    record.write_text(record.read_text() + "demo/tests/test_more.py,sha256=y,1\n")
    assert packages_id(reader) == changed


def test_a_package_that_is_not_installed():
    with pytest.raises(UserError, match="package 'nunpy' is not installed; did you mean 'numpy'"):
        packages_of(PackagesReader(packages=("nunpy",)))


def test_names_of_modules():
    assert module_name("pkg/__init__.py") == "pkg"
    assert module_name("pkg/sub/mod.py") == "pkg.sub.mod"
    assert module_name("single.py") == "single"


def test_a_real_package_agrees_with_its_imported_docstrings():
    import inspect

    import networkx

    rows = {row.key: row for row in read_packages(PackagesReader(packages=("networkx",), min_chars=80))}
    assert len(rows) > 1_000
    row = rows["networkx/networkx.classes.graph:Graph.add_node"]
    assert not isinstance(row, BadRow)
    assert row.fields["text"] == inspect.getdoc(networkx.Graph.add_node)


def test_definitions_are_in_the_order_of_the_file():
    lines = [line for _, _, line, _ in definitions(ast.parse(MODULE))]
    assert lines == sorted(lines)
