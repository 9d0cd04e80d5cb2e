"""The adaptive preset: planted trees are found, structureless vectors are not split."""

from __future__ import annotations

import numpy as np
import pytest

from common.adaptive import AdaptiveSettings, grow_adaptive
from common.cluster_tree import validate


def planted(sizes: dict[str, int], dims: int = 40, spread: float = 0.08, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Unit-ish rows of a planted tree: `{"a.x": 50}` is 50 rows about a child x of a topic a."""
    draw = np.random.default_rng(seed)
    tops = {name.split(".")[0]: draw.normal(size=dims) for name in sizes}
    rows, names = [], []
    for name, count in sizes.items():
        center = tops[name.split(".")[0]] / np.sqrt(dims) + 0.6 * draw.normal(size=dims) / np.sqrt(dims)
        rows.append(center + spread * draw.normal(size=(count, dims)))
        names += [name] * count
    return np.concatenate(rows).astype(np.float32), names


def test_a_planted_tree_is_found() -> None:
    vectors, names = planted({f"{top}.{leaf}": 60 for top in "abc" for leaf in "xyz"})
    tree = grow_adaptive(vectors)
    validate(tree.root)
    assert len(set(tree.filled)) == 9
    assert len(set(zip(tree.filled, names, strict=True))) == 9


@pytest.mark.parametrize("seed", range(3))
def test_structureless_vectors_are_left_alone(seed: int) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(600, 30)) @ np.diag(np.linspace(1, 0.1, 30))
    root = grow_adaptive(vectors, AdaptiveSettings(seed=seed)).root
    assert root.why_stopped == "null"
