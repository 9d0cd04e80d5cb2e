"""What every view of the dashboard is made of: escaped text, sortable tables, settings of pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from common.html import escape, printable, shorten

# Plotly's default bar has a button that uploads the chart; the buttons are named instead.
PLOTLY = {
    "displaylogo": False,
    "plotlyServerURL": "",
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}
# Of a table; its frame takes three more.
ROW_PIXELS = 35
# Everything that Markdown, or Streamlit's own signs for icons, colours and formulas, could take for markup.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")


def safe(text: str, limit: int | None = None) -> str:
    """Untrusted text for an element that reads Markdown."""
    return _MARKDOWN.sub(r"\\\1", printable(shorten(text, limit)))


def plotly_safe(text: str, limit: int) -> str:
    """Untrusted text for Plotly, which reads a few HTML tags."""
    return str(escape(shorten(text, limit)))


def is_dark() -> bool:
    """Whether the page is shown on a dark ground."""
    return st.context.theme.type == "dark"


def table(rows: Sequence[Mapping[str, Any]], *, whole: bool = False, columns: Mapping[str, Any] | None = None) -> None:
    """A table that a click on a heading sorts; percentages and p-values are formatted by their column's name.

    Args:
        whole: as high as it is; else rows beyond the tenth are scrolled to.
        columns: settings of some columns.
    """
    if not rows:
        st.info("No cluster passes the filters.")
        return
    formats = {name: found for name in rows[0] if (found := _format(name, [row[name] for row in rows]))}
    height = ROW_PIXELS * (len(rows) + 1) + 3 if whole else "auto"
    config = {**formats, **(columns or {})}
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", height=height, column_config=config)


_PERCENT = ("share", "noise", "rate", "low", "high", "wrong %", "expected", "difficulty", "same", "by chance")
_SMALL = (
    "p",
    "q",
    "Holm p",
    "silhouette",
    "in projection",
    "of children",
    "V",
    "V corrected",
    "rho",
    "kappa",
    "distance",
    "rho low",
    "rho high",
    "rho at equal length",
    "its p",
)


def is_percent(name: str) -> bool:
    """Whether a column of that name holds shares, shown as percentages."""
    return name in _PERCENT or name.endswith(" %")


def _format(name: str, values: Sequence[Any]) -> Any:
    if is_percent(name):
        return st.column_config.NumberColumn(format="percent")
    if all(isinstance(value, int) for value in values):
        return st.column_config.NumberColumn(format="localized")
    return st.column_config.NumberColumn(format="%.3f") if name in _SMALL or name.endswith(" p") else None
