"""The writer of detector data: which frames there are, raw or converted, and where the files go.

Converted files are those of the wire reference jungfrau, section 8.5; which are made is in the wire reference
sf-daq-broker, section 5.1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from ...calibration import JungfrauCalibration
from ...wire.broker import PEDESTALS, raw_file
from ...wire.broker_parameters import is_converted, is_processed
from ...wire.detector_name import DaqRec, DetectorName
from ...wire.pulse_id import PULSE_RATE
from ..jungfrau.scene import Constants
from .detector_files import (
    PedestalEvaluation,
    Scenes,
    scene_frame,
    write_crystfel_lists,
    write_dap,
    write_raw,
)
from .hardware import BUFFER
from .site import Site
from .writers import RunLog, WriterError

COMMAND = "/home/svcusr-sfdaq/bin/sf_writer"
"""What reads the buffer, as logs show it."""


class DetectorWriter:
    """Write the frames of one detector and one request.

    Parameters
    ----------
    site : Site
    scenes : Scenes
        What the detectors see.
    max_frames : int
        Longer requests are refused: a simulator's disk is small.
    evaluation : PedestalEvaluation
        Takes over for pedestals.
    """

    def __init__(self, site: Site, scenes: Scenes, max_frames: int, evaluation: PedestalEvaluation):
        self._site, self._scenes, self._max_frames = site, scenes, max_frames
        self._evaluation = evaluation
        self._calibrated: tuple[object, JungfrauCalibration] | None = None

    def __call__(self, body: dict[str, Any], log: RunLog) -> None:
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
        pulse_ids = list(self._pulse_ids(request["det_start_pulse_id"], request["det_stop_pulse_id"], rate))
        arrived = self._arrived(detector, pulse_ids, request["beamline"])
        scene, keep = self._scenes[detector], {"selected_pulse_ids": bool(selected)}
        output = body["output_file"]
        raw = raw_file(output) if is_converted(parameters, **keep) else output
        self._site.tree.make(str(PurePosixPath(raw).parent))
        log.write(
            f"executing detector retrieval from buffer: {COMMAND} {raw} {BUFFER}/{detector} "
            f"{DetectorName.parse(detector).n_modules} {request['det_start_pulse_id']} "
            f"{request['det_stop_pulse_id']} {rate}"
        )
        path, started = self._site.tree.local(raw), time.time()
        write_raw(path, detector, pulse_ids, arrived, scene.shape, scene_frame(scene))
        log.write(f"detector retrieval from buffer took {time.time() - started} seconds")
        missing = len(pulse_ids) - (len(pulse_ids) if arrived is None else len(arrived))
        if missing:
            log.write(f"{missing} of {len(pulse_ids)} frames are missing")
        if parameters.get("save_dap_results"):
            found = pulse_ids if arrived is None else sorted(arrived)
            write_dap(self._site.tree.local(output).with_suffix(".dap"), found)
        if is_processed(parameters, **keep):
            target = self._site.tree.local(output)
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

    def _pulse_ids(self, first: int, last: int, rate: int) -> range:
        first += -first % rate
        pulse_ids = range(first, last + 1, rate)
        if len(pulse_ids) > self._max_frames:
            raise WriterError(f"the simulator writes at most {self._max_frames} frames, not {len(pulse_ids)}")
        return pulse_ids

    def _arrived(self, detector: str, pulse_ids: list[int], beamline: str) -> set[int] | None:
        """Return the pulses that have a good frame; None if all do.

        There is none in the future, none while the services had the trigger stopped, and none of a
        detector that does not run with all its modules now.
        """
        if not self._site.hardware[detector].running:
            return set()
        now = self._site.clock.now()
        lost = {pulse_id for pulse_id in pulse_ids if pulse_id > now}
        lost |= self._site.trigger(beamline).missed(pulse_ids)
        if fault := self._site.faults.take("missing_pulses", source=detector):
            lost |= set(fault.get("pulse_ids", pulse_ids[:1]))
        return set(pulse_ids) - lost if lost else None


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
