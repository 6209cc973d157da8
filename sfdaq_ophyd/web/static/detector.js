// One detector: its newest picture with the numbers of the same frame, zoom, limits, regions, a line.
import { COLOURS, Curves, Histogram } from "./plots.js";
import { age, facts, fill, number, span } from "./words.js";

const TALLEST = 620, MOST_REGIONS = 6, KEPT = 900;

export class DetectorCard {
  constructor(state, send) {
    Object.assign(this, { name: state.name, send, region: null, regions: [], line: null, cursor: null, shown: null, times: [], sums: [] });
    this.root = document.getElementById("detector").content.cloneNode(true).firstElementChild;
    this.root.dataset.name = state.name;
    this.root.setAttribute("aria-label", state.name);
    this.canvas = this.find("canvas");
    this.canvas.setAttribute("aria-label", `newest frame of ${state.name}: plus and minus zoom, arrows move, 0 shows the whole frame, C changes the colours, L the scale`);
    this.find(".name").textContent = state.name;
    this.find(".kind").textContent = state.kind;
    this.histogram = new Histogram(this.find(".histogram .plot"), (which, value) => { this.find(`.${which}`).value = value ?? ""; this.wish(); });
    this.overTime = new Curves(this.find(".regions .plot"), 130);
    this.profile = new Curves(this.find(".profile .plot"), 130);
    this.minutes = new Curves(this.find(".minutes .plot"), 130);
    this.find(".framed").grown = (old) => this.say(old);
    this.listen();
  }

  find(selector) { return this.root.querySelector(selector); }

  // What is known of the detector as a whole; the numbers of frames come with their pictures.
  update(state) {
    age(this.root, state);
    this.find(".dot").className = `dot ${state.level}`;
    this.find(".dot").title = state.level === "bad" ? "trouble" : state.level;
    this.root.dataset.level = state.level;
    this.find(".state").textContent = state.state ?? "";
    this.find(".problem").textContent = state.problem;
    this.find(".note").textContent = [state.note, this.wrong].filter(Boolean).join("; ");
    this.root.dataset.taken = state.n_taken;
    this.lossName = state.loss_name;
    const hertz = (value, what) => `${value == null ? "no rate of" : `${value.toFixed(1)} Hz`} ${what}`;
    this.find(".rates.first").textContent = hertz(state.rate, "frames");
    this.find(".rates.second").textContent = hertz(state.loss_rate, state.loss_name);
    facts(this.find(".counters"), Object.fromEntries(Object.entries(state.counters ?? {}).map(([name, count]) => [name, number(count)])));
  }

  remember(marks) {
    this.marks = marks;
    this.minutes.show(["frames", this.lossName], [0, 1, 2].map((i) => marks.map((mark) => mark[i])), { time: true, unit: "Hz", least: 0 });
  }

  // A frame: its numbers appear together with its picture, or not at all.
  async take(head, png) {
    this.turn = (this.turn ?? Promise.resolve()).then(async () => {
      const bitmap = png.size ? await createImageBitmap(png) : this.shown?.bitmap;
      if (bitmap) this.show(head, bitmap);
    });
    return this.turn;
  }

  show(head, bitmap) {
    const frame = head.facts;
    const fresh = frame.number !== this.shown?.facts.number;
    this.shown = { ...head, bitmap };
    this.find(".framed").classList.add("has-frame");
    age(this.find(".framed"), head.frame_age);
    this.paint();
    Object.assign(this.root.dataset, { frame: frame.number, eventId: frame.event_id, region: head.region.join() });
    this.find(".rings").hidden = !frame.rings.length;
    facts(this.find(".framed > dl"), {
      "event id": frame.event_id || "none", "pulse id": frame.pulse_id, "size": `${frame.shape[1]} × ${frame.shape[0]}`, "unit": frame.unit,
      "total": number(frame.total), "mean": number(frame.mean), "largest": number(frame.max),
      "saturated": number(frame.n_saturated), "masked or lost": number(frame.n_bad), "whole": frame.is_good ? null : "no: parts are missing",
    });
    this.colourBar(head);
    this.histogram.show(head.histogram, head.scale, head.limits, frame.unit);
    this.showPixel(head.pixel);
    this.showRegions(head, fresh);
    this.find(".profile").hidden = !head.profile;
    if (head.profile) this.profile.show(["value"], [head.profile.map((_, i) => i), head.profile], { unit: frame.unit });
  }

