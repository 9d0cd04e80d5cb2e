"""Annotated outputs -> `analysis.json`: what was placed, how well, and three questions about errors.

1. Do errors follow clusters? (`errors`: the clusters of the answers themselves; `errors_by`: those of the question,
   the ground truth ..., which a wrong answer cannot move; rates and tests of `common.error_patterns`)
2. Do models' answers fall in other clusters than the ground truth? (`shifts`: pairs of one question)
3. Are harder questions farther from the corpus, and so from every cluster? (`difficulty`: rank correlation)

A level is a partition of the outputs: each is in its cluster at that depth of the tree, or in the deepest one that it
reached; outside the corpus is a class too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.cluster_tree import ROOT_ID
from common.contingency import crosstab, independence, marginal_homogeneity
from common.error_patterns import ALL_MODELS, Association, ClusterErrors, Graded, error_patterns
from common.statistics import Interval, benjamini_hochberg, holm, spearman, wilson

if TYPE_CHECKING:
    from jaxtyping import Int64
    from scipy.sparse import csr_array

    from common.assignment import Calibration, LevelAgreement, SelfCheck
    from common.outputs import Annotation, Output
    from config import AnnotationConfig

OUTSIDE = ""
OUTSIDE_NAME = "outside the corpus"
UNNAMED_MODEL = "output"
DIGITS = 6
# A shift of a cluster with fewer moved answers is not tested.
FEWEST_MOVED = 6


@dataclass(frozen=True)
class Annotated:
    """Outputs with their places, and the names of clusters."""

    outputs: Sequence[Output]
    places: Sequence[Annotation]
    names: Mapping[str, Mapping[str, Any]]

    @property
    def depth(self) -> int:
        return max((len(place.ids) for place in self.places), default=0)

    def cluster_at(self, row: int, level: int) -> str:
        """The cluster at a level (from 0), or the deepest one reached; `root` where none won, "" outside."""
        place = self.places[row]
        if place.outside:
            return OUTSIDE
        return place.ids[min(level, len(place.ids) - 1)] if place.ids else ROOT_ID

    def name(self, cluster_id: str) -> str:
        return OUTSIDE_NAME if cluster_id == OUTSIDE else str(self.names[cluster_id]["name"])

    def placed(self) -> Annotated:
        """Without the outputs that have no place: an empty answer is wrong, and lies nowhere."""
        return self.of([row for row, place in enumerate(self.places) if place.distance is not None])

    def of(self, rows: Sequence[int]) -> Annotated:
        return Annotated([self.outputs[row] for row in rows], [self.places[row] for row in rows], self.names)


def analyse(
    outputs: Sequence[Output],
    places: Sequence[Annotation],
    check: SelfCheck,
    calibration: Calibration,
    names: Mapping[str, Mapping[str, Any]],
    settings: AnnotationConfig,
) -> dict[str, Any]:
    """Everything that `analysis.json` holds, as plain JSON types; a question that the outputs cannot answer is None."""
    annotated = Annotated(outputs, places, names)
    found = {
        "outputs": counts(annotated),
        "places": places_of(annotated, settings),
        "assignment": assignment_facts(check, calibration, settings),
        "errors": errors(annotated, settings),
        "errors_by": errors_by(annotated, settings),
        "shifts": shifts(annotated, settings),
        "difficulty": difficulty(annotated, settings),
        "settings": {
            name: getattr(settings, name) for name in ("alpha", "confidence", "permutations", "smallest", "seed")
        },
    }
    return _rounded(found)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def counts(annotated: Annotated) -> dict[str, Any]:
    """How many outputs, of what, and how many have no place."""
    outputs, places = annotated.outputs, annotated.places
    unknown = sum(place.distance is None for place in places)
    outside = sum(place.outside for place in places) - unknown
    return {
        "outputs": len(outputs),
        "models": sorted({each.model for each in outputs if each.model}),
        "variants": sorted({each.variant for each in outputs if each.variant}),
        "questions": len({each.question_id for each in outputs if each.question_id}),
        "graded": sum(each.correct is not None for each in outputs),
        "unknown": unknown,
        "outside": outside,
        "outside_interval": asdict(wilson(outside, len(outputs) - unknown)),
        "levels": annotated.depth,
    }


def places_of(annotated: Annotated, settings: AnnotationConfig) -> list[dict[str, Any]]:
    """Of every variant and model: how many outputs, how many of them have a place, how many of these are outside, and
    the clusters that hold most of the others.
    """
    kinds = [(each.variant or "", each.model or "") for each in annotated.outputs]
    found = []
    for variant, model in sorted(set(kinds)):
        mine = annotated.of([row for row, kind in enumerate(kinds) if kind == (variant, model)])
        placed = mine.placed()
        outside = sum(place.outside for place in placed.places)
        at_top = Counter(placed.cluster_at(row, 0) for row in range(len(placed.outputs)))
        common = sorted(at_top.items(), key=lambda item: (-item[1], _reading_order(item[0])))
        found.append(
            {
                "variant": variant or None,
                "model": model or None,
                "outputs": len(mine.outputs),
                "placed": len(placed.outputs),
                "median_characters": float(np.median([len(each.text) for each in mine.outputs])),
                "outside": outside,
                **_ends(wilson(outside, len(placed.outputs), settings.confidence)),
                "clusters": [
                    {"cluster_id": cluster_id, "name": annotated.name(cluster_id), "outputs": count}
                    for cluster_id, count in common
                ],
            }
        )
    return found


def assignment_facts(check: SelfCheck, calibration: Calibration, settings: AnnotationConfig) -> dict[str, Any]:
    """Agreement of assignment with the fitted labels, and the held-out distances that `outside` is read off."""
    distances = calibration.distances
    cutoff = distances[max(0, int(np.ceil((1 - settings.alpha) * (len(distances) + 1))) - 1) :][:1]
    return {
        "chunks": check.rows,
        "with_itself": check.with_itself,
        "held_out": check.held_out,
        "held_out_interval": asdict(wilson(check.held_out * check.rows, check.rows)),
        "by_level": [_level_agreement(level) for level in check.by_depth],
        "held_out_chunks": len(distances),
        "median_distance": float(np.median(distances)),
        "outside_beyond": float(cutoff[0]) if len(cutoff) else None,
    }


def _level_agreement(found: LevelAgreement) -> dict[str, Any]:
    """Levels count from 0, as in `cluster_depth_0`."""
    return {
        "level": found.depth - 1,
        "chunks": found.rows,
        "with_itself": found.with_itself,
        "held_out": found.held_out,
    }


def _codes(values: Sequence[str]) -> tuple[Int64[np.ndarray, " n"], list[str]]:
    distinct = sorted(set(values))
    place = {value: number for number, value in enumerate(distinct)}
    return np.array([place[value] for value in values], dtype=np.int64), distinct


# --- do errors follow clusters ------------------------------------------------------------------------------


def errors(annotated: Annotated, settings: AnnotationConfig) -> dict[str, Any] | None:
    """Error rates in every cluster and the tests; None where no output with a place has a verdict."""
    annotated = annotated.placed()
    mine = annotated.of([row for row, each in enumerate(annotated.outputs) if each.correct is not None])
    if not mine.outputs:
        return None
    questions = [each.question_id or f"#{row}" for row, each in enumerate(mine.outputs)]
    models, model_names = _codes([each.model or UNNAMED_MODEL for each in mine.outputs])
    wrong = np.array([not each.correct for each in mine.outputs])
    clusters, members = _members(mine)
    found = error_patterns(
        Graded(_codes(questions)[0], models, wrong),
        members,
        _levels(mine),
        smallest=settings.smallest,
        draws=settings.permutations,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    return {
        "unit": "question" if any(each.question_id for each in mine.outputs) else "output",
        "movable_questions": found.movable_questions,
        "models": _model_rates(models, model_names, wrong, settings),
        "rates": [_rate(each, mine, clusters, model_names) for each in found.rates],
        "associations": [_association(each, model_names) for each in found.associations],
    }


def errors_by(annotated: Annotated, settings: AnnotationConfig) -> dict[str, Any]:
    """`errors` with every answer in the place of another text of its question, by that text's variant."""
    beside = {each.variant for each in annotated.outputs if each.variant and each.correct is None}
    found = {}
    for variant in sorted(beside):
        of_question = _first_places(annotated, variant)
        rows = [
            row
            for row, each in enumerate(annotated.outputs)
            if each.correct is not None and (each.question_id or "") in of_question
        ]
        mine = annotated.of(rows)
        places = [of_question[each.question_id or ""] for each in mine.outputs]
        if rows:
            found[variant] = errors(Annotated(mine.outputs, places, annotated.names), settings)
    return found


