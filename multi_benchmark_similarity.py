"""Benchmarks x corpus: which questions are in which training stage, with the evidence side by side.

Reads   data/chunks/<key>/ and data/vectors/<key>/ (embed_chunks.py); the benchmarks and results that `benchmarks` names
Writes  data/benchmarks/<key>/     questions.parquet, unreadable.json (rows that are no question, with the reason)
        data/contamination/<key>/  chunks-*.parquet (each chunk: max_similarity, source_benchmark, all_similarities),
                                   questions.parquet (each question in each stage: nearest chunk, distance, overlap,
                                   probability, false_positive_rate), leaks.parquet, contaminated.jsonl (ids),
                                   summary.json, heat_map.png, contamination.html
        data/held_out/<key>/       held_out.json, held_out.html: does nearness predict right answers?
Run     uv run multi_benchmark_similarity.py configs/multi_benchmark_01_tiny.py
        uv run multi_benchmark_similarity.py configs/multi_benchmark_01_tiny.py --export-clean cleaned/

A probability is the score's own (common/contamination.py), calibrated on planted copies and unrelated questions. Beside
it stand its false-positive rate and the same score of questions whose words were shuffled among them. Distances are
given raw and in random pools of equal size, since the nearest of more chunks is nearer. A row that cannot be read is
neither clean nor contaminated, and is counted as such.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.errors import ConfigError, UserError
from common.keys import digest, keyed_settings
from common.stages import Job, Session, Stage
from common.store import Part
from config import BenchmarkConfig, Config, FilesReader
from corpus import keyed_reader, reader_content
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from search import embed_texts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int64

    from common.benchmark_scores import Asked, Nearest, Scored, StageScores, Stored, Wanted
    from common.chunk_similarity import QuestionVectors
    from common.cleaning import Exported
    from common.contamination import ContaminationScores
    from common.leaks import Contamination, Leak
    from common.samples import BenchmarkSample
    from common.store import Artifact

SCRIPT = "multi_benchmark_similarity.py"
METRIC = "cosine"
# Single scores that the table of questions carries; NaN where there is none (`semantic` without vectors).
FEATURES = (
    *("tfidf", "masked_tfidf", "chars", "numbers", "containment_8", "containment_13"),
    *("masked_containment_8", "masked_containment_13", "longest_span", "semantic"),
)


# --- benchmarks -> questions ---------------------------------------------------------------------------------


def benchmark_settings(config: Config) -> Mapping[str, object]:
    """What the questions depend on; where their rows are enters by content."""
    from common.benchmarks import resolve_benchmarks

    settings = config.benchmarks
    named = [
        {**keyed_settings(each, drop=("readers",)), "readers": [keyed_reader(reader) for reader in each.readers]}
        for each in resolve_benchmarks(settings.benchmarks)
    ]
    return {"benchmarks": named, "min_words": settings.min_words, "seed": settings.seed}


def benchmark_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What every reader of every benchmark would read now."""
    from common.benchmarks import resolve_benchmarks

    return {
        f"benchmark:{each.name}:{number}": reader_content(reader, cache_dir)
        for each in resolve_benchmarks(config.benchmarks.benchmarks)
        for number, reader in enumerate(each.readers)
    }


def compute_benchmarks(job: Job) -> int:
    """Read every benchmark; returns the number of questions."""
    from common.benchmark_table import question_table
    from common.benchmarks import UnreadableQuestion, read_benchmark, resolve_benchmarks

    settings, unreadable = job.config.benchmarks, []
    found: list[tuple[BenchmarkConfig, BenchmarkSample]] = []
    for benchmark in resolve_benchmarks(settings.benchmarks):
        rows = list(read_benchmark(benchmark, job.cache_dir))
        unreadable += [row for row in rows if isinstance(row, UnreadableQuestion)]
        samples = [row for row in rows if not isinstance(row, UnreadableQuestion)]
        if not samples:
            raise UserError(f"benchmark '{benchmark.name}' holds no question that can be read")
        found += [(benchmark, sample) for sample in chosen_samples(samples, benchmark, settings.seed)]
    job.part.write_table("questions.parquet", question_table(found, settings.min_words))
    job.part.write_json("unreadable.json", [asdict(row) for row in unreadable])
    return len(found)


