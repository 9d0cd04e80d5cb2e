"""The lyrics test: a model that was taught passages must be told from its control, and from one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError, UserError
from common.stages import Session
from config import FilesReader, GenerationConfig, SamplingConfig, SourceConfig
from experiments.settings import ExperimentConfig, RecallConfig, RecallModel
from experiments.verbatim_recall import RECALL, read_passages, recall_requests
from tests.models import build_language_model, one_thread, train_to_recite
from tests.openai_server import Server, Status, prompt_of, saying, serving
from tests.toy_project import run_here

ROOT = Path(__file__).resolve().parent.parent.parent
WORDS = "river stone lantern winter orchard copper whistle harbour meadow thunder velvet anchor candle forest silver"


def made_up(count: int, seed: int, words: int = 26) -> list[str]:
    """Passages that no model can know, in lines of six words."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(WORDS.split(), (count, words))
    return ["\n".join(" ".join(row[at : at + 6]) for at in range(0, words, 6)) for row in drawn]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Twins that differ in nothing but what they were taught."""
    folder = one_thread(tmp_path_factory.mktemp("models"))
    build_language_model(folder / "untaught", dimensions=64)
    build_language_model(folder / "taught", dimensions=64)
    train_to_recite(folder / "taught", made_up(10, seed=1), steps=70)
    return {name: folder / name for name in ("taught", "untaught")}


def source(folder: Path, name: str, texts: list[str]) -> SourceConfig:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"id": f"{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return SourceConfig(name=name, reader=FilesReader(paths=(str(path),)), id_column="id")


def recaller(name: str, folder: Path, form: str = "text") -> RecallModel:
    sampling = SamplingConfig(max_tokens=80, temperature=0.0)
    generation = GenerationConfig(engine="transformers", model=str(folder), sampling=sampling, device="cpu")
    return RecallModel(name, replace(generation, format=form))


def make_config(folder: Path, models: dict[str, Path], **settings) -> ExperimentConfig:
    recall = RecallConfig(
        models=tuple(recaller(name, path) for name, path in models.items()),
        known=source(folder, "lyrics", made_up(10, seed=1)),
        control=source(folder, "strangers", made_up(9, seed=2)),
        prefix_lengths=(3, 8),
        continuation=6,
        permutations=999,
    )
    return ExperimentConfig(name="test", recall=replace(recall, **settings), data_dir=str(folder / "data"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, models):
    return Session(make_config(tmp_path_factory.mktemp("recall"), models)).run(RECALL)


def family_of(summary, family):
    return {test["label"]: test for test in summary["tests"] if test["family"] == family}


def test_a_taught_model_says_its_passages_and_not_the_control(artifact):
    levels = artifact.json("summary.json")["levels"]
    taught = {(row["known"], row["length"]): row for row in levels if row["model"] == "taught"}
    assert taught[True, 8]["whole"] >= 9 and taught[True, 8]["exact_words"] > 5.5
    assert taught[False, 8]["whole"] == 0 and taught[False, 8]["value"] < 0.6


def test_known_is_told_from_control_where_it_was_taught_and_only_there(artifact):
    summary = artifact.json("summary.json")
    taught = family_of(summary, "known against control: taught")
    assert list(taught) == ["3", "8", "all"]
    assert all(test["p_holm"] <= 0.01 and test["comparison"]["raw"]["value"] > 0.3 for test in taught.values())
    untaught = family_of(summary, "known against control: untaught")
    assert all(test["p_holm"] > 0.05 for test in untaught.values())
    assert all(abs(test["comparison"]["raw"]["value"]) < test["detectable"] for test in untaught.values())


def test_the_twins_differ_on_known_passages_beyond_the_control(artifact):
    summary = artifact.json("summary.json")
    for family in ("between models", "between models beyond control"):
        found = family_of(summary, f"{family}: taught - untaught")
        assert all(test["p_holm"] <= 0.05 for test in found.values())
        assert found["all"]["comparison"]["raw"]["interval"]["low"] > 0.2


def test_rows_hold_what_was_asked_said_and_wanted(artifact):
    rows = artifact.table("recall.parquet").to_pylist()
    assert len(rows) == 2 * (10 + 9) * 2
    row = next(row for row in rows if row["model"] == "taught" and row["passage"] == "lyrics/4")
    first = made_up(10, seed=1)[4].split()
    assert row["prefix"].split() == first[:3] and row["continuation"].split() == first[3:9]
    assert row["completion"].split()[:6] == first[3:9] and row["whole"] and row["character_distance"] == 0
    assert artifact.path("recall.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_models_elsewhere_are_the_same_result(tmp_path, models, artifact):
    import shutil

    moved = {name: Path(shutil.copytree(path, tmp_path / f"moved-{name}")) for name, path in models.items()}
    assert Session(make_config(tmp_path, moved)).key(RECALL) == artifact.key
    other = make_config(tmp_path, {"taught": models["taught"], "untaught": models["taught"]})
    assert Session(other).key(RECALL) != artifact.key


def test_a_further_model_asks_only_its_own(tmp_path, models):
    one = make_config(tmp_path, {"untaught": models["untaught"]})
    Session(one).run(RECALL)
    from common.generation import estimate

    sets = read_passages(one.recall, tmp_path)
    requests = recall_requests(sets["known"].cuts, one.recall.models[0], one.recall)
    counted = estimate(requests, one.recall.models[0].generation, tmp_path / "data" / "cache")
    assert counted.cached == counted.requests == 20


def test_a_chat_model_is_instructed_and_its_echo_is_forgiven(tmp_path, models):
    from common.rollouts import Message
    from experiments.verbatim_recall import score_set

    config = make_config(tmp_path, models).recall
    chat = recaller("chat", models["taught"], "chat")
    passages = read_passages(config, tmp_path)["known"]
    request = recall_requests(passages.cuts, chat, config)[0]
    assert request.messages == (Message("user", config.instruction.replace("{prefix}", passages.cuts[0].prefix)),)

    from types import SimpleNamespace

    echoes = [
        SimpleNamespace(completion=f'"{cut.prefix} {cut.continuation}"', finish_reason="stop") for cut in passages.cuts
    ]
    scores = score_set(chat, passages, echoes, config).scores  # ty: ignore[invalid-argument-type]
    assert (scores.exact_words >= 5).all()


def recites(texts: list[str]):
    """A server's reply: the passage whose beginning is in the question, word for word; else a refusal."""

    def reply(body) -> str:
        asked = " ".join(prompt_of(body).split())
        whole = [" ".join(text.split()) for text in texts]
        known = [text for text in whole if " ".join(text.split()[:3]) in asked]
        return known[0] if known else "I do not know this text, sorry."

    return reply


