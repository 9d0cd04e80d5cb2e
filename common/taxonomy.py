"""A named cluster tree with everything that is shown of it, whatever shows it: page, figure, dashboard or table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from common.assignment import ancestors
from common.cluster_tree import ROOT_ID

# What DataMapPlot and its kin call a point in no cluster.
UNLABELLED = "Unlabelled"


@dataclass(frozen=True)
class Sample:
    """A text of a cluster."""

    chunk_id: str
    source: str
    text: str


@dataclass(frozen=True)
class Errors:
    """What became of the outputs assigned to a cluster and everything below it.

    Args:
        outputs: how many there are.
        graded: how many of them are known to be right or wrong.
        wrong: how many of those are wrong.
        low, high: Wilson's interval of wrong / graded, for as many independent answers as they are worth; None
            without a graded one.
        q: of the test that the cluster's rate is that of all outputs, adjusted for the number of clusters; None where
            it was not tested.
        difficulty: mean over the outputs' questions of the share of graded answers to the question, of any model and
            in any cluster, that are wrong; None where no question is known.
    """

    outputs: int
    graded: int
    wrong: int
    low: float | None = None
    high: float | None = None
    q: float | None = None
    difficulty: float | None = None

    @property
    def rate(self) -> float | None:
        return self.wrong / self.graded if self.graded else None


@dataclass(frozen=True)
class TaxonomyNode:
    """One cluster, or the root; counts are of chunks and include everything below.

    Args:
        path: `root`, `0`, `0.3`, ...
        noise: members that are in none of its children.
        cohesion, cohesion_projected: mean silhouette of its own members among its siblings, between the vectors and
            in the projection; None for the root.
        separation, separation_projected: mean silhouette of its children; None for a leaf.
        stopped: why it was not split, in words; empty for a cluster with children.
        scores: one for each of `keyphrases`.
        central, random: its texts nearest to the centroid, and others chosen by hash.
        stages, sources: its chunks by training stage, and by `source · stage`.
        errors: None when no outputs are annotated.
    """

    path: str
    parent: str | None
    depth: int
    name: str
    size: int
    noise: int
    cohesion: float | None = None
    cohesion_projected: float | None = None
    separation: float | None = None
    separation_projected: float | None = None
    stopped: str = ""
    keyphrases: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    central: tuple[Sample, ...] = ()
    random: tuple[Sample, ...] = ()
    stages: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    errors: Errors | None = None


@dataclass(frozen=True)
class Points:
    """The chunks on the map, as columns of one length; `path` is the deepest cluster, where a noise chunk stays."""

    chunk_row: Sequence[int]
    chunk_id: Sequence[str]
    x: Sequence[float]
    y: Sequence[float]
    path: Sequence[str]
    is_noise: Sequence[bool]
    source: Sequence[str]
    stage: Sequence[str]
    text: Sequence[str]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Taxonomy:
    """The tree (parents before children, siblings in order), its map, and where it comes from.

    Args:
        nodes: the root first.
        method: how the map was laid out, `umap` or `pca`.
        not_sampled, without_vector: chunks that are not on the map, and why.
    """

    name: str
    nodes: tuple[TaxonomyNode, ...]
    points: Points
    method: str
    not_sampled: int = 0
    without_vector: int = 0
    preset: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def root(self) -> TaxonomyNode:
        return self.nodes[0]

    @property
    def clusters(self) -> tuple[TaxonomyNode, ...]:
        """Every node but the root."""
        return self.nodes[1:]

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return max(node.depth for node in self.nodes)

    def by_path(self) -> dict[str, TaxonomyNode]:
        return {node.path: node for node in self.nodes}

    def children(self) -> dict[str, list[TaxonomyNode]]:
        """The children of every node, in order; none for a leaf."""
        found: dict[str, list[TaxonomyNode]] = {node.path: [] for node in self.nodes}
        for node in self.clusters:
            found[node.parent or ROOT_ID].append(node)
        return found


# --- paths ---------------------------------------------------------------------------------------------------


def named_path(path: str, names: Mapping[str, str]) -> str:
    """The names on the way from depth 1 down to `path`; empty for the root."""
    return " › ".join(names.get(step, step) for step in ancestors(path))


def is_inside(path: str, above: str) -> bool:
    """Whether `path` is the cluster `above` or lies below it."""
    return above == ROOT_ID or path == above or path.startswith(f"{above}.")


def level_columns(paths: Sequence[str], names: Mapping[str, str], depth: int) -> dict[str, list[str]]:
    """For each level from 1 to `depth`, the id and the name of the cluster that each path passes there.

    Names that several clusters of a level share are followed by the id, so that a label stands for one cluster. Where
    a path has ended, both say `Unlabelled`.
    """
    steps = [ancestors(path) for path in paths]
    columns: dict[str, list[str]] = {}
    for level in range(depth):
        ids = [each[level] if len(each) > level else UNLABELLED for each in steps]
        labels = _distinct_labels({each for each in ids if each != UNLABELLED}, names)
        columns[f"cluster_id_{level + 1}"] = ids
        columns[f"cluster_{level + 1}"] = [labels.get(each, UNLABELLED) for each in ids]
    return columns


def _distinct_labels(ids: set[str], names: Mapping[str, str]) -> dict[str, str]:
    counts = Counter(names.get(each, each) for each in ids)
    counts[UNLABELLED] += 1
    return {each: name if counts[name] == 1 else f"{name} ({each})" for each in ids for name in [names.get(each, each)]}


# --- JSON ----------------------------------------------------------------------------------------------------


def to_json(taxonomy: Taxonomy) -> dict[str, Any]:
    """Everything but the points, as plain JSON types."""
    facts = {name: value for name, value in vars(taxonomy).items() if name not in ("nodes", "points")}
    return {**facts, "nodes": [asdict(node) for node in taxonomy.nodes]}


def from_json(value: Mapping[str, Any], points: Points) -> Taxonomy:
    """The inverse of `to_json`."""
    facts = {name: item for name, item in value.items() if name not in ("nodes", "warnings")}
    nodes = tuple(_node(item) for item in value["nodes"])
    return Taxonomy(**facts, warnings=tuple(value["warnings"]), nodes=nodes, points=points)


def _node(value: Mapping[str, Any]) -> TaxonomyNode:
    read: dict[str, Any] = dict(value)
    read |= {name: tuple(Sample(**each) for each in value[name]) for name in ("central", "random")}
    read |= {name: tuple(value[name]) for name in ("keyphrases", "scores")}
    read["errors"] = Errors(**value["errors"]) if value["errors"] else None
    return TaxonomyNode(**read)


# --- what a colour stands for ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Something a cluster can be coloured by: its name in a menu, and what it says."""

    key: str
    title: str
    note: str