def chosen_samples(samples: list[BenchmarkSample], benchmark: BenchmarkConfig, seed: int) -> list[BenchmarkSample]:
    """`take_questions` of them, by a hash of their ids: another benchmark does not reshuffle these."""
    import numpy as np

    from common.dedup import sample_ranks

    if benchmark.take_questions is None or benchmark.take_questions >= len(samples):
        return samples
    ranks = sample_ranks(seed, benchmark.name, [sample.id for sample in samples])
    return [samples[row] for row in np.sort(np.argsort(ranks, kind="stable")[: benchmark.take_questions]).tolist()]


BENCHMARKS = Stage(
    name="benchmarks",
    script=SCRIPT,
    version=1,
    settings=benchmark_settings,
    compute=compute_benchmarks,
    content=benchmark_content,
)


# --- what both sides are -------------------------------------------------------------------------------------


def load_stored(inputs: Mapping[str, Artifact]) -> Stored:
    """The vectors, in shards on disk, and the stage of each."""
    from common.arrays import stored_rows, stored_vectors
    from common.benchmark_scores import Stored
    from common.stored_chunks import stage_groups

    rows = stored_rows(inputs["vectors"])
    stages, stage = stage_groups(inputs["chunks"], rows)
    return Stored(stored_vectors(inputs["vectors"]), rows.load(), stages, stage)


def load_asked(inputs: Mapping[str, Artifact], config: Config) -> Asked:
    """The questions, embedded as a search would."""
    import numpy as np

    from common.benchmark_scores import Asked

    table = inputs["benchmarks"].table("questions.parquet")
    labels = table["benchmark"].to_pylist()
    names = list(dict.fromkeys(labels))
    vectors = embed_texts(
        inputs["vectors"], [text or "?" for text in table["text"].to_pylist()], config, keep_unknown=True
    )
    number = {name: place for place, name in enumerate(names)}
    benchmark = np.array([number[name] for name in labels], dtype=np.int64)
    return Asked(table, names, benchmark, vectors, np.any(vectors, axis=1))


# --- the side of the chunks ----------------------------------------------------------------------------------


def write_chunks(job: Job, asked: Asked, stored: Stored) -> None:
    """How near every chunk is to every benchmark, a shard at a time; shards of a killed run are kept."""
    import numpy as np

    from common.chunk_similarity import QuestionVectors

    known = np.flatnonzero(asked.known)
    numbers, dense = np.unique(asked.benchmark[known], return_inverse=True)
    questions = QuestionVectors.of(asked.vectors[known], dense)
    named = _NamedQuestions([asked.names[number] for number in numbers.tolist()], asked.ids(known))
    ranks = chunk_ranks(job, stored, asked.vectors[known])
    vectors, first = job.inputs["vectors"], 0
    with job.progress.bar("chunks", len(stored.rows)) as bar:
        for name in vectors.names("vectors-*.npy"):
            shard = Path(name).stem.removeprefix("vectors-")
            rows = vectors.array(f"rows-{shard}.npy")
            if not job.part.finished(f"chunks-{shard}.parquet"):
                table = chunk_table(rows, vectors.array(name), questions, named)
                for column, values in ranks.items():
                    table = table.append_column(column, [values[first : first + len(rows)]])
                job.part.write_table(f"chunks-{shard}.parquet", table)
            first += len(rows)
            bar.advance(len(rows))


@dataclass(frozen=True)
class _NamedQuestions:
    benchmarks: list[str]
    ids: list[str]


