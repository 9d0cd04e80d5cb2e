"""Which words set a group of texts apart: contrastive c-TF-IDF, on one sparse count matrix.

A *class* is a group of texts, here a cluster; its rivals are its siblings. Following class-based TF-IDF (Grootendorst,
"BERTopic", arXiv 2203.05794), a class is one long text; two changes make it contrastive. A text counts once for each
term, so one long list of the same word does not name a cluster. And the weight is multiplied by *exclusivity*, the
share of the term's mass among the rivals that this class holds (after FREX, Bischof and Airoldi, ICML 2012): what all
siblings share names none of them, however rare it is elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from scipy.sparse import csr_matrix

# A word begins with a letter; digits, underscores, apostrophes and hyphens may follow.
_WORD = r"\b[^\W\d_][\w'’-]*\w\b"
# A word, or a character that is neither in a word nor white space: where a phrase ends.
_TOKEN = re.compile(rf"{_WORD}|\S")
# How scholarly prose cites, in every subject.
_CITATIONS = "al cf ch doi ed eds eg et etc fig figs ibid ie isbn issn op pp pub viz vol vs"
_CITATION_WORDS = frozenset(_CITATIONS.split())
# Longer ones are hashes, encoded data, or runs of a script that does not put spaces between words.
_LONGEST_WORD = 30
# A word in more than this share of all texts says nothing about any of them, in any language.
_COMMON_SHARE = 0.5
# Nor does one that this share of the texts has in more than half of the classes.
_GENERIC_SHARE = 0.1
# A phrase that holds more than this of its word's texts, and of its score, replaces the word.
_PHRASE_SHARE = 0.6
# Words of one family share a beginning of so many letters, and of so much of the longer one.
_FAMILY_LETTERS, _FAMILY_SHARE = 5, 0.6
# A term of fewer of its class's texts than this share loses weight: of a class without a theme, words that two texts
# have and no rival has would else be its best.
_SUPPORT = 0.05
# Shares mean nothing in so few texts.
_FEW_TEXTS = 50


@dataclass(frozen=True)
class TermCounts:
    """`presence[text, term]` is 1 where a text contains a term; terms are single words or n-grams."""

    terms: tuple[str, ...]
    presence: csr_matrix

    def __post_init__(self) -> None:
        check_shape("presence", self.presence, "texts terms", {"terms": len(self.terms)})


@dataclass(frozen=True)
class Keyphrase:
    """A term and its weight within its class; weights of different classes are not comparable."""

    phrase: str
    score: float


def count_terms(texts: Sequence[str], max_ngram: int) -> TermCounts:
    """Words and n-grams of up to `max_ngram` words of all texts, lower case.

    An n-gram stands so in the text: nothing but white space is between its words. Left out: n-grams that begin or end
    with a stop word (scikit-learn's English list, abbreviations of citations, words of more than half of the texts) or
    a symbol such as `x2`; terms of a single text (where there are at least 50 texts); words of more than 30 letters.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    few = len(texts) < _FEW_TEXTS
    counter = CountVectorizer(
        analyzer=lambda text: ngrams(text.lower(), max_ngram),
        min_df=1 if few else 2,
        binary=True,
        dtype=np.int32,
    )
    try:
        presence = counter.fit_transform(texts)
    except ValueError:  # an empty vocabulary: no text has a word
        return TermCounts((), csr_matrix((len(texts), 0), dtype=np.int32))
    terms = counter.get_feature_names_out()
    shares = np.bincount(presence.indices, minlength=len(terms)) / len(texts)
    common = set() if few else {term for term, share in zip(terms, shares, strict=True) if share > _COMMON_SHARE}
    kept = np.flatnonzero([_may_be_a_keyphrase(term, common) for term in terms])
    return TermCounts(tuple(terms[kept]), presence[:, kept].tocsr())


def ngrams(text: str, longest: int) -> list[str]:
    """Runs of 1 to `longest` words with nothing but white space between, that begin and end with a telling word."""
    found: list[str] = []
    run: list[str] = []
    for token in _TOKEN.findall(text):
        if not token[0].isalpha() or len(token) < 2:
            run = []
            continue
        run.append(token)
        if _says_nothing(token):
            continue
        for size in range(1, min(longest, len(run)) + 1):
            if not _says_nothing(run[-size]):
                found.append(" ".join(run[-size:]))
    return found


def _may_be_a_keyphrase(term: str, common: set[str]) -> bool:
    words = term.split(" ")
    edges_say_something = words[0] not in common and words[-1] not in common
    return edges_say_something and all(len(word) <= _LONGEST_WORD for word in words) and len(set(words)) == len(words)


@lru_cache(maxsize=100_000)
def _says_nothing(word: str) -> bool:
    # `x2`, `n_1`: one letter with an index is a symbol of a formula.
    return _is_stop_word(word) or sum(character.isalpha() for character in word) < 2


def generic_words(counts: TermCounts, classes: Sequence[Int[np.ndarray, " texts"]]) -> set[str]:
    """Words that at least a tenth of the texts has in more than half of the classes: filler, whatever the language.

    Unlike a limit on their share of all texts, this spares the words of a topic that is half of the corpus.
    """
    if len(classes) < 2 or not counts.terms:
        return set()
    texts = np.bincount(counts.presence.indices, minlength=len(counts.terms))
    # A tenth of the smaller half of the classes is the least that such a word can be in; few words are.
    often = np.flatnonzero(texts >= _GENERIC_SHARE * sum(sorted(len(each) for each in classes)[: len(classes) // 2]))
    sizes = np.array([len(each) for each in classes])
    shares = class_counts(counts.presence[:, often].tocsr(), classes) / np.maximum(sizes, 1)[:, None]
    widespread = (shares >= _GENERIC_SHARE).mean(axis=0) > 0.5
    return {counts.terms[term] for term in often[widespread] if " " not in counts.terms[term]}


def without_words(counts: TermCounts, words: set[str]) -> TermCounts:
    """The counts without the terms that begin or end with one of `words`."""
    edges = [(term.split(" ")[0], term.split(" ")[-1]) for term in counts.terms]
    kept = np.flatnonzero([first not in words and last not in words for first, last in edges])
    return TermCounts(tuple(counts.terms[term] for term in kept), counts.presence[:, kept].tocsr())


def spread(counts: TermCounts, rows: Int[np.ndarray, " texts"], total: int) -> TermCounts:
    """Counts of some texts as counts of all: text i is row `rows[i]` (increasing) of `total`, the others are empty."""
    from scipy.sparse import csr_matrix

    lengths = np.zeros(total, dtype=np.int64)
    lengths[rows] = np.diff(counts.presence.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    whole = csr_matrix((counts.presence.data, counts.presence.indices, indptr), shape=(total, len(counts.terms)))
    return TermCounts(counts.terms, whole)


@lru_cache(maxsize=1)
def stop_words() -> frozenset[str]:
    """scikit-learn's English stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS


def _is_stop_word(word: str) -> bool:
    # "don't" and "it's" are stop words by what stands before the apostrophe.
    bare = re.split(r"['’]", word)[0]
    return bool({word, bare} & (stop_words() | _CITATION_WORDS)) or bare in {"don", "doesn", "isn", "won", "didn"}


# --- scores --------------------------------------------------------------------------------------------------


def class_counts(
    presence: csr_matrix, members: Sequence[Int[np.ndarray, " texts"]]
) -> Float[np.ndarray, "classes terms"]:
    """In how many of each class's texts every term occurs; one sparse product, classes may overlap."""
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(len(members)), [len(texts) for texts in members])
    columns = np.concatenate([np.asarray(texts, dtype=np.int64) for texts in members])
    belongs = csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(members), presence.shape[0]))
    return np.asarray((belongs @ presence).todense(), dtype=np.float64)


def class_tf_idf(
    counts: Float[np.ndarray, "classes terms"], background: Float[np.ndarray, " terms"]
) -> Float[np.ndarray, "classes terms"]:
    """Contrastive c-TF-IDF of rival classes before a background.

    With r[c, t] the class's counts scaled to sum 1, and b[t] those of the background likewise:

        score[c, t] = r[c, t] * log(1 + 1 / f[t]) * r[c, t] / sum_s r[s, t]
        f[t] = mean of r[s, t] over the rivals s, and b[t], whichever is larger

    The first two factors are class-based TF-IDF with classes of equal mass; the third is exclusivity.

    Args:
        counts: the rivals' counts, at least one class; a class without counts scores 0 everywhere.
        background: counts over the whole corpus.
    """
    dims = check_shape("counts", counts, "classes terms")
    check_shape("background", background, "terms", dims)
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    frequency = np.maximum(rates.mean(axis=0), background / max(background.sum(), 1))
    rarity = np.log1p(1 / np.where(frequency > 0, frequency, 1))
    exclusivity = rates / np.maximum(rates.sum(axis=0), 1e-300)
    return rates * rarity * exclusivity


def supported(
    scores: Float[np.ndarray, "classes terms"], counts: Float[np.ndarray, "classes terms"], sizes: Sequence[int]
) -> Float[np.ndarray, "classes terms"]:
    """Scores times the share of a class's texts that have the term, in units of a twentieth and at most 1.

    Args:
        counts: in how many texts of each class every term occurs.
        sizes: how many texts each class has.
    """
    check_shape(
        "counts", counts, "classes terms", check_shape("scores", scores, "classes terms", {"classes": len(sizes)})
    )
    needed = _SUPPORT * np.maximum(np.asarray(sizes, dtype=np.float64), 1)[:, None]
    return scores * np.minimum(1.0, counts / needed)


# --- choosing ------------------------------------------------------------------------------------------------


# English plurals that no ending tells, each before its singular.
_IRREGULAR_TEXT = """
matrices matrix vertices vertex indices index appendices appendix analyses analysis hypotheses hypothesis theses thesis
crises crisis parentheses parenthesis diagnoses diagnosis axes axis criteria criterion phenomena phenomenon
bacteria bacterium children child men man women woman feet foot teeth tooth mice mouse lives life leaves leaf
wives wife knives knife halves half wolves wolf nuclei nucleus fungi fungus stimuli stimulus radii radius
genera genus loci locus
"""
_IRREGULAR = _IRREGULAR_TEXT.split()
_SINGULAR: dict[str, str] = dict(zip(_IRREGULAR[::2], _IRREGULAR[1::2], strict=True))


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """A word without its English plural or `'s`: enough to see that `arrays` repeats `array`."""
    word = re.sub(r"['’]s?$", "", word)
    if word in _SINGULAR:
        return _SINGULAR[word]
    for ending, instead, shortest in (
        ("ies", "y", 5),
        ("sses", "ss", 5),
        ("xes", "x", 4),
        ("ches", "ch", 5),
        ("shes", "sh", 5),
    ):
        if word.endswith(ending) and len(word) >= shortest:
            return word.removesuffix(ending) + instead
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word.removesuffix("s")
    return word


def stems(phrase: str) -> frozenset[str]:
    """The stems of a phrase's words, also of the parts of `snake_case` and hyphenated ones; lower case."""
    return frozenset(stem(part) for part in re.split(r"[\s_-]+", phrase.lower()) if part)


def choose(
    terms: Sequence[str],
    scores: Float[np.ndarray, " terms"],
    counts: Float[np.ndarray, " terms"],
    limit: int,
) -> list[Keyphrase]:
    """The best terms of one class, none repeating another's words or word families, best first; ties go to the first.

    A phrase takes the place of its word when most texts of the class that have the word have the phrase, and the
    phrase scores nearly as well: of `gradient` (100 texts) and `gradient descent` (80), the second says more.
    """
    order = np.argsort(-scores, kind="stable")[: 40 * limit]
    order = order[scores[order] > 0].tolist()
    chosen: list[Keyphrase] = []
    used: set[str] = set()
    for term in order:
        if _repeats(terms[term], used):
            continue
        longer = [
            other
            for other in order
            if counts[other] > _PHRASE_SHARE * counts[term]
            and scores[other] > _PHRASE_SHARE * scores[term]
            and set(terms[term].split(" ")) < set(terms[other].split(" "))
            and not _repeats(terms[other], used)
        ]
        best = max(longer, key=lambda other: scores[other], default=term)
        chosen.append(Keyphrase(terms[best], float(scores[term])))
        used |= stems(terms[best])
        if len(chosen) == limit:
            break
    return chosen


def as_written(phrases: Collection[str], texts: Iterable[str]) -> dict[str, str]:
    """Each phrase as most of the texts write it: `dna` is `DNA`, `new york` is `New York`; ties are lower case.

    Args:
        phrases: lower case.
    """
    forms: dict[str, Counter[str]] = {phrase: Counter() for phrase in phrases}
    sizes: dict[str, set[int]] = {}
    for phrase in phrases:
        words = phrase.split(" ")
        sizes.setdefault(words[0], set()).add(len(words))
    for text in texts:
        tokens = _TOKEN.findall(text)
        for start, token in enumerate(tokens):
            for size in sizes.get(token.lower(), ()):
                written = " ".join(tokens[start : start + size])
                if written.lower() in forms:
                    forms[written.lower()][written] += 1
    return {phrase: _usual(phrase, found) for phrase, found in forms.items()}


def _usual(phrase: str, forms: Counter[str]) -> str:
    if not forms:
        return phrase
    form, count = min(forms.items(), key=lambda item: (-item[1], item[0]))
    return form if 2 * count > forms.total() else phrase


def _repeats(term: str, used: set[str]) -> bool:
    return any(same_family(stem, other) for stem in stems(term) for other in used)


@lru_cache(maxsize=100_000)
def same_family(word: str, other: str) -> bool:
    """Whether two stems are the same, or share a beginning of 5 letters or more, three fifths of the longer one.

    So `philosophy` and `philosophical`, `bacterium` and `bacterial`; not `state` and `statement`.
    """
    if word == other:
        return True
    shared = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))
    return shared >= _FAMILY_LETTERS and shared >= _FAMILY_SHARE * max(len(word), len(other))


