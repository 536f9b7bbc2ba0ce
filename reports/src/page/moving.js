// ---- moving ----
function view(a, b) {
  const end = Math.max(run.ended_us, ev.at[ev.at.length - 1], 1);
  const width = Math.min(Math.max(b - a, MIN_VIEW), end);
  from = Math.min(Math.max(a, 0), end - width);
  to = from + width;
  draw();
}
const whole = () => view(0, Infinity);
const centre = (at) => { const half = (to - from) / 2; view(at - half, at + half); };
const zoom = (factor, about = (from + to) / 2) => view(about - (about - from) * factor, about + (to - about) * factor);
/** The violation in the middle, with what it cites if that lies near, and some of the traffic around it. */
function toViolation() {
  const broken = run.broken[0], at = ev.at[broken.event];
  const AROUND = 60, near = (i) => Math.abs(ev.at[Math.min(Math.max(i, 0), ev.at.length - 1)] - at);
  const reach = Math.max(...journey.concat(broken.violation.cites).map(near), 0);
  const enough = Math.min(near(broken.event - AROUND), near(broken.event + AROUND));
  const half = Math.min(Math.max(reach * 1.4, enough, MIN_VIEW), run.ended_us / 8 + 1);
  view(at - half, at + half);
}
$("to-violation").onclick = () => { select(run.broken[0].event, false); toViolation(); };
$("whole").onclick = whole;
$("in").onclick = () => zoom(.5);
$("out").onclick = () => zoom(2);
$("copy").onclick = () => navigator.clipboard?.writeText(run.repro);

function step(by) {
  let i = selected < 0 ? firstAt(from) - (by > 0 ? 1 : 0) : selected;
  do i += by; while (i >= 0 && i < ev.at.length && !visible(i));
  if (i < 0 || i >= ev.at.length) return;
  select(i, false);
  if (ev.at[i] < from || ev.at[i] > to) centre(ev.at[i]); else draw();
}
canvas.onkeydown = (event) => {
  const act = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), "+": () => zoom(.5), "=": () => zoom(.5),
    "-": () => zoom(2), v: () => run.broken.length && $("to-violation").click(),
    Escape: () => { $("filter").value = ""; select(-1, false); filter(); } }[event.key];
  if (act) { act(); event.preventDefault(); }
};
stage.addEventListener("wheel", (event) => {
  if (event.ctrlKey || event.metaKey) {
    zoom(Math.exp(event.deltaY * .003), timeAt(event.offsetX));
  } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const by = event.deltaX / canvas.clientWidth * (to - from);
    view(from + by, to + by);
  } else return;
  event.preventDefault();
}, { passive: false });
canvas.ondblclick = (event) => zoom(.4, timeAt(event.offsetX));

let drag = null;
canvas.onpointerdown = (event) => {
  drag = { x: event.clientX, from, to, moved: false };
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({ preventScroll: true });
};
canvas.onpointermove = (event) => {
  if (drag) {
    const by = (drag.x - event.clientX) / (canvas.clientWidth - gutter()) * (drag.to - drag.from);
    drag.moved ||= Math.abs(drag.x - event.clientX) > 3;
    if (drag.moved) view(drag.from + by, drag.to + by);
    return;
  }
  const i = eventAt(event.offsetX, event.offsetY);
  const span = i < 0 ? spanAt(event.offsetX, event.offsetY) : null;
  canvas.style.cursor = i < 0 ? "grab" : "pointer";
  if (i < 0 && !span) { $("tip").hidden = true; return; }
  tip(event, i >= 0 ? `${seconds(ev.at[i])}  ${ev.kind[i]}  ${ev.text[i]}`
    : `${span.kind.replace("-", " ")}: ${span.text}, ${seconds(span.from_us)} to ${seconds(span.to_us)}`);
};
canvas.onpointerup = (event) => {
  if (drag && !drag.moved) select(eventAt(event.offsetX, event.offsetY));
  drag = null;
};
canvas.onpointerleave = () => { $("tip").hidden = true; };
function tip(event, text) {
  const box = $("tip");
  box.textContent = text;
  box.hidden = false;
  box.style.left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8) + "px";
  box.style.top = Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 8) + "px";
}
function eventAt(px, py) {
  const last = firstAt(timeAt(px + 9) + 1);
  let best = -1, nearest = 90;
  for (let i = firstAt(timeAt(px - 9)); i < last; i++) {
    const distance = (x(ev.at[i]) - px) ** 2 + (y(i) - py) ** 2;
    if (distance <= nearest && visible(i)) { best = i; nearest = distance; }
  }
  return best;
}
function spanAt(px, py) {
  const lane = rows[Math.floor(py / laneHeight())], at = timeAt(px);
  return px < gutter() ? null : run.spans.find((span) => span.lane === lane && span.from_us <= at && at <= span.to_us);
}

// The overview chooses the window: drag inside it to move, outside to make a new one.
let grip = null;
const overviewTime = (event) => event.offsetX / overview.clientWidth * run.ended_us;
overview.onpointerdown = (event) => {
  const at = overviewTime(event), edge = run.ended_us * 6 / overview.clientWidth;
  overview.setPointerCapture(event.pointerId);
  if (Math.abs(at - from) < edge) grip = { anchor: to };
  else if (Math.abs(at - to) < edge) grip = { anchor: from };
  else if (at > from && at < to && to - from < run.ended_us) grip = { hold: at - from };
  else grip = { anchor: at };
};
overview.onpointermove = (event) => {
  if (!grip) return;
  const at = overviewTime(event);
  if (grip.hold !== undefined) view(at - grip.hold, at - grip.hold + (to - from));
  else if (Math.abs(at - grip.anchor) > run.ended_us / 500) view(Math.min(at, grip.anchor), Math.max(at, grip.anchor));
};
overview.onpointerup = (event) => {
  if (grip && grip.anchor !== undefined && Math.abs(overviewTime(event) - grip.anchor) <= run.ended_us / 500) centre(grip.anchor);
  grip = null;
};
