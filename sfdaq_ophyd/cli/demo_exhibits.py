"""What the demo shows of a run, all of it read back from the catalog."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from rich.console import Console
from rich.table import Table

from ..catalog import write_pictures
from ..sim.clock import CENTRE, SIGMA

JUNGFRAU, FILES = "jf", "sfdaq_JF01T03V01"
"""The live Jungfrau, and the same detector in the broker's files."""

TOTALS = {"jf_total": "keV", "eiger_total": "counts"}
"""What is drawn against the motor."""

UNITS = {
    "eiger_image": "counts",
    "writer_image": "raw words: ADU and gain bits",
    FILES: "keV",
}
"""Of images whose data keys name none."""

CLOSE = 0.5
"""keV; live and retrieved images of one pulse that are calibrated alike differ by less."""


@dataclass
class Exhibit:
    """A run as it is shown; what its data say, a sentence each, is in `said`."""

    start: dict
    stop: dict
    table: Table
    said: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


def calibrating_file(run) -> str:
    """Return the file of a pedestal run with one detector."""
    files = run["primary"].read()
    (key,) = [key for key in files if key.endswith("_pedestal")]
    return str(files[key].values[0])


def show_pedestal(run) -> Exhibit:
    """Return the pedestal's run: its file."""
    table = _table(run, ["detector", "file"])
    for key, values in run["primary"].read().items():
        if key.endswith("_pedestal"):
            table.add_row(key.removeprefix("sfdaq_").removesuffix("_pedestal"), short(str(values.values[0])))
    return Exhibit(dict(run.start), dict(run.metadata["stop"]), table)


def show_scan(run, directory: Path) -> Exhibit:
    """Return the scan's run, and write its curve and pictures."""
    columns = ["motor", "eiger_event_id", "jf_pulse_id", "writer_file", "sfdaq_acquisition_number"]
    columns += ["sfdaq_start_pulse_id", "sfdaq_stop_pulse_id", *TOTALS]
    values = {key: each.values for key, each in run["primary"].read(variables=columns).items()}
    in_files = np.asarray(run["sfdaq_data"][f"{FILES}_pulse_id"].read())[..., 0]
    rows = [_row_of(live, ids) for live, ids in zip(values["jf_pulse_id"], in_files)]
    exhibit = Exhibit(dict(run.start), dict(run.metadata["stop"]), _scan_table(run, values, in_files, rows))

    position = values["motor"]
    fits = {key: fit_peak(position, values[key]) for key in TOTALS}
    for key, fit in fits.items():
        if fit is not None:
            exhibit.said.append(f"{key} peaks at motor = {fit.centre:.3f} ± {fit.error:.3f} mm.")
    if any(fits.values()):
        exhibit.said.append(f"The simulated sample stands at {CENTRE:g} mm, sigma {SIGMA:g} mm.")
    curves = {key: (values[key], unit, fits[key]) for key, unit in TOTALS.items()}
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{run.start['uid'][:8]}-peak.png"
    draw_peaks(path, position, curves, CENTRE, title=f"{run.start['plan_name']} {run.start['scan_id']}")

    points = sorted({0, int(np.argmin(abs(position - CENTRE)))})
    exhibit.said += _same_pulses(run, values["jf_pulse_id"], rows, points)
    exhibit.pictures = [path]
    for stream, keys in (("primary", ["eiger_image", "jf_image", "writer_image"]), ("sfdaq_data", [FILES])):
        frames = {}
        if keys == [FILES]:
            frames = {point: row for point in points if (row := rows[point]) is not None}
        exhibit.pictures += write_pictures(
            run, directory, stream=stream, keys=keys, points=points, frames=frames, units=UNITS
        )
    return exhibit


def say(console: Console, exhibit: Exhibit) -> None:
    """Print the table of a run and what its data say."""
    console.print()
    console.print(exhibit.table)
    for sentence in exhibit.said:
        console.print(sentence, soft_wrap=True)


def short(path: str, most: int = 40) -> str:
    """Return the end of a path: all of it, the name, or the end of the name."""
    name = f"…/{Path(path).name}"
    return path if len(path) <= most else name if len(name) <= most else f"…{name[1 - most :]}"


def _row_of(pulse_id: int, ids: np.ndarray) -> int | None:
    """Return which frame of a point's file is of a pulse; None if none is."""
    found = np.flatnonzero(ids == pulse_id)
    return int(found[0]) if found.size else None


def _scan_table(run, values: dict, in_files: np.ndarray, rows: list[int | None]) -> Table:
    headers = [
        "motor\n(mm)",
        "Eiger\nimage",
        "Eiger total\n(counts)",
        "Jungfrau\npulse id",
        "its total\n(keV)",
    ]
    headers += ["standard DAQ's file", "broker's pulses", "live frame\nin its file"]
    table = _table(run, headers)
    for k, position in enumerate(values["motor"]):
        first, last = int(values["sfdaq_start_pulse_id"][k]), int(values["sfdaq_stop_pulse_id"][k])
        live, n = int(values["jf_pulse_id"][k]), len(in_files[k])
        row = rows[k]
        there = f"{row + 1} of {n}" if row is not None else _outside(live, first, last)
        table.add_row(
            f"{position:.4g}",
            str(values["eiger_event_id"][k]),
            str(values["eiger_total"][k]),
            str(live),
            f"{values['jf_total'][k]:.5g}",
            short(str(values["writer_file"][k]), 19),
            f"{first} - {str(last)[-3:]}",
            there,
        )
    return table


