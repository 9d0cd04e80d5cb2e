"""Texts -> unit vectors by vLLM's offline engine: `embedding.engine = "vllm"`. Needs the extra `vllm`.

The model is read as sentence-transformers reads it: its own pooling (the mean, where it names none; vLLM alone would
take the first token of a BERT), its prompts, and as many tokens as `max_seq_length` says, special tokens and prompt
included. We cut the tokens ourselves, so what was cut is counted, and vLLM gets token ids.

On a CPU its vectors differ from those of sentence-transformers by less than 1e-5 in float32, which
tests/test_real_servers.py holds it to. vLLM batches as requests come, which moves the last bits: vectors of two runs
are equal within that, not byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.keys import digest
from common.token_counters import ModelFiles, document_prompt, query_prompt
from common.units import unit_rows
from common.vector_cache import Encoded
from common.vllm_engine import load_vllm, model_arguments, place_arguments, require_vllm, run_vllm, token_prompts
from config import EmbeddingConfig

if TYPE_CHECKING:
    from jaxtyping import Float32

# Texts handed over at once: vLLM gives vectors as lists of Python numbers, 32 bytes each.
SLICE_TEXTS = 1024
# sentence-transformers' names of poolings, and vLLM's.
MODULES = {"Transformer", "Pooling", "Dense", "Normalize"}
POOLINGS = {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST"}
IDENTIFYING = (
    *("engine", "trust_remote_code", "document_prompt", "max_seq_length", "truncate_dimensions"),
    "dtype",
)


@dataclass
class VllmEmbedder:
    """A model in vLLM, loaded on first use.

    Args:
        config: engine, model, prompts, precision and the device's share.
        model_id: the model's content id (`common.hub.model_identity`), which enters the identity.
    """

    config: EmbeddingConfig
    model_id: str
    _loaded: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        require_vllm("embedding.engine")

    @cached_property
    def identity(self) -> str:
        """As `Embedder.identity`; the engine is part of it, so no vector of another one is ever taken for its own."""
        return digest({"model": self.model_id, **{name: getattr(self.config, name) for name in IDENTIFYING}}, 32)

    @cached_property
    def dimensions(self) -> int:
        return int(self.embed_queries(["dimensions"]).shape[1])

    @property
    def device(self) -> str:
        """Where the model runs; `none` while it has not been needed."""
        if not self._loaded:
            return "none"
        from vllm.platforms import current_platform

        return f"{current_platform.device_type} (vllm)"

    @cached_property
    def files(self) -> ModelFiles:
        """The model's small files, of the commit that the identity names."""
        return model_files(self.config, self.model_id)

    @property
    def model(self) -> Any:
        """The `vllm.LLM`, loaded now if need be."""
        found = load_vllm(embedding_llm_arguments(self.config, self.model_id), "embedding")
        self._loaded = True
        return found

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        return self._encode(texts, document_prompt(self.config))

    def embed_documents(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self.encode_documents(texts).vectors

    def embed_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
        return self._encode(texts, query_prompt(self.config)).vectors

    def _encode(self, texts: Sequence[str], prompt: str) -> Encoded:
        if not texts:
            return Encoded(np.zeros((0, self.dimensions), np.float32), np.zeros(0, bool))
        refuse_unpooled_prompt(self.files, prompt)
        starts = range(0, len(texts), SLICE_TEXTS)
        slices = [self._slice([prompt + text for text in texts[start : start + SLICE_TEXTS]]) for start in starts]
        raw = np.concatenate([each.vectors for each in slices])
        width = self.config.truncate_dimensions or raw.shape[1]
        return Encoded(unit_rows(raw[:, :width]), np.concatenate([each.truncated for each in slices]))

    def _slice(self, texts: Sequence[str]) -> Encoded:
        """Vectors as the model pools them; a text without a token has zeros, one that vLLM gave up has NaN."""
        model = self.model
        longest = model.llm_engine.model_config.max_model_len
        ids, truncated = token_ids(model.get_tokenizer(), self._cased(texts), longest)
        rows = [row for row, tokens in enumerate(ids) if tokens]
        outputs = run_vllm(model.embed, embed_arguments([ids[row] for row in rows]), self.config.model or "")
        found = [np.asarray(output.outputs.embedding, np.float32) for output in outputs if output.error is None]
        if rows and not found:
            raise UserError(f"vLLM embedded none of {len(rows):,} texts; the first: {outputs[0].error}")
        width = len(found[0]) if found else int(model.llm_engine.model_config.get_hidden_size())
        vectors = np.zeros((len(texts), width), np.float32)
        for row, output in zip(rows, outputs, strict=True):
            vectors[row] = np.nan if output.error is not None else output.outputs.embedding
        return Encoded(vectors, truncated)

    def _cased(self, texts: Sequence[str]) -> Sequence[str]:
        lower = bool(self.files.module_json("sentence_bert_config.json").get("do_lower_case"))
        return [text.lower() for text in texts] if lower else texts


def token_ids(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[list[list[int]], np.ndarray]:
    """Token ids of each text with its special tokens, cut to `longest`, and which were cut.

    The tokenizer cuts, not a slice: the special token that ends a text stays at its end.
    """
    ids = [list(row) for row in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    truncated = np.array([len(row) > longest for row in ids], dtype=bool)
    for row in np.flatnonzero(truncated).tolist():
        ids[row] = list(tokenizer([texts[row]], truncation=True, max_length=longest)["input_ids"][0])
    return ids, truncated


# --- what is passed to vLLM ----------------------------------------------------------------------------------


def embedding_llm_arguments(config: EmbeddingConfig, model_id: str) -> dict[str, Any]:
    """Of `vllm.LLM`, for embeddings.

    Raises:
        UserError: the model is of a kind that vLLM does not run.
    """
    if not config.model:
        raise UserError("embedding.model is not set; engine 'vllm' needs a hub id or a local folder")
    if config.device != "auto":
        raise UserError(f"embedding.device '{config.device}': vLLM chooses its device itself; leave it at auto")
    files = model_files(config, model_id)
    refuse_other_modules(files)
    pooling = pooler_arguments(files)
    from vllm.config import PoolerConfig

    longest = files.max_length(config.max_seq_length)
    return {
        **model_arguments(config.model, model_id),
        "runner": "pooling",
        "dtype": config.dtype,
        "trust_remote_code": config.trust_remote_code,
        **({} if longest is None else {"max_model_len": longest}),
        "pooler_config": PoolerConfig(**pooling),
        **place_arguments(config.gpu_memory, config.gpus),
    }


def model_files(config: EmbeddingConfig, model_id: str) -> ModelFiles:
    """The model's small files, of the commit that its content id names."""
    commit = model_id.rpartition("@")[2] if model_id.startswith("hub:") else config.revision
    return ModelFiles(config.model or "", commit)


def refuse_other_modules(files: ModelFiles) -> None:
    """Raise UserError for a model with a part that vLLM would leave out, or that it cannot run."""
    kinds = {str(module.get("type", "")).rsplit(".", 1)[-1] for module in files.json("modules.json") or ()}
    if kinds - MODULES:
        raise UserError(
            f"model '{files.model}' has a part that vLLM does not run ({', '.join(sorted(kinds - MODULES))}); "
            "use embedding.engine=sentence_transformers"
        )


def pooler_arguments(files: ModelFiles) -> dict[str, Any]:
    """Of `vllm.config.PoolerConfig`: the model's own pooling, without its normalisation, which is ours.

    Raises:
        UserError: vLLM has no such pooling.
    """
    settings = files.module("Pooling") or {}
    modes = {
        name.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for name, value in settings.items()
        if name.startswith("pooling_mode_") and value is True
    }
    if isinstance(settings.get("pooling_mode"), str):
        modes = {settings["pooling_mode"]}
    # Without a word of it, sentence-transformers takes the mean.
    mode = modes.pop() if len(modes) == 1 else "several" if modes else "mean"
    if mode not in POOLINGS:
        raise UserError(
            f"model '{files.model}': vLLM cannot pool as it does ({mode}); use embedding.engine=sentence_transformers"
        )
    return {"seq_pooling_type": POOLINGS[mode], "use_activation": False}


def refuse_unpooled_prompt(files: ModelFiles, prompt: str) -> None:
    """Raise UserError where a model leaves its prompt out of the mean, which vLLM cannot."""
    if prompt and (files.module("Pooling") or {}).get("include_prompt") is False:
        raise UserError(
            f"model '{files.model}' leaves its prompt out of the pooling, which vLLM cannot; "
            "use embedding.engine=sentence_transformers"
        )


def embed_arguments(ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Of `vllm.LLM.embed`."""
    return {"prompts": token_prompts(ids), "use_tqdm": False}
