/* The taxonomy: one state (what is chosen, looked for, filtered, coloured by), four views of it that redraw from it:
   the picture of the tree (Plotly), the map (a canvas: 20,000 points stay quick), the list, and the panel. */
(() => {
  const {
    COLOURS, SHAPES, OUTLINES, CONFIG, touch, darkQuery, isDark, token, plain, clip, number, font, mix, inLines, markOf,
    median, coloursApart, hideTinyNames,
  } = Page;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { nodes, points, texts, sources, stages, measures } = data;
  const total = points.x.length, ROOT = 0;

  const children = nodes.map(() => []);
  nodes.forEach((node, index) => { if (index) children[node.parent].push(index); });
  const chain = (index) => (index === ROOT ? [] : [...chain(nodes[index].parent), index]); // depth 1 down to index
  const topOf = nodes.map((_, index) => chain(index)[0] ?? -1);
  const groupNumber = new Map(children[ROOT].map((index, place) => [index, place]));
  const wayTo = (index) => chain(index).map((step) => nodes[step].name).join(" › ");
  const percent = (part, whole) => {
    const value = whole ? (100 * part) / whole : 0;
    return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
  };
  const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
  const inside = (above) => nodes.map((node, index) => above === ROOT || index === above || node.path.startsWith(`${nodes[above].path}.`));

  const state = {
    view: "treemap", level: ROOT, chosen: ROOT, colour: "cluster", only: "", smallest: 1, words: [], hits: null, found: null, levels: 1,
  };

  /* An element with properties, attributes (`data_x`, `aria_x`) and children; strings become text, never markup. */
  function make(name, given, ...inner) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(given ?? {})) {
      if (/^(data|aria)_|^role$/.test(key)) element.setAttribute(key.replace("_", "-"), value);
      else if (key === "style") Object.assign(element.style, value);
      else if (value !== undefined) element[key] = value;
    }
    element.append(...inner.flat().filter((each) => each !== null && each !== undefined && each !== ""));
    return element;
  }

  /* --- counts under the filter ------------------------------------------------------------------------------ */

  const tally = (node, what, place) => node[what]?.find(([each]) => each === place)?.[1] ?? 0;
  function countOf(index) {
    const node = nodes[index];
    if (!state.only) return node.size;
    const [what, name] = [state.only.slice(0, state.only.indexOf(":")), state.only.slice(state.only.indexOf(":") + 1)];
    return what === "stage" ? tally(node, "stages", stages.indexOf(name)) : tally(node, "sources", sources.indexOf(name));
  }
  const isShown = (index) => countOf(index) >= Math.max(1, state.smallest);
  const noiseOf = (index) => (children[index].length ? countOf(index) - children[index].reduce((sum, child) => sum + countOf(child), 0) : 0);

  /* --- colours ---------------------------------------------------------------------------------------------- */

  // Lightness runs one way, so the order is seen by every eye and in grey; both ends stand out from the page.
  const RAMPS = {
    light: ["#c99a1c", "#d2622f", "#b3305f", "#6f2484", "#1d1147"],
    dark: ["#6a55a8", "#b04a8c", "#e5655f", "#f8a73c", "#fdf3a0"],
  };
  const theme = () => (isDark() ? "dark" : "light");
  function ramp(part) {
    const stops = RAMPS[theme()], at = Math.min(Math.max(part, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    return hexOf(mix(stops[low + 1], stops[low], at - low));
  }
  const hexOf = (rgb) => `#${rgb.match(/\d+/g).map((value) => Number(value).toString(16).padStart(2, "0")).join("")}`;

  const rangeOf = (key) => {
    const values = nodes.slice(1).map((node) => node[key]).filter((value) => value !== undefined);
    const low = key === "noise_share" ? 0 : Math.min(...values);
    return { low, high: Math.max(...values) };
  };
  const ranges = Object.fromEntries(Object.keys(measures).map((key) => [key, rangeOf(key)]));
  function measured(index, key) {
    const value = nodes[index][key], { low, high } = ranges[key];
    return value === undefined ? token("--noise") : ramp(high > low ? (value - low) / (high - low) : 0.5);
  }

  const members = new Map();
  function membersOf(index) {
    if (!members.has(index)) {
      const within = inside(index);
      members.set(index, [...points.x.keys()].filter((point) => within[points.node[point]]));
    }
    return members.get(index);
  }
  const centreOf = (index) => {
    const mine = membersOf(index);
    return mine.length ? { x: median(mine.map((point) => points.x[point])), y: median(mine.map((point) => points.y[point])) } : null;
  };
  const groupColours = coloursApart(children[ROOT].map(centreOf));
  const category = (place) => ({ colour: COLOURS[theme()][place % 8], shape: SHAPES[Math.floor(place / 8) % SHAPES.length] });
  function clusterStyle(index) {
    const place = groupNumber.get(topOf[index]);
    if (place === undefined) return { colour: token("--noise"), shape: "circle" };
    return { colour: COLOURS[theme()][groupColours[place]], shape: SHAPES[Math.floor(place / 8) % SHAPES.length] };
  }

  /* Colour and shape of a point, by its number. */
  function pointStyle(point) {
    const index = points.node[point];
    if (state.colour === "cluster") return clusterStyle(index);
    if (state.colour === "source") return category(points.source[point]);
    if (state.colour === "stage") return category(points.stage[point]);
    return { colour: index === ROOT ? token("--noise") : measured(index, state.colour), shape: "circle" };
  }

  /* A tile's colour. A pale one for kinds, so that names are read on it; a full one for a measure. */
  function tileColour(tile) {
    const card = token("--card");
    if (tile.kind !== "node") return mix(token("--noise"), card, 0.3);
    if (tile.index === ROOT) return card;
    if (state.colour === "cluster") return mix(clusterStyle(tile.index).colour, card, 0.34 - 0.05 * Math.min(nodes[tile.index].depth - 1, 3));
    if (state.colour === "source" || state.colour === "stage") {
      const [place, count] = nodes[tile.index][state.colour === "source" ? "sources" : "stages"][0];
      return mix(category(place).colour, card, 0.08 + 0.4 * (count / nodes[tile.index].size));
    }
    return measured(tile.index, state.colour);
  }

  const shades = (colour) => (colour.startsWith("#") ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) : colour.match(/\d+/g).map(Number));
  function inkOn(colour) {
    const [r, g, b] = shades(colour).map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.2 ? "#16181c" : "#ffffff";
  }

  function drawScale() {
    const key = state.colour, frame = byId("scale");
    if (key === "cluster") {
      const words = children[ROOT].length ? "A colour and shape for each cluster at the top level, as in the list; grey: in no cluster." : "";
      frame.replaceChildren(make("span", {}, words));
    } else if (key === "source" || key === "stage") {
      const names = key === "source" ? sources : stages;
      frame.replaceChildren(...names.map((name, place) => {
        const pressed = state.only === `${key}:${name}`, { colour, shape } = category(place);
        return make("button", { type: "button", dir: "auto", aria_pressed: pressed, onclick: () => setOnly(pressed ? "" : `${key}:${name}`) },
          markOf(shape, colour), name);
      }), make("span", {}, "A cluster has the colour of its most frequent one, paler the more it is mixed."));
    } else {
      const { low, high } = ranges[key], stops = [0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ");
      const shown = (value) => (/error_rate|difficulty|noise_share/.test(key) ? percent(value, 1) : key === "depth" ? value : value.toFixed(2));
      frame.replaceChildren(
        make("span", {}, `${measures[key].title}: ${shown(low)}`), make("span", { className: "ramp", style: { background: `linear-gradient(to right, ${stops})` } }),
        make("span", {}, shown(high)), make("span", {}, make("span", { className: "swatch", style: { background: token("--noise") } }), "none"),
        make("span", {}, `${measures[key].note}.`));
    }
  }

  /* --- the picture of the tree ------------------------------------------------------------------------------ */

  // With branchvalues "total" Plotly draws nothing when children exceed their parent and an unlabelled gap when they
  // fall short: noise, and clusters too small to be shown, are tiles of their own, and every sum holds exactly.
  function tilesOf() {
    const rows = [];
    const add = (index, parent) => {
      const node = nodes[index], value = countOf(index);
      rows.push({ id: node.path, parent, name: node.name, value, index, kind: "node" });
      const small = children[index].filter((child) => !isShown(child));
      children[index].filter(isShown).forEach((child) => add(child, node.path));
      const rest = small.reduce((sum, child) => sum + countOf(child), 0), noise = noiseOf(index);
      if (rest) rows.push({ id: `${node.path}/small`, parent: node.path, name: counted(small.filter(countOf).length, "smaller cluster"), value: rest, index, kind: "small" });
      if (noise) rows.push({ id: `${node.path}/noise`, parent: node.path, name: "noise", value: noise, index, kind: "noise" });
    };
    if (countOf(ROOT)) add(ROOT, "");
    return rows;
  }

  // A few lines of a cluster's most central text, for hovering.
  function hint(tile) {
    const [first] = tile.kind === "node" ? nodes[tile.index].central ?? [] : [];
    const words = first ? clip(texts[first[0]], 180).split(" ") : [], lines = [""];
    for (const word of words) {
      if (lines.at(-1).length + word.length > 56) lines.push("");
      lines.push(`${lines.pop()} ${clip(word, 56)}`.trim());
    }
    return words.length ? `<br>“${lines.map(plain).join("<br>")}”` : "";
  }

  const deepestBelow = (index) => Math.max(0, ...children[index].map((child) => 1 + deepestBelow(child)));

  async function drawTree() {
    const tiles = tilesOf(), plot = byId("tree-plot"), whole = countOf(ROOT), level = nodes[state.level].path;
    const parents = new Set(tiles.map((tile) => tile.parent));
    const deepest = nodes[state.level].depth + state.levels; // its tiles show their name in full, with no tiles inside
    const heading = (tile) => tile.id === level || (state.view === "treemap" && parents.has(tile.id) && nodes[tile.index].depth < deepest);
    const narrow = plot.clientWidth < 600, faded = state.hits !== null;
    const colours = tiles.map((tile) => {
      const colour = tileColour(tile);
      return faded && !(tile.kind === "node" && state.hits.has(tile.index)) ? mix(colour.startsWith("#") ? colour : hexOf(colour), token("--card"), 0.18) : colour;
    });
    const wide = Math.max(8, Math.floor(plot.clientWidth / (Math.min(state.levels, deepestBelow(state.level)) + 1) / 7)); // letters in a column
    const label = (tile) => {
      if (state.view === "icicle" && !narrow) return plain(`${clip(tile.name, wide - 6)}  ${number(tile.value)}`);
      return heading(tile) ? plain(clip(tile.name, narrow ? 24 : 44)) : inLines(tile.name);
    };
    const outlined = (tile) => tile.kind === "node" && (tile.index === state.chosen && tile.index !== ROOT);
    const hit = (tile) => faded && tile.kind === "node" && state.hits.has(tile.index);
    const treemap = state.view === "treemap";
    const trace = {
      type: state.view, branchvalues: "total", sort: true, level, maxdepth: state.levels + 1,
      ids: tiles.map((tile) => tile.id), parents: tiles.map((tile) => tile.parent), values: tiles.map((tile) => tile.value),
      labels: tiles.map(label),
      text: tiles.map((tile) => number(tile.value)), textinfo: treemap || (state.view === "icicle" && narrow) ? "label+text" : "label",
      customdata: tiles.map((tile) => [tile.index, plain(clip(tile.kind === "node" ? wayTo(tile.index) || tile.name : tile.name, 160)), percent(tile.value, whole), hint(tile)]),
      hovertemplate: "<b>%{customdata[1]}</b><br>%{text} chunks · %{customdata[2]}%{customdata[3]}<extra></extra>",
      marker: {
        colors: colours,
        line: {
          width: tiles.map((tile) => (outlined(tile) ? 3 : hit(tile) ? 2 : 1)),
          color: tiles.map((tile) => (outlined(tile) || hit(tile) ? token("--ink") : token("--back"))),
        },
        ...(treemap ? { pad: { t: 22, l: 3, r: 3, b: 3 }, cornerradius: 4 } : {}),
      },
      ...(treemap ? {} : { leaf: { opacity: 1 } }),
      textfont: { ...font(), color: colours.map(inkOn) }, insidetextfont: { ...font(), color: colours.map(inkOn) },
      hoverlabel: { bgcolor: token("--card"), bordercolor: token("--line"), font: font(), align: "left" },
      ...(state.view === "sunburst" ? { insidetextorientation: "auto" } : {
        pathbar: { visible: false }, tiling: treemap ? { pad: 2 } : { orientation: narrow ? "v" : "h", pad: 1 }, root: { color: token("--card") },
      }),
    };
    const layout = { margin: { l: 0, r: 0, t: 2, b: 2 }, paper_bgcolor: "rgba(0,0,0,0)", font: font() };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: token("--soft"), activecolor: token("--accent") };
    await Plotly.react(plot, tiles.length ? [trace] : [], layout, { ...CONFIG, modeBarButtons: [["toImage"]] });
    hideTinyNames(plot);
    byId("up").disabled = state.level === ROOT;
  }

  function clickTile(event) {
    const tile = event.points?.[0];
    if (!tile?.id) return false;
    const path = tile.id.split("/")[0], index = nodes.findIndex((node) => node.path === path);
    // A click on the tile at the top of the picture goes up, one on another cluster into it.
    if (path === tile.id && children[index].length) state.level = index === state.level && index !== ROOT ? nodes[index].parent : index;
    choose(path === tile.id && index === ROOT ? ROOT : index);
    return false; // Plotly's own zoom would need three quarters of a second and forget the filters
  }

  /* --- the map ---------------------------------------------------------------------------------------------- */

  const canvas = byId("plot"), brush = canvas.getContext("2d");
  const extent = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [left, right] = total ? extent(points.x) : [0, 1], [bottom, top] = total ? extent(points.y) : [0, 1];
  const span = Math.max(right - left, top - bottom, 1e-9);
  // Centre in data units, and how many times the whole map's size is drawn.
  const view = { x: (left + right) / 2, y: (bottom + top) / 2, zoom: 1 };
  const unit = () => (Math.min(canvas.clientWidth / Math.max(right - left, span / 50), canvas.clientHeight / Math.max(top - bottom, span / 50)) * 0.94) * view.zoom;
  const toScreen = (x, y) => [canvas.clientWidth / 2 + (x - view.x) * unit(), canvas.clientHeight / 2 - (y - view.y) * unit()];
  canvas.placeOf = (point) => toScreen(points.x[point], points.y[point]); // where a point is drawn, in CSS pixels

  const stamps = new Map();
  function stamp(colour, shape, size, ratio) {
    const key = `${colour} ${shape} ${size} ${ratio}`;
    if (!stamps.has(key)) {
      const picture = document.createElement("canvas"), side = Math.ceil((size + 2) * ratio);
      picture.width = picture.height = side;
      const ink = picture.getContext("2d");
      ink.scale(side / 16, side / 16);
      ink.fillStyle = colour;
      ink.fill(new Path2D(OUTLINES[shape]));
      stamps.set(key, picture);
    }
    return stamps.get(key);
  }

  /* Which points stand out: those that match what is looked for, else those of the chosen cluster; null for all. */
  function standing() {
    if (state.found) return state.found;
    return state.chosen === ROOT ? null : new Set(membersOf(state.chosen));
  }
  const passes = (point) => {
    if (!state.only) return true;
    return state.only.startsWith("stage:") ? stages[points.stage[point]] === state.only.slice(6) : sources[points.source[point]] === state.only.slice(7);
  };

  let pending = false;
  function drawMap() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; paint(); });
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.fillStyle = token("--card");
    brush.fillRect(0, 0, canvas.width, canvas.height);
    const stand = standing(), size = Math.min((total > 10000 ? 5 : total > 3000 ? 6 : total > 1000 ? 7.5 : 10) * Math.sqrt(view.zoom), 14);
    const visible = [...points.x.keys()].filter(passes);
    const faint = visible.filter((point) => stand ? !stand.has(point) : points.node[point] === ROOT);
    const clear = visible.filter((point) => stand ? stand.has(point) : points.node[point] !== ROOT);
    const styles = new Map();
    const styleOf = (point) => {
      const key = state.colour === "source" ? points.source[point] : state.colour === "stage" ? points.stage[point] : points.node[point];
      if (!styles.has(key)) styles.set(key, pointStyle(point));
      return styles.get(key);
    };
    const put = (chosen, alpha, scale) => {
      brush.globalAlpha = alpha;
      for (const point of chosen) {
        const [x, y] = toScreen(points.x[point], points.y[point]);
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        const { colour, shape } = styleOf(point), mark = stamp(colour, shape, size * scale, ratio);
        brush.drawImage(mark, Math.round(x * ratio - mark.width / 2), Math.round(y * ratio - mark.height / 2));
      }
      brush.globalAlpha = 1;
    };
    put(faint, stand ? 0.12 : 0.5, stand ? 1 : 0.8);
    put(clear, stand && clear.length < 400 ? 1 : 0.8, stand && clear.length < 400 ? 1.35 : 1);
    canvas.dataset.shown = visible.length;
    canvas.dataset.standing = stand ? clear.length : "";
    writeNames(ratio);
  }

  /* Names of the clusters in question, widest first; one that would cover another is left out. */
  function writeNames(ratio) {
    const chosen = children[state.chosen].length ? children[state.chosen] : state.chosen === ROOT ? [] : [state.chosen];
    const wanted = (state.hits ? [...state.hits].filter((index) => index !== ROOT) : chosen).filter(isShown);
    const taken = [];
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.font = `600 12px ${token("--sans")}`;
    brush.textAlign = "center"; brush.textBaseline = "middle"; brush.lineJoin = "round";
    for (const index of wanted.sort((a, b) => countOf(b) - countOf(a)).slice(0, 60)) {
      const centre = centreOf(index);
      if (!centre) continue;
      const text = clip(nodes[index].name, 30), [x, y] = toScreen(centre.x, centre.y), half = brush.measureText(text).width / 2 + 5;
      const box = { left: x - half, right: x + half, top: y - 10, bottom: y + 10 };
      if (box.left < 0 || box.right > canvas.clientWidth || box.top < 0 || box.bottom > canvas.clientHeight) continue;
      if (taken.some((o) => o.left < box.right && box.left < o.right && o.top < box.bottom && box.top < o.bottom)) continue;
      taken.push(box);
      brush.strokeStyle = token("--card"); brush.lineWidth = 4; brush.strokeText(text, x, y);
      brush.fillStyle = token("--ink"); brush.fillText(text, x, y);
    }
  }

  function nearest(x, y, reach) {
    const stand = standing();
    let best = -1, least = reach * reach;
    for (let point = 0; point < total; point += 1) {
      const [px, py] = toScreen(points.x[point], points.y[point]);
      // A point that stands out is meant rather than a faint one beside it.
      const away = (px - x) ** 2 + (py - y) ** 2 + (stand && !stand.has(point) ? 16 : 0);
      if (away < least && passes(point)) [best, least] = [point, away];
    }
    return best;
  }

  function showCard(point) {
    const card = byId("card"), frame = card.parentElement, index = points.node[point];
    const noisy = points.noise[point] && children[index].length;
    const place = index === ROOT ? (noisy ? "noise, in no cluster" : nodes[ROOT].name) : `${wayTo(index)}${noisy ? " › noise" : ""}`;
    card.replaceChildren(
      make("div", { className: "where", dir: "auto" }, place), make("div", { className: "from", dir: "auto" }, sources[points.source[point]]),
      make("div", { className: "text", dir: "auto" }, points.text[point]));
    card.hidden = false;
    const [x, y] = canvas.placeOf(point);
    const beside = x + 14 + card.offsetWidth > frame.clientWidth ? x - 14 - card.offsetWidth : x + 14;
    card.style.left = `${Math.max(6, Math.min(beside, frame.clientWidth - card.offsetWidth - 6))}px`;
    card.style.top = `${Math.max(6, Math.min(y + 12, frame.clientHeight - card.offsetHeight - 6))}px`;
  }
  const hideCard = () => { byId("card").hidden = true; };

  function zoomAt(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const before = unit(), zoom = Math.min(Math.max(view.zoom * factor, 0.5), 200);
    const dx = (x - canvas.clientWidth / 2) / before, dy = (y - canvas.clientHeight / 2) / before;
    const kept = 1 - view.zoom / zoom;
    view.x += dx * kept; view.y -= dy * kept; view.zoom = zoom;
    hideCard(); drawMap();
  }
  function moveBy(dx, dy) { view.x -= dx / unit(); view.y += dy / unit(); hideCard(); drawMap(); }
  function showAll() { Object.assign(view, { x: (left + right) / 2, y: (bottom + top) / 2, zoom: 1 }); hideCard(); drawMap(); }

  const fingers = new Map();
  let moved = false;
  function pointerDown(event) {
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = false;
    if (event.pointerType !== "touch") { canvas.setPointerCapture(event.pointerId); canvas.classList.add("moving"); }
  }
  function pointerMove(event) {
    const here = [event.offsetX, event.offsetY], before = fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "touch") return;
      const point = nearest(...here, 12);
      canvas.classList.toggle("near", point >= 0);
      if (point >= 0) showCard(point); else hideCard();
      return;
    }
    const [dx, dy] = [here[0] - before[0], here[1] - before[1]];
    if (Math.hypot(dx, dy) < 3 && !moved) return;
    moved = true;
    if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(here[0] - other[0], here[1] - other[1]);
      if (was > 0 && is > 0) zoomAt(is / was, (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
      moveBy(dx / 2, dy / 2);
    } else if (event.pointerType !== "touch") moveBy(dx, dy);
    fingers.set(event.pointerId, here);
  }
  function pointerUp(event) {
    const known = fingers.delete(event.pointerId);
    canvas.classList.remove("moving");
    if (!known || moved || event.type === "pointercancel") return;
    const point = nearest(event.offsetX, event.offsetY, event.pointerType === "touch" ? 24 : 12);
    if (point < 0) { hideCard(); return; }
    choose(points.node[point], { keepSearch: true });
    showCard(point);
  }

  function mapKey(event) {
    const step = 60, keys = {
      ArrowLeft: () => moveBy(step, 0), ArrowRight: () => moveBy(-step, 0), ArrowUp: () => moveBy(0, step), ArrowDown: () => moveBy(0, -step),
      "+": () => zoomAt(1.4), "=": () => zoomAt(1.4), "-": () => zoomAt(1 / 1.4), 0: showAll, Escape: hideCard,
    };
    if (keys[event.key] && !event.ctrlKey && !event.metaKey) { event.preventDefault(); keys[event.key](); }
  }

  function saveMap() {
    canvas.toBlob((blob) => {
      const link = make("a", { href: URL.createObjectURL(blob), download: "map.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  /* --- the list --------------------------------------------------------------------------------------------- */

  const items = [];
  function buildOutline(index, list) {
    const node = nodes[index], open = index === ROOT;
    const twist = make("span", { className: "twist", ariaHidden: "true" }, children[index].length ? "▸" : "");
    const row = make("div", { className: "row" }, twist, make("span", { className: "mark" }), make("span", { className: "name", dir: "auto" }, node.name),
      make("span", { className: "bit", ariaHidden: "true" }, make("i")), make("span", { className: "count" }));
    const item = make("li", { role: "treeitem", tabIndex: index ? -1 : 0, aria_selected: "false", aria_level: node.depth + 1 }, row);
    item.dataset.node = index;
    items[index] = item;
    list.append(item);
    if (children[index].length) {
      item.setAttribute("aria-expanded", String(open));
      const below = make("ul", { role: "group", hidden: !open });
      children[index].forEach((child) => buildOutline(child, below));
      below.append(make("li", { role: "none", className: "rest" }));
      item.append(below);
    }
  }
  const groupOf = (item) => item.querySelector(":scope > ul");
  function unfold(index, open) {
    const item = items[index], below = groupOf(item);
    if (!below) return;
    below.hidden = !open;
    item.setAttribute("aria-expanded", String(open));
    item.querySelector(".twist").textContent = open ? "▾" : "▸";
  }
  const reveal = (index) => { if (index !== ROOT) { unfold(nodes[index].parent, true); reveal(nodes[index].parent); } };

  function drawOutline() {
    const whole = countOf(ROOT);
    const near = state.hits && new Set([...state.hits].flatMap((index) => [ROOT, ...chain(index)]));
    nodes.forEach((node, index) => {
      const item = items[index], count = countOf(index), mark = item.querySelector(".mark");
      item.hidden = index !== ROOT && (!isShown(index) || Boolean(near && !near.has(index)));
      item.classList.toggle("hit", Boolean(state.hits?.has(index)));
      item.querySelector(".count").textContent = `${number(count)} · ${percent(count, whole)}`;
      item.querySelector(".bit > i").style.width = `${whole ? (100 * count) / whole : 0}%`;
      item.setAttribute("aria-label", `${node.name}, ${counted(count, "chunk")}`);
      const { colour, shape } = clusterStyle(index);
      mark.replaceChildren(...(node.depth === 1 ? [markOf(shape, colour)] : []));
      const rest = groupOf(item)?.querySelector(":scope > .rest");
      if (rest) {
        const hidden = near ? 0 : children[index].filter((child) => !isShown(child) && countOf(child)).length, noise = noiseOf(index);
        const words = [noise && `noise, in none of these: ${number(noise)}`, hidden && `${counted(hidden, "smaller cluster")} not shown`];
        rest.textContent = words.filter(Boolean).join(" · ");
        rest.hidden = !rest.textContent;
      }
    });
    if (near) near.forEach((index) => unfold(index, [...state.hits].some((hit) => hit !== index && chain(hit).includes(index)) || index === ROOT));
  }

  const shownItems = () => [...byId("outline-tree").querySelectorAll("[role=treeitem]")].filter((item) => !item.hidden && !item.parentElement.closest("[hidden]"));
  function focusItem(item) {
    byId("outline-tree").querySelectorAll("[role=treeitem][tabindex='0']").forEach((each) => { each.tabIndex = -1; });
    item.tabIndex = 0;
    item.focus();
  }
  function outlineKey(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(item.dataset.node), all = shownItems(), at = all.indexOf(item);
    const expanded = item.getAttribute("aria-expanded");
    const keys = {
      ArrowDown: () => all[at + 1] && focusItem(all[at + 1]), ArrowUp: () => all[at - 1] && focusItem(all[at - 1]),
      Home: () => focusItem(all[0]), End: () => focusItem(all.at(-1)), Enter: () => choose(index), " ": () => choose(index),
      ArrowRight: () => { if (expanded === "false") unfold(index, true); else if (expanded === "true" && all[at + 1]) focusItem(all[at + 1]); },
      ArrowLeft: () => { if (expanded === "true") unfold(index, false); else if (index !== ROOT) focusItem(items[nodes[index].parent]); },
    };
    if (keys[event.key]) { event.preventDefault(); event.stopPropagation(); keys[event.key](); }
  }
  function outlineClick(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item) return;
    const index = Number(item.dataset.node);
    if (event.target.closest(".twist") && children[index].length) { unfold(index, item.getAttribute("aria-expanded") !== "true"); return; }
    focusItem(item);
    choose(index);
  }

  /* --- the panel -------------------------------------------------------------------------------------------- */

  const fact = (name, value) => (value === undefined || value === "" ? [] : [make("dt", {}, name), make("dd", {}, value)]);
  const figure = (value) => (value === undefined ? "" : value.toFixed(2));
  const pair = (plainOne, projected) => (plainOne === undefined ? "" : `${figure(plainOne)}${projected === undefined ? "" : ` (${figure(projected)} in the projection)`}`);
  function bars(rows) {
    const most = Math.max(...rows.map((row) => row.part), 1e-12);
    return make("div", { className: "bars" }, rows.flatMap(({ name, part, text }) => [
      make("bdi", {}, name), make("span", { className: "meter" }, make("i", { style: { width: `${(100 * part) / most}%` } })), make("span", { className: "figure" }, text),
    ]));
  }
  const shareBars = (rows, names, whole) => bars(rows.slice(0, 12).map(([place, count]) => ({ name: names[place], part: count, text: percent(count, whole) })));
  const sampleBlock = (title, samples, open) => samples?.length && make("details", { className: "texts", open },
    make("summary", {}, `${title} (${samples.length})`),
    samples.flatMap(([text, id, source]) => [
      make("blockquote", { className: "text", dir: "auto" }, texts[text]), make("div", { className: "id" }, `${texts[id]} · ${sources[source]}`),
    ]));

  function errorFacts(node) {
    if (!node.errors) return [];
    const [outputs, graded, wrong, low, high, q] = node.errors;
    const interval = graded ? `${percent(wrong, graded)} (${percent(low, 1)} to ${percent(high, 1)}): ${number(wrong)} of ${number(graded)}` : "";
    return [...fact("outputs", number(outputs)), ...fact("wrong", interval),
      ...fact("unlike the rest", q === null || q === undefined ? "" : `q = ${q < 0.001 ? q.toExponential(1) : q.toFixed(3)}${q < 0.05 ? "" : ": no more than chance"}`), ...fact("difficulty", node.difficulty === undefined ? "" : percent(node.difficulty, 1))];
  }

  function drawPanel() {
    const index = state.chosen, node = nodes[index], whole = nodes[ROOT].size;
    const trail = index === ROOT ? "" : make("div", { className: "trail" }, [ROOT, ...chain(index).slice(0, -1)].flatMap((step, place) => [
      place ? " › " : "", make("button", { type: "button", dir: "auto", onclick: () => choose(step) }, nodes[step].name),
    ]));
    const kids = children[index].map((child) => make("li", {},
      make("button", { type: "button", dir: "auto", onclick: () => choose(child) }, nodes[child].name),
      make("span", { className: "figure" }, `${number(nodes[child].size)} · ${percent(nodes[child].size, node.size)}`)));
    const scores = node.scores ?? [];
    const parts = [
      trail, make("h2", { dir: "auto" }, node.name),
      make("dl", {},
        fact("id", make("code", {}, node.path)), fact("size", `${counted(node.size, "chunk")} · ${percent(node.size, whole)}`),
        fact("noise", children[index].length ? `${number(node.noise)} · ${percent(node.noise, node.size)} of it in none of its children` : ""),
        fact("silhouette", pair(node.cohesion, node.cohesion_projected)), fact("of children", pair(node.separation, node.separation_projected)),
        fact("not split", node.stopped), errorFacts(node)),
      node.keyphrases && make("h3", {}, "Keyphrases"),
      node.keyphrases && bars(node.keyphrases.map((name, place) => ({ name, part: scores[place] ?? 0, text: "" }))),
      stages.length > 1 && make("h3", {}, "Training stages"), stages.length > 1 && shareBars(node.stages, stages, node.size),
      sources.length > 1 && make("h3", {}, "Sources"), sources.length > 1 && shareBars(node.sources, sources, node.size),
      kids.length && make("h3", {}, `Children (${kids.length})`), kids.length && make("ul", { className: "kids" }, kids),
      (node.central || node.random) && make("h3", {}, "Texts"),
      sampleBlock("Central", node.central, true), sampleBlock("At random", node.random, false),
    ];
    byId("panel").replaceChildren(...parts.filter((part) => part));
    byId("panel-frame").scrollTop = 0;
    byId("chosen").replaceChildren(make("span", { className: "name", dir: "auto" }, node.name), make("span", { className: "go" }, `${number(node.size)} · details`));
  }

  /* --- what a change redraws -------------------------------------------------------------------------------- */

  function choose(index, { keepSearch = true, remember = true } = {}) {
    state.chosen = index;
    if (!keepSearch) byId("find").value = "";
    // The picture shows the chosen one: beside its siblings, or at the top when it is the root.
    const within = inside(state.level)[index], deep = nodes[index].depth - nodes[state.level].depth;
    if (!within || deep > state.levels) state.level = index === ROOT ? ROOT : nodes[index].parent;
    reveal(index);
    items.forEach((item, each) => item.setAttribute("aria-selected", String(each === index)));
    const tree = byId("outline-tree"), row = items[index].firstElementChild;
    const [high, low] = [row.offsetTop - tree.offsetTop - tree.scrollTop, tree.clientHeight - row.offsetHeight];
    if (high < 0 || high > low) tree.scrollTop += high - tree.clientHeight / 2;
    drawPanel(); drawMap();
    if (remember) { try { history.replaceState(null, "", index === ROOT ? "#" : `#cluster-${nodes[index].path}`); } catch { /* a page without an address */ } }
    return drawTree();
  }

  const haystack = points.text.map((text) => text.toLowerCase());
  const described = nodes.map((node) => [node.name, ...(node.keyphrases ?? [])].join("\n").toLowerCase());
  function find() {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const holds = (text) => words.every((word) => text.includes(word));
    const none = !words.length;
    state.hits = none ? null : new Set(nodes.keys().filter((index) => index !== ROOT && holds(described[index])));
    state.found = none ? null : new Set([...haystack.keys()].filter((point) => passes(point) && holds(haystack[point])));
    byId("found").textContent = none ? "" : `${counted(state.found.size, "point")} and ${counted(state.hits.size, "cluster")} match`;
    byId("clear").hidden = none;
    drawOutline(); drawMap();
    return drawTree();
  }

  function setOnly(value) {
    state.only = value;
    byId("only").value = value;
    drawScale(); return find();
  }
  function redraw() { drawScale(); drawOutline(); drawPanel(); paint(); return drawTree(); }

  /* --- wiring ----------------------------------------------------------------------------------------------- */

  let timer;
  byId("find").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 120); });
  byId("find").addEventListener("keydown", (event) => { if (event.key === "Escape") { byId("find").value = ""; find(); } });
  byId("clear").addEventListener("click", () => { byId("find").value = ""; find(); byId("find").focus(); });
  byId("colour").addEventListener("change", (event) => { state.colour = event.target.value; drawScale(); drawMap(); drawTree(); });
  byId("only").addEventListener("change", (event) => setOnly(event.target.value));
  byId("smallest").addEventListener("input", (event) => { state.smallest = Math.max(1, Number(event.target.value) || 1); drawOutline(); drawMap(); drawTree(); });
  byId("levels").addEventListener("change", (event) => { state.levels = Number(event.target.value); drawTree(); });
  byId("up").addEventListener("click", () => { state.level = nodes[state.level].parent ?? ROOT; choose(state.level); });
  document.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", () => {
    state.view = button.dataset.view;
    document.querySelectorAll("[data-view]").forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
    drawTree();
  }));
  byId("open-all").addEventListener("click", () => nodes.forEach((_, index) => unfold(index, true)));
  byId("close-all").addEventListener("click", () => nodes.forEach((_, index) => unfold(index, index === ROOT)));
  byId("outline-tree").addEventListener("keydown", outlineKey);
  byId("outline-tree").addEventListener("click", outlineClick);
  canvas.addEventListener("pointerdown", pointerDown);
  canvas.addEventListener("pointermove", pointerMove);
  canvas.addEventListener("pointerup", pointerUp);
  canvas.addEventListener("pointercancel", pointerUp);
  canvas.addEventListener("pointerleave", () => { if (!touch) hideCard(); });
  canvas.addEventListener("dblclick", (event) => zoomAt(2, event.offsetX, event.offsetY));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls past
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY / 250), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", mapKey);
  document.addEventListener("click", (event) => { if (event.target !== canvas) hideCard(); });
  byId("map-in").addEventListener("click", () => zoomAt(1.5));
  byId("map-out").addEventListener("click", () => zoomAt(1 / 1.5));
  byId("map-all").addEventListener("click", showAll);
  byId("map-save").addEventListener("click", saveMap);
  new ResizeObserver(() => drawMap()).observe(canvas);
  darkQuery.addEventListener("change", redraw);
  const forPaper = (printing) => {
    document.documentElement.classList.toggle("printing", printing);
    Plotly.Plots.resize(byId("tree-plot"));
    redraw();
  };
  window.addEventListener("beforeprint", () => forPaper(true));
  window.addEventListener("afterprint", () => forPaper(false));
  const asked = () => nodes.findIndex((node) => `#cluster-${node.path}` === decodeURIComponent(location.hash));
  window.addEventListener("hashchange", () => { if (asked() >= 0) choose(asked(), { remember: false }); });

  document.body.append(make("a", { id: "chosen", href: "#panel" }));
  state.levels = Math.min(2, Math.max(1, byId("levels").options.length));
  byId("levels").value = String(state.levels);
  buildOutline(ROOT, byId("outline-tree"));
  unfold(ROOT, true);
  drawScale(); drawOutline();
  choose(Math.max(asked(), ROOT), { remember: false }).then(() => {
    const plot = byId("tree-plot");
    for (const kind of ["treemap", "icicle", "sunburst"]) plot.on?.(`plotly_${kind}click`, clickTile);
    plot.on?.("plotly_afterplot", () => hideTinyNames(plot));
    paint();
    document.documentElement.dataset.ready = "yes";
  });
})();
