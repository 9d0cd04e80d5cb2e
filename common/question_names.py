"""Which question does a row of a file mean? Files name questions in their own ways: by id, or by the question itself.

Ids are matched as they are, words without case and punctuation (`common.quality.said`), and only where no other
question has the same ones. Rows are never matched by their place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.quality import said


@dataclass(frozen=True)
class QuestionNames:
    """Places of questions by id and by their own words; `links` are the words of further ids."""

    ids: Mapping[str, int]
    texts: Mapping[str, int]
    links: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Sequence[str], texts: Sequence[str], links: Mapping[str, str] | None = None) -> QuestionNames:
        """Of questions in order; one without a text of its own takes that of its link."""
        links = links or {}
        spoken = [said(text or links.get(name, "")) for name, text in zip(ids, texts, strict=True)]
        once = Counter(spoken)
        by_text = {text: place for place, text in enumerate(spoken) if text and once[text] == 1}
        return cls({name: place for place, name in enumerate(ids)}, by_text, links)

    def find(self, name: str, text: str = "") -> int | None:
        """The question's place, by its id, else by its words; None where it is none of these."""
        return self.ids[name] if name in self.ids else self.by_words(text or self.links.get(name, ""))

    def by_words(self, text: str) -> int | None:
        """The place of the question that says the same; None where none does, or several do."""
        return self.texts.get(said(text))
