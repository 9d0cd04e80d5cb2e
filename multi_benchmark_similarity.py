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
from dataclasses import asdict
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

    from common.benchmark_scores import Asked, Scored, Stored
    from common.benchmark_search import Null
    from common.cleaning import Exported
    from common.samples import BenchmarkSample
    from common.store import Artifact

SCRIPT = "multi_benchmark_similarity.py"


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
    """Read every benchmark; returns the number of questions.

    Raises:
        UserError: a benchmark holds no question that can be read.
    """
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
    from common.hash_samples import sample_rows

    if benchmark.take_questions is None:
        return samples
    rows = sample_rows(seed, benchmark.name, [sample.id for sample in samples], benchmark.take_questions)
    return [samples[row] for row in rows.tolist()]


BENCHMARKS = Stage(
    name="benchmarks",
    script=SCRIPT,
    version=1,
    settings=benchmark_settings,
    compute=compute_benchmarks,
    content=benchmark_content,
)


# --- questions, embedded -------------------------------------------------------------------------------------


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


# --- the side of the chunks ----------------------------------------------------------------------------------


def write_chunks(job: Job, asked: Asked, stored: Stored) -> None:
    """How near every chunk is to every benchmark, a shard at a time; shards of a killed run are kept."""
    import numpy as np

    from common.chunk_similarity import NamedQuestions, QuestionVectors, similarity_table

    known = np.flatnonzero(asked.known)
    numbers, dense = np.unique(asked.benchmark[known], return_inverse=True)
    questions = QuestionVectors.of(asked.vectors[known], dense)
    named = NamedQuestions([asked.names[number] for number in numbers.tolist()], asked.ids(known))
    ranks = chunk_ranks(job, stored, asked.vectors[known])
    vectors, first = job.inputs["vectors"], 0
    with job.progress.bar("chunks", len(stored.rows)) as bar:
        for name in vectors.names("vectors-*.npy"):
            shard = Path(name).stem.removeprefix("vectors-")
            rows = vectors.array(f"rows-{shard}.npy")
            if not job.part.finished(f"chunks-{shard}.parquet"):
                table = similarity_table(rows, vectors.array(name), questions, named)
                for column, values in ranks.items():
                    table = table.append_column(column, [values[first : first + len(rows)]])
                job.part.write_table(f"chunks-{shard}.parquet", table)
            first += len(rows)
            bar.advance(len(rows))


def chunk_ranks(job: Job, stored: Stored, questions: np.ndarray) -> dict[str, Any]:
    """Best or mean rank of every chunk over all questions, and the share of chunks before it; none for `distance`."""
    import pyarrow as pa

    strategy = job.config.benchmarks.aggregation_strategy
    if strategy == "distance":
        return {}
    from common.benchmark_search import METRIC
    from ranking import rank_scores

    scores = rank_scores(stored.vectors, questions, METRIC, job=job)
    values = scores.rank_max if strategy == "rank_max" else scores.rank_mean
    return {strategy: pa.array(values), "percentile": pa.array(scores.percentile(strategy))}


# --- what is written -----------------------------------------------------------------------------------------


def compute_contamination(job: Job) -> int:
    """Both sides, the leaks, the figures and the page; returns the number of contaminated questions.

    Raises:
        UserError: no question, or no chunk, has a vector.
    """
    from common.benchmark_scores import Scored, Stored
    from common.benchmark_search import nearest_chunks, score_stage

    asked = load_asked(job.inputs, job.config)
    if not asked.names:
        job.part.write_json("summary.json", {"cells": [], "leaks": 0, "benchmarks": []})
        return 0
    stored = Stored.load(job.inputs["chunks"], job.inputs["vectors"])
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


def write_pages(job: Job, summary: dict[str, Any], leaks: pa.Table, unreadable: Sequence[Mapping[str, Any]]) -> None:
    """The heat map as a picture, and the page."""
    from common.contamination_page import ContaminationPage, render
    from common.heat_map import draw
    from common.leaks import contamination_of
    from common.static_plots import save

    view = contamination_of(summary, leaks, job.config.benchmarks.shown_leaks)
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


def export_clean(session: Session, folder: Path) -> Exported:
    """Write the cleaned corpus and benchmarks."""
    from common.benchmark_scores import Stored
    from common.cleaning import Exported, contaminated_ids, export_benchmarks, export_corpus, held_documents

    contamination, asked = session.load(CONTAMINATION), session.load(BENCHMARKS)
    inputs = {stage.name: session.load(stage) for stage in (CHUNKS, VECTORS, BENCHMARKS)}
    job = Job(session.config, inputs, Part(folder), session.progress, session.store.cache_dir)
    held: dict[str, list[str]] = {}
    if contamination.rows:
        stored = Stored.load(inputs["chunks"], inputs["vectors"])
        held = held_documents(job, load_asked(inputs, session.config), stored, contamination.table("leaks.parquet"))
    corpus = export_corpus(session.load(DOCUMENTS), held, folder / "corpus")
    found = {row["question_id"]: row["stages"] for row in contaminated_ids(contamination)}
    questions, unreadable = asked.table("questions.parquet"), asked.json("unreadable.json")
    return Exported(*corpus, *export_benchmarks(questions, found, unreadable, folder / "benchmarks"))


# --- what it prints ------------------------------------------------------------------------------------------


def print_contamination(session: Session, shown: int) -> None:
    """The table, the truth where it is known, the likeliest leaks."""
    from rich.text import Text

    from common.console import stdout
    from common.contamination_view import print_cells, print_leaks, third_state_lines
    from common.leaks import load_contamination, truth_lines

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