# --- names ---------------------------------------------------------------------------------------------------


def distinct_names(
    keyphrases: Sequence[Sequence[Keyphrase]],
    terms: int,
    fallbacks: Sequence[str],
    longest: int = 5,
    taken: Iterable[str] = (),
) -> list[str]:
    """A name for each sibling, of its best keyphrases: at least 2 and at most `longest` words, no two alike.

    Args:
        keyphrases: best first, for each sibling.
        terms: keyphrases in a name, as far as they fit.
        fallbacks: what to call each sibling for which keyphrases do not suffice; two words or more, distinct.
        taken: names of other siblings, which none may repeat.
    """
    used = {stems(_bare(name)) for name in taken}
    names = []
    for phrases, fallback in zip(keyphrases, fallbacks, strict=True):
        words = [item.phrase for item in phrases]
        name = next((each for each in _candidates(words, terms, longest) if stems(_bare(each)) not in used), None)
        if name is None:
            name = ", ".join(_fitting([fallback, *words], 2, longest)[::-1])
        used.add(stems(_bare(name)))
        names.append(name)
    return names


def _bare(name: str) -> str:
    return name.replace(",", " ")


def _candidates(phrases: Sequence[str], terms: int, longest: int) -> Iterable[str]:
    """Names to try in turn: the best phrases; then with each later phrase in place of the last."""
    first = _fitting(phrases, terms, longest)
    yield from _long_enough(first)
    for later in phrases[len(first) :]:
        yield from _long_enough(_fitting([*first[:-1], later], terms, longest))


def _fitting(phrases: Sequence[str], terms: int, longest: int) -> list[str]:
    """The first phrases that together have at most `longest` words; one that does not fit is passed over."""
    picked: list[str] = []
    for phrase in phrases:
        words = sum(len(each.split(" ")) for each in [*picked, phrase])
        if len(picked) < terms and words <= longest:
            picked.append(phrase)
    return picked


def _long_enough(phrases: Sequence[str]) -> Iterable[str]:
    if sum(len(phrase.split(" ")) for phrase in phrases) >= 2:
        yield ", ".join(phrases)
