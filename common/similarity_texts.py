"""What is held against a corpus: every variant of every question, models' answers, and shuffled copies of them all.

The variants are `question`, `answer` (the worked solution), `final_answer` (the bare number), `question_answer`, and
`model_answer`. Answers are compared in their `plain` form by default: GSM8K's calculator marks (`<<48/2=24>>`) and the
sign before the last number (`####`, `A:`) are a notation, and where one side lacks it the distance would measure that.
What is counted verbatim is always the text as it is written.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.grading import grade
from common.hash_samples import sample_rows
from common.overlap import passage
from common.quality import raw_words

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from common.rollouts import Rollout
    from common.samples import GSM8KSample

AnswerForm = Literal["plain", "as_written"]
Shuffle = Literal["", "within", "among"]

MODEL_ANSWER = "model_answer"
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_LAST_MARK = re.compile(r"(?:####|\bA:)[ \t]*(?=[^\n]*\Z)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One text that is held against the corpus.

    Args:
        text: what is embedded.
        written: what verbatim overlap is counted on.
        correct: of a model's answer, whether it is right; None for other texts, and where nobody can tell.
        shuffle: "" for the text itself; else what its words were shuffled with.
    """

    sample_id: str
    variant: str
    text: str
    written: str
    model: str = ""
    correct: bool | None = None
    shuffle: str = ""

    @property
    def kind(self) -> tuple[str, str]:
        """Texts of one kind are analysed together: the variant, and whose answer it is."""
        return self.variant, self.model


@dataclass(frozen=True)
class Unused:
    """A question or an answer that has no entry, and why."""

    sample_id: str
    variant: str
    model: str
    reason: str


def parted(found: Iterable[Entry | Unused]) -> tuple[list[Entry], list[Unused]]:
    """Those that are texts, and those that are none."""
    entries: list[Entry] = []
    unused: list[Unused] = []
    for each in found:
        if isinstance(each, Entry):
            entries.append(each)
        else:
            unused.append(each)
    return entries, unused


# --- variants ------------------------------------------------------------------------------------------------


def plain_answer(text: str) -> str:
    """A worked solution without calculator marks, and without the sign before its last number."""
    return _LAST_MARK.sub("", _CALCULATOR.sub("", text.rstrip())).strip()


def entries_of(sample: GSM8KSample, variants: Sequence[str], form: AnswerForm) -> Iterator[Entry | Unused]:
    """The texts of one question, in the order of `variants`."""
    answer = plain_answer(sample.answer) if form == "plain" else sample.answer
    final = sample.final_answer or ""
    texts = {
        "question": (sample.question, sample.question),
        "answer": (answer, sample.answer),
        "final_answer": (final, final),
        "question_answer": (f"{sample.question}\n{answer}", f"{sample.question}\n{sample.answer}"),
    }
    for variant in variants:
        text, written = texts[variant]
        if text.strip():
            yield Entry(sample.id, variant, text, written)
        else:
            yield Unused(sample.id, variant, "", "it is empty")


def answer_entries(
    rollouts: Iterable[Rollout], samples: Sequence[GSM8KSample], form: AnswerForm
) -> Iterator[Entry | Unused]:
    """Models' answers as entries of the questions they answer: matched by `sample_id`, else by the question's words.

    An answer is right or wrong by the benchmark's rule against the benchmark's answer; an empty one is neither. Of
    several answers of one model to one question the first counts: the question is the unit.
    """
    by_id = {sample.id: sample for sample in samples}
    by_words = {_folded(sample.question): sample for sample in samples}
    seen: set[tuple[str, str]] = set()
    for rollout in rollouts:
        asked = rollout.messages[-1].content if rollout.messages else rollout.prompt or ""
        sample = by_id.get(str(rollout.metadata.get("sample_id"))) or by_words.get(_folded(asked))
        name = sample.id if sample else rollout.request_id
        reason = _unusable(rollout, sample, (name, rollout.model) in seen)
        if reason or sample is None or rollout.completion is None:
            yield Unused(name, MODEL_ANSWER, rollout.model, reason)
            continue
        seen.add((name, rollout.model))
        text = plain_answer(rollout.completion) if form == "plain" else rollout.completion
        right = grade(rollout.completion, sample.answer, "gsm8k")
        yield Entry(sample.id, MODEL_ANSWER, text, rollout.completion, rollout.model, right)


def _unusable(rollout: Rollout, sample: GSM8KSample | None, repeated: bool) -> str:
    if rollout.error is not None:
        return f"the call failed: {rollout.error.kind}"
    if sample is None:
        return "it answers none of the questions"
    if repeated:
        return "a further answer of the model to the question"
    return "" if plain_answer(rollout.completion or "") else "it is empty"


def _folded(text: str) -> str:
    return " ".join(raw_words(text.casefold()))


@dataclass(frozen=True)
class Agreement:
    """Our grades beside those that came with the answers."""

    model: str
    answers: int
    correct: int
    graded_before: int
    correct_before: int
    agree: int


