"""The taxonomy: facts are those of the artifacts, a real browser explores the page, other tools read the exports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from cluster_corpus import load_tree
from common.cluster_tree import ROOT_ID, find
from common.errors import ConfigError
from common.html import printable, shorten
from common.outputs import Annotation, Output
from common.progress import Progress
from common.stages import Job, Session
from common.store import Artifact, Part, Store
from common.taxonomy import Taxonomy, is_inside
from config import Config, VisualizeConfig
from tests.browser import Visit, pause, until
from tests.report_artifacts import HOSTILE_NAME, HOSTILE_TEXT, UNEMBEDDED_ROW, build, corpus_texts, publish
from tests.taxonomy_artifacts import annotated, placed, publish_inputs, write_annotations
from visualize_clusters import (
    TAXONOMY,
    arguments,
    compute,
    errors_by_cluster,
    gather,
    load_taxonomy,
    neighbour_column,
    present,
    taxonomy_settings,
)

CONFIG = Config(name='tiny <b>"run"</b>')
TEXTS = corpus_texts()
DRAWN = len(TEXTS) - 1
READS = ("chunks", "clusters", "names", "map", "annotations")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def inputs(folder) -> dict[str, Artifact]:
    return publish_inputs(folder, CONFIG, with_outputs=True)


@pytest.fixture(scope="module")
def taxonomy(inputs) -> Taxonomy:
    return gather(CONFIG, inputs)


@pytest.fixture(scope="module")
def artifact(folder, inputs) -> Artifact:
    return build(folder, TAXONOMY, CONFIG, {name: inputs[name] for name in READS})


@pytest.fixture(scope="module")
def page_file(artifact) -> Path:
    return artifact.path("taxonomy.html")


# --- what is gathered ----------------------------------------------------------------------------------------


def test_every_node_of_the_tree_is_there_with_its_figures(taxonomy, inputs):
    root = load_tree(inputs["clusters"])
    assert [node.path for node in taxonomy.nodes] == [node.cluster_id for node in root.walk()]
    for node in taxonomy.nodes:
        found = find(root, node.path)
        assert (node.size, node.noise) == (found.size, len(found.noise_indices))
        assert (node.cohesion, node.separation) == (found.cohesion_embedding, found.silhouette_embedding)
        assert node.parent == found.parent_id
    assert taxonomy.by_path()["0.0"].stopped.startswith("its silhouette")


def test_stages_and_sources_are_counted_over_all_members(taxonomy, inputs):
    from cluster_corpus import load_tree

    chunks = [row for table in inputs["chunks"].tables("chunks-*.parquet") for row in table.to_pylist()]
    for node in load_tree(inputs["clusters"]).walk():
        found = taxonomy.by_path()[node.cluster_id]
        mine = [chunks[row] for row in node.indices]
        assert found.stages == Counter(row["stage"] for row in mine)
        assert found.sources == Counter(f"{row['source']} · {row['stage']}" for row in mine)
        assert list(found.sources.values()) == sorted(found.sources.values(), reverse=True)


def test_samples_are_members_and_no_random_one_is_central(taxonomy, inputs):
    from cluster_corpus import load_tree

    names = inputs["names"].json("names.json")
    for node in load_tree(inputs["clusters"]).walk():
        found = taxonomy.by_path()[node.cluster_id]
        members = {f"notes:{row}#0": int(row) for row in node.indices}
        central, random = ([each.chunk_id for each in texts] for texts in (found.central, found.random))
        assert central == [each["chunk_id"] for each in names[node.cluster_id]["example_chunks"]]
        assert len(random) == min(CONFIG.visualize.random_samples, node.size - len(central))
        assert set(random) <= set(members) - set(central)
        assert [each.text for each in found.random] == [shorten(TEXTS[members[each]], 300) for each in random]


def test_random_samples_follow_the_seed_and_not_the_order(inputs):
    chosen = [gather(replace(CONFIG, visualize=VisualizeConfig(seed=seed)), inputs) for seed in (1, 1, 2)]
    texts = [[each.chunk_id for each in one.root.random] for one in chosen]
    assert texts[0] == texts[1] != texts[2]


def test_points_are_the_chunks_of_the_map(taxonomy, inputs):
    assigned = {row["chunk_row"]: row for row in inputs["clusters"].table("assignments.parquet").to_pylist()}
    points = taxonomy.points
    assert list(points.chunk_row) == [row for row in range(len(TEXTS)) if row != UNEMBEDDED_ROW]
    assert list(points.text) == [TEXTS[row] for row in points.chunk_row]
    assert list(points.path) == [assigned[row]["path"] for row in points.chunk_row]
    assert list(points.is_noise) == [assigned[row]["is_noise"] for row in points.chunk_row]


def test_error_rates_count_the_outputs_of_a_cluster_and_below(taxonomy):
    for node in taxonomy.nodes:
        places = [(output, place) for output, place in annotated() if not place.outside]
        mine = [output for output, place in places if is_inside(place.ids[-1], node.path)]
        graded = [output for output in mine if output.correct is not None]
        wrong = sum(not output.correct for output in graded)
        errors = node.errors
        assert errors is not None
        assert (errors.outputs, errors.graded, errors.wrong) == (len(mine), len(graded), wrong)
        assert errors.rate == (wrong / len(graded) if graded else None)
    assert taxonomy.by_path()["0.0"].errors.rate == 26 / 36
    assert taxonomy.by_path()["0.1"].errors.outputs == 0


def test_intervals_are_those_of_the_analysis_and_hold_the_rate(taxonomy, inputs):
    rates = inputs["annotations"].json("analysis.json")["errors"]["rates"]
    pooled = {each["cluster_id"]: each for each in rates if each["model"] is None}
    for path in ("0", "0.0", "1", "2"):
        errors = taxonomy.by_path()[path].errors
        assert (errors.low, errors.high, errors.q) == tuple(pooled[path][name] for name in ("low", "high", "q"))
        assert errors.low < errors.rate < errors.high
        # Two models answer each question alike: the answers are worth fewer than they are.
        naive = binomtest(errors.wrong, errors.graded).proportion_ci(method="wilson")
        assert errors.high - errors.low > naive.high - naive.low
    errors = taxonomy.root.errors
    questions = len({each.question_id for each, place in annotated() if place.ids and each.correct is not None})
    naive = binomtest(errors.wrong, errors.graded).proportion_ci(method="wilson")
    alike = binomtest(round(errors.rate * questions), questions).proportion_ci(method="wilson")
    assert errors.high - errors.low > 1.2 * (naive.high - naive.low)
    assert errors.high - errors.low == pytest.approx(alike.high - alike.low, rel=0.05)


def test_the_root_is_all_answers_also_where_some_reached_no_cluster(tmp_path, inputs):
    """Answers that stay at the root are all wrong, those of a cluster all right."""
    stray, home = Annotation((), None, 0.25, 0.5, False), placed("1")
    rows = [
        (Output(f"{n}", "a", None, f"q{n}", "answer", place is home), place)
        for place, numbers in ((stray, range(10)), (home, range(10, 40)))
        for n in numbers
    ]
    names, upstream = inputs["names"].json("names.json"), {name: inputs[name] for name in ("clusters", "names")}
    artifact = publish(
        Store(tmp_path), "annotations", upstream, len(rows), lambda part: write_annotations(part, names, rows)
    )
    errors = errors_by_cluster(artifact, load_tree(inputs["clusters"]))[ROOT_ID]
    assert (errors.wrong, errors.graded) == (10, 40)
    expected = binomtest(10, 40).proportion_ci(method="wilson")
    assert errors.low == pytest.approx(expected.low, abs=0.01)
    assert errors.high == pytest.approx(expected.high, abs=0.01)


def test_difficulty_is_the_mean_share_of_wrong_answers_to_the_questions(taxonomy):
    graded: dict[str | None, list[bool]] = {}
    rows = [(output, place) for output, place in annotated() if not place.outside]
    for output, _ in rows:
        if output.correct is not None:
            graded.setdefault(output.question_id, []).append(not output.correct)
    for path in ("0.0", "1", ROOT_ID):
        mine = [output.question_id for output, place in rows if is_inside(place.ids[-1], path)]
        shares = [np.mean(graded[question]) for question in mine if question in graded]
        assert taxonomy.by_path()[path].errors.difficulty == pytest.approx(np.mean(shares))


def test_without_outputs_there_are_no_error_rates(tmp_path):
    inputs = publish_inputs(tmp_path, CONFIG, with_outputs=False)
    found = gather(CONFIG, inputs)
    assert {node.errors for node in found.nodes} == {None}


# --- the stage -----------------------------------------------------------------------------------------------


def test_the_artifact_holds_the_taxonomy_and_reads_back_the_same(artifact, taxonomy):
    assert artifact.names() == ["points.parquet", "taxonomy.html", "taxonomy.json"]
    read = load_taxonomy(artifact)
    assert read.nodes == taxonomy.nodes
    assert list(read.points.text) == list(taxonomy.points.text)
    assert np.allclose(read.points.x, taxonomy.points.x)


def test_the_same_inputs_give_the_same_bytes(artifact, inputs, tmp_path):
    again = Part(tmp_path / "again")
    assert compute(Job(CONFIG, inputs, again, Progress(False), tmp_path)) == DRAWN
    for name in artifact.names():
        assert (again.path / name).read_bytes() == artifact.path(name).read_bytes()


def test_the_key_holds_what_the_page_shows():
    for other in (replace(CONFIG, name="x"), replace(CONFIG, visualize=VisualizeConfig(sample_chars=40))):
        assert taxonomy_settings(other) != taxonomy_settings(CONFIG)
    assert taxonomy_settings(replace(CONFIG, progress=False)) == taxonomy_settings(CONFIG)


def test_points_have_a_label_for_every_level(artifact, taxonomy):
    table = artifact.table("points.parquet")
    assert table.column_names[-4:] == ["cluster_id_1", "cluster_1", "cluster_id_2", "cluster_2"]
    assert [str(table.schema.field(name).type) for name in ("x", "y", "text", "cluster_1")] == [
        "float", "float", "string", "string",
    ]  # fmt: skip
    for row in table.to_pylist():
        steps = [] if row["path"] == ROOT_ID else row["path"].split(".")
        assert row["cluster_id_1"] == (steps[0] if steps else "Unlabelled")
        assert row["cluster_id_2"] == (row["path"] if len(steps) > 1 else "Unlabelled")
    assert {row["cluster_1"] for row in table.to_pylist()} == {
        "matrix, vector", "sentence, word", "graph, edge", "Unlabelled",
    }  # fmt: skip


def test_neighbours_are_the_nearest_other_points_as_row_numbers(taxonomy, inputs):
    from tests.report_artifacts import corpus_vectors

    rows = np.array(taxonomy.points.chunk_row)
    drawn = corpus_vectors(len(TEXTS))[rows].astype(np.float64)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    distances = 1 - drawn @ drawn.T
    np.fill_diagonal(distances, np.inf)
    found = neighbour_column(taxonomy, inputs["vectors"], 5).to_pylist()
    for point, near in enumerate(found):
        expected = np.argsort(distances[point], kind="stable")[:5]
        assert near["ids"] == expected.tolist()
        assert near["distances"] == pytest.approx(distances[point][expected], abs=1e-5)


# --- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def run(folder, inputs, artifact, tmp_path, monkeypatch):
    """The script's own part of a run: options in, what it returns and prints out."""
    from argparse import ArgumentParser

    finished = {"taxonomy": artifact, **inputs}
    monkeypatch.setattr(Session, "load", lambda self, stage: finished[stage.name])
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> Any:
        parser = ArgumentParser()
        arguments(parser)
        args = parser.parse_args(options)
        args.json = False
        return present(Session(CONFIG, "config.py"), args)

    return run


