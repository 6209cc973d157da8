"""Decisions of the Jungfrau device, without ophyd: which frames of the stream belong to an exposure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ...clients import StreamFrame
from ...clients.stream import FrameQueue, FrameStream
from ...errors import DetectorStateError, FramesMissing, ServiceTimeout, SfdaqError
from ...limits import Limit
from ...wire.frame import Frame, FrameFormat, MissingFrame
from .._pulse_window import PulseWindow
from .._source import Progress, Request
from ..pulse_id import PulseId
from ._control import HardwareControl
from ._processing import Processing

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
    process : Processing
        Makes a device's frame of a stream's.
    frame_step : int
        Frame numbers grow by so much from frame to frame, a jump is a loss; 0: jumps mean nothing, and only
        what was dropped here is lost.
    connect_timeout : float
        For every endpoint to answer, s.
    by_frame : bool
        Event ids are frame numbers, also where the pulse is known.
    """

    process: Processing
    frame_step: int = 1
    connect_timeout: float = CONNECT_TIMEOUT
    by_frame: bool = False


class StreamSource:
    """Frames of a stream that were taken after they were asked for.

    Parameters
    ----------
    name : str
        For messages.
    stream : FrameStream
        Open while staged.
    pulse_id : PulseId, optional
        Tells the machine's pulse of the moment; then only later ones count, of the point's `PulseWindow`, and
        no frame that carries none before the first of those. Without it, only frames sent after they were
        asked for, as the stream can tell (`FrameStream.flush`).
    control : HardwareControl, optional
        Has the detector send frames while staged.

    Attributes
    ----------
    window : PulseWindow or None
        Of the point; without one, that of this device alone.
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

        Raises
        ------
        DetectorStateError
            The stream carries something else.
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
        """Be one of the live devices of a window; None if no pulses are counted."""
        return None if self._pulse_id is None else window.join(self._name, self._pulse_id, live=True)

    def _new_window(self, request: Request) -> PulseWindow | None:
        """Return the window of one attempt; None if no pulses are counted."""
        if self._pulse_id is None:
            return None
        if self.window is None or request.flying:
            return PulseWindow.of_one(self._name, self._pulse_id)
        return self.window

    def frames(self, request: Request) -> Iterator[Frame | MissingFrame | Progress | None]:
        """Yield frames of pulses after this call, and a `MissingFrame` for each that was lost.

        Raises
        ------
        DetectorStateError
            The stream is not open.
        """
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
            n_frames, whole = 0, True
            for frame in queue:
                self._look_at_others(window, take, request, n_frames)
                if window is not None and not _is_in(window, frame, last):
                    self._n_passed_over += frame.pulse_id is None
                    if not window.is_open:
                        yield Progress(0, "other devices of the point are not triggered yet")
                    continue
                for missing in _left_out(window, last, frame, settings.frame_step):
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
    window: PulseWindow | None, last: StreamFrame | None, frame: StreamFrame, step: int
) -> Iterator[MissingFrame]:
    """Yield what was lost before a frame: by its number or pulse, else what was dropped here."""
    if last is None:
        if step and window is not None and frame.pulse_id is not None and frame.pulse_id > window.first:
            yield MissingFrame(f"frame of pulse {window.first}")
    elif last.acquisition != frame.acquisition:
        return
    elif step:
        for number in range(last.frame_number + step, frame.frame_number, step):
            yield MissingFrame(f"frame number {number}")
    else:
        for _ in range(frame.n_dropped):
            yield MissingFrame(f"one before frame number {frame.frame_number}")
