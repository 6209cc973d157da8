"""Decisions of the Jungfrau device, without ophyd: which frames are of a point, and what becomes of each."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...calibration import JungfrauCalibration
from ...calibration.raw_pixels import ADC_BITS, CODE_SHIFT, LOST, WordCounts, count_words
from ...clients import StreamFrame
from ...clients.frame_numbers import FrameNumbers
from ...clients.ring import Ring
from ...clients.stream import FrameQueue, FrameStream
from ...errors import DetectorStateError, FramesMissing, ServiceTimeout, SfdaqError
from ...limits import Limit
from ...wire.detector_name import MODULE_SHAPE, GainMode
from ...wire.frame import Frame, FrameFormat, MissingFrame
from .._pulse_window import PulseWindow
from .._source import Progress, Request
from .._store import NO_PULSE_ID
from ..pulse_id import PulseId
from ._control import HardwareControl

_RAW = {"frame_number": "i8", "daq_rec": "i8", "total": "f8"}
_COUNTS = {"n_saturated": "i8", "n_undefined_gain": "i8", "n_lost_pixels": "i8"}


class Processing(ABC):
    """Makes frames of the device out of frames of the stream.

    Attributes
    ----------
    unit : str
        Of a pixel: ``"ADU"``, ``"keV"`` or ``"photons"``.
    frame_format : FrameFormat
        What the frames look like.
    """

    unit: str
    frame_format: FrameFormat

    @abstractmethod
    def __call__(self, frame: StreamFrame) -> Frame:
        """Return the frame of the device."""


class RawImages(Processing):
    """Hand raw words, shape (y, x), on as they are; `total` is in ADU without gain bits and lost pixels.

    With a `module_map`, images of modules in other places are refused.
    """

    def __init__(self, shape: tuple[int, int], module_map: tuple[int, ...] | None = None):
        self.unit = "ADU"
        self.frame_format = FrameFormat(shape, np.uint16, has_pulse_id=True, scalars=_RAW | _COUNTS)
        self._module_map, self._mode = module_map, GainMode()

    def __call__(self, frame: StreamFrame) -> Frame:
        raw = _raw_image(frame, self._module_map)
        words = count_words(raw, highgain=self._mode.of(frame.daq_rec))
        total = float(_sum_of_adu(raw, words))
        return _frame(frame, _pixels(frame), total, _counts(words), lacks=_lacks(frame, raw))


class ConvertedImages(Processing):
    """Hand images on that were converted to keV before they came; `total` is in keV."""

    def __init__(self, shape: tuple[int, int]):
        self.unit = "keV"
        self.frame_format = FrameFormat(shape, np.float32, has_pulse_id=True, scalars=_RAW)

    def __call__(self, frame: StreamFrame) -> Frame:
        image = _pixels(frame)
        return _frame(frame, image, _sum(image), {}, lacks=_lacks(frame, None))


class CalibratedImages(Processing):
    """Calibrate every frame, with the constants of the gain mode it was taken in.

    A frame that does not say its mode counts as taken in that of the last one that did, and the first ones
    in the calibration's own. Lost pixels count as masked, whatever the calibration's options say. With a
    `photon_energy`, keV, pixels are photons. With a `raw_shape` the raw image is handed on too, as ``raw``.
    `total` is in the unit of the calibrated pixels.
    """

    def __init__(
        self,
        calibration: JungfrauCalibration,
        photon_energy: float | None = None,
        raw_shape: tuple[int, int] | None = None,
    ):
        changes = {} if photon_energy is None else {"factor": photon_energy}
        calibration = calibration.with_options(mask_lost_packets=True, **changes)
        self.unit = calibration.unit if photon_energy is None else "photons"
        self.frame_format = FrameFormat(
            calibration.shape,
            calibration.dtype,
            has_pulse_id=True,
            scalars=_RAW | _COUNTS,
            more_images={} if raw_shape is None else {"raw": (raw_shape, np.dtype("u2"))},
        )
        self._calibrations = {calibration.options.highgain: calibration}
        self._first, self._mode = calibration, GainMode(calibration.options.highgain)
        self._ring = Ring(calibration.shape, calibration.dtype)

    def __call__(self, frame: StreamFrame) -> Frame:
        raw = _raw_image(frame, self._first.module_map)
        high_gain = self._mode.of(frame.daq_rec)
        if high_gain not in self._calibrations:
            self._calibrations[high_gain] = self._first.with_options(highgain=high_gain)
        image = self._calibrations[high_gain](raw, out=self._ring.take())
        counts = _counts(count_words(raw, highgain=high_gain))
        more = {"raw": _pixels(frame)} if self.frame_format.more_images else {}
        return _frame(frame, image, _sum(image), counts, more, lacks=_lacks(frame, raw))


def _sum(image: np.ndarray) -> float:
    """Sum all pixels that are numbers: rows in the image's own precision, which is quick, then in float64."""
    total = float(image.sum(axis=1).sum(dtype=np.float64))
    return total if np.isfinite(total) else float(np.nansum(image, dtype=np.float64))


