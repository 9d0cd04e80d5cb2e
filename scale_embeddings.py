"""Embed a sample of a corpus, learn a cheap score of nearness to benchmarks from it, apply that to every chunk.

Reads   data/documents/<key>/ (prepare_data.py), cut into data/chunks/<key>/; the questions that `benchmarks` names
Writes  data/scaled/<key>/  scores-00000.parquet, ... (one for each shard of chunks: chunk_id, score, embedded,
                            true_score), held_out.parquet (score and true_score of the check), summary.json, quality.png
Run     uv run scale_embeddings.py configs/scale_01_tiny.py
        uv run scale_embeddings.py configs/scale_01_tiny.py scale.share=0.02 scale.aggregation_strategy=rank_mean

No chunk but the sample is embedded: `scale.share` of the chunks to learn from, chosen by hash, and
`scale.held_out_chunks` of documents that nothing is learned from, to say what the cheap score costs: rank correlation
and recall of the true top 1% and 10%, with intervals over documents. The speed-up is measured in the same run, by the
encoder's own CPU-seconds. A shard that is scored is kept when a run is killed.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.console import say
from common.errors import UserError
from common.keys import keyed_settings
from common.scale_costs import Cost, Costs, speed_up
from common.stages import Job, Session, Stage
from config import Config
from embed_chunks import CHUNKS, make_embedder, refuse_not_finite, sample_texts, vector_content, vector_settings
from multi_benchmark_similarity import BENCHMARKS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64
    from rich.console import Console

    from common.cheap_quality import Quality
    from common.cheap_scores import Labelled, ScoreModel
    from common.embedders import Embedder
    from common.store import Artifact

SCRIPT = "scale_embeddings.py"
# Texts embedded before they are written: what a kill can cost.
BLOCK = 2_048
# A model of so few inputs gains nothing from more rows.
MOST_FITTED = 200_000
MOST_QUESTIONS = 20_000
FEWEST = 20
NO_ENCODER = "embedding.engine=lsa has no expensive encoder: this measures how the cheap score ranks, and no speed-up"
STATIC = "the embedder is about as cheap as the cheap score: no speed-up to be had from it"


# --- the sample ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows of chunks, increasing: to learn from, and (of other documents) to check on."""

    labels: Int64[np.ndarray, " labels"]
    held_out: Int64[np.ndarray, " held_out"]


def choose(chunks: Artifact, config: Config) -> Chosen:
    """Chunks by the hash of their ids; whether a document is held out follows from the hash of its id alone.

    Holds nine bytes a chunk: 0.9 GB for a hundred million.

    Raises:
        UserError: there are fewer than 20 chunks on a side.
    """
    import numpy as np

    from common.hash_samples import sample_ranks

    settings, hashes, apart = config.scale, [], []
    for table in chunks.tables("chunks-*.parquet", ["chunk_id", "doc_id"]):
        hashes.append(sample_ranks(settings.seed, "scale", table["chunk_id"].to_pylist()))
        documents = sample_ranks(settings.seed, "scale held out", table["doc_id"].to_pylist())
        apart.append(documents < np.uint64(settings.held_out_documents * 2.0**64))
    held, ranks = np.concatenate([np.zeros(0, bool), *apart]), np.concatenate([np.zeros(0, np.uint64), *hashes])
    wanted = max(settings.min_labels, round(settings.share * len(ranks)))
    chosen = Chosen(_smallest(ranks, ~held, wanted), _smallest(ranks, held, settings.held_out_chunks))
    if min(len(chosen.labels), len(chosen.held_out)) < FEWEST:
        raise UserError(
            f"{len(chosen.labels)} chunks to learn from and {len(chosen.held_out)} of other documents to check on: at "
            f"least {FEWEST} of both are needed; use a larger corpus, scale.share or scale.held_out_documents"
        )
    return chosen


def _smallest(
    ranks: UInt64[np.ndarray, " chunks"], among: Bool[np.ndarray, " chunks"], count: int
) -> Int64[np.ndarray, " chosen"]:
    import numpy as np

    rows = np.flatnonzero(among)
    count = min(count, len(rows))
    return np.sort(rows[np.argpartition(ranks[rows], count - 1)[:count]]) if count else rows


# --- embedding -----------------------------------------------------------------------------------------------


