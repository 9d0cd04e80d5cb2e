"""SFT and RL proximity: models whose answers were made from the corpus, or from rollouts, are seen to be so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.cli import run_script
from common.errors import ConfigError, UserError
from common.quality import raw_words
from common.stages import Session
from config import EmbeddingConfig, FilesReader, PrepareConfig, SimilarityConfig, SourceConfig
from embed_chunks import CHUNKS, VECTORS
from experiments.settings import AnswersOf, ExperimentConfig, SftRlConfig
from experiments.sft_rl_proximity import SFT_RL, arguments, at_equal_length, present, read_answers
from prepare_data import DOCUMENTS

STAGES = (DOCUMENTS, CHUNKS, VECTORS, SFT_RL)
QUESTIONS = 40


def vocabulary(name: str, words: int = 120) -> list[str]:
    return [f"{name}{number}" for number in range(words)]


def texts(words: list[str], count: int, length: int, seed: int) -> list[str]:
    """Texts of one vocabulary, drawn with unequal chances, so that some are near to each other."""
    generator = np.random.default_rng(seed)
    chances = 1 / np.arange(1, len(words) + 1)
    return [" ".join(row) for row in generator.choice(words, (count, length), p=chances / chances.sum())]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


CORPUS, OWN, OTHER = vocabulary("corpus"), vocabulary("rollout"), vocabulary("other")


def answer_texts(role: str, count: int = QUESTIONS) -> list[str]:
    """Base: words of its own; SFT: half of the corpus's; RL: half of its rollouts'."""
    half = {"base": OTHER, "sft": CORPUS, "rl": OWN}[role]
    first, second = texts(half, count, 12, seed=len(role)), texts(OTHER, count, 12, seed=9 + len(role))
    return [f"{one} {other}" for one, other in zip(first, second, strict=True)]


def source(folder: Path, name: str, words: list[str], stage: str, count: int = 150) -> SourceConfig:
    path = write(folder / f"{name}.jsonl", [{"text": text} for text in texts(words, count, 30, seed=3)])
    return SourceConfig(name=name, reader=FilesReader(paths=(path,)), stage=stage)


def answers(folder: Path, role: Any, written: Sequence[str], **more: list) -> AnswersOf:
    rows = [
        {"sample_id": f"q{n}", "completion": text, **{name: values[n] for name, values in more.items()}}
        for n, text in enumerate(written)
    ]
    return AnswersOf(role=role, reader=FilesReader(paths=(write(folder / f"{role}-answers.jsonl", rows),)))


def make_config(folder: Path, sets: tuple[AnswersOf, ...], *, rollouts: bool = True, **settings) -> ExperimentConfig:
    both = CORPUS + OTHER[:60]
    sources = [source(folder, "pages", both, "pretrain")]
    if rollouts:
        sources.append(source(folder, "own", OWN + OTHER[:60], "rollouts"))
    return ExperimentConfig(
        name="test",
        prepare=PrepareConfig(sources=tuple(sources)),
        embedding=EmbeddingConfig(engine="lsa", dimensions=24),
        similarity=SimilarityConfig(pools=3, null_texts=30, length_classes=1),
        sft_rl=replace(SftRlConfig(answers=sets, permutations=999), **settings),
        data_dir=str(folder / "data"),
    )


def summary_of(config: ExperimentConfig) -> dict:
    session = Session(config)
    for stage in STAGES:
        artifact = session.run(stage)
    return artifact.json("summary.json")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    folder = tmp_path_factory.mktemp("sft_rl")
    kind = ["easy" if n % 2 else "hard" for n in range(QUESTIONS)]
    sets = tuple(answers(folder, role, answer_texts(role), kind=kind) for role in ("base", "sft", "rl"))
    return make_config(folder, sets, stratum="kind", smallest_stratum=10)


@pytest.fixture(scope="module")
def summary(config) -> dict:
    return summary_of(config)


def test_the_four_questions_have_the_answers_that_were_built_in(summary):
    found = {each["question"]: each["answer"] for each in summary["verdicts"]}
    assert found == {
        "Is SFT closer to the corpus than base?": "yes",
        "Is RL farther from the corpus than SFT?": "yes",
        "Is RL close to its own rollouts?": "yes",
        "... beyond being closer to the corpus?": "yes",
        "Does RL use more new n-grams?": "undecided",
        "Are more answers of RL outside of every pool?": "undecided",
    }


def test_pools_are_of_one_size_and_rollouts_are_known_as_such(summary):
    pools = summary["pools"]
    assert pools["pretrain"]["pool"] == pools["rollouts"]["pool"] == 120
    assert [pools[name]["rollouts"] for name in pools] == [False, True]
    assert all(pool["held_out_texts"] >= 20 for pool in pools.values())


def test_strata_are_tested_within_and_against_each_other(summary):
    labels = {test["label"] for test in summary["strata"]}
    assert labels == {"easy", "hard"}
    assert all(test["p_holm"] <= 0.05 for test in summary["strata"])
    # Strata were dealt out at random: the differences are the same in both.
    assert all(spread["strata"] == 2 and spread["p"] > 0.05 for spread in summary["heterogeneity"])


def test_tables_hold_every_answer(config, summary):
    artifact = Session(config).load(SFT_RL)
    rows = artifact.table("distances.parquet").to_pylist()
    assert len(rows) == 3 * QUESTIONS * 2 * 2
    near = {
        (row["role"], row["pool"]): row["distance"]
        for row in rows
        if row["question"] == "q0" and row["form"] == "equal length"
    }
    assert near["sft", "pretrain"] < near["base", "pretrain"] and near["rl", "rollouts"] < near["sft", "rollouts"]
    assert artifact.path("sft_rl.png").read_bytes().startswith(b"\x89PNG")


def on_topics(count: int, length: int, seed: int) -> list[str]:
    """Texts of eight topics in turn, half of their words common to all."""
    generator = np.random.default_rng(seed)
    topics = [vocabulary(f"topic{number}x", 30) for number in range(8)]
    return [
        " ".join(generator.permutation([*generator.choice(topics[n % 8], length), *generator.choice(OTHER, length)]))
        for n in range(count)
    ]


def test_longer_answers_are_nearer_only_until_they_are_cut(tmp_path):
    """Both models write alike; one of them writes more."""
    sets = (
        answers(tmp_path, "sft", on_topics(QUESTIONS, 4, seed=1)),
        answers(tmp_path, "rl", on_topics(QUESTIONS, 40, seed=2)),
    )
    path = write(tmp_path / "topics.jsonl", [{"text": text} for text in on_topics(400, 30, seed=3)])
    pages = SourceConfig(name="topics", reader=FilesReader(paths=(path,)))
    config = make_config(tmp_path, sets, rollouts=False)
    found = summary_of(replace(config, prepare=PrepareConfig(sources=(pages,))))
    tests = {test["label"]: test for test in found["tests"] if test["family"].startswith("2.")}
    assert tests["pretrain, whole"]["comparison"]["raw"]["value"] < -0.02
    assert tests["pretrain, whole"]["p_holm"] <= 0.01
    assert tests["pretrain, equal length"]["p_holm"] > 0.05
    verdicts = {each["question"]: each["answer"] for each in found["verdicts"]}
    assert verdicts["Is RL farther from the corpus than SFT?"] == "undecided"
    assert verdicts["Is RL close to its own rollouts?"] == "not tested"
    assert verdicts["Is SFT closer to the corpus than base?"] == "not tested"


def test_new_ngrams_are_seen(tmp_path):
    """SFT copies sentences of the corpus, RL shuffles their words: the same words, no five of them in a row."""
    generator = np.random.default_rng(0)
    copied = texts(CORPUS + OTHER[:60], 150, 30, seed=3)[:QUESTIONS]
    mixed = [" ".join(generator.permutation(text.split())) for text in copied]
    sets = (answers(tmp_path, "sft", copied), answers(tmp_path, "rl", mixed))
    found = summary_of(make_config(tmp_path, sets, rollouts=False))
    verdicts = {each["question"]: each["answer"] for each in found["verdicts"]}
    assert verdicts["Does RL use more new n-grams?"] == "yes"
    shares = {row["role"]: row["novelty"] for row in found["levels"]}
    assert shares["sft"] == 0.0 and shares["rl"] > 0.9


def test_answers_are_matched_by_question_and_what_is_left_out_has_its_reason(tmp_path):
    written = answer_texts("sft", 12)
    sets = (
        answers(tmp_path, "sft", [*written[:9], "   ", "too short", written[11]]),
        answers(tmp_path, "rl", list(answer_texts("rl", 11))),
    )
    settings = SftRlConfig(answers=sets)
    answered = read_answers(settings, tmp_path)
    kept, cut = at_equal_length(answered, settings.shortest)
    assert kept.questions == [f"q{n}" for n in range(9)]
    assert sorted(kept.left_out) == [
        ("", "q10", "an answer has fewer than 5 words"),
        ("rl", "q9", "another model has no answer to it"),
        ("sft", "q11", "another model has no answer to it"),
        ("sft", "q9", "it is empty"),
    ]
    assert {len(text.split()) for texts_of in cut.values() for text in texts_of} == {24}


def test_rollouts_of_a_run_are_answers(tmp_path):
    """`rollout.py --export` writes the sample's id within `metadata`."""
    from common.generation import make_call, make_rollout
    from common.rollouts import Answer, Message, Request, write_jsonl
    from config import GenerationConfig

    settings = GenerationConfig(model="tiny")
    rollouts = [
        make_rollout(
            make_call(Request(f"r{n}", (Message("user", "?"),), metadata={"sample_id": f"q{n}"}), settings, {}),
            Answer(text, "stop"), settings, cached=False,
        )
        for n, text in enumerate(answer_texts("rl", 8))
    ]  # fmt: skip
    write_jsonl(tmp_path / "rollouts.jsonl", rollouts)
    mine = AnswersOf("rl", FilesReader(paths=(str(tmp_path / "rollouts.jsonl"),)), question="metadata.sample_id")
    found = read_answers(SftRlConfig(answers=(answers(tmp_path, "sft", answer_texts("sft", 8)), mine)), tmp_path)
    assert found.questions == [f"q{n}" for n in range(8)]
    assert found.texts["rl"] == answer_texts("rl", 8)


