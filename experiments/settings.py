"""Settings of the experiments: the root's `Config` with a section for each study.

A config file in `configs/experiments/` builds an `ExperimentConfig`; the root's stages (documents, chunks, vectors) run
on it as they do on any `Config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from common.errors import ConfigError
from config import (
    ChunkingConfig,
    ColumnsText,
    Config,
    EmbeddingConfig,
    GenerationConfig,
    Reader,
    Section,
    SourceConfig,
    TextRule,
    setting,
)

if TYPE_CHECKING:
    from common.hypotheses import Draws

# --- verbatim recall -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecallModel(Section):
    """A model under its name in the results. Base models continue raw text: generation.format=text."""

    name: str = setting()
    generation: GenerationConfig = setting(GenerationConfig())


@dataclass(frozen=True)
class RecallConfig(Section):
    """Passages -> how much of each a model says verbatim, beside a control set and a null."""

    models: tuple[RecallModel, ...] = setting((), help="one, or two and more to be compared in pairs")
    known: SourceConfig | None = setting(None, help="passages that a model may know by heart")
    control: SourceConfig | None = setting(None, help="passages of the same kind that it should not know")
    unit: Literal["words", "tokens"] = setting("words", help="what prefixes and continuations are counted in")
    tokenizer: str = setting("", help="unit=tokens: tiktoken:NAME_OR_RANK_FILE, a hub id, a folder or tokenizer.json")
    prefix_lengths: tuple[int, ...] = setting((5, 10, 20))
    continuation: int = setting(10, ge=1, help="units that are compared after the prefix")
    measure: Literal["characters", "words", "exact_words"] = setting(
        "characters", help="what is tested; every measure is reported"
    )
    instruction: str = setting(
        "Continue this text word for word from where it stops. Answer with the continuation only.\n\n{prefix}",
        help="what a chat model is asked; {prefix} stands for the beginning",
    )
    without_shared: bool = setting(True, help="leave out controls that share 8 words in a row with a known passage")
    null_draws: int = setting(20, ge=1, help="other passages that every completion is scored against")
    permutations: int = setting(9_999, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- SFT and RL proximity ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswersOf(Section):
    """Answers of one model to a set of questions: a file, or rollouts (`rollout.py --export`, or their Parquet)."""

    role: Literal["base", "sft", "rl"] = setting()
    reader: Reader = setting()
    text: TextRule = setting(ColumnsText(columns=("completion",)))
    question: str = setting("sample_id", help="column that is equal for answers to one question; `a.b` for a table's")


@dataclass(frozen=True)
class SftRlConfig(Section):
    """Answers of base, SFT and RL models -> four questions about their distance from corpus and rollouts.

    How distances are measured (metric, pools of equal size, held-out texts) is set in `similarity`.
    """

    answers: tuple[AnswersOf, ...] = setting((), help="at most one set of each role; any two or three")
    rollout_stage: str = setting("rollouts", help="sources of this stage are the RL rollouts; all others the corpus")
    stratum: str | None = setting(None, help="column of the answers: a category, or a number cut into thirds")
    strata: Reader | None = setting(None, help="another file that has the stratum (difficulty.parquet), by question")
    strata_question: str = setting("question_id", help="its column that names the question, as the answers do")
    smallest_stratum: int = setting(20, ge=6, help="a stratum of fewer questions is not tested")
    shortest: int = setting(5, ge=1, help="words; a question with a shorter answer is left out")
    ngram: int = setting(5, ge=2, le=13, help="words of the n-grams whose novelty is measured")
    alpha: float = setting(0.05, gt=0.0, lt=0.5, help="share of a pool's held-out texts that are called outside of it")
    permutations: int = setting(9_999, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


# --- ablation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedEmbedding(Section):
    """An embedder under its name in the table."""

    name: str = setting()
    embedding: EmbeddingConfig = setting(EmbeddingConfig())


@dataclass(frozen=True)
class NamedChunking(Section):
    """A chunking under its name in the table."""

    name: str = setting()
    chunking: ChunkingConfig = setting(ChunkingConfig())


@dataclass(frozen=True)
class AblationConfig(Section):
    """Questions planted in a corpus -> how well each embedder and chunking finds them again, and at what cost."""

    questions: SourceConfig | None = setting(None, help="texts that are planted, and then searched for")
    embedders: tuple[NamedEmbedding, ...] = setting(())
    chunkings: tuple[NamedChunking, ...] = setting(())
    kinds: tuple[str, ...] = setting((), help="kinds of copies (common/planting.py); none means all of them")
    k: int = setting(10, ge=2, le=1000, help="neighbours searched for; the table has recall@1 and recall@k")
    permutations: int = setting(9_999, ge=99)
    confidence: float = setting(0.95, gt=0.5, lt=1.0)
    seed: int = setting(42, ge=0)


@dataclass(frozen=True)
class ExperimentConfig(Config):
    """The root's config and the experiments' sections."""

    recall: RecallConfig = setting(RecallConfig())
    sft_rl: SftRlConfig = setting(SftRlConfig())
    ablation: AblationConfig = setting(AblationConfig())


def section(config: Config, name: str) -> Any:
    """The experiments' section of that name.

    Raises:
        ConfigError: the config is one of the root's, without such sections.
    """
    if not isinstance(config, ExperimentConfig):
        raise ConfigError(
            f"this config has no section '{name}'; build an ExperimentConfig (experiments/settings.py), as those in "
            "configs/experiments/ do"
        )
    return getattr(config, name)


def draws_of(settings: RecallConfig | SftRlConfig | AblationConfig) -> Draws:
    """How often the tests of an experiment draw."""
    from common.hypotheses import Draws

    return Draws(permutations=settings.permutations, confidence=settings.confidence, seed=settings.seed)