  say(old) {
    const frame = this.shown?.facts;
    if (!frame) return;
    const late = this.find(".framed").classList.contains("old");
    const taken = frame.timestamp ? `, taken ${new Date(1000 * frame.timestamp).toLocaleString()} by the detector's clock` : "";
    const words = old == null ? `frame ${frame.event_id} was there before this page looked${taken}`
      : late ? `no frame since ${span(old)}; this is ${frame.event_id || "one without an id"}` : `frame ${frame.event_id}, ${span(old)} ago`;
    if (this.find(".of").textContent !== words) this.find(".of").textContent = words;
  }

  // The wish makes no sense: say so, and go on with the last one that did.
  refused(words) {
    this.wrong = words;
    if (this.region && words.startsWith("region")) return this.look(null);
    for (const end of ["low", "high"]) if (words.startsWith("low")) this.find(`.${end}`).value = "";
    this.wish();
  }

  wish() { this.wished ??= setTimeout(() => { this.wished = null; this.tell(); }, 30); }

  tell() {
    const limit = (end) => { const value = Number.parseFloat(this.find(`.${end}`).value); return Number.isFinite(value) ? value : null; };
    const [width, height] = this.shown ? [this.shown.facts.shape[1], this.shown.facts.shape[0]] : [1, 1];
    this.send({
      detector: this.name, region: this.region, side: Math.max(64, ...this.size(this.region ?? [0, 0, width, height])),
      colour_map: this.find(".colour-map").value, scale: this.find(".scale").value, low: limit("low"), high: limit("high"),
      regions: this.regions, line: this.line, cursor: this.cursor?.map(Math.floor) ?? null,
    });
  }

  size([x0, y0, x1, y1]) {
    const width = this.find(".view").clientWidth || 512;
    const zoom = Math.min(width / (x1 - x0), TALLEST / (y1 - y0));
    return [Math.max(1, Math.round((x1 - x0) * zoom)), Math.max(1, Math.round((y1 - y0) * zoom))];
  }

