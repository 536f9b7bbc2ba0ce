"use strict";
(() => {
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
      "refused", "unknown", "deliver", "ack", "retry", "commit", "assign", "life", "fault", "replica", "note"]) {
      colour[name] = style.getPropertyValue("--" + name).trim();
    }
  }
  readColours();
  if (runs.length === 0) return;

  // ---- what is shown ----
  let run, ev;                  // the run and its events, column by column
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
  const middle = (lane) => (lane + .5) * laneHeight();
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

  // ---- choosing a run ----
  for (const [position, r] of runs.entries()) {
    const option = document.createElement("option");
    option.value = position;
    option.textContent = `${r.broken.length ? "✗" : "✓"} ${r.scenario} · ${r.world} · seed ${r.seed}`;
    $("run").append(option);
  }
  $("run").onchange = () => { location.hash = "run-" + runs[$("run").value].index; };
  window.onhashchange = () => { showRunOfHash(); $("timeline").scrollIntoView(); };
  function showRunOfHash() {
    const wantedIndex = Number((location.hash.match(/^#run-(\d+)/) || [])[1]);
    let position = runs.findIndex((r) => r.index === wantedIndex);
    if (position < 0) position = Math.max(0, runs.findIndex((r) => r.broken.length));
    show(position);
  }

  function show(position) {
    run = runs[position];
    ev = run.events;
    $("run").value = position;
    $("repro").textContent = run.repro;
    const count = ev.at.length;
    $("kept").textContent = trimmed()
      ? `${count} of ${run.event_count} events, ${seconds(ev.at[0])} to ${seconds(ev.at[count - 1])}` : `${count} events`;
    cited = new Map();
    for (const broken of run.broken) {
      for (const index of broken.violation.cites) cited.set(index, cited.get(index) || false);
      cited.set(broken.event, true);
    }
    selected = -1; journey = []; wanted = null; $("filter").value = "";
    showViolations(); showKinds(); showPlan(); showVerdicts();
    $("to-violation").hidden = run.broken.length === 0;
    if (run.broken.length) {
      select(run.broken[0].event, false);
      toViolation();
    } else {
      showSelected();
      if (trimmed()) view(ev.at[0], ev.at[count - 1]); else whole();
    }
  }

  function element(tag, text, className) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function pairs(list) {
    const dl = element("dl");
    for (const [name, value] of list) {
      const row = element("div"), dd = element("dd");
      row.style.display = "contents";
      row.append(name instanceof Node ? wrap("dt", name) : element("dt", name));
      if (value instanceof Node) dd.append(value); else dd.textContent = value;
      row.append(dd);
      dl.append(row);
    }
    return dl;
  }
  function wrap(tag, child) { const node = element(tag); node.append(child); return node; }
  function timeButton(at) {
    const button = element("button", seconds(at));
    button.type = "button";
    button.onclick = () => { centre(at); };
    return button;
  }

  function showViolations() {
    $("violations").replaceChildren(...run.broken.map((broken) => {
      const box = element("div", undefined, "violation");
      const head = element("div");
      head.append(element("b", broken.title), ` broken at ${seconds(broken.violation.at_us)}: ${broken.violation.message}`);
      box.append(head);
      if (broken.violation.values.length) box.append(pairs(broken.violation.values));
      if (broken.promise) box.append(element("p", "Promised: " + broken.promise));
      return box;
    }));
  }

  const BANDS = { down: "fault", paused: "assign", partitioned: "refused", "disk-full": "unknown",
    "disk-failing": "fault", "disk-slow": "unknown", "network-slow": "refused", "clock-wrong": "assign",
    slow: "unknown", other: "commit" };
  function showKinds() {
    const counts = {};
    for (const kind of ev.kind) counts[kind] = (counts[kind] || 0) + 1;
    const buttons = Object.keys(counts).sort().map((kind) => {
      const button = element("button");
      button.type = "button";
      const dot = element("i");
      dot.style.background = `var(--${kind})`;
      button.append(dot, `${kind} ${counts[kind]}`);
      const press = () => button.setAttribute("aria-pressed", String(!hidden.has(kind)));
      button.onclick = () => { hidden.has(kind) ? hidden.delete(kind) : hidden.add(kind); press(); draw(); };
      press();
      return button;
    });
    const bands = [...new Set(run.spans.map((span) => span.kind))].map((kind) => {
      const label = element("span"), swatch = element("i", undefined, "band");
      swatch.style.background = `color-mix(in srgb, var(--${BANDS[kind] || "commit"}) 35%, transparent)`;
      label.append(swatch, kind.replace("-", " "));
      return label;
    });
    $("kinds").replaceChildren(...buttons, ...bands);
  }

  function showPlan() {
    const lines = run.plan.map((line) => [timeButton(line.at_us), line.text]);
    $("plan").replaceChildren(lines.length ? pairs(lines) : element("p", "no faults"));
  }

  function showVerdicts() {
    $("verdicts").replaceChildren(pairs(run.verdicts.map((verdict) => {
      const broken = typeof verdict.finding === "object";
      const title = (verdict.oracle === undefined ? "" : verdict.oracle + " ") + verdict.name;
      return [title, element("span", broken ? "broken" : "holds", broken ? "bad" : "good")];
    })));
  }

  // ---- selecting and filtering ----
  function select(index, redraw = true) {
    selected = index;
    const message = index < 0 ? null : ev.message[index];
    journey = [];
    if (message !== null) for (let i = 0; i < ev.at.length; i++) if (ev.message[i] === message) journey.push(i);
    showSelected();
    if (redraw) draw();
  }

  function showSelected() {
    const box = $("selected");
    if (selected < 0) { box.replaceChildren(element("p", "Click an event.")); return; }
    const i = selected, rows = [["time", timeButton(ev.at[i])], ["what", `${ev.kind[i]}: ${ev.text[i]}`],
      ["where", lanesOf(i)]];
    if (ev.message[i] !== null) rows.push(["message", filterButton("m" + ev.message[i])]);
    if (ev.shard[i] !== null) rows.push(["shard", filterButton(ev.shard[i])]);
    if (ev.offset[i] !== null) rows.push(["offset", String(ev.offset[i])]);
    for (const [lane, sample] of positionsAt(ev.at[i])) {
      rows.push([run.lanes[lane].name, `written ${sample.written} B, durable ${sample.durable} B, pending ${sample.written - sample.durable} B`]);
    }
    box.replaceChildren(pairs(rows));
  }
  const lanesOf = (i) => run.lanes[ev.lane[i]].name + (ev.to[i] === null ? "" : " → " + run.lanes[ev.to[i]].name);
  function filterButton(text) {
    const button = element("button", `${text} (show only this)`);
    button.type = "button";
    button.onclick = () => { $("filter").value = text; filter(); };
    return button;
  }
  function positionsAt(at) {
    const latest = new Map();
    for (const sample of run.positions) if (sample.at_us <= at) latest.set(sample.lane, sample);
    return latest;
  }

  function filter() {
    const text = $("filter").value.trim().toLowerCase();
    const number = (text.match(/^m(\d+)$/) || [])[1];
    if (text === "") {
      wanted = null;
    } else {
      wanted = new Uint8Array(ev.at.length);
      for (let i = 0; i < wanted.length; i++) {
        const hit = number !== undefined ? ev.message[i] === Number(number)
          : (ev.shard[i] || "").toLowerCase() === text || ev.text[i].toLowerCase().includes(text)
            || lanesOf(i).toLowerCase().includes(text);
        wanted[i] = hit ? 1 : 0;
      }
    }
    const found = wanted === null ? 0 : wanted.reduce((sum, hit) => sum + hit, 0);
    $("matches").textContent = wanted === null ? "" : `${found} event${found === 1 ? "" : "s"}`;
    draw();
  }
  $("filter").oninput = filter;

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
    const lane = Math.floor(py / laneHeight()), at = timeAt(px);
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
    run.lanes.forEach((lane, index) => {
      if (index % 2 === 0) { g.fillStyle = colour.lane; g.fillRect(0, index * height, width, height); }
      g.fillStyle = colour.line;
      g.fillRect(left, Math.round(middle(index)), width - left, 1);
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
    run.lanes.forEach((lane, index) => {
      g.fillStyle = index % 2 === 0 ? colour.lane : colour.card;
      g.fillRect(0, index * height, left, height);
      g.fillStyle = colour.ink;
      g.textAlign = "left";
      g.fillText(shortened(g, lane.name, left - 16), 10, middle(index));
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
      const top = span.lane * height + 2, tint = colour[BANDS[span.kind] || "commit"];
      g.globalAlpha = .2;
      g.fillStyle = tint;
      g.fillRect(a, top, b - a, height - 4);
      if (span.kind === "down") {
        g.save();
        g.beginPath(); g.rect(a, top, b - a, height - 4); g.clip();
        g.strokeStyle = tint;
        g.beginPath();
        for (let line = a - height; line < b; line += 8) { g.moveTo(line, top + height); g.lineTo(line + height, top); }
        g.stroke();
        g.restore();
      }
      g.globalAlpha = 1;
      if (b - a > 56) {
        g.fillStyle = colour.ink;
        g.textAlign = "left";
        g.font = "11px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
        g.fillText(shortened(g, span.text || span.kind, b - a - 10), a + 5, top + 7);
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
      const bottom = (lane + 1) * height - 2;
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
  const KINDS = ["send", "stored", "refused", "unknown", "deliver", "ack", "retry", "commit", "assign", "life", "fault", "replica", "note"];

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

  /** The shown events nearest to the selected one, or to the middle. */
  function listEvents() {
    const LIMIT = 120, first = firstAt(from), last = firstAt(to + 1);
    const about = selected >= first && selected < last ? selected : firstAt((from + to) / 2);
    const before = [], after = [];
    for (let i = Math.min(about, last) - 1; i >= first && before.length < LIMIT / 2; i--) if (visible(i)) before.push(i);
    for (let i = Math.max(about, first); i < last && after.length < LIMIT / 2; i++) if (visible(i)) after.push(i);
    const rows = before.reverse().concat(after).map((i) => {
      const row = element("div", undefined, i === selected ? "selected" : cited.has(i) ? "cited" : "");
      row.setAttribute("role", "listitem");
      const kind = element("span", ev.kind[i]);
      kind.style.color = `var(--${ev.kind[i]})`;
      row.append(element("span", seconds(ev.at[i]), "at"), element("span", lanesOf(i)), kind, element("span", ev.text[i]));
      row.title = ev.text[i];
      row.onclick = () => select(i);
      return row;
    });
    if (rows.length === 0) rows.push(element("p", "No event here."));
    const list = $("events");
    list.replaceChildren(...rows);
    const chosen = list.querySelector(".selected");
    if (chosen) list.scrollTop = chosen.offsetTop - list.offsetTop - list.clientHeight / 2;
  }

  $("timeline").hidden = false;
  showRunOfHash();
  new ResizeObserver(draw).observe(stage);
})();
