"use strict";
// Draws the curves, and shows rollouts on demand. Text of models and problems is only ever set as text.

const data = JSON.parse(document.getElementById("data").textContent);

function element(name, attributes = {}, text = null) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

function drawn(name, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

// ---- curves ----

const MARGIN = { left: 54, right: 16, top: 10, bottom: 24 };

function niceTicks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) {
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return ticks;
}

function formatValue(value, percent) {
  if (percent) return `${+(100 * value).toPrecision(3)} %`;
  const size = Math.abs(value);
  if (value !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 5 });
}

// Ticks a step apart get the digits that tell them apart, and no more.
function formatTick(value, step, percent) {
  const [shown, apart] = percent ? [100 * value, 100 * step] : [value, step];
  const unit = percent ? " %" : "";
  if (shown === 0) return `0${unit}`;
  let digits = 0;
  while (digits < 6 && Math.abs(apart * 10 ** digits - Math.round(apart * 10 ** digits)) > 1e-6) digits++;
  if (digits > 5 || Math.abs(shown) >= 1e6) return shown.toExponential(1).replace("e+", "e") + unit;
  return shown.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + unit;
}

function extent(chart) {
  const steps = chart.curves.flatMap((curve) => curve.points.map((point) => point[0]));
  const values = chart.curves.flatMap((curve) => [...curve.points.map((point) => point[1]), ...curve.intervals.flat()]);
  let [left, right, low, high] = [steps, values].flatMap((all) => [
    all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b)),
  ]);
  if (left === right) [left, right] = [left - 1, right + 1];
  if (low === high) [low, high] = low === 0 ? [0, chart.percent ? 0.05 : 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
  const room = (high - low) * 0.05;
  // An axis that nearly reaches 0 starts there; a share never leaves 0 to 1.
  low = low >= 0 && low < 0.5 * high ? 0 : low - room;
  high += room;
  if (chart.percent) [low, high] = [Math.max(0, low), Math.min(1, high)];
  return { left, right, low, high };
}

function pathOf(points, x, y) {
  return points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
}

function drawCurve(svg, curve, x, y, shift) {
  const style = `--colour:${curve.colour}`;
  if (curve.intervals.length) {
    curve.points.forEach(([step, value], index) => {
      const [low, high] = curve.intervals[index];
      const place = x(step) + shift;
      svg.append(drawn("line", { class: "bar", style, x1: place, x2: place, y1: y(low), y2: y(high) }));
      svg.append(drawn("circle", { class: "dot", style, cx: place, cy: y(value), r: 3.5 }));
    });
    return;
  }
  if (curve.points.length === 1) {
    const [step, value] = curve.points[0];
    svg.append(drawn("circle", { class: "dot", style, cx: x(step), cy: y(value), r: 3 }));
    return;
  }
  if (curve.average.length) svg.append(drawn("path", { class: "raw", style, d: pathOf(curve.points, x, y) }));
  const line = curve.average.length ? curve.average : curve.points;
  svg.append(drawn("path", { class: "curve", style, "stroke-dasharray": curve.dash, d: pathOf(line, x, y) }));
}

