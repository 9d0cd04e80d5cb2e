"""The twenty questions of rollout_01_tiny, answered by vLLM in this process: for a machine with a GPU, no server.

    uv sync --extra vllm
    uv run rollout.py configs/rollout_02_vllm.py --estimate
    uv run rollout.py configs/rollout_02_vllm.py

Another model is an override: generation.model=FOLDER_OR_HUB_ID. What does not fit into the GPU's memory: a smaller
generation.max_context (the context is what the memory is kept for), or generation.gpus=2.
"""

from dataclasses import replace

from config import GenerationConfig, SamplingConfig
from configs.rollout_01_tiny import config as tiny

config = replace(
    tiny,
    name="rollout_02_vllm",
    generation=GenerationConfig(
        engine="vllm",
        model="Qwen/Qwen2.5-1.5B-Instruct",
        dtype="bfloat16",
        max_context=4_096,
        sampling=SamplingConfig(max_tokens=256),
    ),
)
