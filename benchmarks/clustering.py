"""Trees of topics: ours beside BERTopic, EVoC and k-means, on the same vectors in one run.

Reads the corpus that is asked for, embeds it once and writes only to a temporary folder; each fit runs in a process of
its own. Exits with 1 when a goal is missed.

    uv run --group benchmarks benchmarks/clustering.py                           docstrings of the installed packages
    uv run --group benchmarks benchmarks/clustering.py --openstax --mmlu --ag-news   (CORPUS_PROXIMITY_REALDATA)
    uv run --group benchmarks benchmarks/clustering.py --vectors x.npy --labels labels.csv
    uv run --group benchmarks benchmarks/clustering.py --openstax --model .../potion-base-4m --sections quality
    uv run --group benchmarks benchmarks/clustering.py --sections scale --scale 1000000

Sections: `quality` (each method's fit, its scores, seconds and memory), `threads` (one and two threads: the same
bytes?), `seeds` (agreement of other seeds), `null` (Gaussian draws with the corpus's mean and covariance: is a
structureless corpus left whole?), `assign` (do the fitted rows, assigned anew, come back to their clusters?), `cold`
(405 rows in a new process) and, only when asked for, `scale` (a million synthetic rows).

How it is scored. A tree of depth D is cut for L levels of labels at L depths that depend on D and L alone: the
coarsest level goes with depth 1, the finest with depth D, the others evenly between. EVoC's layers are taken the same
way, a flat method serves every level, and `given k` methods are told the true number of classes. `own` is the layer
that a peer calls its result, `best` the depth or layer that scores best against the labels: nobody can choose it so,
it says what was possible. Scores come twice: over the clustered rows, and with the noise filled; where a method does
not fill, the nearest centroid and the vote of the 15 nearest neighbours are both tried, and it gets the better. Purity
is dendrogram purity, of the filled tree, against every level, with a 95% bootstrap interval over rows.

CPU-seconds count all threads. `first` is a fit in a new process, imports and compilation included; the figure is the
cheapest of `--repeats` later fits in the same process, methods taking turns. Memory is the peak during those. On a
busy machine threads that wait for each other burn CPU-seconds: `--threads 1` is fairer there, to everybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from clustering_corpora import CORPORA, REALDATA, Labelled, chosen_rows, docstrings, embed, labels_of_file, realdata
from clustering_methods import METHODS, OURS, Found, load_given, why_not
from clustering_scale import FITTED, grow_over, plant
from measuring import (
    Line,
    Verdict,
    at_least,
    at_most,
    in_fresh_process,
    make_parser,
    report,
    run_well,
    spent_on,
    work,
)

from common.tree_scores import (
    NOISE,
    Interval,
    LevelScores,
    RowTree,
    adjusted_rand,
    purity_interval,
    score_level,
    subtree_levels,
)

if TYPE_CHECKING:
    from jaxtyping import Float32, Int

SECTIONS = ("quality", "threads", "seeds", "null", "assign", "cold", "scale")
PEERS = tuple(method for method in METHODS if method not in OURS)
# The goal is to be above these; the others are beside them for information.
RIVALS = ("bertopic", "bertopic tree, given k", "evoc", "k-means, given k")
SMALL_ROWS = 405
NEIGHBOURS = 15  # that vote on a row of noise
# What the tree is held to.
SPEED_GOALS = {"bertopic": 5.0, "evoc": 1.0}
NOISE_GOAL, NULL_GOAL, DEPTH_GOAL, AGREEMENT_GOAL, SEED_GOAL = 0.25, 0.95, 2, 0.98, 0.9
COLD_GOAL, SCALE_ROWS, SCALE_MINUTES, SCALE_MB = 3.0, 1_000_000, 30.0, 12_000.0


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


# --- corpora -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus in a folder of the temporary one: `vectors.npy` and `corpus.json` for the workers.

    `kept` is where the peers' fits are kept from run to run, if they are.
    """

    name: str
    folder: Path
    vectors: Float32[np.ndarray, "rows dims"]
    levels: dict[str, Int[np.ndarray, " rows"]]
    texts: list[str]
    kept: Path | None = None

    @property
    def true_k(self) -> tuple[int, ...]:
        return tuple(len(np.unique(codes)) for codes in self.levels.values())

    def write(self) -> Corpus:
        self.folder.mkdir(parents=True)
        np.save(self.folder / "vectors.npy", self.vectors)
        facts = json.dumps({"texts": self.texts, "true_k": self.true_k})
        (self.folder / "corpus.json").write_text(facts, encoding="utf-8")
        return self


