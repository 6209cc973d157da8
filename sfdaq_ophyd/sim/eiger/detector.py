"""The detector's states, series and frames in real time. No HTTP in here; used from one event loop.

The states are those of wire reference eiger, section 4.3.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import DetectorStateError
from ...wire.simplon import (
    ARMED,
    COMMANDS,
    MANY_PER_TRIGGER,
    SOFTWARE_TRIGGERED,
    DetectorState,
    TriggerMode,
    frames_of,
)
from ...wire.tiff import format_time_ns
from ...wire.ulid import make_ulid
from ..faults import Faults
from .config import DetectorConfig, masked_value
from .filewriter import FileWriter
from .frames import FrameMaker, Scene
from .monitor import MonitorBuffer
from .stream import StreamOutput

PATIENCE = 60.0
"""s for which a patient detector waits with its next frame for a client that took the frames before."""


@dataclass
class Series:
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
    n_gates: int = 0
    last_edge: float | None = None
    held: list = field(default_factory=list)
    late: list = field(default_factory=list)


class EigerModel:
    """The detector module: commands walk its states, triggers make frames.

    Attributes
    ----------
    state : DetectorState
    config : DetectorConfig
    series : Series or None
        The open series.
    series_id : int
        Number of the last series; 0 after initialize.
    dwell : float
        s spent in ``initialize`` and ``configure``.

    A patient detector never exposes more than its reader has room for, and makes up for no delay.
    """

    def __init__(
        self,
        config: DetectorConfig,
        monitor: MonitorBuffer,
        files: FileWriter,
        stream: StreamOutput,
        faults: Faults,
        *,
        profile: str,
        dwell: float,
        seed: int,
        patient: bool,
        sample: Callable[[], float],
    ):
        self.config, self.monitor, self.files, self.stream = config, monitor, files, stream
        self.faults = faults
        self.profile, self.dwell, self._patient = profile, dwell, patient
        self._seed, self._random = seed, random.Random(seed)
        self._exposure: asyncio.Task[None] | None = None
        self._sample = sample
        self._scenes: dict[Scene, tuple] = {}
        self.boot()

    def boot(self) -> None:
        """Be as after power-up: not initialized."""
        self._drop_exposure()
        self.state = DetectorState.NA
        self.series: Series | None = None
        self.series_id, self.series_unique_id = 0, ""
        self.stream.abandon()

    async def initialize(self) -> None:
        """Reset the configuration and the series number."""
        after = self._allow("initialize")
        self._drop_exposure()
        self.files.close()
        self.stream.end()
        self.stream.initialized_ns = time.time_ns()
        await self._busy(DetectorState.INITIALIZE)
        self.config.reset()
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
        self.config.force("data_collection_date", format_time_ns(now, offset_minutes=offset))
        self.series = await self._open_series(now, offset)
        n_images = self.series.frames_per_trigger * self.series.n_triggers
        self.files.open(self.series.maker, now, n_images)
        await self.stream.open(self.series.maker, self.config, n_images)
        self.state = after
        return self.series_id

    async def trigger(self, count_time: float | None = None) -> int:
        """Expose one software trigger; returns when its frames are exposed."""
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
        if self.state != DetectorState.READY or series is None or series.mode in SOFTWARE_TRIGGERED:
            return
        if series.mode == TriggerMode.EIES:
            last, series.last_edge = series.last_edge, time.time()
            width = 0.0 if last is None else series.last_edge - last
            if last is None:
                return
        elif series.mode == TriggerMode.EXTG:
            series.n_gates += 1
            if series.n_gates % series.gates_per_frame:
                return
        self._expose(series, width or None)

    async def disarm(self) -> int:
        """End the series; frames held back come out."""
        return await self._end("disarm", keep=True)

    async def cancel(self) -> int:
        """End the series after the frame being exposed."""
        return await self._end("cancel", keep=True)

    async def abort(self) -> int:
        """End the series at once."""
        return await self._end("abort", keep=False)

    async def _end(self, command: str, *, keep: bool) -> int:
        after = self._allow(command)
        self._drop_exposure()
        if self.series is not None and keep:
            await self._hand_out(self.series, len(self.series.late))
            for frame in self.series.held:
                await self.monitor.store(frame)
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
        await asyncio.sleep(self.dwell)

    async def _open_series(self, now: int, offset: int) -> Series:
        config = self.config
        second = "trigger_start_delay" in config.parameters
        mode = TriggerMode(config["trigger_mode"])
        x, y = config["beam_center_x"], config["beam_center_y"]
        centred = x == 0 and y == 0
        shape = config.geometry.shape
        far_corner = math.hypot(*shape) / 2 * config["x_pixel_size"]
        scene = Scene(
            shape=shape,
            bit_depth=config["bit_depth_image"],
            count_time=config["count_time"],
            cutoff=config["countrate_correction_count_cutoff"],
            energy_ev=config["photon_energy"],
            distance=config["detector_distance"] or far_corner / math.tan(math.radians(60)),
            beam_center=(shape[1] / 2, shape[0] / 2) if centred else (x, y),
            masked_value=masked_value(config),
            mask_version=config.mask_version,
            seed=self._seed,
        )
        if scene not in self._scenes:
            mask = config.arrays["pixel_mask"]
            images = await asyncio.get_running_loop().run_in_executor(None, scene.render, mask)
            self._scenes = {scene: (images, (*scene.reflection(mask), scene.most))}
        maker = FrameMaker(
            config,
            *self._scenes[scene],
            sample=self._sample,
            series_id=self.series_id,
            unique_id=self.series_unique_id,
            profile=self.profile,
            offset_minutes=offset,
            series_time_ns=now if self.faults.take("same_time") else None,
            faults=self.faults,
        )
        return Series(
            mode=mode,
            frames_per_trigger=frames_of(mode, config["nimages"]),
            n_triggers=config["ntrigger"] - (mode == TriggerMode.EIES),
            frame_time=config["frame_time"],
            delay=config["trigger_start_delay"] if second and mode in MANY_PER_TRIGGER else 0.0,
            gates_per_frame=config["nexpi"] if second else 1,
            maker=maker,
        )

    def _expose(self, series: Series, count_time: float | None) -> asyncio.Task[None]:
        self.state = DetectorState.ACQUIRE
        self._exposure = asyncio.create_task(self._run_trigger(series, count_time))
        return self._exposure

    async def _run_trigger(self, series: Series, count_time: float | None) -> None:
        loop = asyncio.get_running_loop()
        period = series.frame_time if count_time is None else count_time
        start, start_ns = loop.time() + series.delay, time.time_ns() + round(series.delay * 1e9)
        held_last = self.faults.take("late_last")
        for i in range(series.frames_per_trigger):
            await asyncio.sleep(start + (i + 1) * period - loop.time())
            if self._patient:
                await self.monitor.wait_for_room(PATIENCE)
                await self.stream.wait_for_room(PATIENCE)
                late = loop.time() - start - (i + 1) * period
                if late > period:
                    start, start_ns = start + late, start_ns + round(late * 1e9)
            last = i == series.frames_per_trigger - 1
            await self._make_frame(series, start_ns + round(i * period * 1e9), count_time, held_last and last)
        await self._hand_out(series, len(series.late))
        series.n_triggered += 1
        if series.n_triggered < series.n_triggers:
            self.state = DetectorState.READY
        else:
            self.files.close()
            if self._patient:
                await self.stream.wait_for_room(PATIENCE)
            self.stream.end()
            self.state = DetectorState.READY if series.held else DetectorState.IDLE

    async def _make_frame(self, series: Series, time_ns: int, count_time: float | None, held) -> None:
        image_id, series.n_frames = series.n_frames, series.n_frames + 1
        series.maker.look(image_id)
        if not self.faults.take("lost_in_file", image=image_id):
            self.files.take(image_id, time_ns)
        self.stream.image(image_id, time_ns, count_time)
        if not self.monitor.enabled or self.faults.take("drop"):
            return
        out_of_order = self.faults.take("out_of_order")
        for frame in series.maker.frames(image_id, time_ns, count_time):
            if held:
                series.held.append(frame)
            elif out_of_order is not None:
                series.late.append((image_id + int(out_of_order.get("after", 1)), frame))
            else:
                await self.monitor.store(frame)
        await self._hand_out(series, sum(image_id >= after for after, _ in series.late))

    async def _hand_out(self, series: Series, n: int) -> None:
        """Hand out the first `n` frames that were kept back."""
        late, series.late = series.late[:n], series.late[n:]
        for _, frame in late:
            await self.monitor.store(frame)

    def _drop_exposure(self) -> None:
        if self._exposure is not None:
            self._exposure.cancel()
            self._exposure = None

    @property
    def armed(self) -> bool:
        """Whether a series is open."""
        return self.state in ARMED
