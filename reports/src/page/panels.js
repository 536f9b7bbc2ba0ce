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
  // As a message travels: down from the producers to the brokers to the consumers.
  const ranks = ["names", "producer", "broker", "consumer", "net"];
  const place = (lane) => ranks.indexOf(run.lanes[lane].kind);
  const byName = new Intl.Collator("en", { numeric: true });
  rows = [...run.lanes.keys()].sort((a, b) =>
    place(a) - place(b) || byName.compare(run.lanes[a].name, run.lanes[b].name));
  rowOf = [];
  rows.forEach((lane, row) => { rowOf[lane] = row; });
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
    const word = broken ? "broken" : verdict.finding === "not-judged" ? "not judged" : "holds";
    return [title, element("span", word, broken ? "bad" : "good")];
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