def load_corpora(args: Namespace, folder: Path) -> Iterator[Corpus]:
    """Every corpus asked for, sampled, embedded and written for the workers."""
    if args.vectors:
        vectors = np.load(args.vectors)
        data = labels_of_file(args.labels, len(vectors))
        rows = chosen_rows(len(vectors), args.rows, args.seed)
        yield corpus_of(data.sample(args.rows, args.seed), unit(vectors[rows]), folder, args.keep)
        return
    for data in labelled(args):
        some = data.sample(args.rows, args.seed)
        say(f"{data.name}: {some.size:,} of {data.size:,} rows")
        assert some.texts is not None
        yield corpus_of(some, embed(some.texts, args.model, 42), folder, args.keep)


def labelled(args: Namespace) -> Iterator[Labelled]:
    names = [name for name in CORPORA if getattr(args, name.replace("-", "_"))]
    data = realdata()
    if names and data is None:
        raise SystemExit(f"--{names[0]} needs the folder of real data, named by {REALDATA}")
    for name in names:
        yield CORPORA[name](data or Path())
    if not names:
        yield docstrings()


def unit(vectors: np.ndarray) -> Float32[np.ndarray, "rows dims"]:
    from common.units import unit_rows

    return unit_rows(vectors, smallest=1e-6)


def corpus_of(data: Labelled, vectors: Float32[np.ndarray, "rows dims"], folder: Path, keep: Path | None) -> Corpus:
    """Rows without a direction (no known word) are left out: no method can place them."""
    rows = np.flatnonzero(np.any(vectors != 0, axis=1))
    levels = {name: codes[rows] for name, codes in data.codes().items()}
    texts = [data.texts[row] for row in rows] if data.texts is not None else []
    kept = keep / f"{data.name}-{hashlib.sha256(vectors.tobytes()).hexdigest()[:12]}" if keep else None
    return Corpus(data.name, folder / data.name, vectors[rows], levels, texts, kept).write()


# --- one fit, in a process of its own ------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """What one method cost on one corpus; `identity` is equal for equal results. Times of a fit, memory in MB."""

    method: str
    first_cpu: float
    first_wall: float
    cpu_seconds: float
    wall_seconds: float
    added_mb: float
    peak_mb: float
    identity: str


def fit(method: str, folder: str, seed: int, again: bool, save: str) -> Fitted:
    """Fit in this process, once or twice, and save the result as `save`."""
    given = load_given(Path(folder), seed)
    first, found = spent_on(lambda: METHODS[method](given))
    later = first
    if again:
        later, found = spent_on(lambda: METHODS[method](given))
    found.save(Path(folder) / save)
    identity = hashlib.sha256(found.identity()).hexdigest()[:16]
    costs = (first.cpu_seconds, first.wall_seconds, later.cpu_seconds, later.wall_seconds)
    return Fitted(method, *costs, later.added_mb, later.peak_mb, identity)


@contextmanager
def threads(count: int | None) -> Generator[None]:
    """So many threads in the processes started inside; None leaves them as they are."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    if count is not None:
        os.environ.update(dict.fromkeys(names, str(count)))
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def run_fit(corpus: Corpus, method: str, *, seed: int, again: bool, save: str, count: int | None = None) -> Fitted:
    options = {"method": method, "seed": seed, "again": again, "save": f"{save}.npz"}
    known = corpus.kept / f"{save}, {seed}, {again}.json" if corpus.kept and method not in OURS else None
    if known and known.exists():
        shutil.copy(known.with_suffix(".npz"), corpus.folder / f"{save}.npz")
        return Fitted(**json.loads(known.read_text()))
    with threads(count):
        done = Fitted(**in_fresh_process(task="fit", folder=str(corpus.folder), **options))
    if known:
        known.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus.folder / f"{save}.npz", known.with_suffix(".npz"))
        known.write_text(json.dumps(asdict(done)))
    say(f"{corpus.name}: {method}, {save}: {done.first_cpu:.1f} CPU-s first, {done.cpu_seconds:.1f} later")
    return done


def result_of(corpus: Corpus, save: str, seed: int | None = None) -> Found:
    """A fit's result; with `seed`, the method of that name is fitted first unless it was."""
    path = corpus.folder / f"{save}.npz"
    if seed is not None and not path.exists():
        run_fit(corpus, save, seed=seed, again=False, save=save)
    return Found.load(path)


# --- quality -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtLevel:
    """A method's scores at one level of labels. `best` are those of its best layer; None for a method told k."""

    level: str
    depth: int
    clustered: LevelScores
    filled: LevelScores
    purity: Interval
    best: LevelScores
    own: LevelScores | None


