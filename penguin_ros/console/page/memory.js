// The memory of the chosen camera: one cell per frame, as large as the frame is held, the newest at the right.

import { $, between, count, duration, make, picture } from "/page/net.js";
import { hold } from "/page/picture.js";

const HEIGHT_PX = 88, LEAST_PX = 20;
const states = new Map(); // newest memory event by camera
let camera = "", cells = new Map(); // by stamp

function cell(frame) {
  const button = make("button", `cell ${frame.kind}`), image = make("img");
  button.type = "button";
  image.alt = ""; image.hidden = true;
  button.append(image, make("span", "age"), make("span", "tokens"));
  button.addEventListener("click", () => hold(frame.stamp));
  return { button, image, address: "", wanted: false };
}

async function loadThumbnail(item, stamp) {
  if (item.wanted) return;
  item.wanted = true;
  try {
    item.address = (await picture(`/thumbnail?camera=${encodeURIComponent(camera)}&stamp=${stamp}`)).address;
    item.image.src = item.address;
    item.image.hidden = false;
  } catch { item.wanted = false; }
}

function draw() {
  const state = states.get(camera), strip = $("strip");
  const frames = state?.frames ?? [], newest = frames.at(-1)?.stamp, area = Math.max(1, ...frames.map((frame) => frame.size[0] * frame.size[1]));
  const atEnd = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 24;
  const next = new Map();
  for (const frame of frames) {
    const item = cells.get(frame.stamp) ?? cell(frame), [width, height] = frame.size;
    const scale = Math.sqrt(width * height / area), shown = Math.max(LEAST_PX, HEIGHT_PX * scale);
    item.button.className = `cell ${frame.kind}`;
    item.button.title = `${frame.kind === "key" ? "keyframe" : "between keyframes"}, ${width} × ${height} pixels, ${frame.tokens} tokens`;
    item.button.style.setProperty("--height", `${shown}px`);
    item.button.style.setProperty("--width", `${shown * width / height}px`);
    item.button.children[1].textContent = frame.stamp === newest ? "now" : `−${duration(between(frame.stamp, newest))}`;
    item.button.children[2].textContent = frame.tokens;
    if (frame.seen) loadThumbnail(item, frame.stamp);
    next.set(frame.stamp, item);
  }
  for (const [stamp, item] of cells) if (!next.has(stamp)) { item.button.remove(); URL.revokeObjectURL(item.address); }
  cells = next;
  [...next.values()].forEach((item, index) => { if (strip.children[index] !== item.button) strip.insertBefore(item.button, strip.children[index] ?? null); });
  if (atEnd) strip.scrollLeft = strip.scrollWidth;
  drawText(state);
}

function drawText(state) {
  const frames = state?.frames ?? [], keys = frames.filter((frame) => frame.kind === "key").length;
  const span = frames.length > 1 ? ` over ${duration(between(frames[0].stamp, frames.at(-1).stamp))}` : "";
  $("memory-text").textContent = state ? `${count(frames.length, "frame")}, ${count(keys, "keyframe")}${span} · ${state.tokens} of ${state.budget} tokens` : "nothing reported yet";
  $("memory-text").title = state?.pace ?? "";
  $("meter").setAttribute("aria-valuenow", state?.tokens ?? 0);
  $("meter").setAttribute("aria-valuemax", state?.budget ?? 1);
  $("meter").firstElementChild.style.width = state?.budget ? `${100 * state.tokens / state.budget}%` : "0";
}

export function setCamera(name) {
  camera = name;
  for (const item of cells.values()) { item.button.remove(); URL.revokeObjectURL(item.address); }
  cells = new Map();
  draw();
  $("strip").scrollLeft = $("strip").scrollWidth;
}

export function onMemory(event) { states.set(event.camera, event); if (event.camera === camera) draw(); }
