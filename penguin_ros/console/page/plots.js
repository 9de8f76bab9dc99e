// Two plots of the last five minutes: visual tokens held, and latencies of captions and answers.

import { $, clock } from "/page/net.js";

const WINDOW_S = 300, LEFT = 40, BOTTOM = 18, TOP = 8, RIGHT = 8;
let camera = "", budgets = new Map(), tokens = [], latencies = [], waiting = false;

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((step) => step >= value);
}

/** Clears a plot, draws its axes, and returns functions for positions. */
function axes(svg, top, now) {
  const width = svg.clientWidth || 300, height = svg.clientHeight || 120;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (now - at) / WINDOW_S);
  const y = (value) => height - BOTTOM - (height - BOTTOM - TOP) * Math.min(1, value / top);
  svg.replaceChildren();
  for (const share of [0, 0.5, 1]) {
    svg.append(element("line", { x1: LEFT, x2: width - RIGHT, y1: y(top * share), y2: y(top * share), class: "grid" }));
    svg.append(element("text", { x: LEFT - 6, y: y(top * share) + 4, class: "tick end" }, String(Math.round(top * share * 100) / 100)));
  }
  for (const minutes of [4, 2, 0]) svg.append(element("text", { x: x(now - minutes * 60), y: height - 3, class: minutes ? "tick middle" : "tick end" }, minutes ? `−${minutes} min` : "now"));
  return { x, y };
}

function drawTokens(now) {
  const points = tokens.filter((point) => point.camera === camera), budget = budgets.get(camera) ?? 0;
  const { x, y } = axes($("tokens"), nice(Math.max(1, budget * 1.05, ...points.map((point) => point.tokens))), now);
  if (budget) $("tokens").append(element("line", { x1: x(now - WINDOW_S), x2: x(now), y1: y(budget), y2: y(budget), class: "budget" }));
  if (points.length) {
    const path = points.map((point, index) => `${index ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point.tokens).toFixed(1)}`).join("") + `L${x(now).toFixed(1)} ${y(points.at(-1).tokens).toFixed(1)}`;
    $("tokens").append(element("path", { d: `${path}V${y(0)}H${x(points[0].at)}Z`, class: "area" }), element("path", { d: path, class: "line" }));
  }
  $("tokens-now").textContent = points.length ? `${points.at(-1).tokens} of ${budget}` : "";
}

function drawLatencies(now) {
  const points = latencies.filter((point) => point.kind === "answer" || point.camera === camera);
  const { x, y } = axes($("latency"), nice(Math.max(0.1, ...points.map((point) => point.seconds.total ?? 0))), now);
  for (const point of points) {
    const place = x(point.at), first = y(point.seconds.first_token ?? 0), total = y(point.seconds.total ?? 0), group = element("g", { class: point.kind });
    group.append(
      element("line", { x1: place, x2: place, y1: first, y2: total, class: "stem" }),
      element("circle", { cx: place, cy: first, r: 3, class: "first" }), element("circle", { cx: place, cy: total, r: 3.5, class: "total" }),
      element("title", {}, `${point.kind} at ${clock(point.at)}: first token ${point.seconds.first_token?.toFixed(2)} s, complete ${point.seconds.total?.toFixed(2)} s`),
    );
    $("latency").append(group);
  }
  const newest = points.at(-1)?.seconds;
  $("latency-now").textContent = newest ? `${newest.first_token?.toFixed(2)} / ${newest.total?.toFixed(2)} s` : "";
}

function drawNow() {
  const now = Date.now() / 1000, recent = (point) => now - point.at < WINDOW_S;
  waiting = false;
  tokens = tokens.filter(recent); latencies = latencies.filter(recent);
  drawTokens(now); drawLatencies(now);
}

function draw() { if (!waiting) { waiting = true; requestAnimationFrame(drawNow); } }

function add(event) { latencies.push(event); draw(); }

export function setCamera(name) { camera = name; draw(); }
export function reset() { tokens = []; latencies = []; draw(); }
export function onMemory(event) { budgets.set(event.camera, event.budget); draw(); }
export function onTokens(event) { tokens.push(event); draw(); }
export const onCaption = add;
export function onAnswer(event) { if (!event.error) add(event); }

new ResizeObserver(draw).observe($("tokens"));
setInterval(draw, 2000);
