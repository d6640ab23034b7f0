"use strict";
// What every report needs: elements, and curves drawn from data. Text of models is only ever set as text.

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
  tip.replaceChildren(element("b", {}, `${chart.along} ${step.toLocaleString("en", { maximumSignificantDigits: 4 })}`), ...lines);
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
