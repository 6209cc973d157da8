"""Constants and raw SwissFEL files of one golden module, for tests."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

DETECTOR = "JF03T01V02"
PULSE = 21125820000


def write_constants(folder: Path, given) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    gain, pedestal = folder / "gains.h5", folder / f"20240101_000000.{DETECTOR}.res.h5"
    with h5py.File(gain, "w") as file:
        file["gains"] = given["gain"].astype("f8")
    with h5py.File(pedestal, "w") as file:
        file["gains"] = given["pedestal"][:3].astype("f8")
        file["gainsRMS"] = np.ones((3, 512, 1024))
        file["pixel_mask"] = given["pixel_mask"]
    return gain, pedestal


def write_raw(path: Path, images, good=None, *, daq_rec=3872, detector=DETECTOR, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.asarray(images)
    n = len(images)
    columns = {
        "pulse_id": PULSE + np.arange(n, dtype="u8")[:, None],
        "frame_index": 1000 + np.arange(n, dtype="u8")[:, None],
        "daq_rec": np.full((n, 1), daq_rec, "u4"),
        "is_good_frame": np.array([1] * n if good is None else good, "u1")[:, None],
    }
    with h5py.File(path, "a") as file:
        file.require_group("general")
        if "detector_name" not in file["general"]:
            file["general/detector_name"] = detector
        group = file.create_group(f"data/{detector}")
        group.create_dataset("data", data=images, chunks=(1, *images.shape[1:]) if n else None)
        for name, values in (columns | more).items():
            if values is not None:
                group[name] = values
    return path
