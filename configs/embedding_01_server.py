"""The quickstart with vectors from a server on this machine: vLLM, text-embeddings-inference, any /v1/embeddings.

With vLLM, where a GPU is (extra `vllm`):

    uv run python -m vllm.entrypoints.openai.api_server --runner pooling --host 127.0.0.1 \\
        --model sentence-transformers/all-MiniLM-L6-v2 --served-model-name all-MiniLM-L6-v2
    uv run embed_chunks.py configs/embedding_01_server.py

In this process instead: embedding.engine=vllm embedding.model=sentence-transformers/all-MiniLM-L6-v2. By OpenAI:
embedding.base_url=https://api.openai.com/v1 embedding.api_key_variable=OPENAI_API_KEY embedding.max_seq_length=8191
embedding.model=text-embedding-3-small embedding.tokenizer=tiktoken:cl100k_base embedding.price_input=0.02

A server of one's own may come to serve another model under the same name: then change embedding.revision.
"""

from dataclasses import replace

from config import ChunkingConfig, EmbeddingConfig
from configs.quickstart import config as quickstart

config = replace(
    quickstart,
    name="embedding_01_server",
    chunking=ChunkingConfig(strategy="fixed_tokens", max_tokens=256),
    embedding=EmbeddingConfig(
        engine="openai",
        model="all-MiniLM-L6-v2",
        base_url="http://localhost:8000/v1",
        api_key_variable="",
        # An endpoint does not show how it counts; chunks are cut to fit by this.
        tokenizer="sentence-transformers/all-MiniLM-L6-v2",
        max_seq_length=256,
    ),
)
