// One detector: its newest picture on a canvas, what is under the cursor, zoom, rings.
import { facts, number } from "./words.js";

const TALLEST = 620;

export class DetectorCard {
  constructor(state, colourMaps) {
    this.name = state.name;
    this.root = document.getElementById("detector").content.cloneNode(true).firstElementChild;
    this.root.dataset.name = state.name;
    this.canvas = this.find("canvas");
    this.region = null; // x0, y0, x1, y1; null is the whole frame
    this.cursor = null;
    this.drawn = {};
    this.busy = this.again = false;
    this.find(".name").textContent = state.name;
    this.find(".kind").textContent = state.kind;
    this.find(".colour-map").append(...colourMaps.map((name) => new Option(name)));
    this.listen();
  }

  find(selector) { return this.root.querySelector(selector); }

  update(state) {
    const frame = state.frame;
    this.find(".dot").className = `dot ${state.problem ? "bad" : frame ? "good" : "busy"}`;
    this.find(".state").textContent = state.state ?? "";
    this.find(".problem").textContent = state.problem;
    this.find(".note").textContent = state.note ?? "";
    this.root.dataset.taken = state.n_taken;
    this.root.classList.toggle("has-frame", Boolean(frame));
    if (!frame) return;
    const fresh = frame.number !== this.frame?.number;
    this.frame = frame;
    this.find(".rings").hidden = !frame.rings.length;
    facts(this.find("dl"), {
      "event id": frame.event_id, "pulse id": frame.pulse_id, "rate": state.rate != null && `${state.rate.toFixed(1)} Hz`,
      "size": `${frame.shape[1]} × ${frame.shape[0]}`, "mean": number(frame.mean), "largest": number(frame.max),
      "unit": frame.unit, "saturated": number(frame.n_saturated), "masked": number(frame.n_bad),
      "whole": frame.is_good ? null : "no: parts are missing",
      ...Object.fromEntries(Object.entries(state.counters ?? {}).map(([name, count]) => [name, number(count)])),
    });
    if (fresh) { this.draw(); this.ask(); }
  }

  shown() { return this.region ?? [0, 0, this.frame.shape[1], this.frame.shape[0]]; }

  async draw() {
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    try {
      const region = this.shown();
      const query = new URLSearchParams({
        side: Math.round(Math.max(...this.size(region))), region: region.join(","),
        colour_map: this.find(".colour-map").value, scale: this.find(".scale").value,
      });
      for (const end of ["low", "high"]) {
        const value = Number.parseFloat(this.find(`.${end}`).value);
        if (Number.isFinite(value)) query.set(end, value);
      }
      const reply = await fetch(`api/picture/${encodeURIComponent(this.name)}.png?${query}`);
      if (reply.ok) {
        this.drawn = { region, bitmap: await createImageBitmap(await reply.blob()) };
        this.root.dataset.frame = reply.headers.get("X-Frame");
        this.root.dataset.eventId = reply.headers.get("X-Event-Id");
        this.paint();
      } else if (reply.status === 422) this.find(".note").textContent = (await reply.json()).error;
    } catch { /* the socket tells when the server is gone */ } finally { this.busy = false; }
    if (this.again) { this.again = false; this.draw(); }
  }

  size([x0, y0, x1, y1]) {
    const width = this.find(".view").clientWidth || 512;
    const zoom = Math.min(width / (x1 - x0), TALLEST / (y1 - y0));
    return [Math.round((x1 - x0) * zoom), Math.round((y1 - y0) * zoom)];
  }

