"""What the writers do: wait, write, log, report (wire reference sf-daq-broker, sections 4.4, 6.4, 11, 13)."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ...wire.broker import PEDESTAL_FRAMES, error_file
from ...wire.broker_parameters import GAIN_MODES
from ..stamp import write_stamp
from .hardware import POWER_ON_DELAY, DetectorHardware
from .site import POWER_ON_STEP, Message, Site, Stopped

logger = logging.getLogger(__name__)

STAGE_TIME = 10.0
PEDESTALMODE_TIME = 200.0
"""Seconds at 100 Hz."""

SOURCE = "sf_daq_writer"
"""What status messages are from."""

PV_PERIOD = 25
"""Pulses between changes of a simulated PV."""

MAX_CHANNEL_ROWS, MAX_FRAMES = 100_000, 2000
"""Longer requests are refused: a simulator's disk is small."""

CAMERA_SHAPE = (48, 64)


class Consumer:
    """One writer process: calls `handle` with one request of its queue at a time."""

    def __init__(self, site: Site, name: str, handle: Callable[[Message], None]):
        self._queue, self._stopped = site.messages.consume(name), site.delays.stopped
        self._handle = handle
        self._thread = threading.Thread(target=self._run, name=f"writer {name}", daemon=True)

    def start(self) -> None:
        """Take requests from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the present request is done or given up; the delays are stopped by then."""
        if self._thread.is_alive():
            self._queue.put({})
            self._thread.join(60)

    def _run(self) -> None:
        while (request := self._queue.get()) and not self._stopped.is_set():
            try:
                self._handle(request)
            except Stopped:
                return
            except Exception:
                logger.exception("writer failed: %s", request["body"].get("output_file"))
            finally:
                self._queue.task_done()


class WriterError(RuntimeError):
    """The request cannot be fulfilled."""


class RunLog:
    """The log of a request, behind that of others of the same file; no `path` for a writer without a log."""

    def __init__(self, site: Site, path: str):
        self._tree, self._path = site.tree, path
        if path:
            site.tree.make(path.rsplit("/", 1)[0])
            site.tree.append_text(path, "")

    def write(self, line: str) -> None:
        """Append one line."""
        if self._path:
            self._tree.append_text(self._path, f"{line}\n")


class ControlWriter:
    """Carry out pedestals and power-ons, one after the other."""

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
        if site.dialect == "current":
            _check_log_level(body["run_log_level"])
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
            site.messages.send("detector.retrieve", _retrieval(body, name, first, last))
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


def _check_log_level(level: Any) -> None:
    """Refuse what today's writer takes for no log level."""
    if isinstance(level, str):
        if level not in logging.getLevelNamesMapping():
            raise WriterError(f"Unknown level: {level!r}")
    elif not isinstance(level, int):
        raise WriterError(f"Level not an integer or a valid string: {level}")


def _retrieval(body: dict[str, Any], name: str, first: int, last: int) -> dict[str, Any]:
    """Return the request that has one detector's pedestal written."""
    output = f"{body['output_file_prefix']}.{name}"
    keys = ("rate_multiplicator", "run_file_json", "path_to_pgroup", "run_info_directory", "directory_name")
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

Write = Callable[[Site, dict[str, Any], RunLog], None]
"""Writes the output of one request (its body)."""