def test_figures_and_points_are_written_where_asked(run, tmp_path, capsys):
    run("--png", "a.png", "--svg", "b.svg", "--pdf", "c.pdf", "--parquet", "d.parquet", "--neighbours", "3")
    for name, start in (("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.pdf", b"%PDF")):
        assert (tmp_path / name).read_bytes().startswith(start)
    table = pq.read_table(tmp_path / "d.parquet")
    assert (len(table), table.column_names[-1]) == (DRAWN, "neighbors")
    assert capsys.readouterr().out.count("written:") == 4


def test_a_figure_is_coloured_only_by_what_is_known(run):
    run("--png", "a.png", "--figure", "tree", "--colour", "error_rate")
    with pytest.raises(ConfigError, match="can be coloured by cluster, cohesion"):
        run("--png", "a.png", "--colour", "taste")


def test_a_file_that_cannot_be_written_is_one_line(run):
    for option in ("--png", "--parquet"):
        with pytest.raises(ConfigError, match="missing/file: cannot be written: No such file or directory"):
            run(option, "missing/file")


def test_without_streamlit_the_dashboard_names_the_command_that_installs_it(run, monkeypatch):
    monkeypatch.setattr("visualize_clusters.find_spec", lambda name: None)
    expected = r"uv run --extra app streamlit run visualize_clusters.py -- config.py"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        run("--dashboard")


