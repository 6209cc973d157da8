// The page's course: a socket brings the state of everything; each part of the page draws its own.
import { DetectorCard } from "./detector.js";
import { facts, fill, since } from "./words.js";

const $ = (id) => document.getElementById(id);
const cards = new Map();

function detectors(states) {
  for (const state of states) {
    if (!cards.has(state.name)) {
      const card = new DetectorCard(state, colourMaps);
      cards.set(state.name, card);
      $("detectors").append(card.root);
    }
    cards.get(state.name).update(state);
  }
}

function pulse(states) {
  const [first] = states;
  if (!first) return;
  $("pulse-id").value = first.problem ? "no pulse id" : (first.value ?? "–");
  $("pulse-rate").textContent = first.rate == null || first.problem ? "" : `${first.rate.toFixed(0)} Hz`;
  $("pulse-id").title = first.problem || first.address;
}

function services(id, states, describe) {
  const section = $(id);
  while (section.children.length < states.length) section.append($("service").content.cloneNode(true));
  states.forEach((state, i) => {
    const card = section.children[i];
    card.dataset.name = state.name;
    card.querySelector(".name").textContent = state.name;
    card.querySelector(".kind").textContent = state.kind;
    card.querySelector(".problem").textContent = state.problem;
    describe(card, state);
  });
}

function writer(card, state) {
  const busy = state.state === "WRITING";
  card.querySelector(".dot").className = `dot ${state.problem || state.state === "UNKNOWN" ? "bad" : busy ? "busy" : "good"}`;
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
  const trouble = state.limping?.length || state.missing?.length;
  card.querySelector(".dot").className = `dot ${state.problem ? "bad" : trouble ? "busy" : "good"}`;
  facts(card.querySelector("dl"), {
    pgroup: state.pgroup, "last run number": state.run_number,
    "running detectors": state.running?.join(", ") || "none",
    limping: state.limping?.join(", "), missing: state.missing?.join(", "),
  });
}

function pvs(states) {
  $("pvs").hidden = !states.length;
  fill($("pvs").querySelector("table"), states.map((pv) => [
    { text: pv.name, title: pv.address },
    pv.problem ? { text: "not connected", className: "quiet", title: pv.problem } : { text: `${pv.value ?? "–"} ${pv.units ?? ""}` },
  ]));
}

function runs(states) {
  const [state] = states;
  if (!state) return;
  const body = $("run").querySelector(".body");
  const run = state.open?.[0];
  $("run").dataset.uid = run?.uid ?? "";
  if (!run) body.replaceChildren(Object.assign(document.createElement("span"), { className: "quiet", textContent: "no run goes on" }));
  else {
    if (!body.querySelector("progress")) body.replaceChildren(document.createElement("progress"), document.createElement("dl"));
    const done = run.n_events?.primary ?? 0;
    const bar = body.querySelector("progress");
    if (run.n_points) Object.assign(bar, { max: run.n_points, value: done });
    else bar.removeAttribute("value");
    facts(body.querySelector("dl"), {
      plan: run.plan_name, "scan id": run.scan_id, points: run.n_points ? `${done} of ${run.n_points}` : String(done),
      "for": since(run.time), motors: run.motors?.join(", "), detectors: run.detectors?.join(", "),
    });
  }
  $("runs").querySelector(".problem").textContent = state.problem;
  fill($("runs").querySelector("table"), (state.last ?? []).map((each) => [
    { text: each.scan_id ?? "", title: each.uid }, { text: each.plan_name },
    { text: Object.values(each.n_events ?? {}).length ? `${each.n_events.primary ?? 0} points` : "", className: "quiet" },
    { text: each.exit_status ?? "open", className: each.exit_status ?? "quiet", title: each.reason ?? "" },
    { text: new Date(each.time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }), className: "quiet" },
  ]));
}

function show(state) {
  $("title").textContent = state.title;
  $("viewers").value = state.n_viewers === 1 ? "1 viewer" : `${state.n_viewers} viewers`;
  $("clock").value = new Date(state.time * 1000).toLocaleTimeString();
  detectors(state.detectors);
  pulse(state.pulse_ids);
  services("writers", state.writers, writer);
  services("brokers", state.brokers, broker);
  pvs(state.pvs);
  runs(state.runs);
}

function connect() {
  const socket = new WebSocket(new URL("api/live", location.href.replace(/^http/, "ws")));
  socket.onmessage = (message) => { $("link").className = "dot good"; show(JSON.parse(message.data)); };
  socket.onclose = () => { $("link").className = "dot bad"; setTimeout(connect, 1000); };
}

const colourMaps = await (await fetch("api/colour-maps")).json();
connect();
