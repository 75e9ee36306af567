// Draws the figures of a process from the differences between scrapes.
//
// Rules kept here:
// - A counter that went down began anew, with the process: what it counts now is what it has counted since.
// - A scrape that failed is a gap in the plots and said so at the top; the next one is tried as before.
// - What came from the process is put on the page as text, never as markup.
// - Only the families that are drawn are asked for: a program may have a hundred thousand series of its own.
"use strict";

const EVERY = 2000, PATIENCE = 5000, SPAN = 300000, WINDOW = 5, MOST_ROUTES = 5, STUCK = 3;
const $ = (id) => document.getElementById(id);
const OWN = document.body.dataset.reactor;

// ---- the text format -----------------------------------------------------------------------------

// Families' samples by name: [{labels, value, key}].
function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    if (!line || line[0] === "#") continue;
    const open = line.indexOf("{"), blank = line.indexOf(" ");
    const bare = open < 0 || blank < open;
    const name = line.slice(0, bare ? blank : open);
    const [labels, end] = bare ? [{}, blank] : parseLabels(line, open + 1);
    const value = parseNumber(line.slice(end).trim().split(" ")[0]);
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels, value, key: line.slice(0, end) });
  }
  return samples;
}

function parseLabels(line, at) {
  const labels = {};
  while (line[at] !== "}") {
    const equals = line.indexOf("=", at), name = line.slice(at, equals).trim();
    if (equals < 0) throw new Error("a label without a value");
    let value = "";
    for (at = equals + 2; line[at] !== '"'; at++) {
      if (at >= line.length) throw new Error("a label without an end");
      if (line[at] === "\\") { at++; value += line[at] === "n" ? "\n" : line[at]; } else value += line[at];
    }
    labels[name] = value;
    at++;
    while (line[at] === "," || line[at] === " ") at++;
    if (at >= line.length) throw new Error("labels without an end");
  }
  return [labels, at + 1];
}

function parseNumber(text) {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

// ---- scrapes and what is between two of them -----------------------------------------------------

let scrapes = [];   // The last of them, oldest first.
let points = [];    // What is plotted, oldest first; without lines where there is nothing to.
let reactors = [], chosen = null, lastGood = 0, begun = false, slow = "";

const ours = (labels) => (labels.reactor ?? "") === chosen;
const pick = (scrape, name) => (scrape.samples.get(name) ?? []).filter((sample) => ours(sample.labels));
const sum = (samples) => samples.reduce((all, sample) => all + sample.value, 0);
const has = (scrape, name) => pick(scrape, name).length > 0;

// How much the counters that pass went up, by what `by` says of their labels.
function increases(from, to, name, by = () => "") {
  const before = new Map(pick(from, name).map((sample) => [sample.key, sample.value]));
  const found = new Map();
  for (const { labels, value, key } of pick(to, name)) {
    const old = before.get(key) ?? 0, group = by(labels);
    found.set(group, (found.get(group) ?? 0) + (value >= old ? value - old : value));
  }
  return found;
}

const increase = (from, to, name) => sum([...increases(from, to, name).values()].map((value) => ({ value })));
const seconds = (from, to) => (to.at - from.at) / 1000;
const rate = (from, to, name) => increase(from, to, name) / seconds(from, to);

// The buckets of a histogram between two scrapes, [bound, count] by bound; those of `wanted` alone.
function buckets(from, to, name, wanted = () => true) {
  const all = increases(from, to, name + "_bucket", (labels) => (wanted(labels) ? labels.le : "no"));
  all.delete("no");
  return [...all].map(([le, count]) => [parseNumber(le), count]).sort((a, b) => a[0] - b[0]);
}

// As histogram_quantile of Prometheus: linear within a bucket, the last bound for what is above it.
function quantile(q, found) {
  const total = found.length ? found[found.length - 1][1] : 0;
  if (!total) return null;
  let [below, under] = [0, 0];
  for (const [bound, count] of found) {
    if (count >= q * total) {
      if (bound === Infinity) return below;
      return below + (bound - below) * (count === under ? 1 : (q * total - under) / (count - under));
    }
    [below, under] = [bound, count];
  }
  return below;
}

function restarted(from, to) {
  const turns = (scrape) => sum(pick(scrape, "dosimeter_loop_iterations_total"));
  return turns(to) < turns(from);
}

// ---- numbers as people read them -----------------------------------------------------------------

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e9) return trim(value / 1e9) + " G";
  if (size >= 1e6) return trim(value / 1e6) + " M";
  if (size >= 1e4) return trim(value / 1e3) + " k";
  return size < 0.01 ? "<0.01" : trim(value);
}

