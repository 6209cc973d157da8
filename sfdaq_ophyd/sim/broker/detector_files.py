"""Files of detectors: raw as the buffer's reader writes them, converted, pedestals and their active copies.

As in wire reference jungfrau, sections 8.4 and 8.5, and wire reference sf-daq-broker, sections 5.1 and 8.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from ...calibration import JungfrauCalibration
from ...wire.broker import PEDESTALS, raw_file
from ...wire.broker_parameters import is_converted, is_processed
from ...wire.detector_name import STAGE_CODES, DaqRec
from ...wire.pulse_id import PULSE_RATE
from ..clock import View
from ..jungfrau.scene import Constants, Scene
from .hardware import BUFFER
from .site import EVALUATION, Site
from .writers import MAX_FRAMES, RunLog, WriterError

Frame = Callable[[int, np.ndarray], int]
"""(pulse id, image to fill) to daq_rec."""


def write_raw(path: Path, scene: Scene, pulse_ids: list[int], arrived: set[int], frame: Frame) -> None:
    """Write one row per pulse; those that did not arrive get pulse id 0 and is_good_frame 0."""
    n, shape, detector = len(pulse_ids), scene.shape, scene.detector_name
    with h5py.File(path, "w") as file:
        file["general/detector_name"] = detector
        group = file.create_group(f"data/{detector}")
        data = group.create_dataset("data", (n, *shape), "u2", chunks=(1, *shape) if n else None)
        ids, index = np.zeros((n, 1), "u8"), np.zeros((n, 1), "u8")
        words, good = np.zeros((n, 1), "u4"), np.zeros((n, 1), "u1")
        image = np.empty(shape, "u2")
        for row, pulse_id in enumerate(pulse_ids):
            if pulse_id not in arrived:
                continue
            words[row] = frame(pulse_id, image)
            data[row] = image
            ids[row], index[row], good[row] = pulse_id, pulse_id % 2**32, 1
        group["pulse_id"], group["frame_index"] = ids, index
        group["daq_rec"], group["is_good_frame"] = words, good


def write_dap(path: Path, pulse_ids: Iterable[int]) -> None:
    """Write one line per frame: pulse id, whether it is a hit, number of spots."""
    path.write_text("".join(f"{pulse_id} {pulse_id % 5 == 0:d} {pulse_id % 7}\n" for pulse_id in pulse_ids))


def write_crystfel_lists(data: Path, remote: str, detector: str) -> dict[str, int]:
    """Write which rows of a converted file, `remote` on the server, have laser; return how many by kind."""
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


class Scenes(dict[str, Scene]):
    """Scenes by detector name, made when first asked for: with the same pixels as the live stream.

    Parameters
    ----------
    seed : int
    view : callable
        Pulse id to what there was to see.
    live : Scene, optional
        Scene of the facility's Jungfrau.
    """

    def __init__(self, seed: int, view: Callable[[int], View], live: Scene | None):
        super().__init__({} if live is None else {live.detector_name: live})
        self._seed, self._view = seed, view

    def __missing__(self, detector: str) -> Scene:
        return self.setdefault(detector, Scene(detector, self._seed, self._view))


CENTRAL = "/sf/jungfrau/data/pedestal"


def stream_config(detector: str) -> str:
    """Return the file that names a detector's active gain and pedestal files."""
    return f"{BUFFER}/config/{detector}.json"


def permanent_mask(detector: str) -> str:
    """Return the file of pixels that are bad for ever, where there is one."""
    return f"/sf/jungfrau/config/pixel_mask/{detector}/pixel_mask.h5"


class PedestalFiles:
    """Write the files of one detector's pedestal, `n_frames` per gain stage, and switch its stream to it."""

    def __init__(self, site: Site, scenes: Scenes, n_frames: int):
        self._site, self._scenes, self._n_frames = site, scenes, n_frames

    def __call__(self, body: dict[str, Any], log: RunLog) -> None:
        """Write raw file and result, and activate it."""
        request, tree = body["channels"], self._site.tree
        detector, output = request["detector_name"], body["output_file"]
        scene = self._scenes[detector]
        first, rate = request["det_start_pulse_id"], request["rate_multiplicator"]
        pulse_ids = list(range(first, first + 3 * self._n_frames * rate, rate))

        def fill(pulse_id: int, image: np.ndarray) -> int:
            self._site.delays.wait(0.0)  # leaves with the simulator
            stage = (pulse_id - first) // rate // self._n_frames
            scene.dark(stage, pulse_id, image)
            return DaqRec(forced_stage=stage, dark_shot=True).encode()

        write_raw(tree.local(output), scene, pulse_ids, set(pulse_ids), fill)
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


COMMAND = "/home/svcusr-sfdaq/bin/sf_writer"
"""What reads the buffer, as logs show it."""


