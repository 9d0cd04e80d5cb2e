"""The density step of a split: points -> labels and strengths, by one of several libraries.

`hdbscan` and scikit-learn's give the same labels; `fast_hdbscan` breaks ties its own way and is quicker on many rows;
`evoc` makes its own low-dimensional embedding of the vectors, so that nothing is projected for it (McInnes 2025).
All are seeded or free of chance, and run on one thread: none is the same at two (EVoC: ARI 0.27 between them).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int

    from common.cluster_tree import SplitParameters

Engine = Literal["hdbscan", "sklearn", "fast_hdbscan", "evoc"]

# The extra of pyproject.toml that brings an engine's package, for those that a plain install does without.
EXTRAS: dict[Engine, str] = {"fast_hdbscan": "fast-hdbscan", "evoc": "evoc"}
# EVoC's own principal components need as many rows as its embedding has dimensions.
EVOC_ROWS = 4


@dataclass(frozen=True, eq=False)
class Density:
    """Clusters found by density.

    Args:
        labels: -1 is noise.
        strength: how firmly each row belongs to its cluster, in [0, 1]: for HDBSCAN its density as a share of the
            densest row's, the library's membership probability; 0 for noise.
    """

    labels: Int[np.ndarray, " n"]
    strength: Float32[np.ndarray, " n"]


def projects(engine: Engine) -> bool:
    """Whether an engine clusters a projection (UMAP) of the vectors, not the vectors themselves."""
    return engine != "evoc"


def check_engine(engine: Engine) -> None:
    """Raise UserError, naming the command that installs it, when an engine's package is missing."""
    extra = EXTRAS.get(engine)
    if extra and importlib.util.find_spec(engine) is None:
        raise UserError(f"clustering.engine '{engine}' is not installed; to install it: uv sync --extra {extra}")


def density_clusters(points: Float[np.ndarray, "n c"], parameters: SplitParameters, engine: Engine) -> Density:
    """Cluster points under Euclidean distance (EVoC: under cosine), clusters chosen by excess of mass.

    Raises:
        UserError: the engine's package is not installed.
    """
    check_engine(engine)
    labels, strength = _ENGINES[engine](points, parameters)
    labels = np.asarray(labels, dtype=np.int64)
    strength = np.nan_to_num(np.asarray(strength, dtype=np.float32), nan=0.0)
    return Density(labels, np.where(labels >= 0, np.clip(strength, 0, 1), 0).astype(np.float32))


def _hdbscan(points: Float[np.ndarray, "n c"], parameters: SplitParameters) -> tuple[np.ndarray, np.ndarray]:
    from hdbscan import HDBSCAN

    size = {"min_cluster_size": parameters.min_cluster_size, "min_samples": parameters.min_samples}
    model = HDBSCAN(**size, cluster_selection_method="eom", core_dist_n_jobs=1).fit(points)
    return model.labels_, model.probabilities_


def _sklearn(points: Float[np.ndarray, "n c"], parameters: SplitParameters) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import HDBSCAN

    # It counts a row among its own neighbours, which hdbscan does not.
    size = {"min_cluster_size": parameters.min_cluster_size, "min_samples": parameters.min_samples + 1}
    model = HDBSCAN(**size, cluster_selection_method="eom", n_jobs=1, copy=True).fit(points)
    return model.labels_, model.probabilities_


def _fast_hdbscan(points: Float[np.ndarray, "n c"], parameters: SplitParameters) -> tuple[np.ndarray, np.ndarray]:
    from fast_hdbscan import HDBSCAN

    size = {"min_cluster_size": parameters.min_cluster_size, "min_samples": parameters.min_samples}
    with one_numba_thread():
        model = HDBSCAN(**size, cluster_selection_method="eom", reproducible=True).fit(points)
    return model.labels_, model.probabilities_


def _evoc(points: Float[np.ndarray, "n c"], parameters: SplitParameters) -> tuple[np.ndarray, np.ndarray]:
    """EVoC's finest layer: the one whose smallest cluster is the one asked for."""
    from evoc import EVoC

    if len(points) < EVOC_ROWS:
        return np.full(len(points), -1), np.zeros(len(points))
    with one_numba_thread():
        model = EVoC(
            base_min_cluster_size=parameters.min_cluster_size,
            min_samples=parameters.min_samples,
            n_neighbors=parameters.n_neighbors,
            random_state=parameters.seed,
        ).fit(np.ascontiguousarray(points, dtype=np.float32))
    return model.cluster_layers_[0], model.membership_strength_layers_[0]


_ENGINES: dict[Engine, Callable[[np.ndarray, SplitParameters], tuple[np.ndarray, np.ndarray]]] = {
    "hdbscan": _hdbscan,
    "sklearn": _sklearn,
    "fast_hdbscan": _fast_hdbscan,
    "evoc": _evoc,
}


@contextmanager
def one_numba_thread() -> Generator[None]:
    """One thread for compiled loops: how they share out rows, and their random draws, then never vary."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)