def _first_places(annotated: Annotated, variant: str) -> dict[str, Annotation]:
    found: dict[str, Annotation] = {}
    for each, place in zip(annotated.outputs, annotated.places, strict=True):
        if each.variant == variant and each.correct is None and each.question_id and place.distance is not None:
            found.setdefault(each.question_id, place)
    return found


def _members(annotated: Annotated) -> tuple[list[str], csr_array]:
    """The clusters with an output, in reading order, and (clusters, outputs): 1 where one lies in it or below."""
    from scipy.sparse import coo_array

    rows = range(len(annotated.outputs))
    clusters = sorted({one for row in rows for one in _lies_in(annotated, row)}, key=_reading_order)
    number = {cluster: position for position, cluster in enumerate(clusters)}
    pairs = np.array([(number[one], row) for row in rows for one in _lies_in(annotated, row)], dtype=np.int64)
    ones = np.ones(len(pairs), dtype=np.float32)
    return clusters, coo_array((ones, tuple(pairs.T)), shape=(len(clusters), len(rows))).tocsr()


def _lies_in(annotated: Annotated, row: int) -> tuple[str, ...]:
    place = annotated.places[row]
    return (OUTSIDE,) if place.outside else place.ids or (ROOT_ID,)


def _reading_order(cluster_id: str) -> tuple[int, ...]:
    """Clusters as in the tree, then no cluster, then outside."""
    if cluster_id in (ROOT_ID, OUTSIDE):
        return (1_000_000_000, int(cluster_id == OUTSIDE))
    return tuple(int(part) for part in cluster_id.split("."))


