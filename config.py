"""Every setting of the core stages, as frozen dataclasses.

A config file (`configs/x.py`) builds a `Config` and exposes it as `config`. Values are checked twice by the
same code: here when the dataclass is built, and by `common.configs` when a file or an override is loaded.

`setting(...)` marks a value that changes a result: it enters the artifact's key. `runtime(...)` marks one that
does not (batch size, device, threads): it never enters a key.

Sections stand in the order in which data flow: corpora, chunks, vectors, search, benchmarks, generation, the cluster
tree, outputs in it, GSM8K in the corpus, difficulty, a cheap score, pages; `Config`, at the end, holds one of each.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal


def setting(
    default: Any = MISSING,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    help: str = "",  # noqa: A002  (the field's documented name is `help`, as in argparse)
    keyed: bool = True,
) -> Any:
    """A dataclass field with its range and its one-line explanation.

    Args:
        default: the value when none is given; without it the field is required.
        ge, gt, le, lt: inclusive and exclusive bounds, checked on construction.
        help: one line, shown by `--help-config`.
        keyed: whether the value changes a result and so enters the artifact's key.
    """
    bounds = {name: bound for name, bound in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if bound is not None}
    return field(default=default, metadata={"keyed": keyed, "bounds": bounds, "help": help})


def runtime(default: Any = MISSING, **options: Any) -> Any:
    """A field that never changes a result, and so never enters a key."""
    return setting(default, keyed=False, **options)


_HOLDS = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "greater than"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "less than"),
}


def range_error(value: object, bounds: dict[str, float]) -> str | None:
    """Why `value` is out of `bounds`, or None when it is not a number or lies within them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and math.isnan(value):
        return "is not a number (NaN)"
    for name, bound in bounds.items():
        holds, words = _HOLDS[name]
        if not holds(value, bound):
            return f"must be {words} {bound}, not {value}"
    return None


class Section:
    """Base of every settings dataclass: checks the ranges of its fields when it is built."""

    def __post_init__(self) -> None:
        for item in fields(self):  # ty: ignore[invalid-argument-type]  (every subclass is a dataclass)
            problem = range_error(getattr(self, item.name), item.metadata.get("bounds", {}))
            if problem:
                raise ValueError(f"{item.name} {problem}")


# --- corpora -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubReader(Section):
    """A dataset on the Hugging Face hub, or a local folder in the hub's format, streamed."""

    path: str = setting(help="dataset id on the hub, or a local dataset folder")
    kind: Literal["hf"] = "hf"
    subset: str | None = setting(None, help="the hub's config name")
    split: str = setting("train")
    revision: str = setting("main", help="branch, tag or commit; keyed by the commit it resolves to")
    take_shards: int | None = setting(None, ge=1, help="read only the first N data files")


@dataclass(frozen=True)
class FilesReader(Section):
    """Local files, found by glob: JSONL (.gz, .zst), Parquet, CSV, TXT, Markdown."""

    paths: tuple[str, ...] = setting(help="files, folders or globs; relative to the working directory")
    kind: Literal["files"] = "files"
    format: Literal["auto", "jsonl", "json", "parquet", "csv", "txt", "markdown"] = setting("auto")
    encoding: str = setting("utf-8")
    undecodable: Literal["fail", "replace", "skip"] = setting("fail", help="what to do with bytes not in `encoding`")
    malformed: Literal["fail", "skip"] = setting("fail", help="what to do with a row that does not parse")


@dataclass(frozen=True)
class PackagesReader(Section):
    """Docstrings of installed Python packages, read with `ast`; nothing is imported or run."""

    packages: tuple[str, ...] = setting((), help="distribution names; empty means every installed one")
    kind: Literal["packages"] = "packages"
    min_chars: int = setting(80, ge=1, help="shorter docstrings are not documents")


@dataclass(frozen=True)
class ColumnsText(Section):
    """The text is one or more named columns, joined."""

    columns: tuple[str, ...] = setting(help="text columns, in order; a row without them is an error")
    kind: Literal["columns"] = "columns"
    separator: str = setting("\n\n")


@dataclass(frozen=True)
class TemplateText(Section):
    """The text is a format string over columns: `Question: {question}`."""

    template: str = setting()
    kind: Literal["template"] = "template"


@dataclass(frozen=True)
class MessagesText(Section):
    """A conversation in a `messages` column, rendered as nanochat does."""

    column: str = setting("messages")
    kind: Literal["messages"] = "messages"
    special_tokens: bool = setting(False, help="write <|user_start|> and its kin; otherwise `role: text` lines")


@dataclass(frozen=True)
class ChoiceText(Section):
    """A multiple-choice row, rendered as nanochat does; `choices` may be a list or a {text, label} table."""

    question: str = setting("question")
    kind: Literal["choice"] = "choice"
    choices: str = setting("choices")
    answer: str = setting("answer", help="a letter, or the index of the right choice")
    special_tokens: bool = setting(False)


