"""A real OpenAI-compatible HTTP server on loopback, with a real (tiny) language model behind it and faults in front.

    with serving(LanguageModel(folder)) as server:
        settings = GenerationConfig(base_url=server.base_url, model="tiny")
        server.faults += [Status(429, headers={"Retry-After": "0.1"}), Hang(5)]

It speaks /v1/chat/completions and /v1/completions, plain and as server-sent events. The model is decoded by the
plainest loop there is (one sequence, no cache, no padding): the reference for engines that batch. A function of the
request's body may take the model's place, where a test is about what is done with certain words.

    with embedding_server() as server:
        settings = EmbeddingConfig(engine="openai", base_url=server.base_url, model="lsa", api_key_variable="")

It speaks /v1/embeddings with a real embedder behind it, and refuses what other servers refuse: empty texts, texts that
are too long, too many texts in one request.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.models import TRAINING_TEXT

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

# --- what answers --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One token of an answer: the text it adds, its log-probability, and its own text (bytes of it may be missing)."""

    text: str
    logprob: float
    token: str


@dataclass
class Reply:
    """What a responder gives back: `pieces` may be made while they are sent; the counts hold once they are used up."""

    pieces: Iterator[Piece]
    prompt_tokens: int
    finish_reason: str = "stop"
    completion_tokens: int = 0


Responder = Callable[[dict[str, Any]], Reply]


def saying(answer: Callable[[dict[str, Any]], str]) -> Responder:
    """A responder that says what a function of the request's body says, in pieces of a word."""

    def respond(body: dict[str, Any]) -> Reply:
        words = answer(body).split(" ")
        texts = [word if number == 0 else f" {word}" for number, word in enumerate(words)]
        pieces = [Piece(text, -0.5, text) for text in texts]
        return Reply(iter(pieces), prompt_tokens=len(prompt_of(body).split()), completion_tokens=len(pieces))

    return respond


def prompt_of(body: dict[str, Any]) -> str:
    """The raw prompt, or the last message."""
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


class LanguageModel:
    """A causal language model of a folder, decoded one sequence at a time without a cache."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> Reply:
        ids = self.ids_of(body)
        reply = Reply(iter(()), len(ids))
        reply.pieces = self._pieces(ids, body, reply)
        return reply

    def ids_of(self, body: dict[str, Any]) -> list[int]:
        """Token ids of the prompt, or of the messages through the chat template."""
        if "prompt" in body:
            return self.tokenizer(body["prompt"])["input_ids"]
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _pieces(self, ids: list[int], body: dict[str, Any], reply: Reply) -> Iterator[Piece]:
        import torch

        generator = torch.Generator().manual_seed(body.get("seed", 0))
        made: list[int] = []
        shown = ""
        while True:
            if len(made) == body.get("max_tokens", 16):
                reply.finish_reason = "length"
                break
            with self.lock, torch.inference_mode():
                scores = self.model(torch.tensor([ids + made])).logits[0, -1].float()
            logprobs = torch.log_softmax(scores, -1)
            token = _choice(scores, body.get("temperature", 1.0), generator)
            if token == self.model.config.eos_token_id:
                break
            made.append(token)
            text = self.tokenizer.decode(made, skip_special_tokens=True)
            # A character may take several tokens: what is incomplete is sent with the rest of it.
            new = "" if text.endswith("\ufffd") and len(made) < body.get("max_tokens", 16) else text[len(shown) :]
            shown += new
            yield Piece(new, float(logprobs[token]), self.tokenizer.decode([token]))
        reply.completion_tokens = len(made)


def _choice(scores: Any, temperature: float, generator: Any) -> int:
    import torch

    if temperature == 0:
        return int(scores.argmax())
    return int(torch.multinomial(torch.softmax(scores / temperature, -1), 1, generator=generator))


# --- what embeds ---------------------------------------------------------------------------------------------


class LsaVectors:
    """LSA of the training text, 8 dimensions: a real embedder that is there in a moment.

    Args:
        longest: words of a text, at most.
        most: texts of a request, at most.
        seed: of the model.
        backwards: the vectors come in the reverse order, numbered; the protocol allows it.
    """

    def __init__(self, longest: int = 1_000, most: int = 256, *, seed: int = 0, backwards: bool = False) -> None:
        from common.lsa import fit_lsa

        # Another seed is another model: it saw half of the texts.
        self.model = fit_lsa(TRAINING_TEXT[:6] if seed else TRAINING_TEXT, dimensions=8, max_features=500, seed=seed)
        self.longest, self.most, self.backwards = longest, most, backwards

    def embed(self, texts: list[str]) -> Float32[np.ndarray, "texts dims"]:
        """What the server gives, without the server."""
        return self.model.embed(texts)

    def refusal(self, texts: list[str]) -> Status | None:
        """As OpenAI, vLLM and text-embeddings-inference refuse."""
        if "" in texts:
            return Status(400, "'$.input' is invalid: empty string")
        if len(texts) > self.most:
            return Status(422, f"batch size {len(texts)} > maximum allowed batch size {self.most}")
        longest = max(len(text.split()) for text in texts)
        if longest > self.longest:
            return Status(400, f"This model's maximum context length is {self.longest} tokens, but got {longest}")
        return None

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request that is not refused."""
        import numpy as np

        rows = self.embed(body["input"])[:, : body.get("dimensions")]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        as_text = body.get("encoding_format") == "base64"
        data = [
            {"index": index, "embedding": base64.b64encode(row.astype("<f4")).decode() if as_text else row.tolist()}
            for index, row in enumerate(rows)
        ]
        words = sum(len(text.split()) for text in body["input"])
        usage = {"prompt_tokens": words, "total_tokens": words}
        return {"model": body["model"], "data": data[::-1] if self.backwards else data, "usage": usage}


