// The page's course: one socket brings the state of everything, and each frame with its numbers in one message.
import { DetectorCard } from "./detector.js";
import { COLOURS, Scans } from "./plots.js";
import { age, facts, fill, grows, span } from "./words.js";

const GONE_AFTER = 3, AGAIN_AFTER = 12; // s without a message
const $ = (id) => document.getElementById(id);
const cards = new Map(), curves = new Map();
const scans = new Scans($("scan").querySelector(".plot"), 200);
let socket = null, silent = 0;

function detectors(states) {
  for (const state of states) {
    if (!cards.has(state.name)) {
      const card = new DetectorCard(state, (wishes) => { if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wishes)); });
      cards.set(state.name, card);
      $("detectors").append(card.root);
      card.wish();
    }
    cards.get(state.name).update(state);
  }
}

function pulse([first]) {
  const box = document.querySelector(".pulse");
  box.hidden = !first;
  if (!first) return;
  age(box, first);
  box.dataset.level = first.level;
  $("pulse-id").value = first.value ?? (first.problem ? "no pulse id" : "–");
  $("pulse-rate").textContent = first.problem ? "does not answer" : first.stands ? `stands since ${span(first.stands)}` : first.rate == null ? "" : `${first.rate.toFixed(0)} Hz`;
  $("pulse-id").title = first.problem || first.address;
}

function services(id, states, describe) {
  const section = $(id);
  while (section.children.length < states.length) section.append($("service").content.cloneNode(true));
  states.forEach((state, i) => {
    const card = section.children[i];
    age(card, state);
    card.dataset.name = card.ariaLabel = state.name;
    card.dataset.level = state.level;
    card.querySelector(".dot").className = `dot ${state.level}`;
    card.querySelector(".name").textContent = state.name;
    card.querySelector(".kind").textContent = state.kind;
    card.querySelector(".problem").textContent = state.problem;
    describe(card, state);
  });
}

function writer(card, state) {
  const bar = card.querySelector("progress");
  bar.hidden = !state.n_images;
  if (state.n_images) Object.assign(bar, { max: state.n_images, value: state.n_done });
  facts(card.querySelector("dl"), {
    state: state.state, acquisition: state.acquisition,
    images: state.n_images && `${state.n_done} of ${state.n_images}`,
    "detector / writer": state.detector_rate != null && `${state.detector_rate} / ${state.writer_rate} Hz`,
    message: state.message, file: state.file,
  });
}

function broker(card, state) {
  facts(card.querySelector("dl"), {
    pgroup: state.pgroup, "last run number": state.run_number,
    "running detectors": state.running && (state.running.join(", ") || "none"),
    limping: state.limping?.join(", "), missing: state.missing?.join(", "),
  });
}

function pvs(states) {
  $("pvs").hidden = !states.length;
  fill($("pvs").querySelector("table"), states.map((pv) => ({ seen: pv, cells: [
    { text: pv.name, title: pv.address }, { text: `${pv.value ?? "–"} ${pv.units ?? ""}` },
    pv.problem ? { text: pv.age == null ? "not connected" : `lost, ${span(pv.age)} ago`, className: "bad", title: pv.problem }
      : { text: "", className: "age" },
  ] })));
}

function runs([state]) {
  if (!state) return;
  const body = $("run").querySelector(".body");
  const run = state.open?.[0], [last] = scansByTime();
  // Points are as old as the newest of them; old is what should have gone on, or cannot be known to be over.
  const since = (time, late) => ({ what: "point ", age: state.now - time, old_after: state.age > state.old_after ? 0 : late ?? 10 });
  const running = run && (run.newest == null ? { ...since(run.time, run.late_after), what: "begun " } : since(run.newest, run.late_after));
  age($("run"), running ?? state);
  age($("scan"), run && last?.uid.startsWith(run.uid) ? running : last?.newest == null ? state : since(last.newest, Infinity));
  age($("runs"), state);
  $("run").dataset.uid = run?.uid ?? "";
  if (!run) body.replaceChildren(Object.assign(document.createElement("span"), { className: "quiet", textContent: state.age == null ? "not known" : "no run goes on" }));
  else {
    if (!body.querySelector("progress")) {
      body.replaceChildren(document.createElement("progress"), document.createElement("dl"));
      body.firstChild.ariaLabel = "points";
    }
    const done = run.n_events?.primary ?? 0;
    const bar = body.querySelector("progress");
    if (run.n_points) Object.assign(bar, { max: run.n_points, value: done });
    else bar.removeAttribute("value");
    facts(body.querySelector("dl"), {
      plan: run.plan_name, "scan id": run.scan_id, points: run.n_points ? `${done} of ${run.n_points}` : String(done),
      "begun": `${span(state.now - run.time)} ago`, motors: run.motors?.join(", "), detectors: run.detectors?.join(", "),
    });
  }
  $("runs").querySelector(".problem").textContent = state.problem;
  fill($("runs").querySelector("table"), (state.last ?? []).map((each) => ({ cells: [
    { text: each.scan_id ?? "", title: each.uid }, { text: each.plan_name },
    { text: Object.values(each.n_events ?? {}).length ? `${each.n_events.primary ?? 0} points` : "", className: "quiet" },
    { text: each.exit_status ?? "open", className: each.exit_status ?? "quiet", title: each.reason ?? "" },
    { text: new Date(each.time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }), className: "quiet" },
  ] })));
}

