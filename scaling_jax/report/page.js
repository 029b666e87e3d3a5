// Draws the charts and the table of a page from the JSON in #data. No network, no storage.
"use strict";
(async () => {
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse), (max-width: 600px)"); // a finger scrolls the page and does not zoom a chart
const byRun = new Map(), hiddenScales = new Set(), charts = [];
let printing = false;

const MAPS = {
  viridis: ["#440154","#482475","#414487","#355f8d","#2a788e","#21918c","#22a884","#44bf70","#7ad151","#bddf26","#fde725"],
  plasma: ["#0d0887","#41049d","#6a00a8","#8f0da4","#b12a90","#cc4778","#e16462","#f2844b","#fca636","#fcce25","#f0f921"],
};
const LIGHT = { ink: "#222222", grey: "#8a8a8a", avoided: "#d1495b", line: "#e6e6e6", back: "rgba(0,0,0,0)", edge: "#ffffff" };
const DARK = { ink: "#e4e8ec", grey: "#8d98a3", avoided: "#f2798a", line: "#333b44", back: "rgba(0,0,0,0)", edge: "#1c2229" };
const theme = () => (dark.matches && !printing ? DARK : LIGHT);

function mixed(from, to, share) {
  const channel = (color, i) => parseInt(color.slice(1 + 2 * i, 3 + 2 * i), 16);
  return "#" + [0, 1, 2].map(i => Math.round(channel(from, i) * (1 - share) + channel(to, i) * share).toString(16).padStart(2, "0")).join("");
}
function color(name) {
  const [map, position] = name.split(":");
  if (!(map in MAPS)) return theme()[name] || theme().ink;
  // On a dark page the dark end of a map is as unreadable as its light end on a white one.
  const at = (theme() === DARK ? 0.3 + 0.8 * Number(position) : Number(position)) * (MAPS[map].length - 1);
  const i = Math.min(Math.floor(at), MAPS[map].length - 2);
  return mixed(MAPS[map][i], MAPS[map][i + 1], Math.min(at - i, 1));
}
const translucent = hex => hex + "24";
// Plotly reads some tags in texts: nothing of ours is one.
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// ---- numbers as people write them
function short(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "" : String(value);
  const size = Math.abs(value);
  for (const [scale, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (size >= 0.9995 * scale && size < 1e15) return (value / scale).toPrecision(3) + suffix;
  return size >= 1e15 || (size < 1e-3 && size > 0) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}
const FORMS = {
  count: short, plain: v => (typeof v === "number" ? String(Number(v.toPrecision(6))) : v ?? ""),
  flops: v => (typeof v === "number" ? v.toExponential(2) : ""), percent: v => (typeof v === "number" ? v.toFixed(2) + "%" : ""),
  text: v => v ?? "",
};

// ---- charts
const texts = new Map(); // a run is in many charts, and in a curve many times
function described(run) {
  if (!texts.has(run)) texts.set(run, byRun.has(run) ? description(data.runs.rows[byRun.get(run)]) : plain(run));
  return texts.get(run);
}
function description(row) {
  return data.runs.columns.map((c, i) => [c.name, (FORMS[c.kind] || FORMS.text)(row[i])]).filter(([, v]) => v !== "").map(([n, v], i) => (i ? `${plain(n)} ${plain(v)}` : `<b>${plain(v)}</b>`)).join("<br>");
}
function hover(mark) {
  if (mark.texts) return mark.texts.map(plain);
  if (mark.runs) return mark.runs.map(described);
  return null;
}
const DASHES = { dash: "6px,3px", dot: "2px,3px" };
const SYMBOLS = { circle: "circle", diamond: "diamond", star: "star", square: "square", cross: "x-thin", tick: "line-ew", open: "circle" };

function marker(mark, ink) {
  const px = (mark.size || 6) * 1.35, colors = theme(), symbol = mark.symbol || "circle";
  const out = { symbol: SYMBOLS[symbol], size: px, color: ink, line: { width: 0.7, color: colors.edge } };
  if (symbol === "open") Object.assign(out, { color: theme() === DARK ? "#1c2229" : "#ffffff", line: { width: 1.6, color: ink } });
  if (symbol === "cross" || symbol === "tick") out.line = { width: 2, color: ink };
  if (symbol === "diamond") out.line = { width: 1.8, color: colors.avoided };
  return out;
}
// Several traces may make up a mark: all carry it in `meta`.
function traces(mark) {
  const ink = color(mark.color || "ink"), text = hover(mark), width = mark.width || 1.5;
  const common = { type: "scatter", showlegend: false, meta: mark, hoverinfo: text ? "text" : "skip", ...(text ? { hovertext: text } : {}) };
  const x = mark.x || [], y = mark.y || [];
  if (mark.kind === "line") {
    const named = mark.name && !text ? { hovertemplate: `${plain(mark.name)}: %{y:.4~g} at %{x:.3~g}<extra></extra>`, hoverinfo: "all" } : {};
    return [{ ...common, x, y, mode: "lines", line: { color: ink, width: width * 1.2, dash: DASHES[mark.dash] || "solid" }, ...named }];
  }
  if (mark.kind === "points") {
    const named = !text ? { hovertemplate: `${plain(mark.name || "")} %{y:.4~g} at %{x:.3~g}<extra></extra>`, hoverinfo: "all" } : {};
    return [{ ...common, x, y, mode: "markers", marker: marker(mark, ink), ...named }];
  }
  if (mark.kind === "band") {
    const keep = x.map((_, i) => i).filter(i => mark.low[i] !== null && mark.high[i] !== null);
    const side = (ends, more) => ({ ...common, x: keep.map(i => x[i]), y: keep.map(i => ends[i]), mode: "lines", line: { width: 0, color: ink }, ...more });
    return [side(mark.low, {}), side(mark.high, { fill: "tonexty", fillcolor: translucent(ink) })];
  }
  if (mark.kind === "span" || mark.kind === "hspan") {
    const at = mark.kind === "span" ? x : y, along = [], across = [];
    at.forEach((v, i) => { along.push(mark.low[i], mark.high[i], null); across.push(v, v, null); });
    const [px, py] = mark.kind === "span" ? [across, along] : [along, across];
    return [{ ...common, hoverinfo: "skip", x: px, y: py, mode: "lines", line: { color: ink, width: width * 1.2 } }];
  }
  if (mark.kind === "bar")
    return [{ ...common, type: "bar", x, y: mark.high.map((v, i) => v - mark.low[i]), base: mark.low, width, marker: { color: ink, line: { width: 0.5, color: theme().edge } } }];
  return [{
    ...common, type: "contour", x, y, z: mark.z, ncontours: 12, showscale: false, line: { color: ink, width: 1 }, colorscale: [[0, ink], [1, ink]],
    contours: { coloring: "none", showlabels: true, labelfont: { size: 10, color: ink } },
    hoverinfo: "all", hovertemplate: "%{z:.4~g} at %{x:.3~s}, %{y:.3~s}<extra></extra>",
  }];
}
function ends(panel, key) {
  let low = Infinity, high = -Infinity;
  for (const mark of panel.marks) for (const v of [mark[key], ...(key === "y" ? [mark.low, mark.high] : [])].flat())
    if (typeof v === "number") { low = Math.min(low, v); high = Math.max(high, v); }
  return [low, high];
}
const WIDE = 60; // between the ends of a log axis whose ticks are whole decades
// Of a log axis that spans few decades: its ticks, each written in full. Null where Plotly's own are as good.
function within(low, high, even) {
  if (!(low > 0) || (high / low > WIDE && low >= 1) || (high > low && high / low < even)) return null; // below 1 Plotly writes m and μ
  if (low === high) return [low];
  const from = low / 1.2, to = high * 1.2;
  for (const digits of high / low > WIDE ? [[1]] : [[1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8]]) {
    const values = [];
    for (let k = Math.floor(Math.log10(from)); k <= Math.ceil(Math.log10(to)); k++)
      for (const d of digits) { const v = Number(`${d}e${k}`); if (v >= from && v <= to) values.push(v); }
    if (values.filter(v => v >= low && v <= high).length > 2) return values;
  }
  return null;
}
function tick(kind, value) {
  if (kind === "flops") {
    const [digits, exponent] = value.toExponential().split("e"), tens = "10<sup>" + Number(exponent) + "</sup>";
    return digits === "1" ? tens : `${digits}×${tens}`;
  }
  const text = kind === "count" && value >= 1 ? short(value) : String(Number(value.toPrecision(3)));
  return text.replace(/(\.\d*?)0+(?=\D*$)/, "$1").replace(/\.(?=\D*$)/, "");
}
function axis(spec, panel, key, room) {
  const colors = theme();
  const out = {
    title: { text: plain(spec.label || ""), font: { size: 12.5 }, standoff: 8 }, type: spec.log ? "log" : "linear", gridcolor: colors.line,
    linecolor: colors.grey, zeroline: false, showline: true, ticks: "outside", tickcolor: colors.grey, tickangle: key === "x" ? 0 : undefined,
  };
  if (spec.kind === "names") return { ...out, automargin: true, type: "linear", tickmode: "array", tickvals: spec.names.map((_, i) => i), ticktext: spec.names.map(plain),
    range: key === "y" ? [spec.names.length - 0.4, -0.6] : [-0.6, spec.names.length - 0.4] };
  const [low, high] = spec.limits || ends(panel, key);
  if (spec.limits) out.range = spec.log ? spec.limits.map(Math.log10) : spec.limits;
  if (spec.kind === "flops") out.exponentformat = "power"; else out.exponentformat = "B";
  let values = spec.log ? within(low, high, key === "x" ? 2 : 5) : null;
  while (values && values.length > room) values = values.filter((_, i) => i % 2 === 1);
  if (values) Object.assign(out, { tickmode: "array", tickvals: values, ticktext: values.map(v => tick(spec.kind, v)) });
  else if (spec.log && spec.kind && high / low > WIDE) {
    const decades = Math.log10(high / low);
    out.dtick = Math.max(1, Math.round(decades / 6), Math.ceil(decades / room));
  }
  else out.nticks = 6;
  return out;
}
// Left of a panel: Plotly's own automargin draws everything twice.
function labelWidth(spec, panel) {
  if (spec.kind === "names") return 0;
  const [low, high] = spec.limits || ends(panel, "y"), step = spec.log ? low : (high - low) / 10;
  const digits = spec.kind ? 4 : String(Math.trunc(high)).length + Math.max(0, 1 - Math.floor(Math.log10(step || 1)));
  return (spec.label ? 42 : 20) + 7.5 * Math.min(Math.max(digits, 3), 8);
}
function layout(panel, width) {
  return {
    width, height: Math.round(printing ? Math.min(300, width * 0.8) : Math.min(430, Math.max(290, width * 0.72))), margin: { l: 8 + labelWidth(panel.y, panel), r: 12, t: 8, b: panel.x.label ? 52 : 30 }, paper_bgcolor: theme().back, plot_bgcolor: theme().back,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: theme().ink }, xaxis: axis(panel.x, panel, "x", (width - (panel.y.kind === "names" ? 210 : 70)) / 44), yaxis: axis(panel.y, panel, "y", 10),
    hovermode: "closest", barmode: "overlay", dragmode: coarse.matches ? false : "zoom", showlegend: false,
    modebar: { bgcolor: theme().back, color: theme().grey, activecolor: theme().ink },
    hoverlabel: { align: "left", bgcolor: theme() === DARK ? "#2a323b" : "#ffffff", font: { color: theme().ink }, bordercolor: theme().grey },
  };
}
const visible = (chart, mark) => !(mark.scale && hiddenScales.has(mark.scale)) && !(mark.name && chart.hidden.has(mark.name));

function draw(chart) {
  chart.panels.forEach((panel, i) => {
    const box = chart.boxes[i], shown = [];
    for (const mark of panel.marks) if (mark.x || mark.low || mark.z) for (const trace of traces(mark)) shown.push({ ...trace, visible: visible(chart, mark) });
    const width = printing ? (chart.panels.length > 1 ? 320 : 640) : Math.max(box.parentElement.clientWidth, 200);
    const config = { displaylogo: false, responsive: false, displayModeBar: !coarse.matches && "hover", modeBarButtons: [["toImage", "resetScale2d"]], toImageButtonOptions: { format: "svg", filename: chart.name } };
    Plotly.react(box, shown, layout(panel, width), config);
  });
  chart.drawn = true;
  legend(chart);
  document.documentElement.dataset.drawn = charts.filter(c => c.drawn).length;
}
function refresh(chart) {
  chart.boxes.forEach(box => {
    if (box.data) Plotly.restyle(box, { visible: box.data.map(trace => visible(chart, trace.meta)) });
  });
  legend(chart);
}
function legend(chart) {
  const entries = new Map();
  for (const panel of chart.panels) for (const mark of panel.marks) if (mark.name) entries.set(mark.name, [...(entries.get(mark.name) || []), mark]);
  chart.legend.replaceChildren(...[...entries].map(([name, marks]) => {
    const button = document.createElement("button"), swatch = document.createElement("i"), scale = marks.find(m => m.scale)?.scale;
    const ink = color(marks[0].color || "ink"), shape = marks.find(m => m.kind === "points")?.symbol || marks.find(m => m.kind === "points") && "circle";
    button.type = "button";
    swatch.style.color = ink;
    swatch.className = marks[0].kind === "band" ? "band" : marks[0].kind === "bar" ? "bar" : shape ? `sym ${shape}` : `rule ${marks[0].dash || "solid"}`;
    button.append(swatch, name);
    button.title = scale ? "Hide or show this scale in every chart" : "Hide or show";
    button.setAttribute("aria-pressed", String(!(scale ? hiddenScales.has(scale) : chart.hidden.has(name))));
    button.onclick = () => {
      const set = scale ? hiddenScales : chart.hidden, key = scale || name;
      set.has(key) ? set.delete(key) : set.add(key);
      scale ? charts.forEach(c => c.drawn && refresh(c)) : refresh(chart);
      const again = [...chart.legend.children].find(b => b.textContent === name);
      again?.focus();
    };
    return button;
  }));
}
function drawAll() { charts.forEach(draw); }

// ---- table of runs
function table(root, spec) {
  const PAGE = innerWidth < 600 ? 20 : 50, index = new Map(spec.columns.map((c, i) => [c.name, i]));
  let rows = spec.rows, limit = PAGE, sorted = null, down = false;
  const head = root.querySelector("thead tr"), body = root.querySelector("tbody"), box = root.querySelector("input"), count = root.querySelector(".count"), more = root.querySelector(".more");
  let lower = null;
  function show() {
    body.replaceChildren(...rows.slice(0, limit).map(row => {
      const tr = document.createElement("tr");
      if (row[index.get("status")] !== "done") tr.className = "lost";
      row.forEach((value, i) => {
        const td = document.createElement("td");
        td.textContent = (FORMS[spec.columns[i].kind] || FORMS.text)(value);
        td.dataset.name = spec.columns[i].name;
        tr.append(td);
      });
      return tr;
    }));
    count.textContent = `${rows.length} of ${spec.rows.length} runs`;
    more.hidden = rows.length <= limit;
  }
  function select() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length && lower === null) lower = spec.rows.map(row => row.map(v => (v === null ? "" : String(v))).join("\u0001").toLowerCase());
    const kept = spec.rows.map((_, i) => i).filter(i => words.every(w => lower[i].includes(w)));
    if (sorted !== null) kept.sort((i, j) => {
      const [a, b] = [spec.rows[i][sorted], spec.rows[j][sorted]];
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return down ? -order : order;
    });
    rows = kept.map(i => spec.rows[i]);
    [...head.children].forEach((th, i) => th.setAttribute("aria-sort", i !== sorted ? "none" : down ? "descending" : "ascending"));
    show();
  }
  spec.columns.forEach((column, i) => {
    const th = document.createElement("th"), button = document.createElement("button");
    button.type = "button";
    button.textContent = column.name;
    button.onclick = () => { down = sorted === i && !down; sorted = i; select(); };
    th.append(button);
    head.append(th);
  });
  box.oninput = () => { limit = PAGE; select(); };
  more.onclick = () => { limit += 5 * PAGE; show(); };
  root.querySelector(".csv").onclick = () => {
    // A text that a spreadsheet would take for a formula is quoted as text.
    const cell = v => (v === null ? "" : typeof v === "number" ? String(v) : `"${(/^[=+\-@\t\r]/.test(v) ? "'" : "") + String(v).replace(/"/g, '""')}"`);
    const lines = [spec.columns.map(c => cell(c.name)), ...rows.map(row => row.map(cell))].map(r => r.join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = "runs.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  select();
}
if (data.runs) {
  data.runs.rows.forEach((row, i) => byRun.set(String(row[0]), i));
  table(document.getElementById("runs"), data.runs);
}
document.documentElement.dataset.table = "ready";

// ---- start
for (const spec of data.charts) {
  const figure = document.querySelector(`figure[data-chart="${CSS.escape(spec.name)}"]`);
  if (!figure) continue;
  const plots = figure.querySelector(".plots"), chart = { ...spec, hidden: new Set(), boxes: [], legend: figure.querySelector(".legend"), drawn: false };
  plots.classList.add(spec.panels.length > 1 ? "several" : "one");
  for (const panel of spec.panels) {
    const cell = document.createElement("div"), box = document.createElement("div");
    if (panel.title) { const title = document.createElement("h4"); title.textContent = panel.title; cell.append(title); }
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", [spec.title, panel.title, spec.caption].filter(Boolean).join(". "));
    cell.append(box);
    plots.append(cell);
    chart.boxes.push(box);
  }
  figure.chart = chart;
  charts.push(chart);
}
const code = document.getElementById("plotly");
if (!charts.length) { document.documentElement.dataset.ready = "yes"; return; }
const coded = atob(code.textContent.trim()), packed = new Uint8Array(coded.length);
for (let i = 0; i < coded.length; i++) packed[i] = coded.charCodeAt(i);
const script = document.createElement("script");
script.textContent = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
document.head.append(script);
code.remove();

// What is on the screen first; the others when the browser has time, so that search and print find them.
const observer = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { observer.unobserve(entry.target); if (!entry.target.chart.drawn) draw(entry.target.chart); }
}, { rootMargin: "200px" });
charts.forEach(chart => observer.observe(chart.legend.closest("figure")));
const later = window.requestIdleCallback || (work => setTimeout(work, 50));
const rest = () => {
  const next = charts.find(chart => !chart.drawn);
  if (next) { draw(next); later(rest); } else document.documentElement.dataset.ready = "yes";
};
requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.first = "yes"; later(rest); }));
dark.addEventListener("change", () => charts.forEach(chart => chart.drawn && draw(chart)));
// The model for the target belongs on paper; what passed, the study and the versions stay folded.
const unfolded = document.querySelectorAll("details.answer:not([open])");
addEventListener("beforeprint", () => { printing = true; unfolded.forEach(d => { d.open = true; }); drawAll(); });
addEventListener("afterprint", () => { printing = false; unfolded.forEach(d => { d.open = false; }); drawAll(); });
let pending = 0, lastWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === lastWidth || printing) return;
  lastWidth = innerWidth;
  clearTimeout(pending);
  pending = setTimeout(() => charts.forEach(chart => chart.drawn && draw(chart)), 120);
});
})();
