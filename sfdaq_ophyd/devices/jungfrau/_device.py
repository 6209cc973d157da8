"""The Jungfrau device: signals, and which source and processing they mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal, SignalRO

from ...calibration import JungfrauCalibration, disabled_to_map
from ...clients import ImageStream, ModuleStream, StreamFrame
from ...clients.stream import FrameStream
from ...errors import DetectorStateError, RequestError
from ...wire.detector_name import MODULE_SHAPE, DetectorName
from ...wire.pulse_id import check_rate_multiplicator
from .._detector import Detector
from .._pulse_window import NextWindow, PulseWindow
from .._status import ActionStatus, Setting
from ..pulse_id import PulseId
from ._control import HardwareControl
from ._source import (
    CONNECT_TIMEOUT,
    CalibratedImages,
    ConvertedImages,
    JungfrauStreamSource,
    Processing,
    RawImages,
    StageSettings,
)


class CounterSignal(SignalRO):
    """One of the stream's counters, as it is when it is read."""

    def __init__(self, *args, counter: str, **kwargs):
        super().__init__(*args, value=0, **kwargs)
        self._counter = counter

    def get(self, **kwargs) -> int:
        """Return the count since the device was staged."""
        return self.parent.source.stream.counters[self._counter]

    def describe(self) -> dict:
        """Describe the count."""
        (key,) = super().describe().values()
        return {self.name: {**key, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}}


def _counter(name: str, doc: str) -> Cpt:
    """Declare the signal of a counter."""
    return Cpt(CounterSignal, counter=name, kind="normal", doc=doc)


STREAMS = ("modules", "assembled")
EVENT_IDS = ("pulse", "frame")
STREAM_OPTIONS = {
    "modules": {"max_age", "max_hold", "incomplete", "n_packets", "n_images"},
    "assembled": {"max_hold", "incomplete", "n_images"},
}