# --- a real browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(browser, page_file) -> Iterator[Visit]:
    visit = Visit(browser, page_file, viewport={"width": 1280, "height": 900})
    yield visit
    visit.context.close()


@pytest.fixture
def page(opened) -> Iterator[Any]:
    """The page as it opens: nothing looked for, everything shown, the root chosen."""
    yield opened.page
    shown = opened.page
    if shown.is_visible("#clear"):
        shown.click("#clear")
    for menu, value in (("#colour", "cluster"), ("#only", ""), ("#levels", "2")):
        shown.select_option(menu, value)
    shown.fill("#smallest", "1")
    shown.click("[data-view=treemap]")
    row(shown, ROOT_ID).click()
    settle(shown)


def settle(page: Any) -> None:
    """Wait until the views have drawn what was asked of them."""
    pause(page, 200)


def row(page: Any, path: str) -> Any:
    """A cluster's line in the list, made visible."""
    page.click("#open-all")
    nodes = "JSON.parse(document.getElementById('data').textContent).nodes"
    number = page.evaluate(f"{nodes}.findIndex(node => node.path === '{path}')")
    return page.locator(f"#outline-tree [data-node='{number}'] > .row .name")


def tiles(page: Any) -> dict[str, dict[str, Any]]:
    """The picture of the tree, as Plotly holds it: parent, value, colour of every tile."""
    trace = page.evaluate(
        "(t => ({ids: t.ids, parents: t.parents, values: t.values, colours: t.marker.colors}))"
        "(document.getElementById('tree-plot').data[0])"
    )
    rows = zip(*(trace[name] for name in ("ids", "parents", "values", "colours")), strict=True)
    return {each: {"parent": parent, "value": value, "colour": colour} for each, parent, value, colour in rows}


