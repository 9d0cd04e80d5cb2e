"""The report: the figures are those of the artifacts, the page is one inert file, and a real browser shows it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.annotation_report import answers_in_short
from common.cluster_tree import ROOT_ID
from common.html import asset, escape, plotly_script, printable, shorten
from common.leaks import Contamination
from common.progress import Progress
from common.report_page import NOISE, ClusterView, Report, render, script_data, share, size, treemap_data
from common.stages import Job
from common.store import Artifact, Part, Store
from config import Config, EmbeddingConfig
from report import REPORT, compute_report, gather, placed_outputs, report_settings
from tests.browser import Visit, pause, until
from tests.report_artifacts import (
    DOCUMENTS_OF_GROUP,
    HOSTILE_NAME,
    HOSTILE_QUERY,
    HOSTILE_TEXT,
    build,
    corpus_texts,
    publish,
    write_contamination,
)
from tests.taxonomy_artifacts import HOSTILE_MODEL, publish_inputs

CONFIG = Config(name='tiny <b>"run"</b>')
CHUNKS = len(corpus_texts())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Artifact]:
    """Artifacts of every stage, the map and the report included."""
    folder = tmp_path_factory.mktemp("data")
    inputs = publish_inputs(folder, CONFIG, with_outputs=True)
    leaked_from = {"chunks": inputs["chunks"]}
    inputs["contamination"] = publish(Store(folder), "contamination", leaked_from, 1, write_contamination)
    return {**inputs, "report": build(folder, REPORT, CONFIG, dict(inputs))}


@pytest.fixture(scope="module")
def upstream(made) -> dict[str, Artifact]:
    return {name: artifact for name, artifact in made.items() if name != "report"}


@pytest.fixture(scope="module")
def shown(upstream) -> Report:
    return gather(CONFIG, upstream)


@pytest.fixture(scope="module")
def page_file(made) -> Path:
    return made["report"].path("report.html")


@pytest.fixture(scope="module")
def markup(page_file) -> str:
    return page_file.read_text(encoding="utf-8")


def test_the_page_depends_on_the_name_and_on_what_a_point_tells():
    for other in (replace(CONFIG, name="other"), replace(CONFIG, report=replace(CONFIG.report, hover_chars=50))):
        assert report_settings(other) != report_settings(CONFIG)


# --- benchmarks in the corpus --------------------------------------------------------------------------------


def test_leaked_questions_are_shown_with_their_evidence_and_the_truth(shown, markup):
    assert [(cell.stage, cell.contaminated, cell.null) for cell in shown.contamination.cells] == [
        ("pretrain", 1, 0),
        ("sft", 0, 2),
    ]
    section = markup[markup.index('id="contamination"') : markup.index('id="dropped"')]
    for words in ("2.5 % (0.4 % to 13 %)", "2 of 40", "planted: verbatim", "9 words", "100 %", 'class="run"'):
        assert words in section
    assert 'href="#contamination"' in markup


def test_a_config_without_benchmarks_has_no_such_section(shown):
    page = render(replace(shown, contamination=Contamination()))
    assert 'id="contamination"' not in page
    assert "#contamination" not in page


# --- annotated outputs ---------------------------------------------------------------------------------------


def test_outputs_are_grouped_with_their_places_and_a_near_and_a_far_one_of_each(shown, upstream):
    table = upstream["annotations"].table("annotations.parquet").to_pylist()
    groups = {group.name: group for group in shown.outputs.groups}
    assert set(groups) == {"ground_truth", "answer · two", f"answer · {HOSTILE_MODEL}"}
    for name, group in groups.items():
        mine = [row for row in table if " · ".join(filter(None, (row["variant"], row["model"]))) == name]
        assert (group.outputs, group.outside) == (len(mine), sum(row["outside"] for row in mine))
        assert group.low <= group.outside / group.outputs <= group.high
        assert sum(count for _, count in group.clusters) == group.outputs - group.outside
        near, far = (item for item in shown.outputs.examples if item.group == name)
        assert near.distance == min(row["distance"] for row in mine)
        assert far.distance == max(row["distance"] for row in mine)
    assert shown.outputs.graded == sum(row["correct"] is not None for row in table)
    assert shown.outputs.wrong == sum(row["correct"] is False for row in table)


def test_an_output_without_a_place_is_neither_near_nor_far():
    columns = {"text": ["b", "?!", "a"], "variant": ["v"] * 3, "model": [None] * 3, "cluster_depth_0": ["x", None, "x"]}
    distances = {"distance": [0.5, None, 0.2], "percentile": [0.9, None, 0.1], "outside": [False, True, False]}
    assert [item.text for item in placed_outputs(pa.table(columns | distances))] == ["a", "b"]
    nowhere = pa.table(columns | distances).slice(1, 1)
    assert list(placed_outputs(nowhere)) == []


def test_what_the_tests_say_is_on_the_page_in_short(shown, upstream):
    wanted = list(answers_in_short(upstream["annotations"].json("analysis.json")))
    assert list(shown.outputs.answers) == wanted
    assert [question for question, _ in wanted].count("Do errors follow clusters?") == 2
    markup = render(shown)
    section = markup[markup.index('id="outputs"') : markup.index('id="dropped"')]
    for question, sentence in wanted:
        assert section.count(str(escape(question))) == 1
        assert str(escape(sentence)) in section
    silent = render(replace(shown, outputs=replace(shown.outputs, answers=())))
    assert "Do errors follow clusters?" not in silent


def test_a_config_without_outputs_has_a_page_without_them(tmp_path):
    inputs = publish_inputs(tmp_path, CONFIG, with_outputs=False)
    markup = render(gather(CONFIG, inputs))
    assert 'id="outputs"' not in markup
    assert 'href="#outputs"' not in markup


# --- what is gathered ----------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_artifacts(shown, upstream):
    assert (shown.documents, shown.sources, shown.chunks) == (CHUNKS, 2, CHUNKS)
    assert (shown.embedder, shown.dimensions, shown.preset, shown.metric) == ("lsa", 8, "spotify", "cosine")
    assigned = upstream["clusters"].table("assignments.parquet").to_pylist()
    assert shown.tree.noise == sum(row["path"] == ROOT_ID and row["is_noise"] for row in assigned)
    by_top = Counter(row["path"].split(".")[0] for row in assigned)
    assert {child.path: child.size for child in shown.tree.children} == {top: by_top[top] for top in "012"}
    assert [node.name for node in shown.tree.walk()][1:3] == ["matrix, vector", "inverse"]
    first = shown.tree.children[0]
    assert (first.silhouette, first.silhouette_projected, first.stopped) == (0.375, 0.75, "")
    assert "silhouette" in first.children[0].stopped


def test_every_point_has_the_cluster_and_text_of_its_chunk(shown, upstream):
    by_row = {row["chunk_row"]: row for row in upstream["clusters"].table("assignments.parquet").to_pylist()}
    rows, texts = upstream["map"].table("map.parquet")["chunk_row"].to_pylist(), corpus_texts()
    assert list(shown.points.path) == [by_row[row]["path"] for row in rows]
    assert list(shown.points.is_noise) == [by_row[row]["is_noise"] for row in rows]
    assert list(shown.points.text) == [texts[row] for row in rows]


def test_searches_keep_order_and_rank(shown):
    assert [search.query for search in shown.searches] == ["how do I invert a matrix?", HOSTILE_QUERY]
    assert [search.stage_group for search in shown.searches] == ["", ""]
    assert [(hit.rank, hit.distance) for hit in shown.searches[0].hits] == [(1, 0.125), (2, 0.25)]


def test_what_was_dropped_is_counted_by_reason(shown):
    found = [(item.what, item.reason, item.count) for item in shown.dropped]
    assert found == [
        ("documents", "exact_duplicate", 2),
        ("documents", "too_short", 1),
        ("chunks without a vector", "zero vector", 1),
    ]
    assert shown.dropped[0].examples[0] == "notes:900 · same as notes:1 · again"


def test_warnings_of_the_stages_are_passed_on(shown):
    assert shown.warnings[0] == ("vectors: the model cut 2 chunks short; chunking.tokenizer=embedder avoids it")
    assert "clusters: a warning with <b>markup</b>" in shown.warnings


def test_the_lineage_names_every_upstream_key(shown, upstream):
    assert [row.stage for row in shown.stages] == list(upstream)
    chunks = next(row for row in shown.stages if row.stage == "chunks")
    assert chunks.made_from == {"documents": upstream["documents"].key}
    assert chunks.facts["commit"] == "0123456789ab"


def test_a_model_folder_is_named_without_its_place(upstream, tmp_path):
    def embedder(**settings: Any) -> str:
        return gather(replace(CONFIG, embedding=EmbeddingConfig(**settings)), upstream).embedder

    (tmp_path / "my-model").mkdir()
    assert embedder(engine="sentence_transformers", model=str(tmp_path / "my-model")) == "my-model"
    assert embedder(engine="sentence_transformers", model="org/name") == "org/name"


# --- what the script draws -----------------------------------------------------------------------------------


def test_tiles_add_up_exactly(shown):
    # Plotly draws a blank picture when children exceed their parent.
    tiles = treemap_data(shown.tree, {"0": 0, "1": 1, "2": 2})
    values = {tile["id"]: tile["value"] for tile in tiles}
    for tile in tiles:
        inside = [child["value"] for child in tiles if child["parent"] == tile["id"]]
        assert not inside or sum(inside) == tile["value"]
    assert values[ROOT_ID] == CHUNKS - 1
    assert values[f"{ROOT_ID}/noise"] == shown.tree.noise == 3
    assert values["0/noise"] == 1
    assert len(values) == len(tiles)


def test_tiles_of_a_tree_that_does_not_add_up_still_do():
    inside = (ClusterView("0", "a", 7, 0), ClusterView("1", "b", 6, 0))
    tiles = treemap_data(ClusterView(ROOT_ID, "all", 10, 2, children=inside), {"0": 0, "1": 1})
    assert {tile["id"]: tile["value"] for tile in tiles} == {ROOT_ID: 15, "0": 7, "1": 6, "root/noise": 2}


def test_points_carry_numbers_of_their_cluster_and_source(shown):
    data = script_data(shown)
    points = data["points"]
    assert {len(column) for column in points.values()} == {CHUNKS - 1}
    paths = [data["paths"][number] for number in points["path"]]
    assert [entry["path"] for entry in paths] == list(shown.points.path)
    assert {entry["path"]: entry["group"] for entry in paths} == {
        "root": NOISE,
        "0": 0,
        "0.0": 0,
        "0.1": 0,
        "1": 1,
        "2": 2,
    }
    assert {entry["path"]: entry["name"] for entry in paths}["0.1"] == f"matrix, vector › {HOSTILE_NAME}"
    assert all(len(text) <= CONFIG.report.hover_chars for text in points["text"])


def test_figures_are_rounded_so_that_nothing_vanishes():
    assert [share(part, 200) for part in (0, 1, 74, 199, 200)] == ["0 %", "0.5 %", "37 %", "99.5 %", "100 %"]
    assert share(0, 0) == "0 %"
    assert [size(count) for count in (12, 1_234, 5_000_000, 2e15)] == ["12 B", "1.2 kB", "5.0 MB", "2000.0 TB"]


# --- the page ------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Elements with their attributes, the text outside code, and the code."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.code: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.code if self._open[-1:] in (["script"], ["style"]) else self.text).append(data)


@pytest.fixture(scope="module")
def parsed(markup) -> Elements:
    elements = Elements()
    elements.feed(markup)
    elements.close()
    assert elements._open == []
    return elements


def test_the_page_has_only_our_elements(parsed):
    names = Counter(name for name, _ in parsed.elements)
    assert names["script"] == 3  # the data, Plotly, ours
    assert {"img", "svg", "iframe", "object", "link", "base", "form", "b"}.isdisjoint(names)
    assert names["h1"] == 1
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") or name == "src" for name in attributes)


def test_hostile_text_is_shown_as_text(parsed):
    text = " ".join(" ".join(parsed.text).split())
    for hostile in (HOSTILE_TEXT, HOSTILE_NAME, HOSTILE_QUERY, CONFIG.name):
        assert " ".join(printable(hostile).split()) in text


def test_the_data_block_is_the_data(parsed, shown):
    data = json.loads(next(code for code in parsed.code if code.startswith("{")))
    assert data == json.loads(printable(json.dumps(script_data(shown), ensure_ascii=False)))
    assert data["points"]["text"][0].startswith("</script><script>window.pwned")


def test_the_page_loads_nothing(parsed, markup):
    without_code = markup
    for code in (plotly_script(), asset("page.js"), asset("report.js"), asset("report.css"), asset("page.css")):
        assert code in markup
        without_code = without_code.replace(code, "")
    assert not re.search(r"https?://|url\(|@import|<link|\bsrc=[\"']http", without_code)
    ours = asset("page.js") + asset("report.js")
    assert "http://www.w3.org/2000/svg" in ours
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|fetch\(|XMLHttp", ours)
    assert not re.search(r"https?://|url\(|@import", asset("report.css") + asset("page.css"))
    links = [attributes["href"] for name, attributes in parsed.elements if name == "a"]
    targets = {attributes.get("id") for _, attributes in parsed.elements}
    assert links
    assert all(link and link.startswith("#") and link[1:] in targets for link in links)


def test_identifiers_are_unique_and_labels_resolve(parsed):
    identifiers = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for name in ("for", "aria-labelledby"):
        assert {attributes[name] for _, attributes in parsed.elements if name in attributes} <= set(identifiers)


def test_the_same_artifacts_give_the_same_bytes(page_file, upstream, tmp_path):
    for name in ("one", "two"):
        part = Part(tmp_path / name)
        assert compute_report(Job(CONFIG, upstream, part, Progress(False), tmp_path)) == CHUNKS - 1
        assert (tmp_path / name / "report.html").read_bytes() == page_file.read_bytes()


def test_five_thousand_points_weigh_less_than_8_mb(shown):
    words = "a corpus chunk of ordinary length that goes on until it is cut "
    count = 5_000
    points = replace(
        shown.points,
        x=list(np.linspace(0, 10, count)),
        y=list(np.linspace(0, 10, count)),
        path=["0.1"] * count,
        is_noise=[False] * count,
        source=["notes · pretrain"] * count,
        text=[f"{number} {words * 30}" for number in range(count)],
    )
    weight = len(render(replace(shown, points=points)).encode())
    assert len(plotly_script()) < weight < 8_000_000


def test_a_corpus_without_clusters_searches_or_losses_has_a_page(shown):
    alone = ClusterView(ROOT_ID, "all chunks", 3, 0, stopped="fewer than two clusters of the smallest size fit")
    points = replace(shown.points, x=[0.0], y=[0.0], path=[ROOT_ID], is_noise=[False], source=["a"], text=["b"])
    plain = replace(shown, tree=alone, points=points, searches=(), dropped=(), warnings=())
    written = render(plain)
    assert "no clusters were found" in written
    assert 'class="warnings"' not in written
    assert script_data(plain)["groups"] == []


# --- colours -------------------------------------------------------------------------------------------------

# Machado, Oliveira, Fernandes (2009), severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
# Ottosson (2020), A perceptual color space for image processing.
TO_LMS = [
    [0.41222147, 0.53633254, 0.05144599],
    [0.21190350, 0.68069955, 0.10739696],
    [0.08830246, 0.28171884, 0.62997870],
]
TO_OKLAB = [
    [0.21045426, 0.79361779, -0.00407205],
    [1.97799850, -2.42859221, 0.45059371],
    [0.02590404, 0.78277177, -0.80867577],
]


def linear_rgb(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def oklab(linear: np.ndarray) -> np.ndarray:
    return np.cbrt(np.clip(linear, 0, 1) @ np.transpose(TO_LMS)) @ np.transpose(TO_OKLAB)


def palettes() -> dict[str, list[str]]:
    found = re.findall(r'(light|dark): \[((?:"#[0-9a-f]{6}",? ?){8})\]', asset("page.js"))
    return {theme: re.findall(r"#[0-9a-f]{6}", colours) for theme, colours in found}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_eye_and_from_the_page(theme, vision):
    linear = np.array([linear_rgb(colour) for colour in palettes()[theme]])
    seen = oklab(linear @ np.transpose(VISION[vision]))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(8, 1)]
    # The usual eight of Okabe and Ito reach 0.087 by the same measure.
    assert distances.min() > 0.14
    card = {"light": "#ffffff", "dark": "#1b1e24"}[theme]
    assert card in asset("page.css")
    weights = np.array([0.2126, 0.7152, 0.0722])
    lights = np.append(linear @ weights, linear_rgb(card) @ weights) + 0.05
    contrast = np.maximum(lights[:-1], lights[-1]) / np.minimum(lights[:-1], lights[-1])
    assert contrast.min() >= 3.0  # WCAG 2.2, non-text contrast


# --- a real browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(browser, page_file) -> Iterator[Visit]:
    visit = Visit(browser, page_file, viewport={"width": 1280, "height": 900})
    yield visit
    visit.context.close()


@pytest.fixture
def page(opened) -> Iterator[Any]:
    """The page with nothing looked for and everything shown."""
    yield opened.page
    if opened.page.is_visible("#clear"):
        opened.page.click("#clear")
    if opened.page.is_visible("#show-all"):
        opened.page.click("#show-all")


def traces(page: Any) -> dict[str, dict[str, Any]]:
    """The map's groups by name: how many points, whether visible."""
    found = page.evaluate(
        "document.getElementById('plot').data.map(t => ({name: t.name, points: t.x.length, visible: t.visible}))"
    )
    return {trace["name"]: trace for trace in found}