class Jungfrau(Detector):
    """A Jungfrau that runs, seen through its image streams.

    Besides the keys of every `Detector` an event holds, per frame, ``NAME_frame_number``, ``NAME_daq_rec``,
    ``NAME_total`` (sum of the pixels; of raw ones in ADU), ``NAME_n_saturated``, ``NAME_n_undefined_gain``,
    ``NAME_n_lost_pixels``, and once per event the stream's counters (``NAME_n_received``, ...). The units of
    ``NAME_image`` are in `describe`: ADU, keV or photons. With ``image_kind`` "both" the raw image is
    recorded beside the calibrated one, as ``NAME_raw``. ``NAME_pulse_id`` is -1 where the stream has none.

    Parameters
    ----------
    endpoints : list of str, or str
        One per port of slsReceiver; for ``stream="assembled"`` the one of sf-daq.
    name : str
    directory : str or Path
        Where files are made.
    detector_name : str
        E.g. ``JF01T03V01``.
    stream : {"modules", "assembled"}
    calibration : JungfrauCalibration, optional
        Constants and options; without it images stay raw. See `use_calibration`.
    photon_energy : float, optional
        keV; calibrated images then count photons: int32, or float32 of a calibration that is not `rounded`.
    pulse_id : PulseId, optional
        Only frames of pulses after a trigger count, the same as of the other devices triggered with it
        (`same_pulses`). Without it: frames that arrive after a trigger.
    disabled_modules : tuple of int
        Modules that are left out of the assembled stream's raw images.
    converted_shape : (int, int), optional
        The assembled stream carries float32 images in keV, of this shape; nothing is calibrated then.
    pull : bool
        The assembled stream comes from sf-daq's live (PUSH) socket.
    frame_step : int, optional
        Frame numbers grow by so much from frame to frame, a jump is a lost frame; 0: jumps mean nothing.
        Default 1 for modules; 0 for the assembled stream, whose sender may leave images out.
    rate_multiplicator : int
        100 Hz over the detector's rate: a point that is counted by pulses begins with a multiple of it.
    event_id : {"pulse", "frame"}
        What ``NAME_event_id`` is: the pulse id, where the stream has one, or the frame number.
    control : HardwareControl, optional
        Sets the detector itself while the device is staged, e.g. a `BrokerControl`. What it is set to then is
        recorded as ``NAME_hardware``.
    stream_options : mapping, optional
        For the `ModuleStream` (``max_age``, ``max_hold``, ``incomplete``, ``n_packets``, ``n_images``) or
        `ImageStream` (``max_hold``, ``incomplete``, ``n_images``).
        Images dropped with ``incomplete="drop"`` are lost frames, as `loss_policy` has it.
    **kwargs
        For `Detector`.
    """

    next_window = Cpt(NextWindow, kind="omitted")
    image_kind = Cpt(Setting, value="raw", kind="config", doc="raw, calibrated or both: what is recorded")
    connect_timeout = Cpt(
        Setting, value=CONNECT_TIMEOUT, kind="config", doc="s for all endpoints to answer, and send, at stage"
    )
    rate_multiplicator = Cpt(Setting, value=1, kind="config", doc="100 Hz / detector rate")
    detector_name = Cpt(SignalRO, value="", kind="config")
    stream = Cpt(SignalRO, value="", kind="config")
    endpoints = Cpt(SignalRO, value="", kind="config", doc="JSON list")
    event_ids = Cpt(SignalRO, value="", kind="config", doc="pulse or frame: what an event id is")
    hardware = Cpt(SignalRO, value="", kind="config", doc="settings of the detector while staged, JSON")
    image_unit = Cpt(SignalRO, value="", kind="config")
    gain_file = Cpt(SignalRO, value="", kind="config")
    pedestal_file = Cpt(SignalRO, value="", kind="config")
    pixel_mask_file = Cpt(SignalRO, value="", kind="config")
    constants_hash = Cpt(SignalRO, value="", kind="config", doc="SHA-256 of gain, pedestal and mask")
    calibration = Cpt(SignalRO, value="", kind="config", doc="options, JSON")
    n_received = _counter("received", "messages with data")
    n_complete = _counter("complete", "images with all modules and packets")
    n_incomplete = _counter("incomplete", "images with modules or packets missing")
    n_mismatched = _counter("mismatched", "complete images whose modules do not agree on pulse or mode")
    n_late = _counter("late", "module frames whose image had gone")
    n_duplicate = _counter("duplicate", "messages that came twice")
    n_dropped = _counter("dropped", "images lost because all buffers were in use, or dropped as told")
    n_foreign = _counter("foreign", "messages of another detector or shape")
    n_unparsable = _counter("unparsable", "messages that were not understood")

    source: JungfrauStreamSource
    hinted = ("total",)

    def __init__(
        self,
        endpoints: Sequence[str] | str,
        *,
        name: str,
        directory: str | Path,
        detector_name: str,
        stream: str = "modules",
        calibration: JungfrauCalibration | None = None,
        photon_energy: float | None = None,
        pulse_id: PulseId | None = None,
        disabled_modules: Sequence[int] = (),
        converted_shape: tuple[int, int] | None = None,
        pull: bool = False,
        frame_step: int | None = None,
        rate_multiplicator: int = 1,
        event_id: str = "pulse",
        control: HardwareControl | None = None,
        stream_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        if stream not in STREAMS:
            raise RequestError("stream", stream, f"one of {STREAMS}")
        if event_id not in EVENT_IDS:
            raise RequestError("event_id", event_id, f"one of {EVENT_IDS}")
        if stream == "modules" and (converted_shape or disabled_modules or pull):
            options = (converted_shape, disabled_modules, pull)
            raise RequestError(
                "converted_shape, disabled_modules, pull", options, "none with stream='modules'"
            )
        self._detector = DetectorName.parse(detector_name)
        if (controlled := getattr(control, "detector_name", detector_name)) != detector_name:
            raise RequestError("control", controlled, f"one of {detector_name}")
        self._control = control
        more = dict(stream_options or {})
        for option in set(more) - STREAM_OPTIONS[stream]:
            expected = f"one of {', '.join(sorted(STREAM_OPTIONS[stream]))} with stream={stream!r}"
            raise RequestError("stream_options", option, expected)
        frames: FrameStream[StreamFrame]
        if stream == "modules":
            frames = ModuleStream(endpoints, detector_name=detector_name, timeout=None, **more)
        else:
            frames = ImageStream(endpoints, pull=pull, detector_name=detector_name, timeout=None, **more)
        self._module_map = disabled_to_map(detector_name, tuple(disabled_modules))
        n_active = sum(place >= 0 for place in self._module_map)
        self._raw_shape = (MODULE_SHAPE[0] * n_active, MODULE_SHAPE[1])
        self._converted_shape: tuple[int, int] | None = None
        if converted_shape is not None:
            height, width = converted_shape
            self._converted_shape = height, width
        self._frame_step = int(stream == "modules") if frame_step is None else frame_step
        self._constants: JungfrauCalibration | None = None
        rate = check_rate_multiplicator(rate_multiplicator)
        source = JungfrauStreamSource(name, frames, pulse_id, control)
        super().__init__(source=source, name=name, directory=directory, **kwargs)
        self.rate_multiplicator.put(rate)
        self._say("detector_name", str(self._detector))
        self._say("stream", stream)
        self._say("event_ids", event_id)
        self._say("endpoints", json.dumps(frames.endpoints))
        if converted_shape is not None:
            self.image_kind.put("converted")
        self.use_calibration(calibration, photon_energy)

    def use_calibration(
        self, calibration: JungfrauCalibration | None, photon_energy: float | None = None
    ) -> None:
        """Change constants and options, between stagings; images are calibrated if there is one.

        Parameters
        ----------
        calibration : JungfrauCalibration or None
            Constants and options; None leaves images raw.
        photon_energy : float, optional
            keV; images then count photons.

        Raises
        ------
        DetectorStateError
            The device is staged.
        RequestError
            The constants are of another detector, or for other modules than the stream has, or the stream is
        converted already.
        """
        if self._store is not None:
            raise DetectorStateError(f"{self.name}: a staged device keeps its calibration; unstage it first")
        if calibration is not None:
            if self._converted_shape is not None:
                raise RequestError("calibration", calibration, "none: the stream is converted already")
            if str(DetectorName.parse(calibration.detector_name)) != str(self._detector):
                raise RequestError("calibration", calibration.detector_name, f"one for {self._detector}")
            if -1 in self._module_map and calibration.module_map != self._module_map:
                found = f"module_map {calibration.module_map}"
                raise RequestError("calibration", found, f"{self._module_map}, as the stream's images")
        self._constants, self._photon_energy = calibration, photon_energy
        for fact in ("gain_file", "pedestal_file", "pixel_mask_file", "constants_hash"):
            self._say(fact, getattr(calibration, fact, ""))
        self._say("calibration", "" if calibration is None else calibration.options.to_json())
        if self._converted_shape is None:
            self.image_kind.put("raw" if calibration is None else "calibrated")
        self._say("image_unit", "")

    def stage(self) -> list[object]:
        """Open the streams and set the detector; both are as found if this fails."""
        self.source.window = self.next_window.current = None  # of a point that was given up
        staged = super().stage()
        self._say("hardware", json.dumps(self._control.in_force) if self._control else "")
        return staged

    def trigger(self) -> ActionStatus:
        """Take one point of `frames_per_trigger` frames; of the pulses that the plan's other devices take."""
        window = self.next_window.take() or self.source.window
        self.source.window = window if window is not None and window.awaits(self.name) else None
        status = super().trigger()
        self._settle_with(self.source.window, status)
        return status

    def join_window(self, window: PulseWindow) -> PulseWindow | None:
        """Take the frames of the next point out of a window.

        Returns
        -------
        PulseWindow or None
            The one it takes them out of; None if this device counts no pulses.
        """
        return self.source.join(window)

    def describe_flown(self) -> dict:
        """Return the data keys of a point, the stream's counters among them."""
        counters = [counter.describe() for counter in self._counters]
        return {
            **super().describe_flown(),
            **{key: data for keys in counters for key, data in keys.items()},
        }

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page; the counters are as they are now, for all its points."""
        for page in super().flown_pages():
            for signal in self._counters:
                page["data"][signal.name] = [signal.get()] * len(page["time"])
                page["timestamps"][signal.name] = page["time"]
            yield page

    @property
    def _counters(self) -> list[CounterSignal]:
        parts = (getattr(self, name) for name in self.component_names)
        return [part for part in parts if isinstance(part, CounterSignal)]

    def settings(self) -> StageSettings:
        """Return what the source needs; the signals as they are at stage."""
        process = self._processing()
        self._say("image_unit", process.unit)
        timeout, by_frame = float(self.connect_timeout.get()), self.event_ids.get() == "frame"
        every = check_rate_multiplicator(self.rate_multiplicator.get())
        return StageSettings(process, self._frame_step, timeout, by_frame, every)

    def _processing(self) -> Processing:
        image = self.image_kind.get()
        if self._converted_shape is not None:
            if image != "converted":
                raise RequestError(
                    f"{self.name}.image_kind", image, "'converted': the stream has no raw images"
                )
            return ConvertedImages(self._converted_shape)
        if image == "raw":
            return RawImages(self._raw_shape, self._module_map)
        if image not in ("calibrated", "both"):
            raise RequestError(f"{self.name}.image_kind", image, "'raw', 'calibrated' or 'both'")
        if self._constants is None:
            raise RequestError(f"{self.name}.image_kind", image, "'raw': there are no constants")
        raw_shape = self._raw_shape if image == "both" else None
        return CalibratedImages(self._constants, self._photon_energy, raw_shape)

    def _frame_keys(self, flying: bool = False) -> dict:
        keys = super()._frame_keys(flying)
        unit = self.image_unit.get()
        keys[f"{self.name}_image"]["units"] = keys[f"{self.name}_total"]["units"] = unit
        if f"{self.name}_raw" in keys:
            keys[f"{self.name}_raw"]["units"] = "ADU"
        return keys

    def _say(self, signal: str, value: str) -> None:
        Signal.put(getattr(self, signal), value, force=True)