function trim(value) {
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return String(Number(value.toFixed(digits)));
}

const units = {
  count: short,
  rate: (value) => short(value) + "/s",
  percent: (value) => trim(value * 100) + " %",
  bytes: (value) => {
    const step = value < 1024 ? 0 : value < 1048576 ? 1 : value < 1073741824 ? 2 : 3;
    return trim(value / 1024 ** step) + " " + ["B", "KiB", "MiB", "GiB"][step] + "/s";
  },
  time: (value) => {
    if (value === 0) return "0 s";
    return value < 1e-3 ? trim(value * 1e6) + " µs" : value < 1 ? trim(value * 1e3) + " ms" : trim(value) + " s";
  },
};

const tell = (unit, value) => (value === null || value === undefined || Number.isNaN(value) ? "–" : units[unit](value));

// ---- what is shown -------------------------------------------------------------------------------

const REQUESTS = "http_server_requests_total", DURATIONS = "http_server_request_duration_seconds";
const TURNS = "dosimeter_loop_turn_duration_seconds";

// Whatever is drawn below.
const FAMILIES = [
  REQUESTS, DURATIONS, TURNS, "http_server_requests_in_progress", "dosimeter_info",
  "dosimeter_loop_iterations_total", "dosimeter_loop_busy_seconds_total", "dosimeter_loop_idle_seconds_total",
  "dosimeter_loop_last_turn_timestamp_seconds", "dosimeter_connections", "dosimeter_transmit_bytes_total",
  "dosimeter_receive_bytes_total", "dosimeter_deferreds_pending", "dosimeter_deferreds_created_total",
  "dosimeter_deferreds_failed_total", "dosimeter_deferreds_unhandled_errors_total",
];
const FIGURES = "metrics?" + FAMILIES.map((name) => "name[]=" + name).join("&");

const monitorOf = (name) => (name ? name + "-monitor" : "monitor");

function utilisation(from, to) {
  const busy = increase(from, to, "dosimeter_loop_busy_seconds_total");
  const idle = increase(from, to, "dosimeter_loop_idle_seconds_total");
  if (busy + idle > 0) return busy / (busy + idle);
  // Its monitor would have woken it.
  return reactors.includes(monitorOf(chosen)) ? 1 : null;
}

function errorRatio(from, to) {
  const all = increases(from, to, REQUESTS, (labels) => labels.code[0]);
  const total = [...all.values()].reduce((a, b) => a + b, 0);
  return total ? (all.get("5") ?? 0) / total : null;
}

const between = (from, to, of) => Object.fromEntries([...of].map(([name, value]) => [name, value / seconds(from, to)]));

const gauge = (name) => (from, to) => (has(to, name) ? sum(pick(to, name)) : null);
const quantileOf = (q, name) => (from, to) => quantile(q, buckets(from, to, name));

const TILES = [
  ["utilisation", "Loop utilisation", "percent", utilisation, (value) => (value > 0.9 ? "bad" : value > 0.7 ? "warn" : "")],
  ["turn", "Turn, p99", "time", quantileOf(0.99, TURNS), (value) => (value > 0.25 ? "bad" : value > 0.1 ? "warn" : "")],
  ["requests", "Requests", "rate", (from, to) => rate(from, to, REQUESTS)],
  ["errors", "Errors (5xx)", "percent", errorRatio, (value) => (value > 0.01 ? "bad" : value > 0 ? "warn" : "")],
  ["latency", "Latency, p99", "time", quantileOf(0.99, DURATIONS)],
  ["in-flight", "Requests in flight", "count", gauge("http_server_requests_in_progress")],
  ["connections", "Connections open", "count", gauge("dosimeter_connections")],
  ["deferreds", "Deferreds pending", "count", gauge("dosimeter_deferreds_pending")],
];

