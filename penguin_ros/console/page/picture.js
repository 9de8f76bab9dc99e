// The picture of the chosen camera: live, of the newest caption, or of a frame in memory, with boxes.

import { $, between, duration, make, picture } from "/page/net.js";

const captions = new Map(); // newest caption by camera
const frames = new Map(); // newest stamp by camera
let silences = {}, camera = "", mode = "live", held = null, loading = false, again = false, shownStamp = null, address = "";

function path() {
  const name = encodeURIComponent(camera), caption = captions.get(camera);
  if (mode === "held") return `/thumbnail?camera=${name}&stamp=${held}`;
  if (mode === "caption") return caption && `/picture?camera=${name}&stamp=${caption.stamp}`;
  return frames.has(camera) ? `/picture?camera=${name}` : null;
}

/** Loads the picture; while one is loading, further calls are answered by one more load. */
async function load() {
  if (loading) { again = true; return; }
  loading = true;
  do {
    again = false;
    const wanted = path(), stamp = { caption: captions.get(camera)?.stamp, held }[mode];
    try {
      if (!wanted) throw new Error("none");
      const next = await picture(wanted);
      $("picture").src = next.address;
      await $("picture").decode();
      $("frame").style.setProperty("--ratio", $("picture").naturalWidth / $("picture").naturalHeight);
      URL.revokeObjectURL(address);
      address = next.address; shownStamp = stamp ?? next.stamp; // a live picture may be newer than the event
      $("frame").hidden = false; $("no-picture").hidden = true;
    } catch {
      if (mode !== "live" || !frames.has(camera)) { $("frame").hidden = true; $("no-picture").hidden = false; shownStamp = null; }
    }
    draw();
  } while (again);
  loading = false;
}

function draw() {
  const caption = captions.get(camera);
  const age = caption && shownStamp ? between(caption.stamp, shownStamp) : null;
  const related = age !== null && (mode === "live" || age === 0);
  $("boxes").replaceChildren(...(related ? caption.objects : []).map((item) => {
    const box = make("div", "box"), [width, height] = caption.size, [left, top, right, bottom] = item.box_px;
    Object.assign(box.style, {
      left: `${100 * left / width}%`, top: `${100 * top / height}%`,
      width: `${100 * (right - left) / width}%`, height: `${100 * (bottom - top) / height}%`, borderColor: item.colour,
    });
    const label = make("span", top / height < 0.08 ? "inside" : "", item.label);
    label.style.background = item.colour;
    label.title = [item.score === null ? "" : `score ${item.score.toFixed(2)}`, item.position ?? ""].filter(Boolean).join(", ");
    box.append(label);
    return box;
  }));
  $("boxes").classList.toggle("old", related && Math.abs(age) > 5);
  const texts = { live: related ? `boxes are ${duration(age)} old` : "", caption: caption ? "frame of the newest caption" : "", held: "frame in memory" };
  $("shown").textContent = texts[mode];
  $("shown").hidden = !texts[mode] || $("frame").hidden;
  $("no-picture").textContent = emptyText();
}

function emptyText() {
  if (!camera) return "The node has no camera yet: is it active?";
  if (mode === "caption" && !captions.has(camera)) return "Waiting for a caption";
  if (mode !== "live") return "The console has not seen this frame: it sees pictures only while this page is open";
  return silences[camera] || "Waiting for a picture";
}

function showCaption() {
  const caption = captions.get(camera);
  $("caption").textContent = caption?.text || "No caption yet.";
  $("caption").classList.toggle("faint", !caption);
}

function setMode(next) {
  mode = next;
  for (const button of $("modes").children) button.setAttribute("aria-pressed", button.dataset.mode === mode);
  load();
}

export function setCamera(name) { camera = name; shownStamp = null; showCaption(); setMode(mode === "held" ? "live" : mode); }
export function setSilences(values) { silences = values; if (!$("no-picture").hidden) draw(); }
export function onFrame(event) { frames.set(event.camera, event.stamp); if (event.camera === camera && mode === "live") load(); }
export function hold(stamp) { held = stamp; setMode("held"); }

export function onCaption(event) {
  captions.set(event.camera, event);
  if (event.camera !== camera) return;
  showCaption();
  if (mode === "caption") load(); else draw();
}

for (const button of $("modes").children) button.addEventListener("click", () => setMode(button.dataset.mode));