def asking(config: ExperimentConfig, server: Server) -> ExperimentConfig:
    """The config with a server in place of its models."""
    generation = GenerationConfig(
        model="reciter", base_url=server.base_url, api_key_variable="", max_concurrency=2, max_wait=0.05
    )
    return replace(config, recall=replace(config.recall, models=(RecallModel("endpoint", generation),)))


def test_any_endpoint_is_asked_and_a_chat_model_that_repeats_the_beginning_is_understood(tmp_path, models):
    with serving(saying(recites(made_up(10, seed=1)))) as server:
        config = asking(make_config(tmp_path, models), server)
        summary = Session(config).run(RECALL).json("summary.json")
        assert len({prompt_of(body) for body in server.bodies}) == 2 * (10 + 9)
    levels = {(row["known"], row["length"]): row["whole"] for row in summary["levels"]}
    assert levels == {(True, 3): 10, (True, 8): 10, (False, 3): 0, (False, 8): 0}


def test_answers_that_are_there_are_kept_when_others_fail(tmp_path, models):
    with serving(saying(recites(made_up(10, seed=1)))) as server:
        first = " ".join(made_up(10, seed=1)[0].split()[:3])
        server.rule = lambda body: Status(400, "no") if first in " ".join(prompt_of(body).split()) else None
        config = asking(make_config(tmp_path, models), server)
        with pytest.raises(UserError, match=r"'endpoint': 36 of 38 completions are there and kept; no answer: 2 http"):
            Session(config).run(RECALL)
        asked, server.rule = len(server.bodies), lambda body: None
        Session(config).run(RECALL)
        again = {prompt_of(body) for body in server.bodies[asked:]}
        assert len(again) == 2 and all(first in " ".join(text.split()) for text in again)


def test_controls_that_share_a_span_with_a_known_passage_are_left_out(tmp_path, models):
    config = make_config(tmp_path, models)
    both = [*made_up(8, seed=2), made_up(10, seed=1)[3]]
    recall = replace(config.recall, control=source(tmp_path, "mixed", both))
    found = read_passages(recall, tmp_path)["control"]
    assert found.passages == 8
    assert found.left_out == [("mixed/8", "shares 8 words or more in a row with a known passage")]
    assert read_passages(replace(recall, without_shared=False), tmp_path)["control"].passages == 9


def test_token_prefixes_are_the_same_text_for_every_model(tmp_path, models):
    config = make_config(tmp_path, models, unit="tokens", tokenizer=str(models["taught"] / "tokenizer.json"))
    cuts = read_passages(config.recall, tmp_path)["known"].cuts
    text = made_up(10, seed=1)[0]
    assert text.startswith(cuts[0].prefix + cuts[0].continuation)
    assert len(cuts[0].prefix) < len(cuts[1].prefix)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ()}, "name at least one model"),
        ({"prefix_lengths": (0, 3)}, "lengths of at least 1"),
        ({"instruction": "Go on."}, "does not hold {prefix}"),
        ({"unit": "tokens"}, "needs recall.tokenizer"),
        ({"known": None}, "recall.known is not set"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, models, settings, message):
    with pytest.raises(ConfigError, match=message):
        config = make_config(tmp_path, models)
        Session(replace(config, recall=replace(config.recall, **settings))).key(RECALL)


def test_too_few_passages_are_refused_with_the_remedy(tmp_path, models):
    config = make_config(tmp_path, models, prefix_lengths=(3, 200))
    with pytest.raises(UserError, match=r"0 passages are long enough, 6 are needed; shorten recall.prefix_lengths"):
        Session(config).run(RECALL)


def test_completions_cut_by_max_tokens_are_counted(tmp_path, models):
    config = make_config(tmp_path, {"taught": models["taught"]})
    model = config.recall.models[0]
    short = replace(model, generation=replace(model.generation, sampling=SamplingConfig(max_tokens=3)))
    config = replace(config, recall=replace(config.recall, models=(short,)))
    found = Session(config).run(RECALL).json("summary.json")
    assert found["cut_short"] == 2 * (10 + 9)


@pytest.mark.realdata
def test_the_command_runs_from_any_directory(tmp_path, realdata):
    script, config = ROOT / "experiments" / "verbatim_recall.py", ROOT / "configs/experiments/recall_01_stories.py"
    small = ["recall.known.take_rows=8", "recall.control.take_rows=20", "recall.prefix_lengths=[5]"]
    small += ["recall.permutations=999", "recall.models.0.generation.sampling.max_tokens=8"]
    done = run_here(script, str(config), f"data_dir={tmp_path / 'data'}", *small, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "known against control: stories260k" in done.stdout and "plot:" in done.stdout
