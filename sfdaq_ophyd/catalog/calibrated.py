"""Calibrated images of a run that recorded raw ones, lazily, by the constants the run names."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np

from ..calibration import CalibrationOptions, JungfrauCalibration
from ..calibration.raw_pixels import with_lost_packets
from ..errors import ConstantsMissing, RequestError, require
from ..files.constants import files_of, load_calibration
from ..wire.detector_name import DaqRec

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
    calibration = _loaded(*names, settings.get("pixel_mask_file", ""), settings.get("calibration") or "{}")
    then = settings.get("constants_hash", "")
    if then and then != calibration.constants_hash:
        raise ConstantsMissing(
            f"{device}: {names[1]} and {names[2]} have changed since the run (SHA-256 then {then[:12]}..., "
            f"now {calibration.constants_hash[:12]}...); pass the calibration to use"
        )
    return calibration


@lru_cache(maxsize=2)
def _loaded(detector_name, gain_file, pedestal_file, pixel_mask_file, options):
    files = (files_of(gain_file), files_of(pedestal_file), pixel_mask_file or None)
    return load_calibration(detector_name, *files, **CalibrationOptions.from_json(options).as_dict())


def _daq_rec(node, device, lead) -> np.ndarray:
    """Return the DAQ word of each frame, -1 where the run has none."""
    key = f"{device}_daq_rec"
    if key not in node:
        return np.full(lead, -1, dtype=np.int64)
    return np.asarray(node[key].read()).reshape(lead)
