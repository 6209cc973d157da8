"""The detector as the DAQ sees it: images with ids, in step with the pulse clock or in bursts."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from ..clock import LOOK, PulseClock
from ..faults import Fault, Faults


@dataclass(frozen=True)
class Image:
    """One image of the detector, without its pixels."""

    image_id: int
    pulse_id: int
    status: int = 0


@dataclass(frozen=True)
class Overrun:
    """A detector that is faster than the writer, so that the ring is overrun."""

    rate: float  # images per second of the detector, from the first image to the end of the acquisition
    pause: float  # s between two images that are written

    @classmethod
    def of(cls, n_images: int, seconds: float = 4.0, rate: float | None = None) -> Overrun:
        """Return the overrun of an acquisition that takes `seconds`."""
        pause = seconds / n_images
        return cls(max(2000.0, 4 / pause) if rate is None else rate, pause)


class ImageTaker(Protocol):
    """A driver, as the detector sees it."""

    overrun: Overrun | None
    """How the ring is to be overrun in the present acquisition."""

    @property
    def accepting(self) -> int:
        """Number of the acquisition that takes images, or 0; its faults begin with its first image."""

    @property
    def behind(self) -> bool:
        """Whether images wait to be written."""

    def image(self, image: Image) -> None:
        """Take an image."""


class ImageSource:
    """Images of a detector, one after the other.

    Image ids are frame numbers: with the clock ``(pulse_id - start_pulse_id) // rate_multiplicator + 1``, so
    that they agree with the live stream of the same detector. Pulses without trigger have no image, and
    do not count. A patient clock waits for the images, and for a writer that is behind.

    Parameters
    ----------
    clock : PulseClock
    start_pulse_id : int
        Of frame 1.
    rate_multiplicator : int
        Every so many pulses there is an image.
    driver : callable
        Returns the present `ImageTaker`.
    faults : Faults
        gap, bad_frames, stall (to the end of the acquisition, or for so many seconds), fewer_images.

    Attributes
    ----------
    n_images : int
        So many were sent.
    observers : list of callable
        Each is called with each `Image`, before the driver.
    """

    def __init__(
        self,
        clock: PulseClock,
        start_pulse_id: int,
        rate_multiplicator: int,
        driver: Callable[[], ImageTaker],
        faults: Faults,
    ):
        self._clock, self._start, self._every = clock, start_pulse_id, rate_multiplicator
        self._driver, self._faults = driver, faults
        self.observers: list[Callable[[Image], object]] = []
        self._script: Generator[Image] = self._timed(0, 0.0, 0)
        self._wake, self._closing = threading.Event(), threading.Event()
        self._plan: dict[str, Fault | None] = {}
        self._acquisition = self._n_in_acquisition = 0
        self._quiet_until = 0.0
        self._flood: threading.Thread | None = None
        self._next_id, self._untriggered = 1, 0
        self.n_images = 0
        self._thread = threading.Thread(target=self._run, name="std-daq images", daemon=True)
        self._thread.start()

    def follow_clock(self) -> None:
        """Send one image per detector frame, until told otherwise."""
        self._use(self._clocked())

    def burst(self, n: int, rate: float, first_id: int | None = None) -> None:
        """Send `n` images at `rate` Hz, ids going on from the last or from `first_id`, then none."""
        self._use(self._timed(n, 1.0 / rate, self._next_id if first_id is None else first_id))

    def silence(self) -> None:
        """Send nothing."""
        self._use(self._timed(0, 0.0, 0))

    def close(self) -> None:
        """End the thread. Safe twice."""
        self._closing.set()
        self._wake.set()
        self._thread.join(5)

    def _use(self, script: Generator[Image]) -> None:
        self._script = script
        self._wake.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            script = self._script
            with contextlib.closing(script):
                for image in script:
                    if self._script is not script or self._closing.is_set():
                        break
                    if self._flood is None:
                        self._next_id = image.image_id + 1
                    self._send(image)

    def _clocked(self) -> Generator[Image]:
        every, clock = self._every, self._clock
        with clock.follow("standard DAQ") as follower:
            pulse_id = clock.now() // every * every
            while not self._closing.is_set() and not self._wake.is_set():
                pulse_id += every
                follower.finished(pulse_id - 1)
                if not clock.wait_for(pulse_id, timeout=0.5, stop=self._closing):
                    pulse_id -= every
                    continue
                behind = (clock.now() - pulse_id) // every
                if behind > 100 and not clock.patient:  # a clock stepped far ahead, not a late thread
                    pulse_id += behind * every
                if not clock.view(pulse_id).triggered:
                    self._untriggered += 1
                    continue
                yield Image((pulse_id - self._start) // every + 1 - self._untriggered, pulse_id)
                while clock.patient and self._driver().behind and not self._wake.is_set():
                    self._closing.wait(LOOK)

    def _timed(self, n: int, period: float, first_id: int) -> Generator[Image]:
        due = time.monotonic()
        for image_id in range(first_id, first_id + n):
            if self._closing.wait(max(0.0, due - time.monotonic())) or self._wake.is_set():
                return
            yield Image(image_id, image_id)
            due += period

    def _accepting(self) -> int:
        return self._driver().accepting

    def _send(self, image: Image) -> None:
        acquisition = self._accepting()
        if acquisition != self._acquisition:
            self._begin(acquisition)
        if self._flood is not None:
            return
        n, plan = self._n_in_acquisition, self._plan
        self._n_in_acquisition += 1
        if not acquisition:
            self._out(image)
            return
        if time.monotonic() < self._quiet_until:
            return
        if (fewer := plan["fewer_images"]) and n >= fewer["n"]:
            return
        if (gap := plan["gap"]) and 0 < n <= gap.get("n", 1):
            return
        if (stall := plan["stall"]) and n == stall.get("after", 1):
            self._quiet_until = time.monotonic() + stall.get("seconds", math.inf)
            return
        if (bad := plan["bad_frames"]) and n < bad.get("n", 1):
            image = Image(image.image_id, image.pulse_id, bad.get("status", 1))
        self._out(image)

    def _begin(self, acquisition: int) -> None:
        """Take the faults of an acquisition, or those of none."""
        self._acquisition, self._n_in_acquisition, self._quiet_until = acquisition, 0, 0.0
        self._flood = None
        if acquisition:
            names = ("gap", "bad_frames", "stall", "fewer_images")
            self._plan = {name: self._faults.take(name) for name in names}
            if (overrun := self._driver().overrun) is not None:
                self._flood = threading.Thread(
                    target=self._overrun_ring, args=[acquisition, overrun.rate], daemon=True
                )
                self._flood.start()

    def _overrun_ring(self, acquisition: int, rate: float) -> None:
        """Send images in place of the others, too fast for the writer, as long as the acquisition runs."""
        due = time.monotonic()
        while self._accepting() == acquisition and not self._closing.is_set():
            image_id, self._next_id = self._next_id, self._next_id + 1
            self._out(Image(image_id, self._start + (image_id - 1) * self._every))
            due += 1 / rate
            self._closing.wait(max(0.0, due - time.monotonic()))

    def _out(self, image: Image) -> None:
        self.n_images += 1
        for observe in tuple(self.observers):
            observe(image)
        self._driver().image(image)
