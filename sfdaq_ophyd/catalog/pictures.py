"""Runs for people: a table for the terminal, calibrated images, and frames as PNG files."""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration import CalibrationOptions, JungfrauCalibration
from ..calibration.raw_pixels import with_lost_packets
from ..errors import ConstantsMissing, RequestError, require
from ..files.constants import files_of, load_calibration, stamps_of
from ..wire.detector_name import DaqRec
from ..wire.simplon import invalid_pixels


def run_table(run, stream: str = "primary", *, columns: Sequence[str] | None = None, max_rows: int = 40):
    """Return one stream of a run as a table for rich to print.

    Parameters
    ----------
    run : bluesky_tiled_plugins BlueskyRun
        From ``catalog[uid]``.
    stream : str
        Name of the event stream.
    columns : sequence of str, optional
        Data keys. Default: every scalar, what was scanned first; images and arrays are left out.
    max_rows : int
        Of a longer run the middle is left out, and a row says how much.

    Returns
    -------
    rich.table.Table

    Raises
    ------
    RequestError
        No such stream, or a column that is none of its scalars.

    Examples
    --------
    ``rich.print(run_table(catalog[-1]))``
    """
    from rich.table import Table

    if stream not in list(run):
        raise RequestError("stream", stream, f"one of {sorted(run)}")
    scalars = scalar_keys(run, stream)
    chosen = list(scalars if columns is None else columns)
    if unknown := [key for key in chosen if key not in scalars]:
        raise RequestError("columns", unknown, f"some of {scalars}")
    values = run[stream].read(variables=[*chosen, "time"])
    table = Table(title=_title(run, stream))
    table.add_column("point", justify="right")
    for key in chosen:
        text = values[key].dtype.kind in "OUS"
        table.add_column(key, justify="left" if text else "right", overflow="fold")
    n_rows = len(values["time"])
    head = n_rows if n_rows <= max_rows else (max_rows + 1) // 2
    tail = min(n_rows - head, max_rows - head)
    for row in [*range(head), *range(n_rows - tail, n_rows)]:
        if row == n_rows - tail and n_rows > head + tail:
            table.add_row(
                "...", *[f"({n_rows - head - tail} more)" if key == chosen[0] else "" for key in chosen]
            )
        table.add_row(str(row + 1), *[_shown(key, values[key].values[row]) for key in chosen])
    return table


def scalar_keys(run, stream: str) -> list[str]:
    """Return the data keys of a stream that hold one value per event, the scanned ones first.

    Parameters
    ----------
    run : bluesky_tiled_plugins BlueskyRun
        From ``catalog[uid]``.
    stream : str
        Name of the event stream.

    Raises
    ------
    KeyError
        The run has no such stream.
    """
    data_keys = run[stream].metadata["data_keys"]
    scalars = [key for key, spec in data_keys.items() if not spec.get("external") and not spec.get("shape")]
    dimensions = run.start.get("hints", {}).get("dimensions", [])
    scanned = [field for fields, _ in dimensions for field in fields if field in scalars]
    return list(dict.fromkeys([*scanned, *scalars]))


def _title(run, stream: str) -> str:
    stop = run.metadata.get("stop") or {}
    return f"{_name(run)}, {stream}: {stop.get('exit_status', 'no stop document')}"


