"""Texts -> unit vectors, by several engines behind one interface.

`lsa` is fitted on the corpus and needs nothing from outside; `sentence_transformers` loads any model id or folder, and
so does `vllm` (`common.vllm_embedder`); `openai` asks an endpoint (`common.openai_embedder`). Heavy libraries are
imported on first use, and a transformer is loaded only when there is something to embed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from common.devices import check_device
from common.errors import CorruptArtifact, UserError
from common.hub import is_local, model_identity
from common.keys import digest, keyed_settings
from common.lsa import LsaModel, fit_lsa
from common.shapes import check_shape
from common.token_counters import document_prompt, endpoint_counter
from common.units import unit_rows
from common.vector_cache import Encoded
from config import EmbeddingConfig

if TYPE_CHECKING:
    from jaxtyping import Float32, Int
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    from common.store import Artifact, Part

Role = Literal["document", "query"]

# Padded lengths are multiples of this. Matrix kernels sum in an order that depends on the padded length, so a text
# padded to its batch's longest gets other last bits with other batch mates. Padded to its own multiple of 16, in a
# batch of that width only, it gets the same bits in every batch on a CPU: then a cached vector equals a fresh one.
PAD_MULTIPLE = 16
EMBEDDER_FILE = "embedder.json"
_PROMPTS = ("query_prompt", "document_prompt", "max_seq_length")
#: The settings of each engine, beside `engine` and `storage`; those of the others do not enter a key. A local model
#: enters as the content that its name and revision stand for, an endpoint's tokenizer likewise (`embedding_content`).
SETTINGS = {
    "lsa": ("dimensions", "max_features", "fit_documents", "seed"),
    "sentence_transformers": (*_PROMPTS, "trust_remote_code", "dtype", "backend"),
    "vllm": (*_PROMPTS, "trust_remote_code", "dtype", "truncate_dimensions"),
    "openai": (*_PROMPTS, "model", "revision", "encoding", "truncate_dimensions"),
}
LSA_TERMS, LSA_IDF, LSA_PROJECTION = "lsa_vocabulary.json", "lsa_idf.npy", "lsa_projection.npy"


class Embedder(Protocol):
    """Texts -> unit rows. Documents and queries may get different prompts."""

    @property
    def identity(self) -> str:
        """Stands for everything that determines a document's vector: equal identities, equal vectors."""
        ...

    @property
    def dimensions(self) -> int: ...

    @property
    def device(self) -> str: ...

    def encode_documents(self, texts: Sequence[str]) -> Encoded: ...

    def embed_documents(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]: ...

    def embed_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]: ...


