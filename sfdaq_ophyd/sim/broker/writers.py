"""What a writer does: wait, write, log, report (wire reference sf-daq-broker, sections 4.4, 6.4, 11)."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...wire.broker import PEDESTAL_FRAMES, Dialect, error_file
from ...wire.broker_settings import GAIN_MODES
from .beamline import POWER_ON_STEP, Stopped
from .hardware import POWER_ON_DELAY, DetectorHardware
from .messages import Message
from .site import Site

STAGE_TIME = 10.0
PEDESTALMODE_TIME = 200.0
"""Seconds at 100 Hz."""


def rejects_log_level(level: Any, dialect: Dialect) -> str:
    """Return why today's writer refuses a log level; empty if it does not."""
    if dialect == "documented" or isinstance(level, int):
        return ""
    if isinstance(level, str):
        return "" if level in logging.getLevelNamesMapping() else f"Unknown level: {level!r}"
    return f"Level not an integer or a valid string: {level}"


class ControlWriter:
    """Carry out pedestals and power-ons, one after the other.

    Parameters
    ----------
    site : Site
    """

    def __init__(self, site: Site):
        self._site = site

    def __call__(self, request: Message) -> None:
        """Carry out one request."""
        report, body = self._site.messages.report, request["body"]
        report(request, "write_start", SOURCE)
        try:
            if body["writer_type"] == "pedestal":
                self._pedestal(body)
            else:
                self._power_on(body)
        except Stopped:
            raise
        except Exception as exc:
            report(request, "write_rejected", SOURCE, str(exc))
        else:
            report(request, "write_finished", SOURCE)

    def _pedestal(self, body: dict[str, Any]) -> None:
        site, rate = self._site, body["rate_multiplicator"]
        log = RunLog(site, body["run_log_file"])
        if reason := rejects_log_level(body.get("run_log_level"), site.dialect):
            raise WriterError(reason)
        started = time.time()
        log.write("request for writer type pedestal: output file None from pulse ID 0 to 100")
        log.write("recording pedestal")
        if fault := site.faults.take("pedestal_fails"):
            log.write(fault.get("message", "pedestal failed"))
            raise WriterError(fault.get("message", "pedestal failed"))
        first = site.clock.now()
        first += -first % rate
        detectors = [site.hardware[name] for name in body["detectors"]]
        for detector in detectors:
            detector.check_configured()
        if body.get("pedestalmode"):
            log.write(f"take_pedestal: pedestal mode for {body['detectors']}")
            self._pedestal_mode(detectors, rate)
        else:
            log.write(f"take_pedestal: switch gains manually for {body['detectors']}")
            self._switch_gains(detectors, rate)
        last = first + PEDESTAL_FRAMES * rate - 1
        path = body["run_file_json"]
        stored = {**site.tree.read_json(path), "start_pulseid": first, "stop_pulseid": last}
        site.tree.write_json(path, stored, sort_keys=True)
        site.messages.connect()
        for name in body["detectors"]:
            site.messages.send("detector.retrieve", self._retrieval(body, name, first, last))
        log.write(f"processing request took {time.time() - started} seconds")

    def _switch_gains(self, detectors: list[DetectorHardware], rate: int) -> None:
        before = [detector.readback("gain_mode") for detector in detectors]
        self._site.delays.wait(1.0)
        try:
            for stage in GAIN_MODES:
                for detector in detectors:
                    detector.apply("gain_mode", stage)
                self._site.delays.wait(STAGE_TIME * rate)
        finally:
            for detector, mode in zip(detectors, before):
                detector.apply("gain_mode", mode if self._site.dialect == "current" else "dynamic")
        self._site.delays.wait(1.0)

    def _pedestal_mode(self, detectors: list[DetectorHardware], rate: int) -> None:
        states = [[module.state for module in detector.modules] for detector in detectors]
        for detector in detectors:
            detector.set_state("stopped")
        try:
            self._site.delays.wait(PEDESTALMODE_TIME * rate)
        finally:
            for detector, before in zip(detectors, states):
                for module, state in zip(detector.modules, before):
                    module.state = state

    def _retrieval(self, body: dict[str, Any], name: str, first: int, last: int) -> dict[str, Any]:
        output = f"{body['output_file_prefix']}.{name}"
        keys = (
            "rate_multiplicator",
            "run_file_json",
            "path_to_pgroup",
            "run_info_directory",
            "directory_name",
        )
        return {
            "writer_type": "detector_buffer",
            "channels": {
                "det_start_pulse_id": first,
                "det_stop_pulse_id": last,
                **{key: body[key] for key in keys},
                "request_time": body["request_time"],
                "detector_name": name,
                "detectors": {name: {}},
            },
            "start_pulse_id": first,
            "stop_pulse_id": first,
            "output_file": f"{output}.h5",
            "run_log_file": f"{output}.log",
            "metadata": None,
            "timestamp": time.time(),
        }

    def _power_on(self, body: dict[str, Any]) -> None:
        """Restart a detector; the beamline's trigger stops meanwhile, and starts also after a failure."""
        site, name = self._site, body["detector_name"]
        detector, trigger = site.hardware[name], site.trigger(body["beamline"])
        trigger.stop()
        try:
            self._configure(detector, body["beamline"])
        finally:
            trigger.start()

    def _configure(self, detector: DetectorHardware, beamline: str) -> None:
        site = self._site
        if fault := site.faults.take("power_on_fails"):
            raise WriterError(fault.get("message", f"could not apply config to detector {detector.name}"))
        unreachable = [i for i, module in enumerate(detector.modules) if not module.reachable]
        if unreachable:
            raise WriterError(
                f"ClientSocket cannot decode host of modules {unreachable}\n"
                f"could not apply config to detector {detector.name}"
            )
        detector.configured = False  # shared memory is rebuilt: "No modules added"
        site.delays.wait(POWER_ON_STEP)
        detector.configured = True
        for module in detector.modules:
            module.powered, module.exptime = True, 10e-6 if detector.installation == 15 else 5e-6
            module.delay = POWER_ON_DELAY.get(beamline, 0.004444)
            module.detector_mode, module.gain_mode = "normal", "dynamic"
        for state in ("error", "idle", "running"):
            detector.set_state(state)
            site.delays.wait(POWER_ON_STEP)