def _shown(key: str, value) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if key.endswith("timestamp") and math.isfinite(value):
            moment = datetime.datetime.fromtimestamp(float(value), datetime.UTC)
            return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
        return f"{value:.6g}"
    return "" if value is None else str(value)


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
    """Write one frame as PNG. Draws without a display and leaves matplotlib's settings alone.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Pixels without a measurement are grey; see `good_pixels`.
    path : Path
        Its folder must exist; a file of that name is replaced.
    title : str
        Stands above it, in several lines if it has them.
    unit : str
        Names the colour bar.
    scale : (float, float), optional
        The ends of the colour bar, which is logarithmic, so above 0. Default is what `limits` says.

    Raises
    ------
    ExtraMissing
        matplotlib is not installed.
    OSError
        The file cannot be written.
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

    Parameters
    ----------
    frame : ndarray, shape (..., y, x)
        Not changed.

    Returns
    -------
    ndarray of float32, shape like `frame`

    Raises
    ------
    ShapeError
        It is unsigned, but of neither 8, 16 nor 32 bits.

    Notes
    -----
    See wire reference eiger, section 6.5.
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
    """Return the colour limits: percentiles 1 and 99.9 of the positive pixels, at least a factor 2 apart.

    Parameters
    ----------
    picture : ndarray of float
        Of any shape, NaN where a pixel was not measured.

    Returns
    -------
    low, high : float
        Above 0; 1 and 2 where no pixel is positive.
    """
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


_ALONE = threading.Lock()


def calibrated_images(
    run: Any,
    device: str,
    *,
    stream: str = "primary",
    calibration: JungfrauCalibration | None = None,
    **options: Any,
):
    """Return the calibrated images of a Jungfrau's raw ones as a dask array; nothing is read yet.

    Parameters
    ----------
    run : tiled client of a run
        ``catalog[uid]``.
    device : str
        Name of the device, e.g. ``"jf"``.
    stream : str
        Name of the run's stream.
    calibration : JungfrauCalibration, optional
        Use these constants; default are those the run recorded, from the files it names.
    **options
        Changes to the options that were recorded, e.g. ``factor=9.3``; see `CalibrationOptions`.

    Returns
    -------
    dask.array.Array, shape (events, [frames,] y, x)
        A chunk per event; frames are calibrated in the gain mode they were taken in, when computed. Lost
        packets are masked, as the device does.

    Raises
    ------
    RequestError
        There is no such device or stream in the run, or its images are not raw.
    ConstantsMissing
        The run names no constants, or the files no longer hold what they held then.
    FileFormatError
        A file is gone or unreadable here.

    Examples
    --------
    >>> images = calibrated_images(catalog[-1], "jf")  # doctest: +SKIP
    >>> images[10].compute()  # doctest: +SKIP
    """
    require("catalog", "calibrated_images", "dask")
    import dask.array as da

    node = _stream_of(run, stream)
    settings = _settings_of(node, device, stream)
    key = f"{device}_image"
    raw = node[key]
    if raw.dtype != np.uint16:
        raise RequestError(f"{stream}/{key}", str(raw.dtype), "raw images, uint16")
    if calibration is None:
        calibration = _recorded(settings, device)
    calibration = calibration.with_options(mask_lost_packets=True, **options)
    modes = {calibration.options.highgain: calibration}

    def in_mode(highgain):
        with _ALONE:
            if highgain not in modes:
                modes[highgain] = calibration.with_options(highgain=highgain)
            return modes[highgain]

    def block(words, daq_rec):
        frames = with_lost_packets(words.reshape(-1, *words.shape[-2:]))
        out = calibration.empty(len(frames))
        for frame, word, image in zip(frames, daq_rec.ravel(), out):
            highgain = calibration.options.highgain if word < 0 else DaqRec.decode(int(word)).high_gain
            in_mode(highgain)(frame, out=image)
        return out.reshape(*words.shape[:-2], *calibration.shape)

    lead = raw.shape[:-2]
    chunks = ((1,) * lead[0], *((n,) for n in raw.shape[1:]))
    words = da.from_array(raw, chunks=chunks, name=False, asarray=np.asarray, inline_array=True)
    daq_rec = da.from_array(_daq_rec(node, device, lead), chunks=(*chunks[: len(lead)],))
    daq_rec = daq_rec.reshape(*lead, 1, 1)
    out_chunks = (*chunks[:-2], *((n,) for n in calibration.shape))
    return da.map_blocks(
        block,
        words,
        daq_rec,
        chunks=out_chunks,
        dtype=calibration.dtype,
        meta=np.empty((0,) * raw.ndim, calibration.dtype),
    )


def _stream_of(run, stream):
    try:
        return run[stream]
    except KeyError as exc:
        raise RequestError("stream", stream, f"one of {list(run)}") from exc


def _settings_of(node, device, stream) -> dict[str, str]:
    """Return what the device's configuration says about constants, without the device's name."""
    configuration = dict(node.metadata.get("configuration", {}))
    if device not in configuration or f"{device}_image" not in node:
        raise RequestError("device", device, f"a device of stream {stream!r}: {sorted(configuration)}")
    return {
        name.removeprefix(f"{device}_"): value for name, value in dict(configuration[device])["data"].items()
    }


def _recorded(settings, device) -> JungfrauCalibration:
    names = [settings.get(name, "") for name in ("detector_name", "gain_file", "pedestal_file")]
    if not all(names):
        raise ConstantsMissing(f"{device}: the run names no gain and pedestal files; pass a calibration")
    mask = settings.get("pixel_mask_file", "")
    stamps = stamps_of(files_of(names[1]), files_of(names[2]), mask)
    calibration = _loaded(*names, mask, settings.get("calibration") or "{}", stamps)
    then = settings.get("constants_hash", "")
    if then and then != calibration.constants_hash:
        raise ConstantsMissing(
            f"{device}: {names[1]} and {names[2]} have changed since the run (SHA-256 then {then[:12]}..., "
            f"now {calibration.constants_hash[:12]}...); pass the calibration to use"
        )
    return calibration


@lru_cache(maxsize=2)
def _loaded(detector_name, gain_file, pedestal_file, pixel_mask_file, options, stamps):
    files = (files_of(gain_file), files_of(pedestal_file), pixel_mask_file or None)
    return load_calibration(detector_name, *files, **CalibrationOptions.from_json(options).as_dict())


def _daq_rec(node, device, lead) -> np.ndarray:
    """Return the DAQ word of each frame, -1 where the run has none."""
    key = f"{device}_daq_rec"
    if key not in node:
        return np.full(lead, -1, dtype=np.int64)
    return np.asarray(node[key].read()).reshape(lead)
