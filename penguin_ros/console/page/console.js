// The page of a running node: receives its events and passes them to the parts of the page.

import { $, clock, lines, make, request, setToken } from "/page/net.js";
import * as memory from "/page/memory.js";
import * as plots from "/page/plots.js";
import * as talk from "/page/talk.js";
import * as view from "/page/picture.js";
import * as watches from "/page/watches.js";

const QUIET_MS = 8000; // the console sends something every two seconds
let cameras = [], camera = "", stream = null;

function pill(level, text) {
  $("state").dataset.level = level;
  $("state").lastElementChild.textContent = text;
}

function choose(name) {
  camera = name;
  for (const tab of $("cameras").children) tab.setAttribute("aria-pressed", tab.dataset.camera === name);
  for (const part of [view, memory, plots, talk, watches]) part.setCamera(name);
}

function showNode(event) {
  $("node").textContent = event.name;
  document.title = `${event.name} · Penguin console`;
  if (!event.present) pill("error", `no node ${event.name}`);
  else if (!event.cameras.length) pill("warn", "node is not active");
  else pill("ok", "live");
  watches.setAvailable(event.present, event.watch);
  talk.setAvailable(event.present);
  view.setSilences(event.silences);
  if (event.cameras.join() === cameras.join()) return;
  cameras = event.cameras;
  $("cameras").replaceChildren(...cameras.map((name) => {
    const tab = make("button", "", name.replace(/^\//, "").replace(/\/(image_raw|compressed|image)/g, "") || name);
    tab.type = "button"; tab.dataset.camera = name; tab.title = name;
    tab.addEventListener("click", () => choose(name));
    return tab;
  }));
  $("cameras").hidden = cameras.length < 2;
  choose(cameras.includes(camera) ? camera : cameras[0] ?? "");
}

const opened = new Set();

function showStatuses(event) {
  const troubled = event.statuses.filter((status) => status.level !== "ok").length;
  $("diagnostics-text").textContent = `${troubled ? `${troubled} need attention` : "all well"} · ${clock(Date.now() / 1000)}`;
  $("statuses").replaceChildren(...event.statuses.map((status) => {
    const details = make("details", "status"), summary = make("summary"), table = make("dl");
    details.dataset.level = status.level;
    details.open = opened.has(status.name);
    details.addEventListener("toggle", () => { if (details.open) opened.add(status.name); else opened.delete(status.name); });
    summary.append(make("i"), make("b", "", status.name), make("span", "", status.message));
    for (const [key, value] of status.values) table.append(make("dt", "", key), make("dd", "", value || "–"));
    details.append(summary, table);
    return details;
  }));
}

const handlers = {
  node: showNode,
  status: showStatuses,
  frame: view.onFrame,
  caption: (event) => { view.onCaption(event); talk.onCaption(event); plots.onCaption(event); },
  memory: (event) => { memory.onMemory(event); plots.onMemory(event); },
  tokens: plots.onTokens,
  answer: (event) => { talk.onAnswer(event); plots.onAnswer(event); },
  watches: watches.onWatches,
  alert: watches.onAlert,
  lost: (event) => console.warn(`${event.entries} entries were lost because this page was slow`),
};

function reset() { for (const part of [talk, plots, watches]) part.reset(); }

async function listen() {
  const control = new AbortController();
  let quiet;
  const alive = () => { clearTimeout(quiet); quiet = setTimeout(() => control.abort(), QUIET_MS); };
  stream = control;
  try {
    alive();
    const reply = await request("/events", { signal: control.signal });
    reset();
    for await (const event of lines(reply, alive)) handlers[event.kind]?.(event);
  } finally { clearTimeout(quiet); stream = null; }
}

async function login(message) {
  $("login-error").textContent = message;
  if (!$("login").open) $("login").showModal();
  await new Promise((done) => $("login-form").addEventListener("submit", (event) => { event.preventDefault(); done(); }, { once: true }));
  setToken($("token").value.trim());
  $("login").close();
}

const visible = () => document.visibilityState === "visible";

async function main() {
  let tried = false;
  for (;;) {
    // A hidden page disconnects, so that the robot decodes no pictures for it.
    if (!visible()) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
    try { await listen(); tried = false; } catch (error) {
      if (error.status === 401) { await login(tried ? error.message : ""); tried = true; continue; }
      if (visible()) pill("error", error.status ? error.message : "console not reached");
    }
    if (visible()) await new Promise((done) => setTimeout(done, 1000));
  }
}

document.addEventListener("visibilitychange", () => { if (!visible()) stream?.abort(); });
main();