// Points come as they are measured; the newest scan is drawn over the last ones with the same axes.
function curve(part) {
  const known = part.first ? curves.get(part.uid) : null;
  if (!known) curves.set(part.uid, { ...part });
  else {
    Object.assign(known, { is_cut: part.is_cut, newest: part.newest });
    known.x.push(...part.x);
    for (const [name, values] of Object.entries(part.ys)) (known.ys[name] ??= Array(known.x.length - values.length).fill(null)).push(...values);
  }
  scan();
}

function scansByTime() {
  return [...curves.values()].filter((each) => Object.keys(each.ys).length).sort((a, b) => b.time - a.time);
}

function scan() {
  const all = scansByTime();
  $("scan").hidden = !all.length;
  if (!all.length) return;
  const [newest] = all, select = $("scan").querySelector(".signal"), names = Object.keys(newest.ys);
  if (select.dataset.names !== names.join()) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name)));
    select.value = names.includes(chosen) ? chosen : names[0];
    select.dataset.names = names.join();
  }
  const signal = select.value;
  const alike = all.filter((each) => each.x_name === newest.x_name && each.ys[signal]).slice(0, COLOURS.length);
  const drawn = alike.map((each, i) => ({ x: each.x, y: each.ys[signal], colour: i ? `${COLOURS[i]}90` : COLOURS[0], each }));
  scans.show([...drawn].reverse(), newest.x_name, signal);
  Object.assign($("scan").dataset, { uid: newest.uid, points: newest.x.length, signal });
  $("scan").querySelector(".legend").replaceChildren(...drawn.map(({ each }, i) => {
    const line = Object.assign(document.createElement("li"), { textContent: `${each.scan_id ?? ""} ${each.plan_name}, ${each.x.length} points${each.is_cut ? ", the first" : ""}${i ? "" : " (newest)"}` });
    line.style.setProperty("--colour", COLOURS[i]);
    return line;
  }));
}

function show(state) {
  if (state.refused) return cards.get(state.detector)?.refused(state.refused);
  if (state.minutes) { for (const [name, marks] of Object.entries(state.minutes)) cards.get(name)?.remember(marks); return; }
  if (state.curve) return curve(state.curve);
  $("title").textContent = state.title;
  $("viewers").textContent = state.n_viewers === 1 ? "1 viewer" : `${state.n_viewers} viewers`;
  $("clock").textContent = new Date(state.time * 1000).toLocaleTimeString();
  detectors(state.detectors);
  pulse(state.pulse_ids);
  services("writers", state.writers, writer);
  services("brokers", state.brokers, broker);
  pvs(state.pvs);
  runs(state.runs.map((each) => ({ ...each, now: state.time })));
}

function frame(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  cards.get(head.detector)?.take(head, new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/png" }));
}

function connect() {
  const mine = socket = new WebSocket(new URL("api/live", location.href.replace(/^http/, "ws")));
  let again = false;
  mine.binaryType = "arraybuffer";
  mine.onopen = () => { for (const card of cards.values()) card.wish(); };
  mine.onmessage = ({ data }) => {
    if (mine !== socket) return;
    silent = 0;
    gone();
    if (typeof data === "string") show(JSON.parse(data)); else frame(data);
  };
  mine.onclose = () => { if (mine === socket && !again) { again = true; silent = Math.max(silent, GONE_AFTER); gone(); setTimeout(connect, 1000); } };
}

// The server speaks five times a second. A tab that slept has not waited: no tick counts for more than a second.
let ticked = performance.now(), since = 0;
function tick() {
  const passed = Math.min(1, (performance.now() - ticked) / 1000);
  ticked = performance.now();
  silent += passed;
  gone();
  if (silent > AGAIN_AFTER && socket.readyState !== WebSocket.CLOSED) {
    silent = GONE_AFTER;
    socket.close(); // it may be half open
    connect();
  }
  grows();
}

function gone() {
  const is = silent >= GONE_AFTER;
  if (is && $("gone").hidden) since = performance.now() - 1000 * silent;
  $("link").className = `dot ${is ? "bad" : "good"}`;
  document.body.classList.toggle("gone", is);
  $("gone").hidden = !is;
  const words = is ? `The page's server does not answer since ${span((performance.now() - since) / 1000)}: everything below is old. Trying again.` : "";
  if ($("gone").textContent !== words) $("gone").textContent = words;
}

$("scan").querySelector(".signal").addEventListener("change", scan);
connect();
setInterval(tick, 500);