@dataclass
class Encoding:
    """The encoder, and what was embedded so far, kept in blocks that survive a kill."""

    job: Job
    embedder: Embedder
    costs: Costs

    def documents(self, name: str, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        """Vectors of chunks (or words), unit or zero; a block that is there is not embedded again.

        Raises:
            UserError: a vector is NaN or infinite.
        """
        import numpy as np

        found = []
        with self.job.progress.bar(name.replace("_", " "), len(texts)) as bar:
            for start in range(0, len(texts), BLOCK):
                part = texts[start : start + BLOCK]
                found.append(self._block(f"scratch/{name}-{start // BLOCK:05d}", name, part))
                bar.advance(len(part))
        return np.concatenate(found)

    def _block(self, path: str, name: str, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        if not self.job.part.finished(f"{path}.json"):
            cost = Costs()
            with cost.measured(name, len(texts)):
                vectors = self.embedder.embed_documents(texts)
            refuse_not_finite(vectors, texts, self.job.config.embedding)
            self.job.part.write_array(f"{path}.npy", vectors)
            self.job.part.write_json(f"{path}.json", asdict(cost.of(name)))
        kept = self.job.part.read_json(f"{path}.json")
        self.costs.of(name).add(**kept)
        return self.job.part.read_array(f"{path}.npy")


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions that the embedder gives a direction."""

    texts: list[str]
    vectors: Float32[np.ndarray, "questions dims"]
    without_vector: int


def embed_questions(benchmarks: Artifact, embedder: Embedder) -> Questions:
    """The texts that the benchmarks are looked for by, embedded as queries.

    Raises:
        UserError: none has a vector.
    """
    import numpy as np

    texts = [text for text in benchmarks.table("questions.parquet", ["text"])["text"].to_pylist() if text.strip()]
    chosen = np.unique(np.linspace(0, max(len(texts) - 1, 0), min(len(texts), MOST_QUESTIONS)).astype(int)).tolist()
    texts = [texts[row] for row in chosen]
    vectors = embedder.embed_queries(texts) if texts else np.zeros((0, 1), np.float32)
    known = np.flatnonzero(np.any(vectors, axis=1) & np.isfinite(vectors).all(axis=1))
    if not len(known):
        raise UserError("no question has a vector; name benchmarks in benchmarks.benchmarks that the embedder can read")
    return Questions([texts[row] for row in known.tolist()], vectors[known], len(texts) - len(known))


def embed_sample(
    encoding: Encoding, name: str, rows: Int64[np.ndarray, " rows"], questions: Questions
) -> tuple[Int64[np.ndarray, " kept"], Labelled]:
    """The chunks of some rows with their vectors and true scores; those without a direction are left out."""
    import numpy as np

    from common.cheap_scores import Labelled
    from common.hash_samples import sample_ranks
    from common.stored_chunks import take_chunks

    job = encoding.job
    table = take_chunks(job.inputs["chunks"], rows, ["doc_id", "text"])
    texts = table["text"].to_pylist()
    vectors = encoding.documents(name, texts)
    kept = np.flatnonzero(vectors.any(axis=1))
    document = sample_ranks(0, "document", table["doc_id"].to_pylist())
    number = np.unique(document, return_inverse=True)[1].astype(np.int64)
    scores = true_scores(vectors[kept], questions.vectors, job.config.scale.aggregation_strategy)
    return rows[kept], Labelled([texts[row] for row in kept.tolist()], vectors[kept], scores, number[kept])


def true_scores(
    vectors: Float[np.ndarray, "rows dims"], questions: Float[np.ndarray, "questions dims"], strategy: str
) -> Float64[np.ndarray, " rows"]:
    """How near each unit vector is to the questions; higher is nearer.

    `max` and `mean` are cosines. Ranks are among these rows: `rank_max` is -log of the best rank's share of the rows,
    `rank_mean` the share of the rows that stand behind on average (BETR, arXiv 2507.12466).
    """
    import numpy as np

    from common.chunk_similarity import QuestionVectors, chunk_similarities
    from ranking import rank_scores

    if strategy in ("max", "mean"):
        asked = QuestionVectors.of(questions, np.zeros(len(questions), np.int64))
        found = chunk_similarities(vectors, asked)
        return (found.maximum if strategy == "max" else found.mean).astype(np.float64)
    ranks = rank_scores(vectors, questions)
    if strategy == "rank_max":
        return -np.log(ranks.rank_max / len(vectors))
    return 1.0 - ranks.percentile("rank_mean")


# --- learning ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Learned:
    """The model that is applied, and how each one did on the labels: rank correlation with documents left out."""

    name: str
    model: ScoreModel
    tried: Mapping[str, float]


def learn(encoding: Encoding, labelled: Labelled, questions: Questions) -> Learned:
    """Fit the models that `scale.model` names, and keep the one with the best cross-validated rank correlation."""
    import numpy as np

    from common.cheap_scores import cross_predicted, fit_fasttext

    settings = encoding.job.config.scale
    if settings.model == "fasttext":
        with encoding.costs.measured("learning", 0):
            return Learned("fasttext", fit_fasttext(labelled, seed=settings.seed), {})
    if len(labelled.texts) > MOST_FITTED:
        labelled = labelled.take(np.linspace(0, len(labelled.texts) - 1, MOST_FITTED).astype(np.int64))
    names = ("student", "ngrams") if settings.model == "auto" else (settings.model,)
    fits = {name: (_student if name == "student" else _ngrams)(encoding, labelled, questions) for name in names}
    with encoding.costs.measured("learning", 0):
        tried = {
            name: _correlation(
                cross_predicted(fit.crossed, labelled.document, settings.folds, settings.seed), labelled.scores
            )
            for name, fit in fits.items()
        }
        best = max(names, key=lambda name: tried[name])
        model = fits[best].model(np.arange(len(labelled.texts)))
    say("; ".join(f"{name}: rank correlation {rho:.3f} with documents left out" for name, rho in tried.items()))
    return Learned(best, model, tried)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A kind of model: fitted to some rows it predicts others from their features, or any text."""

    model: Callable[[Int64[np.ndarray, " some"]], ScoreModel]
    crossed: Callable[[Int64[np.ndarray, " some"]], Callable[[Int64[np.ndarray, " others"]], Float64[np.ndarray, " n"]]]


def _student(encoding: Encoding, labelled: Labelled, questions: Questions) -> _Fit:
    from common.cheap_scores import StudentData, WordTable, frequent_words

    settings, job = encoding.job.config.scale, encoding.job
    with encoding.costs.measured("counting", settings.word_chunks):
        most = min(settings.words, settings.words_per_label * len(labelled.texts))
        names, idf = frequent_words(sample_texts(job.inputs["chunks"], settings.word_chunks), most)
    vectors = encoding.documents("words", names)
    with encoding.costs.measured("learning", 0):
        table = WordTable.of(names, idf, vectors, labelled.texts)
        data = StudentData.of(table, labelled.texts, questions.texts, questions.vectors)

    def crossed(rows: Int64[np.ndarray, " some"]) -> Callable[[Int64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]:
        student = data.fit(labelled, rows)
        return lambda others: student.predict_features(data.features[others])

    return _Fit(lambda rows: data.fit(labelled, rows), crossed)


def _ngrams(encoding: Encoding, labelled: Labelled, questions: Questions) -> _Fit:
    from common.cheap_scores import fit_ngrams, hashed_ngrams

    with encoding.costs.measured("learning", 0):
        features = hashed_ngrams(labelled.texts)

    def crossed(rows: Int64[np.ndarray, " some"]) -> Callable[[Int64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]:
        fitted = fit_ngrams(features[rows], labelled.scores[rows])
        return lambda others: features[others] @ fitted.weights + fitted.intercept

    return _Fit(lambda rows: fit_ngrams(features[rows], labelled.scores[rows]), crossed)


def _correlation(first: Float64[np.ndarray, " rows"], second: Float64[np.ndarray, " rows"]) -> float:
    """Spearman's; 0 where one of them never changes."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1]) if all(each.std() > 0 for each in ranks) else 0.0


# --- applying ------------------------------------------------------------------------------------------------


def apply_to_all(job: Job, model: ScoreModel, rows: Int64[np.ndarray, " n"], true: Float64[np.ndarray, " n"]) -> Cost:
    """Score every chunk, a shard at a time; `rows` (increasing) were embedded. Returns the cost, of kept shards too."""
    costs, first = Costs(), 0
    chunks = job.inputs["chunks"]
    with job.progress.bar("scores", chunks.rows) as bar:
        for name in chunks.names("chunks-*.parquet"):
            target, marker = name.replace("chunks-", "scores-"), f"scratch/{Path(name).stem}.json"
            if not job.part.finished(marker):
                cost = Costs()
                with cost.measured("applying", chunks.table(name, ["chunk_id"]).num_rows):
                    table = chunks.table(name, ["chunk_id", "text"])
                    scores = model.predict(table["text"].to_pylist())
                job.part.write_table(target, score_table(table["chunk_id"], scores, first, rows, true))
                job.part.write_json(marker, asdict(cost.of("applying")))
            kept = job.part.read_json(marker)
            costs.of("applying").add(**kept)
            first += kept["texts"]
            bar.advance(kept["texts"])
    return costs.of("applying")


def score_table(
    ids: pa.ChunkedArray,
    scores: Float64[np.ndarray, " chunks"],
    first: int,
    rows: Int64[np.ndarray, " n"],
    true: Float64[np.ndarray, " n"],
) -> pa.Table:
    """Scores of the chunks from row `first` on: the cheap one of each, and the true one of those that were embedded."""
    import numpy as np
    import pyarrow as pa

    low, high = np.searchsorted(rows, [first, first + len(scores)])
    embedded, known = np.zeros(len(scores), bool), np.zeros(len(scores), np.float32)
    embedded[rows[low:high] - first], known[rows[low:high] - first] = True, true[low:high]
    columns = {
        "chunk_id": ids,
        "score": pa.array(scores.astype(np.float32)),
        "embedded": pa.array(embedded),
        "true_score": pa.array(known, mask=~embedded),
    }
    return pa.table(columns)


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Embed the sample, learn, check, apply to every chunk; returns the number of chunks.

    Raises:
        UserError: the corpus holds no chunk.
    """
    import numpy as np

    from common.cheap_scores import require_fasttext

    costs = Costs()
    if job.config.scale.model == "fasttext":
        require_fasttext()
    if not job.inputs["chunks"].rows:
        raise UserError(f"{job.inputs['chunks'].place}: there is no chunk to score; check the sources in the config")
    encoding = Encoding(job, make_embedder(job), costs)
    with costs.measured("questions", job.inputs["benchmarks"].rows):
        questions = embed_questions(job.inputs["benchmarks"], encoding.embedder)
    with costs.measured("choosing", job.inputs["chunks"].rows):
        chosen = choose(job.inputs["chunks"], job.config)
    label_rows, labelled = embed_sample(encoding, "labels", chosen.labels, questions)
    held_rows, held = embed_sample(encoding, "held_out", chosen.held_out, questions)
    job.device = encoding.embedder.device
    learned = learn(encoding, labelled, questions)
    quality = check(job, learned, held_rows, held)
    rows, true = np.concatenate([label_rows, held_rows]), np.concatenate([labelled.scores, held.scores])
    order = np.argsort(rows, kind="stable")
    costs.parts["applying"] = apply_to_all(job, learned.model, rows[order], true[order])
    job.part.write_json("summary.json", _summary(job, questions, labelled, held, learned, quality, costs))
    return job.inputs["chunks"].rows


def check(job: Job, learned: Learned, rows: Int64[np.ndarray, " n"], held: Labelled) -> Quality:
    """How good the cheap score is on chunks of documents that it has not seen; writes them, and the figure."""
    from common.cheap_quality import measure_quality
    from common.scale_figure import draw
    from common.static_plots import save

    settings, predicted = job.config.scale, learned.model.predict(held.texts)
    options = {"draws": settings.bootstraps, "confidence": settings.confidence, "seed": settings.seed}
    quality = measure_quality(held.scores, predicted, held.document, **options)
    _write_held_out(job, rows, held, predicted)
    with job.part.write("quality.png") as path:
        save(draw(held.scores, predicted, quality, settings.aggregation_strategy), path, "png")
    return quality


def _write_held_out(
    job: Job, rows: Int64[np.ndarray, " n"], held: Labelled, predicted: Float64[np.ndarray, " n"]
) -> None:
    import pyarrow as pa

    from common.stored_chunks import take_chunks

    ids = take_chunks(job.inputs["chunks"], rows, ["chunk_id", "doc_id"])
    scores = {"score": pa.array(predicted), "true_score": pa.array(held.scores)}
    job.part.write_table("held_out.parquet", pa.table({name: ids[name] for name in ids.column_names} | scores))


def _summary(
    job: Job,
    questions: Questions,
    labelled: Labelled,
    held: Labelled,
    learned: Learned,
    quality: Quality,
    costs: Costs,
) -> dict[str, Any]:
    import numpy as np

    chunks, gain = job.inputs["chunks"].rows, speed_up(costs, job.inputs["chunks"].rows, job.device)
    lsa = job.config.embedding.engine == "lsa"
    notes = [NO_ENCODER] if lsa else [STATIC] if gain.all_work < 1 else []
    return {
        "chunks": chunks,
        "questions": len(questions.texts),
        "questions_without_vector": questions.without_vector,
        "aggregation_strategy": job.config.scale.aggregation_strategy,
        "labels": {
            "chunks": len(labelled.texts),
            "documents": len(np.unique(labelled.document)),
            "share": len(labelled.texts) / chunks,
        },
        "held_out": {"chunks": quality.chunks, "documents": quality.documents},
        "model": learned.name,
        "words": costs.parts["words"].texts if "words" in costs.parts else 0,
        "cross_validated": dict(learned.tried),
        "quality": asdict(quality),
        "speed_up": None if lsa else asdict(gain),
        "apply_chunks_per_second": gain.chunks_per_second,
        "costs": {name: asdict(cost) for name, cost in costs.parts.items()},
        "notes": notes,
    }


def settings_of(config: Config) -> Mapping[str, object]:
    """The scale settings, and those of the embedder."""
    return {"scale": keyed_settings(config.scale), "embedding": vector_settings(config)}


SCALED = Stage(
    name="scaled",
    script=SCRIPT,
    version=1,
    settings=settings_of,
    compute=compute,
    inputs=(CHUNKS, BENCHMARKS),
    content=vector_content,
)


# --- what it prints ------------------------------------------------------------------------------------------


def print_summary(found: Mapping[str, Any], console: Console) -> None:
    """What was embedded, how well the rest is ranked, and what that saved."""
    for line in summary_lines(found):
        console.print(line, markup=False, soft_wrap=True)


def summary_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What was embedded, learned and saved, a line each."""
    labels, held, quality = found["labels"], found["held_out"], found["quality"]
    yield (
        f"embedded  {labels['chunks']:,} of {found['chunks']:,} chunks to learn from ({labels['share']:.1%}), "
        f"{found['words']:,} words; {held['chunks']:,} chunks of {held['documents']:,} other documents to check"
    )
    tried = ", ".join(f"{name} {rho:.3f}" for name, rho in found["cross_validated"].items())
    yield f"model     {found['model']}" + (f"; rank correlation with documents left out: {tried}" if tried else "")
    yield (
        f"ranking   by {found['aggregation_strategy']} over {found['questions']:,} questions: rank correlation "
        f"{quality['rho']:.3f} [{_ends(quality)}] with the true score"
    )
    for each in quality["recalls"]:
        yield (
            f"recall    {each['recall']:.3f} [{_ends(each)}] of the true top {each['top']:.0%} "
            f"({each['chunks']:,} chunks) in the cheap score's; at random {each['kept']:.2f}"
        )
    double = next((each for each in quality["curve"] if each["kept"] == 0.2), None)
    if double:
        yield f"          {double['recall']:.3f} [{_ends(double)}] of the true top 10% in the cheap score's 20%"
    yield from _speed_lines(found)
    yield from (f"note      {note}" for note in found["notes"])


def _ends(found: Mapping[str, Any]) -> str:
    return f"{found['interval']['low']:.3f}, {found['interval']['high']:.3f}"


def _speed_lines(found: Mapping[str, Any]) -> Iterator[str]:
    gain = found["speed_up"]
    if gain is None:
        yield f"speed     the cheap score: {found['apply_chunks_per_second']:,.0f} chunks a CPU-second"
        return
    unit = "CPU-second" if gain["by"] == "cpu_seconds" else "second"
    yield (
        f"speed     encoder {1 / max(gain['encoder_per_chunk'], 1e-12):,.0f} chunks a {unit}, cheap score "
        f"{gain['chunks_per_second']:,.0f}; {gain['encoder_work']:.1f}x less encoder work, {gain['all_work']:.1f}x "
        f"less of all work, {gain['with_check']:.1f}x with the check"
    )


def present(session: Session, args: Namespace) -> object:
    """What the cheap score is worth."""
    from common.console import stdout

    artifact = session.load(SCALED)
    found = artifact.json("summary.json")
    if not args.json:
        print_summary(found, stdout())
        print(f"figure    {artifact.path('quality.png')}")
    return found


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (CHUNKS, BENCHMARKS, SCALED),
            script=SCRIPT,
            present=present,
            next_command=lambda session: session.command("multi_benchmark_similarity.py"),
        )
    )