def chunk_table(
    rows: Int64[np.ndarray, " chunks"], vectors: np.ndarray, questions: QuestionVectors, named: _NamedQuestions
) -> pa.Table:
    """Of each chunk: the most similar question and its benchmark, the similarity to every benchmark, and its standing.

    `standing` is the maximum in standard deviations above the chunk's mean similarity to all questions: what is left
    of a generic chunk's advantage.
    """
    import numpy as np
    import pyarrow as pa

    from common.chunk_similarity import chunk_similarities

    found = chunk_similarities(vectors, questions)
    each = [pa.array(found.best[:, place]) for place in range(len(named.benchmarks))]
    return pa.table(
        {
            "chunk_row": pa.array(np.asarray(rows)),
            "max_similarity": pa.array(found.maximum),
            "source_benchmark": pa.array(named.benchmarks, pa.string()).take(pa.array(found.source)),
            "source_question": pa.array(named.ids, pa.string()).take(pa.array(found.question)),
            "all_similarities": pa.StructArray.from_arrays(each, names=named.benchmarks),
            "mean_similarity": pa.array(found.mean),
            "standing": pa.array(found.standing),
        }
    )


def chunk_ranks(job: Job, stored: Stored, questions: np.ndarray) -> dict[str, Any]:
    """Best or mean rank of every chunk over all questions, and the share of chunks before it; none for `distance`."""
    import pyarrow as pa

    strategy = job.config.benchmarks.aggregation_strategy
    if strategy == "distance":
        return {}
    from ranking import rank_scores

    scores = rank_scores(stored.vectors, questions, METRIC, job=job)
    values = scores.rank_max if strategy == "rank_max" else scores.rank_mean
    return {strategy: pa.array(values), "percentile": pa.array(scores.percentile(strategy))}


# --- the side of the questions -------------------------------------------------------------------------------


def nearest_chunks(job: Job, asked: Asked, stored: Stored) -> tuple[list[Nearest], int]:
    """One for each stage, and the number of chunks in a pool."""
    import numpy as np

    from common.arrays import SelectedRows
    from common.benchmark_scores import Nearest
    from common.similarity import pooled_distances
    from common.spread_search import spread_top_k_per_group

    settings = job.config.benchmarks
    known = np.flatnonzero(asked.known)
    sizes = [len(stored.of(stage)) for stage in range(len(stored.stages))]
    size = min(*sizes, *([settings.pool_chunks] if settings.pool_chunks else []), len(stored.rows))
    raw = spread_top_k_per_group(job, stored.vectors, asked.vectors[known], 1, METRIC, groups=stored.stage)
    found = []
    for stage in range(len(stored.stages)):
        pool = SelectedRows(stored.vectors, stored.of(stage))
        how: dict[str, Any] = {"size": size, "pools": settings.pool_draws, "k": 1, "seed": settings.seed}
        pooled = pooled_distances(pool, asked.vectors[known], METRIC, **how, job=job)
        row, distance, in_pool = np.full(len(asked.known), -1), *(np.full(len(asked.known), np.nan) for _ in range(2))
        row[known] = stored.rows[raw[stage].indices[:, 0]]
        distance[known], in_pool[known] = raw[stage].distances[:, 0], pooled.nearest
        found.append(Nearest(row, distance, in_pool))
    return found, size


def score_stage(job: Job, asked: Asked, null: Null, stored: Stored, stage: int, bar: Any) -> StageScores:
    """Score every benchmark against the chunks of one stage; what a killed run finished is not scored again.

    Each goes by itself: the score holds a question against the others that are looked for with it.
    """
    import numpy as np
    import pyarrow as pa

    from common.benchmark_scores import StageScores

    parts = []
    for benchmark in null:
        scratch = f"scratch/scores-{stage}-{benchmark}.parquet"
        if not job.part.finished(scratch):
            job.part.write_table(scratch, score_benchmark(job, asked, null[benchmark], stored, stage, benchmark))
        parts.append(job.part.read_table(scratch))
        bar.advance(len(parts[-1]))
    table, total = pa.concat_tables(parts), len(asked.known)
    places = table["question"].to_numpy()
    values = {name: np.full(total, np.nan) for name in ("probability", "false_positive_rate", *FEATURES)}
    for name, column in values.items():
        column[places] = table[name].to_numpy()
    row, answered = np.full(total, -1), np.zeros(total, dtype=bool)
    row[places], answered[places] = table["chunk_row"].to_numpy(), table["answered"].to_numpy(zero_copy_only=False)
    passages = dict(zip(places.tolist(), table["passage"].to_pylist(), strict=True))
    alarms = {benchmark: tuple(part["null"][0].as_py()) for benchmark, part in zip(null, parts, strict=True)}
    return StageScores(values, row, answered, passages, alarms)


