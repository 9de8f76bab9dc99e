// Requests to the console, each with the token if there is one, and small helpers for the page.

const KEY = "penguin-console-token";
const carried = new URLSearchParams(location.hash.slice(1)).get("token");
if (carried) {
  sessionStorage.setItem(KEY, carried);
  history.replaceState(null, "", location.pathname); // the address is often shared or photographed
}

export const $ = (id) => document.getElementById(id);

export function setToken(token) { sessionStorage.setItem(KEY, token); }

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

export async function request(path, options = {}) {
  const headers = { ...options.headers }, token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  const reply = await fetch(path, { ...options, headers, cache: "no-store" });
  if (reply.ok) return reply;
  let text = `status ${reply.status}`;
  try { text = (await reply.json()).error; } catch { /* not from the console */ }
  throw new Refused(reply.status, text);
}

export function post(path, values, signal) {
  return request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values), signal });
}

/** Yields the JSON objects of a response, one per line; empty lines say that the connection lives. */
export async function* lines(reply, onData = () => {}) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onData();
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

/** Returns the address of a picture in this page, which the caller revokes, and its stamp if the console names it. */
export async function picture(path) {
  const reply = await request(path);
  return { address: URL.createObjectURL(await reply.blob()), stamp: reply.headers.get("X-Stamp") };
}

export function make(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

/** Seconds between two stamps, which are texts of nanoseconds. */
export const between = (from, to) => Number(BigInt(to) - BigInt(from)) / 1e9;

export function duration(seconds) {
  const size = Math.abs(seconds);
  if (size < 10) return `${size.toFixed(1)} s`;
  if (size < 120) return `${Math.round(size)} s`;
  return size < 7200 ? `${Math.round(size / 60)} min` : `${Math.round(size / 3600)} h`;
}

export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

export const percent = (value) => (value === null ? "?" : `${Math.round(value * 100)} %`);
