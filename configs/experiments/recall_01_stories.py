"""Does a story model of 260,000 parameters know famous passages by heart? It should not: an honest null result.

The data are not in the repository. They are looked for in the folder that CORPUS_PROXIMITY_REALDATA names:
`recall/famous_passages.jsonl` and `recall/mother_goose.json` (rows with `id` and `text`), `lm/stories260k` (a model).
Other passages and another model are overrides:

    uv run experiments/verbatim_recall.py configs/experiments/recall_01_stories.py \
        recall.models.0.name=olmo recall.models.0.generation.model=allenai/OLMo-2-0425-1B
"""

import os
from pathlib import Path

from config import FilesReader, GenerationConfig, SamplingConfig, SourceConfig
from experiments.settings import ExperimentConfig, RecallConfig, RecallModel

FOLDER = Path(os.environ.get("CORPUS_PROXIMITY_REALDATA", "."))


def passages(name: str, file: str) -> SourceConfig:
    """Passages of a file, under their own ids."""
    return SourceConfig(name=name, reader=FilesReader(paths=(str(FOLDER / "recall" / file),)), id_column="id")


config = ExperimentConfig(
    name="recall_01_stories",
    recall=RecallConfig(
        models=(
            RecallModel(
                name="stories260k",
                generation=GenerationConfig(
                    engine="transformers",
                    model=str(FOLDER / "lm" / "stories260k"),
                    format="text",
                    sampling=SamplingConfig(max_tokens=64, temperature=0.0),
                ),
            ),
        ),
        known=passages("famous", "famous_passages.jsonl"),
        control=passages("nursery", "mother_goose.json"),
    ),
)
