"""GSM8K questions, answers and model answers -> how near each training stage is to them, and what follows from it.

Reads   data/documents, data/chunks, data/vectors; data/clusters and data/names where they are finished; data/rollouts
        where similarity.answers=rollouts; the questions that similarity.source names (default: rollouts.source), and
        models' answers in similarity.answers_file
Writes  data/similarity/<key>/: similarity.parquet and similarity.csv (sample_id, variant, model, corpus_stage, rank,
        distance, chunk_id, chunk_text, overlap, cluster columns: k neighbours of every text in every stage),
        scores.parquet (a row for each text and stage: raw, equalised and calibrated distance, overlap), null.parquet
        (held-out texts), chunk_scores.parquet (distance, rank_max, rank_mean of every distinct chunk), unused.parquet,
        summary.json, report.html, distance_by_difficulty.png, distance_by_correctness.png
Run     uv run gsm8k_corpus_similarity.py configs/gsm8k_similarity_01_tiny.py
        uv run gsm8k_corpus_similarity.py configs/gsm8k_similarity_01_tiny.py similarity.metric=manhattan --csv out.csv

Stages differ in size, and the nearest of many chunks is nearer than the nearest of few. So three figures stand side by
side: the raw distance to the nearest chunk of a stage; the distance at equal pools (the mean over random pools of the
size of the smallest stage); and the percentile of that among held-out texts of the stage, cut to the same number of
words. Beside them are the same of texts whose words were shuffled, and what is shared word for word. A text is always
embedded as a query, held-out ones included; exact copies of a chunk are counted once.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_corpus import CLUSTERS
from common.cli import run_script
from common.errors import ConfigError, UserError
from common.exports import asked_file
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from config import Config, PrepareConfig, RolloutsConfig, SimilarityConfig
from corpus import content_ids, keyed_source
from embed_chunks import CHUNKS, VECTORS
from map_chunks import placed
from name_clusters import NAMES
from prepare_data import DOCUMENTS
from rollout import ROLLOUTS, load_rollouts, read_samples, source_of
from search import embed_texts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float32, Int64

    from common.neighbours import Neighbours
    from common.rollouts import Rollout
    from common.samples import GSM8KSample
    from common.similarity_corpus import Corpus
    from common.similarity_evidence import Evidence
    from common.similarity_measured import Measured, Texts
    from common.similarity_summary import StageScores

# Texts embedded between two files that a killed run finds again.
BATCH = 8_192
# Chunks that count as most like the benchmark when strategies are compared; and how many are named.
TOP_SHARE, LISTED = 0.01, 20
FEWEST_CHUNKS = 3
# Texts with the most verbatim evidence, of each stage, that the report shows.
EVIDENCE = 10
NO_DIRECTION = "the embedder knows no part of it"


# --- texts ---------------------------------------------------------------------------------------------------


def questions_of(config: Config) -> RolloutsConfig:
    """Where the questions are read: as `rollout.py` reads them, from similarity.source where that is given."""
    given = config.similarity.source
    return replace(config.rollouts, sample="gsm8k", **({} if given is None else {"source": given}))


def gather_texts(job: Job) -> Texts:
    """Every variant of every question, the models' answers, and shuffled copies.

    Raises:
        UserError: there is no question, or no answer where answers are asked for.
    """
    from common.similarity_measured import Texts
    from common.similarity_texts import agreement, answer_entries, controls, entries_of, parted

    settings = job.config.similarity
    samples = gsm8k_samples(job.config, job.cache_dir)
    rollouts = list(read_answers(job))
    own = [each for sample in samples for each in entries_of(sample, settings.variants, settings.answer_form)]
    answered = list(answer_entries(rollouts, samples, settings.answer_form))
    entries, unused = parted([*own, *answered])
    if settings.answers != "none" and not any(entry.model for entry in entries):
        raise UserError("similarity.answers: none of the answers is to one of these questions; check similarity.source")
    grades = agreement(rollouts, entries, samples)
    entries += controls(entries, settings.shuffled_questions, settings.seed)
    return Texts(entries, unused, grades, len(samples))


def gsm8k_samples(config: Config, cache_dir: Path) -> list[GSM8KSample]:
    """The questions with their worked answers, in order.

    Raises:
        UserError: there is none.
    """
    from common.samples import GSM8KSample

    found = read_samples(questions_of(config), cache_dir).found
    samples = [sample for sample in found if isinstance(sample, GSM8KSample)][: config.similarity.take_questions]
    if not samples:
        raise UserError("similarity.source holds no question")
    return samples


def read_answers(job: Job) -> Iterator[Rollout]:
    """Models' answers as rollouts: of the rollouts artifact, of a file of rollouts, or graded solutions.

    Raises:
        ConfigError: a file is asked for and none is named.
        UserError: the file cannot be read, or a line is none.
    """
    from common.graded_solutions import answers_in

    settings = job.config.similarity
    if settings.answers == "rollouts":
        yield from load_rollouts(job.inputs["rollouts"])
    elif settings.answers == "file":
        yield from answers_in(answers_path(settings))


def answers_path(settings: SimilarityConfig) -> Path:
    """The file of answers.

    Raises:
        ConfigError: there is none.
    """
    if not settings.answers_file:
        raise ConfigError("similarity.answers=file needs similarity.answers_file=FILE")
    path = Path(settings.answers_file)
    if not path.is_file():
        raise ConfigError(f"similarity.answers_file: {path} is no file")
    return path


# --- texts and stages, measured ------------------------------------------------------------------------------


def embed(job: Job, texts: Sequence[str], what: str) -> Float32[np.ndarray, "texts dims"]:
    """Texts as queries, a batch at a time, each kept for a run that takes this one up; zeros where there is no word."""
    import numpy as np

    vectors = job.inputs["vectors"]
    found = [embed_texts(vectors, [], job.config)]
    with job.progress.bar(f"embed {what}", len(texts)) as bar:
        for number, start in enumerate(range(0, len(texts), BATCH)):
            name, batch = f"scratch/{what}-{number:05d}.npy", texts[start : start + BATCH]
            if not job.part.finished(name):
                job.part.write_array(name, embed_texts(vectors, batch, job.config, keep_unknown=True))
            found.append(np.asarray(job.part.read_array(name)))
            bar.advance(len(batch))
    return np.concatenate(found)


def measure_texts(job: Job, corpus: Corpus) -> Measured:
    """Gather and embed the texts, and held-out ones of their lengths.

    Raises:
        UserError: the embedder knows none of the texts.
    """
    import numpy as np

    from common.similarity import length_edges
    from common.similarity_corpus import held_out_texts
    from common.similarity_measured import Measured, Texts
    from common.similarity_texts import Unused, cut_to_lengths, word_count

    settings, texts = job.config.similarity, gather_texts(job)
    queries = embed(job, [entry.text for entry in texts.entries], "texts")
    known = np.any(queries, axis=1)
    lost = [
        entry for entry, there in zip(texts.entries, known.tolist(), strict=True) if not there and not entry.shuffle
    ]
    unused = [Unused(entry.sample_id, entry.variant, entry.model, NO_DIRECTION) for entry in lost]
    entries = [entry for entry, there in zip(texts.entries, known.tolist(), strict=True) if there]
    plain = np.array([row for row, entry in enumerate(entries) if not entry.shuffle], dtype=np.int64)
    if not len(plain):
        raise UserError("the embedder knows no word of any question; embed the corpus with another one")
    words = np.array([word_count(entry.text) for entry in entries], dtype=np.int64)
    edges = length_edges(words[plain], settings.length_classes)
    null = cut_to_lengths(held_out_texts(job.inputs["chunks"], corpus), words[plain], edges, settings.seed)
    null_queries = embed(job, null.texts, "held-out")
    there = np.any(null_queries, axis=1)
    kept = Texts(entries, [*texts.unused, *unused], texts.grades, texts.questions)
    return Measured(kept, words, queries[known], plain, edges, null.of(there), null_queries[there])


@dataclass(frozen=True, eq=False)
class StageResult:
    """Everything about one stage: scores of all texts, its held-out texts with their distances, verbatim evidence."""

    scores: StageScores
    null: pa.Table
    evidence: list[Evidence]


def score_stage(job: Job, corpus: Corpus, number: int, measured: Measured, near: Neighbours) -> StageResult:
    """Equal pools, the null, and what is shared word for word."""
    import numpy as np

    from common.similarity import length_class, nearness_by_class
    from common.similarity_corpus import documents_of, pooled
    from common.similarity_evidence import find_overlap, longest_spans, side_by_side
    from common.similarity_summary import StageScores
    from common.similarity_tables import null_table

    stage, count, null = corpus.stages[number], len(measured.entries), measured.null
    documents = partial(documents_of, job.inputs["documents"], stage)
    mine = np.flatnonzero(null.stage == number)
    queries = np.concatenate([measured.queries, measured.null_queries[mine]])
    found = pooled(corpus, number, queries, job.config.similarity, job)
    ours, theirs = found.nearest[:count], found.nearest[count:]
    classes = length_class(measured.words, measured.edges)
    overlap = find_overlap(documents(), [entry.written for entry in measured.entries])
    rows = longest_spans(measured.entries, overlap, EVIDENCE)
    distances = near.distances.astype(np.float64)
    scores = StageScores(
        stage=stage,
        raw=distances[:, 0],
        raw_mean=distances.mean(axis=1),
        pooled=ours,
        pooled_mean=found.mean[:count],
        percentile=nearness_by_class(ours, classes, theirs, null.length_class[mine]),
        overlap=overlap.plain,
        masked=overlap.masked,
    )
    shown = side_by_side(measured.entries, rows, stage, overlap, documents()) if rows else []
    return StageResult(scores, null_table(stage, null, mine, theirs), shown)


# --- chunks most like the benchmark --------------------------------------------------------------------------


def score_chunks(job: Job, corpus: Corpus, measured: Measured, by_stage: Sequence[StageScores]) -> dict[str, Any]:
    """Write every distinct chunk's scores by all questions; compare the strategies, and how generic their best are."""
    import numpy as np

    from common.similarity import best_first, compare_strategies
    from common.similarity_tables import chunk_score_table

    settings, chunks, asked = job.config.similarity, job.inputs["chunks"], measured.asked()
    kept = np.flatnonzero(corpus.first_of_all)
    if len(kept) < FEWEST_CHUNKS:
        return {}
    top = max(1, round(TOP_SHARE * len(kept)))
    scores, by = chunk_scores(job, corpus, kept, measured.queries[asked], settings)
    table = chunk_score_table(chunks, corpus, kept, scores, {name: asked[each] for name, each in by.items()}, measured)
    job.part.write_table("chunk_scores.parquet", table)
    first = best_first(scores[settings.aggregation_strategy], LISTED)
    listed = table.take(first)
    listed = listed.append_column("chunk_text", [chunk_columns(job, corpus.rows[kept[first]])["chunk_text"]])
    return {
        "strategy": settings.aggregation_strategy,
        "queries": len(asked),
        "ranked_chunks": len(kept),
        "duplicates": len(corpus.rows) - len(kept),
        "top": top,
        "strategies": [asdict(each) for each in compare_strategies(scores, top)],
        "generic": generic_chunks(job, corpus, kept, measured, by_stage, settings),
        "listed": listed.to_pylist(),
    }


