"""Keys: one written form for one value, and pinned keys for fixed settings of every core stage.

After a change that is meant to change keys: uv run python -m tests.common.test_keys --write
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.keys import all_settings, canonical, canonical_json, digest, keyed_settings
from common.store import key_of
from config import Config, EmbeddingConfig, SearchConfig, Section, runtime, setting

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "golden_keys.json"

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8"))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def reordered(value):
    """The same value with every table written in the opposite order."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@settings(derandomize=True, max_examples=100, deadline=None)
@given(values)
def test_the_order_of_names_does_not_matter_and_nothing_is_lost(value):
    text = canonical_json(value)
    assert text == canonical_json(reordered(value))
    assert text.isascii()
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@settings(derandomize=True, max_examples=100, deadline=None)
@given(values, values)
def test_equal_digests_mean_equal_values(one, two):
    assert (digest(one) == digest(two)) == (canonical_json(one) == canonical_json(two))


@pytest.mark.parametrize(
    ("one", "two"),
    [(1, 1.0), (1, True), (0, False), (1, "1"), (None, "null"), ([], {}), ([1, 2], [2, 1]), ("é", "e\u0301")],
)
def test_values_that_differ_in_type_or_order_differ(one, two):
    assert digest(one) != digest(two)


def test_tuples_and_lists_are_one():
    assert digest((1, (2, 3))) == digest([1, [2, 3]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="no canonical form"):
        canonical_json({"a": [value]})


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, Path("x"), object(), {1: "a"}])
def test_what_has_no_single_written_form_is_refused(value):
    with pytest.raises(TypeError):
        digest({"a": value})


def test_known_digest():
    """Computed by hand: printf '{"a":1.5,"b":[true,null]}' | sha256sum."""
    assert canonical_json({"b": [True, None], "a": 1.5}) == '{"a":1.5,"b":[true,null]}'
    assert digest({"b": [True, None], "a": 1.5}) == "e028cd937aee508e"


@dataclass(frozen=True)
class Inner(Section):
    depth: int = setting(3)
    threads: int = runtime(1)


@dataclass(frozen=True)
class Outer(Section):
    inner: Inner = setting(Inner())
    name: str = setting("x")
    device: str = runtime("cpu")


def test_runtime_fields_are_never_keyed_however_deep():
    slow, fast = Outer(), Outer(inner=Inner(threads=64), device="cuda")
    assert keyed_settings(slow) == keyed_settings(fast) == {"inner": {"depth": 3}, "name": "x"}
    assert keyed_settings(slow, drop=("name",)) == {"inner": {"depth": 3}}
    assert canonical(slow) == keyed_settings(slow)
    assert all_settings(fast) == {"inner": {"depth": 3, "threads": 64}, "name": "x", "device": "cuda"}


# --- golden keys ---------------------------------------------------------------------------------------------

CONFIGS = {
    "defaults": Config(name="golden"),
    "transformer": Config(
        name="golden",
        embedding=EmbeddingConfig(engine="sentence_transformers", model="a/model", dtype="float16", storage="float16"),
        search=SearchConfig(queries=("a question",), metric="manhattan", k=7),
    ),
}


def core_keys() -> dict[str, dict[str, str]]:
    """Keys of every core stage, with each upstream key and each content id replaced by a fixed word."""
    from run_pipeline import STAGES

    return {
        name: {
            stage.name: key_of(
                stage.name, stage.version, stage.settings(config), {item.name: "upstream" for item in stage.inputs}
            )
            for stage in STAGES
        }
        for name, config in CONFIGS.items()
    }


def test_golden_keys():
    """A key that changes without intent orphans everyone's artifacts."""
    assert core_keys() == json.loads(GOLDEN.read_text())


def test_changing_the_clustering_leaves_every_upstream_key_alone():
    from dataclasses import replace

    from run_pipeline import STAGES

    base = CONFIGS["defaults"]
    changed = replace(base, clustering=replace(base.clustering, max_depth=2))
    same = {stage.name for stage in STAGES if stage.settings(base) == stage.settings(changed)}
    assert same >= {"documents", "chunks", "vectors", "neighbours"}
    assert "clusters" not in same


def test_runtime_settings_of_every_section_leave_every_key_alone():
    from dataclasses import fields, replace

    from run_pipeline import STAGES

    base, other = CONFIGS["defaults"], CONFIGS["defaults"]
    elsewhere = {int: 7, float: 0.5, str: "elsewhere", bool: False, type(None): 3.0}
    for section in ("chunking", "embedding", "search"):
        values = getattr(base, section)
        unkeyed = [item.name for item in fields(values) if not item.metadata["keyed"]]
        assert unkeyed
        other = replace(
            other, **{section: replace(values, **{n: elsewhere[type(getattr(values, n))] for n in unkeyed})}
        )
    other = replace(other, data_dir="elsewhere", progress=False)
    assert [stage.settings(base) for stage in STAGES] == [stage.settings(other) for stage in STAGES]
    named = replace(other, name="other")
    moved = [stage.name for stage in STAGES if stage.settings(base) != stage.settings(named)]
    assert moved == ["taxonomy", "report"]  # the pages have the name for their title


if __name__ == "__main__" and "--write" in sys.argv:
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(core_keys(), indent=1) + "\n")