def score_benchmark(job: Job, asked: Asked, null: Wanted, stored: Stored, stage: int, benchmark: int) -> pa.Table:
    """A row for each question of one benchmark; `null`, the same in every row, is how many shuffled copies are flagged.

    Columns: question (its row), chunk_row (of the evidence, -1 for none), answered, passage, and every score.
    """
    import numpy as np
    import pyarrow as pa

    mine, places, threshold = asked.of(benchmark), stored.of(stage), job.config.benchmarks.threshold
    scores = score_texts(job, stored, places, asked.wanted(mine))
    shuffled = score_texts(job, stored, places, null)
    missing = np.full(len(mine), np.nan)
    alarms = [len(null.questions), int((shuffled.probability >= threshold).sum())]
    return pa.table(
        {
            "question": pa.array(mine),
            "chunk_row": pa.array(np.where(scores.document >= 0, stored.rows[places][scores.document], -1)),
            "answered": pa.array(scores.answer_in_document),
            "passage": pa.array(scores.passages, pa.string()),
            "probability": pa.array(scores.probability),
            "false_positive_rate": pa.array(scores.false_positive_rate),
            **{name: pa.array(scores.features.get(name, missing)) for name in FEATURES},
            "null": pa.array([alarms] * len(mine), pa.list_(pa.int64())),
        }
    )


Null = Mapping[int, "Wanted"]


def shuffled_copies(job: Job, asked: Asked) -> Null:
    """Of each benchmark questions with the words of all of them dealt out anew among them, `null_questions` at most."""
    import numpy as np

    from common.benchmark_scores import Wanted
    from common.contamination import shuffled_questions

    settings, found = job.config.benchmarks, {}
    for benchmark in range(len(asked.names)):
        mine = asked.of(benchmark)
        if not len(mine):
            continue
        copies = shuffled_questions(asked.wanted(mine).questions, settings.seed)
        some = np.random.default_rng(settings.seed).permutation(len(copies))[: settings.null_questions]
        copies = [copies[place] for place in np.sort(some).tolist()]
        texts = [copy.text for copy in copies]
        found[benchmark] = Wanted(copies, embed_texts(job.inputs["vectors"], texts, job.config, keep_unknown=True))
    return found


def score_texts(job: Job, stored: Stored, places: Int64[np.ndarray, " stage"], wanted: Wanted) -> ContaminationScores:
    """Look for some questions in the chunks at some places."""
    from common.arrays import SelectedRows
    from common.contamination import SemanticVectors, score_questions
    from common.stored_chunks import texts_of

    texts = partial(texts_of, job.inputs["chunks"], stored.rows[places])
    config = job.config
    semantic = (
        SemanticVectors(wanted.vectors, SelectedRows(stored.vectors, places)) if config.benchmarks.semantic else None
    )
    return score_questions(wanted.questions, texts, config.contamination, semantic)


# --- what is written -----------------------------------------------------------------------------------------


def compute_contamination(job: Job) -> int:
    """Both sides, the leaks, the figures and the page; returns the number of contaminated questions."""
    from common.benchmark_scores import Scored

    asked = load_asked(job.inputs, job.config)
    if not asked.names:
        job.part.write_json("summary.json", {"cells": [], "leaks": 0, "benchmarks": []})
        return 0
    stored = load_stored(job.inputs)
    if not asked.known.any() or not len(stored.rows):
        raise UserError(
            "the embedder knows no word of any question, or the corpus has no vector; nothing can be compared"
        )
    write_chunks(job, asked, stored)
    nearest, pool = nearest_chunks(job, asked, stored)
    null = shuffled_copies(job, asked)
    with job.progress.bar("questions", len(asked.known) * len(stored.stages)) as bar:
        scores = [score_stage(job, asked, null, stored, stage, bar) for stage in range(len(stored.stages))]
    found = Scored(job.config.benchmarks, asked, stored, nearest, pool, scores)
    return write_results(job, found)