@dataclass(frozen=True)
class WorkedAnswerText(Section):
    """A GSM8K row: question, and an answer whose <<expr=result>> marks are calculator calls."""

    question: str = setting("question")
    kind: Literal["worked_answer"] = "worked_answer"
    answer: str = setting("answer")
    special_tokens: bool = setting(False)


Reader = HubReader | FilesReader | PackagesReader
TextRule = ColumnsText | TemplateText | MessagesText | ChoiceText | WorkedAnswerText


@dataclass(frozen=True)
class SourceConfig(Section):
    """One named corpus: where its rows come from, how a row becomes text, and how many are read."""

    name: str = setting()
    reader: Reader = setting()
    text: TextRule = setting(ColumnsText(columns=("text",)))
    stage: str = setting("pretrain", help="the training stage this corpus belongs to")
    id_column: str | None = setting(None, help="column that holds a stable id; otherwise the position is the id")
    label_columns: tuple[str, ...] = setting((), help="columns kept as metadata")
    take_rows: int | None = setting(None, ge=1, help="read only the first N rows")
    sample_documents: int | None = setting(None, ge=1, help="keep N documents, chosen by hash of their id")


@dataclass(frozen=True)
class PrepareConfig(Section):
    """Sources -> documents."""

    sources: tuple[str | SourceConfig, ...] = setting(("packages",), help="registry names, or sources in full")
    unicode_form: Literal["none", "NFC", "NFKC"] = setting("NFC")
    min_chars: int = setting(1, ge=1)
    max_chars: int = setting(20_000_000, ge=1)
    quality_filter: bool = setting(False, help="drop rows of symbols, of one repeated line, of control characters")
    exact_dedup: bool = setting(True)
    near_dedup: bool = setting(False, help="MinHash over word n-grams")
    near_dedup_threshold: float = setting(0.8, gt=0.0, le=1.0, help="Jaccard similarity that makes a duplicate")
    near_dedup_ngram: int = setting(5, ge=1)
    near_dedup_permutations: int = setting(128, ge=16, le=1024)
    seed: int = setting(42, ge=0)


# --- chunks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkingConfig(Section):
    """Documents -> chunks. Every chunk is an exact slice of its document."""

    strategy: Literal["paragraph", "fixed_chars", "fixed_tokens", "sentence_spacy", "sentence_nltk"] = setting(
        "fixed_tokens"
    )
    max_tokens: int = setting(
        512, ge=1, help="limit of the token-counted strategies, special tokens and prompt included"
    )
    max_chars: int = setting(2000, ge=1, help="limit of `paragraph` and `fixed_chars`, in characters")
    overlap_pct: float = setting(0.15, ge=0.0, lt=1.0, help="share of a window repeated in the next")
    tokenizer: str = setting(
        "embedder", help="`embedder`, `tiktoken:NAME_OR_RANK_FILE`, or a hub id or folder with a fast tokenizer"
    )
    spacy_model: str | None = setting(None, help="spaCy pipeline by name; None is the rule-based sentencizer")
    workers: int = runtime(2, ge=1)


# --- vectors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingConfig(Section):
    """Chunks -> unit vectors."""

    engine: Literal["lsa", "sentence_transformers", "vllm", "openai"] = setting(
        "lsa", help="vllm: in this process; openai: any /v1/embeddings endpoint, a vLLM server's too"
    )
    model: str | None = setting(None, help="hub id or local folder; for openai the endpoint's name for it")
    revision: str = setting(
        "main", help="keyed by the commit it resolves to; openai: your own mark for what the endpoint serves now"
    )
    trust_remote_code: bool = setting(False)
    query_prompt: str | None = setting(None, help="None: the model's own `query` prompt, where it has one")
    document_prompt: str | None = setting(None, help="None: the model's own `document` prompt, where it has one")
    max_seq_length: int | None = setting(
        None, ge=8, help="None: the model's own; openai: longer texts are cut, counted by `tokenizer`; None: sent whole"
    )
    tokenizer: str | None = setting(
        None, help="openai: what counts the endpoint's tokens, `tiktoken:NAME_OR_RANK_FILE`, a hub id or a folder"
    )
    base_url: str = setting("https://api.openai.com/v1", help="openai: the endpoint, up to and including /v1")
    encoding: Literal["base64", "float"] = setting("base64", help="openai: how vectors are asked for")
    truncate_dimensions: int | None = setting(
        None, ge=2, help="vllm, openai: only the first N, for models that are trained for it (Matryoshka)"
    )
    dimensions: int = setting(128, ge=2, help="lsa: SVD components")
    max_features: int = setting(50_000, ge=10, help="lsa: vocabulary size")
    fit_documents: int = setting(100_000, ge=10, help="lsa: chunks, chosen by hash, that the SVD is fitted on")
    dtype: Literal["float32", "float16", "bfloat16"] = setting("float32", help="precision the model computes in")
    backend: Literal["torch", "onnx", "openvino"] = setting("torch")
    storage: Literal["float32", "float16"] = setting("float32", help="precision of the stored vectors")
    seed: int = setting(42, ge=0)
    device: str = runtime("auto", help="auto, cpu, cuda, cuda:1, mps")
    batch_tokens: int = runtime(16_384, ge=1, help="tokens of one batch, padding included; openai: of one request")
    gpu_memory: float = runtime(0.9, gt=0.0, le=1.0, help="vllm: share of the device's memory it takes")
    gpus: int = runtime(1, ge=1, help="vllm: devices that the model is spread over")
    api_key_variable: str = runtime(
        "OPENAI_API_KEY", help="openai: the environment variable (or line of .env) that holds the key; empty: no key"
    )
    max_concurrency: int = runtime(8, ge=1, help="openai: requests on their way at once")
    timeout: float = runtime(120.0, gt=0.0, help="openai: seconds for one attempt")
    max_attempts: int = runtime(6, ge=1, help="openai: of one request, the first included")
    max_wait: float = runtime(60.0, gt=0.0, help="openai: longest pause in seconds between two attempts")
    price_input: float | None = runtime(None, ge=0.0, help="openai: of a million tokens")
    max_cost: float | None = runtime(
        None, ge=0.0, help="openai: of each worker in one run; nothing is sent that could exceed it"
    )
    row_cache: bool = runtime(True, help="never embed an unchanged chunk twice, in any corpus")