class DetectorWriter:
    """Write the frames of one detector and one request: which there are, raw or converted, or a pedestal."""

    def __init__(self, site: Site, scenes: Scenes, evaluation: PedestalFiles):
        self._site, self._scenes, self._evaluation = site, scenes, evaluation
        self._calibrated: tuple[object, JungfrauCalibration] | None = None

    def __call__(self, site: Site, body: dict[str, Any], log: RunLog) -> None:
        """Write the file or files."""
        request = body["channels"]
        if request["directory_name"] == PEDESTALS:
            self._evaluation(body, log)
            return
        detector, rate = request["detector_name"], request["rate_multiplicator"]
        parameters, selected = request["detectors"][detector], request.get("selected_pulse_ids") or ()
        parameters.get("adc_to_energy", False)  # null parameters end here, in the server's words
        if PULSE_RATE % rate:
            raise WriterError(f"step {rate} does not divide {PULSE_RATE}")
        first, last = request["det_start_pulse_id"], request["det_stop_pulse_id"]
        pulse_ids = list(range(first + -first % rate, last + 1, rate))
        if len(pulse_ids) > MAX_FRAMES:
            raise WriterError(f"the simulator writes at most {MAX_FRAMES} frames, not {len(pulse_ids)}")
        arrived = self._arrived(detector, pulse_ids, request["beamline"])
        scene, keep = self._scenes[detector], {"selected_pulse_ids": bool(selected)}
        output = body["output_file"]
        raw = raw_file(output) if is_converted(parameters, **keep) else output
        self._site.tree.make(str(PurePosixPath(raw).parent))
        log.write(
            f"executing detector retrieval from buffer: {COMMAND} {raw} {BUFFER}/{detector} "
            f"{scene.n_modules} {first} {last} {rate}"
        )
        path, started = self._site.tree.local(raw), time.time()

        def fill(pulse_id: int, image: np.ndarray) -> int:
            self._site.delays.wait(0.0)  # leaves with the simulator
            scene.raw(pulse_id, image)
            return scene.daq_rec(pulse_id)

        write_raw(path, scene, pulse_ids, arrived, fill)
        log.write(f"detector retrieval from buffer took {time.time() - started} seconds")
        if missing := len(pulse_ids) - len(arrived):
            log.write(f"{missing} of {len(pulse_ids)} frames are missing")
        target = self._site.tree.local(output)
        if parameters.get("save_dap_results"):
            write_dap(target.with_suffix(".dap"), sorted(arrived))
        if is_processed(parameters, **keep):
            self._evaluation.make_gain_file(detector)
            calibration = self._calibration(detector, parameters)
            if not write_converted(path, target, calibration, parameters, set(selected)):
                log.write("no frame passed the filters, no file written")
                return
            if parameters.get("crystfel_lists_laser"):
                log.write(f"lists of frames: {write_crystfel_lists(target, output, detector)}")
            if parameters.get("remove_raw_files"):
                path.unlink()

    def _calibration(self, detector: str, parameters: dict[str, Any]) -> JungfrauCalibration:
        """Return what the parameters ask for, which is the same for all points of a scan."""
        active = self._evaluation.active_file(detector)
        known = detector, json.dumps(parameters, sort_keys=True), active, active and active.stat().st_mtime_ns
        if self._calibrated is None or self._calibrated[0] != known:
            self._calibrated = None  # room for the next
            constants, pedestal = self._scenes[detector].constants, self._evaluation.active_pedestal(detector)
            self._calibrated = known, calibration_for(detector, parameters, constants, pedestal)
        return self._calibrated[1]

    def _arrived(self, detector: str, pulse_ids: list[int], beamline: str) -> set[int]:
        """Return the pulses that have a good frame.

        There is none in the future, none while the trigger was stopped, and none of a
        detector that does not run with all its modules now.
        """
        if not self._site.hardware[detector].running:
            return set()
        now = self._site.clock.now()
        lost = {pulse_id for pulse_id in pulse_ids if pulse_id > now}
        lost |= self._site.trigger(beamline).missed(pulse_ids)
        if fault := self._site.faults.take("missing_pulses", source=detector):
            lost |= set(fault.get("pulse_ids", pulse_ids[:1]))
        return set(pulse_ids) - lost


def calibration_for(
    detector: str,
    parameters: dict[str, Any],
    constants: Constants,
    active: tuple[np.ndarray, np.ndarray] | None,
) -> JungfrauCalibration:
    """Return what the parameters of a request ask for.

    Parameters
    ----------
    active : (pedestal, mask) of shapes (3, y, x) and (y, x), or None
        Of the active pedestal file; None takes the true ones.
    """
    energy = bool(parameters.get("adc_to_energy"))
    if energy:
        masked = True if parameters.get("downsample") else parameters.get("mask", True)
        double_pixels = parameters.get("double_pixels_action", "mask")
        options = {
            "mask": masked,
            "double_pixels": "keep" if double_pixels == "mask" and not masked else double_pixels,
            "module_edge_pixels": parameters.get("module_edge_pixels", "keep"),
            "geometry": parameters.get("geometry", False),
            "gap_pixels": parameters.get("gap_pixels", True),
            "factor": parameters.get("factor"),
            "downsample": _downsample(parameters.get("downsample")),
        }
    else:
        options = {"conversion": False, "mask": False, "geometry": False, "gap_pixels": False}
    pedestal, mask = active or (constants.pedestal, constants.mask)
    calibration = JungfrauCalibration(
        detector,
        constants.gain,
        pedestal,
        mask,
        disabled_modules=tuple(parameters.get("disabled_modules") or ()),
        roi=_regions(parameters.get("roi")),
        bad_constants="mask",
        engine="numpy",
        **options,
    )
    for region in (calibration.options.roi or {}).values():
        height, width = calibration.image_shape
        if region[1] == height or region[3] == width:
            raise WriterError(f"roi {region} must end before the last of {height} rows and {width} columns")
    return calibration


