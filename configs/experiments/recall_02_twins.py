"""Which of two models says more of the passages word for word? Two folders suffice, of models alike but for one thing.

    uv run experiments/verbatim_recall.py configs/experiments/recall_02_twins.py \
        recall.models.0.name=muon recall.models.0.generation.model=runs/muon \
        recall.models.1.name=adam recall.models.1.generation.model=runs/adam

Base models go on with raw text. A base model beside a fine-tuned one: recall.models.1.generation.format=chat asks the
second in its own chat template, with recall.instruction around the prefix.
"""

import os
from pathlib import Path

from config import FilesReader, GenerationConfig, SamplingConfig, SourceConfig
from experiments.settings import ExperimentConfig, RecallConfig, RecallModel

FOLDER = Path(os.environ.get("CORPUS_PROXIMITY_REALDATA", "."))


def passages(name: str, file: str) -> SourceConfig:
    """Passages of a file, under their own ids."""
    return SourceConfig(name=name, reader=FilesReader(paths=(str(FOLDER / "recall" / file),)), id_column="id")


def model(name: str, folder: str) -> RecallModel:
    """A local base model, answering greedily."""
    sampling = SamplingConfig(max_tokens=64, temperature=0.0)
    generation = GenerationConfig(engine="transformers", model=folder, format="text", sampling=sampling)
    return RecallModel(name=name, generation=generation)


config = ExperimentConfig(
    name="recall_02_twins",
    recall=RecallConfig(
        models=(model("muon", "./runs/muon"), model("adam", "./runs/adam")),
        known=passages("famous", "famous_passages.jsonl"),
        control=passages("nursery", "mother_goose.json"),
    ),
)
