"""Documents -> chunks (a library, used by `embed_chunks.py`).

Reads nothing and writes nothing: `chunk_batch(texts, config, counter)` gives the character offsets of the chunks of a
batch of documents. For every strategy

- a chunk is an exact slice `document[start:end]`, without white space at its ends, never empty;
- the chunks of a document together hold every character of it that is not white space;
- no chunk lies inside another, and their starts increase;
- no chunk exceeds its limit: characters for `paragraph` and `fixed_chars`; for the other strategies tokens of the
  chunk's text *alone*, with special tokens and prompt, as the embedder will see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.errors import UserError
from common.hub import is_local, model_identity
from config import ChunkingConfig

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int32, Int64

    from common.token_counters import TokenCounter
    from common.windows import Grid

CHARACTER_STRATEGIES = ("paragraph", "fixed_chars")

# Characters handed to the tokenizer and to a sentence splitter at once; longer documents are cut at white space.
TOKENIZER_PIECE = 1 << 14
TOKENIZER_BATCH = 256  # pieces
SENTENCE_PIECE = 100_000
# Documents planned together: bounds memory, changes no result.
BATCH_CHARS = 1 << 22


@dataclass(frozen=True)
class ChunkSpans:
    """Chunks of a batch of documents, in reading order."""

    document: Int64[np.ndarray, " chunks"]  # position of the document in the batch
    start: Int64[np.ndarray, " chunks"]  # characters
    end: Int64[np.ndarray, " chunks"]
    tokens: Int32[np.ndarray, " chunks"]  # with special tokens and prompt; -1 when there was no counter


@dataclass(frozen=True)
class Limit:
    """How many tokens a window holds and repeats."""

    most: int  # of a finished chunk, special tokens and prompt included
    budget: int  # of a window, special tokens and prompt taken off
    overlap: int


def needs_counter(config: ChunkingConfig) -> bool:
    """Whether the strategy is limited in tokens, so that `chunk_batch` needs a counter."""
    return config.strategy not in CHARACTER_STRATEGIES


def chunk_batch(texts: Sequence[str], config: ChunkingConfig, counter: TokenCounter | None) -> ChunkSpans:
    """Chunk documents.

    Args:
        texts: documents; one that is empty or only white space has no chunk.
        config: strategy, limit and overlap.
        counter: required by the token-limited strategies (`needs_counter`); with the others it only fills `tokens`.

    Raises:
        UserError: the limit leaves no room beside special tokens and prompt, a single character exceeds it, or the
            sentence splitter is not installed.
    """
    if not needs_counter(config):
        return _joined([_chunk_by_characters(texts, group, config, counter) for group in _groups(texts)])
    if counter is None:
        raise ValueError(f"the strategy '{config.strategy}' needs a token counter")
    limit = token_limit(config, counter)
    if limit.most < config.max_tokens:
        _note(f"the model reads {limit.most} tokens, so chunks hold {limit.most}, not {config.max_tokens}")
    return _joined([_chunk_by_tokens(texts, group, config, counter, limit) for group in _groups(texts)])


@cache
def _note(message: str) -> None:
    """Tell on stderr, once a process, what the result depends on beside the settings."""
    from common.console import stderr

    stderr().print(f"note: chunking: {message}")


def token_limit(config: ChunkingConfig, counter: TokenCounter) -> Limit:
    """The token budget of a window: the smaller of `max_tokens` and the model's own limit, less the overhead.

    Raises:
        UserError: nothing is left.
    """
    most = min(config.max_tokens, counter.max_length or config.max_tokens)
    budget = most - counter.overhead
    if budget < 1:
        raise UserError(
            f"chunking.max_tokens: {most} tokens leave no room beside special tokens and prompt ({counter.overhead})"
        )
    return Limit(most, budget, _overlap(budget, config.overlap_pct))


def _overlap(budget: int, share: float) -> int:
    return min(round(share * budget), budget - 1)


def _groups(texts: Sequence[str]) -> list[range]:
    """Consecutive documents of `BATCH_CHARS` characters together, or one; of no document an empty group."""
    from common.token_counters import text_runs

    return [range(run.start, run.stop) for run in text_runs(texts, BATCH_CHARS)] or [range(0)]


def _joined(parts: Sequence[ChunkSpans]) -> ChunkSpans:
    import numpy as np

    return ChunkSpans(
        document=np.concatenate([part.document for part in parts]),
        start=np.concatenate([part.start for part in parts]),
        end=np.concatenate([part.end for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
    )


def _text_bounds(text: str) -> tuple[int, int]:
    """First and last character that is not white space; equal for a text without any."""
    start = len(text) - len(text.lstrip())
    return start, max(start, len(text.rstrip()))


def _spans_of(rows: Sequence[tuple[int, int, int]], tokens: Sequence[int]) -> ChunkSpans:
    """Rows of (document, start, end) as columns; those inside another of the same document are left out."""
    import numpy as np

    from common.windows import not_contained

    table = np.array(rows, np.int64).reshape(-1, 3)
    kept = not_contained(table[:, 0], table[:, 1], table[:, 2])
    return ChunkSpans(table[kept, 0], table[kept, 1], table[kept, 2], np.asarray(tokens, np.int32)[kept])


# --- strategies limited in characters ------------------------------------------------------------------------


def _chunk_by_characters(
    texts: Sequence[str], group: range, config: ChunkingConfig, counter: TokenCounter | None
) -> ChunkSpans:
    from common.windows import character_windows, trimmed

    size, overlap = config.max_chars, _overlap(config.max_chars, config.overlap_pct)
    rows = []
    for position in group:
        text = texts[position]
        start, end = _text_bounds(text)
        if config.strategy == "paragraph":
            spans = _paragraphs(text, start, end, size)
        else:
            spans = character_windows(text, start, end, size, overlap)
        rows += [(position, *span) for span in trimmed(text, spans)]
    if counter is None:
        return _spans_of(rows, [-1] * len(rows))
    return _spans_of(rows, [row.tokens for row in _counted(texts, rows, counter)])


_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE_ENDS = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？]+[」』”]*")
_SPACES = re.compile(r"\s+")


def _paragraphs(text: str, start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Spans between blank lines; those longer than `size` are filled with sentences, then words, then characters."""
    cuts = [start, *(match.end() for match in _BLANK_LINES.finditer(text, start, end)), end]
    spans = []
    for first, last in pairwise(cuts):
        # The blank lines that end a paragraph do not count towards its length.
        last = first + len(text[first:last].rstrip())
        spans += [(first, last)] if last - first <= size else _split_paragraph(text, first, last, size)
    return spans


