"""The detector's states, series and frames in real time, and its faults.

The states are those of wire reference eiger, section 4.3. No HTTP in here; used from one event loop.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from ...errors import DetectorStateError, RequestError
from ...wire.simplon import (
    ARMED,
    COMMANDS,
    MANY_PER_TRIGGER,
    SOFTWARE_TRIGGERED,
    DetectorState,
    Parameter,
    TriggerMode,
    frames_of,
)
from ...wire.tiff import format_time_ns
from ...wire.ulid import make_ulid
from ..faults import Faults
from .config import DetectorConfig, Subsystem
from .filewriter import FileWriter
from .frames import EigerScene, FrameMaker
from .monitor import MonitorBuffer, StoredFrame
from .parameters import DetectorGeometry, measured
from .stream import StreamOutput
from .stream_series import StreamOptions

PATIENCE = 60.0
"""s for which a patient detector waits with its next frame for a client that took the frames before."""


@dataclass
class SimulatedSeries:
    """What arm uploaded, and how far the series has come."""

    mode: TriggerMode
    frames_per_trigger: int
    n_triggers: int
    frame_time: float
    delay: float
    gates_per_frame: int
    maker: FrameMaker
    n_triggered: int = 0
    n_frames: int = 0
    n_gates: int = 0  # or edges, in eies
    cancelled: bool = False
    last_edge: int | None = None
    """Time of the last edge in eies, ns since the epoch."""
    kept_back: list[tuple[float, list[StoredFrame]]] = field(default_factory=list)
    """Exposures that come late, and the image after which; those after `math.inf` when the series ends."""


class EigerModel(DetectorConfig):
    """``detector``: commands walk its states, triggers make frames.

    Before initialize nothing but its state can be read. It has the other modules, too.

    Parameters
    ----------
    profile : str
        Layout of the monitor's TIFFs.
    dwell : float
        s spent in ``initialize`` and ``configure``.
    patient : bool
        Never expose more than the reader has room for, and make up for no delay.
    sample : callable
        How much of the sample is in the light now, 0 to 1.

    Attributes
    ----------
    state : DetectorState
    series : Series or None
        The open series.
    series_id : int
        Number of the last series; 0 after initialize.
    monitor, files, stream, system : Subsystem
    faults : Faults
    """

    def __init__(
        self,
        geometry: DetectorGeometry,
        version: str,
        serial: str,
        seed: int,
        stream: StreamOptions,
        *,
        profile: str,
        dwell: float,
        patient: bool,
        sample: Callable[[], float],
    ):
        super().__init__(geometry, version, serial, seed)
        self.faults, self.monitor, self.files = Faults(FAULTS), MonitorBuffer(version), FileWriter(version)
        self.stream = StreamOutput(version, self.faults, math.prod(geometry.shape), stream)
        self.system = Subsystem(version)
        self.system.commands = {"restart": self.restart}
        self._profile, self._dwell, self._patient, self._sample = profile, dwell, patient, sample
        self._random = random.Random(seed)
        self._exposure: asyncio.Task[None] | None = None
        self._scenes: dict[EigerScene, tuple] = {}
        self.commands = {
            "initialize": self.initialize,
            "arm": self.arm,
            "trigger": self.trigger,
            **{name: partial(self._end, name) for name in ("disarm", "cancel", "abort")},
            "hv_reset": self._hv_reset,
            "check_connections": lambda: None,
        }
        if version == "1.6.0":
            self.commands["status_update"] = self.update_status
        self.restart()

    def restart(self) -> None:
        """Be as after power-up: not initialized, monitor disabled, every frame, file and series lost."""
        self._drop_exposure()
        self.state = DetectorState.NA
        self.update_status()
        self.series: SimulatedSeries | None = None
        self.series_id, self.series_unique_id = 0, ""
        for module in (self.monitor, self.files, self.stream):
            module.reset()
        self.files.clear()

    def read(self, task: str, name: str) -> Parameter:
        """Return one parameter; KeyError if there is no such name, or not yet."""
        if self.state == DetectorState.NA and (task, name) != ("status", "state"):
            raise KeyError(name)
        return super().read(task, name)

    def update_status(self) -> None:
        """Measure temperature and humidity, unless the detector acquires."""
        if self.state != DetectorState.ACQUIRE:
            self._climate = self._measure()

    @staticmethod
    def _measure() -> tuple[Parameter, Parameter]:
        drift = 0.2 * math.sin(time.time() / 60)
        return measured(round(24.5 + drift, 2), "float", "C"), measured(round(4.0 - drift, 2), "float", "%")

    def _status(self) -> dict[str, Parameter]:
        warm, damp = self._climate if self.version == "1.6.0" else self._measure()
        status = {
            "state": measured(self.state.value, "string", "", *DetectorState),
            "error": measured([], "string[]"),
            "time": measured(datetime.now().isoformat()),
            "temperature": warm,
            "humidity": damp,
            "board_000/th0_temp": warm,
            "board_000/th0_humidity": damp,
            "builder/dcu_buffer_free": measured(100.0, "float", "%"),
            **{f"link_{n}": measured("up", "string", "", "up", "down") for n in range(4)},
        }
        if self.version == "1.6.0":
            return status
        voltage = measured("READY", "string", "", "NA", "OFF", "RAMPING", "READY")
        return status | {"high_voltage/state": voltage, "series_unique_id": measured(self.series_unique_id)}

    def takes_argument(self, name: str) -> bool:
        """``trigger`` takes a count time, in inte only; ``hv_reset`` seconds."""
        inte = self.series is not None and self.series.mode == TriggerMode.INTE
        return name == "hv_reset" or (name == "trigger" and inte)

    @staticmethod
    def _hv_reset(seconds: Any = None) -> None:
        """Do nothing, if that is asked for 1 to 600 s."""
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (known and 1 <= seconds <= 600):
            raise RequestError("hv_reset", seconds, "1 to 600 s")

    async def initialize(self) -> None:
        """Reset the configuration and the series number."""
        after = self._allow("initialize")
        self._drop_exposure()
        self.files.close()
        self.stream.end()
        self.stream.initialized_ns = time.time_ns()
        await self._busy(DetectorState.INITIALIZE)
        self.reset()
        self.series, self.series_id = None, 0
        self.state = after

    async def arm(self) -> int:
        """Open a series and return its number."""
        after = self._allow("arm")
        await self._busy(DetectorState.CONFIGURE)
        now = time.time_ns()
        self.series_id += 1
        self.series_unique_id = make_ulid(now, self._random.getrandbits(80))
        offset = round(time.localtime().tm_gmtoff / 60)
        self.force("data_collection_date", format_time_ns(now, offset_minutes=offset))
        self.keep_mask()
        self.series = await self._open_series(now, offset)
        n_images = self.series.frames_per_trigger * self.series.n_triggers
        self.files.open(self.series.maker, now, n_images)
        await self.stream.open(self.series.maker, self, n_images)
        self.state = after
        return self.series_id

    async def trigger(self, count_time: Any = None) -> int:
        """Expose one software trigger; returns when its frames are exposed."""
        if count_time is not None:
            self.config["count_time"].check("trigger", count_time)
        series = self.series
        if series is not None and series.mode not in SOFTWARE_TRIGGERED:
            raise DetectorStateError(f"trigger command not allowed in trigger mode {series.mode}")
        self._allow("trigger")
        if self.faults.take("detector_error"):
            self.state = DetectorState.ERROR
            raise DetectorStateError("detector error: readout failed")
        assert series is not None  # armed, as it is allowed
        await asyncio.wait([self._expose(series, count_time if series.mode == TriggerMode.INTE else None)])
        return self.series_id

    def edge(self, width: float = 0.0) -> None:
        """Take one electrical edge, or one gate of `width` s; ignored unless armed for it."""
        series = self.series
        if series is None or series.mode in SOFTWARE_TRIGGERED:
            return
        if series.mode == TriggerMode.EIES:
            if self.state in ARMED:
                self._end_and_start(series)
            return
        if self.state != DetectorState.READY:
            return
        if series.mode == TriggerMode.EXTG:
            series.n_gates += 1
            if series.n_gates % series.gates_per_frame:
                return
        self._expose(series, width or None)

    def _end_and_start(self, series: SimulatedSeries) -> None:
        """Take an edge of eies: the frame since the last one ends, and the next starts."""
        if series.n_gates > series.n_triggers:
            return  # the last frame has ended already
        start_ns, series.last_edge = series.last_edge, time.time_ns()
        series.n_gates += 1
        self.state = DetectorState.ACQUIRE
        if start_ns is not None:
            count_time = (series.last_edge - start_ns) / 1e9
            make = self._make_ended_frame(series, start_ns, count_time, self._exposure)
            self._exposure = asyncio.create_task(make)

    async def _end(self, command: str) -> int:
        """End the series, cancel after the present image; but for abort, what was exposed comes out."""
        after, series = self._allow(command), self.series
        if series is not None and self._exposure is not None and command == "cancel":
            series.cancelled = True
            await asyncio.wait([self._exposure])
            if self.series is not series:  # somebody else was faster
                return self.series_id
            after = self._allow(command)
        self._drop_exposure()
        if series is not None and command != "abort":
            await self._hand_out(series, math.inf)
        self.series = None
        self.files.close()
        self.stream.end()
        self.state = after
        return self.series_id

    def _allow(self, command: str) -> DetectorState:
        after = COMMANDS[command].get(self.state)
        if after is None:
            raise DetectorStateError(f"command {command} not allowed in state {self.state}")
        return after

    async def _busy(self, state: DetectorState) -> None:
        self.state = state
        await asyncio.sleep(self._dwell)

    async def _open_series(self, now: int, offset: int) -> SimulatedSeries:
        second = "trigger_start_delay" in self.config
        mode = TriggerMode(self["trigger_mode"])
        x, y = self["beam_center_x"], self["beam_center_y"]
        shape = self.geometry.shape
        far_corner = math.hypot(*shape) / 2 * self["x_pixel_size"]
        scene = EigerScene(
            shape=shape,
            bit_depth=self["bit_depth_image"],
            count_time=self["count_time"],
            cutoff=self["countrate_correction_count_cutoff"],
            energy_ev=self["photon_energy"],
            distance=self["detector_distance"] or far_corner / math.tan(math.radians(60)),
            beam_center=(x, y) if x or y else (shape[1] / 2, shape[0] / 2),
            masked_value=self.masked_value(),
            mask_version=self.mask_version,
            seed=self._seed,
        )
        if scene not in self._scenes:
            images = await asyncio.get_running_loop().run_in_executor(None, scene.render, self["pixel_mask"])
            self._scenes = {scene: (images, scene.reflection(self["pixel_mask"]))}
        images, reflection = self._scenes[scene]
        maker = FrameMaker(
            values={name: parameter.value for name, parameter in self.config.items()},
            thresholds=self.thresholds(),
            images=images,
            reflection=reflection,
            most=scene.most,
            sample=self._sample,
            series_id=self.series_id,
            unique_id=self.series_unique_id,
            profile=self._profile,
            offset_minutes=offset,
            series_time_ns=now if self.faults.take("same_time") else None,
            faults=self.faults,
        )
        return SimulatedSeries(
            mode=mode,
            frames_per_trigger=frames_of(mode, self["nimages"]),
            n_triggers=self["ntrigger"] - (mode == TriggerMode.EIES),
            frame_time=self["frame_time"],
            delay=self["trigger_start_delay"] if second and mode in MANY_PER_TRIGGER else 0.0,
            gates_per_frame=self["nexpi"] if second else 1,
            maker=maker,
        )

    def _expose(self, series: SimulatedSeries, count_time: float | None) -> asyncio.Task[None]:
        self.state = DetectorState.ACQUIRE
        self._exposure = asyncio.create_task(self._run_trigger(series, count_time))
        return self._exposure

    async def _run_trigger(self, series: SimulatedSeries, count_time: float | None) -> None:
        loop = asyncio.get_running_loop()
        period = series.frame_time if count_time is None else count_time
        start, start_ns = loop.time() + series.delay, time.time_ns() + round(series.delay * 1e9)
        held_last = bool(self.faults.take("late_last"))
        for i in range(series.frames_per_trigger):
            await asyncio.sleep(start + (i + 1) * period - loop.time())
            if self._patient:
                await self.monitor.wait_for_room(PATIENCE)
                await self.stream.wait_for_room(PATIENCE)
                late = loop.time() - start - (i + 1) * period
                if late > period:
                    start, start_ns = start + late, start_ns + round(late * 1e9)
            held = held_last and i == series.frames_per_trigger - 1
            await self._make_frame(series, start_ns + round(i * period * 1e9), count_time, held)
            if series.cancelled:
                return
        await self._finish_trigger(series)

    async def _make_ended_frame(
        self, series: SimulatedSeries, start_ns: int, count_time: float, before: asyncio.Task[None] | None
    ) -> None:
        """Make the frame that an edge of eies has ended, after the one before."""
        if before is not None:
            await before
        if self._patient:
            await self.monitor.wait_for_room(PATIENCE)
            await self.stream.wait_for_room(PATIENCE)
        held = bool(self.faults.take("late_last"))
        await self._make_frame(series, start_ns, count_time, held)
        await self._finish_trigger(series)

    async def _finish_trigger(self, series: SimulatedSeries) -> None:
        """Be ready for the next trigger, or end the series after the last; in eies a frame has begun."""
        await self._hand_out(series, sys.maxsize)
        series.n_triggered += 1
        if series.n_triggered < series.n_triggers:
            if series.mode != TriggerMode.EIES:
                self.state = DetectorState.READY
        else:
            self.files.close()
            if self._patient:
                await self.stream.wait_for_room(PATIENCE)
            self.stream.end()
            self.state = DetectorState.READY if series.kept_back else DetectorState.IDLE

    async def _make_frame(
        self, series: SimulatedSeries, time_ns: int, count_time: float | None, held: bool
    ) -> None:
        image_id, series.n_frames = series.n_frames, series.n_frames + 1
        series.maker.look(image_id)
        if not self.faults.take("lost_in_file", image=image_id):
            self.files.take(image_id, time_ns)
        self.stream.image(image_id, time_ns, count_time)
        if not self.monitor.enabled or self.faults.take("drop"):
            return
        fault = self.faults.take("out_of_order")
        late = math.inf if held else image_id + int(fault.get("after", 1)) if fault is not None else None
        frames = list(series.maker.frames(image_id, time_ns, count_time))
        if late is None:
            await self.monitor.store(*frames)
        else:
            series.kept_back.append((late, frames))
        await self._hand_out(series, image_id)

    async def _hand_out(self, series: SimulatedSeries, image_id: float) -> None:
        """Hand out the exposures that were kept back until an image."""
        due = [frames for after, frames in series.kept_back if after <= image_id]
        series.kept_back = [each for each in series.kept_back if each[0] > image_id]
        for frames in due:
            await self.monitor.store(*frames)

    def _drop_exposure(self) -> None:
        if self._exposure is not None:
            self._exposure.cancel()
            self._exposure = None


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
