"""An SFT and a PPO model's answers to 805 prompts: which is nearer to chats, and which to textbooks?

The data are not in the repository. They are looked for in the folder that CORPUS_PROXIMITY_REALDATA names:
`sft/alpaca_eval/*.json` (rows with instruction, output, dataset), `sft/kura_conversations.jsonl` and
`preferences/dpo_en_demo.json` (chats, stand-ins for SFT data; only 75 of the first are distinct) and `corpora/openstax`
(textbook paragraphs, a stand-in for pretraining). RL rollouts, where you have them, are a source more, of the stage
`rollouts`. The embedder is a static model of the same folder; or another:

    uv run experiments/sft_rl_proximity.py configs/experiments/sft_rl_01_alpaca.py embedding.engine=lsa
"""

import os
from pathlib import Path
from typing import Literal

from config import (
    ChunkingConfig,
    ColumnsText,
    EmbeddingConfig,
    FilesReader,
    MessagesText,
    PrepareConfig,
    SimilarityConfig,
    SourceConfig,
)
from experiments.settings import AnswersOf, ExperimentConfig, SftRlConfig

FOLDER = Path(os.environ.get("CORPUS_PROXIMITY_REALDATA", "."))


def answers(role: Literal["sft", "rl"], file: str) -> AnswersOf:
    """Answers of one model; the prompt itself says which question it is."""
    reader = FilesReader(paths=(str(FOLDER / "sft" / "alpaca_eval" / file),))
    return AnswersOf(role=role, reader=reader, text=ColumnsText(columns=("output",)), question="instruction")


config = ExperimentConfig(
    name="sft_rl_01_alpaca",
    prepare=PrepareConfig(
        sources=(
            SourceConfig(
                name="kura",
                reader=FilesReader(paths=(str(FOLDER / "sft" / "kura_conversations.jsonl"),)),
                text=MessagesText(column="messages"),
                stage="sft",
                id_column="chat_id",
            ),
            SourceConfig(
                name="chosen",
                reader=FilesReader(paths=(str(FOLDER / "preferences" / "dpo_en_demo.json"),)),
                text=ColumnsText(columns=("chosen.value",)),
                stage="sft",
            ),
            SourceConfig(name="openstax", reader=FilesReader(paths=(str(FOLDER / "corpora" / "openstax"),))),
        )
    ),
    chunking=ChunkingConfig(max_tokens=128),
    embedding=EmbeddingConfig(engine="sentence_transformers", model=str(FOLDER / "embedder" / "potion-base-4m")),
    similarity=SimilarityConfig(pools=10, length_classes=4),
    sft_rl=SftRlConfig(
        answers=(answers("sft", "alpaca-7b.json"), answers("rl", "alpaca-farm-ppo-human.json")),
        stratum="dataset",
    ),
)