# --- search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchConfig(Section):
    """Vectors + queries -> nearest chunks."""

    queries: tuple[str, ...] = setting((), help="example questions of the main job")
    metric: Literal["cosine", "euclidean", "manhattan", "inner_product"] = setting("cosine")
    k: int = setting(5, ge=1)
    per_stage: bool = setting(False, help="k neighbours of every training stage, not of all together")
    aggregation_strategy: Literal["distance", "rank_max", "rank_mean"] = setting(
        "distance", help="distance: k neighbours of every query; rank_*: the k chunks that all queries rank first"
    )
    index: Literal["exact", "ivf"] = setting("exact")
    ivf_lists: int = setting(0, ge=0, help="inverted lists; 0 is the square root of the corpus size")
    ivf_probes: int = setting(32, ge=1)
    block_rows: int = runtime(16_384, ge=1)
    threads: int = runtime(0, ge=0, help="0: every core")


# --- benchmarks ----------------------------------------------------------------------------------------------

BenchmarkFormat = Literal[
    "gsm8k", "math", "mmlu", "hellaswag", "arc", "bbh", "gpqa", "ifeval", "truthfulqa", "humaneval", "questions"
]


@dataclass(frozen=True)
class ContaminationConfig(Section):
    """How questions are looked for in a corpus, and what share of them is taken to be there."""

    prior: float = setting(0.1, gt=0.0, lt=1.0, help="share of the questions expected to have a copy in the corpus")
    candidates: int = setting(10, ge=4, help="nearest documents of each question, in each view, that are compared")
    passage_words: int = setting(
        160, ge=20, help="longer documents are cut into passages of so many words; more where the questions are longer"
    )
    decoys: int = setting(400, ge=0, help="passages drawn from the corpus that ask as if they were questions")
    seed: int = setting(42, ge=0)


@dataclass(frozen=True)
class BenchmarkConfig(Section):
    """One benchmark: where its rows are, and the layout that they are in."""

    name: str = setting(help="starts the ids of its questions: name/12")
    format: BenchmarkFormat = setting(help="layout of a row; `questions` is id, question, answer, choices")
    readers: tuple[HubReader | FilesReader, ...] = setting(help="read one after the other, as one benchmark")
    split: Literal["train", "held_out"] | None = setting(
        None, help="its side of the held-out validation; None: on neither"
    )
    take_questions: int | None = setting(None, ge=1, help="keep N questions, chosen by hash of their ids")


