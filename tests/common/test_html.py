"""Pages: text is never markup, data is never code, and nothing is requested."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.html import (
    Html,
    corpus_text,
    details,
    escape,
    join,
    json_block,
    page,
    plotly_script,
    policy,
    printable,
    script_json,
    shorten,
    table,
    tag,
)

HOSTILE = [
    "</script><script>window.pwned=1</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "a\u2028b\u2029c",
    "safe\u202egnp.exe",
    "\x00\x1b[31m\x7f",
    "&lt;b&gt; & &amp;",
]


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, and the text outside scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_text_comes_back_as_text_from_content_and_attributes(text):
    seen = read(tag("p", text, title=text, data_path=text))
    assert seen.elements == [("p", {"title": printable(text), "data-path": printable(text)})]
    assert "".join(seen.text) == printable(text)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_a_parser_and_any_json_survives_a_script(text):
    assert "".join(read(tag("p", text)).text) == printable(text)
    written = script_json({"key": [text]})
    assert json.loads(written) == {"key": [printable(text)]}
    assert not re.search("[<>&\u2028\u2029]", written)


def test_unprintable_signs_are_shown_not_dropped():
    assert printable("a\u202eb\x00c\ud800d") == "a\ufffdb\ufffdc\ufffdd"
    assert printable("one\r\ntwo\rthree\tfour") == "one\ntwo\nthree\tfour"
    assert printable("שלום عربي 漢字 👩‍👧") == "שלום عربي 漢字 👩‍👧"


def test_markup_passes_only_as_html():
    inner = tag("b", "x < y")
    assert inner == "<b>x &lt; y</b>"
    assert tag("p", inner, "<i>") == "<p><b>x &lt; y</b>&lt;i&gt;</p>"
    assert escape(str(inner) + "") == "&lt;b&gt;x &amp;lt; y&lt;/b&gt;"
    assert isinstance(join([inner, 3]), Html)


def test_attributes_are_named_as_in_html_and_may_be_bare_or_absent():
    assert tag("input", type="search", for_="a", aria_label="b", hidden=True, id=None, disabled=False) == (
        '<input type="search" for="a" aria-label="b" hidden>'
    )


def test_a_table_has_a_head_and_names_its_cells():
    seen = read(table(("name", "rows"), [("<a>", 3), ("b", 4)], numeric=(1,)))
    assert [name for name, _ in seen.elements].count("tr") == 3
    cells = [attributes for name, attributes in seen.elements if name == "td"]
    assert cells[:2] == [{"data-label": "name"}, {"class": "number", "data-label": "rows"}]
    with pytest.raises(ValueError, match="zip"):
        table(("one",), [("a", "b")])


def test_a_fold_has_its_summary_first():
    assert details("more", tag("p", "text"), class_="node") == (
        '<details class="node"><summary>more</summary><p>text</p></details>'
    )


def test_corpus_text_is_cut_and_keeps_its_direction_to_itself():
    assert corpus_text("a  b\n c") == '<blockquote dir="auto" class="text">a b c</blockquote>'
    assert shorten("one two three", 8) == "one two…"
    assert shorten("one two", 8) == "one two"
    assert shorten("x" + " " * 1000 + "y", 10) == "x…"
    assert len(shorten("word " * 1_000_000, 200)) <= 200


def test_json_refuses_what_json_has_no_word_for():
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([float("nan")])


def test_a_json_block_cannot_be_left():
    seen = read(json_block("data", {"text": HOSTILE}))
    assert seen.elements == [("script", {"type": "application/json", "id": "data"})]
    assert json.loads("".join(seen.text)) == {"text": [printable(text) for text in HOSTILE]}


def test_the_policy_names_exactly_the_scripts_of_the_page():
    code = "window.ran = 1 < 2;"
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy([code])
    assert "script-src 'none';" in policy([])
    document = page("t", [tag("p", "x")], scripts=[code])
    metas = [attributes for name, attributes in read(document).elements if name == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": policy([code])} in metas
    assert policy([code]).startswith("default-src 'none';")
    assert "unsafe-inline'" not in policy([code]).split("script-src")[1].split(";")[0]


def test_a_page_is_a_function_of_its_arguments_and_loads_nothing():
    def make():
        return page("A <b> title", [tag("p", text) for text in HOSTILE], styles=["p { color: red }"])

    assert make() == make()
    seen = read(make())
    assert {"script", "link", "img", "iframe", "object", "svg"} & {name for name, _ in seen.elements} == set()
    assert all({"src", "href", "onload", "onerror"}.isdisjoint(attributes) for _, attributes in seen.elements)
    assert make().startswith("<!doctype html>\n<html lang=")
    make().encode("utf-8")


def test_code_that_would_end_its_own_element_is_refused():
    with pytest.raises(ValueError, match="cannot be inlined"):
        page("t", [], scripts=["'</script>'"])
    with pytest.raises(ValueError, match="cannot be inlined"):
        page("t", [], styles=["/* <!-- */"])


def test_plotly_is_at_hand_and_can_be_inlined():
    code = plotly_script()
    assert "plotly.js v" in code[:200]
    assert "</script" not in code.lower()
    assert "<!--" not in code
