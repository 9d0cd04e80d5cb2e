"""How near every chunk of a corpus is to each of several benchmarks, in one pass over the vectors.

For each chunk: its most similar question of every benchmark, and the mean and spread of its similarities to all
questions. The mean and spread are what the maximum is judged by: a generic chunk is similar to every question, so its
maximum is high whatever the questions are (hubness; Radovanovic, Nanopoulos and Ivanovic, 2010, JMLR 11). `standing` is
the maximum in standard deviations above the chunk's own mean, which takes a hub's advantage away.

No array of chunks x questions is made: a tile of both is multiplied, folded into the best so far, and let go. What is
kept is 8 bytes a chunk and benchmark. Mean and spread cost nothing a question: with S = QᵀQ / n they are x·mean(Q) and
xᵀSx - (x·mean(Q))².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float, Float32, Float64, Int, Int32, Int64

# A tile of similarities: 16 MB.
TILE_ROWS = 1_024
TILE_QUESTIONS = 4_096


@dataclass(frozen=True)
class QuestionVectors:
    """Unit vectors of questions, grouped by benchmark.

    Args:
        vectors: those of benchmark i are rows `offsets[i]` to `offsets[i + 1]`, at least one each.
    """

    vectors: Float32[np.ndarray, "questions dims"]
    offsets: Int64[np.ndarray, " benchmarks_plus_one"]
    mean: Float64[np.ndarray, " dims"]
    second: Float64[np.ndarray, "dims dims"]

    @classmethod
    def of(
        cls, vectors: Float[np.ndarray, "questions dims"], benchmark: Int[np.ndarray, " questions"]
    ) -> QuestionVectors:
        """Questions in the order of their benchmarks, which are numbered from 0.

        Raises:
            ValueError: lengths differ, the numbers do not ascend from 0 without a gap, or there is no question.
        """
        dims = check_shape("vectors", vectors, "questions dims")
        check_shape("benchmark", benchmark, "questions", dims)
        numbers, first = np.unique(benchmark, return_index=True)
        if not len(numbers) or numbers[0] != 0 or (np.diff(benchmark) < 0).any() or (np.diff(numbers) != 1).any():
            raise ValueError("benchmark: numbers from 0 in ascending order, without a gap, at least one")
        exact = np.asarray(vectors, dtype=np.float64)
        return cls(
            np.ascontiguousarray(vectors, dtype=np.float32),
            np.append(first, len(vectors)).astype(np.int64),
            exact.mean(axis=0),
            exact.T @ exact / len(exact),
        )


@dataclass(frozen=True)
class ChunkSimilarities:
    """Cosine similarities of some chunks.

    Args:
        best: to the most similar question of each benchmark.
        nearest: that question's number, counted over all benchmarks; of equals the first.
        mean, deviation: over all questions.
    """

    best: Float32[np.ndarray, "chunks benchmarks"]
    nearest: Int32[np.ndarray, "chunks benchmarks"]
    mean: Float32[np.ndarray, " chunks"]
    deviation: Float32[np.ndarray, " chunks"]

    @property
    def source(self) -> Int64[np.ndarray, " chunks"]:
        """The benchmark with the most similar question; of equals the first."""
        return np.argmax(self.best, axis=1)

    @property
    def maximum(self) -> Float32[np.ndarray, " chunks"]:
        return self.best.max(axis=1)

    @property
    def question(self) -> Int32[np.ndarray, " chunks"]:
        """The most similar question of all."""
        return self.nearest[np.arange(len(self.nearest)), self.source]

    @property
    def standing(self) -> Float32[np.ndarray, " chunks"]:
        """The maximum in standard deviations above the chunk's own mean; 0 where its similarities do not differ."""
        above = self.maximum - self.mean
        return np.divide(above, self.deviation, out=np.zeros_like(above), where=self.deviation > 1e-6)