  paint() {
    const { region, bitmap, facts: frame } = this.shown;
    const size = this.size(region);
    const [x0, y0] = region, zoom = size[0] / (region[2] - region[0]);
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) [this.canvas.width, this.canvas.height] = size;
    this.canvas.style.touchAction = this.region || this.find(".drag").value !== "move" ? "none" : "pan-y";
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmap, 0, 0, ...size);
    if (frame.rings.length && this.find(".rings input").checked) this.rings(context, frame, zoom, x0, y0);
    Object.assign(context, { lineWidth: 1.5, font: "bold 12px sans-serif" });
    const drawn = this.draft?.kind === "region" ? [...this.regions, this.draft.box] : this.regions;
    drawn.forEach(([ax, ay, bx, by], i) => {
      context.strokeStyle = context.fillStyle = COLOURS[i % COLOURS.length];
      context.strokeRect((ax - x0) * zoom, (ay - y0) * zoom, (bx - ax) * zoom, (by - ay) * zoom);
      context.fillText(i + 1, (ax - x0) * zoom + 4, (ay - y0) * zoom + 14);
    });
    const line = this.draft?.kind === "line" ? this.draft.box : this.line;
    if (!line) return;
    context.strokeStyle = "#ffffff";
    context.beginPath();
    context.moveTo((line[0] + 0.5 - x0) * zoom, (line[1] + 0.5 - y0) * zoom);
    context.lineTo((line[2] + 0.5 - x0) * zoom, (line[3] + 0.5 - y0) * zoom);
    context.stroke();
  }

  rings(context, frame, zoom, x0, y0) {
    const [cx, cy] = [(frame.geometry.centre[0] - x0) * zoom, (frame.geometry.centre[1] - y0) * zoom];
    Object.assign(context, { strokeStyle: "#ffffff70", fillStyle: "#ffffffc0", lineWidth: 1, font: "11px sans-serif" });
    for (const { radius, resolution } of frame.rings) {
      context.beginPath();
      context.arc(cx, cy, radius * zoom, 0, 2 * Math.PI);
      context.stroke();
      context.fillText(`${resolution} Å`, cx + radius * zoom * 0.7071 + 3, cy - radius * zoom * 0.7071 - 3);
    }
    context.beginPath();
    context.moveTo(cx - 6, cy); context.lineTo(cx + 6, cy);
    context.moveTo(cx, cy - 6); context.lineTo(cx, cy + 6);
    context.stroke();
  }

  colourBar({ limits, scale, colours, facts: frame }) {
    const gradient = this.find(".gradient");
    gradient.style.background = `linear-gradient(to right, ${colours.join()})`;
    this.find(".low-end").textContent = number(Number(limits[0].toPrecision(3)));
    this.find(".high-end").textContent = number(Number(limits[1].toPrecision(3)));
    this.find(".unit").textContent = `${frame.unit}, ${scale}`;
  }

  showPixel(pixel) {
    const output = this.find(".cursor");
    if (!pixel) { output.value = ""; return; }
    const value = pixel.condition === "bad" ? "masked" : `${number(pixel.value)} ${pixel.unit}`;
    output.value = `x ${pixel.x}  y ${pixel.y}  ${value}${pixel.condition === "saturated" ? " saturated" : ""}${this.resolution(pixel.x, pixel.y)}  ${pixel.event_id}`;
    output.className = `cursor ${pixel.condition}`;
  }

  resolution(x, y) {
    const geometry = this.shown.facts.geometry;
    if (!geometry) return "";
    const radius = Math.hypot(x + 0.5 - geometry.centre[0], y + 0.5 - geometry.centre[1]) * geometry.pixel_size;
    const angle = Math.atan2(radius, geometry.distance);
    return radius > 0 ? `  ${(geometry.wavelength / (2 * Math.sin(angle / 2))).toFixed(2)} Å` : "";
  }

  showRegions(head, fresh) {
    this.find(".regions").hidden = !head.regions.length;
    if (!head.regions.length) return;
    fill(this.find(".regions table"), [
      { head: true, cells: ["region", "sum", "mean", "pixels", "masked"].map((text) => ({ text })) },
      ...head.regions.map((each, i) => ({ cells: [i + 1, number(each?.sum) ?? "–", number(each?.mean) ?? "–", number(each?.n) ?? "outside", number(each?.n_bad) ?? ""].map((text) => ({ text })) })),
    ]);
    this.find(".regions table").createCaption().textContent = `of frame ${head.facts.event_id}`;
    if (fresh) {
      this.times.push(Date.now() / 1000 - (head.frame_age.age ?? 0));
      this.sums.push(head.regions);
      if (this.times.length > KEPT) { this.times.shift(); this.sums.shift(); }
    }
    const what = this.find(".what").value;
    const curves = head.regions.map((_, i) => this.sums.map((regions) => regions[i]?.[what] ?? null));
    this.overTime.show(head.regions.map((_, i) => `region ${i + 1}`), [this.times, ...curves], { time: true, unit: head.facts.unit });
  }

  pixelAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x0, y0, x1, y1] = this.shown.region;
    return [x0 + (event.clientX - box.left) / box.width * (x1 - x0), y0 + (event.clientY - box.top) / box.height * (y1 - y0)];
  }

  zoom(factor, at) {
    const [height, width] = this.shown.facts.shape;
    const [x0, y0, x1, y1] = this.region ?? [0, 0, width, height];
    const [px, py] = at ?? [(x0 + x1) / 2, (y0 + y1) / 2];
    if ((x1 - x0) * factor >= width || (y1 - y0) * factor >= height) return this.look(null);
    if ((x1 - x0) * factor < 8 || (y1 - y0) * factor < 8) return;
    this.look([px - (px - x0) * factor, py - (py - y0) * factor, px + (x1 - px) * factor, py + (y1 - py) * factor]);
  }

  move(dx, dy) { if (this.region) this.look(this.region.map((edge, i) => edge + (i % 2 ? dy : dx))); }

  drag(dx, dy) { // by what is on the screen: the answer to the last wish may be on its way
    if (this.region && Math.hypot(dx, dy) >= 1) this.look(this.shown.region.map((edge, i) => edge + (i % 2 ? dy : dx)));
  }

  look(region) {
    this.region = region?.map(Math.round) ?? null;
    if (this.region) {
      const [height, width] = this.shown.facts.shape;
      const dx = Math.max(0, -this.region[0]) - Math.max(0, this.region[2] - width);
      const dy = Math.max(0, -this.region[1]) - Math.max(0, this.region[3] - height);
      this.region = this.region.map((edge, i) => edge + (i % 2 ? dy : dx));
    }
    this.wish();
  }

  mark(box) {
    const region = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])].map(Math.round);
    if (region[2] <= region[0] || region[3] <= region[1] || this.regions.length >= MOST_REGIONS || this.regions.some((each) => each.join() === region.join())) return;
    this.regions = [...this.regions, region];
    this.find(".mark").disabled = this.regions.length >= MOST_REGIONS;
    this.wish();
  }

  key(event) {
    const [x0, y0, x1, y1] = this.shown?.region ?? [0, 0, 0, 0];
    const next = (select) => { select.selectedIndex = (select.selectedIndex + 1) % select.options.length; this.wish(); };
    const acts = {
      "+": () => this.zoom(0.8), "=": () => this.zoom(0.8), "-": () => this.zoom(1.25), "0": () => this.look(null), Home: () => this.look(null),
      ArrowLeft: () => this.move((x0 - x1) / 8, 0), ArrowRight: () => this.move((x1 - x0) / 8, 0),
      ArrowUp: () => this.move(0, (y0 - y1) / 8), ArrowDown: () => this.move(0, (y1 - y0) / 8),
      c: () => next(this.find(".colour-map")), l: () => next(this.find(".scale")),
    };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || !this.shown || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  listen() {
    for (const input of this.root.querySelectorAll(".colour-map, .scale, .low, .high")) input.addEventListener("change", () => { this.wrong = ""; this.wish(); });
    for (const input of this.root.querySelectorAll(".rings input, .drag")) input.addEventListener("change", () => this.shown && this.paint());
    this.find(".what").addEventListener("change", () => this.shown && this.showRegions(this.shown, false));
    this.find(".whole").addEventListener("click", () => this.shown && this.look(null));
    this.find(".mark").addEventListener("click", () => {
      if (!this.shown) return;
      const [x0, y0, x1, y1] = this.shown.region;
      this.mark([x0 + (x1 - x0) / 4, y0 + (y1 - y0) / 4, x1 - (x1 - x0) / 4, y1 - (y1 - y0) / 4]);
    });
    this.find(".forget").addEventListener("click", () => { Object.assign(this, { regions: [], times: [], sums: [] }); this.find(".mark").disabled = false; this.wish(); });
    this.find(".erase").addEventListener("click", () => { this.line = null; this.wish(); });
    for (const details of this.root.querySelectorAll("details")) details.addEventListener("toggle", () => {
      if (this.shown) this.show(this.shown, this.shown.bitmap);
      if (this.marks) this.remember(this.marks);
    });
    new ResizeObserver(() => this.shown && this.wish()).observe(this.find(".view"));
    const { canvas } = this;
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("dblclick", () => this.shown && this.look(null));
    canvas.addEventListener("wheel", (event) => {
      if (!this.shown) return;
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 0.8 : 1.25, this.pixelAt(event));
    }, { passive: false });
    canvas.addEventListener("pointerleave", () => { this.cursor = null; this.find(".cursor").value = ""; this.wish(); });
    canvas.addEventListener("pointerdown", (event) => { this.grip = this.shown && this.pixelAt(event); if (this.grip && this.find(".drag").value !== "move") canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.shown) return;
      this.cursor = this.pixelAt(event);
      const kind = this.find(".drag").value;
      if (event.buttons === 1 && this.grip && kind === "move") this.drag(this.grip[0] - this.cursor[0], this.grip[1] - this.cursor[1]);
      else if (event.buttons === 1 && this.grip) {
        const rounded = kind === "line" ? Math.floor : Math.round;
        this.draft = { kind, box: [...this.grip, ...this.cursor].map(rounded) };
        this.paint();
      }
      this.wish();
    });
    canvas.addEventListener("pointerup", () => {
      const draft = this.draft;
      this.grip = this.draft = null;
      if (draft?.kind === "region") this.mark(draft.box);
      else if (draft?.kind === "line") { this.line = draft.box; this.wish(); }
    });
  }
}