def highlighted(page: Any) -> Counter[str]:
    """How many points of each group are highlighted, as drawn."""
    return Counter(
        page.evaluate("[...document.querySelectorAll('#plot.seeking .point.hit')].map(p => p.parentNode.parentNode)"
                      ".map(t => t.__data__[0].trace.name)")
    )  # fmt: skip


def test_the_browser_draws_every_point(page):
    drawn = traces(page)
    assert sum(trace["points"] for trace in drawn.values()) == CHUNKS - 1
    assert set(drawn) == {"noise, in no cluster", "matrix, vector", "sentence, word", "graph, edge"}
    assert drawn["noise, in no cluster"]["points"] == 3
    assert page.locator("#plot .scatterlayer path.point").count() == CHUNKS - 1
    # The root, five clusters, the noise of the root and that of cluster 0.
    assert page.locator("#treemap g.slice").count() == 8


def test_words_highlight_the_points_whose_text_contains_them(page):
    page.fill("#find", "GRAPHS  edges")
    expected = sum("graphs" in text and "edges" in text for text in corpus_texts())
    until(page, f"document.getElementById('found').textContent.startsWith('{expected} of')")
    # The last row of each group is noise.
    assert highlighted(page) == {"graph, edge": expected - 1, "noise, in no cluster": 1}
    assert page.evaluate("getComputedStyle(document.querySelector('#plot .point.hit')).opacity") == "1"
    assert page.evaluate("getComputedStyle(document.querySelector('#plot .point:not(.hit)')).opacity") == "0.1"
    page.fill("#find", "no such word")
    until(page, "document.getElementById('found').textContent.startsWith('0 of')")
    page.click("#clear")
    assert page.input_value("#find") == ""
    assert highlighted(page) == {}
    assert page.evaluate("getComputedStyle(document.querySelector('#plot .point')).opacity") > "0.5"