def _pixels(frame: StreamFrame) -> np.ndarray:
    """Return the image as it came, shape (y, x)."""
    assert frame.image is not None  # a stream's frames bring their pixels
    return frame.image


def _raw_image(frame: StreamFrame, module_map: tuple[int, ...] | None) -> np.ndarray:
    """Return the raw words, in which lost packets are 0xFFFF wherever the frame came from.

    An image that does not have all modules, and says that it has others than those of the `module_map`, is
    refused: each module would get the constants of another.
    """
    image = _pixels(frame)
    if image.dtype != np.uint16:
        found = f"frame number {frame.frame_number} is {image.dtype}"
        raise DetectorStateError(f"{found}, expected raw uint16: is the stream converted already?")
    said = frame.extra.get("module_map")
    if module_map is not None and isinstance(said, list) and tuple(said) != module_map:
        if len(image) != MODULE_SHAPE[0] * len(module_map):  # else each lies in its own place
            found = f"frame number {frame.frame_number} has the module_map {tuple(said)}"
            raise DetectorStateError(f"{found}, expected {module_map}: see disabled_modules")
    return frame.words


def _sum_of_adu(raw: np.ndarray, words: WordCounts) -> int:
    """Sum the ADU of all pixels that were not lost: all words, less what their gain bits count."""
    total = int(raw.sum(axis=0, dtype=np.uint32).sum(dtype=np.int64))
    gain_bits = words.n_g1 + 2 * words.n_undefined_gain + 3 * words.n_g2
    return total - (gain_bits << CODE_SHIFT) - words.n_lost * ADC_BITS


def _counts(words: WordCounts) -> dict[str, int]:
    return {
        "n_saturated": words.n_saturated,
        "n_undefined_gain": words.n_undefined_gain,
        "n_lost_pixels": words.n_lost,
    }


def _lacks(frame: StreamFrame, raw: np.ndarray | None) -> str:
    """Return what of an image is not there at all; the assembled stream says only that it is not good."""
    if frame.is_good or frame.lacks or frame.missing or frame.incomplete:
        return frame.lacks
    if raw is None or raw.shape[1:] != MODULE_SHAPE[1:] or len(raw) % MODULE_SHAPE[0]:
        return "what the stream does not say"
    lost = [bool((block == LOST).all()) for block in raw.reshape(-1, *MODULE_SHAPE)]
    if any(lost):
        return f"block {', '.join(str(k) for k, all_lost in enumerate(lost) if all_lost)} of {len(lost)}"
    # With no packet lost, a module is of another frame.
    return "" if (raw == LOST).any() else "modules of one frame"


def _frame(
    frame: StreamFrame,
    image: np.ndarray,
    total: float,
    counts: dict[str, int],
    more: dict | None = None,
    *,
    lacks: str,
) -> Frame:
    return Frame(
        image=image,
        more_images=more or {},
        timestamp=frame.timestamp,
        event_id=frame.event_id,
        pulse_id=NO_PULSE_ID if frame.pulse_id is None else frame.pulse_id,
        is_good=frame.is_good,
        lacks=lacks,
        scalars={
            "frame_number": frame.frame_number,
            "daq_rec": -1 if frame.daq_rec is None else frame.daq_rec,
            "total": total,
            **counts,
        },
    )


