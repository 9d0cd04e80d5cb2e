"""The ablation on a corpus made by hand: copies are found by who can, and what cannot be loaded is a row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.cli import run_script
from common.errors import ConfigError, UserError
from common.stages import Session
from config import ChunkingConfig, ColumnsText, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig
from experiments.ablation import ABLATION, present
from experiments.settings import AblationConfig, ExperimentConfig, NamedChunking, NamedEmbedding
from prepare_data import DOCUMENTS
from tests.models import build_static, one_thread, random_texts

STAGES = (DOCUMENTS, ABLATION)
KINDS = ("verbatim", "digits", "light", "heavy", "truncated")
SYLLABLES = ["ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve", "wi", "zo", "ka", "le"]


def questions() -> list[str]:
    """Fifteen questions about things that nobody else has."""
    generator = np.random.default_rng(7)
    things = ["".join(generator.choice(SYLLABLES, 4)) + "s" for _ in range(90)]
    asked = []
    for n in range(15):
        a, b, c, d, e, f = things[6 * n : 6 * n + 6]
        first = (
            f"Someone counted {3 * n + 12} {a} and some {b} beside the {c}, then gave {n + 2} {d} for one of the {e}."
        )
        asked.append(f"{first} How many {a} were left near the {f} with the {b}?")
    return asked


def source(folder: Path, name: str, texts: list[str], column: str = "text") -> SourceConfig:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return SourceConfig(name=name, reader=FilesReader(paths=(str(path),)), text=ColumnsText(columns=(column,)))


def make_config(folder: Path, embedders: tuple[NamedEmbedding, ...], **settings) -> ExperimentConfig:
    ablation = AblationConfig(
        questions=source(folder, "questions", questions(), "question"),
        embedders=embedders,
        chunkings=(
            NamedChunking("40 tokens", ChunkingConfig(max_tokens=40)),
            NamedChunking("paragraphs", ChunkingConfig(strategy="paragraph")),
        ),
        permutations=999,
    )
    return ExperimentConfig(
        name="test",
        prepare=PrepareConfig(sources=(source(folder, "pages", random_texts(120, seed=1)),)),
        ablation=replace(ablation, **settings),
        data_dir=str(folder / "data"),
    )


def lsa(dimensions: int) -> NamedEmbedding:
    return NamedEmbedding(f"LSA {dimensions}", EmbeddingConfig(engine="lsa", dimensions=dimensions))


def local(name: str, folder: Path) -> NamedEmbedding:
    return NamedEmbedding(name, EmbeddingConfig(engine="sentence_transformers", model=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    folder = one_thread(tmp_path_factory.mktemp("ablation"))
    static = build_static(folder / "static")
    return make_config(folder, (lsa(120), lsa(2), local("static", static), local("absent", folder / "nowhere")))


@pytest.fixture(scope="module")
def artifact(config):
    session = Session(config)
    return [session.run(stage) for stage in STAGES][-1]


def cells(artifact) -> dict[tuple[str, str], dict]:
    return {(cell["embedder"], cell["chunking"]): cell for cell in artifact.json("summary.json")["cells"]}


def test_a_good_embedder_finds_the_copies_and_a_poor_one_does_not(artifact):
    found = cells(artifact)
    good, poor = found["LSA 120", "40 tokens"]["all"], found["LSA 2", "40 tokens"]["all"]
    assert good["copies"] == 15 and good["first"] >= 13 and good["mrr"] > 0.9
    assert poor["first"] <= 5 and poor["mrr_interval"]["high"] < good["mrr_interval"]["low"]
    assert found["LSA 120", "paragraphs"]["kinds"]["verbatim"]["first"] == 3
    assert list(found["LSA 120", "paragraphs"]["kinds"]) == list(KINDS)


def test_cells_are_compared_with_the_first_question_by_question(artifact):
    tests = {test["label"]: test for test in artifact.json("summary.json")["tests"]}
    assert len(tests) == 5
    worse = tests["LSA 2, 40 tokens"]
    assert worse["comparison"]["units"] == 15 and worse["comparison"]["raw"]["value"] < -0.4
    assert worse["p_holm"] <= 0.05


def test_what_cannot_be_loaded_is_a_row_that_says_why(artifact):
    absent = [cell for (name, _), cell in cells(artifact).items() if name == "absent"]
    assert len(absent) == 2 and all("nowhere" in cell["unavailable"] for cell in absent)
    assert artifact.rows == 6


def test_ranks_agree_with_a_search_by_hand(config, artifact):
    """The static model's ranks, by a loop over chunks."""
    from chunking import chunk_batch
    from common.embedders import SentenceTransformerEmbedder

    rows = artifact.table("ranks.parquet").to_pylist()
    given = [row["rank"] for row in rows if (row["embedder"], row["chunking"]) == ("static", "paragraphs")]
    planted = artifact.table("planted.parquet").to_pylist()
    pages = random_texts(120, seed=1)
    documents = [*dict.fromkeys(pages), *(row["document"] for row in planted)]
    spans = chunk_batch(documents, ChunkingConfig(strategy="paragraph"), None)
    texts = [documents[d][s:e] for d, s, e in zip(spans.document, spans.start, spans.end, strict=True)]
    model = SentenceTransformerEmbedder(config.ablation.embedders[2].embedding, "by hand")
    vectors, asked = model.embed_documents(texts), model.embed_queries([row["question"] for row in planted])
    for number, row in enumerate(planted):
        document = len(documents) - len(planted) + number
        start = row["document"].index(row["copy"])
        right = []
        for place in np.argsort(-(vectors @ asked[number]), kind="stable")[:10]:
            shared = min(spans.end[place], start + len(row["copy"])) - max(spans.start[place], start)
            shorter = min(len(row["copy"]), spans.end[place] - spans.start[place])
            right.append(spans.document[place] == document and shared >= 0.5 * shorter)
        assert given[number] == (right.index(True) + 1 if any(right) else 0)