# --- what goes wrong -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """An HTTP error, with headers and a body."""

    status: int
    message: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass(frozen=True)
class Hang:
    """No reply for some seconds, then none at all."""

    seconds: float


@dataclass(frozen=True)
class Raw:
    """Status 200 with these bytes as the body: HTML of a proxy, half a JSON text, an error object."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Cut:
    """The connection is closed after this share of the reply; 0 is before its first byte."""

    share: float


Fault = Status | Hang | Raw | Cut


# --- the server ----------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A running server: what it was sent, and what it will do wrong.

    Args:
        faults: the next requests meet these, one each, in the order in which they arrive; None is no fault.
        rule: a fault for every request that it does not answer with None; asked when `faults` is empty.
        delay: seconds before every answer; an error comes at once.
        together: no answer before so many requests were there at once: on a slow machine too.
        headers: of every request, their names as `Content-Type` (HTTP knows no case).
    """

    responder: Responder
    vectors: LsaVectors | None = None
    port: int = 0
    faults: list[Fault | None] = field(default_factory=list)
    rule: Callable[[dict[str, Any]], Fault | None] = lambda body: None
    delay: float = 0.0
    together: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    met: threading.Event = field(default_factory=threading.Event)
    _active: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def arrived(self, body: dict[str, Any], headers: dict[str, str]) -> Fault | None:
        """Note a request; the fault that it meets."""
        with self._lock:
            self._active += 1
            self.most_at_once = max(self.most_at_once, self._active)
            if self._active >= self.together:
                self.met.set()
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            return self.faults.pop(0) if self.faults else self.rule(body)

    def left(self) -> None:
        """Note that a request is done with."""
        with self._lock:
            self._active -= 1


@contextmanager
def embedding_server(**options: Any) -> Generator[Server]:
    """A server of `LsaVectors`, made with these options."""
    with serving(saying(lambda body: "no"), LsaVectors(**options)) as server:
        yield server