def test_numbers_are_cut_into_thirds(tmp_path):
    sets = tuple(
        answers(tmp_path, role, answer_texts(role, 12), hard=[n / 12 for n in range(12)]) for role in ("sft", "rl")
    )
    found = read_answers(SftRlConfig(answers=sets, stratum="hard"), tmp_path)
    assert found.strata == ["low"] * 4 + ["middle"] * 4 + ["high"] * 4


def test_difficulty_may_come_from_a_file_of_its_own(tmp_path):
    sets = tuple(answers(tmp_path, role, answer_texts(role, 12)) for role in ("sft", "rl"))
    path = write(tmp_path / "difficulty.jsonl", [{"question_id": f"q{n}", "difficulty": n / 12} for n in range(12)])
    settings = SftRlConfig(answers=sets, stratum="difficulty", strata=FilesReader(paths=(path,)))
    assert read_answers(settings, tmp_path).strata == ["low"] * 4 + ["middle"] * 4 + ["high"] * 4
    write(tmp_path / "difficulty.jsonl", [{"question_id": "q0", "difficulty": 0.5}])
    with pytest.raises(UserError, match="question 'q1' has no 'difficulty'"):
        read_answers(settings, tmp_path)


@pytest.mark.parametrize(
    ("roles", "settings", "error", "message"),
    [
        (("sft",), {}, ConfigError, "two or three models' answers"),
        (("sft", "sft"), {}, ConfigError, "each with a role of its own"),
        (("sft", "rl"), {"stratum": "level"}, UserError, r"has no column 'level'; it has: sample_id, completion"),
        (("sft", "rl"), {"shortest": 500}, UserError, "0 questions have answers of 500 words"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, roles, settings, error, message):
    sets = tuple(answers(tmp_path, role, answer_texts(role, 10)) for role in roles)
    with pytest.raises(error, match=message):
        summary_of(make_config(tmp_path, sets, rollouts=False, **settings))


def test_the_command_prints_verdicts(config, summary, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(f"from experiments.settings import *\nfrom config import *\nconfig = {config!r}\n")
    assert run_script("doc", STAGES, [str(path), "--tests"], arguments=arguments, present=present) == 0
    printed = capsys.readouterr().out
    assert "Is RL close to its own rollouts? [rollouts] yes" in printed
    assert "40 questions" in printed and "plot: " in printed and "cached" in printed


@pytest.mark.realdata
def test_two_real_models_answer_the_same_prompts(tmp_path, realdata, monkeypatch):
    from common.configs import load_config

    monkeypatch.setenv("CORPUS_PROXIMITY_REALDATA", str(realdata))
    settings = load_config(Path(__file__).parents[2] / "configs/experiments/sft_rl_01_alpaca.py").sft_rl
    answered = read_answers(settings, tmp_path)
    assert len(answered.questions) == 805 and len(set(answered.strata or ())) == 5
    kept, cut = at_equal_length(answered, settings.shortest)
    assert len(kept.questions) == 773
    lengths = {role: [len(raw_words(text)) for text in texts_of] for role, texts_of in cut.items()}
    assert lengths["sft"] == lengths["rl"]
    whole = {role: np.median([len(raw_words(text)) for text in kept.texts[role]]) for role in ("sft", "rl")}
    assert whole["rl"] > 1.5 * whole["sft"]