# Read from a copy: a browser warns of reading a canvas that it draws.
PIXEL = """(() => {
  const map = document.getElementById('plot'), [x, y] = map.placeOf(POINT), ratio = map.width / map.clientWidth;
  const copy = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
  copy.drawImage(map, -Math.round(x * ratio), -Math.round(y * ratio));
  return [...copy.getImageData(0, 0, 1, 1).data];
})()"""


def pixel(page: Any, point: int) -> tuple[int, ...]:
    """The colour of the map where a point is."""
    return tuple(page.evaluate(PIXEL.replace("POINT", str(point))))


def standing(page: Any) -> str:
    return page.evaluate("document.getElementById('plot').dataset.standing")


def test_tiles_add_up_in_every_picture_and_under_every_filter(page):
    def check() -> dict[str, dict[str, Any]]:
        found = tiles(page)
        for path, tile in found.items():
            inside = [each["value"] for each in found.values() if each["parent"] == path]
            assert not inside or sum(inside) == tile["value"]
        return found

    assert check()[ROOT_ID]["value"] == DRAWN
    assert {"root/noise", "0/noise", "0.1", "2"} <= check().keys()
    for view in ("icicle", "sunburst", "treemap"):
        page.click(f"[data-view={view}]")
        until(page, f"document.getElementById('tree-plot').data[0].type === '{view}'")
        assert page.locator(f"#tree-plot .{view}layer g.slice").count() == 8
        check()
    page.fill("#smallest", "15")
    until(page, "document.getElementById('tree-plot').data[0].ids.includes('0/small')")
    assert "0.0" not in check()
    page.fill("#smallest", "1")
    page.select_option("#only", "source:notes · pretrain")
    until(page, f"document.getElementById('tree-plot').data[0].values[0] < {DRAWN}")
    check()