@contextmanager
def serving(responder: Responder, vectors: LsaVectors | None = None) -> Generator[Server]:
    """A server on a free port, for the length of a `with` block."""
    server = Server(responder, vectors)
    handler = type("Handler", (_Handler,), {"server_state": server})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"
    # Small writes of a stream shall not wait for each other (Nagle).
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on stderr."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server_state.arrived(body, {name.title(): value for name, value in self.headers.items()})
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._respond(body, fault)
        finally:
            self.server_state.left()

    def _respond(self, body: dict[str, Any], fault: Fault | None) -> None:
        if self.server_state.together:
            self.server_state.met.wait(60)
        if not isinstance(fault, Status):
            self.server_state.closing.wait(self.server_state.delay)
        if isinstance(fault, Hang):
            self.server_state.closing.wait(fault.seconds)
            self.close_connection = True
        elif isinstance(fault, Status):
            self._refuse(fault)
        elif isinstance(fault, Raw):
            self._send(200, fault.body, {"Content-Type": fault.content_type})
        elif self.path == "/v1/embeddings" and self.server_state.vectors:
            self._embed(self.server_state.vectors, body, fault.share if fault else None)
        elif self.path not in ("/v1/chat/completions", "/v1/completions"):
            self._send(404, b"no such path")
        else:
            self._answer(body, fault.share if fault else None)

    def _refuse(self, fault: Status) -> None:
        error = {"error": {"message": fault.message, "code": fault.code}}
        self._send(fault.status, json.dumps(error).encode(), fault.headers)

    def _embed(self, vectors: LsaVectors, body: dict[str, Any], share: float | None) -> None:
        refusal = vectors.refusal(body["input"])
        if refusal:
            self._refuse(refusal)
        else:
            self._send(200, json.dumps(vectors.reply(body)).encode(), share=share)

    def _answer(self, body: dict[str, Any], share: float | None) -> None:
        reply = self.server_state.responder(body)
        chat = self.path == "/v1/chat/completions"
        if body.get("stream"):
            self._stream(reply, body, chat, share)
            return
        pieces = list(reply.pieces)
        whole = json.dumps(_whole(reply, pieces, body, chat), ensure_ascii=False).encode()
        self._send(200, whole, share=share)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, share: float | None = None
    ) -> None:
        if share == 0:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if share is None else content[: int(len(content) * share)])
        self.close_connection = self.close_connection or share is not None

    def _stream(self, reply: Reply, body: dict[str, Any], chat: bool, share: float | None) -> None:
        """Server-sent events, without a length: the end of the connection is the end of the body."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b": a comment, as routers send to keep a connection open\n\n")
        events = _events(reply, body, chat)
        if share is not None:
            made = list(events)
            events = iter(made[: int(len(made) * share)])
        for event in events:
            self.wfile.write(event)
            self.wfile.flush()


def _usage(reply: Reply) -> dict[str, int]:
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}


def _logprobs(pieces: list[Piece], body: dict[str, Any], chat: bool) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    if chat:
        return {"content": [{"token": piece.token, "logprob": piece.logprob} for piece in pieces]}
    return {"tokens": [piece.token for piece in pieces], "token_logprobs": [piece.logprob for piece in pieces]}


def _whole(reply: Reply, pieces: list[Piece], body: dict[str, Any], chat: bool) -> dict[str, Any]:
    text = "".join(piece.text for piece in pieces)
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **said, "finish_reason": reply.finish_reason, "logprobs": _logprobs(pieces, body, chat)}
    return {"model": body["model"], "system_fingerprint": "fp_test", "choices": [choice], "usage": _usage(reply)}


def _events(reply: Reply, body: dict[str, Any], chat: bool) -> Iterator[bytes]:
    facts = {"model": body["model"], "system_fingerprint": "fp_test"}
    for piece in reply.pieces:
        said = {"delta": {"content": piece.text}} if chat else {"text": piece.text}
        yield _event({**facts, "choices": [{**said, "logprobs": _logprobs([piece], body, chat)}]})
    said = {"delta": {}} if chat else {"text": ""}
    yield _event({**facts, "choices": [{**said, "finish_reason": reply.finish_reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event({**facts, "choices": [], "usage": _usage(reply)})
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
