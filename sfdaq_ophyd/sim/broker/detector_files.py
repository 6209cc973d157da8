"""HDF5 files of detectors, raw, as the buffer's reader does (wire reference jungfrau, section 8.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from ...wire.detector_name import DaqRec
from ..jungfrau.scene import Scene
from ..views import View

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


def write_dap(path: Path, pulse_ids: Iterable[int]) -> None:
    """Write one line per frame: pulse id, whether it is a hit, number of spots."""
    path.write_text("".join(f"{pulse_id} {pulse_id % 5 == 0:d} {pulse_id % 7}\n" for pulse_id in pulse_ids))


def write_crystfel_lists(data: Path, remote: str, detector: str) -> dict[str, int]:
    """Write ``.dark.lst`` and ``.light.lst``: which rows of a converted file have laser; frames by kind.

    Parameters
    ----------
    data : Path
        The converted file.
    remote : str
        Its path on the server, which stands in the lists.
    """
    with h5py.File(data) as file:
        name = next(name for name in file["data"] if name.split(":")[0] == detector)
        words = [DaqRec.decode(int(word)) for word in file[f"data/{name}/daq_rec"][:, 0]]
    rows: dict[str, list[int]] = {"dark": [], "light": []}
    for row, word in enumerate(words):
        rows["light" if word.laser and not word.dark_shot else "dark"].append(row)
    for kind, numbers in rows.items():
        if numbers:
            lines = "".join(f"{remote} //{number}\n" for number in numbers)
            data.with_suffix(f".{kind}.lst").write_text(lines)
    return {kind: len(numbers) for kind, numbers in rows.items()}


class Scenes:
    """Scenes by detector name, made when first asked for.

    Parameters
    ----------
    seed : int
        The same seed gives the same pixels as the live stream.
    view : callable
        Pulse id to what there was to see.
    live : Scene, optional
        Scene of the facility's Jungfrau.
    """

    def __init__(self, seed: int, view: Callable[[int], View], live: Scene | None = None):
        self._seed, self._view = seed, view
        self._scenes = {} if live is None else {live.detector_name: live}

    def __getitem__(self, detector: str) -> Scene:
        if detector not in self._scenes:
            self._scenes[detector] = Scene(detector, self._seed, self._view)
        return self._scenes[detector]
