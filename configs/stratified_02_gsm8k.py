r"""Is the easy part of GSM8K nearer to its training set than to a pretraining corpus? Are gains larger where it is?

Everything of configs/gsm8k_similarity_04_files.py (where the data are from is said there), by the difficulty that two
of the four graded models give. The other two stand for a model before and after RL: no such pair comes with GSM8K, and
theirs differ by a verifier that chooses among a hundred samples. With the same overrides for each of prepare_data.py,
embed_chunks.py, gsm8k_corpus_similarity.py, benchmark_difficulty.py and

    uv run stratified_contamination.py configs/stratified_02_gsm8k.py \
        difficulty.answers=example_model_solutions.jsonl strata.base=grades.parquet strata.rl=grades.parquet

Grades of all four models are in the artifact of benchmark_difficulty.py configs/difficulty_01_gsm8k.py. The difficulty
is by other models than those whose gain is looked at: by their own, chance alone would make a pattern.
"""

from dataclasses import replace

from config import ColumnsText, DifficultyConfig, OutputText, StrataConfig
from configs.gsm8k_similarity_04_files import config as similarity

config = replace(
    similarity,
    name="stratified_02_gsm8k",
    similarity=replace(similarity.similarity, answers="none", answers_file=None, variants=("question",)),
    difficulty=DifficultyConfig(
        benchmark="gsm8k",
        answers="gsm8k/example_model_solutions.jsonl",
        texts=tuple(
            OutputText(text=ColumnsText((f"{model}.solution",)), model=model, correct=f"{model}.is_correct")
            for model in ("6b_finetuning", "6b_verification")
        ),
    ),
    strata=StrataConfig(
        proximity="similarity",
        base="grades.parquet",
        rl="grades.parquet",
        base_model="175b_finetuning",
        rl_model="175b_verification",
        rl_stage="midtrain",
    ),
)