def write_results(job: Job, found: Scored) -> int:
    """Tables, figures and page; returns the number of contaminated questions."""
    import numpy as np
    import pyarrow as pa

    from common.benchmark_scores import contaminated_lines, leak_table, question_rows, summarise

    part, chunks = job.part, job.inputs["chunks"]
    tables = [question_rows(found, stage, chunks) for stage in range(len(found.stored.stages))]
    part.write_table("questions.parquet", pa.concat_tables(tables))
    leaks = leak_table(found, chunks)
    part.write_table("leaks.parquet", leaks)
    anywhere = np.any([found.flagged(stage) for stage in range(len(found.stored.stages))], axis=0)
    unreadable = job.inputs["benchmarks"].json("unreadable.json")
    summary = summarise(chunks, found, leaks, anywhere, len(unreadable))
    part.write_json("summary.json", summary)
    with part.write("contaminated.jsonl") as path:
        path.write_text("".join(contaminated_lines(found)), encoding="utf-8")
    write_pages(job, summary, leaks, unreadable)
    return int(anywhere.sum())


# --- pages ---------------------------------------------------------------------------------------------------


def contamination_view(summary: Mapping[str, Any], leaks: pa.Table, shown: int | None) -> Contamination:
    """What the page and the report show, from finished files."""
    from dacite import from_dict

    from common.leaks import Cell, Contamination, Truth

    if not summary["cells"]:
        return Contamination()
    return Contamination(
        cells=tuple(from_dict(Cell, cell) for cell in summary["cells"]),
        leaks=tuple(leak_of(row) for row in leaks.slice(0, shown).to_pylist()),
        all_leaks=len(leaks),
        truth=tuple(Truth(**each) for each in summary["truth"]),
        threshold=summary["threshold"],
        unreadable=summary["third_state"]["unreadable"] + summary["third_state"]["no_words"],
    )


def leak_of(row: Mapping[str, Any]) -> Leak:
    """A row of `leaks.parquet`."""
    from dataclasses import fields

    from common.leaks import Leak

    return Leak(**{item.name: row[item.name] for item in fields(Leak)})


def load_contamination(artifact: Artifact, shown: int | None = None) -> Contamination:
    """The view of a finished artifact; empty where the config names no benchmark."""
    import pyarrow as pa

    summary = artifact.json("summary.json")
    leaks = artifact.table("leaks.parquet") if artifact.names("leaks.parquet") else pa.table({})
    return contamination_view(summary, leaks, shown)


def write_pages(job: Job, summary: dict[str, Any], leaks: pa.Table, unreadable: Sequence[Mapping[str, Any]]) -> None:
    """The heat map as a picture, and the page."""
    from common.contamination_page import ContaminationPage, render
    from common.heat_map import draw
    from common.static_plots import save

    view = contamination_view(summary, leaks, job.config.benchmarks.shown_leaks)
    with job.part.write("heat_map.png") as path:
        save(draw(view), path, "png")
    page = ContaminationPage(view, summary, tuple(unreadable))
    with job.part.write("contamination.html") as path:
        path.write_text(render(page), encoding="utf-8", newline="\n")


# --- the stage -----------------------------------------------------------------------------------------------


def contamination_settings(config: Config) -> Mapping[str, object]:
    """Settings of this side; the benchmarks enter by their own key."""
    own = keyed_settings(config.benchmarks, drop=("benchmarks", "min_words", "results", "permutations"))
    if not config.benchmarks.benchmarks:
        return {}
    return {**own, "score": keyed_settings(config.contamination)}


def contamination_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """The fitted model behind the score."""
    if not config.benchmarks.benchmarks:
        return {}
    from common.contamination import default_model

    return {"score": digest(default_model(with_vectors=config.benchmarks.semantic).to_json())}


