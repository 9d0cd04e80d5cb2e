r"""How hard are the problems of MATH-500 to the twelve models of configs/difficulty_02_openrouter.py?

    uv run benchmark_difficulty.py configs/difficulty_03_math500.py --estimate
    uv run benchmark_difficulty.py configs/difficulty_03_math500.py

Answers are graded as mathematics (the last \boxed{...}); the difficulty is compared with the benchmark's level, 1 to 5.
"""

from dataclasses import replace

from config import RolloutsConfig, SamplingConfig
from configs.difficulty_02_openrouter import base, models
from configs.difficulty_02_openrouter import config as gsm8k

# Worked solutions of competition problems are longer than those of word problems.
sampling = SamplingConfig(max_tokens=1024)

config = replace(
    gsm8k,
    name="difficulty_03_math500",
    generation=replace(base, sampling=sampling),
    rollouts=RolloutsConfig(
        source="math500_test",
        sample="math",
        template="{prompt}\n\nReason step by step, and put the final answer into \\boxed{}.",
    ),
    difficulty=replace(
        gsm8k.difficulty,
        benchmark="math500",
        rule="math",
        models=tuple(replace(model, sampling=sampling) for model in models),
    ),
)
