"""Converted detector files (contract jungfrau.md, section 8.5), after the rules of contract section 5.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from ...wire.daq_rec import DaqRec
from ...wire.detector_name import MODULE_SHAPE
from ..jungfrau.constants import Constants


def write_converted(
    raw: Path,
    target: Path,
    detector: str,
    parameters: dict[str, Any],
    selected: set[int],
    constants: Constants,
) -> bool:
    """Convert a raw file; False if no frame passes the filters, and then no file is written.

    Rows are the good frames that pass, not pulses.
    """
    with h5py.File(raw) as source:
        group = source[f"data/{detector}"]
        columns = {name: group[name][:, 0] for name in ("pulse_id", "daq_rec", "is_good_frame")}
        rows = _rows(columns, parameters, selected)
        if not len(rows):
            return False
        with h5py.File(target, "w") as file:
            file["general/detector_name"] = detector
            for name, region in _regions(detector, parameters).items():
                _write_group(file, name, group["data"], rows, columns, parameters, constants, region)
    return True


def _rows(columns: dict[str, np.ndarray], parameters: dict[str, Any], selected: set[int]) -> np.ndarray:
    keep = columns["is_good_frame"] == 1
    if selected:
        keep &= np.isin(columns["pulse_id"], list(selected))
    if parameters.get("save_ppicker_events_only"):
        keep &= np.array([DaqRec.decode(int(word)).picker_open for word in columns["daq_rec"]], bool)
    return np.flatnonzero(keep)


def _regions(detector: str, parameters: dict[str, Any]) -> dict[str, tuple | None]:
    """Return group names and the region each holds; a flat list of numbers fails, as in the real writer."""
    roi = parameters.get("roi")
    if not roi:
        return {detector: None}
    items = roi.items() if isinstance(roi, dict) else enumerate(roi)
    return {f"{detector}:ROI_{label}": tuple(y1y2x1x2) for label, y1y2x1x2 in items}


def _write_group(file, name, data, rows, columns, parameters, constants: Constants, region) -> None:
    group = file.create_group(f"data/{name}")
    kept = _kept_rows(data.shape[1], parameters)
    first = _convert(data[rows[0]], parameters, constants, kept, region)
    options = hdf5plugin.Bitshuffle(nelems=32768) if parameters.get("compression") else {}
    images = group.create_dataset(
        "data", (len(rows), *first.shape), first.dtype, chunks=(1, *first.shape), **options
    )
    for number, row in enumerate(rows):
        images[number] = _convert(data[row], parameters, constants, kept, region)
    for key, values in columns.items():
        group[key] = values[rows][:, None]
    meta = group.create_group("meta")
    meta["conversion"] = bool(parameters.get("adc_to_energy"))
    meta["conversion_factor"] = float(parameters.get("factor") or np.nan)
    n_modules = data.shape[1] // MODULE_SHAPE[0]
    disabled = parameters.get("disabled_modules") or ()
    present = np.cumsum([module not in disabled for module in range(n_modules)]) - 1
    meta["module_map"] = np.array(
        [-1 if module in disabled else present[module] for module in range(n_modules)], "i8"
    )
    if region is not None:
        y1, y2, x1, x2 = region
        meta["roi"] = np.array([[y1, y2], [x1, x2]], "i8")


def _kept_rows(height: int, parameters: dict[str, Any]) -> np.ndarray:
    module = np.arange(height) // MODULE_SHAPE[0]
    return ~np.isin(module, parameters.get("disabled_modules") or ())


def _convert(
    raw: np.ndarray, parameters: dict[str, Any], constants: Constants, kept: np.ndarray, region: tuple | None
) -> np.ndarray:
    image = _energy(raw, parameters, constants) if parameters.get("adc_to_energy") else raw
    image = image[kept]
    if region is not None:
        y1, y2, x1, x2 = region
        return image[y1:y2, x1:x2]
    height, width = parameters.get("downsample") or (1, 1)
    if (height, width) != (1, 1):
        y, x = image.shape[0] // height * height, image.shape[1] // width * width
        image = image[:y, :x].reshape(y // height, height, x // width, width).mean((1, 3)).astype(image.dtype)
    return image


def _energy(raw: np.ndarray, parameters: dict[str, Any], constants: Constants) -> np.ndarray:
    """Return keV, or multiples of `factor` as int32."""
    stage = np.minimum(raw >> 14, 2)
    pedestal = np.choose(stage, constants.pedestal)
    energy = ((raw & 0x3FFF) - pedestal) / np.choose(stage, constants.gain[:3])
    if parameters.get("mask", True):
        energy[constants.mask != 0] = 0
    if parameters.get("factor"):
        return np.rint(energy / parameters["factor"]).astype("i4")
    return energy.astype("f4")