def generic_chunks(
    job: Job,
    corpus: Corpus,
    kept: Int64[np.ndarray, " kept"],
    measured: Measured,
    by_stage: Sequence[StageScores],
    settings: SimilarityConfig,
) -> list[dict[str, Any]]:
    """How many of each strategy's best chunks are so for as many texts that ask nothing of the benchmark.

    These are shuffled questions, whose words are those of all questions, and held-out texts of the farthest stage;
    chunks of documents that were held out are left out.
    """
    import numpy as np

    from common.similarity import genericness

    asked, others = measured.asked(), np.flatnonzero(~corpus.held_out[kept])
    stage, foreign = measured.unrelated(by_stage)
    sets = {
        "shuffled questions": measured.queries[measured.shuffled(asked)],
        f"texts of {stage}": measured.null_queries[foreign],
    }
    order, found = np.random.default_rng(settings.seed).permutation(asked), []
    for name, queries in sets.items():
        count = min(len(asked), len(queries))
        if not count or len(others) < FEWEST_CHUNKS:
            continue
        both = (measured.queries[order[:count]], queries[:count])
        ours, theirs = (chunk_scores(job, corpus, kept[others], each, settings)[0] for each in both)
        shares = genericness(ours, theirs, max(1, round(TOP_SHARE * len(others))))
        found += [{"unrelated": name, "queries": count, **asdict(each)} for each in shares]
    return found