def write_converted(
    raw: Path, target: Path, calibration: JungfrauCalibration, parameters: dict[str, Any], selected: set[int]
) -> bool:
    """Convert a raw file; False if no frame passes the filters, and then no file is written.

    Rows are the good frames that pass, not pulses.
    """
    detector = calibration.detector_name
    with h5py.File(raw) as source:
        group = source[f"data/{detector}"]
        columns = {name: group[name][:, 0] for name in ("pulse_id", "daq_rec", "is_good_frame")}
        rows = _rows(columns, parameters, selected)
        if not len(rows):
            return False
        with h5py.File(target, "w") as file:
            file["general/detector_name"] = detector
            groups = _make_groups(file, calibration, len(rows), bool(parameters.get("compression")))
            for name in groups:
                for key, values in columns.items():
                    file[f"{name}/{key}"] = values[rows][:, None]
            for number, row in enumerate(rows):
                for images, image in zip(groups.values(), _images(calibration, group["data"][row])):
                    images[number] = image
    return True


def _rows(columns: dict[str, np.ndarray], parameters: dict[str, Any], selected: set[int]) -> np.ndarray:
    keep = columns["is_good_frame"] == 1
    if selected:
        keep &= np.isin(columns["pulse_id"], list(selected))
    if parameters.get("save_ppicker_events_only"):
        keep &= np.array([DaqRec.decode(int(word)).picker_open for word in columns["daq_rec"]], bool)
    return np.flatnonzero(keep)


def _images(calibration: JungfrauCalibration, raw: np.ndarray) -> list[np.ndarray]:
    if calibration.options.roi is None:
        return [calibration(raw)]
    return list(calibration.regions(raw).values())


def _make_groups(
    file: h5py.File, calibration: JungfrauCalibration, n_rows: int, compressed: bool
) -> dict[str, h5py.Dataset]:
    """Make one group per region, or one for the image, with its ``meta``; return the datasets of images."""
    options, detector, datasets = calibration.options, calibration.detector_name, {}
    bitshuffle: Mapping[str, Any] = hdf5plugin.Bitshuffle(nelems=32768) if compressed else {}
    whole: dict[str | None, tuple[int, int, int, int] | None] = {None: None}
    for label, region in {**options.roi}.items() if options.roi else whole.items():
        name = f"data/{detector}" if region is None else f"data/{detector}:ROI_{label}"
        y1, y2, x1, x2 = region or (0, calibration.shape[0], 0, calibration.shape[1])
        shape = (y2 - y1, x2 - x1)
        datasets[name] = file.create_dataset(
            f"{name}/data", (n_rows, *shape), calibration.dtype, chunks=(1, *shape), **bitshuffle
        )
        meta = file.create_group(f"{name}/meta")
        meta["module_map"] = np.array(calibration.module_map, "i8")
        for key in ("conversion", "gap_pixels", "geometry"):
            meta[key] = getattr(options, key)
        meta["mask"] = calibration.masking
        meta["double_pixels"], meta["module_edge_pixels"] = options.double_pixels, options.module_edge_pixels
        meta["downsample"] = np.array(options.downsample or (1, 1), "i8")
        meta["conversion_factor"] = np.nan if options.factor is None else options.factor
        meta["pixel_mask"] = calibration.pixel_mask[y1:y2, x1:x2]
        meta["pixel_mask_reasons"] = calibration.pixel_mask_reasons[y1:y2, x1:x2]
        if region is None:
            meta["good_pixels_fraction"] = calibration.good_fraction
        else:
            meta["roi"] = np.array([[y1, y2], [x1, x2]], "i8")
    return datasets


def _downsample(value: Any) -> tuple[int, int] | None:
    """Return the blocks; what is no pair of integers is ignored, as by the real writer."""
    pair = isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) for n in value)
    return tuple(value) if pair and value != [1, 1] else None


def _regions(roi: Any) -> Any:
    """Return regions by label; a flat list of numbers fails, as in the real writer."""
    if not roi:
        return None
    if isinstance(roi, list) and not all(isinstance(region, list) for region in roi):
        raise WriterError(f"roi {roi} is neither a dictionary nor a list of regions")
    items = roi.items() if isinstance(roi, dict) else enumerate(roi)
    return {str(label): tuple(region) for label, region in items}
