const runs = JSON.parse(document.getElementById("runs").textContent);
const $ = (id) => document.getElementById(id);
const root = document.documentElement;

// ---- theme: as the system has it, until somebody chooses ----
root.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
$("theme").hidden = false;
$("theme").onclick = () => { root.classList.toggle("dark"); readColours(); draw(); };
const colour = {};
function readColours() {
  const style = getComputedStyle(root);
  for (const name of ["page", "card", "ink", "faint", "line", "lane", "accent", "bad", "send", "stored",
    "refused", "unknown", "deliver", "ack", "retry", "decide", "check", "commit", "assign", "life", "fault",
    "replica", "note"]) {
    colour[name] = style.getPropertyValue("--" + name).trim();
  }
}
readColours();
if (runs.length === 0) return;

// ---- what is shown ----
let run, ev;                  // the run and its events, column by column
let rows = [], rowOf = [];    // lanes from top to bottom, and each lane's place
let from = 0, to = 1;         // the shown stretch of time, microseconds
let selected = -1;            // index of the selected event
let hidden = new Set();       // kinds switched off
let wanted = null;            // events that match the filter, or null for all
let cited = new Map();        // event index -> is it the violating one
let journey = [];             // events of the selected message, in time order

const AXIS = 26, EDGE = 14, MIN_VIEW = 200;
const canvas = $("lanes"), axis = $("axis"), overview = $("overview"), stage = $("stage");
const gutter = () => (canvas.clientWidth < 700 ? 96 : 170);
const laneHeight = () => Math.max(30, Math.min(54, Math.floor(560 / run.lanes.length)));
const x = (at) => gutter() + EDGE + (at - from) / (to - from) * (canvas.clientWidth - gutter() - 2 * EDGE);
const timeAt = (px) => from + (px - gutter() - EDGE) / (canvas.clientWidth - gutter() - 2 * EDGE) * (to - from);
const top = (lane) => rowOf[lane] * laneHeight();
const middle = (lane) => (rowOf[lane] + .5) * laneHeight();
const seconds = (us) => (us / 1e6).toFixed(6) + "s";

// A delivery is seen where it arrives; everything else where it starts.
const home = (i) => (ev.kind[i] === "deliver" && ev.to[i] !== null ? ev.to[i] : ev.lane[i]);
// Beginnings sit above the middle of a lane, their ends below it.
const LEVEL = { send: -1, deliver: -1, stored: 1, refused: 1, unknown: 1, ack: 1, retry: 1, commit: 1 };
const y = (i) => middle(home(i)) + (LEVEL[ev.kind[i]] || 0) * laneHeight() * .2;
const visible = (i) => !hidden.has(ev.kind[i]) && (wanted === null || wanted[i] === 1);

/** Long runs keep only the events around what matters. */
const trimmed = () => ev.at.length < run.event_count;

/** The first event at or after a moment. */
function firstAt(at) {
  let low = 0, high = ev.at.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (ev.at[mid] < at) low = mid + 1; else high = mid;
  }
  return low;
}