def test_the_legend_hides_shows_and_singles_out_by_mouse_and_keyboard(page):
    button = page.locator("#legend button", has_text="sentence, word")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    until(page, "document.getElementById('plot').data.some(t => t.visible === false)")
    assert not traces(page)["sentence, word"]["visible"]
    page.click("#show-all")
    assert all(trace["visible"] for trace in traces(page).values())
    button.dblclick()
    until(page, "document.getElementById('plot').data.filter(t => t.visible).length === 1")
    assert traces(page)["sentence, word"]["visible"]


def test_the_tree_unfolds_and_points_to_the_map(page):
    node = page.locator(".tree > .node").first
    inner = page.locator(".tree > .node > .inside > .node").first
    assert not inner.is_visible()
    node.locator("summary").first.press("Enter")
    assert inner.is_visible()
    node.locator("> .inside > button.show").click()
    until(page, "document.getElementById('found').textContent.includes('are in the cluster')")
    assert highlighted(page) == {"matrix, vector": traces(page)["matrix, vector"]["points"]}
    page.click("#open-all")
    assert page.locator(".tree details:not([open])").count() == 0
    page.click("#close-all")
    assert page.locator(".tree details[open]").count() == 0


def test_hovering_shows_the_text_of_a_point_as_text(page):
    place = place_of_first_chunk(page)
    page.mouse.move(place[0] + 40, place[1] + 40)
    page.mouse.move(*place, steps=4)
    page.wait_for_selector("#card", state="visible")
    # On its way the mouse may pass another point, whose text is shown first.
    until(page, "document.querySelector('#card .text').textContent.startsWith('</script><script>window.pwned')")
    assert "matrix, vector" in page.inner_text("#card .where")
    assert page.locator("#card img, #card script, #card b").count() == 0
    page.mouse.move(5, 5)
    page.wait_for_selector("#card", state="hidden")