// Title, unit, and the lines of each point by name; those without a fixed colour get them in order.
const PLOTS = [
  ["Loop utilisation", "percent", (from, to) => ({ busy: utilisation(from, to) }), { max: 1, area: true }],
  ["Turn of the loop", "time", (from, to) => quantiles(from, to, TURNS, [0.5, 0.99])],
  ["Requests by route", "rate", (from, to) => between(from, to, increases(from, to, REQUESTS, (labels) => labels.route)), { most: MOST_ROUTES }],
  ["Requests by status", "rate", (from, to) => between(from, to, increases(from, to, REQUESTS, (labels) => labels.code[0] + "xx")), { colours: { "1xx": 6, "2xx": 2, "3xx": 1, "4xx": 3, "5xx": 5 } }],
  ["Latency", "time", (from, to) => quantiles(from, to, DURATIONS, [0.5, 0.9, 0.99])],
  ["Connections and requests", "count", (from, to) => ({ "connections open": gauge("dosimeter_connections")(from, to), "requests in flight": gauge("http_server_requests_in_progress")(from, to) })],
  ["Deferreds", "rate", (from, to) => ({ created: rate(from, to, "dosimeter_deferreds_created_total"), failed: rate(from, to, "dosimeter_deferreds_failed_total"), "failures unhandled": rate(from, to, "dosimeter_deferreds_unhandled_errors_total") }), { colours: { created: 1, failed: 3, "failures unhandled": 5 } }],
  ["Bytes over connections", "bytes", (from, to) => ({ sent: rate(from, to, "dosimeter_transmit_bytes_total"), received: rate(from, to, "dosimeter_receive_bytes_total") })],
];

function quantiles(from, to, name, wanted) {
  const found = buckets(from, to, name);
  return Object.fromEntries(wanted.map((q) => ["p" + q * 100, quantile(q, found)]));
}

// ---- drawing -------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function make(parent, tag, attributes = {}, text) {
  const svg = tag === "svg" || parent.namespaceURI === SVG;
  const made = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function drawTiles(from, to) {
  $("tiles").replaceChildren();
  for (const [id, title, unit, value, judge] of TILES) {
    const now = to && from ? value(from, to) : null;
    const tile = make($("tiles"), "dl", { class: `tile ${now !== null && judge ? judge(now) : ""}`, id: "tile-" + id });
    make(tile, "dt", {}, title);
    const [number, ...rest] = tell(unit, now).split(" ");
    const shown = make(tile, "dd", { class: "value", "data-value": now ?? "" }, number.replace("/s", ""));
    const small = rest.join(" ") || (number.endsWith("/s") ? "/s" : "");
    if (small) make(shown, "small", {}, small);
  }
}

function drawPlots() {
  $("plots").replaceChildren();
  // All of them first: how wide one is depends on how many there are.
  const cards = PLOTS.map(() => make($("plots"), "article", { class: "card" }));
  PLOTS.forEach(([title, unit, , options = {}], index) => {
    const card = cards[index];
    make(card, "h2", {}, title);
    const data = points.map((point) => point.lines && point.lines[index]);
    const names = linesOf(title, data, options);
    const legend = make(card, "ul", { class: "legend" });
    const last = data.findLast((values) => values) ?? {};
    names.forEach(([name, colour]) => {
      const item = make(legend, "li", { class: "s" + colour });
      make(item, "span", {}, name + " ");
      make(item, "b", {}, tell(unit, last[name] ?? null));
    });
    if (!names.length) make(legend, "li", { class: "none" }, begun ? "nothing yet" : "waiting for figures");
    draw(card, title, unit, data, names, options);
  });
}

// The names of the lines with their colours: the busiest where there are too many, the others left to the table.
function linesOf(title, data, { most = 6, colours = {} }) {
  const totals = new Map();
  for (const values of data) for (const [name, value] of Object.entries(values ?? {})) totals.set(name, (totals.get(name) ?? 0) + (value ?? 0));
  const busiest = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a)).slice(0, most);
  const names = [...totals.keys()].filter((name) => busiest.includes(name));
  return paint(title, names, colours);
}

// A line keeps its colour as long as it is there, whichever come and go beside it.
const painted = new Map();

function paint(title, names, colours) {
  const before = painted.get(title) ?? new Map(), now = new Map();
  for (const name of names) if (colours[name] ?? before.get(name)) now.set(name, colours[name] ?? before.get(name));
  for (const name of names) if (!now.has(name)) now.set(name, [1, 2, 3, 4, 5, 6].find((colour) => ![...now.values()].includes(colour)));
  painted.set(title, now);
  return names.map((name) => [name, now.get(name)]);
}

