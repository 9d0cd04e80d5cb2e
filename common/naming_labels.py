"""A model's reply -> a label that may stand in a table of contents, or the reason why it may not."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from common.console import one_line
from common.keyphrases import stems, stop_words

FEWEST_WORDS, MOST_WORDS, MOST_CHARS = 2, 5, 60
# Of a reply that is refused, which may be anything, so much is kept.
_SHOWN_CHARS = 80
# Letters of one word in scripts that put no spaces between words: from one to about six.
_UNSPACED_WORD = 6
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

# Words that fit every cluster of every corpus; a label of nothing else says nothing. Stems, lower case.
_GENERIC_WORDS = """
all another any area assorted category cluster collection common content corpora corpus data dataset detail
different discussion diverse document documentation entry etc everything example excerpt fragment general generic
group hodgepodge info information item label main material misc miscellaneous mix mixed mixture multiple name none
other overview paragraph passage piece random related sample section sentence several snippet stuff subject
subtopic text theme thing topic unknown unlabelled unlabeled unnamed unrelated unspecified untitled various varied
allgemein allgemeine beispiel dokument inhalt inhalte sonstige sonstiges texte thema themen verschiedene
verschiedenes autre contenu divers diverses général sujet textes thème contenido contenidos diverso general otro
tema texto vario contenuto conteúdo testo outro tópico
текст тексты разное разные другое другие тема темы общее содержание
"""
_GENERIC = frozenset(_GENERIC_WORDS.split())
# The same where words are not set apart: parts of a run.
_GENERIC_PARTS = re.compile(
    "文本|文档|内容|其他|其它|杂项|各种|主题|テキスト|その他|コンテンツ|トピック|内容|さまざまな|텍스트|기타|내용|주제"
)
_PREFIX = re.compile(
    r"^(?:the\s+)?(?:(?:cluster|group|topic|category|final|suggested|best)\s+)*(?:label|name|title|topic|answer)"
    r"(?:\s+is)?\s*[:：-]\s+",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_QUOTES = "\"'`“”„‟‘’‚‛«»‹›「」『』《》〈〉"
# What a label may hold beside letters, marks, digits and spaces.
_ALLOWED = frozenset("-‐‑–'’.,&/+#():·・")
# Joiners that Persian and the scripts of India write words with.
_JOINERS = frozenset("\u200c\u200d")


@dataclass(frozen=True)
class Verdict:
    """What became of a reply: `label` is None exactly when `problem` says why; `shown` is what was judged."""

    label: str | None
    problem: str | None
    shown: str


def judge(reply: str, *, cut: bool = False) -> Verdict:
    """Take the label out of a reply and judge it by itself; whether it repeats another is `clash`'s to say.

    Args:
        cut: the reply ended because its tokens were used up.
    """
    label, alone = _first_line(_THOUGHT.sub("", reply))
    label = bare(label)
    problem = "cut at naming.max_tokens" if cut and alone else problem_of(label)
    return Verdict(None if problem else label, problem, one_line(label, _SHOWN_CHARS))


def _first_line(reply: str) -> tuple[str, bool]:
    """The first line that is not an announcement ("Here is the label:"), and whether it is the last one too."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    said = [line for line in lines if not line.rstrip("*_").endswith((":", "："))]
    return (said[0] if said else ""), len(said) < 2


def bare(line: str) -> str:
    """A label without what models like to wrap it in: `**Label:** "Graph theory".` is `Graph theory`."""
    label = line.strip()
    for _ in range(3):
        label = re.sub(r"^(?:#{1,6}\s+|[-*•]\s+|\d{1,2}[.)]\s+)", "", label)
        label = label.strip("*_~ ")
        label = _PREFIX.sub("", label.replace("**", ""))
        label = _unquoted(label.strip().rstrip(".。!").strip())
    return label


def _unquoted(label: str) -> str:
    if len(label) > 1 and label[0] in _QUOTES and label[-1] in _QUOTES:
        return label[1:-1].strip()
    return label


def problem_of(label: str) -> str | None:
    """Why a label may not be used, in a few words; None when it may."""
    odd = [character for character in label if not _may_stand(character)]
    words = _words(label)
    if not words:
        return "no word in it"
    if len(label) > MOST_CHARS:
        return f"longer than {MOST_CHARS} characters"
    if odd:
        return f"holds {_name_of(odd[0])}"
    if not (label[0].isalnum() and _closed(label)):
        return "does not begin with a word" if not label[0].isalnum() else "holds an open parenthesis"
    if sum(_most_words(word) for word in words) < FEWEST_WORDS:
        return f"fewer than {FEWEST_WORDS} words"
    if sum(_fewest_words(word) for word in words) > MOST_WORDS:
        return f"more than {MOST_WORDS} words"
    return None if label_key(label) else "too general"


def _may_stand(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] in "LMN" or character == " " or character in _ALLOWED or character in _JOINERS


def _name_of(character: str) -> str:
    """A character for a message: itself when it can be seen, else its code."""
    return f"'{character}'" if character.isprintable() else f"the control character U+{ord(character):04X}"


def _closed(label: str) -> bool:
    return label.count("(") == label.count(")")


def _words(label: str) -> list[str]:
    return [word for word in re.split(r"[\s/]+", label) if any(character.isalnum() for character in word)]


def _unspaced(word: str) -> int:
    return sum(unicodedata.name(character, "").startswith(_UNSPACED_SCRIPTS) for character in word)


def _fewest_words(word: str) -> int:
    """Of a run without spaces: one, or as many as long words would make of it."""
    return max(1, -(-_unspaced(word) // _UNSPACED_WORD))


def _most_words(word: str) -> int:
    return max(1, _unspaced(word))


# --- labels that say the same --------------------------------------------------------------------------------


def label_key(label: str) -> frozenset[str]:
    """The stems of the words that say something: equal keys, equal labels. Empty for a label that fits everything."""
    plain = _GENERIC_PARTS.sub(" ", unicodedata.normalize("NFKC", label).casefold())
    found = stems(re.sub(r"[^\w\s'’+#\u200c\u200d]|_", " ", plain))
    telling = frozenset(stem for stem in found if stem not in _GENERIC and stem not in stop_words())
    # A number may tell two labels apart (wars, grades) but is no label: `Cluster 3`.
    return telling if any(not stem.isnumeric() for stem in telling) else frozenset()


def clash(label: str, taken: dict[frozenset[str], str], parent: str | None) -> str | None:
    """Why a label may not stand beside its siblings' or below its parent's; None when it may.

    Args:
        taken: the siblings' labels, by key.
    """
    key = label_key(label)
    if parent is not None and key == label_key(parent):
        return "repeats the name of the group above"
    return f"taken by a sibling group ({taken[key]})" if key in taken else None