@dataclass(frozen=True)
class Scored:
    """A method on a corpus."""

    corpus: str
    method: str
    cost: Fitted
    depth: int
    leaves: int
    noise: list[float]
    fresh_noise: list[float]
    levels: list[AtLevel]


class Filler:
    """Gives rows of noise a cluster in the two usual ways: the nearest centroid, and the vote of neighbours."""

    def __init__(self, vectors: Float32[np.ndarray, "rows dims"]) -> None:
        from common.recursion import nearest_neighbours

        self._vectors = vectors
        self._near = nearest_neighbours(vectors, min(NEIGHBOURS + 1, len(vectors)), "cosine").indices[:, 1:]

    def both(self, labels: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " rows"]]:
        """The labels without noise, filled in either way; as they are where nothing or all is clustered."""
        inside = labels != NOISE
        if inside.all() or not inside.any():
            return [np.where(inside, labels, 0)]
        nearest = nearest_centroid(self._vectors, labels, np.flatnonzero(~inside))
        by_centre, by_vote = labels.copy(), labels.copy()
        by_centre[~inside] = nearest
        by_vote[~inside] = [
            _vote(labels[near], other) for near, other in zip(self._near[~inside], nearest, strict=True)
        ]
        return [by_centre, by_vote]

    def tree(self, tree: RowTree) -> list[RowTree]:
        """The tree with its noise in leaves, filled in either way."""
        leaf = ~tree.has_children()[tree.owners]
        return [tree.placed(owners) for owners in self.both(np.where(leaf, tree.owners, NOISE))]


