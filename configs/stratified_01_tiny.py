r"""Contamination by difficulty on 300 questions that were made up, with two effects planted: are they found?

    uv run stratified_contamination.py configs/stratified_01_tiny.py

Planted: easy questions are nearer to midtrain than to pretrain, hard ones are not; and RL adds more to questions that
are near to midtrain. Percentiles are those of a calibrated distance (small is near). The recipe is in
tests/test_stratified_contamination.py. On real data, difficulty comes from benchmark_difficulty.py and scores from an
artifact:

    uv run stratified_contamination.py configs/difficulty_01_gsm8k.py \
        difficulty.answers=example_model_solutions.jsonl strata.proximity=data/similarity/KEY
"""

from pathlib import Path

from config import Config, StrataConfig

DATA = Path(__file__).parent / "data"

config = Config(
    name="stratified_01_tiny",
    strata=StrataConfig(
        proximity=str(DATA / "strata_scores.csv"),
        difficulty=str(DATA / "strata_questions.csv"),
        base=str(DATA / "strata_results.csv"),
        rl=str(DATA / "strata_results.csv"),
        base_model="base",
        rl_model="rl",
        rl_stage="midtrain",
    ),
)
