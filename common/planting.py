"""Copies of questions with known edits, to be planted in a corpus: ground truth for contamination scores.

Everything is done by rules, without a model: `verbatim`, `digits` (other numbers), `light` and `heavy` (edits as in a
paraphrase), `truncated`, `answer` (the answer alone). A paraphrase here is a mixture of what rewriters do: words for
words of like meaning, function words, units, numbers as words and back, order of clauses, dropped words, and words that
no table knows (drawn from other texts), which stand for all other rewording. Edits of code rename what it defines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.contamination_words import number_of, token_spans, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["verbatim", "digits", "light", "heavy", "truncated", "answer"]
KINDS: tuple[Kind, ...] = ("verbatim", "digits", "light", "heavy", "truncated", "answer")

# Words of like meaning, groups between bars; any of a group may stand for any other.
_GROUPS = """
big large great huge|small little tiny|begin start commence|end finish conclude complete|buy purchase acquire get
sell vend trade|make produce create prepare|give hand offer provide|take grab pick|eat consume devour|drink sip
want wish desire|need require|use utilize employ|help assist aid|show display present|tell inform notify|say state
ask inquire request|answer reply respond|think believe consider|know understand realize|find discover locate
look gaze glance|see notice observe|watch view|hear listen|speak talk|go travel head move|come arrive
leave depart exit|walk stroll march|run jog sprint|drive ride|carry bring transport|send ship deliver
receive obtain collect gather|keep retain hold|save store|spend pay use|earn gain make|lose misplace|win triumph
cost price|money cash funds|job task work|house home residence|car vehicle automobile|road street path
shop store market|friend companion pal|child kid youngster|children kids youngsters|man guy fellow|woman lady|boy lad
girl lass|people persons individuals|group team set|part portion piece share|whole entire complete|all every
each every|total overall combined sum|many numerous several|more additional extra|less fewer|most majority
remaining leftover rest|number amount quantity count|average mean|half fifty-percent|double twice|daily everyday
week seven-days|year annum|morning dawn|evening night|fast quick rapid|slow sluggish|happy glad pleased|sad unhappy
good fine nice|bad poor awful|new fresh recent|old aged|important key main major|different distinct various
same identical equal|right correct proper|wrong incorrect mistaken|increase raise grow rise|decrease reduce lower drop
add include append|remove delete eliminate|change alter modify|build construct assemble|break split divide
cut slice chop|mix blend combine|fill load|empty clear|open unlock|close shut|plan intend aim|decide choose opt
allow permit let|stop halt cease|continue proceed|try attempt|cause reason|result outcome effect
problem issue difficulty|idea notion concept|way method manner|place location spot|area region zone|city town
country nation|water liquid|food meals|book volume|paper sheet|letter note|picture image photo|size dimension
length extent|distance stretch|time period|speed pace rate|weight mass heaviness|height tallness|likely probable
possible feasible|often frequently regularly|always constantly|never not-ever|usually typically|also additionally too
however but yet|because since as|therefore thus hence|so therefore|if provided-that assuming|when once while
after following|before prior-to|during throughout|about regarding concerning|around approximately roughly
between among|within inside|only just merely|first initial|last final|next following subsequent|left remaining
contains includes holds|has possesses owns|have possess own|had possessed owned|bought purchased acquired|sold vended
made produced created|gave handed offered|took grabbed|ate consumed|went traveled headed|got received obtained
found discovered located|wants wishes desires|needs requires|uses utilizes|makes produces|gives offers|takes requires
eats consumes|buys purchases|sells vends|pays spends|earns gains|works labors|lives resides|runs jogs|plays performs
return yield|value item entry|list sequence array|function routine method|given supplied specified|check test verify
string text|input argument parameter|output result|element member item|determine calculate compute find
following below|which what|statement claim|describe explain characterize|best most-suitable|true correct|false untrue
explain clarify
"""
_UNITS = {
    "hours": "hrs", "hour": "hr", "minutes": "mins", "minute": "min", "seconds": "secs", "pounds": "lbs",
    "kilometers": "km", "meters": "m", "miles": "mi", "inches": "in", "feet": "ft", "kilograms": "kg", "grams": "g",
    "percent": "%", "dollars": "bucks", "liters": "l", "ounces": "oz", "gallons": "gal", "weeks": "wks", "years": "yrs",
}  # fmt: skip
_FUNCTION = {
    "the": ("this", "its", ""), "a": ("one", "the", ""), "an": ("one", "the", ""), "of": ("from", "in"),
    "in": ("within", "at"), "on": ("upon", "at"), "for": ("to", "towards"), "to": ("towards", "for"),
    "and": ("as well as", "plus"), "with": ("having", "using"), "that": ("which", ""), "is": ("was", "remains"),
    "are": ("were", "remain"), "he": ("this person", "they"), "she": ("this person", "they"), "his": ("their", "the"),
    "her": ("their", "the"), "they": ("these people", "all"), "by": ("via", "through"),
    "will": ("would", "is going to"),
    "at": ("in", "by"), "from": ("out of", "of"), "it": ("this", "that"), "be": ("become", "get"), "did": ("had", ""),
    "does": ("will", ""), "do": ("will", ""), "then": ("afterwards", ""), "there": ("here", ""), "per": ("each", "a"),
}  # fmt: skip
_PHRASES = (
    ("How many", "What is the number of"), ("how many", "what number of"), ("How much", "What amount of"),
    ("how much", "what amount of"), ("What is", "Find"), ("Which of the following", "Which one of these"),
    ("If ", "Suppose "), ("in total", "altogether"), ("a day", "every day"), ("each day", "daily"), ("Let ", "Set "),
    ("Calculate", "Work out"), ("Find ", "Determine "), ("n't ", " not "), ("What ", "Name what "),
)  # fmt: skip
_NAMES = [
    "Alba",
    "Bruno",
    "Carla",
    "Dario",
    "Edna",
    "Fabio",
    "Greta",
    "Hugo",
    "Irma",
    "Jonas",
    "Karla",
    "Lorenz",
    "Mirka",
    "Nils",
    "Olga",
    "Pavel",
    "Quentin",
    "Rosa",
]
_SPELT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z\"'(])")
_DOLLARS = re.compile(r"\$(\d[\d,.]*\d|\d)")
_DEFINED = re.compile(r"\b(?:def|class)\s+([A-Za-z_]\w*)|\b([A-Za-z_]\w*)\s*=[^=]|\bfor\s+([A-Za-z_]\w*)\s+in")


def _synonyms() -> Mapping[str, tuple[str, ...]]:
    table: dict[str, set[str]] = {}
    for group in _GROUPS.strip().replace("\n", "|").split("|"):
        words = [word.replace("-", " ") for word in group.split()]
        for word in words:
            table.setdefault(word, set()).update(other for other in words if other != word)
    return {word: tuple(sorted(others)) for word, others in table.items()}


SYNONYMS = _synonyms()


@dataclass(frozen=True)
class Rates:
    """How likely each word, phrase or sentence is to be edited, in [0, 1].

    Args:
        synonym, function, foreign, drop, insert: of each word; `foreign` puts a word of other texts in its place,
            `insert` one after it.
        phrase, unit, number: of each place where the rule applies.
        clause, merge: of each sentence, to swap its clauses and to be joined to the next.
        rename: of the whole text, to give its people other names.
    """

    synonym: float
    function: float
    foreign: float
    drop: float
    insert: float
    phrase: float
    unit: float
    number: float
    clause: float
    merge: float
    rename: float


LIGHT = Rates(0.3, 0.15, 0.08, 0.03, 0.02, 0.4, 0.2, 0.1, 0.15, 0.15, 0.05)
HEAVY = Rates(0.9, 0.6, 0.55, 0.15, 0.15, 0.8, 0.4, 0.2, 0.5, 0.3, 0.1)


@dataclass(frozen=True)
class Copyist:
    """Writes copies; the same seed and texts give the same copies.

    Args:
        foreign: words of other texts, for rewording that no table knows.
        generator: of all choices.
    """

    foreign: Sequence[str]
    generator: np.random.Generator

    def copy(self, question: str, kind: Kind, answer: str | None = None) -> str:
        """A copy of a question; of kind `answer`, its answer.

        Raises:
            ValueError: kind `answer` without an answer.
        """
        if kind == "answer":
            if not answer:
                raise ValueError("a copy of kind 'answer' needs the question's answer")
            return answer
        if kind == "verbatim":
            return question
        if kind == "digits":
            return self.other_digits(question)
        if kind == "truncated":
            return self.truncated(question)
        return self.reworded(question, self._between(kind))

    def _between(self, kind: Kind) -> Rates:
        """Light: from nothing to LIGHT; heavy: from LIGHT to HEAVY. Rewriters differ in how far they go."""
        low, high = (Rates(*[0.0] * 11), LIGHT) if kind == "light" else (LIGHT, HEAVY)
        share = self.generator.uniform(0.4, 1.0)
        pairs = zip(vars(low).values(), vars(high).values(), strict=True)
        return Rates(*[start + share * (end - start) for start, end in pairs])

    # --- the kinds ---------------------------------------------------------------------------------------

    def other_digits(self, text: str, share: float = 0.7) -> str:
        """Other numbers in place of some (at least one); number words become digits, as in GSM-Hard."""
        at = [span for span in token_spans(text) if number_of(text[slice(*span)]) is not None]
        chosen = [span for span in at if self.generator.random() < share] or at[:1]
        for start, end in reversed(chosen):
            size = 10 ** int(self.generator.integers(1, 8))
            text = f"{text[:start]}{int(self.generator.integers(size // 10 + 1, size + 1))}{text[end:]}"
        return text

    def truncated(self, text: str) -> str:
        """Between a third and three quarters of the words, from the start or to the end, at least five."""
        spans = token_spans(text)
        kept = max(min(5, len(spans)), int(len(spans) * self.generator.uniform(1 / 3, 3 / 4)))
        if not spans:
            return text
        if self.generator.random() < 0.5:
            return text[: spans[kept - 1][1]]
        return text[spans[len(spans) - kept][0] :]

    def reworded(self, text: str, rates: Rates) -> str:
        """Edits as in a paraphrase; code keeps its lines and has its own names changed."""
        if looks_like_code(text):
            return self._reworded_code(text, rates)
        text = self._phrases(text, rates)
        text = " ".join(self._sentences(_SENTENCE.split(text), rates))
        if self.generator.random() < rates.rename:
            text = self.renamed(text)
        return self._words(text, rates)

    def renamed(self, text: str) -> str:
        """Other names for its people: capitalised words that begin no sentence."""
        names = sorted(set(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+\b", text)))
        chosen = self.generator.permutation(_NAMES)
        for name, other in zip(names, chosen, strict=False):
            text = re.sub(rf"\b{name}\b", str(other), text)
        return text

    # --- rules -------------------------------------------------------------------------------------------

    def _phrases(self, text: str, rates: Rates) -> str:
        for before, after in _PHRASES:
            if before in text and self.generator.random() < rates.phrase:
                text = text.replace(before, after, 1)
        if self.generator.random() < rates.unit:
            text = _DOLLARS.sub(r"\1 dollars", text)
        return text

    def _sentences(self, sentences: Sequence[str], rates: Rates) -> list[str]:
        out: list[str] = []
        for sentence in sentences:
            first, comma, second = sentence.rstrip(".?!").partition(", ")
            if comma and self.generator.random() < rates.clause:
                sentence = f"{second[:1].upper()}{second[1:]}, {first[:1].lower()}{first[1:]}{sentence[-1]}"
            if out and self.generator.random() < rates.merge:
                out[-1] = f"{out[-1].rstrip('.')}, and {sentence[:1].lower()}{sentence[1:]}"
            else:
                out.append(sentence)
        return out

    def _words(self, text: str, rates: Rates) -> str:
        for start, end in reversed(token_spans(text)):
            word = text[start:end]
            other = self._other_word(word, rates)
            if self.foreign and self.generator.random() < rates.insert:
                other = f"{other} {self.foreign[int(self.generator.integers(len(self.foreign)))]}"
            if other != word:
                other = f"{other[:1].upper()}{other[1:]}" if word[0].isupper() else other
                text = f"{text[:start]}{other}{text[end:]}"
        return text

    def _other_word(self, word: str, rates: Rates) -> str:
        folded, dice = word.casefold(), self.generator.random(5)
        number = number_of(word)
        if number is not None:
            return self._other_number(word, number) if dice[0] < rates.number else word
        if folded in _UNITS and dice[0] < rates.unit:
            return _UNITS[folded]
        if folded in SYNONYMS and dice[1] < rates.synonym:
            return str(self.generator.choice(SYNONYMS[folded]))
        if folded in _FUNCTION and dice[2] < rates.function:
            return str(self.generator.choice(_FUNCTION[folded]))
        # Names are kept: a rewriter has no other word for them.
        if len(word) > 3 and word.islower() and dice[3] < rates.foreign and self.foreign:
            return self.foreign[int(self.generator.integers(len(self.foreign)))]
        return "" if word.islower() and dice[4] < rates.drop else word

    def _other_number(self, word: str, number: str) -> str:
        if word[0].isdigit():
            return _SPELT[int(number)] if number.isdigit() and int(number) < len(_SPELT) else word
        return number

    def _reworded_code(self, text: str, rates: Rates) -> str:
        names = sorted({name for match in _DEFINED.findall(text) for name in match if len(name) > 1})
        for name in names:
            if self.generator.random() < rates.synonym:
                text = re.sub(rf"\b{re.escape(name)}\b", self._identifier(name), text)
        pieces = re.split(r'("""[\s\S]*?"""|#[^\n]*)', text)
        return "".join(self._words(piece, rates) if number % 2 else piece for number, piece in enumerate(pieces))

    def _identifier(self, name: str) -> str:
        """Each part's synonym, or another word altogether."""
        parts = [str(self.generator.choice(SYNONYMS.get(part, (part,)))) for part in name.split("_")]
        other = "_".join(parts).replace(" ", "_")
        if other == name and self.foreign:
            return f"{self.foreign[int(self.generator.integers(len(self.foreign)))]}_{name[:1]}"
        return other


