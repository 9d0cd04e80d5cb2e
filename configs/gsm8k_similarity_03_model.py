"""A model's answers to GSM8K beside the ground truth: are they nearer to its training data, and the wrong ones farther?

Needs the hub for the corpus (300 documents of every corpus of the nanochat mix) and for GSM8K, and any
OpenAI-compatible server for the answers. After prepare_data.py and embed_chunks.py with this config:

    uv run rollout.py configs/gsm8k_similarity_03_model.py --estimate
    uv run rollout.py configs/gsm8k_similarity_03_model.py
    uv run gsm8k_corpus_similarity.py configs/gsm8k_similarity_03_model.py

Another endpoint or a local model: the overrides of configs/rollout_01_tiny.py. Answers that are there already take no
server: similarity.answers=file similarity.answers_file=FILE, a file of rollouts or of several models' graded solutions.
"""

from config import (
    Config,
    EmbeddingConfig,
    GenerationConfig,
    PrepareConfig,
    RolloutsConfig,
    SamplingConfig,
    SimilarityConfig,
)
from corpus import mix

config = Config(
    name="gsm8k_similarity_03_model",
    prepare=PrepareConfig(sources=mix("nanochat_2025_10", take_rows=3_000, sample_documents=300)),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    rollouts=RolloutsConfig(
        source="gsm8k_test",
        template="{prompt}\n\nReason step by step, and end with the line: #### <number>",
        max_failures=0.01,
    ),
    generation=GenerationConfig(
        engine="openai",
        model="local",
        base_url="http://localhost:8000/v1",
        sampling=SamplingConfig(max_tokens=512),
    ),
    similarity=SimilarityConfig(answers="rollouts"),
)
