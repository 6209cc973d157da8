"""Numbers of frames that are compressed still: of some of them, in a thread, while all go by in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import WireError
from ...wire.frame import Frame, MissingFrame
from .._worker import Worker
from ._series import FrameStatistics

LOOK = 0.1
"""s between two looks at whether nobody wants the numbers any more."""


@dataclass
class _Job:
    """Numbers that are being computed; a `problem` says why there are none."""

    frame: Frame
    done: threading.Event | None = None
    problem: str = ""


class NumbersAside:
    """Let frames pass in order; one whose numbers are being computed waits for them, and so do those behind.

    A frame that comes while others are computed goes without, so that no more than one computation is ever
    waited for.

    Parameters
    ----------
    name : str
        Of the device.
    """

    def __init__(self, name: str):
        self._worker = Worker(f"{name} numbers")
        self._items: deque[Frame | MissingFrame] = deque()
        self._job: _Job | None = None

    def clear(self) -> None:
        """Forget what waits."""
        self._items.clear()
        self._job = None

    def put(self, item: Frame | MissingFrame, statistics: FrameStatistics | None) -> None:
        """Take the next frame; with `statistics` its numbers go into its `scalars`, a dict of its own."""
        self._items.append(item)
        if statistics is not None and isinstance(item, Frame) and self._job is None:
            job = self._job = _Job(item)
            job.done = self._worker.do(lambda: _compute(job, statistics))

    def ready(self, stop: threading.Event | None = None) -> Iterator[Frame | MissingFrame]:
        """Yield what need not wait; with `stop` everything, unless that is set.

        A frame whose bytes turn out not to be an image is missing.
        """
        while self._items:
            item, job = self._items[0], self._job
            if job is not None and job.frame is item and job.done is not None:
                while not job.done.wait(0 if stop is None else LOOK):
                    if stop is None or stop.is_set():
                        return
                self._job = None
                if job.problem:
                    item = MissingFrame(f"{job.frame.event_id} ({job.problem})")
            self._items.popleft()
            yield item

    def end(self) -> None:
        """Let the thread go. Safe twice."""
        self.clear()
        self._worker.end()


def _compute(job: _Job, statistics: FrameStatistics) -> None:
    try:
        assert isinstance(job.frame.scalars, dict)
        job.frame.scalars.update(statistics.of(job.frame.packed["image"].unpack()))
    except WireError as exc:
        job.problem = str(exc)
