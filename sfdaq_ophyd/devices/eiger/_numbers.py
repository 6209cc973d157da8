"""Frames that are compressed still: checked, and numbers of some, in a thread, while all go by in order."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ...clients.eiger_stream import EigerFrame
from ...errors import WireError
from ...wire.compression import check_blocks
from ...wire.frame import Frame, FrameFormat, MissingFrame
from .._worker import Worker
from ._series import FrameStatistics

logger = logging.getLogger(__name__)

LOOK = 0.1
"""s between two looks at whether nobody wants the numbers any more."""


@dataclass
class _Job:
    """Numbers that are being computed; a `problem` says why there are none."""

    frame: Frame
    done: threading.Event | None = None
    problem: str = ""


class PackedFrames:
    """Check frames, and let them pass in order; one whose numbers are computed holds up those behind it.

    A frame that comes while others are computed goes without, so that no more than one computation is ever
    waited for.

    Parameters
    ----------
    name : str
        Of the device.
    """

    def __init__(self, name: str):
        self._name, self._worker = name, Worker(f"{name} numbers")
        self._items: deque[Frame | MissingFrame | FrameFormat] = deque()
        self._job: _Job | None = None
        self._last_time = -math.inf

    def begin_series(self) -> None:
        """Say that times may begin anew."""
        self._last_time = -math.inf

    def frame(self, frame: EigerFrame, form: FrameFormat | None, numbers: Iterable[str]) -> Frame:
        """Return a frame as files and events have it, without the images that are wrong; no numbers yet.

        Raises
        ------
        WireError, ShapeError
            No image is left; or one came that was not announced.
        """
        scalars: dict[str, float | str] = dict.fromkeys(numbers, math.nan)
        scalars |= {"receive_time": frame.received, "real_time": frame.real_time}
        scalars["series_uid"] = frame.series_uid
        if not frame.has_detector_time:
            pass  # the time of arrival is of another clock
        elif self._last_time < math.inf and not frame.timestamp > self._last_time:
            told = (self._name, frame.event_id, frame.timestamp, self._last_time)
            logger.warning("%s: frame %s is of %.6f s, not after the one before, of %.6f s", *told)
            self._last_time = math.inf  # told once per series
        else:
            self._last_time = max(frame.timestamp, self._last_time)
        made = Frame(
            image=None,
            timestamp=frame.timestamp,
            event_id=frame.event_id,
            is_good=frame.is_good,
            lacks=frame.lacks,
            scalars=scalars,
            packed=frame.packed,
        )
        assert form is not None  # the source said it when it was opened
        return _checked(made, form)

    def clear(self) -> None:
        """Forget what waits."""
        self._items.clear()
        self._job = None

    def put(self, item: Frame | MissingFrame | FrameFormat, statistics: FrameStatistics | None) -> None:
        """Take the next frame; with `statistics` its numbers go into its `scalars`, a dict of its own."""
        self._items.append(item)
        if not isinstance(item, Frame) or "image" not in item.packed:
            return
        if statistics is not None and self._job is None:
            job = self._job = _Job(item)
            job.done = self._worker.do(lambda: _compute(job, statistics))

    def ready(self, stop: threading.Event | None = None) -> Iterator[Frame | MissingFrame | FrameFormat]:
        """Yield what need not wait; with `stop` everything, unless that is set.

        An image whose bytes turn out not to be one is missing.
        """
        while self._items:
            item, job = self._items[0], self._job
            if job is not None and job.frame is item and job.done is not None:
                while not job.done.wait(0 if stop is None else LOOK):
                    if stop is None or stop.is_set():
                        return
                self._job = None
                if job.problem:
                    try:
                        item = _without(job.frame, {"image": f"image: {job.problem}"})
                    except WireError:
                        item = MissingFrame(f"{job.frame.event_id} ({job.problem})")
            self._items.popleft()
            if isinstance(item, Frame) and item.lacks:
                logger.warning("%s: frame %s lacks %s", self._name, item.event_id, item.lacks)
            yield item

    def end(self) -> None:
        """Let the thread go. Safe twice."""
        self.clear()
        self._worker.end()


def _checked(frame: Frame, form: FrameFormat) -> Frame:
    """Return a frame without the images that are cut short, or not as they were announced."""
    problems = {}
    for name, image in frame.packed.items():
        try:  # what is cut short could be stored, and never be read
            check_blocks(image.algorithm, image.data, image.n_bytes, image.dtype.itemsize)
            problem = form.unlike(name, image) if name in form.images else ""
        except WireError as exc:
            problem = f"{name}: {exc}"
        if problem:
            problems[name] = problem
    frame = _without(frame, problems) if problems else frame
    form.check(frame)
    return frame


def _without(frame: Frame, problems: Mapping[str, str]) -> Frame:
    left = {name: image for name, image in frame.packed.items() if name not in problems}
    why = "; ".join(problems.values())
    if not left:
        raise WireError(f"frame {frame.event_id}: {why}")
    lacks = f"{frame.lacks}; {why}" if frame.lacks else why
    return replace(frame, packed=left, is_good=False, lacks=lacks)


def _compute(job: _Job, statistics: FrameStatistics) -> None:
    try:
        assert isinstance(job.frame.scalars, dict)
        job.frame.scalars.update(statistics.of(job.frame.packed["image"].unpack()))
    except WireError as exc:
        job.problem = str(exc)