@dataclass(frozen=True)
class BenchmarksConfig(Section):
    """Benchmarks x corpus: which questions are in which training stage, and does nearness predict performance?"""

    benchmarks: tuple[str | BenchmarkConfig, ...] = setting((), help="registry names, or benchmarks in full")
    min_words: int = setting(8, ge=1, help="a question of fewer words is looked for together with its choices")
    aggregation_strategy: Literal["distance", "rank_max", "rank_mean"] = setting(
        "distance", help="what chunks are ordered by; ranks are of every chunk for every question"
    )
    pool_chunks: int | None = setting(
        None, ge=1, help="chunks of each stage in an equal pool; None: as many as the smallest stage has"
    )
    pool_draws: int = setting(5, ge=1, help="equal pools drawn of each stage; distances are their mean")
    threshold: float = setting(
        0.5, gt=0.0, lt=1.0, help="a question with at least this probability of contamination is flagged"
    )
    null_questions: int = setting(1_000, ge=1, help="questions of each benchmark whose shuffled copies are scored")
    semantic: bool = setting(True, help="the embedder's vectors are part of the score, beside words and numbers")
    results: tuple[str, ...] = setting(
        (), help="files of graded answers for the held-out validation: id, model, correct"
    )
    permutations: int = setting(9_999, ge=99)
    shown_leaks: int = setting(60, ge=0, help="leaks on the page, the likeliest first; all are in leaks.parquet")
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- generation ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplingConfig(Section):
    """How the tokens of a completion are drawn."""

    max_tokens: int = setting(512, ge=1, help="longest completion")
    temperature: float | None = setting(0.0, ge=0.0, help="0: the likeliest token every time; None: not sent")
    top_p: float = setting(1.0, gt=0.0, le=1.0)
    top_k: int = setting(0, ge=0, help="0: no limit; an endpoint may not know it")
    stop: tuple[str, ...] = setting((), help="texts that end a completion and are cut from it")
    seed: int | None = setting(42, ge=0, help="None: not sent, and drawn anew by a local model")
    logprobs: bool = setting(False, help="keep each token's log-probability, where the endpoint offers it")


@dataclass(frozen=True)
class GenerationConfig(Section):
    """Prompts -> completions: by an OpenAI-compatible endpoint, or by a local model."""

    engine: Literal["openai", "transformers", "vllm"] = setting("openai")
    model: str = setting("gpt-4o-mini", help="the endpoint's name for it; for a local engine a hub id or a folder")
    revision: str = setting("main", help="local engines; keyed by the commit it resolves to")
    base_url: str = setting("https://api.openai.com/v1", help="openai: the endpoint, up to and including /v1")
    format: Literal["chat", "text"] = setting("chat", help="a prompt is a user's message, or raw text to be continued")
    sampling: SamplingConfig = setting(SamplingConfig())
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = setting(
        "max_tokens", help="openai: what the endpoint calls it; reasoning models want the second"
    )
    extra_body: str = setting("", help="openai: a JSON object merged into every request")
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = setting("auto", help="local engines")
    trust_remote_code: bool = setting(False, help="local engines")
    max_context: int | None = setting(
        None, ge=16, help="vllm: tokens of a prompt and its completion together; None: what the model can hold"
    )
    api_key_variable: str = runtime(
        "OPENAI_API_KEY", help="openai: the environment variable (or line of .env) that holds the key; empty: no key"
    )
    max_concurrency: int = runtime(16, ge=1, help="openai: requests on their way at once")
    timeout: float = runtime(120.0, gt=0.0, help="openai: seconds for one attempt")
    max_attempts: int = runtime(6, ge=1, help="openai: of one request, the first included")
    max_wait: float = runtime(60.0, gt=0.0, help="openai: longest pause in seconds between two attempts")
    price_input: float | None = runtime(None, ge=0.0, help="of a million prompt tokens")
    price_output: float | None = runtime(None, ge=0.0, help="of a million completion tokens")
    max_cost: float | None = runtime(None, ge=0.0, help="of one run; nothing is sent that could exceed it")
    device: str = runtime("auto", help="transformers: auto, cpu, cuda, cuda:1, mps")
    batch_tokens: int = runtime(16_384, ge=1, help="transformers: tokens of a batch, padding and completions included")
    gpu_memory: float = runtime(0.9, gt=0.0, le=1.0, help="vllm: share of the device's memory it takes")
    gpus: int = runtime(1, ge=1, help="vllm: devices that the model is spread over")


@dataclass(frozen=True)
class RolloutsConfig(Section):
    """Samples -> prompts: what `rollout.py` asks."""

    source: str | SourceConfig = setting("gsm8k_test", help="a corpus or benchmark by name, or in full")
    sample: Literal["text", "conversation"] | BenchmarkFormat = setting("gsm8k", help="how a row becomes a question")
    reference_column: str | None = setting(None, help="sample=text: the column that holds the reference answer")
    template: str = setting("{prompt}", help="what is asked; {prompt} stands for the question")
    system: str | None = setting(None, help="a system message before every prompt")
    draws: int = setting(1, ge=1, help="completions of each prompt")
    max_failures: float = setting(0.0, ge=0.0, le=1.0, help="share of calls that may stay without an answer")
    seed: int = setting(42, ge=0, help="of the source's sample_documents")


