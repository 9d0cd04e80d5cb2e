"""The dashboard: what it says is what the artifacts say; by Streamlit's own driver, and once in a real browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

from streamlit.testing.v1 import AppTest

from common.annotation_report import error_verdict
from common.dashboard import CLUSTERS, COMPARE, DIFFICULTY, ERRORS, PICTURES, SHIFTS, Dashboard, map_figure, tree_figure
from common.dashboard_analysis import difficulty_figure, difficulty_sentence, rates_figure
from common.dashboard_parts import plotly_safe, safe
from common.stages import Session
from common.store import Artifact
from config import Config
from tests.report_artifacts import HOSTILE_NAME, build
from tests.taxonomy_artifacts import HOSTILE_MODEL, publish_inputs
from visualize_clusters import TAXONOMY, load_dashboard

CONFIG = Config(name="tiny <b>run</b> *x* :red[y]")
ROOT = Path(__file__).resolve().parent.parent


def publish_taxonomy(folder: Path, *, with_outputs: bool) -> dict[str, Artifact]:
    inputs = publish_inputs(folder, CONFIG, with_outputs=with_outputs)
    reads = {name: inputs[name] for name in ("chunks", "clusters", "names", "map", "annotations")}
    return {**inputs, "taxonomy": build(folder, TAXONOMY, CONFIG, reads)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(folder) -> dict[str, Artifact]:
    return publish_taxonomy(folder, with_outputs=True)


@pytest.fixture(scope="module")
def unannotated(tmp_path_factory) -> dict[str, Artifact]:
    return publish_taxonomy(tmp_path_factory.mktemp("plain"), with_outputs=False)


def dashboard_of(finished: dict[str, Artifact]) -> Dashboard:
    session = Session(CONFIG, "config.py", ("a.b=1",))
    session._loaded.update(finished)
    return load_dashboard(session)


@pytest.fixture(scope="module")
def shown(finished) -> Dashboard:
    return dashboard_of(finished)


def page(dashboard):
    """The script that Streamlit's driver runs; it gets the source alone, none of the names above."""
    from common.dashboard import show

    show(dashboard)


Open = Callable[..., AppTest]


@pytest.fixture(scope="module")
def open_page() -> Open:
    def open_page(dashboard: Dashboard, view: str = CLUSTERS) -> AppTest:
        app = AppTest.from_function(page, kwargs={"dashboard": dashboard}, default_timeout=60).run()
        return app if view == CLUSTERS else turn_to(app, view)

    return open_page


def turn_to(app: AppTest, view: str) -> AppTest:
    app.sidebar.radio[0].set_value(view).run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    return "\n".join(each.value for each in (*app.markdown, *app.caption, *app.info, *app.text))


# --- clusters and filters ------------------------------------------------------------------------------------


def test_the_table_holds_every_cluster_with_its_figures(open_page, shown):
    app = open_page(shown)
    assert not app.exception
    table = app.dataframe[0].value
    clusters = shown.taxonomy.clusters
    assert table["id"].tolist() == [node.path for node in clusters]
    assert table["chunks"].tolist() == [node.size for node in clusters]
    assert table["share"].tolist() == [node.size / shown.taxonomy.root.size for node in clusters]
    rates = dict(zip(table["id"], table["wrong %"], strict=True))
    assert rates["0.0"] == shown.taxonomy.by_path()["0.0"].errors.rate
    assert {"silhouette", "in projection", "noise", "outputs", "difficulty"} <= set(table.columns)


def test_filters_by_depth_size_words_and_source(open_page, shown):
    app = open_page(shown)

    def ids() -> list[str]:
        assert not app.exception
        return app.dataframe[0].value["id"].tolist()

    app.sidebar.slider[0].set_value((1, 1)).run()
    assert ids() == ["0", "1", "2"]
    app.sidebar.number_input[0].set_value(23).run()
    assert ids() == ["1", "2"]
    app.sidebar.text_input[0].set_value("EDGE").run()
    assert ids() == ["2"]
    assert "1 cluster of 5" in said(app)
    app.sidebar.text_input[0].set_value("no such word").run()
    assert "No cluster passes the filters." in said(app)
    app.sidebar.text_input[0].set_value("").run()
    app.sidebar.multiselect[0].set_value(["notes · pretrain"]).run()
    assert ids() == ["1", "2"]


