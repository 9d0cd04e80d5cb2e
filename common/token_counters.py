"""How many tokens a text is, and which characters each token covers, without loading torch.

`load_token_counter(chunking, embedding)` gives the counter that `chunking.tokenizer` names:

- `embedder` with the `lsa` engine: the words that LSA itself counts (`WORD_PATTERN`);
- `embedder` with `sentence_transformers` or `vllm`: the model's own `tokenizer.json`, special tokens, document prompt;
- `embedder` with `openai`: what `embedding.tokenizer` names, and the document prompt;
- `tiktoken:NAME` or `tiktoken:FILE.tiktoken`;
- a hub id, a folder or a `tokenizer.json`.

Offsets are characters of the Python string, never bytes; tokens that share a character have overlapping spans.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.errors import ConfigError, UserError
from common.keys import digest

if TYPE_CHECKING:
    from jaxtyping import Int64
    from tiktoken import Encoding
    from tokenizers import Tokenizer

    from config import ChunkingConfig, EmbeddingConfig

# --- words ---------------------------------------------------------------------------------------------------

# Scripts written without spaces: a character is a token there, with the marks that sit on it.
_UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf\u0f40-\u0f6c"
    "\u1000-\u102a\u1780-\u17b3\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_UNSPACED_MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u0f71-\u0f84\u0f8d-\u0fbc\u102b-\u103e"
    "\u17b4-\u17d3\u3099\u309a\uff9e\uff9f"
)
# Each Indic block is 128 characters: letters and marks, then dandas and digits from 0x64 on.
_INDIC = "".join(f"{chr(block)}-{chr(block + 0x63)}" for block in range(0x0900, 0x0E00, 0x80))
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    f"\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a{_INDIC}\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20ff\ufe20-\ufe2f"
)

#: One token of the `lsa` engine: a run of letters with their marks, one character of a script written without
#: spaces, or a run of digits. Punctuation, symbols and emoji are no tokens.
WORD_PATTERN = rf"[{_UNSPACED}][{_UNSPACED_MARKS}{_MARKS}]*|(?:(?![{_UNSPACED}])[^\W\d_]|[{_MARKS}])+|\d+"
WORDS_IDENTITY = "words-v1"


class TokenCounter(Protocol):
    """What chunking asks of a tokenizer."""

    @property
    def identity(self) -> str:
        """Content id for artifact keys: equal ids count equally."""
        ...

    @property
    def max_length(self) -> int | None:
        """The model's own limit in tokens, special tokens and prompt included; None: no limit."""
        ...

    @property
    def prompt(self) -> str:
        """What the embedder writes before every chunk."""
        ...

    @property
    def overhead(self) -> int:
        """Tokens the embedder adds around every chunk: special tokens and document prompt."""
        ...

    def spans(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        """Start and end character of every token of each text, special tokens and prompt left out."""
        ...

    def count(self, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """Tokens of each text as the model sees it alone: with special tokens and prompt."""
        ...


@dataclass(frozen=True)
class WordCounter:
    """Counts the words of `WORD_PATTERN`: the unit of the `lsa` engine."""

    identity: str = WORDS_IDENTITY
    max_length: int | None = None
    prompt: str = ""
    overhead: int = 0
    _pattern: re.Pattern[str] = field(default=re.compile(WORD_PATTERN), repr=False)

    def spans(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        """As `TokenCounter.spans`."""
        return [_span_array([match.span() for match in self._pattern.finditer(text)]) for text in texts]

    def count(self, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """As `TokenCounter.count`."""
        return np.fromiter((len(self._pattern.findall(text)) for text in texts), np.int64, len(texts))


def _span_array(pairs: Sequence[tuple[int, int]]) -> Int64[np.ndarray, "tokens 2"]:
    flat = (value for pair in pairs for value in pair)
    return np.fromiter(flat, np.int64, 2 * len(pairs)).reshape(-1, 2)


# --- tokenizer.json ------------------------------------------------------------------------------------------

# An encoding holds about 150 bytes a token until its offsets are read; a batch of this many characters stays
# below 100 MB.
_BATCH_CHARS = 1 << 20
# Encoding slows down on inputs much longer than this.
_LINE_CHARS = 1 << 13


def text_runs(texts: Sequence[str], most: int) -> Iterator[slice]:
    """Consecutive runs of texts with at most `most` characters (or one text) each."""
    start, size = 0, 0
    for position, text in enumerate(texts):
        if position > start and size + len(text) > most:
            yield slice(start, position)
            start, size = position, 0
        size += len(text)
    if start < len(texts):
        yield slice(start, len(texts))


@dataclass(frozen=True)
class FastTokenizerCounter:
    """Counts with a `tokenizer.json`, through the `tokenizers` library alone."""

    path: Path
    identity: str
    name: str = ""
    prompt: str = ""
    max_length: int | None = None
    special_tokens: bool = True
    lower_case: bool = False

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return _read_tokenizer(self.path, self.name, self.lower_case)

    @cached_property
    def _specials(self) -> int:
        return self._tokenizer.num_special_tokens_to_add(False) if self.special_tokens else 0

    @cached_property
    def _memo(self) -> WordMemo | None:
        return (
            WordMemo(self._encode_spans, self._encode_counts)
            if splits_at_spaces(json.loads(self._tokenizer.to_str()))
            else None
        )

    @cached_property
    def overhead(self) -> int:
        """As `TokenCounter.overhead`."""
        return self._specials + len(self._tokenizer.encode(self.prompt, add_special_tokens=False))

    def spans(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        """As `TokenCounter.spans`."""
        found: list[Int64[np.ndarray, "tokens 2"]] = []
        for run in text_runs(texts, _BATCH_CHARS):
            found += self._memo.spans(texts[run]) if self._memo else self._encode_spans(texts[run])
        return found

    def count(self, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """As `TokenCounter.count`."""
        count = self._memo.count if self._memo else self._encode_counts
        runs = text_runs(texts, _BATCH_CHARS)
        counts = [count([self.prompt + text for text in texts[run]]) for run in runs]
        return np.concatenate([np.empty(0, np.int64), *counts]) + self._specials

    def _encode_counts(self, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return np.fromiter(map(len, encodings), np.int64, len(texts))

    def _encode_spans(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array(encoding.offsets, np.int64).reshape(-1, 2) for encoding in encodings]


def _read_tokenizer(path: Path, name: str, lower_case: bool) -> Tokenizer:
    """The tokenizer of a file, with the truncation and padding that may be stored in it switched off."""
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Lowercase, Sequence

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"tokenizer of '{name}': {path.name} cannot be read ({error}); fetch the model again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if lower_case:
        present = tokenizer.normalizer
        tokenizer.normalizer = Sequence([Lowercase(), *([present] if present else [])])
    return tokenizer


_LOCAL_NORMALIZERS = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
_SPACE_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}


def splits_at_spaces(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` treats what stands between spaces independently, so that words can be memorised.

    True only where it follows from the parts: a normaliser that works within a word, a first pre-tokenizer that
    cuts at white space, and no added token that contains white space.
    """
    normalizers = _members(tokenizer.get("normalizer"), "normalizers")
    splitters = _members(tokenizer.get("pre_tokenizer"), "pretokenizers")
    added = [token["content"] for token in tokenizer.get("added_tokens") or []]
    return (
        all(normalizer["type"] in _LOCAL_NORMALIZERS for normalizer in normalizers)
        and bool(splitters)
        and splitters[0]["type"] in _SPACE_SPLITTERS
        and not any(character.isspace() for content in added for character in content)
    )


def _members(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


# Only these four are white space to Python and to every tokenizer alike (Python also counts U+001C..U+001F).
_BETWEEN_SPACES = re.compile(r"[^ \t\n\r]+")


Encode = Callable[[Sequence[str]], "list[Int64[np.ndarray, 'tokens 2']]"]
EncodeCounts = Callable[[Sequence[str]], "Int64[np.ndarray, ' texts']"]


class WordMemo:
    """Tokens of a text from tokens of its words; every distinct word is tokenised once.

    Text repeats its words, so this is several times cheaper than tokenising it, and exact for tokenizers that
    `splits_at_spaces`. Forgets everything when its words exceed `max_chars` characters together.
    """

    def __init__(self, encode: Encode, encode_counts: EncodeCounts, max_chars: int = 1 << 23) -> None:
        self._encode = encode
        self._encode_counts = encode_counts
        self._max_chars = max_chars
        self._clear()

    def _clear(self) -> None:
        self._ids: dict[str, int] = {}
        self._chars = 0
        self._first = np.zeros(1, np.int64)  # (words + 1,) position of each word's tokens in `_tokens`
        self._tokens = np.zeros((0, 2), np.int64)  # spans relative to their word

    def _learn(self, words: list[list[str]]) -> None:
        fresh = sorted(set().union(*words) - self._ids.keys())
        if self._chars + sum(map(len, fresh)) > self._max_chars:
            self._clear()
            fresh = sorted(set().union(*words))
        if fresh:
            relative = self._tokenise(fresh)
            sizes = np.fromiter(map(len, relative), np.int64, len(fresh))
            self._ids.update(zip(fresh, range(len(self._ids), len(self._ids) + len(fresh)), strict=True))
            self._first = np.concatenate([self._first, self._first[-1] + np.cumsum(sizes)])
            self._tokens = np.concatenate([self._tokens, *relative])
            self._chars += sum(map(len, fresh))

    def _tokenise(self, words: list[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        """Spans within each word; the words are encoded in lines, since a call for each would cost more."""
        lines = [words[run] for run in text_runs(words, _LINE_CHARS)]
        relative: list[Int64[np.ndarray, "tokens 2"]] = []
        for line, spans in zip(lines, self._encode([" ".join(line) for line in lines]), strict=True):
            starts = np.concatenate([[0], np.cumsum(np.fromiter((len(word) + 1 for word in line), np.int64))])
            cuts = np.searchsorted(spans[:, 0], starts)
            relative += [spans[cuts[i] : cuts[i + 1]] - starts[i] for i in range(len(line))]
        return relative

    def _lookup(self, words: list[str]) -> Int64[np.ndarray, " words"]:
        return np.fromiter(map(self._ids.__getitem__, words), np.int64, len(words))

    def count(self, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """Tokens of each text."""
        counts = np.zeros(len(texts), np.int64)
        spaced = np.fromiter(map(_is_spaced, texts), bool, len(texts))
        words = [_BETWEEN_SPACES.findall(texts[position]) for position in np.flatnonzero(spaced)]
        self._learn(words)
        sizes = np.diff(self._first)
        counts[spaced] = [sizes[self._lookup(row)].sum() for row in words]
        counts[~spaced] = self._encode_counts([texts[position] for position in np.flatnonzero(~spaced)])
        return counts

    def spans(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        """Character spans of the tokens of each text."""
        spaced = [text for text in texts if _is_spaced(text)]
        words = [_BETWEEN_SPACES.findall(text) for text in spaced]
        self._learn(words)
        placed = (self._place(row, _word_starts(text)) for row, text in zip(words, spaced, strict=True))
        others = iter(self._encode([text for text in texts if not _is_spaced(text)]))
        return [next(placed) if _is_spaced(text) else next(others) for text in texts]

    def _place(self, words: list[str], starts: Int64[np.ndarray, " words"]) -> Int64[np.ndarray, "tokens 2"]:
        ids = self._lookup(words)
        sizes = self._first[ids + 1] - self._first[ids]
        ends = np.cumsum(sizes)
        within = np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
        return self._tokens[np.repeat(self._first[ids], sizes) + within] + np.repeat(starts, sizes)[:, None]


def _is_spaced(text: str) -> bool:
    """Whether the words of a text are short enough to come again; long runs without spaces would fill the memo."""
    return 32 * text.count(" ") >= len(text) - 32


def _word_starts(text: str) -> Int64[np.ndarray, " words"]:
    """Where each match of `_BETWEEN_SPACES` begins."""
    if text.isascii():
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    inside = (codes != 32) & (codes != 9) & (codes != 10) & (codes != 13)
    return np.flatnonzero(inside & ~np.concatenate([[False], inside[:-1]]))


# --- tiktoken ------------------------------------------------------------------------------------------------

_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: How each published rank file splits text before merging; a rank file does not say so itself.
RANK_FILE_PATTERNS = {
    "gpt2": _GPT2_PATTERN,
    "r50k_base": _GPT2_PATTERN,
    "p50k_base": _GPT2_PATTERN,
    "cl100k_base": _CL100K_PATTERN,
    "o200k_base": _O200K_PATTERN,
}


@dataclass(frozen=True)
class TiktokenCounter:
    """Counts with an encoding of tiktoken, by name or from a local rank file."""

    name: str
    identity: str
    rank_file: Path | None = None
    workers: int = 1
    prompt: str = ""
    max_length: int | None = None

    @cached_property
    def overhead(self) -> int:
        """As `TokenCounter.overhead`."""
        return len(self._encoding.encode_ordinary(self.prompt)) if self.prompt else 0

    @cached_property
    def _encoding(self) -> Encoding:
        return _encoding_of_file(self.rank_file) if self.rank_file else _encoding_by_name(self.name)

    @cached_property
    def _token_bytes(self) -> Int64[np.ndarray, " vocabulary"]:
        """Bytes of every token id; 0 for an id that no token has."""
        sizes = np.zeros(self._encoding.n_vocab, np.int64)
        for token in self._encoding.token_byte_values():
            sizes[self._encoding.encode_single_token(token)] = len(token)
        return sizes

    def spans(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "tokens 2"]]:
        """As `TokenCounter.spans`."""
        rows = self._encoding.encode_ordinary_batch(list(texts), num_threads=self.workers)
        return [self._character_spans(text, np.asarray(row, np.int64)) for text, row in zip(texts, rows, strict=True)]

    def _character_spans(self, text: str, ids: Int64[np.ndarray, " tokens"]) -> Int64[np.ndarray, "tokens 2"]:
        ends = np.cumsum(self._token_bytes[ids])
        starts = ends - self._token_bytes[ids]
        if text.isascii():
            return np.stack([starts, ends], axis=1)
        # A byte belongs to the character whose first byte is the last one at or before it.
        character = np.cumsum((np.frombuffer(text.encode(), np.uint8) & 0xC0) != 0x80) - 1
        return np.stack([character[starts], character[ends - 1] + 1], axis=1)

    def count(self, texts: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """As `TokenCounter.count`."""
        rows = self._encoding.encode_ordinary_batch([self.prompt + text for text in texts], num_threads=self.workers)
        return np.fromiter(map(len, rows), np.int64, len(texts))


def _encoding_by_name(name: str) -> Encoding:
    import tiktoken

    if name not in tiktoken.list_encoding_names():
        raise ConfigError(
            f"chunking.tokenizer: tiktoken has no '{name}'; it has {', '.join(tiktoken.list_encoding_names())}"
        )
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # requests' errors and tiktoken's own: a proxy can produce any of them
        raise UserError(
            f"chunking.tokenizer: tiktoken '{name}' is neither cached nor reachable from here; "
            f"give a local rank file: chunking.tokenizer='tiktoken:/path/to/{name}.tiktoken'"
        ) from error


def _encoding_of_file(path: Path) -> Encoding:
    import tiktoken

    try:
        rows = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
    except ValueError as error:
        raise UserError(f"chunking.tokenizer: '{path}' is not a tiktoken rank file ({error})") from error
    missing = 256 - sum(bytes([byte]) in ranks for byte in range(256))
    if missing:
        raise UserError(f"chunking.tokenizer: '{path}' lacks {missing} of the 256 single bytes; fetch it again")
    return tiktoken.Encoding(path.stem, pat_str=RANK_FILE_PATTERNS[path.stem], mergeable_ranks=ranks, special_tokens={})


# --- which counter -------------------------------------------------------------------------------------------


def load_token_counter(chunking: ChunkingConfig, embedding: EmbeddingConfig) -> TokenCounter:
    """The counter that `chunking.tokenizer` names. The tokenizer itself is read when it is first used.

    Raises:
        ConfigError: the name cannot be understood.
        UserError: the model or rank file is missing, or has no tokenizer with character offsets.
    """
    name = chunking.tokenizer
    if name.startswith("tiktoken:"):
        return _tiktoken_counter(name.removeprefix("tiktoken:"), chunking.workers)
    if name != "embedder":
        return _named_counter(name)
    if embedding.engine == "openai":
        return endpoint_counter(embedding, chunking.workers)
    return WordCounter() if embedding.engine == "lsa" else _embedder_counter(embedding)


def endpoint_counter(embedding: EmbeddingConfig, workers: int = 1, prompt: str | None = None) -> TokenCounter:
    """What counts the tokens of an endpoint, which shows no tokenizer of its own.

    Args:
        embedding: names the tokenizer.
        workers: threads of tiktoken.
        prompt: that stands before each text; None: that of documents.

    Raises:
        ConfigError: the settings do not name it, or not in a way that can be understood.
        UserError: it is missing.
    """
    name = embedding.tokenizer
    if name is None:
        raise ConfigError(
            "embedding.tokenizer: an endpoint does not show its tokenizer; name it (tiktoken:cl100k_base, a hub id, "
            "a folder), or set chunking.tokenizer"
        )
    prompt = document_prompt(embedding) if prompt is None else prompt
    facts = {"prompt": prompt, "max_length": embedding.max_seq_length}
    if not name.startswith("tiktoken:"):
        found = _named_counter(name)
        return replace(found, identity=_identity(found.path, {**facts, "special_tokens": True}), **facts)
    found = _tiktoken_counter(name.removeprefix("tiktoken:"), workers)
    return replace(found, identity=f"{found.identity}:{digest(facts)}", **facts)


def _tiktoken_counter(name: str, workers: int) -> TiktokenCounter:
    path = Path(name).expanduser()
    if "/" not in name and not name.endswith(".tiktoken"):
        return TiktokenCounter(name, identity=f"tiktoken:{name}", workers=workers)
    if not path.is_file():
        raise UserError(f"chunking.tokenizer: rank file '{name}' does not exist")
    if path.stem not in RANK_FILE_PATTERNS:
        raise UserError(
            f"chunking.tokenizer: rank file '{path.name}' does not say how it splits text; "
            f"name it after its encoding ({', '.join(RANK_FILE_PATTERNS)})"
        )
    identity = f"tiktoken:{path.stem}:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return TiktokenCounter(path.stem, identity, rank_file=path, workers=workers)


def _named_counter(name: str) -> FastTokenizerCounter:
    path = Path(name).expanduser()
    if not path.is_file():
        path = ModelFiles(name, "main").tokenizer()
    return FastTokenizerCounter(path, _identity(path, {}), name=name)


def _embedder_counter(embedding: EmbeddingConfig) -> FastTokenizerCounter:
    if embedding.model is None:
        raise ConfigError(f"embedding.model: the {embedding.engine} engine needs a hub id or a local folder")
    files = ModelFiles(embedding.model, embedding.revision)
    facts = {
        "prompt": document_prompt(embedding),
        "max_length": files.max_length(embedding.max_seq_length),
        "special_tokens": not files.is_static,
        "lower_case": not files.is_static and bool(files.module_json("sentence_bert_config.json").get("do_lower_case")),
    }
    path = files.tokenizer()
    return FastTokenizerCounter(path, _identity(path, facts), name=embedding.model, **facts)


def _identity(path: Path, facts: Mapping[str, object]) -> str:
    """Hash of everything that decides a count: the tokenizer's bytes and how it is applied."""
    described = json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()
    return f"tokenizer:{hashlib.sha256(hashlib.sha256(path.read_bytes()).digest() + described).hexdigest()}"


def document_prompt(embedding: EmbeddingConfig) -> str:
    """What is written before every document: the config's, else the model's own, else nothing.

    The model's own is the first of `document`, `passage`, `corpus` among its prompts, else its default prompt, as
    `SentenceTransformer.encode_document` chooses it.
    """
    if embedding.document_prompt is not None or embedding.model is None:
        return embedding.document_prompt or ""
    if embedding.engine == "openai":
        return ""
    settings = ModelFiles(embedding.model, embedding.revision).json("config_sentence_transformers.json")
    prompts = settings.get("prompts") or {}
    names = [name for name in ("document", "passage", "corpus", settings.get("default_prompt_name")) if name in prompts]
    return prompts[names[0]] if names else ""


def query_prompt(embedding: EmbeddingConfig) -> str:
    """What is written before every query: the config's, else the model's own `query` prompt, else nothing."""
    if embedding.query_prompt is not None or embedding.model is None or embedding.engine == "openai":
        return embedding.query_prompt or ""
    settings = ModelFiles(embedding.model, embedding.revision).json("config_sentence_transformers.json")
    return (settings.get("prompts") or {}).get("query") or ""


@dataclass(frozen=True)
class ModelFiles:
    """The small files of a sentence-transformers model, in a folder or on the hub."""

    model: str
    revision: str

    def path(self, name: str) -> Path | None:
        """The local path of a file, or None when the model does not have it."""
        from common.hub import model_file

        return model_file(self.model, self.revision, name)

    def json(self, name: str) -> Any:
        """A JSON file of the model; an empty dict when it is not there.

        Raises:
            UserError: it is not JSON.
        """
        path = self.path(name)
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path else {}
        except ValueError as error:
            raise UserError(
                f"model '{self.model}': {name} is not valid JSON ({error}); fetch the model again"
            ) from error

    @cached_property
    def _first_module(self) -> Mapping[str, str]:
        modules = self.json("modules.json")
        if not modules:
            return {"type": "", "path": ""}
        first = modules[0] if isinstance(modules, list) else None
        if not isinstance(first, dict) or not {"type", "path"} <= first.keys():
            raise UserError(f"model '{self.model}': modules.json names no module; fetch the model again")
        return first

    def module(self, kind: str) -> Any | None:
        """The settings of the model's module of a kind (`Pooling`); None when it has none, or no `modules.json`."""
        for module in self.json("modules.json") or ():
            if str(module.get("type", "")).rsplit(".", 1)[-1] == kind:
                return self.json(f"{module['path'].strip('/')}/config.json")
        return None

    @cached_property
    def is_static(self) -> bool:
        """Whether the model looks tokens up in a table: no special tokens, no maximum length."""
        return self._first_module["type"].rsplit(".", 1)[-1] == "StaticEmbedding"

    def _inside(self, name: str) -> str:
        folder = self._first_module["path"].strip("/")
        return f"{folder}/{name}" if folder else name

    def module_json(self, name: str) -> Any:
        """A JSON file of the first module's folder."""
        return self.json(self._inside(name))

    def tokenizer(self) -> Path:
        """The model's `tokenizer.json`: in its first module's folder, or beside `modules.json`.

        Raises:
            UserError: the model has none, so its tokens have no character offsets.
        """
        path = self.path(self._inside("tokenizer.json")) or self.path("tokenizer.json")
        if path is None:
            raise UserError(
                f"model '{self.model}' has no tokenizer.json, so its tokens have no character offsets; "
                "choose a model with a fast tokenizer, or set chunking.tokenizer"
            )
        return path

    def max_length(self, chosen: int | None) -> int | None:
        """The most tokens the model reads, as sentence-transformers decides it; None when nothing limits it."""
        if self.is_static:
            return None
        own = chosen or self.module_json("sentence_bert_config.json").get("max_seq_length")
        if own:
            return int(own)
        limits = [
            self.module_json("tokenizer_config.json").get("model_max_length"),
            self.module_json("config.json").get("max_position_embeddings"),
        ]
        # A tokenizer without a limit says 1e30.
        return min((int(limit) for limit in limits if limit and 0 < limit < 1e9), default=None)
