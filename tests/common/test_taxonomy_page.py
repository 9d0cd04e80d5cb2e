"""The taxonomy's page: text is text, data is data, nothing is requested, and large trees stay light."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from common.cluster_tree import ROOT_ID
from common.html import asset, plotly_script
from common.taxonomy import Errors, Points, Sample, Taxonomy, TaxonomyNode
from common.taxonomy_page import map_note, render, script_data, summary_sentence

HOSTILE = '</script><script>window.pwned=1</script><!-- <img src=x onerror="window.pwned=2"> \u202e & "quoted"'


def small() -> Taxonomy:
    text = Sample("c1", "s · p", HOSTILE)
    stages, sources = {"p": 10}, {"s · p": 10}
    nodes = (
        TaxonomyNode(
            ROOT_ID, None, 0, "all chunks", 10, 3, separation=0.12345, stages=stages, sources=sources
        ),
        TaxonomyNode(
            "0", ROOT_ID, 1, HOSTILE, 7, 0, 0.25, stopped="too small", keyphrases=(HOSTILE,), scores=(0.123456789,),
            central=(text,), random=(text,), stages={"p": 7}, sources={"s · p": 7},
            errors=Errors(4, 3, 1, 0.1, 0.9, None, 0.5),
        ),
    )  # fmt: skip
    places = ([0, 1], ["c1", "c2"], [0.12345, 1], [2, 3], ["0", ROOT_ID], [False, True])
    points = Points(*places, source=["s"] * 2, stage=["p"] * 2, text=[HOSTILE] * 2)
    return Taxonomy(f"run {HOSTILE}", nodes, points, "umap", 5, 1, "spotify", (f"beware {HOSTILE}",))


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_is_three_scripts_whatever_the_text_says():
    page = render(small(), 50)
    assert page.count("<script") == 3 + plotly_script().count("<script") + asset("taxonomy.js").count("<script")
    body = page.split("</head>")[1]
    assert "<img" not in body.replace(plotly_script(), "")
    assert "&lt;/script&gt;" in body
    assert "\u202e" not in page


def test_the_page_refers_to_nothing_outside():
    rest = render(small(), 50)
    for code in (plotly_script(), asset("page.js") + asset("taxonomy.js"), asset("taxonomy.css"), asset("page.css")):
        assert code in rest
        rest = rest.replace(code, "")
    assert not re.search(r"https?://|url\(|@import|<link|<\w+[^>]*\ssrc=", rest.replace(data_block(rest), ""))
    for name in ("taxonomy.js", "taxonomy.css"):
        assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp", asset(name))


def data_block(page: str) -> str:
    found = re.search(r'<script type="application/json".*?</script>', page, re.DOTALL)
    assert found
    return found[0]


def test_the_same_taxonomy_gives_the_same_bytes():
    assert render(small(), 50) == render(small(), 50)


def test_nodes_say_what_is_known_and_leave_out_the_rest():
    root, first = script_data(small(), 50)["nodes"]
    assert ("parent" in root, first["parent"]) == (False, 0)
    assert (root["separation"], "cohesion" in root, root["noise_share"]) == (0.123, False, 0.3)
    assert first["errors"] == [4, 3, 1, 0.1, 0.9, None]
    assert (first["error_rate"], first["difficulty"]) == (0.333, 0.5)
    assert (first["scores"], first["stopped"]) == ([0.12346], "too small")


def test_texts_stand_once_however_often_they_are_shown():
    found = script_data(small(), 50)
    assert len(found["texts"]) == 2
    first = found["nodes"][1]
    assert first["central"] == first["random"] == [[0, 1, 0]]
    assert found["sources"] == ["s · p"]


def test_points_carry_the_place_of_their_cluster_and_little_text():
    points = script_data(small(), 50)["points"]
    assert (points["node"], points["noise"], points["x"]) == ([1, 0], [0, 1], [0.123, 1.0])
    assert all(len(text) <= 50 for text in points["text"])


def test_menus_offer_what_there_is():
    page = render(small(), 50)
    assert '<option value="error_rate">error rate</option>' in page
    assert '<option value="stage">' not in page
    plain = small().nodes[0], replace(small().nodes[1], errors=None)
    staged = replace(plain[0], stages={"p": 5, "q": 5})
    page = render(replace(small(), nodes=(staged, plain[1])), 50)
    assert "error_rate" not in page.replace(asset("taxonomy.js"), "")
    assert '<option value="stage">training stage</option>' in page
    assert '<option value="stage:q">training stage q</option>' in page


def test_words_of_the_header():
    assert summary_sentence(small()) == "10 chunks in 1 cluster on 1 level; 30 % of the chunks are in no cluster."
    nowhere = replace(small().points, path=[ROOT_ID] * 2)
    alone = replace(small(), nodes=(replace(small().nodes[0], stopped="too few"),), points=nowhere)
    assert summary_sentence(alone) == "10 chunks; no clusters were found: too few."
    assert "no clusters were found" in render(alone, 50)
    assert map_note(small()).endswith("Not drawn: 5 chunks left out by sampling and 1 chunk without a vector.")


def test_five_hundred_clusters_and_twenty_thousand_points_weigh_less_than_12_mb():
    taxonomy = large()
    page = render(taxonomy, 160)
    assert len(taxonomy.nodes) == 501
    assert len(plotly_script()) < len(page.encode()) < 12_000_000
    assert len(data_of(page)["points"]["x"]) == 20_000


def large() -> Taxonomy:
    """20 clusters of 24 children, every text of 160 or 300 characters its own."""
    words = "a corpus chunk of ordinary length that goes on until it is cut " * 8
    nodes = [TaxonomyNode(ROOT_ID, None, 0, "all chunks", 20_000, 480, stages={"p": 20_000}, sources={"s · p": 20_000})]
    for top in range(20):
        family = [(f"{top}.{each}", str(top), 40) for each in range(24)]
        for path, parent, size in [(str(top), ROOT_ID, 976), *family]:
            shown = tuple(Sample(f"chunk {path} {each}", "s · p", f"{path} {each} {words}"[:300]) for each in range(10))
            nodes.append(
                TaxonomyNode(
                    path, parent, 1 + path.count("."), f"name of {path}", size, 16 if parent == ROOT_ID else 0, 0.5,
                    keyphrases=tuple(f"phrase {path} {each}" for each in range(10)), scores=(0.1,) * 10,
                    central=shown[:5], random=shown[5:], stages={"p": size}, sources={"s · p": size},
                )
            )  # fmt: skip
    ids = [str(number) for number in range(20_000)]
    paths = [nodes[1 + number % 500].path for number in range(20_000)]
    x = [(number * 37 % 1009) / 100 for number in range(20_000)]
    y = [(number * 101 % 1013) / 100 for number in range(20_000)]
    texts = [f"{number} {words}" for number in range(20_000)]
    points = Points(list(range(20_000)), ids, x, y, paths, [False] * 20_000, ["s"] * 20_000, ["p"] * 20_000, texts)
    return Taxonomy("large", tuple(nodes), points, "umap")
