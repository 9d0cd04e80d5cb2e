"""Texts -> unit vectors over HTTP: `embedding.engine = "openai"`, any `/v1/embeddings` endpoint.

OpenAI, a vLLM server, text-embeddings-inference and others speak it
(https://platform.openai.com/docs/api-reference/embeddings). Requests are bounded in tokens and in number at once, and
tried again as `common.openai_engine` does; the key comes from the environment and goes into one header.

A server that finds a request too large, or a text in it too long, refuses it whole: such a request is sent in halves,
so that the text at fault is named and all others have their vectors. After a failure that stays, nothing more is sent.
Every reply is kept the moment it arrives (`encode_streamed`), so that nothing is paid for twice, not even after a kill.

An endpoint says a model's name, not what it is. One sentence, `PROBE`, is embedded with every corpus and kept; before
queries are compared with that corpus, or vectors added to it, the endpoint has to give the same vector again. Where a
name has come to stand for another model, change `embedding.revision`: it is part of every key here.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from common.console import one_line
from common.errors import ConfigError, UserError
from common.generation import Purse, Spending, money
from common.keys import digest
from common.openai_engine import Line, api_key, call_headers, checked_url, open_client, refuse_status, run_workers
from common.openai_wire import invalid_reply, parsed, refuse_error
from common.rollouts import Failure
from common.rows import without_surrogates
from common.token_counters import document_prompt, endpoint_counter, query_prompt
from common.units import unit_rows
from common.vector_cache import Deliver, Encoded, VectorCache, encode_cached
from config import EmbeddingConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32
    from openai import AsyncOpenAI

    from common.token_counters import TokenCounter

Result = TypeVar("Result")
# OpenAI takes 2,048 texts in a request; servers of one's own often fewer, and say so.
REQUEST_TEXTS = 256
_BYTES_PER_TOKEN = 4
# What servers answer to a text that is too long, or to too many texts.
TOO_MUCH = frozenset({400, 413, 422})
#: What an endpoint is recognised by.
PROBE = "The old lighthouse keeper counted 27 ships before the fog came in."
# Cosine of two vectors of the probe by one model: batches and devices move it by less, another model or precision more.
SAME_MODEL = 0.999
IDENTIFYING = ("engine", "model", "revision", "document_prompt", "max_seq_length", "encoding", "truncate_dimensions")


@dataclass(frozen=True)
class Batch:
    """Texts of one request, and the rows that their vectors belong to."""

    rows: tuple[int, ...]
    texts: tuple[str, ...]

    def halves(self) -> tuple[Batch, Batch]:
        """Both halves of a batch of at least two texts."""
        middle = len(self.rows) // 2
        return Batch(self.rows[:middle], self.texts[:middle]), Batch(self.rows[middle:], self.texts[middle:])


@dataclass(frozen=True)
class Vectors:
    """The reply to one batch.

    Args:
        rows: (texts, dims) as the endpoint gives them, not normalised.
        tokens: that it counts; None where it does not say.
        cost: by the stated price; None where there is none.
        attempts: that it took.
    """

    rows: Float32[np.ndarray, "texts dims"]
    tokens: int | None = None
    cost: float | None = None
    attempts: int = 1


@dataclass
class OpenAIEmbedder:
    """A model behind an endpoint; nothing is sent before there is something to embed.

    Args:
        config: endpoint, model, prompts, bounds.
        expected: the probe's vector by the model that this has to be; None: any.

    Raises:
        UserError: the settings cannot work: no model, an address that is none, a length without a tokenizer.
    """

    config: EmbeddingConfig
    expected: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.url = checked_url(self.config.base_url, "embedding")
        if not self.config.model:
            raise UserError("embedding.model is not set; engine 'openai' needs the endpoint's name for its model")
        if self.config.max_cost is not None and self.config.price_input is None:
            raise ConfigError("embedding.max_cost needs embedding.price_input")
        self.spent, self.tokens, self.requests = 0.0, 0, 0
        self._counters: dict[str, TokenCounter] = {}

    @cached_property
    def identity(self) -> str:
        """As `Embedder.identity`: the endpoint and its name for the model, and how texts are cut."""
        counter = self._counter(document_prompt(self.config))
        facts = {name: getattr(self.config, name) for name in IDENTIFYING}
        return digest({**facts, "endpoint": self.url, "tokenizer": counter and counter.identity}, 32)

    def _counter(self, prompt: str) -> TokenCounter | None:
        """What texts behind this prompt are cut by; None where they are sent whole."""
        if self.config.max_seq_length is None:
            return None
        if prompt not in self._counters:
            self._counters[prompt] = endpoint_counter(self.config, prompt=prompt)
        return self._counters[prompt]

    @cached_property
    def dimensions(self) -> int:
        return self.config.truncate_dimensions or int(self.embed_queries(["dimensions"]).shape[1])

    @property
    def device(self) -> str:
        return f"endpoint {urlsplit(self.url).netloc}"

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return self._encode(texts, document_prompt(self.config))

    def encode_streamed(self, texts: Sequence[str], deliver: Deliver) -> Encoded:
        """As `StreamingEncoder.encode_streamed`."""
        return self._encode(texts, document_prompt(self.config), deliver)

    def embed_documents(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self.encode_documents(texts).vectors

    def embed_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self._encode(texts, query_prompt(self.config)).vectors

    def probe(self, cache: VectorCache, *, asked: bool) -> list[float]:
        """The probe's vector, of when this endpoint was first asked, as far as the row cache remembers.

        Args:
            cache: of this embedder.
            asked: whether the endpoint gave vectors in this run: then it has to be the same one still.

        Raises:
            UserError: it is not.
        """
        kept = encode_cached(self, [PROBE], cache)
        if asked and not kept.computed:
            self.recognise(kept.vectors[0].tolist())
        return [round(value, 7) for value in kept.vectors[0].tolist()]

    def recognise(self, probe: Sequence[float]) -> None:
        """Embed the probe, and compare.

        Raises:
            UserError: the endpoint gives another vector than this one.
        """
        found = self._encode([PROBE], document_prompt(self.config)).vectors[0]
        likeness = float(found @ np.asarray(probe, np.float32)) if len(found) == len(probe) else 0.0
        if likeness < SAME_MODEL:
            raise UserError(
                f"{self.device} serves another model as '{self.config.model}' than when these vectors were made "
                f"(cosine of one sentence {likeness:.3f}, {len(found)} dimensions); to start anew: embedding.revision=B"
            )

    def _encode(self, texts: Sequence[str], prompt: str, deliver: Deliver | None = None) -> Encoded:
        if self.expected is not None and texts:
            probe, self.expected = self.expected, None
            self.recognise(probe)
        sent, truncated = cut_texts([without_surrogates(text) for text in texts], prompt, self._counter(prompt))

        def arrived(batch: Batch, vectors: Vectors) -> None:
            if deliver:
                deliver(batch.rows, Encoded(unit_rows(vectors.rows), truncated[list(batch.rows)]))

        found, failure = run_here(self._ask(sent, arrived))
        if failure:
            raise UserError(f"embedding: {failure}")
        return Encoded(self._placed(sent, found), truncated)

    def _placed(self, sent: Sequence[str], found: Sequence[tuple[Batch, Vectors]]) -> Float32[np.ndarray, "texts dims"]:
        """Unit vectors in the order of the texts; zeros for an empty text, which no endpoint takes."""
        width = found[0][1].rows.shape[1] if found else self.config.truncate_dimensions or 0
        filled = np.zeros((len(sent), width), np.float32)
        for batch, vectors in found:
            if vectors.rows.shape[1] != width:
                raise UserError(f"{self.device} gives vectors of {width} and of {vectors.rows.shape[1]} dimensions")
            filled[list(batch.rows)] = vectors.rows
        return unit_rows(filled)

    async def _ask(
        self, texts: Sequence[str], arrived: Callable[[Batch, Vectors], None]
    ) -> tuple[list[tuple[Batch, Vectors]], str | None]:
        """The replies, and why some are missing."""
        waiting = list(batches(texts, self.config.batch_tokens))[::-1]
        found: list[tuple[Batch, Vectors]] = []
        failures: list[str] = []
        key = api_key(self.config, self.url, "embedding")
        async with open_client(self.url, key, self.config) as client:
            line = EmbeddingLine(client, self.config, Allowance(self.config, self.spent), key, "embedding")

            async def work() -> None:
                while waiting:
                    batch = waiting.pop()
                    outcome = await line.outcome(batch)
                    if isinstance(outcome, Vectors):
                        arrived(batch, outcome)
                        found.append((batch, outcome))
                    elif outcome.status in TOO_MUCH and len(batch.rows) > 1:
                        waiting.extend(batch.halves()[::-1])
                    else:
                        failures.append(in_words(outcome, batch, self.config))
                        line.stopped = line.stopped or failures[0]

            await run_workers(work, min(self.config.max_concurrency, len(waiting)))
        self._count(found)
        return found, failures[0] if failures else None

    def _count(self, found: Sequence[tuple[Batch, Vectors]]) -> None:
        self.requests += len(found)
        self.tokens += sum(vectors.tokens or estimated_tokens(batch.texts) for batch, vectors in found)
        self.spent += sum(vectors.cost or 0.0 for _, vectors in found)


def run_here(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, also where an event loop is running already (a notebook), in a thread of its own then."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work)).result()


class Allowance(Spending):
    """What requests may still cost, at the stated price."""

    def __init__(self, config: EmbeddingConfig, spent: float) -> None:
        self.price = config.price_input or 0.0
        self.purse = Purse(config.max_cost)
        self.purse.spent = spent

    def most(self, call: Batch) -> float:
        """As `Spending.most`: no tokenizer makes more tokens than bytes."""
        return sum(len(text.encode()) for text in call.texts) * self.price / 1e6


class EmbeddingLine(Line[Batch, Vectors]):
    """Calls for vectors."""

    def __init__(
        self, client: AsyncOpenAI, settings: EmbeddingConfig, budget: Allowance, key: str, section: str
    ) -> None:
        super().__init__(client, settings, budget, key, section)
        self.settings = settings

    async def send(self, call: Batch) -> Vectors:
        """As `Line.send`."""
        body = payload_of(call.texts, self.settings)
        reply = await self.client.embeddings.with_raw_response.create(**body, extra_headers=call_headers(self.key))
        refuse_status(reply.http_response)
        content = parsed(reply.content)
        rows = rows_of(content, len(call.texts))
        tokens = tokens_of(content)
        price = self.settings.price_input
        used = estimated_tokens(call.texts) if tokens is None else tokens
        return Vectors(rows, tokens, None if price is None else used * price / 1e6)


# --- what is sent --------------------------------------------------------------------------------------------


def payload_of(texts: Sequence[str], settings: EmbeddingConfig) -> dict[str, Any]:
    """The body of a request. `dimensions` is left out where nothing is said of it: not every server knows it."""
    shortened = settings.truncate_dimensions
    optional = {} if shortened is None else {"dimensions": shortened}
    return {"model": settings.model, "input": list(texts), "encoding_format": settings.encoding, **optional}


def estimated_tokens(texts: Sequence[str]) -> int:
    """About as many tokens as the texts have: four bytes each."""
    return sum(math.ceil(len(text.encode()) / _BYTES_PER_TOKEN) for text in texts)


def batches(texts: Sequence[str], tokens: int) -> Iterator[Batch]:
    """The texts that are not empty, in their order, in requests of at most about `tokens` tokens (or one text)."""
    rows: list[int] = []
    size = 0
    for row, text in enumerate(texts):
        needed = estimated_tokens([text])
        if rows and (size + needed > tokens or len(rows) == REQUEST_TEXTS):
            yield Batch(tuple(rows), tuple(texts[each] for each in rows))
            rows, size = [], 0
        if text:
            rows.append(row)
            size += needed
    if rows:
        yield Batch(tuple(rows), tuple(texts[each] for each in rows))


def cut_texts(
    texts: Sequence[str], prompt: str, counter: TokenCounter | None
) -> tuple[list[str], Bool[np.ndarray, " texts"]]:
    """The texts behind their prompt, cut to the limit of its counter, and which were cut. Without a counter none is.

    A text is cut between two of its tokens. The rest may make other tokens than before, so it is counted again, and
    cut again while it is too long.
    """
    whole = [prompt + text if text else "" for text in texts]
    if counter is None or counter.max_length is None:
        return whole, np.zeros(len(texts), dtype=bool)
    limit = counter.max_length
    # What prompt and special tokens take.
    own = int(counter.count([""])[0])
    counted = counter.count(texts)
    truncated = counted > limit
    for row in np.flatnonzero(truncated).tolist():
        whole[row] = prompt + _cut(texts[row], counter, limit, own)
    return whole, truncated


def _cut(text: str, counter: TokenCounter, limit: int, own: int) -> str:
    ends = counter.spans([text])[0][:, 1]
    keep = min(limit - own, len(ends))
    while keep > 0:
        shorter = text[: ends[keep - 1]]
        over = int(counter.count([shorter])[0]) - limit
        if over <= 0:
            return shorter
        keep -= over
    raise ConfigError(f"embedding.max_seq_length is {limit}: prompt and special tokens leave no room for a text")


# --- what comes back -----------------------------------------------------------------------------------------


def rows_of(reply: Any, count: int) -> Float32[np.ndarray, "texts dims"]:
    """The vectors in a reply, in the order of the texts.

    Raises:
        CallError: it is an error, or does not hold one vector of one length for each text.
    """
    refuse_error(reply)
    data = reply.get("data")
    if not isinstance(data, list) or len(data) != count or not all(isinstance(item, Mapping) for item in data):
        raise invalid_reply(f"the reply holds no list of {count} vectors")
    places = [item.get("index", place) for place, item in enumerate(data)]
    if sorted(places, key=str) != sorted(range(count), key=str):
        raise invalid_reply("the vectors of the reply are not numbered as the texts are")
    rows = [vector_of(item.get("embedding")) for item in data]
    if len({row.shape for row in rows}) != 1 or not len(rows[0]):
        raise invalid_reply("the vectors of the reply differ in length, or are empty")
    ordered = np.empty((count, len(rows[0])), np.float32)
    ordered[places] = rows
    return ordered


def vector_of(value: Any) -> Float32[np.ndarray, " dims"]:
    """A vector in either form: base64 of little-endian float32, or a list of numbers.

    Raises:
        CallError: it is neither.
    """
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
        row = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise invalid_reply(f"a vector of the reply cannot be read: {error}") from error
    if row.ndim != 1:
        raise invalid_reply("a vector of the reply is no list of numbers")
    return row


def tokens_of(reply: Mapping[str, Any]) -> int | None:
    """Tokens that the endpoint counted, or None."""
    usage = reply.get("usage")
    found = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def in_words(failure: Failure, batch: Batch, settings: EmbeddingConfig) -> str:
    """Why texts have no vector, which one it is where a single one is at fault, and what to do."""
    kept = "; what has arrived is kept: run the same command again" if settings.row_cache else ""
    if failure.status not in TOO_MUCH:
        return f"{failure.message}{kept}"
    text = batch.texts[0]
    remedy = (
        "choose a shorter chunking.max_tokens, or cut such texts: embedding.max_seq_length with embedding.tokenizer"
        if settings.max_seq_length is None
        else "lower embedding.max_seq_length"
    )
    return f"a text of {len(text):,} characters ('{one_line(text, 60)}') is refused: {failure.message}; {remedy}"


# --- what it may cost ----------------------------------------------------------------------------------------


def announcement(characters: int, chunks: int, settings: EmbeddingConfig) -> str:
    """What a run may send and cost, by the size of the chunks and the stated price."""
    tokens = characters / _BYTES_PER_TOKEN
    cost = money(tokens * (settings.price_input or 0.0) / 1e6)
    return f"embedding: {chunks:,} chunks, about {tokens:,.0f} tokens: about {cost}, less for what is in the row cache"
