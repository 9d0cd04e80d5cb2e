"""False alarms of the error statistics: how often do clusters that know nothing of errors look as if they did?

Reads: the verdicts on four models' answers to GSM8K under CORPUS_PROXIMITY_REALDATA where that is set, else drawn ones
with as many right answers and questions that are hard for all models.
Writes: nothing (a table, or JSON with --json).

    uv run --group benchmarks benchmarks/error_statistics.py
    uv run --group benchmarks benchmarks/error_statistics.py --runs 100 --json

Every run draws clusters of unequal sizes for the questions, lets each answer stray from its question's cluster now and
then, moves the verdicts to other questions (all of a question's together), and analyses the outcome by the functions
of annotate_with_clusters.py. An alarm is a level called associated with errors (Holm's p <= 5%), or any cluster called
different (q <= 5%). Beside them what is usually done: chi-squared over all answers as if independent, and Fisher tests
of each cluster without correction. A share of alarms meets the goal when its 95% interval does not lie above 5%.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from measuring import Line, Verdict, make_parser, report, spent_on
from scipy.sparse import csr_array
from scipy.stats import chi2_contingency, fisher_exact

from common.contingency import cramers_v, crosstab, without_empty
from common.error_patterns import ALL_MODELS, ErrorPatterns, Graded, error_patterns, permuted, question_strata
from common.statistics import wilson

CLUSTERS = (8, 25, 60)
# Mean V of labels that mean nothing, 1,319 answers of one model, as measured on real answers.
KNOWN_V = {8: 0.07, 25: 0.13, 60: 0.21}
QUESTIONS, RIGHT = 1_319, (286, 515, 458, 742)
STRAYING = 0.35
ALARM, DRAWS, SEED = 0.05, 999, 42


@dataclass(frozen=True)
class Alarms:
    """What some runs came to, at one number of clusters.

    Args:
        overall, clusters: runs with an alarm of the level's test; of any cluster.
        naive_overall, naive_clusters: the same of chi-squared over all answers; of uncorrected Fisher tests.
        mean_v, mean_corrected: Cramer's V of one model, as usually computed and without its bias.
    """

    clusters_drawn: int
    runs: int
    overall: int
    clusters: int
    naive_overall: int
    naive_clusters: int
    mean_v: float
    mean_corrected: float


def verdicts(draw: np.random.Generator) -> np.ndarray:
    """(questions, models): wrong or not. The real ones where they are, else drawn with as many right answers."""
    folder = os.environ.get("CORPUS_PROXIMITY_REALDATA")
    path = Path(folder or "") / "benchmarks" / "gsm8k" / "example_model_solutions.jsonl"
    if folder and path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        models = [name for name, value in rows[0].items() if isinstance(value, dict)]
        return np.array([[not row[model]["is_correct"] for model in models] for row in rows])
    ease = draw.standard_normal(QUESTIONS)[:, None] + 0.8 * draw.standard_normal((QUESTIONS, len(RIGHT)))
    ranks = ease.argsort(axis=0).argsort(axis=0)
    return ranks < QUESTIONS - np.array(RIGHT)


def places(clusters: int, questions: int, models: int, draw: np.random.Generator) -> np.ndarray:
    """The cluster of every answer: its question's, or now and then another; sizes fall as 1 / rank^0.5."""
    sizes = 1 / np.sqrt(np.arange(1, clusters + 1))
    chance = sizes / sizes.sum()
    own = np.repeat(draw.choice(clusters, questions, p=chance), models)
    strays = draw.random(len(own)) < STRAYING
    return np.where(strays, draw.choice(clusters, len(own), p=chance), own)


def one_run(wrong: np.ndarray, clusters: int, draw: np.random.Generator) -> tuple[ErrorPatterns, Graded, np.ndarray]:
    questions, models = wrong.shape
    graded = Graded(np.repeat(np.arange(questions), models), np.tile(np.arange(models), questions), wrong.reshape(-1))
    moved = permuted(graded.wrong, question_strata(graded), 1, draw)[:, 0] > 0
    graded = Graded(graded.question, graded.model, moved)
    place = places(clusters, questions, models, draw)
    ones = np.ones(len(place), dtype=np.float32)
    members = csr_array((ones, (place, np.arange(len(place)))), shape=(clusters, len(place)))
    found = error_patterns(graded, members, [place], draws=DRAWS, seed=int(draw.integers(2**31)))
    return found, graded, place