def nearest_centroid(
    vectors: Float32[np.ndarray, "rows dims"], labels: Int[np.ndarray, " rows"], asked: Int[np.ndarray, " asked"]
) -> Int[np.ndarray, " asked"]:
    """For some of the rows, the label whose mean vector is nearest by angle."""
    inside = labels != NOISE
    kinds, codes = np.unique(labels[inside], return_inverse=True)
    sums = np.zeros((len(kinds), vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, codes.reshape(-1), vectors[inside])
    return kinds[np.argmax(vectors[asked] @ unit(sums).T, axis=1)]


def _vote(labels: Int[np.ndarray, " near"], otherwise: int) -> int:
    known = labels[labels != NOISE]
    return int(np.bincount(known).argmax()) if len(known) else int(otherwise)


def quality(corpus: Corpus, methods: Sequence[str], args: Namespace) -> list[Scored]:
    """Fit every method `--repeats` times, in turn, and score it."""
    runs: dict[str, list[Fitted]] = {method: [] for method in methods}
    for _ in range(args.repeats):
        for method in methods:
            options = {"seed": args.seed, "again": True, "save": method, "count": args.threads}
            runs[method].append(run_fit(corpus, method, **options))
    filler = Filler(corpus.vectors)
    return [score(corpus, method, cheapest(runs[method]), filler, args) for method in methods]


def cheapest(runs: Sequence[Fitted]) -> Fitted:
    """The run of the least CPU-seconds, with the least of each time."""
    best = min(runs, key=lambda run: run.cpu_seconds)
    least = {name: min(getattr(run, name) for run in runs) for name in ("first_cpu", "first_wall", "wall_seconds")}
    return Fitted(**{**asdict(best), **least})


def score(corpus: Corpus, method: str, cost: Fitted, filler: Filler, args: Namespace) -> Scored:
    say(f"{corpus.name}: {method}: scoring")
    found = result_of(corpus, method)
    depth = found.tree.depth()
    raw = list(found.layers) or [found.tree.level(level) for level in range(1, max(1, depth) + 1)]
    filled = _filled_layers(found, raw, filler)
    trees = [found.filled] if found.filled else filler.tree(found.tree)
    chosen = range(len(raw)) if found.told else [at - 1 for at in subtree_levels(len(raw), len(corpus.levels))]
    levels = [
        at_level(name, codes, at, found, raw, filled, trees, args.draws)
        for (name, codes), at in zip(corpus.levels.items(), chosen, strict=True)
    ]
    noise = [float((layer == NOISE).mean()) for layer in raw]
    leaves = int((~found.tree.has_children()).sum())
    return Scored(corpus.name, method, cost, depth, leaves, noise, _fresh(noise), levels)


def _filled_layers(found: Found, raw: Sequence[np.ndarray], filler: Filler) -> list[list[np.ndarray]]:
    if found.filled is not None:
        return [[found.filled.level(level)] for level in range(1, len(raw) + 1)]
    return [filler.both(layer) for layer in raw]


def _fresh(noise: Sequence[float]) -> list[float]:
    """Of the rows that were still in a cluster one level up, the share that became noise at each level."""
    before = [0.0, *noise[:-1]]
    return [(now - then) / (1 - then) if then < 1 else 0.0 for now, then in zip(noise, before, strict=True)]


def at_level(
    name: str,
    codes: Int[np.ndarray, " rows"],
    at: int,
    found: Found,
    raw: Sequence[np.ndarray],
    filled: Sequence[Sequence[np.ndarray]],
    trees: Sequence[RowTree],
    draws: int,
) -> AtLevel:
    """Score one level of the labels by layer `at`; every filling counts as its best."""

    def full(layer: int) -> LevelScores:
        return max((score_level(codes, one) for one in filled[layer]), key=lambda scores: scores.rand)

    purity = max((purity_interval(tree, codes, draws=draws) for tree in trees), key=lambda item: item.value)
    best = max((full(layer) for layer in range(len(raw))), key=lambda scores: scores.rand)
    own = None if found.pick is None else full(found.pick)
    return AtLevel(name, at + 1, score_level(codes, raw[at]), full(at), purity, best, own)


# --- determinism, seeds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeated:
    """One method fitted again: the agreement (adjusted Rand) of its first level and of its last, and equal bytes."""

    corpus: str
    method: str
    what: str
    same_bytes: bool
    first_level: float
    last_level: float


def by_threads(corpus: Corpus, methods: Sequence[str], args: Namespace) -> list[Repeated]:
    """The same seed with one thread and with two."""
    return [repeated(corpus, method, "1 and 2 threads", [(args.seed, 1), (args.seed, 2)]) for method in methods]


def by_seeds(corpus: Corpus, methods: Sequence[str], args: Namespace) -> list[Repeated]:
    """Other seeds, the same threads."""
    runs = [(args.seed + number, args.threads) for number in range(args.seeds)]
    return [repeated(corpus, method, f"{args.seeds} seeds", runs) for method in methods]


def repeated(corpus: Corpus, method: str, what: str, runs: Sequence[tuple[int, int | None]]) -> Repeated:
    saves = [f"{method}, seed {seed}, threads {count or 'as they are'}" for seed, count in runs]
    done = [
        run_fit(corpus, method, seed=seed, again=False, save=save, count=count)
        for (seed, count), save in zip(runs, saves, strict=True)
    ]
    found = [_ends(result_of(corpus, save)) for save in saves]
    pairs = list(combinations(found, 2))
    first, last = (float(np.mean([adjusted_rand(one[end], other[end]) for one, other in pairs])) for end in (0, 1))
    return Repeated(corpus.name, method, what, len({item.identity for item in done}) == 1, first, last)


def _ends(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """The coarsest and the finest clustering; filled where the method fills, otherwise noise is one more cluster."""
    if found.layers:
        return found.layers[0], found.layers[-1]
    tree = found.filled or found.tree
    return tree.level(1), tree.level(max(1, tree.depth()))


# --- a corpus without structure ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unsplit:
    """Of `draws` structureless corpora, how many were left whole; the interval is Wilson's, of 95%."""

    corpus: str
    method: str
    draws: int
    rows: int
    unsplit: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.unsplit / self.draws


def null(method: str, folder: str, seed: int, draws: int, rows: int) -> Unsplit:
    """Fit structureless draws in this process."""
    given = load_given(Path(folder), seed)
    draw = structureless(given.vectors.astype(np.float64), min(rows, len(given.vectors)), seed)
    whole = 0
    for number in range(draws):
        found = METHODS[method](type(given)(draw(), given.texts, given.true_k, seed))
        whole += _is_whole(found)
        if (number + 1) % 10 == 0:
            say(f"{Path(folder).name}: {method}: {whole} of {number + 1} draws left whole")
    low, high = wilson(whole, draws)
    return Unsplit(Path(folder).name, method, draws, min(rows, len(given.vectors)), whole, low, high)


def structureless(vectors: np.ndarray, rows: int, seed: int) -> Callable[[], Float32[np.ndarray, "rows dims"]]:
    """Unit rows of a Gaussian with the mean and covariance of the vectors: what they are without any cluster."""
    rng, mean = np.random.default_rng(seed), vectors.mean(axis=0)
    values, directions = np.linalg.eigh(np.cov(vectors, rowvar=False))
    mix = directions * np.sqrt(np.maximum(values, 0))
    return lambda: unit(mean + rng.standard_normal((rows, len(values))) @ mix.T)


def _is_whole(found: Found) -> bool:
    """No cluster, or one: nothing was told apart."""
    layer = found.layers[found.pick or 0] if found.layers else found.tree.level(1)
    return len(np.unique(layer[layer != NOISE])) <= 1


def wilson(hits: int, of: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share (1927), 95%."""
    share, weight = hits / of, z * z / of
    centre, half = share + weight / 2, z * np.sqrt(share * (1 - share) / of + weight / (4 * of))
    return float((centre - half) / (1 + weight)), float((centre + half) / (1 + weight))


# --- assigned anew -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """Shares of the fitted rows that `common.assignment` puts back where the fit has them.

    Args:
        leaf, first_level: a row may meet itself among its neighbours: what a saved tree says of its own rows.
        leaf_alone, first_level_alone: every row is left out of its own neighbours: what it would say of a copy's twin.
        leaf_centroid: the nearest centroid of a leaf, for comparison.
    """

    corpus: str
    method: str
    leaf: float
    first_level: float
    leaf_alone: float
    first_level_alone: float
    leaf_centroid: float


def assigned_anew(corpus: Corpus, method: str, args: Namespace) -> Returned:
    """Assign every fitted row by the tree it was fitted in; the filled one where there is one."""
    from common.assignment import assign

    found = result_of(corpus, method, args.seed)
    tree = found.filled or found.tree
    fitted = np.array(tree.paths())
    shares = []
    for own_rows in (None, np.arange(len(fitted))):
        back = np.array(assign(corpus.vectors, corpus.vectors, fitted.tolist(), own_rows=own_rows).paths)
        tops = [np.array([path.split(".")[0] for path in paths]) for paths in (back, fitted)]
        shares += [float((back == fitted).mean()), float((tops[0] == tops[1]).mean())]
    leaf = np.where(tree.has_children()[tree.owners], NOISE, tree.owners)
    nearest = nearest_centroid(corpus.vectors, leaf, np.arange(len(leaf)))
    return Returned(corpus.name, method, *shares, float((nearest == leaf)[leaf != NOISE].mean()))


# --- the small, cold corpus ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cold:
    """A few rows in a new Python, from its start to its end; `ever` with an empty folder for compiled code."""

    method: str
    rows: int
    ever_wall: float | None
    wall_seconds: float
    cpu_seconds: float


def cold(corpus: Corpus, method: str, args: Namespace) -> Cold:
    """Start a Python that fits the first rows and ends; ours first with no compiled code kept (EVoC takes minutes)."""
    folder = small_corpus(corpus)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom clustering_methods import METHODS, load_given\n"
        f"METHODS[{method!r}](load_given(Path({str(folder)!r}), {args.seed}))"
    )
    command = [sys.executable, "-c", code]
    ever = None
    with tempfile.TemporaryDirectory() as empty:
        fresh = {"NUMBA_CACHE_DIR": empty} if method in OURS else {}
        if fresh:
            ever = run_well(command, environment=fresh).wall_seconds
        # These read what an earlier one compiled, where the method keeps it.
        runs = [run_well(command, environment=fresh) for _ in range(max(2, args.repeats))]
    best = min(runs, key=lambda run: run.wall_seconds)
    say(f"{method}: {SMALL_ROWS} rows cold: {best.wall_seconds:.1f} s")
    return Cold(method, SMALL_ROWS, ever, best.wall_seconds, best.cpu_seconds)


def small_corpus(corpus: Corpus) -> Path:
    """The folder of the corpus's first rows."""
    folder = corpus.folder.with_name(f"{corpus.name}-small")
    if not folder.exists():
        levels = {name: codes[:SMALL_ROWS] for name, codes in corpus.levels.items()}
        Corpus(corpus.name, folder, corpus.vectors[:SMALL_ROWS], levels, corpus.texts[:SMALL_ROWS]).write()
    return folder


# --- many rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaled:
    """Our tree over many planted rows, `fitted` of them fitted; `rand` at each planted level, coarse to fine."""

    rows: int
    fitted: int
    clusters: list[int]
    rand: list[float]
    worst_noise: float
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


def scale(folder: str, seed: int, fit_rows: int) -> Scaled:
    """Grow in this process."""
    spent, grown = spent_on(lambda: grow_over(Path(folder), seed, fit_rows))
    return Scaled(
        **asdict(grown), cpu_seconds=spent.cpu_seconds, wall_seconds=spent.wall_seconds, peak_mb=spent.peak_mb
    )


def run_scale(args: Namespace, folder: Path) -> Scaled:
    say(f"scale: planting {args.scale:,} rows")
    plant(folder, args.scale, args.seed)
    with threads(args.threads):
        return Scaled(**in_fresh_process(task="scale", folder=str(folder), seed=args.seed, fit_rows=args.fit_rows))


# --- tables --------------------------------------------------------------------------------------------------


def print_quality(corpus: Corpus, results: Sequence[Scored]) -> None:
    """Every method at every level."""
    from rich.table import Table

    from common.console import stdout

    sizes = ", ".join(f"{name} {k:,}" for name, k in zip(corpus.levels, corpus.true_k, strict=True))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("level", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for name in ("k", "noise", "ARI", "V", "filled ARI", "V", "score", "own", "best", "purity (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, level in enumerate(corpus.levels):
        for item in results:
            table.add_row(level, short(item.method), *_level_cells(item.levels[number]))
        table.add_section()
    stdout().print(f"\n{corpus.name}: {len(corpus.vectors):,} x {corpus.vectors.shape[1]}; {sizes}\n", markup=False)
    stdout().print(table)


def short(method: str) -> str:
    """A name for a narrow column."""
    return method.replace(", given k", " (k)")


def _level_cells(at: AtLevel) -> list[str]:
    purity = f"{at.purity.value:.3f} ({at.purity.low:.3f}-{at.purity.high:.3f})"
    scores = (at.clustered.rand, at.clustered.v_measure, at.filled.rand, at.filled.v_measure, at.clustered.balanced)
    own = "" if at.own is None else f"{at.own.rand:.3f}"
    figures = [f"{value:.3f}" for value in scores]
    return [
        f"{at.clustered.clusters:,}",
        f"{1 - at.clustered.coverage:.0%}",
        *figures,
        own,
        f"{at.best.rand:.3f}",
        purity,
    ]


def print_means(results: Sequence[Scored]) -> None:
    """One line a method: its scores averaged over the levels, and what it cost."""
    from rich.table import Column, Table

    from common.console import stdout

    table = Table(Column("over all levels", no_wrap=True), box=None, pad_edge=False, header_style="bold")
    for name in (
        "depth",
        "leaves",
        "ARI",
        "V",
        "filled ARI",
        "V",
        "best ARI",
        "purity",
        "CPU s",
        "wall",
        "first CPU",
        "wall",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for item in results:
        costs = (item.cost.cpu_seconds, item.cost.wall_seconds, item.cost.first_cpu, item.cost.first_wall)
        table.add_row(
            item.method, f"{item.depth}", f"{item.leaves:,}", *means(item), *(f"{cost:.1f}" for cost in costs)
        )
    stdout().print(table)


def means(item: Scored) -> list[str]:
    rows = [
        (at.clustered.rand, at.clustered.v_measure, at.filled.rand, at.filled.v_measure, at.best.rand, at.purity.value)
        for at in item.levels
    ]
    return [f"{value:.3f}" for value in np.mean(rows, axis=0)]


# --- verdicts ------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """Everything measured."""

    quality: list[Scored] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)
    nulls: list[Unsplit] = field(default_factory=list)
    returned: list[Returned] = field(default_factory=list)
    cold: list[Cold] = field(default_factory=list)
    scaled: list[Scaled] = field(default_factory=list)


def lines_of(findings: Findings, ours: str) -> list[Line]:
    """Costs, ratios and goals. Only `ours` is held to goals; the other preset is the recipe as its authors wrote it."""
    lines: list[Line] = []
    for corpus in dict.fromkeys(item.corpus for item in findings.quality):
        results = {item.method: item for item in findings.quality if item.corpus == corpus}
        lines += cost_lines(corpus, results, ours)
        if ours in results:
            lines += quality_lines(corpus, results, ours)
    lines += [line for item in findings.repeated for line in repeated_lines(item, ours)]
    lines += [null_line(item, ours) for item in findings.nulls]
    lines += [line for item in findings.returned for line in returned_lines(item)]
    lines += [cold_line(item, ours) for item in findings.cold]
    return lines + [line for item in findings.scaled for line in scale_lines(item)]


def cost_lines(corpus: str, results: Mapping[str, Scored], ours: str) -> list[Line]:
    """Everybody's CPU-seconds as a ratio to ours: of a later fit, which the goals are about, and of the first."""
    if ours not in results:
        return []
    own = results[ours].cost
    lines = []
    for method, item in results.items():
        cost, wall = item.cost, {"note": f"{item.cost.wall_seconds:.1f} s wall"}
        ratio = at_least(cost.cpu_seconds / own.cpu_seconds, SPEED_GOALS.get(method))
        lines.append(Line(f"{corpus}: {method}", ratio, cost.cpu_seconds, cost.added_mb, cost.peak_mb, wall))
    for method, item in results.items():
        note = {"note": f"{item.cost.first_wall:.1f} s wall, in a new process"}
        ratio = at_least(item.cost.first_cpu / own.first_cpu, None)
        lines.append(Line(f"{corpus}: {method}, first", ratio, item.cost.first_cpu, more=note))
    return lines


def quality_lines(corpus: str, results: Mapping[str, Scored], ours: str) -> list[Line]:
    own = results[ours]
    lines = [
        Line(f"{corpus}: depth", at_least(own.depth, DEPTH_GOAL, "", 0)),
        Line(f"{corpus}: noise, worst level", at_most(max(own.noise), NOISE_GOAL, "")),
        Line(f"{corpus}: noise that a level adds", at_most(max(own.fresh_noise), NOISE_GOAL, "")),
    ]
    rivals = {name: item for name, item in results.items() if name in RIVALS}
    for number, at in enumerate(own.levels if rivals else ()):
        where = f"{corpus}: {at.level}"
        lines += [
            versus(f"{where}: filled ARI", at.filled.rand, rivals, lambda item: item.filled.rand, number),
            versus(f"{where}: filled V", at.filled.v_measure, rivals, lambda item: item.filled.v_measure, number),
            versus(f"{where}: purity", at.purity.value, rivals, lambda item: item.purity.value, number),
        ]
        oracle = max(item.levels[number].best.rand for name, item in results.items() if name in PEERS)
        beside = {"note": f"{oracle:.3f}: any peer's best layer"}
        lines.append(Line(f"{where}: filled ARI, best depth", Verdict(f"{at.best.rand:.3f}"), more=beside))
    return lines


def versus(name: str, value: float, peers: Mapping[str, Scored], of: Callable[[AtLevel], float], number: int) -> Line:
    """Ours at least as high as the best peer at that level."""
    best = max(peers, key=lambda peer: of(peers[peer].levels[number]))
    bound = of(peers[best].levels[number])
    return Line(name, Verdict(f"{value:.3f}", f">= {bound:.3f}", value >= bound), more={"note": best})


def repeated_lines(item: Repeated, ours: str) -> list[Line]:
    name, held = f"{item.corpus}: {item.method}: {item.what}", item.method == ours
    if "threads" in item.what:
        agreement = f"{item.first_level:.2f} / {item.last_level:.2f}"
        verdict = Verdict("same bytes" if item.same_bytes else f"ARI {agreement}", "same bytes", item.same_bytes)
        return [Line(name, verdict if held else Verdict(verdict.figure))]
    return [
        Line(f"{name}, first level", at_least(item.first_level, SEED_GOAL if held else None, "")),
        Line(f"{name}, last level", at_least(item.last_level, None, "")),
    ]


def null_line(item: Unsplit, ours: str) -> Line:
    name = f"{item.corpus}: {item.method}: structureless, left whole"
    note = f"{item.unsplit} of {item.draws} draws of {item.rows:,} rows; 95% {item.low:.3f}-{item.high:.3f}"
    return Line(name, at_least(item.share, NULL_GOAL if item.method == ours else None, "", 3), more={"note": note})


def returned_lines(item: Returned) -> list[Line]:
    leaf, first = f"{item.corpus}: assigned anew: leaf", f"{item.corpus}: assigned anew: first level"
    alone, centroid = {"note": "not among its neighbours"}, {"note": "to the nearest centroid"}
    return [
        Line(leaf, at_least(item.leaf, AGREEMENT_GOAL, "", 3)),
        Line(first, at_least(item.first_level, AGREEMENT_GOAL, "", 3)),
        Line(leaf, at_least(item.leaf_alone, None, "", 3), more=alone),
        Line(first, at_least(item.first_level_alone, None, "", 3), more=alone),
        Line(leaf, at_least(item.leaf_centroid, None, "", 3), more=centroid),
    ]


def cold_line(item: Cold, ours: str) -> Line:
    name, bound = f"{item.method}: {item.rows} rows, cold", COLD_GOAL if item.method == ours else None
    note = {"note": f"{item.ever_wall:.1f} s with nothing compiled yet"} if item.ever_wall else {}
    return Line(name, at_most(item.wall_seconds, bound, " s", 1), item.cpu_seconds, more=note)


def scale_lines(item: Scaled) -> list[Line]:
    name = f"{item.rows:,} rows"
    counts, scores = ", ".join(f"{k:,}" for k in item.clusters), ", ".join(f"{value:.3f}" for value in item.rand)
    note = {"note": f"{item.fitted:,} rows fitted, the others assigned"}
    # The goals are those of a million rows.
    minutes, memory = (SCALE_MINUTES, SCALE_MB) if item.rows >= SCALE_ROWS else (None, None)
    return [
        Line(f"{name}: minutes", at_most(item.wall_seconds / 60, minutes, "", 1), item.cpu_seconds, more=note),
        Line(f"{name}: memory", at_most(item.peak_mb, memory, " MB", 0), peak_mb=item.peak_mb),
        Line(f"{name}: noise, worst level", at_most(item.worst_noise, NOISE_GOAL, "")),
        Line(f"{name}: planted levels, filled ARI", Verdict(scores), more={"note": f"{counts} clusters"}),
    ]


# --- the command ---------------------------------------------------------------------------------------------


def parse(argv: list[str] | None = None) -> Namespace:
    parser = make_parser(__doc__)
    for name in CORPORA:
        parser.add_argument(f"--{name}", action="store_true", help=f"the corpus, from the folder {REALDATA} names")
    parser.add_argument("--vectors", type=Path, metavar="NPY", help="your own vectors, rows x dims")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="their labels: a header, a column a level")
    parser.add_argument("--model", help="a sentence-transformers folder (otherwise TF-IDF and an SVD of 200)")
    parser.add_argument("--rows", type=int, default=17_000, help="sampled from each corpus")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=[name for name in SECTIONS if name != "scale"]
    )
    parser.add_argument("--ours", choices=OURS, default="adaptive", help="the preset that the goals are about")
    parser.add_argument("--repeats", type=int, default=2, help="fits of each method; the cheapest counts")
    parser.add_argument("--threads", type=int, help="of each fit (otherwise what the libraries choose)")
    parser.add_argument("--draws", type=int, default=200, help="bootstrap draws of purity")
    parser.add_argument("--seeds", type=int, default=3, help="seeds compared")
    parser.add_argument("--null", type=int, default=100, metavar="DRAWS", help="structureless draws")
    parser.add_argument("--null-rows", type=int, default=2_000, help="rows of each")
    parser.add_argument("--scale", type=int, default=SCALE_ROWS, help="synthetic rows")
    parser.add_argument("--fit-rows", type=int, default=FITTED, help="of them fitted, the others assigned")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the peers' fits there, and use those kept")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args(argv)
    if bool(args.vectors) != bool(args.labels):
        parser.error("--vectors and --labels go together")
    return args


def do(task: str, **options: Any) -> Any:
    """A worker's task."""
    return {"fit": fit, "null": null, "scale": scale}[task](**options)


def measure_corpus(corpus: Corpus, args: Namespace, findings: Findings) -> None:
    """The sections that are about one corpus."""
    runnable = [method for method in args.methods if not skipped(method, corpus)]
    if "quality" in args.sections:
        found = quality(corpus, runnable, args)
        findings.quality += found
        if not args.json:
            print_quality(corpus, found)
            print_means(found)
    repeatable = [method for method in runnable if method in (*OURS, "bertopic", "evoc")]
    if "threads" in args.sections:
        findings.repeated += by_threads(corpus, repeatable, args)
    if "seeds" in args.sections and args.seeds > 1:
        findings.repeated += by_seeds(corpus, repeatable, args)
    if "null" in args.sections and args.null:
        # EVoC is quick enough to be asked the same question.
        asked = [method for method in (args.ours, "evoc") if method in runnable]
        options = {"folder": str(corpus.folder), "seed": args.seed, "draws": args.null, "rows": args.null_rows}
        with threads(args.threads):
            findings.nulls += [Unsplit(**in_fresh_process(task="null", method=method, **options)) for method in asked]
    if "assign" in args.sections and args.ours in runnable:
        findings.returned.append(assigned_anew(corpus, args.ours, args))


def skipped(method: str, corpus: Corpus) -> bool:
    reason = why_not(method, bool(corpus.texts))
    if reason:
        say(f"{corpus.name}: {method} is left out: {reason}")
    return bool(reason)


def main() -> int:
    """Measure and print; 1 when a goal is missed."""
    args = parse()
    if args.worker:
        return work(do, args.worker)
    findings, corpora = Findings(), []
    # On a shared machine threads that spin while they wait would double the CPU-seconds of k-means.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as name:
        for corpus in load_corpora(args, Path(name)) if set(args.sections) != {"scale"} else ():
            corpora.append(f"{corpus.name} {len(corpus.vectors):,} x {corpus.vectors.shape[1]}")
            measure_corpus(corpus, args, findings)
            if "cold" in args.sections and not findings.cold:
                small = [method for method in args.methods if method in (*OURS, "evoc", "bertopic")]
                findings.cold += [cold(corpus, method, args) for method in small if not skipped(method, corpus)]
        if "scale" in args.sections:
            findings.scaled.append(run_scale(args, Path(name) / "scale"))
    facts = {"corpora": "; ".join(corpora) or "synthetic", "vectors": args.model or "TF-IDF, SVD", "seed": args.seed}
    return report(facts, lines_of(findings, args.ours), figure="figure", as_json=args.json, results=asdict(findings))


if __name__ == "__main__":
    raise SystemExit(main())
