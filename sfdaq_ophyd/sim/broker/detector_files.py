"""HDF5 files of detectors: raw, as the buffer's reader writes them (contract jungfrau.md, section 8.4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from ..jungfrau.scene import Scene

Frame = Callable[[int, np.ndarray], int]
"""(pulse id, image to fill) to daq_rec."""


def write_raw(
    path: Path,
    detector: str,
    pulse_ids: list[int],
    arrived: set[int] | None,
    shape: tuple[int, int],
    frame: Frame,
) -> None:
    """Write one row per pulse, missing ones included.

    Parameters
    ----------
    arrived : set of int, or None
        Pulses that have a frame; None for all. The others get pulse id 0 and is_good_frame 0.
    frame : callable
        Fills an image and returns its daq_rec.
    """
    n = len(pulse_ids)
    with h5py.File(path, "w") as file:
        file["general/detector_name"] = detector
        group = file.create_group(f"data/{detector}")
        data = group.create_dataset("data", (n, *shape), "u2", chunks=(1, *shape) if n else None)
        ids, index = np.zeros((n, 1), "u8"), np.zeros((n, 1), "u8")
        words, good = np.zeros((n, 1), "u4"), np.zeros((n, 1), "u1")
        image = np.empty(shape, "u2")
        for row, pulse_id in enumerate(pulse_ids):
            if arrived is not None and pulse_id not in arrived:
                continue
            words[row] = frame(pulse_id, image)
            data[row] = image
            ids[row], index[row], good[row] = pulse_id, pulse_id % 2**32, 1
        group["pulse_id"], group["frame_index"] = ids, index
        group["daq_rec"], group["is_good_frame"] = words, good


def scene_frame(scene: Scene) -> Frame:
    """Return a source of frames that shows a scene."""

    def fill(pulse_id: int, image: np.ndarray) -> int:
        scene.raw(pulse_id, image)
        return scene.daq_rec(pulse_id)

    return fill
