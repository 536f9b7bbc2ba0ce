// ---- drawing ----
function prepare(target, height) {
  const ratio = devicePixelRatio || 1, width = target.clientWidth;
  target.style.height = height + "px";
  target.width = Math.round(width * ratio);
  target.height = Math.round(height * ratio);
  const g = target.getContext("2d");
  g.scale(ratio, ratio);
  g.font = "12px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  g.textBaseline = "middle";
  g.lineJoin = "round";
  return g;
}

let pending = false;
function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; drawAxis(); drawLanes(); drawOverview(); listEvents(); });
}

function drawAxis() {
  const g = prepare(axis, AXIS);
  const ideal = (to - from) / Math.max(2, (canvas.clientWidth - gutter()) / 110);
  const power = 10 ** Math.floor(Math.log10(ideal));
  const stepUs = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= ideal);
  const digits = Math.max(0, Math.min(6, 6 - Math.floor(Math.log10(stepUs))));
  g.fillStyle = colour.faint;
  g.strokeStyle = colour.line;
  g.textAlign = "center";
  for (let at = Math.ceil(from / stepUs) * stepUs; at <= to; at += stepUs) {
    g.fillText((at / 1e6).toFixed(digits) + "s", x(at), AXIS / 2);
  }
  for (const broken of run.broken) {
    const at = ev.at[broken.event];
    if (at < from || at > to) continue;
    g.font = "600 12px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
    const label = broken.title, width = g.measureText(label).width + 14;
    const left = Math.max(gutter(), Math.min(x(at) - width / 2, canvas.clientWidth - width - 2));
    g.fillStyle = colour.bad;
    g.beginPath(); g.roundRect(left, 3, width, AXIS - 6, 4); g.fill();
    g.fillStyle = colour.card;
    g.fillText(label, left + width / 2, AXIS / 2 + .5);
  }
}

function drawLanes() {
  const height = laneHeight(), left = gutter(), width = canvas.clientWidth;
  const g = prepare(canvas, height * run.lanes.length);
  rows.forEach((lane, row) => {
    if (row % 2 === 0) { g.fillStyle = colour.lane; g.fillRect(0, row * height, width, height); }
    g.fillStyle = colour.line;
    g.fillRect(left, Math.round(middle(lane)), width - left, 1);
  });
  g.save();
  g.beginPath(); g.rect(left, 0, width - left, height * run.lanes.length); g.clip();
  drawForgotten(g);
  drawSpans(g);
  drawPositions(g);
  drawViolationLines(g);
  drawEvents(g);
  drawJourney(g);
  g.restore();
  rows.forEach((lane, row) => {
    g.fillStyle = row % 2 === 0 ? colour.lane : colour.card;
    g.fillRect(0, row * height, left, height);
    g.fillStyle = colour.ink;
    g.textAlign = "left";
    g.fillText(shortened(g, run.lanes[lane].name, left - 16), 10, middle(lane));
  });
  g.fillStyle = colour.line;
  g.fillRect(left, 0, 1, height * run.lanes.length);
}

function shortened(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  // The end of a node's name tells it from its siblings.
  let keep = text.length;
  const cut = () => text.slice(0, Math.ceil(keep / 2)) + "…" + text.slice(text.length - Math.floor(keep / 2));
  while (keep > 2 && g.measureText(cut()).width > width) keep--;
  return cut();
}

function drawSpans(g) {
  const height = laneHeight();
  for (const span of run.spans) {
    if (span.to_us < from || span.from_us > to) continue;
    const a = Math.max(x(span.from_us), gutter()), b = Math.min(Math.max(x(span.to_us), a + 2), canvas.clientWidth);
    const above = top(span.lane) + 2, tint = colour[BANDS[span.kind] || "commit"];
    g.globalAlpha = .2;
    g.fillStyle = tint;
    g.fillRect(a, above, b - a, height - 4);
    if (span.kind === "down") {
      g.save();
      g.beginPath(); g.rect(a, above, b - a, height - 4); g.clip();
      g.strokeStyle = tint;
      g.beginPath();
      for (let line = a - height; line < b; line += 8) { g.moveTo(line, above + height); g.lineTo(line + height, above); }
      g.stroke();
      g.restore();
    }
    g.globalAlpha = 1;
    if (b - a > 56) {
      g.fillStyle = colour.ink;
      g.textAlign = "left";
      g.font = "11px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
      const fits = g.measureText(span.text).width <= b - a - 10;
      g.fillText(fits ? span.text : shortened(g, span.kind.replace("-", " "), b - a - 10), a + 5, above + 7);
      g.font = "12px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
    }
  }
}