class DataWriter:
    """Handle the requests of one kind, `delay` s after they were made."""

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
        if (left := self._delay - self._age(body)) > 0:
            log.write(f"sleeping for {left} seconds before continuing...")
            self._site.delays.wait(left)
        started = time.time()
        try:
            self._carry_out(body, log)
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

    def _age(self, body: dict[str, Any]) -> float:
        """Return for how many s of the real services a request has waited."""
        factor = self._site.delays.factor
        return (time.time() - body["timestamp"]) / factor if factor else self._delay

    def _carry_out(self, body: dict[str, Any], log: RunLog) -> None:
        """Write the file, unless a fault says otherwise."""
        faults, source = self._site.faults, source_of(body)
        if fault := faults.take("writer_fails", source=source):
            raise WriterError(fault.get("message", "no data in the buffer"))
        if faults.take("writer_silent", source=source):
            return
        self._write(self._site, body, log)
        if faults.take("truncated_file", source=source):
            with self._site.tree.local(body["output_file"]).open("r+b") as file:
                file.truncate(file.seek(0, io.SEEK_END) // 2)


def source_of(body: dict[str, Any]) -> str:
    """Return PVDATA, BSDATA, CAMERAS or the detector's name."""
    return body["output_file"].rsplit(".", 2)[1]


def report_error_file(site: Site, body: dict[str, Any]) -> None:
    """Leave ``.err`` beside where the file would be."""
    path = error_file(body["output_file"])
    site.tree.make(path.rsplit("/", 1)[0])
    site.tree.write_text(path, f"{site.delays.request_time()}\n{json.dumps(body)}")


def channel_value(name: str, pulse_ids: np.ndarray) -> np.ndarray:
    """Return what a simulated channel or PV reads at each pulse: one smooth curve per name."""
    phase = zlib.crc32(name.encode()) % 1000
    return np.sin((np.asarray(pulse_ids, "f8") % 100_000 + phase) / 50.0)


def write_pvs(site: Site, body: dict[str, Any], log: RunLog) -> None:
    """Write PVDATA: per PV the last change before the range, those inside, and the first after it."""
    first, last = body["start_pulse_id"], body["stop_pulse_id"]
    now = site.clock.now()
    if last > now:
        raise WriterError(f"stop pulse ID {last} is not in the buffer, the last is {now}")
    before, after = (first - 1) // PV_PERIOD * PV_PERIOD, -(-(last + 1) // PV_PERIOD) * PV_PERIOD
    changes = np.arange(before, after + 1, PV_PERIOD, dtype="i8")
    image = io.BytesIO()  # on disk at once, like the real writer's
    with h5py.File(image, "w") as file:
        for key, value in body["metadata"].items():
            file[key] = str(value)
        for name in body["channels"]:
            write_pv(file, name, changes, first, _seconds(site, changes))
    site.tree.local(body["output_file"]).write_bytes(image.getvalue())


def write_pv(file: h5py.File, name: str, changes: np.ndarray, first: int, seconds: np.ndarray) -> None:
    """Write one PV; the change before the range is in no table of pulses, and has pulse id 0."""
    file.create_group(name)
    group, column = file.create_group(f"data/{name}"), (len(changes), 1)
    group["data"] = channel_value(name, changes).reshape(column)
    group["timestamp"] = (seconds * 1e6).astype("u8").reshape(column)
    group["connected"] = np.ones(column, "u1")
    group.create_dataset("status", data=np.full(column, "NO_ALARM", object), dtype=h5py.string_dtype())
    group["pulse_id"] = np.where(changes < first, 0, changes).astype("u8").reshape(column)


def write_channels(site: Site, body: dict[str, Any], log: RunLog) -> None:
    """Write BSDATA: one group per channel that is not offline, one row per pulse that is over."""
    _write_buffered(site, body, log, MAX_CHANNEL_ROWS, channel_value)


def write_cameras(site: Site, body: dict[str, Any], log: RunLog) -> None:
    """Write CAMERAS in the same way."""
    _write_buffered(site, body, log, MAX_FRAMES, _camera_images)


def _write_buffered(
    site: Site,
    body: dict[str, Any],
    log: RunLog,
    max_rows: int,
    values: Callable[[str, np.ndarray], np.ndarray],
) -> None:
    source = source_of(body)
    pulse_ids = _arrived(site, body, log, max_rows)
    fault = site.faults.take("channels_offline", source=source)
    offline = () if fault is None else fault.get("channels", body["channels"][:1])
    stamps = (_seconds(site, pulse_ids) * 1e9).astype("i8")
    with h5py.File(site.tree.local(body["output_file"]), "w") as file:
        file.attrs["file_create_datetime"] = site.delays.now().isoformat(sep=" ")
        for name in dict.fromkeys(body["channels"]):
            if name in offline:
                log.write(f"check {name} not present in file")
                continue
            group, data = file.create_group(name), values(name, pulse_ids)
            if data.ndim == 1:
                _write_column(group, "data", data)
            else:
                group["data"] = data
            _write_column(group, "pulse_id", pulse_ids)
            _write_column(group, "timestamp", stamps)


def _arrived(site: Site, body: dict[str, Any], log: RunLog, max_rows: int) -> np.ndarray:
    """Return the pulses of a request that are over and did not get lost."""
    first, last = body["start_pulse_id"], body["stop_pulse_id"]
    if last - first >= max_rows:
        raise WriterError(f"the simulator writes at most {max_rows} rows, not {last - first + 1}")
    lost = set(range(site.clock.now() + 1, last + 1))
    if fault := site.faults.take("missing_pulses", source=source_of(body)):
        lost |= set(fault.get("pulse_ids", (first,)))
    if lost:
        log.write(f"{len(lost)} pulse IDs are missing")
    return np.array([pulse for pulse in range(first, last + 1) if pulse not in lost], "i8")


def _camera_images(name: str, pulse_ids: np.ndarray) -> np.ndarray:
    y, x = np.ogrid[0 : CAMERA_SHAPE[0], 0 : CAMERA_SHAPE[1]]
    spot = 1000 * np.exp(-(((y - 24) / 8) ** 2) - ((x - 32) / 10) ** 2)
    images = np.repeat(spot.astype("u2")[None], len(pulse_ids), 0)
    for image, pulse_id in zip(images, pulse_ids):
        write_stamp(image, int(pulse_id))
    return images


def _write_column(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write one number or text per row in the way of data_api3."""
    text = values.dtype == object
    filters = {"chunks": (1024 if text else 8192,), "compression": "gzip", "shuffle": True}
    dtype = h5py.string_dtype() if text else values.dtype
    group.create_dataset(name, data=values, dtype=dtype, maxshape=(None,), **filters)


def _seconds(site: Site, pulse_ids: np.ndarray) -> np.ndarray:
    return np.array([site.clock.time_of(int(pulse_id)) for pulse_id in pulse_ids], "f8")
