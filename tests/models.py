"""Small real models for the tests, built offline in about a second: nothing is downloaded, every weight is seeded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Enough ordinary English for a trained vocabulary with whole words, word pieces and single characters.
TRAINING_TEXT = (
    "The cell membrane controls what enters and what leaves the living cell.",
    "Water boils at one hundred degrees when the pressure is one atmosphere.",
    "A sorted list can be searched in logarithmic time by halving the interval.",
    "The committee adjourned the meeting until the following Tuesday morning.",
    "Rivers carry sediment from the mountains to the plains and the sea.",
    "Prices rise when demand grows faster than supply in a competitive market.",
    "The violin section tuned their instruments before the second movement.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "An iterator yields one element at a time, so the whole file never sits in memory.",
    "Bread rises because yeast turns sugar into gas, which the dough holds back.",
    "abcdefghijklmnopqrstuvwxyz 0123456789 .,;:!?()[]{}'\"-+*/=<>_#%&@",
)


def train_wordpiece(texts: Iterable[str] = TRAINING_TEXT, vocabulary: int = 500):
    """A fast WordPiece tokenizer trained on `texts`, with BERT's normaliser, pre-tokeniser and special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer numbers the special tokens first, in their order.
    sep, cls = (("[SEP]", SPECIAL_TOKENS.index("[SEP]")), ("[CLS]", SPECIAL_TOKENS.index("[CLS]")))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer


def build_tokenizer(folder: Path, texts: Iterable[str] = TRAINING_TEXT, vocabulary: int = 500, max_tokens: int = 64):
    """Save a trained WordPiece tokenizer as a transformers tokenizer folder; returns its vocabulary size."""
    tokenizer = train_wordpiece(texts, vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens, **names}
    _write_json(folder / "tokenizer_config.json", settings)
    return tokenizer.get_vocab_size()


def build_transformer(
    folder: Path,
    *,
    dimensions: int = 32,
    layers: int = 2,
    max_tokens: int = 64,
    pooling: str = "mean",
    prompts: dict[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """A sentence-transformers folder: a seeded random BERT, a trained tokenizer, pooling, normalisation.

    Args:
        folder: written to; returned.
        dimensions: hidden size, a multiple of 4 (the attention heads).
        layers: transformer blocks.
        max_tokens: `max_seq_length`, special tokens included.
        pooling: "mean" or "cls".
        prompts: the model's own prompts, for instance `{"query": "query: "}`.
        seed: of the weights.
    """
    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    vocabulary = build_tokenizer(folder, max_tokens=max_tokens)
    settings = BertConfig(
        vocab_size=vocabulary,
        hidden_size=dimensions,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * dimensions,
        max_position_embeddings=max_tokens,
        # BERT's 0.02 leaves a random model's vectors almost parallel; this spreads texts out.
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(settings).save_pretrained(folder)
    _write_modules(folder, dimensions, max_tokens, pooling, prompts or {})
    return folder


def _write_modules(folder: Path, dimensions: int, max_tokens: int, pooling: str, prompts: dict[str, str]) -> None:
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dimensions, **modes})
    (folder / "2_Normalize").mkdir(exist_ok=True)
    _write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


def build_static(folder: Path, *, dimensions: int = 16, seed: int = 0) -> Path:
    """A static sentence-transformers folder: seeded random token vectors, averaged (the kind potion models are)."""
    import torch
    from safetensors.torch import save_file

    build_tokenizer(folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    weights = torch.randn(len(vocabulary), dimensions, generator=torch.Generator().manual_seed(seed))
    save_file({"embedding.weight": weights}, folder / "model.safetensors")
    kind = "sentence_transformers.models.StaticEmbedding"
    _write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
    _write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
    return folder


def spoil_weights(folder: Path, tensor: str = "encoder.layer.0.output.dense.bias") -> None:
    """Write NaN into one weight of a saved transformer, so that every vector it makes is NaN."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(path).items()}
    weights[tensor][0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def one_thread(folder: Path) -> Path:
    """Let torch compute on one thread from here on: for models this small, threads only wait for each other."""
    import torch

    torch.set_num_threads(1)
    return folder


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def random_texts(count: int, *, seed: int, longest: int = 60) -> list[str]:
    """`count` seeded texts of 1 to `longest` words of `TRAINING_TEXT`, of very different lengths."""
    import numpy as np

    generator = np.random.default_rng(seed)
    words = " ".join(TRAINING_TEXT[:-1]).split()
    sizes = generator.integers(1, longest + 1, count)
    return [" ".join(generator.choice(words, size)) for size in sizes]


# What transformers' chat templates look like; `generation` opens the turn that the model is to write.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT_TOKENS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def build_language_model(
    folder: Path, *, chat: bool = True, context: int = 256, dimensions: int = 32, layers: int = 2, seed: int = 0
) -> Path:
    """A causal language model folder: a seeded random Llama and a byte-level BPE that spells every text.

    Args:
        folder: written to; returned.
        chat: the tokenizer has a chat template.
        context: `max_position_embeddings`.
        dimensions: hidden size, a multiple of 4 (the attention heads).
        layers: transformer blocks.
        seed: of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings = LlamaConfig(
        vocab_size=_build_bpe(folder, chat=chat, context=context),
        hidden_size=dimensions,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * dimensions,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        # At the usual 0.02 every text would be continued by the same token for ever.
        initializer_range=0.4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


def train_to_recite(folder: Path, texts: Iterable[str], *, steps: int = 150, seed: int = 0) -> Path:
    """Train a model of `build_language_model` on a few texts until it says them by heart; seconds on one core."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    labels = torch.where(ids == tokenizer.pad_token_id, -100, ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
        for _ in range(steps):
            loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval().save_pretrained(folder)
    return folder


def _build_bpe(folder: Path, *, chat: bool, context: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *(CHAT_TOKENS if chat else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": context}
    template = {"chat_template": CHAT_TEMPLATE} if chat else {}
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names, **template})
    return tokenizer.get_vocab_size()