def chunk_scores(
    job: Job,
    corpus: Corpus,
    kept: Int64[np.ndarray, " kept"],
    queries: Float32[np.ndarray, "queries dims"],
    settings: SimilarityConfig,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Distance to the nearest query, best and mean rank of every kept chunk; and which query gave the first two."""
    import numpy as np

    from common.arrays import SelectedRows
    from common.similarity import nearest_query
    from ranking import rank_scores

    chunks = corpus.stored if len(kept) == len(corpus.stored) else SelectedRows(corpus.stored, kept)
    near = nearest_query(chunks, queries, settings.metric, job=job)
    ranks = rank_scores(chunks, queries, settings.metric, exact=True, job=job)
    scores = {"distance": near.distance, "rank_max": ranks.rank_max.astype(np.int64), "rank_mean": ranks.rank_mean}
    return scores, {"nearest_sample": near.query, "best_ranked_sample": ranks.best_query.astype(np.int64)}


# --- tables --------------------------------------------------------------------------------------------------


def chunk_columns(job: Job, rows: Int64[np.ndarray, " n"]) -> dict[str, pa.Array]:
    """Id and text of some chunks, cut to `chunk_chars`; and where there is a tree, their clusters."""
    import numpy as np
    import pyarrow as pa

    from common.stored_chunks import take_chunks

    limit = job.config.similarity.chunk_chars or None
    distinct, place = np.unique(rows, return_inverse=True)
    read = take_chunks(job.inputs["chunks"], distinct, ["chunk_id", "text"])
    texts = [text[:limit] for text in read["text"].to_pylist()]
    columns = {"chunk_id": read["chunk_id"].combine_chunks(), "chunk_text": pa.array(texts, pa.string())}
    columns |= cluster_columns(job, distinct) if "clusters" in job.inputs else {}
    at = pa.array(place)
    return {name: column.take(at) for name, column in columns.items()}


def cluster_columns(job: Job, rows: Int64[np.ndarray, " n"]) -> dict[str, pa.Array]:
    """Path of every chunk, and the name of its cluster at each depth (from 0, below the root)."""
    import pyarrow as pa

    from common.assignment import ancestors

    names = job.inputs["names"].json("names.json")
    paths = placed(job.inputs["clusters"], rows)["path"].to_pylist()
    nodes = [ancestors(path) for path in paths]
    depth = max((cluster_id.count(".") + 1 for cluster_id in names if cluster_id[0].isdigit()), default=0)
    columns = {"cluster_path": pa.array(paths, pa.string())}
    for level in range(depth):
        named = [names[each[level]]["name"] if level < len(each) else None for each in nodes]
        columns[f"cluster_depth_{level}"] = pa.array(named, pa.string())
    return columns


def write_tables(
    job: Job, corpus: Corpus, measured: Measured, near: Mapping[int, Neighbours], found: Sequence[StageResult]
) -> None:
    """Neighbours (Parquet and CSV), scores, held-out texts, and what has none of these."""
    import pyarrow as pa

    from common.columns import write_csv
    from common.similarity_tables import neighbour_table, score_table, unused_table

    scores = [each.scores for each in found]
    metric, described = job.config.similarity.metric, partial(chunk_columns, job)
    table = neighbour_table(corpus, measured.entries, measured.plain, near, scores, metric, described)
    job.part.write_table("similarity.parquet", table)
    with job.part.write("similarity.csv") as path:
        write_csv(table, path)
    job.part.write_table("scores.parquet", score_table(measured.entries, measured.words, scores))
    job.part.write_table("null.parquet", pa.concat_tables([each.null for each in found]))
    job.part.write_table("unused.parquet", unused_table(measured.texts.unused))


# --- the summary and the pages -------------------------------------------------------------------------------


def summarise(
    job: Job, corpus: Corpus, measured: Measured, results: Sequence[StageResult], aggregation: Mapping[str, Any]
) -> dict[str, Any]:
    """Write and return `summary.json`: what was measured, the verdicts, the hypotheses, the chunks most alike."""
    from common.similarity_measured import notes, stage_facts, tested, unused_counts
    from common.similarity_summary import as_plain

    settings = job.config.similarity
    found = {
        "name": job.config.name,
        "questions": measured.texts.questions,
        "texts": sum(not entry.shuffle for entry in measured.entries),
        "unused": unused_counts(measured.texts.unused),
        "metric": settings.metric,
        "k": settings.k,
        "embedder": job.inputs["vectors"].json("embedder.json"),
        "near": settings.near,
        "seed": settings.seed,
        "pool": {"chunks": corpus.pool_size(settings), "pools": settings.pools},
        "stages": [stage_facts(corpus, number, measured) for number in range(len(corpus.stages))],
        "models": [asdict(each) for each in measured.texts.grades],
        **tested(measured, [each.scores for each in results], settings),
        "aggregation": aggregation,
        "evidence": [asdict(each) for result in results for each in result.evidence],
    }
    said = notes(corpus, measured, settings, lsa=job.config.embedding.engine == "lsa")
    summary = as_plain({**found, "notes": list(said)})
    job.part.write_json("summary.json", summary)
    return summary


def write_pages(job: Job, measured: Measured, scores: Sequence[StageScores], summary: Mapping[str, Any]) -> None:
    """The two figures as PNG, and the page that shows them with everything else."""
    from common.similarity_figures import by_correctness, by_difficulty, pictures, write_png
    from common.similarity_measured import hypothesis_scores
    from common.similarity_page import render

    found = hypothesis_scores(measured, scores)
    shown = {}
    for name, figure in {"difficulty": by_difficulty(found), "correctness": by_correctness(found)}.items():
        if figure is None:
            continue
        with job.part.write(f"distance_by_{name}.png") as path:
            write_png(figure, path)
        shown[name] = pictures(figure)
    with job.part.write("report.html") as path:
        path.write_text(render(summary, shown), encoding="utf-8", newline="\n")


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Measure, test and write everything; returns the number of texts of the benchmark and its answers."""
    from common.similarity_corpus import load_corpus, raw_neighbours

    corpus = load_corpus(job.inputs["chunks"], job.inputs["vectors"], job.config.similarity)
    measured = measure_texts(job, corpus)
    near = raw_neighbours(job, corpus, measured.queries, job.config.similarity)
    numbers = job.progress.track(range(len(corpus.stages)), label="stages")
    found = [score_stage(job, corpus, number, measured, near[number]) for number in numbers]
    write_tables(job, corpus, measured, near, found)
    aggregation = score_chunks(job, corpus, measured, [each.scores for each in found])
    summary = summarise(job, corpus, measured, found, aggregation)
    write_pages(job, measured, [each.scores for each in found], summary)
    return len(measured.plain)


def _settings(config: Config) -> Mapping[str, object]:
    kept = keyed_settings(config.similarity, drop=("source", "answers_file"))
    # The name is the title of the page.
    return {**kept, "source": keyed_source(source_of(questions_of(config))), "name": config.name}


def _content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What the questions and the answers are now; their places are in no key."""
    from common.filehash import file_sha256

    found = dict(content_ids(PrepareConfig(sources=(source_of(questions_of(config)),)), cache_dir))
    if config.similarity.answers == "file":
        found["answers_file"] = file_sha256(answers_path(config.similarity), cache_dir)
    return {f"benchmark:{name}": value for name, value in found.items()}


def _chosen(session: Session) -> tuple[Stage, ...]:
    """Rollouts where the config asks for them; the tree and its names where they are finished."""
    asked = (ROLLOUTS,) if session.config.similarity.answers == "rollouts" else ()
    return (*asked, *((CLUSTERS, NAMES) if session.find(CLUSTERS) and session.find(NAMES) else ()))


SIMILARITY = Stage(
    name="similarity",
    script="gsm8k_corpus_similarity.py",
    version=1,
    settings=_settings,
    compute=compute,
    inputs=(DOCUMENTS, CHUNKS, VECTORS),
    chosen=_chosen,
    content=_content,
)


# --- what it prints ------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--csv", metavar="FILE", help="write the table of neighbours to this CSV file too")
    parser.add_argument("--all", action="store_true", help="print every kind of text and every test")


def present(session: Session, args: Namespace) -> object:
    """Print the verdicts, the tests and the comparison of strategies; return the summary for `--json`."""
    artifact = session.load(SIMILARITY)
    summary = artifact.json("summary.json")
    if args.csv:
        from common.columns import write_csv

        with asked_file(Path(args.csv), "--csv") as path:
            write_csv(artifact.table("similarity.parquet"), path)
    if not args.json:
        from common.console import stdout
        from common.similarity_view import print_summary

        print_summary(summary, stdout(), every=args.all)
        print(f"report: {artifact.path('report.html')}")
    return summary


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (SIMILARITY,), arguments=arguments, present=present))
