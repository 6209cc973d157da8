"""The writer of detector data: which frames there are, raw or converted, and where the files go."""

from __future__ import annotations

import json
import time
from pathlib import PurePosixPath
from typing import Any

from ...calibration import JungfrauCalibration
from ...wire.broker import raw_file
from ...wire.broker_parameters import is_converted, is_processed
from ...wire.detector_name import DetectorName
from ...wire.pulse_id import PULSE_RATE
from .converted_files import calibration_for, write_converted
from .detector_calls import PEDESTALS
from .detector_files import Scenes, scene_frame, write_crystfel_lists, write_dap, write_raw
from .hardware import BUFFER
from .pedestal_files import PedestalEvaluation
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