def _levels(annotated: Annotated) -> list[Int64[np.ndarray, " rows"]]:
    """The partition of every level that is not the one before it again."""
    found: list[Int64[np.ndarray, " rows"]] = []
    for level in range(max(annotated.depth, 1)):
        codes, _ = _codes([annotated.cluster_at(row, level) for row in range(len(annotated.outputs))])
        found.append(codes)
    return found


def _model_rates(
    models: Int64[np.ndarray, " rows"],
    names: Sequence[str],
    wrong: np.ndarray,
    settings: AnnotationConfig,
) -> list[dict[str, Any]]:
    found = []
    for number, name in enumerate(names):
        mine = wrong[models == number]
        interval = wilson(int(mine.sum()), len(mine), settings.confidence)
        found.append({"model": name, "answers": len(mine), "wrong": int(mine.sum()), **_ends(interval)})
    return found


def _ends(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high}


def _model_name(number: int, names: Sequence[str]) -> str | None:
    return None if number == ALL_MODELS else names[number]


def _rate(each: ClusterErrors, annotated: Annotated, clusters: Sequence[str], models: Sequence[str]) -> dict[str, Any]:
    cluster_id = clusters[each.cluster]
    inside = cluster_id not in (OUTSIDE, ROOT_ID)
    return {
        "cluster_id": cluster_id,
        "name": annotated.name(cluster_id),
        "depth": cluster_id.count(".") if inside else None,
        "model": _model_name(each.model, models),
        "answers": each.answers,
        "questions": each.questions,
        "wrong": each.wrong,
        "rate": each.rate,
        **_ends(each.interval),
        "expected_rate": each.expected_rate,
        "difference": each.difference,
        "p": each.p,
        "q": each.q,
    }


def _association(each: Association, models: Sequence[str]) -> dict[str, Any]:
    return {
        "level": each.level,
        "model": _model_name(each.model, models),
        "answers": each.answers,
        "questions": each.questions,
        "clusters": each.clusters,
        "test": asdict(each.test) if each.test else None,
        "p": each.p,
        "p_holm": each.p_holm,
        "v": each.v,
        "v_corrected": each.v_corrected,
        **({"v_low": each.interval.low, "v_high": each.interval.high} if each.interval else {}),
        "null_v_mean": each.null.mean,
        "null_v_95": each.null.high,
        "null_v_corrected_mean": each.null.corrected_mean,
        "null_v_corrected_95": each.null.corrected_high,
    }