def _outside(live: int, first: int, last: int) -> str:
    if first <= live <= last:
        return "lost"
    return f"{first - live} before" if live < first else f"{live - last} after"


def _same_pulses(run, live: np.ndarray, rows: list[int | None], points: list[int]) -> list[str]:
    """Say whether live frames are in the broker's files, and compare some with what the files have."""
    n_inside = sum(row is not None for row in rows)
    said = [f"{n_inside} of {len(rows)} live frames are of pulses that the broker's files have."]
    for point in points:
        if rows[point] is None:
            continue
        ours = np.asarray(run["primary"]["jf_image"][point, 0])
        theirs = np.asarray(run["sfdaq_data"][FILES][point, rows[point]])
        both = (ours != 0) & (theirs != 0)
        close = np.abs(ours - theirs)[both] < CLOSE
        said.append(
            f"Pulse {live[point]}, live and from the broker's file: {close.mean():.3%} of {both.sum()} "
            f"pixels are the same within {CLOSE:g} keV."
        )
    return said


def _table(run, headers: list[str]) -> Table:
    start, stop = run.start, run.metadata["stop"]
    title = f"{start['plan_name']} {start['scan_id']} ({start['uid'][:8]}): {stop['exit_status']}"
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def write_report(path: Path, exhibits: Iterable[Exhibit]) -> Path:
    """Write a page with a section per run, and return where it is."""
    environment = Environment(loader=PackageLoader(__package__, ""), autoescape=True, trim_blocks=True)
    environment.filters.update(moment=_moment, rows=_rows, columns=_columns, short=short)
    template = environment.get_template("demo_report.html")
    pictures = [[os.path.relpath(p, path.parent) for p in exhibit.pictures] for exhibit in exhibits]
    path.write_text(template.render(runs=list(zip(exhibits, pictures))), encoding="utf-8")
    return path


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _columns(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def _rows(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*[list(column.cells) for column in table.columns]))


N_STEPS = 60
"""Steps of the fit at the most."""


@dataclass(frozen=True)
class Peak:
    """A Gaussian on a constant."""

    centre: float
    sigma: float
    height: float
    base: float
    error: float
    """Standard error of the centre."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return its values at positions."""
        return self.base + self.height * np.exp(-(((x - self.centre) / self.sigma) ** 2) / 2)


def fit_peak(x: np.ndarray, y: np.ndarray) -> Peak | None:
    """Fit a Gaussian on a constant by least squares (Levenberg-Marquardt).

    Returns
    -------
    Peak or None
        None for less than 5 points, or where the fit finds no peak inside of them.
    """
    x, y = np.asarray(x, "f8"), np.asarray(y, "f8")
    if len(x) < 5 or np.ptp(y) == 0:
        return None
    p = np.array([x[np.argmax(y)], np.ptp(x) / 4, np.ptp(y), y.min()])
    scale, damping = np.array([1, 1, p[2], p[2]]), 1e-2

    def residual(p):
        return p[3] + p[2] * np.exp(-(((x - p[0]) / p[1]) ** 2) / 2) - y

    for _ in range(N_STEPS):
        g = np.exp(-(((x - p[0]) / p[1]) ** 2) / 2)
        slopes = p[2] * g * (x - p[0]) / p[1] ** 2
        jacobian = np.stack([slopes, slopes * (x - p[0]) / p[1], g, np.ones_like(x)], 1) * scale
        normal, down = jacobian.T @ jacobian, -jacobian.T @ residual(p)
        step = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), down, rcond=None)[0] * scale
        if np.sum(residual(p + step) ** 2) < np.sum(residual(p) ** 2):
            p, damping = p + step, damping / 4
        else:
            damping *= 8
    variance = np.sum(residual(p) ** 2) / max(1, len(x) - 4)
    error = np.sqrt(np.linalg.pinv(normal)[0, 0] * variance)
    if not (x.min() <= p[0] <= x.max() and p[2] > 0 and np.isfinite(error)):
        return None
    return Peak(float(p[0]), abs(float(p[1])), float(p[2]), float(p[3]), float(error))


def draw_peaks(
    path: Path,
    x: np.ndarray,
    curves: Mapping[str, tuple[np.ndarray, str, Peak | None]],
    known: float,
    *,
    title: str,
) -> None:
    """Write a picture of measured points over `x` (mm) and their fits, one below the other.

    `curves` has by name the values, their unit, and the fit; `known` is where the peak is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4))
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(curves), sharex=True)
    fine = np.linspace(x.min(), x.max(), 200)
    for axes, (name, (y, unit, fit)) in zip(np.atleast_1d(all_axes), curves.items()):
        axes.axvline(known, color="0.7", linestyle="--", label=f"the sample, {known:g} mm")
        axes.plot(x, y, "o", color="C0", label=name)
        if fit is not None:
            axes.plot(fine, fit(fine), color="C1", label=f"fit: {fit.centre:.3f} ± {fit.error:.3f} mm")
        axes.set_ylabel(f"{name} ({unit})")
        axes.legend(loc="upper right", fontsize=8)
    np.atleast_1d(all_axes)[-1].set_xlabel("motor (mm)")
    figure.suptitle(title)
    figure.subplots_adjust(left=0.15, right=0.97, top=0.93, bottom=0.08, hspace=0.1)
    figure.savefig(path, dpi=120)