def test_a_tile_zooms_in_and_the_bar_zooms_out(page):
    page.locator("#treemap g.slice", has_text="matrix").first.click(position={"x": 20, "y": 10})
    until(page, "document.getElementById('treemap')._fullData[0].level === '0'")
    pause(page, 900)  # Plotly's zoom takes 750 ms and ignores clicks until it ends
    page.locator("#treemap g.pathbar").first.click()
    until(page, "!document.getElementById('treemap')._fullData[0].level || "
                           "document.getElementById('treemap')._fullData[0].level === 'root'")  # fmt: skip


def test_hostile_text_ran_nothing_and_nothing_was_requested(opened):
    # Last of the tests on this page: it sums up what all of them did. The policy would stop a script that slipped
    # in, but it would also say so in the console.
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("script").count() == 3
    assert opened.page.locator("body img").count() == 0
    assert opened.page.locator("#plot .modebar-btn").count() == 6
    assert "loud" not in " ".join(opened.page.locator("#plot .modebar-btn").evaluate_all(
        "buttons => buttons.map(b => b.dataset.title || b.getAttribute('aria-label') || '')"))  # fmt: skip
    assert opened.logged == []
    assert opened.requested == [opened.page.url]


def place_of_first_chunk(page: Any) -> list[float]:
    """Where on the screen the point of the first chunk is; its text is hostile."""
    page.evaluate("document.getElementById('map').scrollIntoView({behavior: 'instant'})")
    return page.evaluate(
        "(() => { const plot = document.getElementById('plot'), box = plot.getBoundingClientRect();"
        "const {xaxis, yaxis} = plot._fullLayout;"
        "const trace = plot.data.find(t => t.customdata.includes(0)), at = trace.customdata.indexOf(0);"
        "return [box.x + xaxis._offset + xaxis.l2p(trace.x[at]), box.y + yaxis._offset + yaxis.l2p(trace.y[at])] })()"
    )