# --- do answers fall elsewhere than the ground truth ---------------------------------------------------------


def shifts(annotated: Annotated, settings: AnnotationConfig) -> list[dict[str, Any]] | None:
    """Each model's answers against the reference of the same question, at every level; None without such pairs.

    Holm's correction is over all models and levels, Benjamini's and Hochberg's over all of their clusters.

    Of several answers of one model to one question, the first counts: the pair's unit is the question.
    """
    pairs = _pairs(annotated, settings.reference)
    found = [
        _shift(annotated, rows, model, level, settings)
        for model, rows in pairs.items()
        for level in range(max(annotated.depth, 1))
    ]
    if not found:
        return None
    for name in ("p", "p_wrong"):
        tested = [each for each in found if each[name] is not None]
        for each, adjusted in zip(tested, holm(np.array([one[name] for one in tested])), strict=True):
            each[f"{name}_holm"] = float(adjusted)
    moves = [move for each in found for move in each["clusters"] if move["p"] is not None]
    for move, q in zip(moves, benjamini_hochberg(np.array([one["p"] for one in moves])), strict=True):
        move["q"] = float(q)
    return found


def _pairs(annotated: Annotated, reference: str) -> dict[str, list[tuple[int, int]]]:
    """(row of the reference, row of the answer) of every question, by model."""
    truth: dict[str, int] = {}
    for row, each in enumerate(annotated.outputs):
        if each.variant == reference and each.question_id and annotated.places[row].distance is not None:
            truth.setdefault(each.question_id, row)
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for row, each in enumerate(annotated.outputs):
        is_answer = each.variant != reference and (each.model is not None or each.correct is not None)
        question = each.question_id or ""
        if is_answer and question in truth and annotated.places[row].distance is not None:
            found.setdefault(each.model or UNNAMED_MODEL, {}).setdefault(question, (truth[question], row))
    return {model: list(found[model].values()) for model in sorted(found)}


def _shift(
    annotated: Annotated, pairs: Sequence[tuple[int, int]], model: str, level: int, settings: AnnotationConfig
) -> dict[str, Any]:
    classes = [annotated.cluster_at(row, level) for pair in pairs for row in pair]
    codes, ids = _codes(classes)
    truth, answer = codes[::2], codes[1::2]
    test = marginal_homogeneity(truth, answer, draws=settings.permutations, seed=settings.seed)
    share = test.same / test.pairs
    chance = float(np.bincount(truth, minlength=len(ids)) @ np.bincount(answer, minlength=len(ids))) / test.pairs**2
    return {
        "model": model,
        "level": level,
        "pairs": test.pairs,
        "same": share,
        **_ends(wilson(test.same, test.pairs, settings.confidence)),
        "same_by_chance": chance,
        "kappa": (share - chance) / (1 - chance) if chance < 1 else None,
        "chi_squared": test.chi_squared,
        "degrees": test.degrees,
        "p_stuart_maxwell": test.p_asymptotic,
        "p": test.p,
        "p_holm": None,
        **_wrong_when_moved(annotated, pairs, truth != answer, settings),
        "p_wrong_holm": None,
        "clusters": _moves(annotated, ids, truth, answer),
    }


def _wrong_when_moved(
    annotated: Annotated, pairs: Sequence[tuple[int, int]], moved: np.ndarray, settings: AnnotationConfig
) -> dict[str, Any]:
    """Is an answer in another cluster than the truth more often wrong?"""
    verdicts = [annotated.outputs[answer].correct for _, answer in pairs]
    known = np.array([verdict is not None for verdict in verdicts])
    wrong = np.array([verdict is False for verdict in verdicts])[known].astype(np.int64)
    table = crosstab(moved[known].astype(np.int64), wrong, (2, 2))
    if not table.sum(axis=1).all():
        return {"wrong_if_moved": None, "wrong_if_same": None, "p_wrong": None}
    rates = {
        name: {"share": float(row[1] / row.sum()), **_ends(wilson(int(row[1]), int(row.sum()), settings.confidence))}
        for name, row in zip(("wrong_if_same", "wrong_if_moved"), table, strict=True)
    }
    return {**rates, "p_wrong": independence(table, seed=settings.seed).p}


