// Questions with their answers as they are generated, and the captions.

import { $, clock, count, lines, make, post, toast } from "/page/net.js";

const SUGGESTIONS = ["What do you see?", "What has changed?", "Is anything unusual?"];
const MAX_CAPTIONS = 60, MAX_ANSWERS = 30;
let camera = "", running = null, mine = null, captionCount = 0;

function entry(question) {
  const item = make("li"), answer = make("p", "answer");
  item.append(make("p", "question", question), answer, make("p", "faint"));
  $("talk").append(item);
  while ($("talk").children.length > MAX_ANSWERS) $("talk").firstElementChild.remove();
  item.scrollIntoView?.({ block: "nearest" });
  $("talk").scrollTop = $("talk").scrollHeight;
  return item;
}

function finish(item, event) {
  const [, answer, note] = item.children;
  item.classList.remove("running");
  if (event.answer) answer.textContent = event.answer;
  if (event.error) { note.textContent = event.error; note.className = "error"; return; }
  note.textContent = `${count(event.frames, "frame")}, ${count(event.tokens.visual, "visual token")} · first token ${event.seconds.first_token.toFixed(2)} s, complete ${event.seconds.total.toFixed(2)} s`;
  $("talk").scrollTop = $("talk").scrollHeight;
}

async function ask(question) {
  const item = entry(question), control = new AbortController();
  item.classList.add("running");
  running = control; mine = question;
  busy();
  try {
    for await (const event of lines(await post("/ask", { question, camera }, control.signal))) {
      if (event.kind === "text") item.children[1].textContent += event.text;
      else finish(item, event);
    }
    if (item.classList.contains("running")) throw new Error("the console went away");
  } catch (error) {
    finish(item, { error: control.signal.aborted ? "stopped" : error.message });
  }
  running = null;
  busy();
}

function busy() {
  $("send").hidden = Boolean(running);
  $("cancel").hidden = !running;
}

function submit(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = ""; grow();
  ask(question);
}

function grow() {
  $("question").style.height = "auto";
  $("question").style.height = `${Math.min(160, $("question").scrollHeight + 2)}px`;
}

export function setCamera(name) { camera = name; }
export function setAvailable(present) { $("send").disabled = !present; }

export function reset() {
  if (running) return;
  $("talk").replaceChildren(); $("captions").replaceChildren();
  captionCount = 0;
}

/** Shows an answer of the history, or one that another page asked for. */
export function onAnswer(event) {
  if (event.question === mine && [...$("talk").children].some((item) => item.firstElementChild.textContent === mine)) { mine = null; return; }
  finish(entry(event.question), event);
}

export function onCaption(event) {
  const item = make("li"), head = make("p", "faint"), labels = make("p", "labels");
  captionCount += 1;
  head.append(make("time", "", clock(event.at)), make("span", "", ` · ${event.camera} · ${event.seconds.total?.toFixed(2)} s${event.keyframe ? " · keyframe" : ""}`));
  for (const object of event.objects) {
    const label = make("span", "label", object.label), dot = make("i");
    dot.style.background = object.colour;
    label.prepend(dot);
    if (object.score !== null) label.append(make("small", "", object.score.toFixed(2)));
    labels.append(label);
  }
  item.append(head, make("p", "", event.text || "(no text)"), labels);
  $("captions").prepend(item);
  while ($("captions").children.length > MAX_CAPTIONS) $("captions").lastElementChild.remove();
  $("captions-text").textContent = captionCount === 1 ? "one so far" : `${captionCount}, newest first`;
}

$("ask").addEventListener("submit", submit);
$("cancel").addEventListener("click", () => running?.abort());
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) submit(event); });
$("suggestions").append(...SUGGESTIONS.map((text) => {
  const button = make("button", "", text);
  button.type = "button";
  button.addEventListener("click", () => { if (running) toast("one question at a time"); else ask(text); });
  return button;
}));