MEASURES = (
    Measure("cohesion", "silhouette", "how much nearer its members are to each other than to its siblings', by cosine"),
    Measure("cohesion_projected", "silhouette in the projection", "the same in the space the clusters were found in"),
    Measure("depth", "depth", "levels below the root"),
    Measure("noise_share", "noise", "share of its members that are in none of its children"),
    Measure("error_rate", "error rate", "share of the graded outputs assigned to it that are wrong"),
    Measure("difficulty", "difficulty", "mean share of wrong answers to the questions assigned to it"),
)


def measure(node: TaxonomyNode, key: str) -> float | None:
    """The value of one of `MEASURES` for a cluster; None where it has none."""
    if key == "noise_share":
        return node.noise / node.size if node.size else None
    if key in ("error_rate", "difficulty"):
        return None if node.errors is None else node.errors.rate if key == "error_rate" else node.errors.difficulty
    return getattr(node, key)


def measures_of(taxonomy: Taxonomy) -> Iterator[Measure]:
    """The measures that at least one cluster has."""
    for each in MEASURES:
        if any(measure(node, each.key) is not None for node in taxonomy.clusters):
            yield replace(each, note=f"{each.note}; {standing_out(taxonomy)}") if each.key == "error_rate" else each


def standing_out(taxonomy: Taxonomy) -> str:
    """How many error rates are other than that of all outputs by more than chance: colours alone would not say."""
    q_values = [node.errors.q for node in taxonomy.clusters if node.errors and node.errors.q is not None]
    if not q_values:
        return "no cluster has enough of them to be tested"
    return f"{sum(q <= 0.05 for q in q_values)} of {len(q_values)} clusters differ from the rest by more than chance"