@dataclass(frozen=True)
class LsaEmbedder:
    """An `LsaModel` as an embedder; it has no prompts and no length limit."""

    model: LsaModel
    device: str = "cpu"

    @property
    def identity(self) -> str:
        return self.model.identity

    @property
    def dimensions(self) -> int:
        return self.model.dimensions

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return Encoded(self.model.embed(texts), np.zeros(len(texts), dtype=bool))

    def embed_documents(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self.model.embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self.model.embed(texts)


@dataclass
class SentenceTransformerEmbedder:
    """A sentence-transformers model, loaded on first use.

    Args:
        config: engine, model, prompts, precision, device and batch size.
        model_id: the model's content id (`common.hub.model_identity`), which enters the identity.
    """

    config: EmbeddingConfig
    model_id: str
    _loaded: bool = field(default=False, init=False)

    @cached_property
    def identity(self) -> str:
        """Batch size and device are left out: they move no more than the last bits (see `PAD_MULTIPLE`)."""
        names = ("engine", "document_prompt", "max_seq_length", "dtype", "backend")
        return digest({"model": self.model_id, **{name: getattr(self.config, name) for name in names}}, 32)

    @cached_property
    def model(self) -> SentenceTransformer:
        commit = self.model_id.rpartition("@")[2] if self.model_id.startswith("hub:") else None
        model = load_sentence_transformer(self.config, commit)
        model[0].register_forward_pre_hook(_pad_to_multiple)
        self._loaded = True
        return model

    @property
    def device(self) -> str:
        """Where the model runs; `none` while it has not been needed."""
        return str(self.model.device) if self._loaded else "none"

    @cached_property
    def dimensions(self) -> int:
        return int(self.embed_queries(["dimensions"]).shape[1])

    def prompt(self, role: Role) -> str:
        """The text put before every document or query: the config's, else the model's own, else none."""
        if role == "document":
            return document_prompt(self.config)
        if self.config.query_prompt is not None:
            return self.config.query_prompt
        return (self.model.prompts or {}).get("query") or ""

    @property
    def longest(self) -> float:
        """Tokens the model reads, special tokens and prompt included; infinite for a static model."""
        length = self.model.max_seq_length
        return math.inf if length is None else length

    @cached_property
    def _counter(self) -> Tokenizer | None:
        """A private copy of the model's fast tokenizer that neither truncates nor pads."""
        from tokenizers import Tokenizer

        own = getattr(self.model, "tokenizer", None)
        own = getattr(own, "backend_tokenizer", own)
        if not isinstance(own, Tokenizer):
            return None
        copy = Tokenizer.from_str(own.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    def token_counts(self, texts: Sequence[str]) -> Int[np.ndarray, " texts"]:
        """Tokens of each text with its special tokens, before truncation; characters when no fast tokenizer counts."""
        if self._counter is None or math.isinf(self.longest):
            return np.array([len(text) for text in texts], dtype=np.int64)
        return np.array([len(encoding.ids) for encoding in self._counter.encode_batch_fast(list(texts))], np.int64)

    def _encode(self, texts: Sequence[str], role: Role) -> Encoded:
        prompt = self.prompt(role)
        lengths = self.token_counts([prompt + text for text in texts])
        counted = self._counter is not None
        truncated = lengths > self.longest if counted else np.zeros(len(texts), dtype=bool)
        # These also tell a model with separate query and document towers which of them is meant.
        encode = self.model.encode_document if role == "document" else self.model.encode_query
        # An empty prompt is passed as such: None would let the model's default prompt in.
        options: dict[str, Any] = {"prompt": prompt, "show_progress_bar": False}
        vectors: np.ndarray | None = None
        for rows in token_budget_batches(lengths, self.config.batch_tokens, self.longest):
            raw = np.asarray(encode([texts[row] for row in rows], batch_size=len(rows), **options), dtype=np.float32)
            vectors = np.empty((len(texts), raw.shape[1]), np.float32) if vectors is None else vectors
            vectors[rows] = unit_rows(raw)
        return Encoded(np.zeros((0, self.dimensions), np.float32) if vectors is None else vectors, truncated)

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return self._encode(texts, "document")

    def embed_documents(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self._encode(texts, "document").vectors

    def embed_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self._encode(texts, "query").vectors


# --- batches -------------------------------------------------------------------------------------------------


def token_budget_batches(
    lengths: Int[np.ndarray, " texts"], budget: int, longest: float = math.inf
) -> list[Int[np.ndarray, " batch"]]:
    """Row numbers in batches of one padded length, longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each text.
        budget: tokens of a batch, padding included; a single text may exceed it.
        longest: texts are cut to this length.
    """
    check_shape("lengths", lengths, "texts")
    widths = -(-np.maximum(lengths, 1) // PAD_MULTIPLE) * PAD_MULTIPLE
    widths = np.minimum(widths, longest).astype(np.int64)
    batches = []
    for width in np.unique(widths)[::-1]:
        rows = np.flatnonzero(widths == width)
        size = max(1, budget // int(width))
        batches.extend(rows[start : start + size] for start in range(0, len(rows), size))
    return batches


def _pad_to_multiple(module: Any, inputs: tuple[dict[str, Any]]) -> None:
    """Widen a tokenised batch to the next multiple of `PAD_MULTIPLE`, with masked padding, in place."""
    from torch.nn.functional import pad

    features = inputs[0]
    ids = features.get("input_ids")
    if ids is None or ids.ndim != 2 or "attention_mask" not in features:
        return
    limit = module.max_seq_length or math.inf
    missing = int(min(-(-ids.shape[1] // PAD_MULTIPLE) * PAD_MULTIPLE, max(limit, ids.shape[1]))) - ids.shape[1]
    tokenizer = module.tokenizer
    sides = (missing, 0) if tokenizer.padding_side == "left" else (0, missing)
    for name, value in features.items():
        if getattr(value, "shape", None) == ids.shape:
            features[name] = pad(value, sides, value=(tokenizer.pad_token_id or 0) if name == "input_ids" else 0)


# --- loading -------------------------------------------------------------------------------------------------


def load_sentence_transformer(config: EmbeddingConfig, commit: str | None = None) -> SentenceTransformer:
    """Load the model a config names.

    Raises:
        UserError: it is missing or broken, its backend is not installed, the device is not there, it wants remote
            code that the config does not allow, or it cannot read `max_seq_length` tokens.
    """
    name = config.model
    if not name:
        raise UserError("embedding.model is not set; engine 'sentence_transformers' needs a hub id or a local folder")
    _check_backend(config)
    check_device(config.device, "embedding.device")
    try:
        model = _load(name, config, None if is_local(name) else commit or config.revision)
    except Exception as error:
        raise UserError(_why_not_loaded(name, error)) from error
    if config.max_seq_length is not None:
        _limit_length(model, name, config.max_seq_length)
    return model.eval()


def _load(name: str, config: EmbeddingConfig, revision: str | None) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    dtype = getattr(torch, config.dtype)
    model = SentenceTransformer(
        name,
        device=None if config.device == "auto" else config.device,
        revision=revision,
        trust_remote_code=config.trust_remote_code,
        backend=config.backend,
        model_kwargs={"dtype": dtype} if config.backend == "torch" else None,
    )
    # A static model ignores `model_kwargs`.
    return model.to(dtype=dtype) if config.backend == "torch" else model


def _check_backend(config: EmbeddingConfig) -> None:
    if config.backend == "torch":
        return
    needed = ("optimum", "onnxruntime" if config.backend == "onnx" else "openvino")
    if any(importlib.util.find_spec(package) is None for package in needed):
        raise UserError(
            f"embedding.backend '{config.backend}' is not installed; to install it: uv sync --extra {config.backend}"
        )
    if config.dtype != "float32":
        raise UserError(
            f"embedding.dtype '{config.dtype}' needs backend 'torch'; '{config.backend}' files have their own"
        )


def _why_not_loaded(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "trust_remote_code" in str(error):
        return f"model '{name}' runs code of its own; if you trust it: embedding.trust_remote_code=true"
    return f"model '{name}' cannot be loaded: {reason}; give a sentence-transformers id or folder"


def _limit_length(model: SentenceTransformer, name: str, length: int) -> None:
    readable = getattr(getattr(getattr(model[0], "auto_model", None), "config", None), "max_position_embeddings", None)
    if readable is not None and length > readable:
        raise UserError(f"embedding.max_seq_length is {length}, but model '{name}' reads at most {readable} tokens")
    try:
        model.max_seq_length = length
    except AttributeError as error:
        raise UserError(f"model '{name}' has no length limit; leave embedding.max_seq_length at null") from error


# --- fitted and finished embedders ---------------------------------------------------------------------------


def fitted_lsa(part: Part, texts: Callable[[], Iterable[str]], config: EmbeddingConfig) -> LsaEmbedder:
    """The model saved in an unfinished artifact by a run that was killed, or one fitted now and saved.

    Args:
        texts: called for the texts to fit on, only when the model has to be fitted.
    """
    if not part.finished(LSA_PROJECTION):
        model = fit_lsa(texts(), dimensions=config.dimensions, max_features=config.max_features, seed=config.seed)
        part.write_json(LSA_TERMS, list(model.terms))
        part.write_array(LSA_IDF, model.idf)
        # Written last: it says that the model is complete.
        part.write_array(LSA_PROJECTION, model.projection)
        return LsaEmbedder(model)
    terms = tuple(part.read_json(LSA_TERMS))
    return LsaEmbedder(LsaModel(terms, part.read_array(LSA_IDF), part.read_array(LSA_PROJECTION)))


def embedding_settings(config: EmbeddingConfig) -> dict[str, object]:
    """What vectors depend on: the settings of their engine, not those of the others."""
    own = {"engine", "storage", *SETTINGS[config.engine]}
    found = {name: value for name, value in keyed_settings(config).items() if name in own}
    return {**found, "base_url": config.base_url.rstrip("/")} if config.engine == "openai" else found


def embedding_content(config: EmbeddingConfig, cache_dir: Path) -> dict[str, str]:
    """What vectors depend on outside of the settings: the model as a commit or a hash of its files.

    Raises:
        UserError: there is no such model.
    """
    if config.engine == "lsa":
        return {}
    if config.engine == "openai":
        return {} if config.max_seq_length is None else {"tokenizer": endpoint_counter(config).identity}
    if not config.model:
        raise UserError(f"embedding.model is not set; engine '{config.engine}' needs a hub id or a local folder")
    return {"model": model_identity(config.model, config.revision, cache_dir)}


def model_embedder(config: EmbeddingConfig, model_id: str) -> Embedder:
    """The embedder of an engine that is not fitted on the corpus; nothing is loaded and nothing sent yet.

    Args:
        config: its engine is not `lsa`.
        model_id: of `embedding_content`; empty for an endpoint.

    Raises:
        UserError: the engine is not installed, or its settings cannot work.
    """
    if config.engine == "openai":
        from common.openai_embedder import OpenAIEmbedder

        return OpenAIEmbedder(config)
    if config.engine == "vllm":
        from common.vllm_embedder import VllmEmbedder

        return VllmEmbedder(config, model_id)
    return SentenceTransformerEmbedder(config, model_id)


def load_embedder(vectors: Artifact, config: EmbeddingConfig) -> Embedder:
    """The embedder that made a vectors artifact, for queries: same engine, model and precision, its query prompt.

    Raises:
        CorruptArtifact: the artifact was made by another engine than the config's.
        UserError: of its methods, where an endpoint serves another model by now.
    """
    made_by = vectors.json(EMBEDDER_FILE)
    if made_by["engine"] != config.engine:
        raise CorruptArtifact(f"{vectors.place}: made by engine '{made_by['engine']}', not '{config.engine}'")
    if config.engine == "lsa":
        terms = tuple(vectors.json(LSA_TERMS))
        return LsaEmbedder(LsaModel(terms, vectors.array(LSA_IDF), vectors.array(LSA_PROJECTION)))
    if config.engine == "openai":
        from common.openai_embedder import OpenAIEmbedder

        return OpenAIEmbedder(config, made_by.get("probe"))
    return model_embedder(config, made_by["model"] or "")