def test_a_source_filters_tree_map_and_list(page, taxonomy):
    page.select_option("#only", "source:notes · pretrain")
    settle(page)
    mine = [source == "notes" for source in taxonomy.points.source]
    until(page, f"document.getElementById('plot').dataset.shown === '{sum(mine)}'")
    assert tiles(page)["1"]["value"] == taxonomy.by_path()["1"].sources["notes · pretrain"]
    assert row(page, "1").locator("..").locator(".count").inner_text().startswith(
        f"{taxonomy.by_path()['1'].sources['notes · pretrain']} · "
    )  # fmt: skip
    page.fill("#find", "document")
    said = sum(
        "document" in text.lower()[:160] for text, shown in zip(taxonomy.points.text, mine, strict=True) if shown
    )
    until(page, f"document.getElementById('found').textContent.startsWith('{said} points')")


def test_a_click_on_a_tile_opens_it_and_describes_it(page, taxonomy):
    page.locator("#tree-plot g.slice", has_text="sentence").first.click()
    until(page, "document.querySelector('#panel h2').textContent === 'sentence, word'")
    node = taxonomy.by_path()["1"]
    panel = page.inner_text("#panel")
    assert f"{node.size} chunks · {100 * node.size / DRAWN:.0f} %" in panel
    assert "not split" in panel
    assert page.locator("#panel .texts").count() == 2
    assert page.locator("#panel .texts").first.locator("blockquote").all_inner_texts() == [
        each.text for each in node.central
    ]
    errors = node.errors
    assert f"{errors.wrong} of {errors.graded}" in panel
    assert standing(page) == str(sum(path == "1" for path in taxonomy.points.path))
    assert page.evaluate("location.hash") == "#cluster-1"


def test_a_cluster_with_children_is_opened_and_left_again(page):
    page.locator("#tree-plot g.slice", has_text="matrix").first.click(position={"x": 12, "y": 8})
    until(page, "document.getElementById('tree-plot').data[0].level === '0'")
    assert page.locator("#up").is_enabled()
    page.click("#up")
    until(page, "document.getElementById('tree-plot').data[0].level === 'root'")
    page.select_option("#levels", "1")
    until(
        page,
        "[...document.querySelectorAll('#tree-plot g.slice')].filter(tile => tile.textContent.trim()).length === 5",
    )


def test_words_highlight_points_and_clusters(page, taxonomy):
    page.fill("#find", "SENTENCE  words")
    expected = sum("sentence" in text.lower()[:160] and "words" in text.lower()[:160] for text in taxonomy.points.text)
    until(page, f"document.getElementById('found').textContent === '{expected} points and 0 clusters match'")
    until(page, f"document.getElementById('plot').dataset.standing === '{expected}'")
    paths = taxonomy.points.path
    strength = {
        path: np.mean([distance(pixel(page, n), CARD) for n, each in enumerate(paths) if each == path]) for path in "12"
    }
    assert strength["1"] > 2 * strength["2"]
    page.fill("#find", "edge")
    until(page, "document.getElementById('found').textContent.includes('1 cluster match')")
    assert page.locator("#outline-tree li.hit .name").all_inner_texts() == ["graph, edge"]
    assert page.locator("#outline-tree [role=treeitem]:visible").count() == 2
    until(page, "document.getElementById('tree-plot').data[0].marker.line.width.includes(2)")
    page.click("#clear")
    until(page, "document.getElementById('plot').dataset.standing === ''")
    assert page.locator("#outline-tree [role=treeitem]:visible").count() > 2