def test_costs_are_measured(artifact):
    found = cells(artifact)
    cell = found["LSA 120", "40 tokens"]
    assert cell["vector_bytes"] == cell["chunks"] * cell["dimensions"] * 4
    assert cell["embed_seconds"] > 0 and cell["model_bytes"] > found["LSA 2", "40 tokens"]["model_bytes"]
    assert artifact.path("ablation.png").read_bytes().startswith(b"\x89PNG")


def test_every_question_has_one_copy_and_the_corpus_is_the_same_in_every_cell(config, artifact):
    rows = artifact.table("planted.parquet").to_pylist()
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 3)
    assert all(row["copy"] in row["document"] for row in rows)
    assert all((row["copy"] == row["question"]) == (row["kind"] == "verbatim") for row in rows)


def test_a_killed_run_goes_on_with_the_cells_it_has(tmp_path, monkeypatch):
    config = make_config(tmp_path, (lsa(20),))
    import experiments.ablation as script

    computed, real = [], script.compute_cell

    def dies(job, planted, embedder, chunking):
        if computed and chunking.name == "paragraphs" and "again" not in computed:
            raise KeyboardInterrupt
        computed.append(chunking.name)
        return real(job, planted, embedder, chunking)

    monkeypatch.setattr(script, "compute_cell", dies)
    session = Session(config)
    session.run(DOCUMENTS)
    with pytest.raises(KeyboardInterrupt):
        session.run(ABLATION)
    computed.append("again")
    Session(config).run(ABLATION)
    assert computed == ["40 tokens", "again", "paragraphs"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"questions": None}, ConfigError, "ablation.questions is not set"),
        ({"embedders": ()}, ConfigError, "ablation.embedders: name at least one"),
        ({"embedders": (lsa(2), lsa(2))}, ConfigError, "each under a name of its own"),
        ({"kinds": ("verbatum",)}, ConfigError, "'verbatum' is no kind of copy; known: verbatim, digits"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, settings, error, message):
    config = make_config(tmp_path, (lsa(2),))
    with pytest.raises(error, match=message):
        Session(replace(config, ablation=replace(config.ablation, **settings))).key(ABLATION)


def test_a_config_of_the_root_is_refused():
    from config import Config

    with pytest.raises(ConfigError, match="no section 'ablation'; build an ExperimentConfig"):
        Session(Config(name="root")).key(ABLATION)


def test_too_few_questions_are_refused(tmp_path):
    few = source(tmp_path, "few", questions()[:3], "question")
    session = Session(make_config(tmp_path, (lsa(2),), questions=few))
    session.run(DOCUMENTS)
    with pytest.raises(UserError, match="3 questions, 6 are needed"):
        session.run(ABLATION)


def test_the_command_prints_the_table(config, artifact, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(f"from experiments.settings import *\nfrom config import *\nconfig = {config!r}\n")
    assert run_script("doc", STAGES, [str(path)], present=present) == 0
    printed = capsys.readouterr().out
    assert "15 questions planted in" in printed and "absent, 40 tokens, paragraphs: not run here: " in printed
    assert "recall@10" in printed and "@1 heavy" in printed