CONNECT_TIMEOUT = 5.0
"""Seconds within which every endpoint must answer when the device is staged."""

WAIT = 0.1
"""Seconds after which a device that waits for others says so; frames that came meanwhile are let go."""

LOOK = 0.2
"""Seconds for which a frame is waited for at stage, to see whether it is what was asked for.

Where some ports send and others do not yet, these are waited for as long as they have for connecting."""


@dataclass(frozen=True)
class StageSettings:
    """What is fixed while the device is staged.

    Attributes
    ----------
    frame_step : int
        Frame numbers grow by so much from frame to frame, a jump is a loss; 0: jumps mean nothing, and only
        what was dropped here is lost.
    connect_timeout : float
        For every endpoint to answer, s.
    by_frame : bool
        Event ids are frame numbers, also where the pulse is known.
    every : int
        A window of pulses begins with a multiple of it.
    """

    process: Processing
    frame_step: int = 1
    connect_timeout: float = CONNECT_TIMEOUT
    by_frame: bool = False
    every: int = 1


class JungfrauStreamSource:
    """Frames of a stream that were taken after they were asked for.

    `pulse_id` tells the machine's pulse of the moment; then only later ones count, of the point's `window`
    or, without one, that of this device alone, and no frame that carries none before the first of those.
    Without a `pulse_id`, only frames sent after they were asked for, as the stream can tell
    (`FrameStream.flush`).
    `control` has the detector send frames while staged.
    """

    def __init__(
        self,
        name: str,
        stream: FrameStream[StreamFrame],
        pulse_id: PulseId | None = None,
        control: HardwareControl | None = None,
    ):
        self._name, self.stream = name, stream
        self._pulse_id, self._control = pulse_id, control
        self.window: PulseWindow | None = None
        self._settings: StageSettings | None = None
        self._given_up = threading.Event()
        self._queue: FrameQueue[StreamFrame] | None = None
        self._forget: Callable[[], None] = lambda: None
        self._n_passed_over = 0
        self._newest = -1

    def open(self, settings: StageSettings) -> FrameFormat:
        """Connect; from now on frames are read, so that none lies about when one is asked for.

        DetectorStateError if the stream carries something else.
        """
        self._settings, self._newest = settings, -1
        if self._control is not None:
            self._control.prepare()
        self.stream.open()
        self._forget = self.stream.subscribe(self._note)
        self.stream.wait_connected(settings.connect_timeout)
        self._look(settings)
        return settings.process.frame_format

    def _note(self, frame: StreamFrame | None) -> None:
        """Remember the pulse of the newest frame, listened for or not; the machine's may be told later."""
        if frame is not None and frame.pulse_id is not None:
            self._newest = frame.pulse_id

    def _look(self, settings: StageSettings) -> None:
        """Refuse a stream that carries something else; one in which nothing flows says nothing yet.

        Where frames flow, all ports have joined in afterwards, or had the time for it: no point begins with
        an image that lacks modules only because their ports were connected later.
        """
        frame: StreamFrame | None = None
        limit, joining = Limit(LOOK), Limit(settings.connect_timeout)
        with self.stream.frames() as queue:
            while not (joining if self.stream.is_early(frame) else limit).reached():
                if self.stream.counters["foreign"]:
                    problem = self.stream.last_problem
                    raise DetectorStateError(f"{self._name}: the stream is of another detector: {problem}")
                try:
                    frame = queue.get(0.01)
                    settings.process.frame_format.check(settings.process(frame))
                except ServiceTimeout:
                    continue
                except SfdaqError as exc:
                    raise DetectorStateError(
                        f"{self._name}: not the images that were asked for: {exc}"
                    ) from exc
                if not self.stream.is_early(frame):
                    return

    def join(self, window: PulseWindow) -> PulseWindow | None:
        """Join a window as one of its live devices; return what was joined, None if no pulses are counted."""
        if self._pulse_id is None:
            return None
        return window.join(self._name, self._pulse_id, every=self._every, live=True)

    @property
    def _every(self) -> int:
        return 1 if self._settings is None else self._settings.every

    def _new_window(self, request: Request) -> PulseWindow | None:
        """Return the window of one attempt; None if no pulses are counted."""
        if self._pulse_id is None:
            return None
        if self.window is None or request.flying:
            return PulseWindow.of_one(self._name, self._pulse_id, self._every)
        return self.window

    def frames(self, request: Request) -> Iterator[Frame | MissingFrame | Progress | None]:
        """Yield frames of pulses after this call, and a `MissingFrame` for each that was lost."""
        settings = self._settings
        if settings is None:
            raise DetectorStateError(f"{self._name}: frames, but the stream is not open")
        self._given_up = given_up = threading.Event()
        self._n_passed_over = 0
        window = self._new_window(request)
        if window is None:
            self.stream.flush()
        with self.stream.frames() as queue:
            self._queue = queue
            if given_up.is_set():
                return
            take = 0 if window is None else window.attempt(self._name, self._newest)
            yield None
            last: StreamFrame | None = None
            numbers = FrameNumbers(settings.frame_step or 1)
            n_frames, whole = 0, True
            for frame in queue:
                self._look_at_others(window, take, request, n_frames)
                if window is not None and not _is_in(window, frame, last):
                    self._n_passed_over += frame.pulse_id is None
                    if not window.is_open:
                        yield Progress(0, "other devices of the point are not triggered yet")
                    continue
                lost = numbers.lost_before(frame)
                for missing in _left_out(window, last, frame, lost, settings.frame_step):
                    whole = False  # it may be taken again
                    yield missing
                last, made = frame, settings.process(frame)
                n_frames, whole = n_frames + 1, whole and not made.lacks
                if window is not None and n_frames == request.n_frames and whole:
                    while not (window.wait_for_others(self._name, take, WAIT) or given_up.is_set()):
                        queue.clear()
                        yield Progress(0, "other live devices have not all frames of the point yet")
                    self._look_at_others(window, take, request, n_frames - 1)
                yield replace(made, event_id=frame.om_event_id) if settings.by_frame else made

    def _look_at_others(self, window: PulseWindow | None, take: int, request: Request, got: int) -> None:
        """Raise FramesMissing if one of them takes the point again: these pulses are not the point's."""
        if window is not None and not window.goes_on(take):
            detail = "another live device takes the point again; set loss_policy to 'retake' here too"
            raise FramesMissing(self._name, asked=request.n_frames, got=got, detail=detail)

    def state(self) -> str:
        """Say what the stream has received since it was opened."""
        state = self.stream.describe_state()
        n = self._n_passed_over
        return f"{state}; {n} frames without a pulse id passed over" if n else state

    def discard(self) -> None:
        """Take no more frames of this exposure. Safe at any time, and twice."""
        self._given_up.set()
        if self._queue is not None:
            self._queue.close()

    def close(self) -> None:
        """Disconnect; leave the detector as it was found. Safe from any state, and twice."""
        try:
            self.discard()
            self._forget()
            self.stream.close()
        finally:
            self._queue = self._settings = None
            if self._control is not None:
                self._control.restore()


def _is_in(window: PulseWindow, frame: StreamFrame, last: StreamFrame | None) -> bool:
    """Say whether a frame is of the window; one that carries no pulse is, after the first that is."""
    return last is not None if frame.pulse_id is None else window.admits(frame.pulse_id)


def _left_out(
    window: PulseWindow | None,
    last: StreamFrame | None,
    frame: StreamFrame,
    lost: range,
    step: int,
) -> Iterator[MissingFrame]:
    """Yield what was lost before a frame: by its number or pulse, else what was dropped here."""
    if last is None:
        if step and window is not None and frame.pulse_id is not None and frame.pulse_id > window.first:
            yield MissingFrame(f"frame of pulse {window.first}")
    elif last.acquisition != frame.acquisition:
        return
    elif step:
        for number in lost:
            yield MissingFrame(f"frame number {number}")
    else:
        for _ in range(frame.n_dropped):
            yield MissingFrame(f"one before frame number {frame.frame_number}")
