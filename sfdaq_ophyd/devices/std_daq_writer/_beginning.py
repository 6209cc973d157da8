"""The beginning of an acquisition: whether the writer takes images already, and what was lost if it did not.

The service says WRITING at one look at the writer, every 0.1 s; its driver subscribes to the images at a look
of its own, so up to 0.1 s later, more on a busy host, and nothing tells but the count of the images (contract
std-daq.md, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...limits import Limit
from ...wire.std_daq import Acquisition
from ._flow import NO_IMAGES
from ._rates import STALE, Stats

QUIET = 1.0
"""s in which the DAQ's stats must show no image at any look, before none are said to come by themselves."""


@dataclass
class ImagesFlow:
    """Whether images come by themselves, in one staging; None while that is not known."""

    known: bool | None = None


class Beginning:
    """Decide when others may send images to a file, and explain why none arrive.

    Parameters
    ----------
    name : str
        Of the device.
    settle_time : float
        s until others may send images where none come by themselves.
    timeout : float
        s without an image after which an explanation is asked for.
    flow : ImagesFlow
        What earlier files of the staging have shown.
    stats : Stats or None
        Throughput.
    others_done : callable
        Whether the others have their frames; None if nobody waits for the writer.
    fresh : bool
        Whether the file was just started: one that grew before takes images.
    """

    def __init__(
        self,
        name: str,
        settle_time: float,
        timeout: float,
        *,
        flow: ImagesFlow,
        stats: Stats | None,
        others_done: Callable[[], bool | None],
        fresh: bool,
    ):
        self._name, self._settle, self._timeout = name, Limit(settle_time), timeout
        self._quiet = Limit(QUIET)
        self._flow, self._stats, self._others_done, self._fresh = flow, stats, others_done, fresh

    def takes_images(self, acquisition: Acquisition) -> bool:
        """Tell whether others may send images now.

        Where images come by themselves, once some arrived; where they come only when others are triggered,
        once `settle_time` is over, on trust.
        """
        if acquisition.n_requested or acquisition.n_completed:
            if self._fresh:
                self._flow.known = True
            return True
        if not self._settle.reached():
            return False
        if self._flow.known is not False:
            rate = self._rate()
            if rate:
                self._quiet.restart()  # they come and do not arrive, or came until a second ago
            if rate is not None and not self._quiet.reached():
                return False
        self._flow.known = False
        return True

    def why_silent(self, acquisition: Acquisition) -> str:
        """Say why no image arrives, as far as anybody knows."""
        if self._timeout > STALE and (rate := self._rate()):
            return f"the detector sends {rate:.3g} images/s, and the DAQ takes none of them"
        done = self._others_done()
        if done and not self._fresh:
            return "the detectors are done, so images were lost"
        if done is None or not self._fresh or self._flow.known and not done:
            return NO_IMAGES
        early = (
            "the DAQ takes images only from a moment after WRITING on (0.1 s, more on a busy host): raise "
            f"{self._name}.settle_time, {self._settle.seconds:g} s"
        )
        if done:
            return f"the detectors are done, so images were lost, most likely the first ones: {early}"
        more = " any more" if acquisition.n_completed else ""
        return f"{NO_IMAGES}{more}, or sent them too early: {early}"

    def _rate(self) -> float | None:
        """Return images per second of the detector; None where nobody knows."""
        stats = self._stats() if self._stats is not None else None
        return None if stats is None else stats.detector_images_per_second
