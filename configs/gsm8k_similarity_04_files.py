r"""The same from files alone: a pretraining corpus, GSM8K's training set as midtraining, chats as SFT, four models.

None of the data are in the repository. GSM8K and the four models' graded answers: github.com/openai/grade-school-math,
folder grade_school_math/data (MIT licence). The pretraining corpus is any folder of texts, the chats any JSONL with a
`messages` column. With their places as overrides, for each of prepare_data.py, embed_chunks.py and

    uv run gsm8k_corpus_similarity.py configs/gsm8k_similarity_04_files.py \
        prepare.sources.0.reader.paths='["corpus/*.jsonl.gz"]' prepare.sources.1.reader.paths='["train.jsonl"]' \
        prepare.sources.2.reader.paths='["chats.jsonl"]' similarity.source.reader.paths='["test.jsonl"]' \
        similarity.answers_file=example_model_solutions.jsonl

An embedding model in place of LSA: embedding.engine=sentence_transformers embedding.model=FOLDER_OR_HUB_ID
"""

from config import (
    ColumnsText,
    Config,
    EmbeddingConfig,
    FilesReader,
    MessagesText,
    PrepareConfig,
    SimilarityConfig,
    SourceConfig,
    WorkedAnswerText,
)


def files(name: str, path: str, **more: object) -> SourceConfig:
    """A source of files."""
    return SourceConfig(name=name, reader=FilesReader(paths=(path,)), **more)  # ty: ignore[invalid-argument-type]  (checked by the dataclass)


config = Config(
    name="gsm8k_similarity_04_files",
    prepare=PrepareConfig(
        sources=(
            files("pretrain", "corpus/*.jsonl.gz", stage="pretrain"),
            files("gsm8k_train", "gsm8k/train.jsonl", text=WorkedAnswerText(), stage="midtrain"),
            files("chats", "chats.jsonl", text=MessagesText(), stage="sft"),
        )
    ),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    similarity=SimilarityConfig(
        source=files("gsm8k_test", "gsm8k/test.jsonl", text=ColumnsText(("question",)), stage="benchmark"),
        answers="file",
        answers_file="gsm8k/example_model_solutions.jsonl",
    ),
)
