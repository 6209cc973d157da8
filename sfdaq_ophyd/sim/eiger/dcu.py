"""The detector control unit: detector, monitor, stream, filewriter and system together. No HTTP in here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ...wire.simplon import DetectorState, Parameter
from ..faults import Faults
from . import parameters as table
from .config import DetectorConfig
from .detector import EigerModel
from .filewriter import FileWriter
from .monitor import MonitorBuffer, StoredFrame
from .parameters import make_geometry
from .stream import StreamOutput
from .stream_series import StreamOptions
from .subsystems import DetectorModule, MonitorModule, StreamModule, Subsystem, bare


class DetectorControlUnit:
    """Everything behind one address.

    Attributes
    ----------
    detector : EigerModel
    monitor : MonitorBuffer
    stream : StreamOutput
    faults : Faults
    modules : dict
        Name to `Subsystem`.
    version : str
        API version.
    command_limit : float
        s after which the connection of an open command is closed, though the command goes on.

    `sample` says how much of the sample is in the light now, 0 to 1.
    """

    def __init__(
        self,
        *,
        model: str,
        shape: tuple[int, int] | None,
        version: str,
        profile: str,
        dwell: float,
        command_limit: float,
        serial: str,
        seed: int,
        patient: bool,
        sample: Callable[[], float],
        stream: StreamOptions,
    ):
        self.version, self.command_limit = version, command_limit
        geometry = make_geometry(model, version, shape)
        self.n_pixels = math.prod(geometry.shape)
        self.faults, self.monitor = Faults(FAULTS), MonitorBuffer()
        config = DetectorConfig(geometry, version, serial, seed)
        self.files = FileWriter(lambda: self._files.config)
        self.stream = StreamOutput(lambda: self._stream.config, self.faults, stream, self.n_pixels)
        self.detector = EigerModel(
            config,
            self.monitor,
            self.files,
            self.stream,
            self.faults,
            profile=profile,
            dwell=dwell,
            seed=seed,
            patient=patient,
            sample=sample,
        )
        self._fetched: dict[str, list] = {}
        self._make_modules()

    def restart(self) -> None:
        """Restart the service: not initialized, monitor disabled, every frame and series lost."""
        self.detector.boot()
        self.files.clear()
        self._make_modules()

    def note_fetched(self, name: str, frame: StoredFrame | None) -> None:
        """Remember which frame `next` or `monitor` gave last (a status of API 1.6)."""
        if frame is not None:
            self._fetched[name] = [frame.series_id, frame.image_id, 0, 0, 0]

    def _make_modules(self) -> None:
        self._fetched.clear()
        self._stream = StreamModule(
            lambda: table.stream_config(self.version),
            self._stream_status,
            {"initialize": bare(self._initialize_stream)},
        )
        self._files = Subsystem(
            table.filewriter_config,
            self._file_status,
            {"clear": bare(self.files.clear), "initialize": bare(lambda: self._files.reset())},
        )
        self.modules = {
            "detector": DetectorModule(self.detector, self._detector_status, self.version),
            "monitor": MonitorModule(self.monitor, self._monitor_status, self.version),
            "stream": self._stream,
            "filewriter": self._files,
            "system": Subsystem(dict, dict, {"restart": bare(self.restart)}),
        }

    def _initialize_stream(self) -> None:
        self._stream.reset()
        self.stream.abandon()

    def _detector_status(self) -> dict[str, Parameter]:
        drift = 0.2 * math.sin(time.time() / 60)
        warm, damp = round(24.5 + drift, 2), round(4.0 - drift, 2)
        status = {
            "state": _status(self.detector.state.value, "string", allowed_values=tuple(DetectorState)),
            "error": _status([], "string[]"),
            "time": _status(datetime.now().isoformat(), "string"),
            "temperature": _status(warm, "float", "C"),
            "humidity": _status(damp, "float", "%"),
            "board_000/th0_temp": _status(warm, "float", "C"),
            "board_000/th0_humidity": _status(damp, "float", "%"),
            "builder/dcu_buffer_free": _status(100.0, "float", "%"),
        }
        links = {f"link_{n}": _status("up", "string", allowed_values=("up", "down")) for n in range(4)}
        if self.version == "1.6.0":
            return status | links
        voltage = _status("READY", "string", allowed_values=("NA", "OFF", "RAMPING", "READY"))
        unique_id = _status(self.detector.series_unique_id, "string")
        return status | links | {"high_voltage/state": voltage, "series_unique_id": unique_id}

    def _monitor_status(self) -> dict[str, Parameter]:
        buffer = self.monitor
        status = {
            "state": _status(
                "overflow" if buffer.overflow else "normal", "string", allowed_values=("normal", "overflow")
            ),
            "dropped": _status(buffer.n_dropped, "uint"),
            "buffer_fill_level": _status([len(buffer), buffer.buffer_size], "uint[]"),
            "buffer_free": _status(buffer.n_bytes_free, "uint"),
            "error": _status([], "string[]"),
        }
        if self.version == "1.6.0":
            for name in ("next_image_number", "monitor_image_number"):
                status[name] = _status(self._fetched.get(name, []), "list")
        return status

    def _stream_status(self) -> dict[str, Parameter]:
        enabled = self._stream.config["mode"].value == "enabled"
        return {
            "state": _status(self._output_state(enabled), "string"),
            "dropped": _status(self.stream.n_dropped, "uint"),
            "error": _status([], "string[]"),
        }

    def _file_status(self) -> dict[str, Parameter]:
        enabled = self._files.config["mode"].value == "enabled"
        unit = 1024 if self.version == "1.6.0" else 1
        return {
            "state": _status(self._output_state(enabled), "string"),
            "files": _status(self.files.names(), "string[]"),
            "buffer_free": _status(self.files.n_bytes_free // unit, "uint"),
            "error": _status([], "string[]"),
        }

    def _output_state(self, enabled: bool) -> str:
        if not enabled:
            return "disabled"
        return "acquire" if self.detector.armed else "ready"


def _status(value: Any, value_type: str, unit: str = "", *, allowed_values: tuple = ()) -> Parameter:
    now = datetime.now().isoformat()
    return Parameter(value, value_type, "r", unit, allowed_values=allowed_values, state="normal", time=now)


FAULTS = {
    "drop": "the next frame never reaches the monitor",
    "delay": "the next matching request is answered after `seconds` (default 1); `path` selects by substring",
    "hang": "the next matching request is never answered; `path` selects by substring",
    "error": "the next matching request is answered with `code` (default 500) and `text`; `path` selects",
    "cut": "the connection of the next matching request is closed without a reply; `path` selects",
    "cut_body": "the connection is closed in the middle of the next image",
    "truncate": "the next image is a whole reply, its TIFF cut to `keep` (default half) of its bytes",
    "content_type": "the next image is answered with `content_type` (default text/html) and an HTML body",
    "body": "the next image is a whole reply of the bytes `body`",
    "no_image": "the next request for an image is answered 408",
    "wrong_series": "the next frame carries another series number",
    "same_time": "every frame of the next series carries the time of the series",
    "no_private_ifd": "the next frame has no private IFD",
    "out_of_order": "the next frame reaches the monitor only after `after` (default 1) that follow it",
    "late_last": "the last frame of the next trigger comes out only after disarm",
    "detector_error": "the detector goes to state `error` at the next trigger",
    "lost_in_file": "the next image, or that of number `image`, never reaches the filewriter",
    "cut_file": "the connection is closed in the next file, after `after` (default half) of its bytes",
    "short_file": "the next file is a whole reply, cut to `keep` (default half) of its bytes",
    "no_range": "the next request for a part of a file is answered with the whole file",
    "silent": "the next series is not streamed, as if the stream were disabled",
    "lost_start": "the next start message of the stream is not sent",
    "lost_image": "the stream does not send image `image_id` (default the next)",
    "lost_end": "the next end message of the stream is not sent",
    "duplicate": "the stream sends image `image_id` twice",
    "swapped": "the stream sends image `image_id` after the one that follows it",
    "early_end": "the end of the next series is sent `before` (default 1) images too soon",
    "new_unique_id": "from image `image_id` on the stream is of another series of the same number",
    "extra_part": "image `image_id` of the stream has a second part",
    "cut_message": "image `image_id` of the stream is cut to `keep` (default half) of its bytes",
    "wrong_length": "image `image_id` of the stream has a pixel less than its shape says",
    "missing_field": "image `image_id` of the stream has no `field` (default series_date)",
    "unknown_key": "image `image_id` of the stream has a key that nobody knows",
    "unknown_tag": "image `image_id` of the stream has a value with a CBOR tag that nobody knows",
    "unknown_type": "before image `image_id` the stream sends a message of type calibration",
    "unknown_algorithm": "image `image_id` of the stream is said to be compressed with zstd",
    "huge_prefix": "image `image_id` of the stream says of itself that it has 1 TiB",
    "integers_for_floats": "the next start message has integers where floats belong",
    "no_self_described": "messages of the next series begin without CBOR's tag 55799",
    "no_image_dtype": "the next start message has no image_dtype, as of older firmware",
    "clock_offset": "the dates in the images of the next series are `seconds` (default 1) off",
    "restart": "the service restarts before it answers the next matching request; `path` selects",
}
"""What `fail_next` takes: name and meaning. Each takes ``count`` (default 1): how often."""
