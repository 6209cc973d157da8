"""Files of detectors: raw ones as the buffer's reader writes, pedestals and their active copies.

As in the wire references jungfrau, section 8.4, and sf-daq-broker, section 8.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from ...wire.detector_name import STAGE_CODES, DaqRec
from ..clock import View
from ..jungfrau.scene import Scene
from .beamline import EVALUATION
from .hardware import BUFFER
from .site import Site
from .writers import RunLog

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


CENTRAL = "/sf/jungfrau/data/pedestal"


def stream_config(detector: str) -> str:
    """Return the file that names a detector's active gain and pedestal files."""
    return f"{BUFFER}/config/{detector}.json"


def permanent_mask(detector: str) -> str:
    """Return the file of pixels that are bad for ever, where there is one."""
    return f"/sf/jungfrau/config/pixel_mask/{detector}/pixel_mask.h5"


class PedestalEvaluation:
    """Write the files of one detector's pedestal, and switch its stream to it.

    Parameters
    ----------
    site : Site
    scenes : Scenes
    n_frames : int
        Frames written per gain stage; the real number is 1000.
    """

    def __init__(self, site: Site, scenes: Scenes, n_frames: int):
        self._site, self._scenes, self._n_frames = site, scenes, n_frames

    def __call__(self, body: dict[str, Any], log: RunLog) -> None:
        """Write raw file and result, and activate it."""
        request, tree = body["channels"], self._site.tree
        detector, output = request["detector_name"], body["output_file"]
        scene = self._scenes[detector]
        first, rate = request["det_start_pulse_id"], request["rate_multiplicator"]
        pulse_ids = list(range(first, first + 3 * self._n_frames * rate, rate))
        write_raw(
            tree.local(output), detector, pulse_ids, None, scene.shape, self._frames(scene, first, rate)
        )
        log.write(f"detector retrieval from buffer took {len(pulse_ids)} frames")
        self._site.delays.wait(EVALUATION)
        result = output.removesuffix(".h5") + ".res.h5"
        log.write(f"{detector}: output file with pedestal corrections: {result}")
        self._write_result(scene, self._permanent_mask(detector), first, rate, tree.local(result))
        self._copy_constants(detector, str(PurePosixPath(output).parent))
        self._activate(detector, result, log)

    def active_pedestal(self, detector: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return pedestal (3, y, x) and mask (y, x) of the detector's stream; None if it has no file."""
        path = self.active_file(detector)
        if path is None:
            return None
        with h5py.File(path) as file:
            return file["gains"][()], file["pixel_mask"][()]

    def active_file(self, detector: str) -> Path | None:
        """Return the file that `active_pedestal` is from."""
        tree, path = self._site.tree, self._config(detector).get("pedestal_file", "")
        return tree.local(path) if tree.exists(path) else None

    def make_gain_file(self, detector: str) -> str:
        """Return the gain file of the detector's stream, which is made when first needed; empty for none."""
        tree, path = self._site.tree, self._config(detector).get("gain_file", "")
        if path and not tree.exists(path):
            tree.make(path.rsplit("/", 1)[0])
            self._scenes[detector].constants.write_gain(tree.local(path))
        return path

    def _config(self, detector: str) -> dict[str, Any]:
        tree, path = self._site.tree, stream_config(detector)
        return tree.read_json(path) if tree.exists(path) else {}

    def _frames(self, scene: Scene, first: int, rate: int):
        def fill(pulse_id: int, image: np.ndarray) -> int:
            stage = (pulse_id - first) // rate // self._n_frames
            scene.dark(stage, pulse_id, image)
            return DaqRec(forced_stage=stage, dark_shot=True).encode()

        return fill

    def _permanent_mask(self, detector: str) -> np.ndarray | bool:
        """Return what is bad for ever: bit 0 of the masks."""
        tree, path = self._site.tree, permanent_mask(detector)
        if not tree.exists(path):
            return False
        with h5py.File(tree.local(path)) as file:
            return file["pixel_mask"][()] != 0

    def _write_result(self, scene: Scene, bad: np.ndarray | bool, first: int, rate: int, path: Path) -> None:
        mean, rms = np.zeros((3, *scene.shape)), np.zeros((3, *scene.shape))
        mask = np.where(np.broadcast_to(bad, scene.shape), np.int64(1), np.int64(0))
        image = np.empty(scene.shape, "u2")
        for stage, code in enumerate(STAGE_CODES):
            total, squares = np.zeros(scene.shape), np.zeros(scene.shape)
            for number in range(self._n_frames):
                scene.dark(stage, first + (stage * self._n_frames + number) * rate, image)
                adc = (image & 0x3FFF).astype("f8")
                total += adc
                squares += adc * adc
                mask[image >> 14 != code] |= 1 << 1 + code
            mean[stage] = total / self._n_frames
            rms[stage] = np.sqrt(np.maximum(squares / self._n_frames - mean[stage] ** 2, 0))
            mask[rms[stage] == 0] |= 1 << 9 + code
        with h5py.File(path, "w") as file:
            file["gains"], file["gainsRMS"], file["pixel_mask"] = mean, rms, mask

    def _copy_constants(self, detector: str, directory: str) -> None:
        """Put gain file and permanent mask beside the pedestals, once."""
        tree = self._site.tree
        sources = {
            "gainMaps": self.make_gain_file(detector),
            "pixel_mask": permanent_mask(detector),
        }
        for folder, source in sources.items():
            target = f"{directory}/{folder}/{detector}.h5"
            if source and tree.exists(source) and not tree.exists(target):
                tree.make(f"{directory}/{folder}")
                os.link(tree.local(source), tree.local(target))  # no second copy of what nobody changes

    def _activate(self, detector: str, result: str, log: RunLog) -> None:
        tree = self._site.tree
        stamp = PurePosixPath(result).name.split(".")[0]
        active = f"{CENTRAL}/{detector}/{stamp}.h5"
        tree.make(f"{CENTRAL}/{detector}")
        log.write(f"copying pedestal file {result} to {active}")
        shutil.copyfile(tree.local(result), tree.local(active))
        path = stream_config(detector)
        if tree.exists(path):
            config = tree.read_json(path)
            log.write(f"{path}: change pedestal from {config.get('pedestal_file')} to {active}")
            tree.write_json(path, {**config, "pedestal_file": active})
