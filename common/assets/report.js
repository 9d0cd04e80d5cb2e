/* Draws the map and the treemap of a report. */
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const points = data.points, total = points.x.length;
  const NOISE = data.groups.length; // noise is drawn as one more group, under the others

  const { COLOURS, SHAPES, CONFIG, touch, darkQuery, isDark, token, plain, clip, number, font, mix,
    inLines, markOf, median, coloursApart, hideTinyNames } = Page;
  const groupColour = (group) =>
    group < 0 || group === NOISE ? token("--noise") : COLOURS[isDark() ? "dark" : "light"][colourOf[group]];
  const groupShape = (group) => (group === NOISE ? "circle" : SHAPES[Math.floor(group / 8) % SHAPES.length]);

  /* --- the map ---------------------------------------------------------------------------------------------- */

  const groupOf = points.path.map((path) => (data.paths[path].group < 0 ? NOISE : data.paths[path].group));
  const members = Array.from({ length: NOISE + 1 }, () => []);
  groupOf.forEach((group, index) => members[group].push(index));
  const groupName = (group) => (group === NOISE ? (NOISE ? "noise, in no cluster" : "all chunks") : data.groups[group].name);
  const order = [NOISE, ...data.groups.keys()].filter((group) => members[group].length); // drawn in this order
  const visible = new Set(order);
  const haystack = points.text.map((text) => text.toLowerCase());
  let matching = null; // null: nothing is looked for

  const markerSize = total > 6000 ? 4 : total > 1500 ? 5 : 7;
  function traceOf(group) {
    const mine = members[group];
    return {
      type: "scatter", mode: "markers", name: plain(groupName(group)), hoverinfo: "none", visible: visible.has(group),
      x: mine.map((index) => points.x[index]), y: mine.map((index) => points.y[index]), customdata: mine,
      marker: {
        color: groupColour(group), symbol: groupShape(group),
        size: group === NOISE ? Math.max(3, markerSize - 1) : markerSize, opacity: group === NOISE ? 0.55 : 0.8,
        line: { width: 0 },
      },
    };
  }

  const centres = data.groups.map((_, group) => members[group].length && {
    x: median(members[group].map((index) => points.x[index])), y: median(members[group].map((index) => points.y[index])),
  });

  const colourOf = coloursApart(centres);

  // Names on the map, widest group first; one that would cover another is left to the legend.
  function labels(plot) {
    const layout = plot._fullLayout, taken = [];
    const shown = order.filter((group) => group !== NOISE && visible.has(group));
    return shown.sort((a, b) => members[b].length - members[a].length).flatMap((group) => {
      const text = clip(groupName(group), 30), { x, y } = centres[group];
      const left = layout.xaxis.l2p(x), top = layout.yaxis.l2p(y), half = text.length * 3.5 + 6;
      const box = { left: left - half, right: left + half, top: top - 11, bottom: top + 11 };
      const inside = box.left > 0 && box.right < layout.xaxis._length && top > 12 && top < layout.yaxis._length - 12;
      if (!inside || taken.some((o) => o.left < box.right && box.left < o.right && o.top < box.bottom && box.top < o.bottom)) return [];
      taken.push(box);
      return [{
        x, y, text: plain(text), showarrow: false, captureevents: false, borderpad: 2,
        font: { ...font(), weight: 600 },
      }];
    });
  }

  function mapLayout() {
    const axis = { visible: false, zeroline: false, automargin: false };
    return {
      paper_bgcolor: token("--card"), plot_bgcolor: token("--card"), font: font(), showlegend: false,
      margin: { l: 8, r: 8, t: 8, b: 8 }, hovermode: "closest", hoverdistance: 12, uirevision: "keep",
      xaxis: axis, yaxis: axis, dragmode: touch ? false : "zoom",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: token("--soft"), activecolor: token("--accent") },
    };
  }

  async function drawMap() {
    const plot = byId("plot");
    await Plotly.react(plot, order.map(traceOf), { ...mapLayout(), annotations: [] }, CONFIG);
    await placeLabels();
  }

  let placing = false;
  async function placeLabels() {
    if (placing) return;
    placing = true;
    const plot = byId("plot");
    await Plotly.relayout(plot, { annotations: labels(plot) });
    placing = false;
  }

  function showCard(event) {
    const point = event.points[0], index = point.customdata, card = byId("card"), frame = card.parentElement;
    const path = data.paths[points.path[index]];
    const row = (name, text) => {
      const line = document.createElement("div");
      line.className = name; line.dir = "auto"; line.textContent = text;
      return line;
    };
    const place = path.name ? (points.noise[index] ? `${path.name} › noise` : path.name) : groupName(NOISE);
    card.replaceChildren(row("where", place), row("from", data.sources[points.source[index]]), row("text", points.text[index]));
    card.hidden = false;
    const left = point.xaxis.l2p(point.x) + point.xaxis._offset, top = point.yaxis.l2p(point.y) + point.yaxis._offset;
    const beside = left + 14 + card.offsetWidth > frame.clientWidth ? left - 14 - card.offsetWidth : left + 14;
    card.style.left = `${Math.max(6, Math.min(beside, frame.clientWidth - card.offsetWidth - 6))}px`;
    card.style.top = `${Math.max(6, Math.min(top + 12, frame.clientHeight - card.offsetHeight - 6))}px`;
  }

  function drawLegend() {
    const entries = [...order.filter((group) => group !== NOISE), ...order.filter((group) => group === NOISE)];
    const buttons = entries.map((group) => {
      const button = document.createElement("button");
      button.type = "button"; button.dataset.group = group;
      const mark = markOf(groupShape(group));
      const label = Object.assign(document.createElement("span"), { className: "label", textContent: groupName(group), dir: "auto" });
      const count = Object.assign(document.createElement("span"), { className: "count", textContent: number(members[group].length) });
      button.append(mark, label, count);
      button.addEventListener("click", () => toggle(group));
      button.addEventListener("dblclick", () => only(group));
      return button;
    });
    const all = Object.assign(document.createElement("button"), { type: "button", textContent: "Show all", id: "show-all", hidden: true });
    all.addEventListener("click", () => showGroups(order));
    byId("legend").replaceChildren(...buttons, all);
    paintLegend();
  }

  function paintLegend() {
    for (const button of byId("legend").querySelectorAll("[data-group]")) {
      const group = Number(button.dataset.group);
      button.setAttribute("aria-pressed", String(visible.has(group)));
      button.querySelector("path").setAttribute("fill", groupColour(group));
    }
    byId("show-all").hidden = visible.size === order.length;
  }

  function showGroups(groups) {
    visible.clear();
    groups.forEach((group) => visible.add(group));
    paintLegend();
    return drawMap();
  }
  const toggle = (group) => showGroups(order.filter((other) => (other === group) !== visible.has(other)));
  const only = (group) => showGroups([group]);

  /* --- looking for points ----------------------------------------------------------------------------------- */

  // Marks the points' own elements: asking Plotly to style them again takes half a second for some thousand points.
  function mark() {
    const plot = byId("plot");
    plot.classList.toggle("seeking", matching !== null);
    for (const trace of plot.querySelectorAll(".scatterlayer .trace")) {
      const mine = trace.__data__[0].trace.customdata;
      for (const point of trace.querySelectorAll("path.point")) {
        point.classList.toggle("hit", Boolean(matching?.has(mine[point.__data__.i])));
      }
    }
  }

  function highlight(indices, words) {
    matching = indices && new Set(indices);
    byId("found").textContent = matching ? `${number(matching.size)} of ${number(total)} points ${words}` : `${number(total)} points shown`;
    byId("clear").hidden = !matching;
    mark();
  }

  function find() {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return highlight(null);
    const found = haystack.flatMap((text, index) => (words.every((word) => text.includes(word)) ? [index] : []));
    return highlight(found, "match");
  }

  function findCluster(path) {
    const inside = data.paths.map((entry) => entry.path === path || entry.path.startsWith(`${path}.`));
    byId("find").value = "";
    byId("map").scrollIntoView();
    return highlight([...points.path.keys()].filter((index) => inside[points.path[index]]), "are in the cluster");
  }

  /* --- the treemap ------------------------------------------------------------------------------------------ */

  function tileColour(tile) {
    if (!tile.parent) return token("--card");
    if (tile.noise || tile.group < 0) return mix(token("--noise"), token("--card"), 0.35);
    return mix(groupColour(tile.group), token("--card"), 0.3 - 0.04 * Math.min(tile.id.split(".").length - 1, 3));
  }

  // Plotly wraps no text. A tile with tiles inside has a heading of one line; any other name is broken into lines.
  const children = new Map();
  data.tree.forEach((tile) => children.set(tile.parent, [...(children.get(tile.parent) ?? []), tile]));
  function tileLabels(level) {
    const headings = new Set((children.get(level) ?? []).filter((tile) => children.has(tile.id)).map((tile) => tile.id));
    const widest = byId("treemap").clientWidth < 600 ? 15 : 34;
    return data.tree.map((tile) =>
      tile.id === level || headings.has(tile.id) ? plain(clip(tile.name, tile.id === level ? 60 : widest)) : inLines(tile.name));
  }

  async function drawTreemap() {
    const tiles = data.tree, level = byId("treemap").data?.[0].level || tiles[0].id;
    const trace = {
      type: "treemap", branchvalues: "total", sort: true, ids: tiles.map((tile) => tile.id), parents: tiles.map((tile) => tile.parent),
      labels: tileLabels(level), level, values: tiles.map((tile) => tile.value),
      text: tiles.map((tile) => number(tile.value)), customdata: tiles.map((tile) => plain(tile.name)), textinfo: "label+text",
      hovertemplate: "%{customdata}<br>%{text} chunks · %{percentParent:.0%} of its parent<extra></extra>",
      marker: {
        colors: tiles.map(tileColour), line: { width: 1.5, color: token("--back") }, pad: { t: 24, l: 4, r: 4, b: 4 }, cornerradius: 4,
      },
      textfont: font(), pathbar: { visible: true, thickness: 26, textfont: font(), side: "top" },
      maxdepth: 3, tiling: { pad: 2 }, root: { color: token("--card") },
      hoverlabel: { bgcolor: token("--card"), bordercolor: token("--line"), font: font() },
    };
    const layout = { margin: { l: 0, r: 0, t: 28, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", font: font() };
    await Plotly.react(byId("treemap"), [trace], layout, { ...CONFIG, displayModeBar: false });
    hideTinyNames(byId("treemap"));
  }

  /* --- wiring ----------------------------------------------------------------------------------------------- */

  const setOpen = (open) => document.querySelectorAll(".tree details").forEach((item) => { item.open = open; });
  let timer;
  byId("find").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 40); });
  byId("clear").addEventListener("click", () => { byId("find").value = ""; highlight(null); });
  byId("open-all").addEventListener("click", () => setOpen(true));
  byId("close-all").addEventListener("click", () => setOpen(false));
  document.querySelectorAll("[data-path]").forEach((button) => button.addEventListener("click", () => findCluster(button.dataset.path)));
  const redraw = () => { paintLegend(); return Promise.all([drawMap(), drawTreemap()]); };
  darkQuery.addEventListener("change", redraw);
  function forPaper(printing) {
    document.documentElement.classList.toggle("printing", printing);
    Plotly.Plots.resize(byId("plot"));
    Plotly.Plots.resize(byId("treemap"));
    redraw();
  }
  window.addEventListener("beforeprint", () => forPaper(true));
  window.addEventListener("afterprint", () => forPaper(false));

  drawLegend();
  drawMap().then(() => {
    const plot = byId("plot");
    plot.on("plotly_hover", showCard);
    plot.on("plotly_click", showCard);
    if (!touch) plot.on("plotly_unhover", () => { byId("card").hidden = true; });
    document.addEventListener("click", (event) => { byId("card").hidden ||= !plot.contains(event.target); });
    plot.on("plotly_afterplot", mark); // zooming draws the points anew
    plot.on("plotly_relayout", (change) => { if (!("annotations" in change)) placeLabels(); });
    return drawTreemap();
  }).then(() => {
    const treemap = byId("treemap");
    // The tiles of another level have headings; Plotly fits names anew only after its own last frame.
    treemap.on("plotly_animated", () => setTimeout(drawTreemap, 60));
    treemap.on("plotly_afterplot", () => hideTinyNames(treemap));
  }).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
