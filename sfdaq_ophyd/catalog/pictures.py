"""Frames of a run as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import RequestError, require
from ..wire.simplon import invalid_pixels

MAX_SIDE = 900
"""Pixels along the longer side of a picture; larger frames show the brightest pixel of each block."""

ENERGY = "keV"
"""Unit of calibrated images; a pixel of exactly 0 in all frames drawn was not measured: gaps."""


def write_pictures(
    run,
    directory: str | Path,
    *,
    stream: str = "primary",
    keys: Sequence[str] | None = None,
    max_points: int = 3,
    points: Sequence[int] | None = None,
    frames: Mapping[int, int] | None = None,
    units: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write frames of a run and return the files.

    The scale is logarithmic between robust limits, the same for all pictures of a key. Pixels without a
    measurement are grey. The title says run, point, event id and, where there is one, pulse id.

    Parameters
    ----------
    run : bluesky_tiled_plugins BlueskyRun
        From ``catalog[uid]``.
    directory : str or Path
        Made if missing.
    stream : str
        Name of the event stream.
    keys : sequence of str, optional
        Image keys; default all external keys with two dimensions or more.
    max_points : int
        At most this many points of each key, evenly spread.
    points : sequence of int, optional
        Which points, from 0, in place of those.
    frames : mapping, optional
        Point to which of its frames; the first if it is not there.
    units : mapping, optional
        Of keys whose data key names none.

    Raises
    ------
    RequestError
        No such stream, or a key that is no image in it.
    """
    if stream not in list(run):
        raise RequestError("stream", stream, f"one of {sorted(run)}")
    data_keys = run[stream].metadata["data_keys"]
    known = [k for k, spec in data_keys.items() if spec.get("external") and len(spec["shape"]) >= 2]
    wanted = known if keys is None else list(keys)
    if unknown := [key for key in wanted if key not in known]:
        raise RequestError("keys", unknown, f"some of {known}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for key in wanted:
        array = run[stream][key]
        drawn = _points(points, max_points, len(array))
        chosen = {point: (frames or {}).get(point, 0) for point in drawn}
        where = [(point, *[chosen[point]] * (len(array.shape) - 3)) for point in drawn]
        images = [np.asarray(array[each]) for each in where]  # nothing else of the point is read
        unit = data_keys[key].get("units") or (units or {}).get(key, "")
        pictures = [good_pixels(image) for image in images]
        if images and images[0].dtype.kind == "f" and unit == ENERGY:
            gaps = np.logical_and.reduce([image == 0 for image in images])
            for picture in pictures:
                picture[gaps] = np.nan
        scale = limits(np.concatenate([picture[::3, ::3].ravel() for picture in pictures] or [np.empty(0)]))
        ids = _ids(run, stream, key.removesuffix("_image"))
        for point, picture in zip(drawn, pictures):
            path = folder / f"{run.start['uid'][:8]}-{stream}-{key}-{point + 1:04d}.png"
            said = ", ".join(
                f"{name} {np.ravel(values[point])[chosen[point]]}" for name, values in ids.items()
            )
            title = f"{key}, point {point + 1}\n{_name(run)}{', ' * bool(said)}{said}"
            draw(picture, path, title=title, unit=unit, scale=scale)
            written.append(path)
    return written


def draw(
    frame: np.ndarray,
    path: Path,
    *,
    title: str,
    unit: str = "",
    scale: tuple[float, float] | None = None,
) -> None:
    """Write one frame (y, x) as PNG. Draws without a display and leaves matplotlib's settings alone.

    `unit` names the colour bar, `scale` are the ends of it; default is what `limits` says.
    """
    require("catalog", "a picture", "matplotlib")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    picture = _shrink(good_pixels(frame))
    low, high = scale or limits(picture)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="0.6")
    figure = Figure(figsize=(6.4, 6.4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.08, 0.7, 0.82), anchor="E")
    drawn = axes.imshow(
        np.ma.masked_invalid(np.maximum(picture, low)),
        cmap=colours,
        norm=LogNorm(low, high),
        extent=(0, frame.shape[1], frame.shape[0], 0),
        interpolation="nearest",
    )
    axes.set(title=title, xlabel="x (pixel)", ylabel="y (pixel)")
    ticks = [low, *(10.0**n for n in range(-9, 12) if 2.5 * low < 10.0**n < high / 2.5), high]
    bar = figure.colorbar(drawn, cax=figure.add_axes((0.84, 0.08, 0.03, 0.82)), extend="both", ticks=ticks)
    bar.minorticks_off()  # most of the time went into them
    bar.ax.set_yticklabels([f"{tick:.0f}" if tick >= 100 else f"{tick:.2g}" for tick in ticks])
    bar.set_label(unit or "value as stored, no unit given")
    figure.savefig(path, dpi=120, pil_kwargs={"compress_level": 3})


def good_pixels(frame: np.ndarray) -> np.ndarray:
    """Return the frame as float32 with NaN where a pixel was not measured.

    Not measured are: in unsigned frames SIMPLON's sentinels, the two largest values of the dtype; in
    signed frames negative ones; in floating point what is not finite.
    """
    values = frame.astype("f4")
    if frame.dtype.kind == "u":
        values[invalid_pixels(frame)] = np.nan
    elif frame.dtype.kind == "i":
        values[frame < 0] = np.nan
    else:
        values[~np.isfinite(values)] = np.nan
    return values


def _points(points: Sequence[int] | None, most: int, n: int) -> list[int]:
    if points is not None:
        return [point for point in points if 0 <= point < n]
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int)).tolist()


def limits(picture: np.ndarray) -> tuple[float, float]:
    """Return the colour limits: percentiles 1 and 99.9 of the positive pixels, at least a factor 2 apart."""
    positive = picture[picture > 0]
    if positive.size == 0:
        return 1.0, 2.0
    low, high = np.percentile(positive, [1, 99.9]).tolist()
    return low, max(high, 2 * low)


def _shrink(values: np.ndarray) -> np.ndarray:
    """Return the largest good pixel of each block, so that the longer side fits MAX_SIDE."""
    step = -(-max(values.shape) // MAX_SIDE)
    if step == 1:
        return values
    for axis in (0, 1):
        values = np.fmax.reduceat(values, np.arange(0, values.shape[axis], step), axis=axis)
    return values


def _ids(run, stream: str, device: str) -> dict:
    data_keys = run[stream].metadata["data_keys"]
    names = {"event": f"{device}_event_id", "pulse": f"{device}_pulse_id"}
    present = {what: key for what, key in names.items() if key in data_keys}
    if not present:
        return {}
    values = run[stream].read(variables=list(present.values()))
    return {what: values[key].values for what, key in present.items()}


def _name(run) -> str:
    number = f" {run.start['scan_id']}" if "scan_id" in run.start else ""
    return f"{run.start.get('plan_name', 'run')}{number} ({run.start['uid'][:8]})"