/** Bytes that a power failure would take, as a profile along the bottom of a broker's lane. */
function drawPositions(g) {
  const height = laneHeight(), most = run.positions.reduce((most, p) => Math.max(most, p.written - p.durable), 1);
  const byLane = new Map();
  for (const sample of run.positions) {
    if (!byLane.has(sample.lane)) byLane.set(sample.lane, []);
    byLane.get(sample.lane).push(sample);
  }
  g.fillStyle = colour.refused;
  g.globalAlpha = .45;
  for (const [lane, samples] of byLane) {
    const bottom = top(lane) + height - 2;
    for (let k = 0; k < samples.length; k++) {
      const end = k + 1 < samples.length ? samples[k + 1].at_us : ev.at[ev.at.length - 1];
      const waiting = samples[k].written - samples[k].durable;
      if (waiting === 0 || end < from || samples[k].at_us > to) continue;
      const tall = waiting / most * height * .32;
      g.fillRect(x(samples[k].at_us), bottom - tall, Math.max(1, x(end) - x(samples[k].at_us)), tall);
    }
  }
  g.globalAlpha = 1;
}

function drawForgotten(g) {
  if (!trimmed()) return;
  const right = canvas.clientWidth, kept = [x(ev.at[0]), x(ev.at[ev.at.length - 1])];
  g.fillStyle = colour.line;
  g.globalAlpha = .6;
  for (const [a, b] of [[gutter(), kept[0]], [kept[1], right]]) {
    if (b > a) g.fillRect(a, 0, b - a, canvas.clientHeight);
    if (b - a > 110) {
      g.globalAlpha = 1;
      g.fillStyle = colour.faint;
      g.textAlign = "center";
      g.fillText("not kept here", (Math.max(a, gutter()) + Math.min(b, right)) / 2, 12);
      g.fillStyle = colour.line;
      g.globalAlpha = .6;
    }
  }
  g.globalAlpha = 1;
}

function drawViolationLines(g) {
  g.strokeStyle = colour.bad;
  g.lineWidth = 1.5;
  for (const broken of run.broken) {
    const px = x(ev.at[broken.event]);
    g.beginPath(); g.moveTo(px, 0); g.lineTo(px, canvas.clientHeight); g.stroke();
  }
  g.lineWidth = 1;
}

function drawEvents(g) {
  const first = firstAt(from), last = firstAt(to + 1), drawn = new Set();
  const count = last - first, size = count < 1500 ? 4 : count < 8000 ? 3 : 2.2;
  const arrows = count < 400 ? .5 : count < 3000 ? .15 : 0;
  for (let i = first; i < last; i++) {
    if (hidden.has(ev.kind[i])) continue;
    const px = x(ev.at[i]), faint = wanted !== null && wanted[i] === 0;
    // At low zoom thousands of events share a pixel: one dot stands for them.
    const key = (Math.round(px * 2) * run.lanes.length + home(i)) * 32 + KINDS.indexOf(ev.kind[i]) * 2 + (faint ? 1 : 0);
    if (drawn.has(key)) continue;
    drawn.add(key);
    g.globalAlpha = faint ? .1 : 1;
    g.fillStyle = g.strokeStyle = colour[ev.kind[i]];
    if (ev.to[i] !== null && arrows && !faint) arrow(g, px, i, arrows);
    mark(g, ev.kind[i], px, y(i), size);
  }
  g.globalAlpha = 1;
  for (const [i, violating] of cited) {
    if (i < first || i >= last) continue;
    g.strokeStyle = colour.bad;
    g.lineWidth = violating ? 2.5 : 1.5;
    g.beginPath(); g.arc(x(ev.at[i]), y(i), violating ? 9 : 7, 0, 7); g.stroke();
  }
  g.lineWidth = 1;
}
const KINDS = ["send", "stored", "refused", "unknown", "deliver", "ack", "retry", "decide", "check", "commit", "assign", "life", "fault", "replica", "note"];

