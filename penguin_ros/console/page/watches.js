// Conditions that the node watches for, and alerts.

import { $, make, percent, picture, post, toast } from "/page/net.js";

const MAX_ALERTS = 10, STATES = { alert: "it happened", stopped: "stopped", failed: "failed" };
let camera = "";

async function start(event) {
  event.preventDefault();
  const values = { condition: $("condition").value.trim(), camera };
  for (const [name, id] of [["threshold", "threshold"], ["hold_s", "hold"], ["period_s", "period"]]) values[name] = Number($(id).value || 0);
  try {
    await post("/watch", values);
    $("condition").value = "";
  } catch (error) { toast(error.message); }
}

function row(watch) {
  const item = make("li", `watch ${watch.state}${watch.holds ? " holds" : ""}`), head = make("div", "row"), stop = make("button", "small", watch.state === "watching" ? "Stop" : "Remove");
  const probability = watch.alert?.probability ?? null, bar = make("div", "meter");
  stop.type = "button";
  stop.addEventListener("click", () => post("/watch/stop", { id: watch.id }).catch((error) => toast(error.message)));
  head.append(make("p", "", watch.condition), stop);
  const judged = watch.judged ? `${percent(probability)} now, ${percent(watch.threshold)} needed · ${watch.judged} judged` : "not judged yet";
  const text = watch.error || (STATES[watch.state] ? `${STATES[watch.state]} · ${judged}` : judged);
  const level = make("i"), mark = make("b");
  level.style.width = `${100 * (probability ?? 0)}%`;
  mark.style.left = `${100 * watch.threshold}%`;
  bar.append(level, mark);
  item.append(head, bar, make("p", watch.error ? "error" : "faint", text));
  return item;
}

export function setCamera(name) { camera = name; }

export function setAvailable(present, offered) {
  $("watch").querySelector(".primary").disabled = !offered;
  $("watch-text").textContent = present && !offered ? "this node does not offer them" : "";
}

export function reset() { $("alerts").replaceChildren(); }

export function onWatches(event) { $("watch-list").replaceChildren(...event.watches.map(row)); }

export function onAlert(event) {
  const item = make("li", "alert"), text = make("div"), when = new Date(Number(BigInt(event.stamp) / 1000000n));
  text.append(make("b", "", event.condition), make("p", "faint", `${when.toLocaleTimeString()} · ${event.camera} · ${percent(event.probability)}${event.held_s ? ` · held ${event.held_s.toFixed(1)} s` : ""}`));
  if (event.picture) {
    const image = make("img");
    image.alt = `frame of the alert: ${event.condition}`;
    picture(`/alert?id=${event.id}`).then(({ address }) => {
      image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
      image.src = address;
    }, () => image.remove());
    item.append(image);
  }
  item.append(text);
  $("alerts").prepend(item);
  while ($("alerts").children.length > MAX_ALERTS) $("alerts").lastElementChild.remove();
}

$("watch").addEventListener("submit", start);