def _split_paragraph(text: str, start: int, end: int, size: int) -> list[tuple[int, int]]:
    from common.windows import character_windows, grid_of_cuts, windows

    grids = [grid_of_cuts(_ends(pattern, text, start, end), start, end) for pattern in (_SENTENCE_ENDS, _SPACES)]
    spans = []
    for first, last in windows(grids, size, 0):
        spans += [(first, last)] if last - first <= size else character_windows(text, first, last, size, 0)
    return spans


def _ends(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[int]:
    return [match.end() for match in pattern.finditer(text, start, end)]


# --- strategies limited in tokens ----------------------------------------------------------------------------


def _chunk_by_tokens(
    texts: Sequence[str], group: range, config: ChunkingConfig, counter: TokenCounter, limit: Limit
) -> ChunkSpans:
    """Plan windows on one tokenisation of the documents, count each chunk alone, and split those that grew."""
    bounds = {position: _text_bounds(texts[position]) for position in group}
    bounds = {position: bound for position, bound in bounds.items() if bound[0] < bound[1]}
    rows = _whole_documents(texts, bounds, counter, limit)
    whole = {row.document for row in rows}
    long = [position for position in bounds if position not in whole]
    sentences = sentence_splitter(config) if long and config.strategy != "fixed_tokens" else None
    layouts = dict(_layouts(texts, long, bounds, counter, limit, sentences))
    rows += _fitting(texts, layouts, counter, limit)
    return _spans_of([(row.document, row.start, row.end) for row in rows], [row.tokens for row in rows])


class Counted(NamedTuple):
    """A chunk whose text has been counted alone."""

    document: int
    start: int
    end: int
    tokens: int


def _whole_documents(
    texts: Sequence[str], bounds: dict[int, tuple[int, int]], counter: TokenCounter, limit: Limit
) -> list[Counted]:
    """Documents that fit one chunk. Only those short enough to be likely are counted: the others are tokenised once."""
    likely = [(position, *bound) for position, bound in bounds.items() if bound[1] - bound[0] <= 3 * limit.budget]
    return [row for row in _counted(texts, likely, counter) if row.tokens <= limit.most]


def _counted(texts: Sequence[str], spans: Sequence[tuple[int, int, int]], counter: TokenCounter) -> list[Counted]:
    counts = counter.count([texts[document][start:end] for document, start, end in spans]).tolist()
    return [Counted(*span, count) for span, count in zip(spans, counts, strict=True)]


SentenceSplitter = Callable[[str], list[int]]


def _layouts(
    texts: Sequence[str],
    positions: Sequence[int],
    bounds: dict[int, tuple[int, int]],
    counter: TokenCounter,
    limit: Limit,
    sentences: SentenceSplitter | None,
) -> Iterator[tuple[int, list[Grid]]]:
    """For every document the cuts to lay windows on, coarsest first: sentences (where asked) and tokens."""
    from common.windows import pieces, token_grid, unit_grid

    plans = [(position, list(pieces(texts[position], *bounds[position], TOKENIZER_PIECE))) for position in positions]
    spans = _lazily(counter, [texts[position][slice(*piece)] for position, plan in plans for piece in plan])
    for position, plan in plans:
        text = texts[position]
        grid = token_grid(text, _shifted(plan, spans), *bounds[position], limit.budget)
        if sentences is None:
            yield position, [grid]
        else:
            cuts = [
                first + cut
                for first, last in pieces(text, *bounds[position], SENTENCE_PIECE)
                for cut in sentences(text[first:last])
            ]
            yield position, [unit_grid(cuts, grid), grid]


def _lazily(counter: TokenCounter, parts: Sequence[str]) -> Iterator[Int64[np.ndarray, "tokens 2"]]:
    """Token spans of each part, a batch at a time."""
    for first in range(0, len(parts), TOKENIZER_BATCH):
        yield from counter.spans(parts[first : first + TOKENIZER_BATCH])


def _shifted(
    plan: Sequence[tuple[int, int]], spans: Iterator[Int64[np.ndarray, "tokens 2"]]
) -> Int64[np.ndarray, "tokens 2"]:
    """Token spans of a document from those of its pieces."""
    import numpy as np

    return np.concatenate([next(spans) + start for start, _ in plan])


def _fitting(
    texts: Sequence[str], layouts: dict[int, list[Grid]], counter: TokenCounter, limit: Limit
) -> list[Counted]:
    """Windows over documents, none above the limit.

    A slice can have more tokens than it had inside its document (a word cut in two, a space lost), so every chunk is
    counted alone; one above the limit is laid out again in two smaller windows, until all fit.
    """
    from common.windows import trimmed, windows

    fitting: list[Counted] = []
    plans = ((position, windows(grids, limit.budget, limit.overlap)) for position, grids in layouts.items())
    pending = [(position, *span) for position, plan in plans for span in trimmed(texts[position], plan)]
    attempt = 0
    while pending:
        attempt += 1
        counted = _counted(texts, pending, counter)
        fitting += [row for row in counted if row.tokens <= limit.most]
        grown = [row for row in counted if row.tokens > limit.most]
        halves = ((row.document, _halved(texts, row, layouts[row.document], limit, attempt)) for row in grown)
        pending = [(position, *span) for position, plan in halves for span in trimmed(texts[position], plan)]
    return fitting


# Halving keeps the overlap; with an overlap near the whole window that converges slowly, so it is given up in the end.
OVERLAPPING_ATTEMPTS = 8


def _halved(
    texts: Sequence[str], row: Counted, grids: Sequence[Grid], limit: Limit, attempt: int
) -> list[tuple[int, int]]:
    """A chunk above the limit as two or three smaller windows, cut at the coarsest grid that has a cut inside it."""
    from common.windows import character_grid, windows

    if row.end - row.start == 1:
        raise UserError(
            f"chunking.max_tokens: the single character U+{ord(texts[row.document][row.start]):04X} takes {row.tokens} "
            f"tokens, special tokens and prompt included, and the limit is {limit.most}; raise it"
        )
    layouts = [grid.within(row.start, row.end) for grid in grids] + [character_grid(row.start, row.end)]
    grid = next(layout for layout in layouts if len(layout.bounds) > 2)
    overlap = min(limit.overlap, grid.total - 2) if attempt <= OVERLAPPING_ATTEMPTS else 0
    return windows([grid], (grid.total + overlap + 1) // 2, overlap)


# --- sentences -----------------------------------------------------------------------------------------------


def sentence_splitter(config: ChunkingConfig) -> SentenceSplitter:
    """Text -> first character of every sentence.

    Raises:
        UserError: the spaCy pipeline is not installed.
    """
    return _spacy_splitter(config.spacy_model) if config.strategy == "sentence_spacy" else _nltk_splitter()


@cache
def _spacy_splitter(model: str | None) -> SentenceSplitter:
    import spacy

    if model is None:
        nlp = spacy.blank("xx")
        nlp.add_pipe("sentencizer")
    else:
        nlp = _spacy_pipeline(model)

    def sentence_starts(text: str) -> list[int]:
        # Without the zone, spaCy would keep every word it has ever seen.
        with nlp.memory_zone():
            table = nlp(text).to_array(["SENT_START", "IDX"])
            return table[table[:, 0] == 1, 1].tolist()

    return sentence_starts


_NOT_FOR_SENTENCES = ("ner", "tagger", "morphologizer", "lemmatizer", "attribute_ruler", "textcat", "entity_linker")


def _spacy_pipeline(model: str):  # noqa: ANN202  (spaCy's Language; importing it for a name costs a second)
    import spacy

    try:
        nlp = spacy.load(Path(model).expanduser() if is_local(model) else model, exclude=list(_NOT_FOR_SENTENCES))
    except (OSError, ValueError) as error:
        if not is_local(model):
            raise _no_pipeline(model) from error
        raise UserError(
            f"chunking.spacy_model: folder '{model}' is not a spaCy pipeline that loads: {error}"
        ) from error
    if not {"parser", "senter", "sentencizer"} & set(nlp.pipe_names):
        nlp.add_pipe("sentencizer")
    nlp.max_length = max(nlp.max_length, SENTENCE_PIECE)
    return nlp


def _no_pipeline(model: str) -> UserError:
    return UserError(f"chunking.spacy_model: '{model}' is not installed; run: uv run python -m spacy download {model}")


UNTRAINED = "punkt-untrained"


@cache
def _nltk_splitter() -> SentenceSplitter:
    tokenizer, name = _punkt()
    if name == UNTRAINED:
        _note(
            "NLTK's punkt_tab is not installed, so sentences are cut by untrained Punkt, which knows no abbreviations"
        )
    return lambda text: [start for start, _ in tokenizer.span_tokenize(text)]


def _punkt():  # noqa: ANN202  (NLTK's class, and the model's name; importing it for a name costs half a second)
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTokenizer

    try:
        return PunktTokenizer("english"), "punkt_tab-english"
    except LookupError:
        # Untrained Punkt knows no abbreviations but needs no download.
        return PunktSentenceTokenizer(), UNTRAINED


def sentence_identity(config: ChunkingConfig, cache_dir: Path) -> str:
    """Which splitter `config` finds on this machine, for artifact keys; empty for strategies without sentences.

    A pipeline in a folder is known by its content, so that it may be moved and a change of it is seen.

    Raises:
        UserError: the spaCy pipeline is not installed, told before anything is cut.
    """
    from importlib.metadata import version

    if config.strategy == "sentence_nltk":
        return f"nltk-{version('nltk')}:{_punkt()[1]}"
    if config.strategy != "sentence_spacy":
        return ""
    return f"spacy-{version('spacy')}:{_pipeline_identity(config.spacy_model, cache_dir)}"


def _pipeline_identity(model: str | None, cache_dir: Path) -> str:
    from importlib.metadata import PackageNotFoundError, version

    if model is None:
        return "xx"
    try:
        return f"{model}-{version(model.replace('_', '-'))}"
    except (PackageNotFoundError, ValueError):
        if is_local(model):
            return model_identity(model, "main", cache_dir)
    if not model.startswith("blank:"):
        raise _no_pipeline(model)
    return model
