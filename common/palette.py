"""Colours of figures on paper and of the dashboard: those of the pages' light theme (common/assets/page.js)."""

from __future__ import annotations

# Kinds; from the ninth on a marker's shape tells them apart.
COLOURS = ("#413fd2", "#f25e07", "#01a58c", "#591d08", "#7e87fd", "#046e84", "#ab361c", "#052e69")
# A measure from low to high: lightness falls all the way, so the order is seen by every eye and in grey.
RAMP = ("#c99a1c", "#d2622f", "#b3305f", "#6f2484", "#1d1147")
INK, SOFT, GREY, PAPER = "#1d2026", "#5b616e", "#b3b0a8", "#ffffff"
