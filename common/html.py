"""Standalone HTML pages: escaping by construction, a strict Content-Security-Policy, Plotly and data inlined.

Markup is built with `tag`, which escapes every child that is not already `Html`; there is no template language and
no place where text becomes markup by accident. A page loads nothing: its policy forbids every request, and only the
scripts whose hash it names may run, so text that slipped through as markup would still be inert.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import escape as escape_entities
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parent / "assets"

# C0 and C1 controls but tab and newline, bidirectional embeddings, overrides and isolates (they reorder what is read
# after them), lone surrogates and noncharacters (no UTF-8 form, or a parse error). Shown as U+FFFD: never dropped.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
# Inside <script>, `</script>` and `<!--` end or change the element, and U+2028/9 end a line of JavaScript.
_JSON_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


class Html(str):
    """A string that is markup already; every other string is text and is escaped."""

    __slots__ = ()


def printable(text: str) -> str:
    """Untrusted text with what cannot or must not be displayed shown as U+FFFD; line ends become newlines."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def escape(value: object) -> Html:
    """`value` as markup: safe between tags and inside quoted attributes. `Html` passes unchanged."""
    return value if isinstance(value, Html) else Html(escape_entities(printable(str(value)), quote=True))


def join(parts: Iterable[object]) -> Html:
    """Parts after one another, each escaped unless it is `Html`."""
    return Html("".join(escape(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. `class_` and `data_path` are written `class` and `data-path`; True is a bare attribute, None none."""
    opening = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    written = name.rstrip("_").replace("_", "-")
    return f" {written}" if value is True else f' {written}="{escape(value)}"'


def table(headers: Sequence[object], rows: Iterable[Sequence[object]], numeric: Iterable[int] = ()) -> Html:
    """A table; `numeric` columns are right-aligned. On a narrow screen a row becomes a card (`data-label`)."""
    right = set(numeric)
    names = [str(header) for header in headers]

    def kind(place: int) -> str | None:
        return "number" if place in right else None

    def cells(row: Sequence[object]) -> Iterator[Html]:
        for place, (name, cell) in enumerate(zip(names, row, strict=True)):
            yield tag("td", cell, class_=kind(place), data_label=name)

    head = tag("tr", *(tag("th", name, scope="col", class_=kind(place)) for place, name in enumerate(names)))
    body = (tag("tr", *cells(row)) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def details(summary: object, *children: object, **attributes: object) -> Html:
    """Something folded away under a summary."""
    return tag("details", tag("summary", summary), *children, **attributes)


def corpus_text(text: str, limit: int | None = None, element: str = "blockquote") -> Html:
    """Text of a document, cut to `limit` characters; its writing direction cannot leave the element."""
    return tag(element, shorten(text, limit), dir="auto", class_="text")


def shorten(text: str, limit: int | None) -> str:
    """`text` with white space folded, at most `limit` characters, the last an ellipsis when something is missing."""
    # Folding all of a 10 MB text for its first line would be waste; white space may be long, hence the margin.
    head = " ".join(text[: None if limit is None else 8 * limit].split())
    if limit is None or (len(head) <= limit and len(text) <= 8 * limit):
        return head
    return head[: max(limit - 1, 0)].rstrip() + "…"


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no `<`, `>`, `&`, U+2028 or U+2029, and no unprintable text.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(_clean(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_JSON_ESCAPES)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(name)): _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def json_block(identifier: str, value: Any) -> Html:
    """Data for the page's scripts, in an element that is never executed."""
    return tag("script", Html(script_json(value)), type="application/json", id=identifier)


def asset(name: str) -> str:
    """A style sheet or script of ours."""
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def plotly_script() -> str:
    """The code of plotly.js, as the plotly package ships it."""
    from importlib.resources import files

    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _inline(name: str, code: str) -> Html:
    if f"</{name}" in code.lower() or "<!--" in code:
        raise ValueError(f"the code contains '</{name}' or '<!--' and cannot be inlined")
    return Html(f"<{name}>{code}</{name}>")


def _hash_source(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which only these scripts run and nothing is ever requested.

    Styles are free because Plotly writes style attributes; images may be `data:` and `blob:` because its
    save-as-picture button makes them. Neither scheme reaches the network.
    """
    allowed = " ".join(_hash_source(code) for code in scripts) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def section(identifier: str, title: str, *children: object) -> Html:
    """A titled section that the navigation links to."""
    heading = tag("h2", title, id=f"{identifier}-title")
    return tag("section", heading, *children, id=identifier, aria_labelledby=f"{identifier}-title")


def masthead(kind: str, title: str, *children: object, skip: tuple[str, str] = ("content", "the content")) -> Html:
    """The top of a page: what kind of page it is, its title, and what follows it.

    Args:
        skip: identifier and name of what a keyboard jumps to.
    """
    jump = tag("a", f"Skip to {skip[1]}", href=f"#{skip[0]}", class_="skip")
    return tag("header", jump, tag("p", kind, class_="eyebrow"), tag("h1", title), *children)


def tiles(facts: Iterable[tuple[str, object, object]]) -> Html:
    """Figures side by side: name, value, and a note in small print."""
    entries = (tag("div", tag("dt", name), tag("dd", value, tag("small", note))) for name, value, note in facts)
    return tag("dl", *entries, class_="tiles")


def contents(links: Iterable[tuple[str, str]]) -> Html:
    """Links to the sections of a page: identifier and title."""
    items = (tag("li", tag("a", title, href=f"#{target}")) for target, title in links)
    return tag("nav", tag("ul", *items), aria_label="Sections")


def page(
    title: str, sections: Iterable[object], *, styles: Sequence[str] = (), scripts: Sequence[str] = (), lang: str = "en"
) -> str:
    """A whole document. It is a function of its arguments: the same bytes for the same input.

    Args:
        title: text of the window's title.
        sections: children of the body, escaped unless they are `Html`.
        styles: style sheets, inlined after the shared one.
        scripts: code, inlined at the end of the body in this order and allowed by the page's policy.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Html(policy(scripts))),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        *(_inline("style", sheet) for sheet in (asset("page.css"), *styles)),
    )
    body = tag("body", *sections, *(_inline("script", code) for code in scripts))
    return f"<!doctype html>\n{tag('html', head, body, lang=lang)}\n"
