"""GSM8K against a corpus: planted copies are found in their stage, sizes do not mislead, every text has its rows."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common.errors import ConfigError, MissingArtifact, UserError
from common.graded_solutions import answers_in
from common.rollouts import write_jsonl
from common.stages import Session
from common.store import Artifact
from config import (
    ColumnsText,
    Config,
    EmbeddingConfig,
    FilesReader,
    GenerationConfig,
    PrepareConfig,
    RolloutsConfig,
    SamplingConfig,
    SimilarityConfig,
    SourceConfig,
)
from embed_chunks import CHUNKS, VECTORS
from gsm8k_corpus_similarity import SIMILARITY
from prepare_data import DOCUMENTS
from rollout import ROLLOUTS
from search import embed_texts
from tests.openai_server import prompt_of, saying, serving

ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    *("apple", "stamp", "marble", "shell", "coin", "pencil", "button", "market", "harbour", "library", "garden"),
    *("carries", "divides", "gathers", "counts", "spends", "shares", "borrows", "returns", "paints", "measures"),
    *("early", "late", "twice", "often", "never", "before", "after", "under", "above", "near", "along", "behind"),
    *("they", "carry", "home", "again", "slowly", "together", "beside", "folds", "plants", "sorts", "weighs"),
)
QUESTIONS = 30
# Of the questions, those with a copy in midtraining: word for word, and with other numbers.
VERBATIM, RENUMBERED = range(6), range(6, 12)


def numbers_of(number: int) -> tuple[int, int]:
    first, second = np.random.default_rng(1_000 + number).integers(11, 90, 2).tolist()
    return first, second


def question(number: int, shift: int = 0) -> str:
    """Words of our own in an order of chance, eleven at a time, and two numbers between, moved by `shift`."""
    words = np.random.default_rng(number).choice(WORDS, 33).tolist()
    first, second = (value + shift for value in numbers_of(number))
    return f"{' '.join(words[:11])} {first} {' '.join(words[11:22])} {second} {' '.join(words[22:])}. How?"


def solution(number: int) -> str:
    first, second = numbers_of(number)
    total = first + second
    return f"They carry {first} + {second} = <<{first}+{second}={total}>>{total} home.\n#### {total}"


def filler(topic: str, count: int, seed: int) -> list[str]:
    """Texts of 75 words in an order of chance: of a topic, of those that questions are made of, and numbers."""
    draw = np.random.default_rng(seed)
    words = [f"{topic}{letter}" for letter in "abcdefghijklmnopqrst"]
    numbers = [str(number) for number in range(22, 180)]
    kinds = ((words, 35), (WORDS, 35), (numbers, 5))
    return [" ".join(draw.permutation([w for each, n in kinds for w in draw.choice(each, n)])) for _ in range(count)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def source(name: str, path: str, **more: Any) -> SourceConfig:
    return SourceConfig(name=name, reader=FilesReader(paths=(path,)), **more)


def graded_rows() -> list[dict[str, Any]]:
    """`good` is right two times of three, `bad` one of three; a wrong answer talks of engines."""
    rows = []
    for number in range(QUESTIONS):
        right = solution(number).replace("####", "A:")
        wrong = f"{filler('engine', 1, number)[0]}\nA: 7"
        verdicts = {"good": number % 3 != 0, "bad": number % 3 == 0}
        models = {m: {"is_correct": ok, "solution": right if ok else wrong} for m, ok in verdicts.items()}
        rows.append({"question": question(number), "ground_truth": right, **models})
    return rows


def make_config(folder: Path, **similarity: Any) -> Config:
    """Three stages of 400, 200 and 120 documents; copies of some questions in the second."""
    copies = [question(n) for n in VERBATIM] + [question(n, shift=100) for n in RENUMBERED]
    stages = {
        "pretrain": filler("planet", 400, 1),
        "midtrain": [*filler("ledger", 200 - len(copies), 2), *copies],
        "sft": filler("engine", 120, 3),
    }
    sources = tuple(
        source(stage, write(folder / f"{stage}.jsonl", [{"text": text} for text in texts]), stage=stage)
        for stage, texts in stages.items()
    )
    rows = [{"question": question(n), "answer": solution(n)} for n in range(QUESTIONS)]
    settings: dict[str, Any] = {
        "source": source("gsm8k_test", write(folder / "test.jsonl", rows), text=ColumnsText(("question",))),
        "answers": "file",
        "answers_file": write(folder / "solutions.jsonl", graded_rows()),
        "null_texts": 40,
        "length_classes": 3,
        "pools": 8,
        "k": 3,
        "permutations": 4_999,
        "bootstraps": 100,
    }
    return Config(
        name="planted <b>copies</b>",
        prepare=PrepareConfig(sources=sources),
        embedding=EmbeddingConfig(dimensions=48),
        similarity=SimilarityConfig(**(settings | similarity)),
        data_dir=str(folder / "data"),
        progress=False,
    )


def built(config: Config) -> Session:
    session = Session(config)
    for stage in (DOCUMENTS, CHUNKS, VECTORS):
        session.run(stage)
    return session


def changed(session: Session, **similarity: Any) -> Session:
    return Session(replace(session.config, similarity=replace(session.config.similarity, **similarity)))


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    return built(make_config(tmp_path_factory.mktemp("similarity")))


@pytest.fixture(scope="module")
def artifact(session) -> Artifact:
    return session.run(SIMILARITY)


def verdict(artifact: Artifact, variant: str, stage: str, model: str = "") -> dict[str, Any]:
    (found,) = [
        each
        for each in artifact.json("summary.json")["verdicts"]
        if (each["variant"], each["stage"], each["model"]) == (variant, stage, model)
    ]
    return found


# --- is it there ---------------------------------------------------------------------------------------------


def test_copies_are_seen_in_their_stage_word_for_word_and_with_other_numbers(artifact):
    there = verdict(artifact, "question", "midtrain")
    assert there["shared"]["13"]["hits"] == len(VERBATIM)
    assert there["copied"]["hits"] >= len(VERBATIM) + len(RENUMBERED)
    for stage in ("pretrain", "sft"):
        assert verdict(artifact, "question", stage)["copied"]["hits"] == 0
    scores = [row for row in artifact.table("scores.parquet").to_pylist() if not row["shuffle"]]
    masked = {
        int(row["sample_id"].split(":")[1]) - 1: row["masked_containment_13"]
        for row in scores
        if row["variant"] == "question" and row["corpus_stage"] == "midtrain"
    }
    assert all(masked[number] > 0.7 for number in (*VERBATIM, *RENUMBERED))


def test_the_evidence_stands_side_by_side(artifact):
    (best, *_) = [each for each in artifact.json("summary.json")["evidence"] if each["corpus_stage"] == "midtrain"]
    assert best["doc_id"].startswith("midtrain/")
    assert best["longest"] >= 30
    assert best["text"].split()[0] in WORDS
    assert len(best["text"].split()) == len(best["document"].split())


def test_questions_are_nearest_to_the_stage_with_their_copies_at_equal_pools(artifact):
    pooled = {stage: verdict(artifact, "question", stage)["pooled"] for stage in ("pretrain", "midtrain", "sft")}
    assert pooled["midtrain"] < min(pooled["pretrain"], pooled["sft"])
    tests = artifact.json("summary.json")["hypotheses"]
    stages = {
        each["stage"]: each["verdict"]
        for each in tests
        if (each["hypothesis"], each["subject"]) == ("stages", "question")
    }
    assert stages["pretrain / midtrain"].startswith("second is nearer")
    assert stages["midtrain / sft"].startswith("first is nearer")


def test_a_stage_twice_the_size_is_no_nearer_at_equal_pools(tmp_path):
    """One distribution, three times as many documents in one stage: the raw distance is smaller, the pooled is not."""
    config = make_config(tmp_path, answers="none", variants=("question",))
    texts = filler("engine", 480, 9)
    for name, part in (("pretrain", texts[:360]), ("midtrain", texts[360:]), ("sft", filler("engine", 120, 10))):
        write(tmp_path / f"{name}.jsonl", [{"text": text} for text in part])
    found = built(config).run(SIMILARITY)
    large, small = (verdict(found, "question", stage) for stage in ("pretrain", "midtrain"))
    assert large["raw"] < small["raw"]
    gap = small["pooled_interval"]["high"] - small["pooled_interval"]["low"]
    assert abs(large["pooled"] - small["pooled"]) < gap


# --- every number --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_neighbours_are_those_of_a_full_table(session, metric):
    found = changed(session, metric=metric, answers="none", variants=("question",)).run(SIMILARITY)
    rows = [row for row in found.table("similarity.parquet").to_pylist() if row["corpus_stage"] == "sft"]
    vectors = session.load(VECTORS)
    stored = np.concatenate([vectors.array(name) for name in vectors.names("vectors-*.npy")])
    at = np.concatenate([vectors.array(name) for name in vectors.names("rows-*.npy")])
    chunks = session.load(CHUNKS)
    table = [row for name in chunks.names("chunks-*.parquet") for row in chunks.table(name).to_pylist()]
    mine = np.array([table[row]["stage"] == "sft" for row in at])
    asked = embed_texts(vectors, [question(0)], session.config)
    kind: Any = {"manhattan": "cityblock"}.get(metric, metric)
    expected = np.sort(cdist(asked, stored[mine], kind)[0])[:3]
    first = [row for row in rows if row["sample_id"].endswith(":1")]
    assert [row["rank"] for row in first] == [1, 2, 3]
    np.testing.assert_allclose([row["distance"] for row in first], expected, atol=1e-5)
    assert {row["metric"] for row in rows} == {metric}


def test_every_text_has_k_rows_in_every_stage_and_the_csv_is_the_same(artifact):
    rows = artifact.table("similarity.parquet").to_pylist()
    kinds = {(row["variant"], row["model"]) for row in rows}
    assert kinds == {
        ("question", None), ("answer", None), ("final_answer", None), ("question_answer", None),
        ("model_answer", "good"), ("model_answer", "bad"),
    }  # fmt: skip
    assert len(rows) == artifact.rows * 3 * 3
    wanted = ["sample_id", "variant", "model", "corpus_stage", "rank"]
    assert [name for name in rows[0] if name in wanted] == wanted
    with artifact.path("similarity.csv").open(encoding="utf-8", newline="") as file:
        assert [row["chunk_id"] for row in csv.DictReader(file)] == [row["chunk_id"] for row in rows]
    unused = artifact.table("unused.parquet").to_pylist()
    assert artifact.rows + len(unused) == 6 * QUESTIONS


def test_percentiles_are_ranks_among_held_out_texts_of_the_length_class(artifact):
    null = [row for row in artifact.table("null.parquet").to_pylist() if row["corpus_stage"] == "pretrain"]
    facts = next(each for each in artifact.json("summary.json")["stages"] if each["stage"] == "pretrain")
    assert facts["held_out_documents"] == 40
    checked = 0
    for row in artifact.table("scores.parquet").to_pylist():
        if row["corpus_stage"] != "pretrain" or row["shuffle"] or row["percentile"] is None:
            continue
        label = min(sum(row["words"] > edge for edge in facts["length_classes"]), len(facts["length_classes"]) - 1)
        mine = [each["pooled"] for each in null if each["length_class"] == label]
        nearer = sum(distance <= row["pooled"] for distance in mine)
        assert row["percentile"] == pytest.approx((1 + nearer) / (len(mine) + 1))
        checked += 1
    assert checked >= QUESTIONS


def test_held_out_documents_are_in_no_pool_and_pools_are_of_one_size(artifact):
    facts = artifact.json("summary.json")
    assert facts["pool"]["chunks"] == min(each["poolable"] for each in facts["stages"])
    assert all(each["poolable"] + each["held_out_documents"] <= each["distinct"] for each in facts["stages"])


def test_a_pool_larger_than_a_stage_is_refused(session):
    with pytest.raises(ConfigError, match="pool_size is 9999, but stage 'sft' has"):
        changed(session, pool_size=9_999).run(SIMILARITY)


# --- hypotheses ----------------------------------------------------------------------------------------------


def test_wrong_answers_that_talk_of_engines_are_nearer_to_the_stage_about_engines(artifact):
    tests = {
        (each["hypothesis"], each["subject"], each["stage"]): each
        for each in artifact.json("summary.json")["hypotheses"]
    }
    wrong = tests["wrong_farther", "good", "sft"]
    assert wrong["comparison"]["raw"]["value"] < 0
    assert wrong["comparison"]["flagged"] == QUESTIONS / 3
    assert wrong["p_holm"] <= 0.05
    same = tests["same_question", "all models", "sft"]
    assert same["comparison"]["units"] == QUESTIONS
    assert same["comparison"]["raw"]["value"] < 0
    assert tests["answers_closer", "all models", "sft"]["comparison"]["raw"]["value"] < 0


def test_our_grades_and_the_given_ones_stand_side_by_side(artifact):
    good, bad = artifact.json("summary.json")["models"]
    assert (good["model"], good["correct"], good["correct_before"], good["agree"]) == ("good", 20, 20, 30)
    assert (bad["correct"], bad["answers"]) == (10, 30)


def test_the_figures_and_the_page(artifact):
    for name in ("distance_by_difficulty.png", "distance_by_correctness.png"):
        if name == "distance_by_difficulty.png" and len(artifact.json("summary.json")["difficulty"]) < 2:
            continue
        assert artifact.path(name).read_bytes().startswith(b"\x89PNG")
    page = artifact.path("report.html").read_text(encoding="utf-8")
    assert "planted &lt;b&gt;copies&lt;/b&gt;" in page
    assert "<b>copies" not in page
    assert "default-src 'none'" in page
    assert page.count("data:image/png;base64,") >= 4


# --- chunks most like the benchmark --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["distance", "rank_max", "rank_mean"])
def test_chunks_are_listed_by_the_strategy_asked_for(session, strategy):
    found = changed(session, aggregation_strategy=strategy, answers="none", variants=("question",)).run(SIMILARITY)
    aggregation = found.json("summary.json")["aggregation"]
    scores = [each[strategy] for each in aggregation["listed"]]
    table = found.table("chunk_scores.parquet")
    assert scores == pytest.approx(sorted(table[strategy].to_pylist())[: len(scores)], abs=1e-6)
    assert aggregation["ranked_chunks"] == len(table) == table["ranked_chunks"][0].as_py()
    assert {each["corpus_stage"] for each in aggregation["listed"][: len(VERBATIM)]} == {"midtrain"}
    assert {each["unrelated"] for each in aggregation["generic"]} >= {"shuffled questions"}
    assert {each["strategy"] for each in aggregation["generic"]} == {"distance", "rank_max", "rank_mean"}
    assert all(-1 <= each["correlation"] <= 1 for each in aggregation["strategies"])


# --- answers of other origins --------------------------------------------------------------------------------


def test_a_file_of_rollouts_gives_the_same_answers(session, tmp_path):
    rollouts = list(answers_in(Path(session.config.similarity.answers_file or "")))
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, rollouts)
    found = changed(session, answers_file=str(path), variants=("question",), shuffled_questions=0).run(SIMILARITY)
    assert [each["correct"] for each in found.json("summary.json")["models"]] == [20, 10]
    assert found.key != session.key(SIMILARITY)


@pytest.fixture
def asking(session, tmp_path) -> Iterator[Session]:
    """The config of `session`, whose model answers every question with 7, by way of a real server."""
    with serving(saying(lambda body: f"{prompt_of(body)[:30]}: seven.\n#### 7")) as server:
        generation = GenerationConfig(
            model="tiny", base_url=server.base_url, api_key_variable="", sampling=SamplingConfig(max_tokens=20)
        )
        yield Session(
            replace(
                session.config,
                generation=generation,
                rollouts=RolloutsConfig(source=session.config.similarity.source or ""),
                similarity=replace(
                    session.config.similarity, source=None, answers="rollouts", answers_file=None, variants=("answer",)
                ),
            ),
            "configs/mine.py",
        )


def test_rollouts_of_the_config_are_read_and_asked_for_where_they_are_missing(asking):
    with pytest.raises(MissingArtifact, match=r"to make it: uv run rollout\.py configs/mine\.py"):
        asking.run(SIMILARITY)
    asking.run(ROLLOUTS)
    found = asking.run(SIMILARITY)
    assert found.manifest["upstream"] == ["documents", "chunks", "vectors", "rollouts"]
    (model,) = found.json("summary.json")["models"]
    assert (model["answers"], model["correct"]) == (QUESTIONS, 0)


def test_a_finished_tree_gives_every_neighbour_its_clusters(tmp_path):
    from cluster_corpus import CLUSTERS
    from name_clusters import NAMES
    from tests.planted import SMALL

    config = make_config(tmp_path, answers="none", variants=("question",), shuffled_questions=5)
    two_stages = replace(config.prepare, sources=config.prepare.sources[1:])
    config = replace(config, clustering=SMALL, prepare=two_stages)
    without = built(config).run(SIMILARITY)
    assert "cluster_path" not in without.table("similarity.parquet").column_names
    session = Session(config)
    session.run(CLUSTERS)
    session.run(NAMES)
    again = Session(config)
    found = again.run(SIMILARITY)
    assert found.key != without.key
    rows = found.table("similarity.parquet").to_pylist()
    names = again.load(NAMES).json("names.json")
    placed = [row for row in rows if row["cluster_path"] != "root"]
    assert placed
    assert all(row["cluster_depth_0"] == names[row["cluster_path"].split(".")[0]]["name"] for row in placed)


# --- bad input and the command -------------------------------------------------------------------------------


def test_what_is_missing_is_named(session, tmp_path):
    with pytest.raises(ConfigError, match=r"needs similarity\.answers_file"):
        changed(session, answers_file=None).key(SIMILARITY)
    with pytest.raises(ConfigError, match="is no file"):
        changed(session, answers_file=str(tmp_path / "none.jsonl")).key(SIMILARITY)
    foreign = write(tmp_path / "foreign.jsonl", [{**graded_rows()[0], "question": "Something else entirely?"}])
    with pytest.raises(UserError, match="none of the answers is to one of these questions"):
        changed(session, answers_file=foreign).run(SIMILARITY)


def test_one_question_and_six_documents_are_enough_to_measure_and_too_few_to_judge(tmp_path):
    config = make_config(tmp_path, answers="none", variants=("question",), take_questions=1)
    write(tmp_path / "sft.jsonl", [{"text": text} for text in filler("engine", 6, 3)])
    config = replace(config, prepare=PrepareConfig(sources=config.prepare.sources[2:]))
    found = built(config).run(SIMILARITY)
    (only,) = found.json("summary.json")["verdicts"]
    assert (only["texts"], only["percentile"], only["near"]) == (1, None, None)
    assert found.json("summary.json")["hypotheses"] == []
    notes = " ".join(found.json("summary.json")["notes"])
    assert "pools hold 5 chunks" in notes
    assert "have no percentile" in notes
    assert "<h1>" in found.path("report.html").read_text(encoding="utf-8")


def test_a_stage_without_a_vector_is_named(tmp_path):
    config = make_config(tmp_path, answers="none", variants=("question",))
    write(tmp_path / "sft.jsonl", [{"text": "?!? --- ..."}])
    with pytest.raises(UserError, match="stage 'sft': none of its chunks has a vector"):
        built(config).run(SIMILARITY)


def test_places_of_files_are_in_no_key(session, tmp_path):
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(Path(session.config.similarity.answers_file or "").read_bytes())
    assert changed(session, answers_file=str(elsewhere)).key(SIMILARITY) == session.key(SIMILARITY)
    assert changed(session, k=4).key(SIMILARITY) != session.key(SIMILARITY)


def test_a_second_run_of_the_texts_embeds_nothing_again(session, monkeypatch):
    """What a killed run has embedded is taken up: the batches lie beside the unfinished artifact."""
    import gsm8k_corpus_similarity as script
    from common import similarity_corpus

    mine = changed(session, seed=7, answers="none", variants=("question", "answer"))
    monkeypatch.setattr(script, "BATCH", 64)
    monkeypatch.setattr(similarity_corpus, "raw_neighbours", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match="finished files are kept"):
        mine.run(SIMILARITY)
    monkeypatch.undo()
    monkeypatch.setattr(script, "BATCH", 64)
    calls: list[int] = []
    real = script.embed_texts
    monkeypatch.setattr(
        script, "embed_texts", lambda v, texts, *a, **k: calls.append(len(texts)) or real(v, texts, *a, **k)
    )
    found = Session(mine.config).run(SIMILARITY)
    assert calls == [0, 0]
    assert found.manifest["resumed_files"] > 0


def test_the_command_on_our_own_questions(tmp_path, capsys):
    """The tiny config, as a stranger runs it, of fewer documents from fewer packages."""
    from common.cli import run_script
    from common.configs import load_config
    from gsm8k_corpus_similarity import arguments, present

    small = [f"data_dir={tmp_path}", "similarity.permutations=199", "similarity.bootstraps=100"]
    for n, count, package in ((0, 150, "rich"), (1, 120, "fsspec"), (3, 110, "hypothesis")):
        small += [f"prepare.sources.{n}.sample_documents={count}"]
        small += [f'prepare.sources.{n}.reader={{"kind": "packages", "packages": ["{package}"], "min_chars": 200}}']
    asked = ["configs/gsm8k_similarity_01_tiny.py", *small]
    command = [sys.executable, str(ROOT / "gsm8k_corpus_similarity.py"), *asked]
    missing = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert missing.returncode == 3
    assert "uv run prepare_data.py configs/gsm8k_similarity_01_tiny.py" in missing.stderr
    built(load_config(str(ROOT / asked[0]), small))

    def run(*more: str) -> str:
        code = run_script(
            "", (SIMILARITY,), [str(ROOT / asked[0]), *small, *more], arguments=arguments, present=present
        )
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    printed = run("--csv", str(tmp_path / "out.csv"))
    for words in (
        "How near is each stage?",
        "exercises/exercises.jsonl:3",
        "Which stage is nearer",
        "rank correlation",
    ):
        assert words in printed
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith("sample_id,variant,model,corpus_stage,rank")
    assert json.loads(run("--json"))["result"]["questions"] == 20


# --- real data -----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_gsm8ks_test_set_lies_in_its_training_set_as_one_more_of_its_questions(realdata, tmp_path):
    """Against 1,000 training questions and 1,000 paragraphs of a statistics textbook."""
    gsm8k = realdata / "benchmarks" / "gsm8k"
    book = realdata / "corpora" / "openstax" / "introductory-statistics-2e.jsonl.gz"
    config = Config(
        name="real",
        prepare=PrepareConfig(
            sources=(
                source("book", str(book), stage="pretrain", take_rows=1_000),
                source(
                    "gsm8k_train",
                    str(gsm8k / "train.jsonl"),
                    stage="midtrain",
                    take_rows=1_000,
                    text=ColumnsText(("question", "answer")),
                ),
            )
        ),
        embedding=EmbeddingConfig(dimensions=64),
        similarity=SimilarityConfig(
            source=source("gsm8k_test", str(gsm8k / "test.jsonl"), text=ColumnsText(("question",))),
            answers="none",  # real ones are graded by test_benchmark_difficulty
            variants=("question",),
            take_questions=200,
            shuffled_questions=100,
            permutations=199,
            bootstraps=100,
        ),
        data_dir=str(tmp_path),
        progress=False,
    )
    found = built(config).run(SIMILARITY)
    there, foreign = verdict(found, "question", "midtrain"), verdict(found, "question", "pretrain")
    assert 0.3 < there["percentile"] < 0.7
    assert there["near"]["share"] < 0.15
    assert foreign["percentile"] > there["percentile"]
    assert there["pooled_interval"]["high"] < foreign["pooled_interval"]["low"]
    assert there["near_among"]["share"] < there["percentile"]