CARD = (255, 255, 255, 255)


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return float(np.linalg.norm(np.subtract(one, other)))


def test_the_colour_follows_the_menu_in_tree_map_and_legend(page, taxonomy):
    number = next(n for n, path in enumerate(taxonomy.points.path) if path == "1")
    before = (tiles(page)["1"]["colour"], pixel(page, number))
    seen = set()
    for measure in ("cohesion", "depth", "error_rate", "difficulty", "source"):
        page.select_option("#colour", measure)
        settle(page)
        shown = tiles(page)
        assert shown["1"]["colour"] != before[0]
        seen.add(shown["0.0"]["colour"])
    assert len(seen) >= 2
    assert [each.strip() for each in page.locator("#scale button").all_inner_texts()] == list(taxonomy.root.sources)
    page.select_option("#colour", "error_rate")
    settle(page)
    rates = [node.errors.rate for node in taxonomy.clusters if node.errors.rate is not None]
    assert f"{100 * max(rates):.0f} %" in page.inner_text("#scale")
    # The highest rate has the ramp's last colour, in the tree and on the map; a cluster without outputs is grey.
    assert max(rates) == taxonomy.by_path()["0.0"].errors.rate
    assert tiles(page)["0.0"]["colour"] == "#1d1147"
    assert tiles(page)["0.1"]["colour"] == "#b3b0a8"
    inside = [n for n, path in enumerate(taxonomy.points.path) if path == "0.0"]
    assert min(distance(pixel(page, n)[:3], (0x1D, 0x11, 0x47)) for n in inside) < 90


def test_hovering_a_tile_shows_a_central_text_as_text(page):
    page.evaluate("scrollTo(0, 0)")
    page.locator("#tree-plot g.slice", has_text="matrix").first.hover(position={"x": 12, "y": 8})
    until(
        page, "document.querySelector('#tree-plot .hoverlayer').textContent.includes('</script><script>window.pwned')"
    )
    assert page.locator("#tree-plot .hoverlayer img").count() == 0


def test_hovering_and_clicking_a_point_shows_its_text_as_text(page):
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    x, y = page.evaluate("document.getElementById('plot').placeOf(0)")
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_selector("#card", state="visible")
    assert page.inner_text("#card .text").startswith("</script><script>window.pwned")
    assert page.locator("#card img, #card script, #card b").count() == 0
    page.mouse.click(box["x"] + x, box["y"] + y)
    until(page, "document.querySelector('#panel h2').textContent === 'inverse'")
    page.mouse.move(5, 5)
    page.wait_for_selector("#card", state="hidden")


def test_the_map_moves_and_zooms_by_mouse_buttons_and_keys(page):
    page.locator("#plot").scroll_into_view_if_needed()
    first = page.evaluate("document.getElementById('plot').placeOf(3)")
    page.click("#map-in")
    zoomed = page.evaluate("document.getElementById('plot').placeOf(3)")
    assert zoomed != first
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    moved = page.evaluate("document.getElementById('plot').placeOf(3)")
    assert moved == pytest.approx([zoomed[0] - 60, zoomed[1]], abs=0.01)
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 50, steps=4)
    page.mouse.up()
    dragged = page.evaluate("document.getElementById('plot').placeOf(3)")
    assert dragged == pytest.approx([moved[0] + 50, moved[1] + 20], abs=0.5)
    page.focus("#plot")
    page.keyboard.press("0")
    assert page.evaluate("document.getElementById('plot').placeOf(3)") == pytest.approx(first)