CONTAMINATION = Stage(
    name="contamination",
    script=SCRIPT,
    version=1,
    settings=contamination_settings,
    compute=compute_contamination,
    inputs=(CHUNKS, VECTORS, BENCHMARKS),
    content=contamination_content,
)


# --- held-out validation -------------------------------------------------------------------------------------


def held_out_settings(config: Config) -> Mapping[str, object]:
    """How results are tested; nothing without any."""
    settings = config.benchmarks
    how = {"permutations": settings.permutations, "confidence": settings.confidence, "seed": settings.seed}
    return how if settings.results else {}


def held_out_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    paths = config.benchmarks.results
    return {"results": reader_content(FilesReader(paths=paths), cache_dir)} if paths else {}


def compute_held_out(job: Job) -> int:
    """Nearness to the corpus against performance, on both splits; returns the number of tests, 0 without results."""
    from common.contamination_page import render_held_out
    from common.held_out_results import held_out_validation
    from common.readers import read_files

    settings = job.config.benchmarks
    if not settings.results or not job.inputs["benchmarks"].rows:
        job.part.write_json("held_out.json", None)
        return 0
    tables = (job.inputs[name].table("questions.parquet") for name in ("benchmarks", "contamination"))
    found = held_out_validation(*tables, read_files(FilesReader(paths=settings.results)), settings)
    job.part.write_json("held_out.json", found)
    with job.part.write("held_out.html") as path:
        path.write_text(render_held_out(found), encoding="utf-8", newline="\n")
    return len(found["tests"])


HELD_OUT = Stage(
    name="held_out",
    script=SCRIPT,
    version=1,
    settings=held_out_settings,
    compute=compute_held_out,
    inputs=(BENCHMARKS, CONTAMINATION),
    content=held_out_content,
)


# --- a clean copy --------------------------------------------------------------------------------------------

# A document that is left may hold the next best copy; this many times the flagged questions are looked for again.
CLEANING_ROUNDS = 8


def held_documents(job: Job, contamination: Artifact) -> dict[str, list[str]]:
    """The documents that hold flagged questions, with the questions' ids: removed, looked for again, until none is.

    Raises:
        UserError: after `CLEANING_ROUNDS` some question is still found.
    """
    import numpy as np
    import pyarrow as pa

    from common.stored_chunks import ids_or_null

    asked, stored = load_asked(job.inputs, job.config), load_stored(job.inputs)
    owners = np.array(ids_or_null(job.inputs["chunks"], stored.rows, "doc_id").to_pylist(), dtype=object)
    number = {name: place for place, name in enumerate(asked.table["question_id"].to_pylist())}
    held: dict[str, list[str]] = {}
    leaks = contamination.table("leaks.parquet", ["question_id", "stage", "doc_id"])
    for stage, name in enumerate(stored.stages):
        found = leaks.filter(pa.array([each == name for each in leaks["stage"].to_pylist()], pa.bool_()))
        left, places = found.select(["question_id", "doc_id"]).to_pylist(), stored.of(stage)
        for _ in range(CLEANING_ROUNDS):
            for row in left:
                held.setdefault(row["doc_id"], []).append(row["question_id"])
            places = places[[owners[place] not in held for place in places.tolist()]]
            if not left or not len(places):
                break
            questions = np.array(sorted(number[row["question_id"]] for row in left), dtype=np.int64)
            left = _still_held(job, asked, stored, questions, places, owners)
        if left and len(places):
            raise UserError(f"stage '{name}': {len(left)} questions are in more than {CLEANING_ROUNDS} documents each")
    return held


def _still_held(
    job: Job,
    asked: Asked,
    stored: Stored,
    questions: Int64[np.ndarray, " some"],
    places: Int64[np.ndarray, " left"],
    owners: np.ndarray,
) -> list[dict[str, str]]:
    """Which of the questions are found in the chunks that are left, and in which document."""
    scores = score_texts(job, stored, places, asked.wanted(questions))
    flagged = (scores.probability >= job.config.benchmarks.threshold).tolist()
    rows = zip(asked.ids(questions), scores.document.tolist(), flagged, strict=True)
    return [{"question_id": name, "doc_id": owners[places[row]]} for name, row, hit in rows if hit]


