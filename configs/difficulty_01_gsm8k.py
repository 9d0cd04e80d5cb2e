r"""How hard are the questions of GSM8K? By the four graded models whose answers come with it.

The answers are not in the repository (MIT licence, github.com/openai/grade-school-math, folder
grade_school_math/data):

    uv run benchmark_difficulty.py configs/difficulty_01_gsm8k.py difficulty.answers=example_model_solutions.jsonl

Every row holds a question, its ground truth, and a graded solution of each model.
"""

from config import ColumnsText, Config, DifficultyConfig, OutputText

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

config = Config(
    name="difficulty_01_gsm8k",
    difficulty=DifficultyConfig(
        benchmark="gsm8k",
        rule="gsm8k",
        answers="gsm8k/example_model_solutions.jsonl",
        texts=tuple(
            OutputText(text=ColumnsText((f"{model}.solution",)), model=model, correct=f"{model}.is_correct")
            for model in MODELS
        ),
    ),
)