SOURCE = "sf_daq_writer"

Write = Callable[[dict[str, Any], "RunLog"], None]
"""Writes the output of one request (its body)."""


class WriterError(RuntimeError):
    """The request cannot be fulfilled."""


class RunLog:
    """The log of one request.

    Parameters
    ----------
    site : Site
    path : str
        On the server; empty for a writer without a log.
    """

    def __init__(self, site: Site, path: str):
        self._site, self.path = site, path
        if path:
            site.tree.make(path.rsplit("/", 1)[0])
            site.tree.write_text(path, "")

    def write(self, line: str) -> None:
        """Append one line."""
        if self.path:
            self._site.tree.append_text(self.path, f"{line}\n")


@dataclass(frozen=True)
class Words:
    """What a writer reports when it starts, succeeds and fails; whether it names the file, leaves texts."""

    start: str = "write_start"
    success: str = "write_finished"
    failure: str = "write_rejected"
    file: bool = True
    texts: bool = True


EPICS_WORDS = Words("request_start", "request_success", "request_fail", file=False, texts=False)
"""The epics writer speaks for itself, under the name of its service; it leaves neither log nor ``.err``."""


class DataWriter:
    """Handle the requests of one kind.

    Parameters
    ----------
    site : Site
    write : callable
        Writes the file.
    delay : float
        Counted from the request, s.
    words : Words
    """

    def __init__(self, site: Site, write: Write, delay: float = 0.0, words: Words = Words()):
        self._site, self._write, self._delay, self._words = site, write, delay, words

    def __call__(self, request: Message) -> None:
        """Carry out one request."""
        body, words = request["body"], self._words
        self._report(request, words.start)
        log = RunLog(self._site, body["run_log_file"] if words.texts else "")
        log.write(
            f"request for writer type {body['writer_type']}: output file {body['output_file']} "
            f"from pulse ID {body['start_pulse_id']} to {body['stop_pulse_id']}"
        )
        self._sleep(body, log)
        started = time.time()
        try:
            carry_out(self._site, self._write, body, log)
        except Stopped:
            raise
        except Exception as exc:
            log.write(traceback.format_exc().rstrip())
            if words.texts:
                report_error_file(self._site, body)
            self._report(request, words.failure, str(exc))
        else:
            log.write(f"processing request took {time.time() - started} seconds")
            self._report(request, words.success)

    def _report(self, request: Message, action: str, message: str | None = None) -> None:
        source = SOURCE if self._words.file else request["body"]["writer_type"]
        self._site.messages.report(request, action, source, message, file=self._words.file)

    def _sleep(self, body: dict[str, Any], log: RunLog) -> None:
        factor = self._site.delays.factor
        left = self._delay - (time.time() - body["timestamp"]) / factor if factor else 0.0
        if left > 0:
            log.write(f"sleeping for {left} seconds before continuing...")
            self._site.delays.wait(left)


def source_of(body: dict[str, Any]) -> str:
    """Return PVDATA, BSDATA, CAMERAS or the detector's name."""
    return body["output_file"].rsplit(".", 2)[1]


def carry_out(site: Site, write: Write, body: dict[str, Any], log: RunLog) -> None:
    """Write the file, unless a fault says otherwise."""
    source = source_of(body)
    if fault := site.faults.take("writer_fails", source=source):
        raise WriterError(fault.get("message", "no data in the buffer"))
    if site.faults.take("writer_silent", source=source):
        return
    write(body, log)
    if site.faults.take("truncated_file", source=source):
        truncate(site.tree.local(body["output_file"]))


def truncate(path: Path) -> None:
    """Cut a file in half."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def report_error_file(site: Site, body: dict[str, Any]) -> None:
    """Leave ``.err`` beside where the file would be."""
    path = error_file(body["output_file"])
    site.tree.make(path.rsplit("/", 1)[0])
    site.tree.write_text(path, f"{site.delays.request_time()}\n{json.dumps(body)}")