function draw(card, title, unit, data, names, { max, area }) {
  const width = Math.max(260, card.clientWidth - 34), height = 170;
  const [left, right, top, bottom] = [58, width - 10, 8, height - 22];
  const svg = make(card, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  let highest = max ?? 0;
  if (!max) for (const values of data) for (const [name] of names) highest = Math.max(highest, values?.[name] ?? 0);
  const step = nice(highest || 1, unit), ceiling = max ?? Math.max(step, Math.ceil(highest / step - 1e-9) * step);
  const now = points.length ? points[points.length - 1].at : 0;
  const x = (index) => right - ((now - points[index].at) / SPAN) * (right - left);
  const y = (value) => bottom - (Math.min(value, ceiling) / ceiling) * (bottom - top);
  for (let value = 0; value <= ceiling * 1.001; value += step) {
    make(svg, "line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) });
    make(svg, "text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, tell(unit, value));
  }
  for (let minutes = 0; minutes <= 5; minutes += width < 420 ? 2 : 1) {
    const at = right - (minutes / 5) * (right - left), anchor = minutes === 0 ? "end" : minutes === 5 ? "start" : "middle";
    make(svg, "text", { x: at, y: height - 5, "text-anchor": anchor }, minutes === 0 ? "now" : `−${minutes} min`);
  }
  points.forEach((point, index) => {
    if (point.restarted) make(svg, "line", { class: "restart", x1: x(index), x2: x(index), y1: top, y2: bottom });
  });
  for (const [name, colour] of names) drawLine(svg, data, name, colour, x, y, area && bottom);
}

// A line with a gap wherever a value lacks; a value alone is a dot.
function drawLine(svg, data, name, colour, x, y, floor) {
  const group = make(svg, "g", { class: "s" + colour });
  let run = [];
  const end = () => {
    if (run.length === 1) make(group, "circle", { class: "dot", cx: run[0][0], cy: run[0][1], r: 2 });
    if (run.length > 1) {
      const path = "M" + run.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L");
      if (floor) make(group, "path", { class: "area", d: `${path}V${floor}H${run[0][0].toFixed(1)}Z` });
      make(group, "path", { class: "line", d: path });
    }
    run = [];
  };
  data.forEach((values, index) => {
    const value = values ? values[name] ?? null : null;
    if (value === null) end(); else run.push([x(index), y(value)]);
  });
  end();
}

// A step of 1, 2 or 5 times a power of ten that makes about four of them.
function nice(highest, unit) {
  const base = unit === "bytes" ? 1024 ** Math.max(0, Math.floor(Math.log2(highest) / 10)) : 1;
  const rough = highest / base / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = base * power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  return unit === "count" ? Math.max(1, step) : step;
}

function drawRoutes(from, to) {
  const by = (labels) => JSON.stringify([labels.route, labels.method]);
  const rates = increases(from, to, REQUESTS, by), rows = new Map();
  for (const { labels, value } of pick(to, REQUESTS)) {
    const row = rows.get(by(labels)) ?? { total: 0, client: 0, server: 0 };
    row.total += value;
    if (labels.code[0] === "4") row.client += value;
    if (labels.code[0] === "5") row.server += value;
    rows.set(by(labels), row);
  }
  const sorted = [...rows].sort((a, b) => (rates.get(b[0]) - rates.get(a[0])) || b[1].total - a[1].total);
  $("route-rows").replaceChildren();
  if (!sorted.length) tellNone("route-rows", 8, "no request yet");
  for (const [key, row] of sorted.slice(0, 50)) {
    const [route, method] = JSON.parse(key), line = make($("route-rows"), "tr");
    const found = buckets(from, to, DURATIONS, (labels) => by(labels) === key);
    const cells = [route, method, tell("rate", rates.get(key) / seconds(from, to)), tell("time", quantile(0.5, found)), tell("time", quantile(0.99, found))];
    for (const text of cells) make(line, "td", {}, text);
    for (const count of [row.client, row.server]) make(line, "td", { "data-value": count }, count.toLocaleString("en"));
    if (row.server) line.lastChild.className = "bad";
    make(line, "td", { "data-value": row.total }, row.total.toLocaleString("en"));
  }
}

function tellNone(rows, columns, text) {
  make(make($(rows), "tr"), "td", { colspan: columns, class: "none" }, text);
}

// The list of the slow callbacks, the latest first, as a row for each place. It is that of one reactor, whichever is chosen.
function drawSlow() {
  const rows = new Map(), others = chosen !== OWN && reactors.includes(OWN);
  for (const line of others ? [] : slow.trim().split("\n").slice(1)) {
    const [kind, seconds, ended, place] = line.split("\t"), key = place + "\t" + kind;
    const row = rows.get(key) ?? { kind, place: place || "(no place)", times: 0, longest: 0, last: 0 };
    row.times++;
    row.longest = Math.max(row.longest, Number(seconds));
    row.last = Math.max(row.last, Number(ended));
    rows.set(key, row);
  }
  $("slow-rows").replaceChildren();
  if (!rows.size) tellNone("slow-rows", 5, others ? `told only of the reactor ${nameOf(OWN)}` : "none of late");
  for (const row of [...rows.values()].sort((a, b) => b.longest - a.longest)) {
    const line = make($("slow-rows"), "tr");
    const cells = [row.place, row.kind, String(row.times), tell("time", row.longest), new Date(row.last * 1000).toLocaleTimeString()];
    for (const text of cells) make(line, "td", {}, text);
  }
}

const nameOf = (reactor) => reactor || "(without a name)";

function drawChoice(scrape) {
  const loops = scrape.samples.get("dosimeter_loop_iterations_total") ?? [];
  const found = loops.map(({ labels }) => labels.reactor ?? "").sort();
  // A monitor is seldom what anybody wants to see first.
  if (chosen === null || !found.includes(chosen)) chosen = found.includes(OWN) ? OWN : found.find((name) => !name.endsWith("monitor")) ?? found[0] ?? "";
  // One without a name and none at all are two things.
  if (JSON.stringify(found) === JSON.stringify(reactors)) return;
  reactors = found;
  $("reactor").replaceChildren();
  for (const name of found) make($("reactor"), "option", { value: name }, nameOf(name));
  $("reactor").value = chosen;
  $("choice").hidden = found.length < 2;
}

// For how long the loop has not turned, by the time of its monitor; the loops that have one turn at least once in a second.
function heldUp() {
  const turned = new Map();
  for (const { labels, value } of scrapes[scrapes.length - 1]?.samples.get("dosimeter_loop_last_turn_timestamp_seconds") ?? []) turned.set(labels.reactor ?? "", value);
  const held = turned.get(monitorOf(chosen)) - turned.get(chosen);
  return held > STUCK ? held : 0;
}

function drawStatus(error) {
  const held = error ? 0 : heldUp();
  document.body.classList.toggle("stale", Boolean(error));
  if (held) {
    $("status").className = "lost";
    $("status").textContent = `the loop has not turned for ${Math.round(held)} s`;
    return;
  }
  if (!error && !reactors.length) {
    $("status").className = "lost";
    $("status").textContent = "no figures of a reactor: it publishes elsewhere, or under names with a prefix";
    return;
  }
  const status = $("status"), ago = Math.round((Date.now() - lastGood) / 1000);
  status.className = error ? "lost" : "live";
  status.textContent = !error ? "live" : lastGood ? `no answer for ${ago} s (${error}); trying again` : `no answer (${error}); trying again`;
}

// ---- the round -----------------------------------------------------------------------------------

async function load(path, accept) {
  const answer = await fetch(path, { cache: "no-store", headers: { Accept: accept }, signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error("status " + answer.status);
  return answer.text();
}

async function scrape() {
  const samples = parse(await load(FIGURES, "text/plain;version=0.0.4"));
  return { samples, at: performance.now() };
}

function take(scraped) {
  drawChoice(scraped);
  scrapes.push(scraped);
  scrapes = scrapes.slice(-WINDOW - 1);
  const before = scrapes[scrapes.length - 2];
  const lines = before ? PLOTS.map(([, , between]) => between(before, scraped)) : null;
  points.push({ at: scraped.at, lines, restarted: before && restarted(before, scraped) });
  const info = scraped.samples.get("dosimeter_info")?.[0];
  $("version").textContent = info ? info.labels.version : "";
}

function lose() {
  // What is far apart makes no rate of now: the window begins anew, the scrape before the gap aside.
  scrapes = scrapes.slice(-1);
  points.push({ at: performance.now(), lines: null });
}

function show() {
  const to = scrapes[scrapes.length - 1], from = scrapes[0];
  if (to && from !== to) {
    begun = true;
    drawTiles(from, to);
    drawRoutes(from, to);
  }
  drawSlow();
  drawPlots();
}

async function round() {
  let error = null;
  try {
    take(await scrape());
    slow = await load("slow", "text/tab-separated-values");
    lastGood = Date.now();
  } catch (failure) {
    error = failure.name === "TimeoutError" ? "timed out" : failure instanceof TypeError ? "connection refused" : failure.message;
    lose();
  }
  points = points.filter((point) => point.at >= performance.now() - SPAN);
  drawStatus(error);
  show();
  setTimeout(round, EVERY);
}

$("reactor").addEventListener("change", () => {
  chosen = $("reactor").value;
  // What was plotted was another loop's.
  points = [];
  show();
});
addEventListener("resize", drawPlots);
drawTiles(null, null);
drawPlots();
round();
