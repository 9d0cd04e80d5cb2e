"""Names by a language model, breadth first: a level at a time, all clusters of a level in parallel.

A label is asked for, judged by itself and against its siblings, and asked for again with the clash shown, a bounded
number of times; then the keyword name stands in, and the reason is kept. So every cluster has a name whatever the
model says. What asks is a function (`Ask`): one that sends, or one that only looks into the cache (to tell what sending
would cost).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.cluster_tree import ClusterNode
from common.keyphrases import Keyphrase, distinct_names
from common.naming_labels import MOST_WORDS, clash, judge, label_key
from common.naming_prompts import Evidence, Prompt, Refused, make_prompt
from config import NamingConfig

Source = Literal["fixed", "keywords", "llm"]


@dataclass(frozen=True)
class Question:
    """A prompt for one cluster; `attempt` counts from 1."""

    cluster_id: str
    attempt: int
    prompt: Prompt


@dataclass(frozen=True)
class Reply:
    """What came back: a text (`cut` when its tokens ran out), or the reason why there is none."""

    text: str | None
    cut: bool = False
    failure: str = ""


Ask = Callable[[Sequence[Question]], Awaitable[Sequence[Reply]]]


@dataclass(frozen=True)
class Label:
    """The name of a cluster.

    Args:
        source: `llm`; `keywords`, when no reply was usable or none was asked for; `fixed` for the root.
        attempts: replies asked for.
        problem: why the keywords stand in; None for a name by the engine that was asked for.
        refused: the replies that were not accepted.
    """

    name: str
    source: Source
    attempts: int = 0
    problem: str | None = None
    refused: tuple[Refused, ...] = ()


@dataclass
class _Candidate:
    """A cluster while its label is sought."""

    evidence: Evidence
    parent: str | None
    refused: list[Refused] = field(default_factory=list)
    attempts: int = 0
    label: str | None = None
    failure: str = ""

    @property
    def problem(self) -> str:
        return self.failure or f"{self.refused[-1].problem}: {self.refused[-1].shown}"


async def name_levels(
    root: ClusterNode,
    evidence: Mapping[str, Evidence],
    keyphrases: Mapping[str, Sequence[Keyphrase]],
    settings: NamingConfig,
    ask: Ask,
) -> dict[str, Label]:
    """A label for every cluster below the root, by id.

    Args:
        evidence, keyphrases: of every cluster below the root.
        ask: answers questions, in their order; may raise to end the run.
    """
    labels: dict[str, Label] = {}
    level: Sequence[ClusterNode] = (root,)
    while level := [node for node in level if node.children]:
        families = [[_candidate(child, evidence, labels) for child in node.children] for node in level]
        for attempt in range(1, settings.attempts + 1):
            await _ask_once(families, attempt, settings, ask)
        for family in families:
            labels.update(_settled(family, keyphrases, settings.terms))
        level = [child for node in level for child in node.children]
    return labels


def _candidate(node: ClusterNode, evidence: Mapping[str, Evidence], labels: Mapping[str, Label]) -> _Candidate:
    above = labels.get(node.parent_id or "")
    return _Candidate(evidence[node.cluster_id], above.name if above else None)


async def _ask_once(families: Sequence[Sequence[_Candidate]], attempt: int, settings: NamingConfig, ask: Ask) -> None:
    """One question for every cluster that still needs a label; the first sibling to get a label keeps it."""
    waiting = [(each, family) for family in families for each in family if each.label is None and not each.failure]
    questions = [
        Question(
            each.evidence.cluster_id,
            attempt,
            make_prompt(each.evidence, each.parent, each.refused, settings.sample_tokens),
        )
        for each, _ in waiting
    ]
    replies = await ask(questions) if questions else []
    for (candidate, family), reply in zip(waiting, replies, strict=True):
        _take(candidate, family, reply)


def _take(candidate: _Candidate, family: Sequence[_Candidate], reply: Reply) -> None:
    candidate.attempts += 1
    if reply.text is None:
        candidate.failure = reply.failure
        return
    verdict = judge(reply.text, cut=reply.cut)
    taken = {label_key(each.label): each.label for each in family if each.label is not None}
    problem = verdict.problem or clash(verdict.label or "", taken, candidate.parent)
    if problem:
        candidate.refused.append(Refused(verdict.shown, problem))
    else:
        candidate.label = verdict.label


def _settled(
    family: Sequence[_Candidate], keyphrases: Mapping[str, Sequence[Keyphrase]], terms: int
) -> dict[str, Label]:
    """Every sibling's label; keyword names for those without, distinct from all others."""
    left = [each for each in family if each.label is None]
    names = distinct_names(
        [keyphrases[each.evidence.cluster_id] for each in left],
        terms,
        [f"cluster {each.evidence.cluster_id}" for each in left],
        max(MOST_WORDS, terms),
        taken=[each.label for each in family if each.label is not None],
    )
    stand_ins = dict(zip([each.evidence.cluster_id for each in left], names, strict=True))
    return {each.evidence.cluster_id: _label(each, stand_ins) for each in family}


def _label(candidate: _Candidate, stand_ins: Mapping[str, str]) -> Label:
    refused = tuple(candidate.refused)
    if candidate.label is not None:
        return Label(candidate.label, "llm", candidate.attempts, None, refused)
    name = stand_ins[candidate.evidence.cluster_id]
    return Label(name, "keywords", candidate.attempts, candidate.problem, refused)
