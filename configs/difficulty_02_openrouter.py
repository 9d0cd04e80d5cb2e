r"""How hard are the questions of GSM8K to twelve models of nine makers, asked through one endpoint (OpenRouter)?

    export OPENROUTER_API_KEY=...   (or a line of .env)
    uv run benchmark_difficulty.py configs/difficulty_02_openrouter.py --estimate
    uv run benchmark_difficulty.py configs/difficulty_02_openrouter.py

Prices, in dollars of a million tokens, are upper bounds to be checked against openrouter.ai/models before a run: the
limit of `max_cost`, which holds for all models together, is kept by them. OpenRouter may pass the calls of one model to
several providers; which one answered is recorded with each answer.
"""

from dataclasses import replace

from config import Config, DifficultyConfig, GenerationConfig, RolloutsConfig, SamplingConfig

# Name, price of a million prompt tokens, of a million completion tokens.
MODELS = (
    ("meta-llama/llama-3.2-1b-instruct", 0.05, 0.25),
    ("meta-llama/llama-3.2-3b-instruct", 0.1, 0.4),
    ("meta-llama/llama-3.1-8b-instruct", 0.1, 0.2),
    ("mistralai/mistral-7b-instruct", 0.1, 0.3),
    ("google/gemma-2-9b-it", 0.1, 0.3),
    ("google/gemma-3-4b-it", 0.1, 0.2),
    ("microsoft/phi-4", 0.1, 0.3),
    ("qwen/qwen-2.5-7b-instruct", 0.1, 0.3),
    ("amazon/nova-micro-v1", 0.1, 0.3),
    ("cohere/command-r7b-12-2024", 0.1, 0.3),
    ("openai/gpt-4o-mini", 0.2, 0.7),
    ("anthropic/claude-3-haiku", 0.3, 1.3),
)

base = GenerationConfig(
    base_url="https://openrouter.ai/api/v1",
    api_key_variable="OPENROUTER_API_KEY",
    sampling=SamplingConfig(max_tokens=512),
    max_concurrency=4,
    max_cost=20.0,
)

models = tuple(replace(base, model=name, price_input=one, price_output=other) for name, one, other in MODELS)

config = Config(
    name="difficulty_02_openrouter",
    generation=base,
    rollouts=RolloutsConfig(
        source="gsm8k_test",
        sample="gsm8k",
        template="{prompt}\n\nReason step by step, and end with the line: #### <number>",
    ),
    difficulty=DifficultyConfig(
        benchmark="gsm8k",
        rule="gsm8k",
        models=models,
        max_missing=0.02,
    ),
)