def count_alarms(wrong: np.ndarray, clusters: int, runs: int, draw: np.random.Generator) -> Alarms:
    """Analyse `runs` sets of clusters that have nothing to do with the verdicts."""
    seen = {"overall": 0, "clusters": 0, "naive_overall": 0, "naive_clusters": 0}
    values, corrected = [], []
    for number in range(runs):
        found, graded, place = one_run(wrong, clusters, draw)
        pooled = [each for each in found.rates if each.model == ALL_MODELS and each.q is not None]
        seen["overall"] += next(each.p_holm for each in found.associations if each.model == ALL_MODELS) <= ALARM
        seen["clusters"] += any(each.q is not None and each.q <= ALARM for each in pooled)
        table = without_empty(crosstab(place, graded.wrong.astype(np.int64), (clusters, 2)))
        seen["naive_overall"] += float(chi2_contingency(table, correction=False).pvalue) <= ALARM
        seen["naive_clusters"] += any(fisher_exact([row, table.sum(axis=0) - row]).pvalue <= ALARM for row in table)
        one = graded.of(number % graded.models)
        values.append(cramers_v(crosstab(place[one], graded.wrong[one].astype(np.int64), (clusters, 2))))
        corrected += [each.v_corrected for each in found.associations if each.model == number % graded.models]
    return Alarms(clusters, runs, **seen, mean_v=float(np.mean(values)), mean_corrected=float(np.mean(corrected)))


def lines_of(found: Sequence[Alarms], seconds: Sequence[float]) -> list[Line]:
    """A line for each share of alarms, ours with the goal; and V beside what is known of it."""
    lines = []
    for item, cpu in zip(found, seconds, strict=True):
        what = f"{item.clusters_drawn} clusters"
        lines += [
            _share(f"{what}: level, by question, Holm", item.overall, item.runs, cpu),
            _share(f"{what}: any cluster, BH", item.clusters, item.runs),
            _share(f"{what}: chi-squared over answers", item.naive_overall, item.runs, goal=False),
            _share(f"{what}: any cluster, uncorrected Fisher", item.naive_clusters, item.runs, goal=False),
        ]
        known, close = KNOWN_V[item.clusters_drawn], abs(item.mean_v - KNOWN_V[item.clusters_drawn]) <= 0.01
        lines.append(Line(f"{what}: V of nothing", Verdict(f"{item.mean_v:.3f}", f"{known:.2f} +- 0.01", close)))
        lines.append(Line(f"{what}: the same, corrected", Verdict(f"{item.mean_corrected:.3f}")))
    return lines


def _share(name: str, alarms: int, runs: int, cpu: float | None = None, *, goal: bool = True) -> Line:
    ends = wilson(alarms, runs)
    figure, more = f"{alarms / runs:.1%}", {"95% interval": f"{ends.low:.1%} to {ends.high:.1%}"}
    verdict = Verdict(figure, "<= 5%", ends.low <= ALARM) if goal else Verdict(figure)
    return Line(name, verdict, cpu, more=more)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="sets of clusters at each number of clusters")
    asked = parser.parse_args()
    draw = np.random.default_rng(SEED)
    wrong = verdicts(draw)
    measured = [spent_on(lambda number=number: count_alarms(wrong, number, asked.runs, draw)) for number in CLUSTERS]
    found = [alarms for _, alarms in measured]
    facts = {"questions": len(wrong), "models": wrong.shape[1], "right": (~wrong).sum(axis=0).tolist()}
    lines = lines_of(found, [spent.cpu_seconds for spent, _ in measured])
    results = [asdict(each) for each in found]
    return report({**facts, "runs": asked.runs}, lines, figure="alarms", as_json=asked.json, results=results)


if __name__ == "__main__":
    sys.exit(main())
