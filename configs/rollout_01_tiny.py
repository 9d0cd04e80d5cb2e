"""Twenty questions of our own, put to any OpenAI-compatible server on this machine (vLLM, transformers serve, Ollama).

Another endpoint is an override: generation.base_url=https://openrouter.ai/api/v1 generation.model=openai/gpt-4o-mini
generation.api_key_variable=OPENROUTER_API_KEY. Without a server, a local model answers:
generation.engine=transformers generation.model=FOLDER_OR_HUB_ID
"""

from pathlib import Path

from config import ColumnsText, Config, FilesReader, GenerationConfig, RolloutsConfig, SamplingConfig, SourceConfig

QUESTIONS = Path(__file__).parent / "data" / "questions.jsonl"

config = Config(
    name="rollout_01_tiny",
    rollouts=RolloutsConfig(
        source=SourceConfig(
            name="questions",
            reader=FilesReader(paths=(str(QUESTIONS),)),
            text=ColumnsText(("question",)),
            stage="benchmark",
            id_column="id",
        ),
        sample="gsm8k",
        template="{prompt}\n\nReason step by step, and end with the line: #### <number>",
    ),
    generation=GenerationConfig(
        engine="openai",
        model="local",
        base_url="http://localhost:8000/v1",
        sampling=SamplingConfig(max_tokens=256),
    ),
)
