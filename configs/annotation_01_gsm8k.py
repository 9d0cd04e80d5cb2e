r"""Four models' graded answers to GSM8K, placed in the clusters of its training set: do errors follow clusters?

The data are not in the repository (MIT licence, github.com/openai/grade-school-math, folder grade_school_math/data):

    uv run run_pipeline.py configs/annotation_01_gsm8k.py \
        prepare.sources.0.reader.paths='["train.jsonl"]' annotation.outputs=example_model_solutions.jsonl

(or put both into a folder `gsm8k`, and leave out the second line). `annotate_with_clusters.py` with the same overrides
prints the analysis again, `--all` in full. Every row of the outputs holds a question, its ground truth, and a graded
solution of each model.
"""

from config import (
    AnnotationConfig,
    ClusteringConfig,
    ColumnsText,
    Config,
    EmbeddingConfig,
    FilesReader,
    OutputText,
    PrepareConfig,
    SourceConfig,
    TemplateText,
)

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

config = Config(
    name="annotation_01_gsm8k",
    prepare=PrepareConfig(
        sources=(
            SourceConfig(
                name="gsm8k_train",
                reader=FilesReader(paths=("gsm8k/train.jsonl",)),
                text=TemplateText(template="{question}\n{answer}"),
                stage="midtrain",
            ),
        )
    ),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    clustering=ClusteringConfig(
        base_pct=0.01, min_cluster_size_floor=30, silhouette_threshold=0.4, umap_n_components=10
    ),
    annotation=AnnotationConfig(
        outputs="gsm8k/example_model_solutions.jsonl",
        texts=(
            OutputText(text=ColumnsText(columns=("question",)), variant="question"),
            OutputText(text=ColumnsText(columns=("ground_truth",)), variant="ground_truth"),
            *(
                OutputText(text=ColumnsText(columns=(f"{model}.solution",)), model=model, correct=f"{model}.is_correct")
                for model in MODELS
            ),
        ),
    ),
)
