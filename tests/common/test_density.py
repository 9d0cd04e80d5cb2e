"""Each engine of the density step: the planted clusters, agreement with the reference, one result at any threads."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from common.cluster_tree import SplitParameters
from common.density import EXTRAS, Engine, check_engine, density_clusters, projects
from common.errors import UserError
from tests.planted import on_one_thread

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = SplitParameters("hdbscan", 20, 10, 15, 8, "cosine", 42)
ENGINES: list[Engine] = ["hdbscan", "sklearn", "fast_hdbscan", "evoc"]
# In a fresh installation evoc first compiles itself, for a minute or two.
SLOW = [pytest.mark.slow, pytest.mark.timeout(600)]
EACH = [*ENGINES[:3], pytest.param("evoc", marks=SLOW)]


def planted(each: int = 60, topics: int = 4, dims: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around orthogonal directions, every fifth one anywhere (labelled -1)."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(topics), each)
    points = np.eye(dims)[labels] + draw.normal(scale=0.12, size=(len(labels), dims))
    points[::5], labels[::5] = draw.normal(size=(len(labels[::5]), dims)), -1
    return points / np.linalg.norm(points, axis=1, keepdims=True), labels


def engine_or_skip(engine: Engine) -> Engine:
    if engine in EXTRAS and importlib.util.find_spec(engine) is None:
        pytest.skip(f"the extra '{EXTRAS[engine]}' is not installed")
    return engine


@pytest.mark.parametrize("engine", EACH)
def test_planted_clusters_are_found_and_agree_with_hdbscan(engine):
    points, truth = planted()
    found = density_clusters(points, PARAMETERS, engine_or_skip(engine))
    core = (truth >= 0) & (found.labels >= 0)
    assert core.sum() > 0.9 * (truth >= 0).sum()
    assert adjusted_rand_score(truth[core], found.labels[core]) == 1.0
    reference = density_clusters(points, PARAMETERS, "hdbscan")
    assert adjusted_rand_score(reference.labels[core], found.labels[core]) == 1.0


@pytest.mark.parametrize("engine", ["sklearn", "fast_hdbscan"])
def test_the_other_implementations_give_the_labels_and_strengths_of_hdbscan(engine):
    """Among many rows without order a wrong count of neighbours would show; hdbscan's own tree is approximate."""
    points = np.concatenate([planted()[0], np.random.default_rng(1).normal(size=(200, 8))])
    ours = density_clusters(points, PARAMETERS, "hdbscan")
    theirs = density_clusters(points, PARAMETERS, engine_or_skip(engine))
    assert adjusted_rand_score(ours.labels, theirs.labels) > 0.98
    same = (ours.labels >= 0) == (theirs.labels >= 0)
    assert np.median(np.abs(ours.strength - theirs.strength)[same]) < 1e-6


@pytest.mark.parametrize("engine", EACH)
def test_strength_is_a_share_and_nothing_for_noise(engine):
    found = density_clusters(planted()[0], PARAMETERS, engine_or_skip(engine))
    assert found.strength.dtype == np.float32
    assert (found.strength[found.labels < 0] == 0).all()
    clustered = found.strength[found.labels >= 0]
    assert ((clustered > 0) & (clustered <= 1)).all()
    # The last of a cluster to belong to it are farther out than its middle.
    assert clustered.min() < 0.9 < clustered.max()


@pytest.mark.parametrize("engine", EACH)
@pytest.mark.parametrize("n", [3, 4, 5, 16, 30])
def test_few_rows_and_copies_do_not_crash(engine, n):
    engine_or_skip(engine)
    parameters = SplitParameters(engine, 2, min(10, n - 1), min(15, n - 1), 8, "cosine", 42)
    points = planted(seed=2)[0][:n]
    for rows in (points, np.repeat(points[:2], [1, n - 1], axis=0)):
        found = density_clusters(rows, parameters, engine)
        assert found.labels.shape == found.strength.shape == (n,)


def test_only_evoc_takes_vectors_as_they_are():
    assert [projects(engine) for engine in ENGINES] == [True, True, True, False]


@pytest.mark.parametrize(("engine", "extra"), EXTRAS.items())
def test_a_missing_package_is_named_with_the_command_that_installs_it(engine, extra, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == engine else real(name, *rest))
    with pytest.raises(UserError, match=f"engine '{engine}' is not installed; to install it: uv sync --extra {extra}"):
        check_engine(engine)
    check_engine("hdbscan")


PROGRAM = """
import json, sys, numpy as np
from common.cluster_tree import SplitParameters
from common.density import density_clusters
points, engine = np.load(sys.argv[1]), sys.argv[2]
found = density_clusters(points, SplitParameters(engine, 20, 10, 15, 8, "cosine", 42), engine)
print(json.dumps([found.labels.tolist(), found.strength.tolist()]))
"""


# A process compiles anew: hdbscan alone on every run, the others with `-m slow`.
@pytest.mark.parametrize("engine", ["hdbscan", *(pytest.param(name, marks=SLOW) for name in ENGINES[1:])])
def test_a_fresh_process_with_two_threads_agrees_with_one_thread_here_byte_for_byte(engine, tmp_path):
    """Structureless points as well, on which a race would show."""
    engine_or_skip(engine)
    points = np.concatenate([planted()[0], np.random.default_rng(1).normal(size=(600, 8))])
    np.save(tmp_path / "p.npy", points)
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "2"), "PYTHONHASHSEED": "2"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "p.npy"), engine]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    with on_one_thread():
        found = density_clusters(points, SplitParameters(engine, 20, 10, 15, 8, "cosine", 42), engine)
    here = json.dumps([found.labels.tolist(), found.strength.tolist()])
    assert process.communicate()[0].decode().strip() == here
    assert found.labels.max() >= 1