def agreement(rollouts: Iterable[Rollout], entries: Iterable[Entry], samples: Sequence[GSM8KSample]) -> list[Agreement]:
    """How many of each model's answers are right by our rule, and by the verdicts (`is_correct`) they came with."""
    ours = {(entry.sample_id, entry.model): entry.correct for entry in entries if entry.variant == MODEL_ANSWER}
    named = {_folded(sample.question): sample.id for sample in samples}
    before: dict[str, list[tuple[bool | None, bool]]] = defaultdict(list)
    for rollout in rollouts:
        verdict = rollout.metadata.get("is_correct")
        asked = _folded(rollout.messages[-1].content) if rollout.messages else ""
        name = str(rollout.metadata.get("sample_id") or named.get(asked))
        if isinstance(verdict, bool) and (name, rollout.model) in ours:
            before[rollout.model].append((ours[name, rollout.model], verdict))
    return [
        Agreement(
            model,
            len(mine := [right for (_, whose), right in ours.items() if whose == model]),
            sum(right is True for right in mine),
            len(before[model]),
            sum(verdict for _, verdict in before[model]),
            sum(right is verdict for right, verdict in before[model]),
        )
        for model in dict.fromkeys(model for _, model in ours)
    ]


# --- controls ------------------------------------------------------------------------------------------------


def shuffled(entries: Sequence[Entry], how: Shuffle, seed: int) -> list[Entry]:
    """The entries with their words in another order: `within` a text, or dealt out `among` all texts of a kind.

    Every text keeps its number of words (split at white space). `within` keeps what a text is about and loses every
    phrase; `among` keeps only what texts of the kind have in common, and their lengths.
    """
    generator = np.random.default_rng(seed)
    by_kind: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        by_kind[entry.kind].append(number)
    found: dict[int, Entry] = {}
    for numbers in by_kind.values():
        words = [entries[number].text.split() for number in numbers]
        dealt = _dealt(words, generator) if how == "among" else [list(generator.permutation(each)) for each in words]
        for number, mine in zip(numbers, dealt, strict=True):
            text = " ".join(mine)
            found[number] = replace(entries[number], text=text, written=text, shuffle=how)
    return [found[number] for number in range(len(entries))]


def controls(entries: Sequence[Entry], questions: int, seed: int) -> list[Entry]:
    """Shuffled copies, of both kinds, of all texts of so many questions, chosen by a hash of their ids."""
    names = list(dict.fromkeys(entry.sample_id for entry in entries))
    chosen = {names[row] for row in sample_rows(seed, "shuffled", names, questions).tolist()}
    mine = [entry for entry in entries if entry.sample_id in chosen]
    return [*shuffled(mine, "within", seed), *shuffled(mine, "among", seed)] if mine else []


def _dealt(texts: Sequence[Sequence[str]], generator: np.random.Generator) -> list[list[str]]:
    words = np.array([word for text in texts for word in text], dtype=object)
    ends = np.cumsum([len(text) for text in texts])
    return [list(part) for part in np.split(generator.permutation(words), ends[:-1])]


def word_count(text: str) -> int:
    """Words as verbatim overlap counts them: runs of letters and digits."""
    return len(raw_words(text))


def first_words(text: str, count: int) -> str | None:
    """The text up to its `count`-th word, as it stands; None when it has fewer."""
    return passage(text, 0, count) if 0 < count <= word_count(text) else None


# --- held-out texts ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NullTexts:
    """Held-out texts of the corpus, cut to lengths of each class; `stage` is the number of each one's stage."""

    texts: list[str]
    stage: Int64[np.ndarray, " texts"]
    length_class: Int64[np.ndarray, " texts"]
    words: Int64[np.ndarray, " texts"]

    def of(self, kept: Bool[np.ndarray, " texts"]) -> NullTexts:
        """Those that are kept."""
        texts = [text for text, keep in zip(self.texts, kept.tolist(), strict=True) if keep]
        return NullTexts(texts, self.stage[kept], self.length_class[kept], self.words[kept])


def cut_to_lengths(
    by_stage: Sequence[Sequence[str]], words: Int64[np.ndarray, " texts"], edges: Int64[np.ndarray, " edges"], seed: int
) -> NullTexts:
    """The beginning of every held-out text, once for each class: as long as a text of the class, where it can be.

    Args:
        by_stage: held-out texts of each stage.
        words: lengths to be matched; those of a class are drawn from among its own.
        edges: see `common.similarity.length_edges`.
    """
    from common.similarity import length_class

    generator, classes = np.random.default_rng(seed), length_class(words, edges)
    found: list[tuple[str, int, int, int]] = []
    for stage, texts in enumerate(by_stage):
        for label in np.unique(classes).tolist():
            lengths = generator.choice(words[classes == label], len(texts)).tolist()
            cut = [(first_words(text, length), length) for text, length in zip(texts, lengths, strict=True)]
            found += [(text, stage, label, length) for text, length in cut if text]
    numbers = np.array([each[1:] for each in found], dtype=np.int64).reshape(-1, 3)
    return NullTexts([each[0] for each in found], numbers[:, 0], numbers[:, 1], numbers[:, 2])
