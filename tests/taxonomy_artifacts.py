"""A small taxonomy with annotated outputs: the artifacts that its page, figures and dashboard read, some of it hostile.

The outputs: two models answer 40 questions each in the clusters 0.0, 1 and 2. In 0.0 both are wrong on three of four
questions, elsewhere on one of ten; the ground truth of every question lies in the same cluster, but in 2 that of every
second one lies in 1. Every tenth answer is outside the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from annotate_with_clusters import annotation_table
from common.annotation_analysis import Annotated, difficulty, errors, errors_by, places_of, shifts
from common.assignment import ancestors
from common.outputs import Annotation, Output
from common.store import Artifact, Part, Store
from config import AnnotationConfig, Config
from map_chunks import MAP
from tests.report_artifacts import build, publish, publish_all

HOSTILE_MODEL = "<b>model</b> *one* :red[x] $y$"
MODELS = (HOSTILE_MODEL, "two")
PLACES = ("0.0", "1", "2")
QUESTIONS_OF_PLACE = 40
ANNOTATION = AnnotationConfig(permutations=199)


def wrong(place: str, number: int) -> bool:
    """Whether both models are wrong on a question."""
    return number % 4 != 0 if place == "0.0" else number % 10 == 0


def placed(path: str, distance: float = 0.25) -> Annotation:
    return Annotation(tuple(ancestors(path)), 1.0, distance, 0.5, False)


def annotated() -> list[tuple[Output, Annotation]]:
    """Every output with its place, as the docstring of this file says."""
    rows: list[tuple[Output, Annotation]] = []
    for place in PLACES:
        for number in range(QUESTIONS_OF_PLACE):
            question = f"{place}/{number}"
            truth = "1" if place == "2" and number % 2 else place
            rows.append((Output(f"{question}/truth", "truth", None, question, "ground_truth", None), placed(truth)))
            for model in MODELS:
                answer = Output(f"{question}/{model}", "answer", model, question, "answer", not wrong(place, number))
                outside = number % 10 == 9
                far = 0.5 if wrong(place, number) else 0.25
                rows.append((answer, Annotation((), None, 0.9, 1.0, True) if outside else placed(place, far)))
    return rows


def write_annotations(
    part: Part, names: dict[str, dict[str, object]], rows: Sequence[tuple[Output, Annotation]] = ()
) -> None:
    """As the stage writes them, by its own functions."""
    outputs, places = (list(column) for column in zip(*(rows or annotated()), strict=True))
    given = Annotated(outputs, places, names)
    answers = {"places": places_of, "errors": errors, "errors_by": errors_by, "shifts": shifts}
    answers["difficulty"] = difficulty
    part.write_table("annotations.parquet", annotation_table(outputs, places, names, 2))
    part.write_json("analysis.json", {name: answer(given, ANNOTATION) for name, answer in answers.items()})


def write_no_annotations(part: Part, names: dict[str, dict[str, object]]) -> None:
    part.write_table("annotations.parquet", annotation_table([], [], names, 2))
    part.write_json(
        "analysis.json", {"places": [], "errors": None, "errors_by": {}, "shifts": None, "difficulty": None}
    )


def publish_inputs(data_dir: Path, config: Config, *, with_outputs: bool) -> dict[str, Artifact]:
    """Every artifact that the taxonomy reads, and those that they were made from."""
    made = publish_all(data_dir)
    made["map"] = build(data_dir, MAP, config, {name: made[name] for name in ("chunks", "vectors")})
    names = made["names"].json("names.json")
    write, rows = (write_annotations, len(annotated())) if with_outputs else (write_no_annotations, 0)
    upstream = {name: made[name] for name in ("chunks", "vectors", "clusters", "names")}
    made["annotations"] = publish(
        Store(data_dir), "annotations", upstream, rows, lambda part: write(part, names), {"outputs": with_outputs}
    )
    return made