def chunk_similarities(rows: Float[np.ndarray, "chunks dims"], questions: QuestionVectors) -> ChunkSimilarities:
    """Similarities of unit vectors of chunks (a shard, say); memory beyond the result is a tile.

    Raises:
        ValueError: shapes do not fit.
    """
    check_shape("rows", rows, "chunks dims", {"dims": questions.vectors.shape[1]})
    benchmarks = len(questions.offsets) - 1
    best = np.full((len(rows), benchmarks), -np.inf, dtype=np.float32)
    nearest = np.zeros((len(rows), benchmarks), dtype=np.int32)
    mean, deviation = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), TILE_ROWS):
        part = slice(start, start + TILE_ROWS)
        block = np.asarray(rows[part], dtype=np.float32)
        mean[part], deviation[part] = _moments(block, questions)
        for benchmark in range(benchmarks):
            _fold(block, questions, benchmark, best[part, benchmark], nearest[part, benchmark])
    return ChunkSimilarities(best, nearest, mean, deviation)


def _fold(
    block: Float32[np.ndarray, "rows dims"],
    questions: QuestionVectors,
    benchmark: int,
    best: Float32[np.ndarray, " rows"],
    nearest: Int32[np.ndarray, " rows"],
) -> None:
    """The maximum over a benchmark's questions, into views of the result."""
    first, end = questions.offsets[benchmark : benchmark + 2].tolist()
    for start in range(first, end, TILE_QUESTIONS):
        scores = block @ questions.vectors[start : min(start + TILE_QUESTIONS, end)].T
        place = scores.argmax(axis=1)
        found = scores[np.arange(len(block)), place]
        better = found > best
        best[better], nearest[better] = found[better], start + place[better]


def _moments(
    block: Float32[np.ndarray, "rows dims"], questions: QuestionVectors
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    exact = block.astype(np.float64)
    mean = exact @ questions.mean
    variance = ((exact @ questions.second) * exact).sum(axis=1) - mean**2
    return mean, np.sqrt(np.maximum(variance, 0.0))


# --- as a table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedQuestions:
    """What benchmarks are called, and every question of theirs, in the order of their vectors."""

    benchmarks: list[str]
    ids: list[str]


def similarity_table(
    rows: Int64[np.ndarray, " chunks"],
    vectors: Float[np.ndarray, "chunks dims"],
    questions: QuestionVectors,
    named: NamedQuestions,
) -> pa.Table:
    """Of each chunk: the most similar question and its benchmark, the similarity to every benchmark, and its standing.

    `standing` is the maximum in standard deviations above the chunk's mean similarity to all questions: what is left
    of a generic chunk's advantage.
    """
    import pyarrow as pa

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


# --- hubs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hubness:
    """How unevenly questions choose their nearest chunk.

    Args:
        skewness: of the number of questions that a chunk is the nearest of; about 0 where no chunk is a hub
            (Radovanovic et al., 2010).
        chunks: that are the nearest of any question.
        largest: questions whose nearest chunk is one and the same.
        largest_chunk: that chunk's row.
    """

    questions: int
    skewness: float
    chunks: int
    largest: int
    largest_chunk: int


def hubness(nearest: Int[np.ndarray, " questions"], rows: int) -> Hubness:
    """Of the nearest chunk of every question, among `rows` chunks."""
    chosen, counts = np.unique(nearest, return_counts=True)
    if not len(chosen):
        return Hubness(0, 0.0, 0, 0, -1)
    mean = len(nearest) / rows
    # The chunks that nobody chose count as zeros, without an array of them.
    moments = [(((counts - mean) ** power).sum() + (rows - len(chosen)) * (-mean) ** power) / rows for power in (2, 3)]
    most = int(np.argmax(counts))
    skewness = moments[1] / moments[0] ** 1.5 if moments[0] > 0 else 0.0
    return Hubness(len(nearest), float(skewness), len(chosen), int(counts[most]), int(chosen[most]))