def test_a_cluster_is_shown_with_its_texts(open_page, shown):
    app = open_page(shown)
    app.selectbox(key="cluster").set_value("1").run()
    node = shown.taxonomy.by_path()["1"]
    texts = [each.value for each in app.text]
    assert texts == [each.text for each in (*node.central, *node.random)]
    metrics = {metric.label: metric.value for metric in app.metric}
    assert (metrics["chunks"], metrics["share"], metrics["of graded"]) == ("23", "32 %", str(node.errors.graded))


# --- the questions -------------------------------------------------------------------------------------------


def test_which_clusters_cause_the_most_errors(open_page, shown):
    app = open_page(shown, ERRORS)
    assert [each.value for each in app.subheader] == [ERRORS]
    table = app.dataframe[0].value
    rates = {each["cluster_id"]: each for each in shown.analysis["errors"]["rates"] if each["model"] is None}
    worst = max(rates.values(), key=lambda each: each["difference"])
    assert worst["cluster_id"] in ("0", "0.0")
    assert table["id"].tolist()[0] == worst["cluster_id"]
    for row in table.to_dict("records"):
        found = rates[row["id"].replace("–", "")]
        assert (row["rate"], row["low"], row["high"], row["wrong"]) == tuple(
            found[n] for n in ("rate", "low", "high", "wrong")
        )
    assert "error rates differ more than chance would have it" in said(app)
    assert app.selectbox(key="errors_model").options[1:] == [
        each["model"] for each in shown.analysis["errors"]["models"]
    ]
    app.selectbox(key="errors_model").set_value("two").run()
    assert not app.exception
    mine = [each for each in shown.analysis["errors"]["rates"] if each["model"] == "two"]
    assert len(app.dataframe[0].value) == len(mine)


def test_errors_by_the_clusters_of_the_truth(open_page, shown):
    app = open_page(shown, ERRORS)
    own = shown.analysis["errors"]
    assert error_verdict(own, "an answer") in said(app).replace("\\", "")
    assert "follows from its text" in said(app)
    app.selectbox(key="errors_by").set_value("the ground_truth").run()
    assert not app.exception
    found = shown.analysis["errors_by"]["ground_truth"]
    assert error_verdict(found, "the ground_truth") in said(app).replace("\\", "")
    assert "follows from its text" not in said(app)
    wanted = {each["cluster_id"] or "–": each["wrong"] for each in found["rates"] if each["model"] is None}
    table = app.dataframe[0].value
    assert dict(zip(table["id"], table["wrong"], strict=True)) == wanted
    for each in found["associations"]:
        if each["model"] is None:
            assert f"without that bias {each['v_corrected']:.2f}" in said(app).replace("\\", "")


def test_what_length_alone_may_explain_is_said_to_be_so(shown):
    each = {**shown.analysis["difficulty"][0], "p_holm": 0.01, "rho": 0.1, "partial": 0.0}
    doubt = "but not among texts of one length"
    assert doubt in difficulty_sentence({**each, "p_partial": 0.7})
    assert doubt not in difficulty_sentence({**each, "p_partial": 0.01})
    assert doubt not in difficulty_sentence({**each, "p_partial": None})
    assert doubt not in difficulty_sentence({**each, "p_partial": 0.7, "p_holm": 0.3})


def test_the_questions_obey_the_filters(open_page, shown):
    app = open_page(shown, ERRORS)
    app.sidebar.text_input[0].set_value("sentence").run()
    assert [each for each in app.dataframe[0].value["id"] if each != "–"] == ["1"]


def test_do_answers_come_from_other_clusters_than_the_truth(open_page, shown):
    app = open_page(shown, SHIFTS)
    model = app.selectbox(key="shifts_model").value
    found = [each for each in shown.analysis["shifts"] if each["model"] == model]
    table = app.dataframe[0].value
    assert table["same"].tolist() == [each["same"] for each in found]
    assert table["Holm p"].tolist() == [each["p_holm"] for each in found]
    moves = app.dataframe[1].value.set_index("id")
    # Of the answers in 2 every second truth lies in 1: answers are gained there and lost in 1.
    assert moves.loc["2", "gained"] > 10
    assert moves.loc["1", "lost"] > 10
    assert "shares differ more than chance would have it" in said(app)


def test_are_harder_questions_farther(open_page, shown):
    app = open_page(shown, DIFFICULTY)
    table = app.dataframe[0].value
    assert table["rho"].tolist() == [each["rho"] for each in shown.analysis["difficulty"]]
    # Wrong answers are farther, by the way they were made.
    assert "answer: texts of harder questions are farther" in said(app).replace("\\", "")