def export_clean(session: Session, folder: Path) -> Exported:
    """Write the cleaned corpus and benchmarks."""
    from common.cleaning import Exported, export_benchmarks, export_corpus

    contamination, asked = session.load(CONTAMINATION), session.load(BENCHMARKS)
    inputs = {stage.name: session.load(stage) for stage in (CHUNKS, VECTORS, BENCHMARKS)}
    job = Job(session.config, inputs, Part(folder), session.progress, session.store.cache_dir)
    held = held_documents(job, contamination) if contamination.rows else {}
    corpus = export_corpus(session.load(DOCUMENTS), held, folder / "corpus")
    found = {row["question_id"]: row["stages"] for row in contaminated_ids(contamination)}
    questions, unreadable = asked.table("questions.parquet"), asked.json("unreadable.json")
    return Exported(*corpus, *export_benchmarks(questions, found, unreadable, folder / "benchmarks"))


def contaminated_ids(contamination: Artifact) -> list[dict[str, Any]]:
    """The rows of `contaminated.jsonl`."""
    import json

    lines = contamination.path("contaminated.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- what it prints ------------------------------------------------------------------------------------------


def print_contamination(session: Session, shown: int) -> None:
    """The table, the truth where it is known, the likeliest leaks."""
    from rich.text import Text

    from common.console import stdout
    from common.contamination_view import print_cells, print_leaks, third_state_lines
    from common.leaks import truth_lines

    artifact = session.load(CONTAMINATION)
    summary, found, console = artifact.json("summary.json"), load_contamination(artifact), stdout()
    if not found.cells:
        console.print("the config names no benchmark: nothing to look for; see benchmarks.benchmarks")
        return
    print_cells(found, console)
    for line in (*truth_lines(found.truth), *third_state_lines(summary["third_state"])):
        console.print(Text(line))
    print_leaks(found, shown, console)


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--shown", type=int, default=5, metavar="N", help="leaks printed, the likeliest first")
    parser.add_argument(
        "--export-clean", metavar="DIR", help="write the corpus without these leaks, and the benchmarks without them"
    )


def present(session: Session, args: Namespace) -> object:
    """Print what was found, and write the clean copy where it is asked for."""
    from common.cleaning import export_folder
    from common.console import stdout
    from common.contamination_view import print_held_out

    if args.shown < 0:
        raise ConfigError("--shown must be at least 0")
    folder = export_folder(args.export_clean) if args.export_clean is not None else None
    made = (session.load(CONTAMINATION), session.load(HELD_OUT))
    exported = export_clean(session, folder) if folder else None
    pages = {
        name: str(artifact.path(name))
        for artifact in made
        for name in artifact.names("*.html") + artifact.names("*.png")
    }
    summary, held_out = made[0].json("summary.json"), made[1].json("held_out.json")
    if not args.json:
        print_contamination(session, args.shown)
        if held_out:
            print_held_out(held_out, stdout())
        print(
            "".join(f"\n{'page:' if name.endswith('html') else 'picture:':<9} {path}" for name, path in pages.items())
        )
        if exported:
            print(clean_words(exported, folder))
    return {"summary": summary, "held_out": held_out, "pages": pages, "exported": exported and asdict(exported)}


def clean_words(exported: Exported, folder: Path | None) -> str:
    """What the clean copy holds, in one line."""
    return (
        f"clean copy: {folder}: {exported.documents:,} documents ({exported.removed_documents:,} removed, and nothing "
        f"flagged is found in the others), {exported.questions:,} questions ({exported.removed_questions:,} removed)"
    )


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (BENCHMARKS, CONTAMINATION, HELD_OUT),
            script=SCRIPT,
            arguments=arguments,
            present=present,
            next_command=lambda session: session.command("report.py"),
        )
    )