def test_the_list_is_used_by_keyboard_alone(page):
    row(page, ROOT_ID).click()
    page.click("#close-all")
    page.locator("#outline-tree [data-node='0']").focus()

    def focused() -> str:
        return page.evaluate("document.activeElement.querySelector(':scope > .row .name').textContent")

    page.keyboard.press("ArrowDown")
    assert focused() == "matrix, vector"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert focused() == "inverse"
    page.keyboard.press("ArrowDown")
    assert focused() == HOSTILE_NAME
    page.keyboard.press("Enter")
    assert page.inner_text("#panel h2") == HOSTILE_NAME
    assert page.locator("#outline-tree [aria-selected=true]").count() == 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert focused() == "matrix, vector"
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    page.keyboard.press("End")
    assert focused() == "graph, edge"


def test_the_panel_leads_up_and_down(page, taxonomy):
    page.locator("#panel .kids button", has_text="matrix").click()
    assert page.inner_text("#panel h2") == "matrix, vector"
    assert page.locator("#panel .kids button").all_inner_texts() == ["inverse", HOSTILE_NAME]
    page.locator("#panel .kids button").nth(1).click()
    assert "id\n0.1" in page.inner_text("#panel dl")
    page.locator("#panel .trail button", has_text="matrix").click()
    assert page.inner_text("#panel h2") == "matrix, vector"
    texts = page.locator("#panel .texts").first.locator("blockquote").all_inner_texts()
    shown = [" ".join(printable(each.text).split()) for each in taxonomy.by_path()["0"].central]
    assert [" ".join(text.split()) for text in texts] == shown
    assert shown[0].startswith(HOSTILE_TEXT[:20])


def test_hostile_text_ran_nothing_and_one_file_was_requested(opened):
    # Last of the tests on this page: it sums up what all of them did.
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("script").count() == 3
    assert opened.page.locator("body img").count() == 0
    named = "buttons => buttons.map(button => button.dataset.title || button.getAttribute('aria-label'))"
    assert opened.page.locator(".modebar-btn").evaluate_all(named) == ["Download plot as a PNG"]
    assert opened.logged == []
    assert [request for request in opened.requested if not request.startswith("data:")] == [opened.requested[0]]
    assert opened.requested[0].startswith("file:")


def test_an_address_names_a_cluster(browser, page_file):
    visit = Visit(browser, page_file, "#cluster-0.0", viewport={"width": 900, "height": 700})
    assert visit.page.inner_text("#panel h2") == "inverse"
    visit.context.close()


def test_a_tap_on_a_phone_opens_a_cluster_and_its_description_is_one_tap_away(browser, page_file):
    visit = Visit(browser, page_file, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visit.page
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    x, y = page.evaluate("document.getElementById('plot').placeOf(40)")
    page.touchscreen.tap(box["x"] + x, box["y"] + y)
    until(page, "document.querySelector('#chosen .name').textContent === 'sentence, word'")
    assert page.is_visible("#card")
    page.tap("#chosen")
    until(page, "document.getElementById('panel').getBoundingClientRect().top < 200")
    assert visit.logged == []
    visit.context.close()


@pytest.mark.parametrize(("width", "first", "then"), [(360, "dark", "light"), (1280, "light", "dark")])
def test_it_fits_every_screen_in_both_schemes(browser, page_file, width, first, then):
    visit = Visit(browser, page_file, viewport={"width": width, "height": 800}, color_scheme=first)
    for scheme in (first, then):
        visit.page.emulate_media(color_scheme=scheme)
        settle(visit.page)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert brightness(visit.page) == [scheme == "light"] * 2
    # Chromium remarks that `brightness` reads the map twice.
    assert [line for line in visit.logged if "getImageData" not in line] == []
    visit.context.close()


def brightness(page: Any) -> list[bool]:
    """Whether the page's background and the map's corner are bright."""
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    corner = page.evaluate("[...document.getElementById('plot').getContext('2d').getImageData(1, 1, 1, 1).data]")
    return [sum(int(part) for part in re.findall(r"\d+", back)) > 3 * 128, sum(corner[:3]) > 3 * 128]