def test_without_outputs_the_questions_say_how_to_get_some(open_page, unannotated):
    plain = dashboard_of(unannotated)
    for view in (ERRORS, SHIFTS, DIFFICULTY):
        app = open_page(plain, view)
        assert app.code[0].value == "uv run visualize_clusters.py config.py a.b=1 annotation.outputs=FILE"
    assert "wrong %" not in open_page(plain).dataframe[0].value.columns
    assert [each.value for each in open_page(plain, COMPARE).subheader] == [COMPARE, "Training stages and sources"]


# --- pictures and comparison ---------------------------------------------------------------------------------


def test_two_clusters_are_compared(open_page, shown):
    app = open_page(shown, COMPARE)
    assert (app.selectbox(key="first").value, app.selectbox(key="second").value) == ("0", "1")
    app.selectbox(key="second").set_value("2").run()
    facts = app.dataframe[0].value.set_index("fact")
    assert facts.loc["chunks"].tolist() == ["22", "23"]
    nodes = shown.taxonomy.by_path()
    one, other = facts.columns
    assert (one, other) == (f"0 {nodes['0'].name}", f"2 {nodes['2'].name}")
    assert facts.loc["share"].tolist() == [f"{nodes[path].size / shown.taxonomy.root.size:.1%}" for path in "02"]
    shares = app.dataframe[2].value.set_index("from")
    for name, path in ((one, "0"), (other, "2")):
        expected = nodes[path].sources["notes · pretrain"] / nodes[path].size
        assert shares.loc["notes · pretrain", name] == expected
    phrases = [each.value["keyphrase"].tolist() for each in app.dataframe[3:5]]
    assert phrases == [list(nodes["0"].keyphrases), list(nodes["2"].keyphrases)]
    # A cluster beside itself: the headings still differ.
    app.selectbox(key="second").set_value("0").run()
    assert not app.exception
    assert len(set(app.dataframe[0].value.columns)) == 3


def test_two_clusters_are_compared_by_each_models_errors(open_page, shown):
    app = open_page(shown, COMPARE)
    app.selectbox(key="second").set_value("2").run()
    errors = app.dataframe[1].value.set_index("model")
    assert errors.index.tolist() == ["all models", HOSTILE_MODEL, "two"]
    rates = {(each["model"], each["cluster_id"]): each for each in shown.analysis["errors"]["rates"]}
    for column, path in zip(errors.columns, "02", strict=True):
        found = rates["two", path]
        words = f"{found['rate']:.0%} ({found['low']:.0%} to {found['high']:.0%}) of {found['answers']}; expected"
        assert errors.loc["two", column].startswith(words)


@pytest.mark.parametrize("kind", ["treemap", "icicle", "sunburst"])
def test_tiles_of_the_tree_add_up(shown, kind):
    trace = tree_figure(shown.taxonomy, "cluster", kind).data[0]
    values = dict(zip(trace.ids, trace.values, strict=True))
    for path, value in values.items():
        inside = [each for each, parent in zip(trace.values, trace.parents, strict=True) if parent == path]
        assert not inside or sum(inside) == value
    assert trace.type == kind


def test_the_map_highlights_what_passes_and_matches(shown):
    taxonomy = shown.taxonomy
    node = taxonomy.by_path()["1"]
    figure, found = map_figure(taxonomy, [node], "cohesion", ("item", "3"))
    expected = [
        path == "1" and "item" in text and "3" in text
        for path, text in zip(taxonomy.points.path, taxonomy.points.text, strict=True)
    ]
    assert found == sum(expected) > 0
    assert [len(trace.x) for trace in figure.data] == [len(expected) - found, found]
    _, found = map_figure(taxonomy, list(taxonomy.clusters), "cluster", ())
    assert found == len(taxonomy.points)


def test_pictures_are_drawn_in_every_colour(open_page, shown):
    app = open_page(shown, PICTURES)
    for colour in ("cohesion", "error_rate", "cluster"):
        app.selectbox(key="colour").set_value(colour).run()
        assert not app.exception
    assert len(app.selectbox(key="colour").options) == 7
    app.text_input(key="find").set_value("sentences").run()
    assert "23 points" in said(app) or "24 points" in said(app)
    assert "and matching" in said(app)


# --- text that is not ours -----------------------------------------------------------------------------------


