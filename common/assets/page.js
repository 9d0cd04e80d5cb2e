/* Shared by the pages' scripts: colours of the theme, marks of groups, how text and numbers are written, Plotly's
   configuration. Corpus text reaches a page only through textContent, or through `plain`, which keeps Plotly from
   reading it as its pseudo-HTML. */
"use strict";
const Page = (() => {
  // Eight colours a theme, chosen so that the nearest two stay apart in normal, protan and deutan vision (OKLab
  // distance at least 0.16, tests/test_report.py); from the ninth group on the marker's shape tells them apart.
  const COLOURS = {
    light: ["#413fd2", "#f25e07", "#01a58c", "#591d08", "#7e87fd", "#046e84", "#ab361c", "#052e69"],
    dark: ["#82a7fe", "#fa8f16", "#19cba6", "#df433b", "#ffe72c", "#0b919a", "#915af3", "#69faff"],
  };
  const SHAPES = ["circle", "diamond", "triangle-up", "square", "cross", "star"];
  const OUTLINES = {
    circle: "M8 2a6 6 0 1 0 .01 0z", diamond: "M8 1l6 7-6 7-6-7z", "triangle-up": "M8 2l7 12H1z", square: "M3 3h10v10H3z",
    cross: "M6 1h4v5h5v4h-5v5H6v-5H1V6h5z", star: "M8 1l2 5 5 .4-4 3.300 1.300 5.300L8 12l-4.300 3 1.300-5.300-4-3.300L6 6z",
  };
  const darkQuery = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => darkQuery.matches && !document.documentElement.classList.contains("printing");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const clip = (text, limit) => (text.length > limit ? [...text].slice(0, limit - 1).join("").trimEnd() + "…" : text);
  const number = (value) => value.toLocaleString("en-GB");
  const font = () => ({ family: token("--sans"), color: token("--ink"), size: 12 });
  // A finger scrolls the page and taps points; Plotly takes one tap for a double click, which would undo a zoom.
  const touch = matchMedia("(pointer: coarse)").matches;
  // Plotly's default bar has a button that uploads the chart; the page names the buttons it wants instead.
  const CONFIG = {
    displaylogo: false, responsive: true, plotlyServerURL: "", doubleClick: touch ? false : "reset+autosize",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };

  const mix = (colour, back, part) => {
    const parse = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const [a, b] = [parse(colour), parse(back)];
    return `rgb(${a.map((value, channel) => Math.round(value * part + b[channel] * (1 - part))).join(",")})`;
  };

  function inLines(name) {
    const lines = [""];
    for (const word of clip(name, 60).split(" ")) {
      if (lines.at(-1) && lines.at(-1).length + word.length > 13) lines.push("");
      lines.push(`${lines.pop()} ${word}`.trim());
    }
    return lines.map(plain).join("<br>");
  }

  // Plotly shrinks a name until it fits its tile; one too small to read is hidden (hovering still tells it).
  function hideTinyNames(plot) {
    for (const text of plot.querySelectorAll("g.slicetext text")) {
      const height = text.getBoundingClientRect().height / (text.querySelectorAll("tspan").length || 1);
      text.style.opacity = height < 10 ? 0 : 1;
    }
  }

  const median = (values) => values.slice().sort((a, b) => a - b)[Math.floor(values.length / 2)];

  /* The colour's number of each group, from their places ({x, y}, or nothing for a group that is not drawn). Every
     eight groups use each colour once; groups of one colour, which differ only by shape, are kept far apart. */
  function coloursApart(centres) {
    const chosen = [];
    centres.forEach((here, group) => {
      const used = new Set(chosen.slice(group - (group % 8)));
      const nearest = (colour) => Math.min(...chosen.map((other, index) =>
        other === colour && here && centres[index] ? Math.hypot(here.x - centres[index].x, here.y - centres[index].y) : Infinity));
      const free = COLOURS.light.map((_, colour) => colour).filter((colour) => !used.has(colour));
      chosen.push(free.reduce((best, colour) => (nearest(colour) > nearest(best) ? colour : best)));
    });
    return chosen;
  }

  /* A group's mark as a small picture. */
  function markOf(shape, colour) {
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", "0 0 16 16"); picture.setAttribute("aria-hidden", "true");
    const outline = document.createElementNS("http://www.w3.org/2000/svg", "path");
    outline.setAttribute("d", OUTLINES[shape]);
    if (colour) outline.setAttribute("fill", colour);
    picture.append(outline);
    return picture;
  }

  return {
    COLOURS, SHAPES, OUTLINES, CONFIG, touch, darkQuery, isDark, token, plain, clip, number, font, mix, inLines, markOf,
    median, coloursApart, hideTinyNames,
  };
})();