# --- the cluster tree ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdaptiveConfig(Section):
    """The `adaptive` preset: communities of a neighbour graph, a node split only beyond structureless vectors."""

    n_neighbors: int = setting(15, ge=1, help="each row is joined to so many; at the first level at least to so many")
    neighborhood: float = setting(
        0.05, ge=0.0, lt=1.0, help="and at the first level to this share of the rows that can be neighbours"
    )
    landmarks: int = setting(1536, ge=4, help="rows that can be neighbours at the first level")
    reach: float = setting(
        0.125, ge=0.0, lt=1.0, help="below it: share of the rows among which the nearest are looked for"
    )
    resolution_step: float = setting(
        8.0, ge=1.0, help="resolution of a level over that of the one above; 8 makes about five times the clusters"
    )
    min_share: float = setting(
        0.1, ge=0.0, lt=1.0, help="share of a community beyond a border of the level above that makes it two"
    )
    max_children: int = setting(12, ge=2, help="a node is cut into at most so many")
    min_cluster_size: int = setting(10, ge=2, help="of a child")
    orders: int = setting(2, ge=1, help="runs of which the best is taken")
    test_rows: int = setting(500, ge=4, help="rows of a node that its split is tested on")
    null_draws: int = setting(8, ge=2, help="structureless samples a node is compared with")
    min_excess: float = setting(0.05, help="modularity above the mean of the structureless samples, at least")
    min_deviations: float = setting(5.0, help="and above it by so many of their standard deviations")
    max_noise: float = setting(
        0.25, ge=0.0, lt=1.0, help="share of the rows that is noise at the deepest level, at most; less above it"
    )


@dataclass(frozen=True)
class ClusteringConfig(Section):
    """Vectors -> cluster tree. `spotify` is recursive UMAP + HDBSCAN with the numbers of its recipe."""

    preset: Literal["spotify", "adaptive"] = setting("spotify")
    adaptive: AdaptiveConfig = setting(AdaptiveConfig())
    max_depth: int = setting(3, ge=1)
    base_pct: float = setting(0.05, gt=0.0, lt=1.0, help="min_cluster_size as a share of the node at the root")
    decay: float = setting(0.7, gt=0.0, le=1.0, help="factor on base_pct for each level")
    min_cluster_size_floor: int = setting(10, ge=2, help="no min_cluster_size is below it")
    min_cluster_size_root: int = setting(
        50, ge=2, help="the floor at the root, halved at every level down to min_cluster_size_floor"
    )
    silhouette_threshold: float = setting(0.3, ge=-1.0, le=1.0, help="a child at or above this is not split further")
    umap_n_components: int = setting(50, ge=2)
    umap_n_neighbors: int = setting(15, ge=2)
    umap_metric: Literal["cosine", "euclidean"] = setting("cosine")
    hdbscan_min_samples: int = setting(10, ge=1)
    engine: Literal["hdbscan", "sklearn", "fast_hdbscan", "evoc"] = setting(
        "hdbscan", help="what finds the clusters; evoc takes the vectors as they are, without UMAP"
    )
    refit: bool = setting(True, help="lsa vectors: below the root, fit the vectoriser again on each node's own texts")
    fill_neighbors: int = setting(
        15, ge=1, help="clustered rows that vote on the place of a noise row, or of a row outside the fitted sample"
    )
    fit_rows: int = setting(
        100_000, ge=10, help="rows, chosen by hash, that the tree is fitted on; the others are assigned to it"
    )
    seed: int = setting(42, ge=0)


@dataclass(frozen=True)
class NamingConfig(Section):
    """Tree -> named tree: by contrastive keywords (c-TF-IDF), or by the model that `generation` names."""

    engine: Literal["keywords", "llm"] = setting("keywords")
    terms: int = setting(3, ge=1, le=10, help="keywords in a name")
    max_ngram: int = setting(2, ge=1, le=4)
    examples: int = setting(5, ge=1, help="central texts kept for each cluster")
    samples: int = setting(8, ge=1, le=50, help="llm: texts in a prompt, central ones that differ")
    sibling_samples: int = setting(1, ge=0, le=10, help="llm: texts of each sibling, to set the cluster apart from")
    siblings: int = setting(8, ge=0, le=50, help="llm: siblings in a prompt, the nearest first")
    sample_tokens: int = setting(100, ge=8, help="llm: a text is cut to these, of four bytes each")
    diversity: float = setting(0.3, ge=0.0, le=1.0, help="llm: 0 takes the most central texts, 1 the most different")
    attempts: int = setting(3, ge=1, le=10, help="llm: replies asked for before the keywords stand in")
    max_tokens: int = setting(64, ge=1, help="llm: of a reply; in place of generation.sampling.max_tokens")