def test_markdown_and_pseudo_html_of_a_text_are_only_text(open_page, shown):
    assert safe("*a* :red[b] $c$ <i>") == r"\*a\* \:red\[b\] \$c\$ \<i\>"
    assert plotly_safe("<b>a</b> & b", 30) == "&lt;b&gt;a&lt;/b&gt; &amp; b"
    app = open_page(shown)
    assert app.header[0].value == safe(CONFIG.name)
    app.selectbox(key="cluster").set_value("0.1").run()
    assert f"#### {safe(HOSTILE_NAME)}" in [each.value for each in app.markdown]
    labels = tree_figure(shown.taxonomy, "cluster", "treemap").data[0].labels
    assert not any("<img" in label for label in labels)
    points = map_figure(shown.taxonomy, list(shown.taxonomy.clusters), "cluster", ())[0].data[1]
    texts = list(points.text)
    assert len(texts) == len(shown.taxonomy.points)
    assert not any("<script" in text or "<img" in text for text in texts)
    names = rates_figure(shown.analysis["errors"]["rates"]).data[0].y
    assert not any("<img" in name for name in names)
    assert difficulty_figure(shown.analysis["difficulty"][0]).data[0].x
    assert HOSTILE_MODEL in open_page(shown, ERRORS).selectbox(key="errors_model").options


# --- as a server ---------------------------------------------------------------------------------------------


def script(*arguments: str) -> AppTest:
    """The script itself under Streamlit's driver, as `streamlit run visualize_clusters.py -- ARGUMENTS`."""
    sys.argv = ["visualize_clusters.py", *arguments]
    return AppTest.from_file(str(ROOT / "visualize_clusters.py"), default_timeout=60).run()


@pytest.fixture
def kept_arguments(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def test_what_is_missing_is_one_message_with_the_command_that_makes_it(kept_arguments, tmp_path):
    config = tmp_path / "small.py"
    config.write_text(CONFIG_FILE.format(corpus=tmp_path))
    (tmp_path / "a.txt").write_text("a text")
    app = script(str(config), f"data_dir={tmp_path}/data")
    assert not app.exception
    assert "has not been made yet" in app.error[0].value.replace("\\", "")
    assert app.code[0].value == f"uv run visualize_clusters.py {config} data_dir={tmp_path}/data"


def test_a_wrong_start_is_one_message(kept_arguments, tmp_path):
    assert "no config was given" in script().error[0].value
    assert "no such config file" in script(str(tmp_path / "missing.py")).error[0].value.replace("\\", "").lower()


CONFIG_FILE = """
from config import Config, FilesReader, PrepareConfig, SourceConfig

source = SourceConfig(name="notes", reader=FilesReader(paths=("{corpus}/*.txt",)))
config = Config(name="small", prepare=PrepareConfig(sources=(source,)))
"""

SERVED = """
import json
from pathlib import Path

from common.dashboard import read_once, show
from common.store import Artifact
from tests.test_dashboard import dashboard_of


def artifact(folder):
    return Artifact(Path(folder), json.loads((Path(folder) / "manifest.json").read_text()))


def read():
    return dashboard_of({{name: artifact(folder) for name, folder in {folders!r}.items()}})


show(read_once(("served",), read))
"""


@pytest.fixture
def server(finished, tmp_path) -> Iterator[str]:
    """The dashboard of the small taxonomy, served on a free port of this machine."""
    app = tmp_path / "served.py"
    app.write_text(SERVED.format(folders={name: str(each.folder) for name, each in finished.items()}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--server.headless=true", "--server.address=127.0.0.1", f"--server.port={port}"]
    options += ["--server.fileWatcherType=none"]  # it looks at every module again and again
    command = [sys.executable, "-m", "streamlit", "run", str(app), *options]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_until_up(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_up(address: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < limit, "the server did not start"
        try:
            with urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)


def test_in_a_browser_a_filter_and_a_search_narrow_the_clusters(browser, server):
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(server)
    counted = page.get_by_test_id("stSidebar").get_by_text("of 5", exact=False)
    counted.wait_for(timeout=60_000)
    assert counted.inner_text() == "5 clusters of 5"
    page.get_by_label("Smallest cluster, chunks").fill("23")
    page.keyboard.press("Enter")
    page.get_by_text("2 clusters of 5").wait_for(timeout=30_000)
    page.get_by_label("Find", exact=True).fill("edge")
    page.keyboard.press("Enter")
    page.get_by_text("1 cluster of 5").wait_for(timeout=30_000)
    page.get_by_role("heading", name="graph, edge").wait_for(timeout=30_000)
    page.get_by_test_id("stSidebar").get_by_text(ERRORS).click()
    page.get_by_role("heading", name=ERRORS).wait_for(timeout=30_000)
    assert page.locator("text=Traceback").count() == 0
    assert page.evaluate("window.pwned") is None
    assert hosts == {server.split("/")[2]}
    page.context.close()
