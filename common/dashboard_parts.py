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
# Everything that Markdown, or Streamlit's own signs for icons, colours and formulas, could take for markup.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")


def safe(text: str, limit: int | None = None) -> str:
    """Untrusted text for an element that reads Markdown."""
    return _MARKDOWN.sub(r"\\\1", printable(shorten(text, limit)))


def plotly_safe(text: str, limit: int) -> str:
    """Untrusted text for Plotly, which reads a few HTML tags."""
    return str(escape(shorten(text, limit)))


def table(rows: Sequence[Mapping[str, Any]], **columns: Any) -> None:
    """A table that a click on a heading sorts; percentages and p-values are formatted by their column's name."""
    if not rows:
        st.info("No cluster passes the filters.")
        return
    formats = {name: _format(name) for name in rows[0] if _format(name)}
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", column_config={**formats, **columns})


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
)


def _format(name: str) -> Any:
    if name in _PERCENT or name.endswith(" %"):
        return st.column_config.NumberColumn(format="percent")
    return st.column_config.NumberColumn(format="%.3f") if name in _SMALL or name.endswith(" p") else None