function arrow(g, px, i, alpha) {
  const a = middle(ev.lane[i]), b = middle(ev.to[i]), down = Math.sign(b - a);
  g.globalAlpha = alpha;
  g.beginPath();
  g.moveTo(px, ev.lane[i] === home(i) ? y(i) : a);
  g.lineTo(px, ev.to[i] === home(i) ? y(i) - down * 5 : b);
  g.stroke();
  if (alpha > .3 && ev.to[i] !== home(i)) {
    g.beginPath(); g.moveTo(px, b); g.lineTo(px - 3.5, b - down * 7); g.lineTo(px + 3.5, b - down * 7); g.fill();
  }
  g.globalAlpha = 1;
}

function mark(g, kind, px, py, size) {
  g.beginPath();
  if (kind === "fault" || kind === "life") {
    const r = size * 1.5;
    g.moveTo(px, py - r); g.lineTo(px + r, py); g.lineTo(px, py + r); g.lineTo(px - r, py); g.fill();
  } else if (kind === "refused" || kind === "unknown") {
    g.lineWidth = 2;
    g.moveTo(px - size, py - size); g.lineTo(px + size, py + size);
    g.moveTo(px + size, py - size); g.lineTo(px - size, py + size);
    g.stroke();
    g.lineWidth = 1;
  } else if (kind === "stored" || kind === "ack") {
    g.fillRect(px - size * .85, py - size * .85, size * 1.7, size * 1.7);
  } else {
    g.arc(px, py, size, 0, 7); g.fill();
  }
}

/** All that happened to the selected message, in one line. */
function drawJourney(g) {
  if (selected < 0) return;
  g.strokeStyle = colour.accent;
  g.lineWidth = 2;
  if (journey.length > 1) {
    g.beginPath();
    journey.forEach((i, k) => {
      const px = x(ev.at[i]), origin = ev.kind[i] === "deliver" && ev.to[i] !== null;
      if (k === 0) g.moveTo(px, y(i));
      else if (origin) { g.lineTo(px, middle(ev.lane[i])); g.lineTo(px, y(i)); } else g.lineTo(px, y(i));
      if (ev.kind[i] === "send" && ev.to[i] !== null) g.lineTo(px, middle(ev.to[i]));
    });
    g.globalAlpha = .75;
    g.stroke();
    g.globalAlpha = 1;
  }
  g.beginPath(); g.arc(x(ev.at[selected]), y(selected), 7, 0, 7); g.stroke();
  g.lineWidth = 1;
}

function drawOverview() {
  const g = prepare(overview, 48), width = overview.clientWidth;
  const at = (us) => us / run.ended_us * width, counts = new Float64Array(Math.ceil(width / 3) + 1);
  for (let i = 0; i < ev.at.length; i++) if (visible(i)) counts[Math.floor(Math.min(at(ev.at[i]), width - 1) / 3)]++;
  for (const span of run.spans) {
    g.globalAlpha = .25;
    g.fillStyle = colour[BANDS[span.kind] || "commit"];
    g.fillRect(at(span.from_us), 0, Math.max(1.5, at(span.to_us) - at(span.from_us)), 48);
  }
  g.globalAlpha = .8;
  g.fillStyle = colour.replica;
  const most = Math.max(1, ...counts);
  counts.forEach((count, k) => { const tall = count && 2 + Math.sqrt(count / most) * 38; g.fillRect(k * 3, 46 - tall, 2, tall); });
  g.globalAlpha = 1;
  g.fillStyle = colour.bad;
  for (const broken of run.broken) g.fillRect(at(ev.at[broken.event]) - 1, 0, 2.5, 48);
  g.fillStyle = colour.accent;
  g.globalAlpha = .12;
  g.fillRect(at(from), 0, Math.max(3, at(to) - at(from)), 48);
  g.globalAlpha = 1;
  g.strokeStyle = colour.accent;
  g.lineWidth = 2;
  g.strokeRect(at(from) + 1, 1, Math.max(3, at(to) - at(from) - 2), 46);
}

$("timeline").hidden = false;
showRunOfHash();
new ResizeObserver(draw).observe(stage);