  paint() {
    const { region, bitmap } = this.drawn;
    const [x0, y0, x1] = region;
    const size = this.size(region);
    const zoom = size[0] / (x1 - x0);
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) [this.canvas.width, this.canvas.height] = size;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmap, 0, 0, ...size);
    if (this.frame.rings.length && this.find(".rings input").checked) this.rings(context, zoom, x0, y0);
  }

  rings(context, zoom, x0, y0) {
    const [cx, cy] = [(this.frame.geometry.centre[0] - x0) * zoom, (this.frame.geometry.centre[1] - y0) * zoom];
    Object.assign(context, { strokeStyle: "#ffffff70", fillStyle: "#ffffffc0", lineWidth: 1, font: "11px sans-serif" });
    for (const { radius, resolution } of this.frame.rings) {
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

  pixelAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x0, y0, x1, y1] = this.drawn.region;
    return [x0 + (event.clientX - box.left) / box.width * (x1 - x0), y0 + (event.clientY - box.top) / box.height * (y1 - y0)];
  }

  async ask() {
    if (!this.cursor || this.asking) return;
    this.asking = true;
    try {
      const [x, y] = this.cursor.map(Math.floor);
      const reply = await fetch(`api/pixel/${encodeURIComponent(this.name)}?x=${x}&y=${y}`);
      const output = this.find(".cursor");
      if (!this.cursor || !reply.ok) { output.value = ""; return; }
      const pixel = await reply.json();
      const value = pixel.condition === "bad" ? "masked" : `${number(pixel.value)} ${pixel.unit}`;
      output.value = `x ${pixel.x}  y ${pixel.y}  ${value}${pixel.condition === "saturated" ? " saturated" : ""}${this.resolution(x, y)}`;
      output.className = `cursor ${pixel.condition}`;
    } catch { /* as above */ } finally { this.asking = false; }
  }

  resolution(x, y) {
    const geometry = this.frame.geometry;
    if (!geometry) return "";
    const radius = Math.hypot(x + 0.5 - this.frame.geometry.centre[0], y + 0.5 - this.frame.geometry.centre[1]) * geometry.pixel_size;
    const angle = Math.atan2(radius, geometry.distance);
    return radius > 0 ? `  ${(geometry.wavelength / (2 * Math.sin(angle / 2))).toFixed(2)} Å` : "";
  }

  zoom(event) {
    event.preventDefault();
    const [width, height] = [this.frame.shape[1], this.frame.shape[0]];
    const [x0, y0, x1, y1] = this.shown();
    const [px, py] = this.pixelAt(event);
    const factor = event.deltaY < 0 ? 0.8 : 1.25;
    if ((x1 - x0) * factor >= width || (y1 - y0) * factor >= height) return this.look(null);
    if ((x1 - x0) * factor < 8 || (y1 - y0) * factor < 8) return;
    this.look([px - (px - x0) * factor, py - (py - y0) * factor, px + (x1 - px) * factor, py + (y1 - py) * factor]);
  }

  look(region) {
    this.region = region?.map(Math.round) ?? null;
    if (this.region) {
      const [width, height] = [this.frame.shape[1], this.frame.shape[0]];
      const dx = Math.max(0, -this.region[0]) - Math.max(0, this.region[2] - width);
      const dy = Math.max(0, -this.region[1]) - Math.max(0, this.region[3] - height);
      this.region = this.region.map((edge, i) => edge + (i % 2 ? dy : dx));
    }
    this.draw();
  }

  listen() {
    for (const input of this.root.querySelectorAll("select, input")) input.addEventListener("change", () => this.draw());
    this.find(".whole").addEventListener("click", () => this.look(null));
    this.canvas.addEventListener("dblclick", () => this.look(null));
    this.canvas.addEventListener("wheel", (event) => this.frame && this.zoom(event), { passive: false });
    this.canvas.addEventListener("pointerleave", () => { this.cursor = null; this.find(".cursor").value = ""; });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.drawn.region) return;
      this.cursor = this.pixelAt(event);
      if (event.buttons === 1 && this.region && this.grip) {
        const [dx, dy] = [this.grip[0] - this.cursor[0], this.grip[1] - this.cursor[1]];
        if (Math.hypot(dx, dy) >= 1) this.look(this.region.map((edge, i) => edge + (i % 2 ? dy : dx)));
      }
      this.ask();
    });
    this.canvas.addEventListener("pointerdown", (event) => { this.grip = this.drawn.region && this.pixelAt(event); });
  }
}