@dataclass(frozen=True)
class ExplainConfig(Section):
    """The tree -> what sets every cluster apart from its siblings, and which training stages it is made of."""

    model: Literal["linear", "trees"] = setting(
        "linear", help="trees: gradient boosting explained by SHAP values; needs the extra `explain`"
    )
    max_terms: int = setting(2_000, ge=10, help="words a model sees: the most frequent of its training texts")
    max_ngram: int = setting(1, ge=1, le=4)
    max_values: int = setting(50, ge=1, help="values of a metadata column that a model sees: the most frequent")
    max_chunks: int = setting(400, ge=20, help="chunks of each sibling, chosen by hash of their documents")
    held_out: float = setting(0.3, gt=0.0, lt=1.0, help="share of the documents that models are scored on")
    strength: float = setting(1.0, gt=0.0, help="linear: C, the inverse weight of the L1 penalty")
    rounds: int = setting(50, ge=1, help="trees: boosting rounds")
    tree_features: int = setting(300, ge=2, help="trees: features that a model sees, those that vary most by cluster")
    refits: int = setting(3, ge=0, help="models fitted to permuted clusters, as a control")
    top: int = setting(10, ge=1, help="features kept for and against each cluster")
    shap_chunks: int = setting(200, ge=1, help="held-out chunks of each model whose SHAP values are kept")
    permutations: int = setting(1_999, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


@dataclass(frozen=True)
class ExtensionConfig(Section):
    """New documents -> their places in the tree as it is, and how far they have drifted from its corpus."""

    sources: tuple[str | SourceConfig, ...] = setting((), help="the new documents: registry names, or sources in full")
    k: int = setting(10, ge=1, help="nearest chunks that vote")
    alpha: float = setting(0.01, gt=0.0, lt=1.0, help="share of chunks like the corpus's that are called outside of it")
    held_out_chunks: int = setting(3_000, ge=20, help="chunks of the corpus, in whole documents, to compare with")
    permutations: int = setting(1_999, ge=99)
    level: float = setting(0.05, gt=0.0, lt=1.0, help="chance of calling documents like the corpus's a drift")
    refit_outside: float = setting(
        0.05, gt=0.0, lt=1.0, help="a refit is recommended where more chunks are outside than this"
    )
    refit_farther: float = setting(
        0.64, gt=0.5, le=1.0, help="... where new chunks are farther than the corpus's own with this chance"
    )
    refit_growth: float = setting(
        1.0, gt=0.0, help="... where a cluster's share grows, and its size by more than this factor"
    )
    outside_shown: int = setting(20, ge=0, help="outside documents whose texts are kept, the farthest first")
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- outputs in the tree -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputText(Section):
    """One text of each row of outputs, and what is known of it."""

    text: TextRule = setting(help="`a.b` reaches into a table: `6b.solution`")
    variant: str = setting("answer", help="what kind of text this is: answer, ground_truth, question")
    model: str | None = setting(None, help="whose answer it is")
    correct: str | None = setting(None, help="column that says whether it is right; `a.b` reaches into a table")


@dataclass(frozen=True)
class AnnotationConfig(Section):
    """Outputs -> their places in the cluster tree, and whether errors follow clusters."""

    outputs: str | FilesReader | PackagesReader | HubReader | None = setting(
        None, help="a file, folder or glob of outputs (keyed by content), or a reader in full"
    )
    texts: tuple[OutputText, ...] = setting((), help="texts of a row; none given: one, found by its column's name")
    id_column: str | None = setting(None, help="None: `output_id` where there is one, else the row's place")
    question_column: str | None = setting(None, help="None: the first of question_id, sample_id, prompt_id, question")
    model_column: str | None = setting(None, help="None: `model`, where there is one")
    variant_column: str | None = setting(None, help="None: `variant`, where there is one")
    correct_column: str | None = setting(None, help="None: the first of correct, is_correct")
    grade_by: Literal["gsm8k", "math", "choice", "text"] | None = setting(
        None, help="benchmark's rule by which answers without a verdict are graded against `grade_column`"
    )
    grade_column: str = setting("reference", help="column of the right answer, for grade_by")
    reference: str = setting("ground_truth", help="variant that models' answers are compared with")
    take_rows: int | None = setting(None, ge=1, help="read only the first N rows")
    k: int = setting(10, ge=1, help="nearest chunks that vote")
    labels: Literal["filled", "raw"] = setting("filled", help="raw: chunks that are noise vote for no cluster")
    alpha: float = setting(0.05, gt=0.0, lt=1.0, help="share of texts like the corpus that are called outside of it")
    calibration_chunks: int = setting(2_000, ge=20, help="chunks that distances are ranked among")
    smallest: int = setting(5, ge=1, help="a cluster with answers to fewer questions is not tested")
    permutations: int = setting(9_999, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- GSM8K in the corpus -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimilarityConfig(Section):
    """Benchmark questions and answers -> how near each training stage is to them, and whether hypotheses hold."""

    source: str | SourceConfig | None = setting(None, help="rows with question and answer; None: rollouts.source")
    variants: tuple[Literal["question", "answer", "final_answer", "question_answer"], ...] = setting(
        ("question", "answer", "final_answer", "question_answer"),
        help="answer is the worked solution, final_answer its bare number",
    )
    answers: Literal["none", "file", "rollouts"] = setting(
        "none", help="models' answers: of answers_file, or those that rollout.py wrote for this config"
    )
    answers_file: str | None = setting(
        None, help="JSON Lines of rollouts, or of graded solutions (example_model_solutions.jsonl); keyed by content"
    )
    answer_form: Literal["plain", "as_written"] = setting(
        "plain", help="plain: answers are embedded without <<calculator marks>> and the sign of the last number"
    )
    take_questions: int | None = setting(None, ge=1, help="only the first N questions")
    metric: Literal["cosine", "euclidean", "manhattan"] = setting("cosine")
    k: int = setting(5, ge=1, help="neighbours of every text in every stage")
    aggregation_strategy: Literal["distance", "rank_max", "rank_mean"] = setting(
        "distance", help="what chunks are ordered by where those most like the benchmark are listed"
    )
    pools: int = setting(20, ge=1, help="random pools of each stage, all of one size; distances are their mean")
    pool_size: int | None = setting(None, ge=1, help="chunks of a pool; None: as many as the smallest stage has")
    null_texts: int = setting(300, ge=20, help="documents of each stage held out of its pools; at most a fifth of it")
    length_classes: int = setting(8, ge=1, help="classes of length within which texts and held-out ones are compared")
    shuffled_questions: int = setting(500, ge=0, help="questions, chosen by hash, whose texts are shuffled as controls")
    near: float = setting(0.05, gt=0.0, lt=0.5, help="a text nearer than all but this share of held-out ones is near")
    chunk_chars: int = setting(500, ge=0, help="characters of a neighbour's text that are kept; 0: all of them")
    permutations: int = setting(9_999, ge=99)
    bootstraps: int = setting(2_000, ge=100)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- difficulty, and contamination by it ---------------------------------------------------------------------


@dataclass(frozen=True)
class DifficultyConfig(Section):
    """Answers of several models to one benchmark, asked for or there already -> how hard every question is."""

    benchmark: str = setting("gsm8k", help="what the results are called")
    rule: Literal["gsm8k", "math", "choice", "text"] = setting("gsm8k", help="benchmark's rule that grades an answer")
    models: tuple[str | GenerationConfig, ...] = setting(
        (), help="asked the questions of rollouts.source: names at generation's endpoint, or generations in full"
    )
    answers: str | FilesReader | HubReader | None = setting(
        None, help="answers that are there: a file, folder or glob, or the folder of a rollouts artifact"
    )
    texts: tuple[OutputText, ...] = setting((), help="a row's answers, one for each model; none: a row is one answer")
    question_column: str | None = setting(None, help="id of the question; None: as in annotation")
    model_column: str | None = setting(None, help="None: `model`, where there is one")
    correct_column: str | None = setting(None, help="a verdict to compare with; None: the first of correct, is_correct")
    reference_column: str | None = setting(
        None, help="the right answer; None: the first of reference, metadata.reference, ground_truth"
    )
    level_column: str | None = setting("level", help="the benchmark's own level, where there is one (MATH's)")
    max_missing: float = setting(
        0.0, ge=0.0, le=1.0, help="share of a model's calls that may stay without an answer; these are not wrong"
    )
    irt: Literal["1pl", "2pl"] = setting("1pl", help="item response model: one slope for all questions, or one each")
    bootstraps: int = setting(2_000, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


@dataclass(frozen=True)
class StrataConfig(Section):
    """Difficulty x contamination, question by question; and what RL gains, by contamination."""

    proximity: str | FilesReader | HubReader | None = setting(
        None,
        help="a score for each question and stage: `similarity` or `contamination` (this config's own artifact), "
        "a file, or an artifact's folder",
    )
    id_column: str | None = setting(None, help="None: the first of question_id, sample_id, id")
    stage_column: str | None = setting(None, help="None: the first of stage, corpus_stage, where there is one")
    score_column: str | None = setting(
        None, help="None: the first of probability, contamination, score, percentile, pooled, pooled_distance, distance"
    )
    near_is: Literal["auto", "high", "low"] = setting("auto", help="which scores are near; auto: by the column's name")
    variant: str = setting("question", help="rows of this variant are read, where there is a column `variant`")
    threshold: float | None = setting(
        None, help="score from which a question is contaminated; None: probability 0.5, percentile 0.05, else none"
    )
    difficulty: str | FilesReader | None = setting(
        None, help="rows of question_id and difficulty; None: of benchmark_difficulty.py, where this config has answers"
    )
    questions: str | FilesReader | None = setting(
        None, help="rows of question_id and question, that link ids of files which name questions otherwise"
    )
    near_stage: str = setting("midtrain", help="is the easy part closer to this stage ...")
    far_stage: str = setting("pretrain", help="... than to this one?")
    tiers: int = setting(3, ge=1, le=10, help="tiers of difficulty, of about as many questions each")
    rl_strata: int = setting(10, ge=1, le=50, help="finer tiers, within which gains are compared")
    base: str | FilesReader | None = setting(
        None, help="results before RL: question id, and correct, score or an answer"
    )
    rl: str | FilesReader | None = setting(None, help="results after RL")
    base_model: str | None = setting(None, help="the rows of this model, where the file has several")
    rl_model: str | None = setting(None)
    rl_stage: str | None = setting(None, help="contamination of this stage; None: the largest of a question's stages")
    rule: Literal["gsm8k", "math", "choice", "text"] = setting("gsm8k", help="grades answers that have no verdict")
    permutations: int = setting(9_999, ge=99)
    bootstraps: int = setting(2_000, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- a cheap score for every chunk ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ScaleConfig(Section):
    """A sample of the chunks is embedded; a cheap score of nearness to `benchmarks` is learned from it for the rest."""

    share: float = setting(0.01, gt=0.0, le=0.5, help="of the chunks, embedded to learn from")
    min_labels: int = setting(200, ge=20, help="but at least so many chunks")
    held_out_documents: float = setting(0.2, gt=0.0, lt=1.0, help="share of the documents that nothing is learned from")
    held_out_chunks: int = setting(2_000, ge=20, help="chunks of those that are embedded, to check the cheap score on")
    aggregation_strategy: Literal["max", "mean", "rank_max", "rank_mean"] = setting(
        "max", help="the true score: cosine to the nearest question or on average, or ranks among the sample"
    )
    model: Literal["auto", "student", "ngrams", "fasttext"] = setting(
        "auto", help="student: vectors of words; ngrams: hashed; auto: of these two, the better by cross-validation"
    )
    words: int = setting(20_000, ge=1, help="student: the most frequent words, each embedded by itself")
    words_per_label: int = setting(
        18, ge=1, help="student: but no more for each chunk learned from; a word costs about a fifth of a chunk"
    )
    word_chunks: int = setting(50_000, ge=20, help="student: chunks, chosen by hash, in which words are counted")
    folds: int = setting(5, ge=2, help="of the cross-validation, in whole documents")
    bootstraps: int = setting(1_000, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- pages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VisualizeConfig(Section):
    """The named tree -> a page to explore, figures and tables; the map's place is in `report`."""

    central_samples: int = setting(5, ge=0, help="central texts shown of each cluster; naming.examples bounds them")
    random_samples: int = setting(5, ge=0, help="texts of each cluster chosen by hash")
    sample_chars: int = setting(300, ge=20, help="characters shown of a central or random text")
    hover_chars: int = setting(160, ge=20, help="characters kept of a point's text, for hovering and searching")
    seed: int = setting(42, ge=0)


@dataclass(frozen=True)
class ReportConfig(Section):
    """Every artifact of a config -> one standalone HTML page."""

    map_points: int = setting(10_000, ge=10, help="chunks on the 2-D map; more are sampled by hash")
    map_n_neighbors: int = setting(15, ge=2)
    map_min_dist: float = setting(0.1, ge=0.0, le=1.0)
    hover_chars: int = setting(200, ge=20)
    seed: int = setting(42, ge=0)


# --- all of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config(Section):
    """The whole main job."""

    name: str = runtime(help="names the run in `data/runs/` and titles the report; only the report is keyed by it")
    prepare: PrepareConfig = setting(PrepareConfig())
    chunking: ChunkingConfig = setting(ChunkingConfig())
    embedding: EmbeddingConfig = setting(EmbeddingConfig())
    search: SearchConfig = setting(SearchConfig())
    contamination: ContaminationConfig = setting(ContaminationConfig())
    benchmarks: BenchmarksConfig = setting(BenchmarksConfig())
    generation: GenerationConfig = setting(GenerationConfig())
    rollouts: RolloutsConfig = setting(RolloutsConfig())
    clustering: ClusteringConfig = setting(ClusteringConfig())
    naming: NamingConfig = setting(NamingConfig())
    annotation: AnnotationConfig = setting(AnnotationConfig())
    difficulty: DifficultyConfig = setting(DifficultyConfig())
    strata: StrataConfig = setting(StrataConfig())
    similarity: SimilarityConfig = setting(SimilarityConfig())
    explain: ExplainConfig = setting(ExplainConfig())
    extension: ExtensionConfig = setting(ExtensionConfig())
    scale: ScaleConfig = setting(ScaleConfig())
    visualize: VisualizeConfig = setting(VisualizeConfig())
    report: ReportConfig = setting(ReportConfig())
    data_dir: str = runtime("data", help="where artifacts are written: a folder or a URL (s3://bucket/prefix)")
    engine: Literal["local", "ray"] = runtime("local", help="where shards are computed: this machine, or a Ray cluster")
    workers: int = runtime(1, ge=1, help="processes that compute shards; with engine=ray, at most so many at a time")
    progress: bool = runtime(True, help="progress bars on a terminal")
