"""Frames of a run as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import RequestError, require
from ..wire.pixels import invalid_pixels

MAX_SIDE = 1200
"""Pixels along the longer side of a picture; larger frames show the brightest pixel of each block."""


def write_pictures(
    run,
    directory: str | Path,
    *,
    stream: str = "primary",
    keys: Sequence[str] | None = None,
    max_points: int = 3,
) -> list[Path]:
    """Write frames of a run, evenly spread over its points, and return the files.

    The scale is logarithmic between robust limits. Pixels without a measurement are grey.
    The title says run, point, event id and, where there is one, pulse id.

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
        At most this many points of each key. Of several frames per point the first is drawn.

    Raises
    ------
    RequestError
        No such stream, or a key that is no image in it.
    """
    if stream not in list(run):
        raise RequestError("stream", stream, f"one of {sorted(run)}")
    data_keys = run[stream].metadata["data_keys"]
    images = [k for k, spec in data_keys.items() if spec.get("external") and len(spec["shape"]) >= 2]
    chosen = images if keys is None else list(keys)
    if unknown := [key for key in chosen if key not in images]:
        raise RequestError("keys", unknown, f"some of {images}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for key in chosen:
        array = run[stream][key]
        ids = _ids(run, stream, key.removesuffix("_image"))
        points = np.unique(np.linspace(0, len(array) - 1, min(max_points, len(array))).round().astype(int))
        for point in points.tolist():
            frame = np.asarray(array[point])
            frame = frame[(0,) * (frame.ndim - 2)]
            path = folder / f"{run.start['uid'][:8]}-{stream}-{key}-{point + 1:04d}.png"
            said = ", ".join(f"{name} {_first(values[point])}" for name, values in ids.items())
            draw(frame, path, title=f"{_name(run)}, {stream} point {point + 1}: {key}\n{said}")
            written.append(path)
    return written


def draw(frame: np.ndarray, path: Path, *, title: str) -> None:
    """Write one frame (y, x) as PNG. Draws without a display and leaves matplotlib's settings alone."""
    require("catalog", "a picture", "matplotlib")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    picture = _shrink(good_pixels(frame))
    low, high = limits(picture)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="0.6")
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = axes.imshow(
        np.ma.masked_invalid(np.maximum(picture, low)),
        cmap=colours,
        norm=LogNorm(low, high),
        extent=(0, frame.shape[1], frame.shape[0], 0),
        interpolation="nearest",
    )
    axes.set(title=title, xlabel="x (pixel)", ylabel="y (pixel)")
    axes.title.set_fontsize(9)
    figure.colorbar(drawn, ax=axes, extend="both")
    figure.savefig(path, dpi=120)


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


def _first(value):
    return np.ravel(value)[0]


def _name(run) -> str:
    number = f" {run.start['scan_id']}" if "scan_id" in run.start else ""
    return f"{run.start.get('plan_name', 'run')}{number} ({run.start['uid'][:8]})"
