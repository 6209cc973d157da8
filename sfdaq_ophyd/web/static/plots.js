// Plots, by uPlot: curves over a common x, points of scans, and a histogram whose limits can be dragged.
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 6 });
const INK = "#aab4c4", GRID = "#262d3a";
export const COLOURS = ["#6aa9ff", "#e8b44c", "#5ec8a8", "#ff7a8a", "#c79bff", "#9fb0c8"];

function axis(more) {
  return { stroke: INK, grid: { stroke: GRID, width: 1 }, ticks: { stroke: GRID, size: 4 }, font: "11px sans-serif", ...more };
}

function compact(u, values) { return values.map((value) => value == null ? "" : short.format(value)); }

// Of a single moment uPlot would show years.
function recent(u, low, high) { return high == null ? [0, 10] : [Math.min(low, high - 10), high]; }

class Plot {
  constructor(root, height) {
    Object.assign(this, { root, height, key: "", chart: null });
    new ResizeObserver(() => this.chart && this.width() !== this.chart.width && this.chart.setSize({ width: this.width(), height })).observe(root);
  }

  width() { return Math.max(120, this.root.clientWidth); }

  put(key, options, data) {
    if (!this.root.clientWidth) return; // folded away
    if (this.chart && key === this.key) { this.chart.setData(data); return; }
    this.chart?.destroy();
    this.key = key;
    this.chart = new uPlot({ width: this.width(), height: this.height, legend: { show: false }, ...options }, data, this.root);
  }
}

export class Curves extends Plot {
  // names of the curves, [x, y, y, ...]; x is time (s since the epoch) or a number
  show(names, data, { time = false, unit = "", least = null } = {}) {
    const series = names.map((name, i) => ({ label: name, stroke: COLOURS[i % COLOURS.length], width: 1.5, points: { show: false } }));
    const range = least == null ? undefined : (u, low, high) => [Math.min(least, low ?? 0), Math.max(1, high ?? 1) * 1.1];
    this.put(JSON.stringify([names, unit]), {
      cursor: { drag: { x: false, y: false } }, scales: { x: { time, range: time ? recent : undefined }, y: { range } },
      axes: [axis(), axis({ size: 62, values: compact, label: unit, labelSize: unit ? 16 : 0, labelFont: "11px sans-serif" })], series: [{}, ...series],
    }, data);
  }
}

export class Scans extends Plot {
  // runs: [{x, y, colour}], the one that matters most last; points as they were taken, in any order
  show(runs, xName, yName) {
    const range = (values) => {
      let [low, high] = [Infinity, -Infinity];
      for (const list of values) for (const value of list) if (value != null) { low = Math.min(low, value); high = Math.max(high, value); }
      const margin = (high - low || Math.abs(high) || 1) * 0.06;
      return low > high ? [0, 1] : [low - margin, high + margin];
    };
    this.ranges = [range(runs.map((run) => run.x)), range(runs.map((run) => run.y))];
    this.runs = runs;
    const series = runs.map(() => ({ facets: [{ scale: "x", auto: true }, { scale: "y", auto: true }], paths: (u, i) => this.trace(u, this.runs[i - 1]) }));
    this.put(JSON.stringify([xName, yName, runs.length]), {
      mode: 2, cursor: { show: false },
      scales: { x: { time: false, range: () => this.ranges[0] }, y: { range: () => this.ranges[1] } },
      axes: [axis({ label: xName, size: 28, labelSize: 16, labelFont: "11px sans-serif" }), axis({ size: 62, values: compact, scale: "y" })], series: [null, ...series],
    }, [null, ...runs.map((run) => [run.x, run.y])]);
  }

  trace(u, run) {
    const [line, dots] = [new Path2D(), new Path2D()];
    let begun = false;
    run.x.forEach((value, i) => {
      if (run.y[i] == null) { begun = false; return; }
      const [x, y] = [u.valToPos(value, "x", true), u.valToPos(run.y[i], "y", true)];
      if (begun) line.lineTo(x, y); else line.moveTo(x, y);
      begun = true;
      dots.moveTo(x + 2.5, y);
      dots.arc(x, y, 2.5, 0, 2 * Math.PI);
    });
    u.ctx.save();
    Object.assign(u.ctx, { strokeStyle: run.colour, fillStyle: run.colour, lineWidth: 1.5 });
    u.ctx.stroke(line);
    u.ctx.fill(dots);
    u.ctx.restore();
    return null;
  }
}

export class Histogram extends Plot {
  // `set(which, value)` is called with "low" or "high" and the limit that was dragged; null is automatic
  constructor(root, set) {
    super(root, 110);
    this.set = set;
    this.handles = ["low", "high"].map((which) => this.handle(which));
  }

  show({ low, high, counts }, scale, limits, unit) {
    this.limits = limits;
    if (low == null) return;
    const log = scale === "log";
    const edge = (i) => log ? low * (high / low) ** (i / counts.length) : low + (high - low) * i / counts.length;
    this.span = [Math.min(low, limits[0]), Math.max(high, limits[1])];
    this.put(JSON.stringify([scale, unit]), {
      cursor: { show: false },
      scales: { x: { time: false, distr: log ? 3 : 1, range: () => this.span }, y: { distr: 3, range: (u, a, b) => [0.7, Math.max(10, b ?? 10)] } },
      axes: [axis({ label: unit, labelSize: 14, labelFont: "11px sans-serif", size: 28 }), axis({ size: 50, splits: (u) => [1, 10, 100, 1e3, 1e4, 1e5, 1e6].filter((v) => v <= u.scales.y.max), values: (u, v) => v.map((n) => n < 1e3 ? n : `1e${Math.round(Math.log10(n))}`) })],
      series: [{}, { stroke: COLOURS[0], fill: "#6aa9ff50", width: 1, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
      hooks: { ready: [(u) => u.over.append(...this.handles)], draw: [() => this.place()] },
    }, [[...counts.map((_, i) => edge(i)), high], [...counts.map((n) => n || 0.5), 0.5]]);
    this.place();
  }

  place() {
    if (!this.chart) return;
    this.handles.forEach((handle, i) => {
      handle.style.left = `${this.chart.valToPos(this.limits[i], "x")}px`;
      handle.setAttribute("aria-valuemin", this.span[0]);
      handle.setAttribute("aria-valuemax", this.span[1]);
      handle.setAttribute("aria-valuenow", this.limits[i]);
    });
  }

  handle(which) {
    const handle = Object.assign(document.createElement("div"), { className: `handle ${which}`, tabIndex: 0, title: "drag; arrow keys; Delete is automatic" });
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", `${which === "low" ? "lower" : "upper"} limit of the colours`);
    const i = which === "low" ? 0 : 1;
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = this.chart.over.getBoundingClientRect();
      this.move(which, this.chart.posToVal(Math.min(box.width, Math.max(0, event.clientX - box.left)), "x"));
    });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (event.key === "Delete" || event.key === "Backspace") this.set(which, null);
      else if (step) this.move(which, this.chart.posToVal(this.chart.valToPos(this.limits[i], "x") + step * this.chart.over.clientWidth / 50, "x"));
      else return;
      event.preventDefault();
    });
    return handle;
  }

  move(which, value) {
    const i = which === "low" ? 0 : 1;
    if (!Number.isFinite(value) || (i ? value <= this.limits[0] : value >= this.limits[1])) return;
    this.limits = this.limits.map((limit, k) => k === i ? value : limit);
    this.place();
    this.set(which, Number(value.toPrecision(4)));
  }
}