def _moves(
    annotated: Annotated, ids: Sequence[str], truth: Int64[np.ndarray, " pairs"], answer: Int64[np.ndarray, " pairs"]
) -> list[dict[str, Any]]:
    """Of every cluster the questions whose truth and whose answer lie in it; gains against losses by McNemar's test."""
    from scipy.stats import binomtest

    found = []
    for number, cluster_id in enumerate(ids):
        lost = int(((truth == number) & (answer != number)).sum())
        gained = int(((truth != number) & (answer == number)).sum())
        tested = lost + gained >= FEWEST_MOVED
        found.append(
            {
                "cluster_id": cluster_id,
                "name": annotated.name(cluster_id),
                "truth": int((truth == number).sum()),
                "answers": int((answer == number).sum()),
                "lost": lost,
                "gained": gained,
                "p": float(binomtest(gained, lost + gained).pvalue) if tested else None,
                "q": None,
            }
        )
    return found


# --- are harder questions farther ----------------------------------------------------------------------------


def difficulty(annotated: Annotated, settings: AnnotationConfig) -> list[dict[str, Any]] | None:
    """Distance to the corpus against the share of wrong answers, over questions, for every variant of text.

    `partial` holds the text's length fixed: long texts are both harder and nearer or farther. None where questions do
    not differ in difficulty.
    """
    hard = _share_wrong(annotated)
    if len(hard) < 3 or len(set(hard.values())) == 1:
        return None
    found = [each for variant in _variants(annotated) if (each := _farther(annotated, variant, hard, settings))]
    for each, adjusted in zip(found, holm(np.array([one["p"] for one in found])), strict=True):
        each["p_holm"] = float(adjusted)
    return found or None


def _share_wrong(annotated: Annotated) -> dict[str, float]:
    verdicts: dict[str, list[bool]] = {}
    for each in annotated.outputs:
        if each.question_id and each.correct is not None:
            verdicts.setdefault(each.question_id, []).append(not each.correct)
    return {question: sum(wrong) / len(wrong) for question, wrong in verdicts.items()}


def _variants(annotated: Annotated) -> list[str | None]:
    return sorted({each.variant for each in annotated.outputs}, key=lambda name: name or "")


def _farther(
    annotated: Annotated, variant: str | None, hard: Mapping[str, float], settings: AnnotationConfig
) -> dict[str, Any] | None:
    of_question: dict[str, list[tuple[float, int]]] = {}
    for each, place in zip(annotated.outputs, annotated.places, strict=True):
        question = each.question_id or ""
        if each.variant == variant and question in hard and place.distance is not None:
            of_question.setdefault(question, []).append((place.distance, len(each.text)))
    means = {question: np.mean(values, axis=0) for question, values in of_question.items()}
    distances, lengths = np.array(list(means.values())).reshape(-1, 2).T
    shares = np.array([hard[question] for question in means])
    if len(shares) < 3 or len(set(shares.tolist())) == 1 or len(set(distances.tolist())) == 1:
        return None
    found = spearman(
        distances, shares, lengths, draws=settings.permutations, confidence=settings.confidence, seed=settings.seed
    )
    return {
        "variant": variant or UNNAMED_MODEL,
        "questions": found.units,
        "rho": found.rho,
        **_ends(found.interval),
        "p": found.p,
        "p_holm": None,
        "partial": found.partial,
        "p_partial": found.p_partial,
        "by_difficulty": list(_by_difficulty(distances, shares)),
    }


def _by_difficulty(distances: np.ndarray, shares: np.ndarray) -> Iterator[dict[str, Any]]:
    """Mean distance at each difficulty; of more than ten different ones, in fifths of the questions."""
    values = np.unique(shares)
    edges = values if len(values) <= 10 else np.unique(np.quantile(shares, np.arange(5) / 5))
    group = np.searchsorted(edges, shares, side="right") - 1
    for number in np.unique(group):
        mine = group == number
        error = float(distances[mine].std(ddof=1) / np.sqrt(mine.sum())) if mine.sum() > 1 else None
        yield {
            "share_wrong": float(shares[mine].mean()),
            "questions": int(mine.sum()),
            "mean_distance": float(distances[mine].mean()),
            "standard_error": error,
        }