def looks_like_code(text: str) -> bool:
    """Whether a text defines a function or a class at the start of a line."""
    return re.search(r"^\s*(def|class)\s+\w+.*:", text, re.MULTILINE) is not None


# --- planting ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A corpus with copies in it.

    Args:
        documents: the corpus, copies among them.
        kind: for each question how it was copied, or None where it was not.
        document: for each question the row of its copy, or -1.
    """

    documents: list[str]
    kind: list[Kind | None]
    document: np.ndarray


def plant(
    questions: Sequence[str],
    documents: Sequence[str],
    kinds: Sequence[Kind | None],
    *,
    answers: Sequence[str] | None = None,
    setting: Callable[[str, np.random.Generator], str] | None = None,
    seed: int = 42,
) -> Planted:
    """Put a copy of every question that has a kind at a random place of the corpus.

    Args:
        answers: for copies of kind `answer`.
        setting: puts a copy into its surroundings (a prompt, a page).

    Raises:
        ValueError: lengths differ.
    """
    if len(kinds) != len(questions) or (answers is not None and len(answers) != len(questions)):
        raise ValueError(f"{len(questions)} questions, but {len(kinds)} kinds")
    generator = np.random.default_rng(seed)
    copyist = Copyist(foreign_words(documents), generator)
    copies, owners = [], []
    for number, kind in enumerate(kinds):
        if kind is not None:
            text = copyist.copy(questions[number], kind, answers[number] if answers is not None else None)
            copies.append(setting(text, generator) if setting else text)
            owners.append(number)
    order = generator.permutation(len(documents) + len(copies))
    rows = np.empty(len(order), dtype=np.int64)
    rows[order] = np.arange(len(order))
    mixed = [*documents, *copies]
    document = np.full(len(questions), -1, dtype=np.int64)
    document[owners] = rows[len(documents) :]
    return Planted([mixed[at] for at in order], list(kinds), document)


def foreign_words(documents: Sequence[str], most: int = 4_000) -> list[str]:
    """Plain lower-case words of the first documents, each once: neither rare nor common ones stand out."""
    found = dict.fromkeys(
        word for text in documents[:2_000] for word in tokens(text) if word.islower() and len(word) > 3
    )
    return list(found)[:most]


def in_surroundings(documents: Sequence[str]) -> Callable[[str, np.random.Generator], str]:
    """A setting: the copy as it is, as an exercise with headings, or between the sentences of a page."""

    def place(copy: str, generator: np.random.Generator) -> str:
        choice = generator.random()
        if choice < 0.5:
            return copy
        if choice < 0.75:
            return f"Question: {copy}\nAnswer:"
        page = documents[int(generator.integers(len(documents)))]
        sentences = _SENTENCE.split(page)
        at = int(generator.integers(len(sentences) + 1))
        return " ".join([*sentences[:at], copy, *sentences[at:]])

    return place