function drawChart(chart) {
  const plot = document.querySelector(`#chart-${CSS.escape(chart.key)} .plot`);
  const [width, height] = [plot.clientWidth, plot.clientHeight];
  const { left, right, low, high } = extent(chart);
  const x = (step) => MARGIN.left + ((step - left) / (right - left)) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const ticks = niceTicks(low, high, 5);
  for (const tick of ticks) {
    svg.append(drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }));
    svg.append(drawn("text", { x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end" }, formatTick(tick, ticks[1] - ticks[0], chart.percent)));
  }
  for (const tick of niceTicks(left, right, Math.max(2, width / 110)).filter(Number.isInteger)) {
    svg.append(drawn("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, tick.toLocaleString("en")));
  }
  const marked = chart.curves.filter((curve) => curve.intervals.length);
  for (const curve of chart.curves) {
    drawCurve(svg, curve, x, y, 6 * (marked.indexOf(curve) - (marked.length - 1) / 2)); // side by side
  }
  const cursor = drawn("line", { class: "cursor", y1: MARGIN.top, y2: height - MARGIN.bottom, visibility: "hidden" });
  svg.append(cursor);
  const tip = element("div", { class: "tip", hidden: "" });
  plot.replaceChildren(svg, tip);
  plot.onpointermove = (event) => pointAt(event, chart, plot, { x, left, right, width, cursor, tip });
  plot.onpointerleave = () => {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
}

function nearest(points, step) {
  return points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
}

function pointAt(event, chart, plot, { x, left, right, width, cursor, tip }) {
  const inside = event.clientX - plot.getBoundingClientRect().left - MARGIN.left;
  const pointed = left + (inside / (width - MARGIN.left - MARGIN.right)) * (right - left);
  const step = nearest(chart.curves.flatMap((curve) => curve.points), pointed)[0];
  const lines = chart.curves
    .map((curve) => [curve.label, curve.points.find((point) => point[0] === step)])
    .filter(([, point]) => point)
    .map(([label, point]) => element("div", {}, `${label}: ${formatValue(point[1], chart.percent)}`));
  tip.replaceChildren(element("b", {}, `step ${step.toLocaleString("en")}`), ...lines);
  tip.hidden = false;
  const place = x(step);
  tip.style.left = place > width / 2 ? "auto" : `${place + 10}px`;
  tip.style.right = place > width / 2 ? `${width - place + 10}px` : "auto";
  for (const end of ["x1", "x2"]) cursor.setAttribute(end, place);
  cursor.setAttribute("visibility", "visible");
}

function drawLegend(chart) {
  const list = document.querySelector(`#chart-${CSS.escape(chart.key)} .legend`);
  if (chart.curves.length < 2) return;
  for (const curve of chart.curves) {
    const item = element("li");
    const key = drawn("svg", { viewBox: "0 0 20 10" });
    const style = `--colour:${curve.colour}`;
    if (curve.intervals.length) key.append(drawn("circle", { class: "dot", style, cx: 10, cy: 5, r: 3.5 }));
    else key.append(drawn("path", { class: "curve", style, "stroke-dasharray": curve.dash, d: "M0 5L20 5" }));
    item.append(key, curve.label);
    list.append(item);
  }
}

function drawCharts() {
  data.charts.forEach(drawChart);
}

data.charts.forEach(drawLegend);
drawCharts();
let resized = 0;
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  cancelAnimationFrame(resized);
  resized = requestAnimationFrame(drawCharts);
});

// ---- rollouts ----

const ROW_HEIGHT = 56;
const SPARE_ROWS = 6;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function browse() {
  const indexNode = document.getElementById("index");
  if (!indexNode) return;
  const chunkNodes = document.querySelectorAll("script.chunk");
  const chunks = new Map();
  const index = await unpack(indexNode.textContent);
  const form = document.querySelector(".filters");
  const list = document.querySelector(".list");
  const rows = list.querySelector(".rows");
  const detail = document.querySelector(".detail");
  const total = index.run.length;
  let visible = [];
  let selected = -1;

  function chunkOf(rollout) {
    let [low, high] = [0, index.starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (index.starts[middle] <= rollout) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async function read(rollout) {
    const number = chunkOf(rollout);
    if (!chunks.has(number)) chunks.set(number, unpack(chunkNodes[number].textContent));
    const content = await chunks.get(number);
    const [group, ...values] = content.rollouts[rollout - index.starts[number]];
    return Object.fromEntries([
      ...data.ofGroup.map((name, column) => [name, content.groups[group][column]]),
      ...data.ofRollout.map((name, column) => [name, values[column]]),
    ]);
  }

  function fill(name, column, labels) {
    const present = [...new Set(index[column])].sort((a, b) => a - b);
    form.elements[name].append(element("option", { value: "" }, "all"));
    for (const value of present) form.elements[name].append(element("option", { value }, labels ? labels[value] : value));
  }

  function filter() {
    const wanted = ["run", "place", "step", "status"]
      .map((name) => [index[name], form.elements[name].value])
      .filter(([, value]) => value !== "")
      .map(([column, value]) => [column, Number(value)]);
    visible = [];
    for (let rollout = 0; rollout < total; rollout++) {
      if (wanted.every(([column, value]) => column[rollout] === value)) visible.push(rollout);
    }
    const order = form.elements.order.value;
    if (order !== "given") {
      const sign = order === "best" ? -1 : 1;
      const last = Infinity * sign; // a rollout without a reward has failed: it comes last either way
      const key = (rollout) => sign * (index.reward[rollout] ?? last);
      visible.sort((a, b) => (key(a) === key(b) ? a - b : key(a) - key(b)));
    }
    form.elements.count.value = `${visible.length.toLocaleString("en")} replies`;
    selected = -1;
    list.removeAttribute("aria-activedescendant");
    list.scrollTop = 0;
    rows.style.height = `${visible.length * ROW_HEIGHT}px`;
    show();
  }

  function rowOf(position) {
    const rollout = visible[position];
    const status = index.statuses[index.status[rollout]];
    const row = element("div", {
      class: "row", role: "option", id: `row-${position}`, "aria-selected": String(position === selected),
      "aria-posinset": position + 1, "aria-setsize": visible.length, style: `top:${position * ROW_HEIGHT}px`,
    });
    const head = element("div");
    const reward = index.reward[rollout];
    const where = index.place[rollout] ? ", held out" : "";
    head.append(
      element("span", { class: `status ${status}` }, status),
      element("span", {}, reward === null ? "no reward" : `reward ${formatValue(reward)}`),
      element("span", { class: "step" }, `step ${index.step[rollout]}${where}`),
    );
    const snippet = element("p", {}, "…");
    row.append(head, snippet);
    row.onclick = () => choose(position);
    read(rollout).then((content) => { snippet.textContent = content.prompt.slice(0, 160); });
    return row;
  }

  function show() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const end = Math.min(visible.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
    rows.replaceChildren(...Array.from({ length: Math.max(0, end - first) }, (_, offset) => rowOf(first + offset)));
  }

  async function choose(position) {
    selected = position;
    const top = position * ROW_HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
    show();
    list.setAttribute("aria-activedescendant", `row-${position}`);
    const rollout = visible[position];
    const content = await read(rollout);
    if (visible[selected] === rollout) detail.replaceChildren(...describe(rollout, content));
  }

  function describe(rollout, content) {
    const status = index.statuses[index.status[rollout]];
    const verdict = element("p", { class: "verdict" });
    verdict.append(element("span", { class: `status ${status}` }, status));
    if (content.reason) verdict.append(` ${content.reason}`);
    const facts = element("dl", { class: "facts" });
    const fact = (name, value) => {
      if (value !== null && value !== undefined && value !== "") {
        facts.append(element("dt", {}, name), element("dd", {}, String(value)));
      }
    };
    if (data.runs.length > 1) fact("run", data.runs[index.run[rollout]]);
    fact("from", `${index.places[index.place[rollout]]}, step ${index.step[rollout]}`);
    fact("reward", index.reward[rollout]);
    for (const [name, value] of Object.entries(content.parts ?? {})) fact(`reward part ${name}`, formatValue(value));
    fact("advantage", content.advantage);
    fact("score", content.score);
    fact("answer found", content.answer);
    fact("right answer", content.gold);
    fact("tokens", content.length);
    fact("ended by", content.finish_reason);
    fact("failure", content.failure);
    fact("problem", `${content.uid}, reply ${content.sample + 1}`);
    return [
      verdict, element("h3", {}, "prompt"), element("pre", { class: "prompt" }, content.prompt),
      element("h3", {}, "reply"), element("pre", { class: "reply" }, content.text), facts,
    ];
  }

  fill("run", "run", data.runs);
  fill("place", "place", index.places);
  fill("step", "step", null);
  fill("status", "status", index.statuses);
  form.onchange = filter;
  form.onsubmit = (event) => event.preventDefault();
  list.onscroll = show;
  list.onkeydown = (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -visible.length, End: visible.length };
    if (!(event.key in moves) || !visible.length) return;
    event.preventDefault();
    choose(Math.min(visible.length - 1, Math.max(0, selected + moves[event.key])));
  };
  filter();
  document.documentElement.dataset.ready = "true";
}

browse();