def test_a_tap_shows_the_text_of_a_point_and_a_tap_elsewhere_hides_it(browser, page_file):
    visit = Visit(browser, page_file, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    visit.page.touchscreen.tap(*place_of_first_chunk(visit.page))
    pause(visit.page, 600)  # Plotly takes a quick second tap for a double click
    # On a narrow map points overlap, and a finger takes whichever of them is on top.
    assert visit.page.inner_text("#card .text") in {
        " ".join(shorten(printable(text), CONFIG.report.hover_chars).split())
        for text in corpus_texts()[:DOCUMENTS_OF_GROUP]
    }
    visit.page.locator("#map h2").tap()
    visit.page.wait_for_selector("#card", state="hidden")
    assert visit.logged == []
    visit.context.close()


@pytest.mark.parametrize(("width", "first", "then"), [(360, "dark", "light"), (1280, "light", "dark")])
def test_it_fits_every_screen_in_both_schemes(browser, page_file, width, first, then):
    visit = Visit(browser, page_file, viewport={"width": width, "height": 800}, color_scheme=first)
    for scheme in (first, then):
        visit.page.emulate_media(color_scheme=scheme)
        pause(visit.page, 100)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        back = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in re.findall(r"\d+", back)) > 3 * 128) == (scheme == "light")
        drawn = visit.page.evaluate("document.getElementById('plot').getBoundingClientRect().width")
        assert 0.8 * min(width, 1184) < drawn <= width
    assert visit.logged == []
    visit.context.close()
