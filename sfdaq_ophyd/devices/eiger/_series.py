"""Which frame is which: ids within a series, stale ones kept out, late ones put in order, gaps found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from ...clients import SimplonClient
from ...clients.simplon import MonitorFrame
from ...wire.simplon import SOFTWARE_TRIGGERED, TriggerMode, event_id, first_sentinel
from .._acquisition import LossPolicy

BLOCK = 2**16
"""Pixels looked at together: they stay in the processor's cache, and counts of 16 bit add up in 32."""


class FrameStatistics:
    """Compute the numbers of one frame after the other.

    Parameters
    ----------
    dtype : numpy dtype
        Of the frames.
    cutoff : int or None
        Largest valid count; None leaves `n_saturated` out.
    exclude_masked : bool
        Leave sentinels (2**n - 1, 2**n - 2) and the pixels of `pixel_mask` out.
    pixel_mask : ndarray, shape (y, x), optional
        Needed only where the detector does not apply its mask: nonzero means bad.
    """

    def __init__(self, dtype, cutoff: int | None, exclude_masked: bool, pixel_mask: np.ndarray | None = None):
        self._dtype = np.dtype(dtype)
        self._cutoff = cutoff
        self._sentinel = first_sentinel(dtype) if exclude_masked else None
        self._good = None if pixel_mask is None or not exclude_masked else pixel_mask == 0

    @property
    def names(self) -> dict[str, str]:
        """Names and numpy types of the numbers."""
        names = {"total": "i8", "max": "i8"}
        return names if self._cutoff is None else names | {"n_saturated": "i8"}

    def of(self, image: np.ndarray) -> dict[str, int]:
        """Return the numbers of `image`, shape (y, x); `max` of a frame without valid pixels is 0."""
        if self._good is not None:
            image = np.where(self._good, image, image.dtype.type(self._sentinel))
        flat = image.reshape(-1)
        total = highest = n_saturated = 0
        for start in range(0, flat.size, BLOCK):
            block_total, block_highest, block_saturated = self._of_block(flat[start : start + BLOCK])
            total += block_total
            highest = max(highest, block_highest)
            n_saturated += block_saturated
        numbers = {"total": total, "max": highest}
        return numbers if self._cutoff is None else numbers | {"n_saturated": n_saturated}

    def _of_block(self, block: np.ndarray) -> tuple[int, int, int]:
        sums = "u4" if block.itemsize < 4 else "u8"  # the narrower, the faster
        total, highest, n_flags = int(block.sum(dtype=sums)), int(block.max()), 0
        if self._sentinel is not None and highest >= self._sentinel:
            for flag in (self._sentinel, self._sentinel + 1):
                n = int(np.count_nonzero(block == flag))
                n_flags, total = n_flags + n, total - n * flag
            shifted = block + block.dtype.type(2)  # the two flags wrap round to 0 and 1
            highest = max(0, int(shifted.max()) - 2)
        if self._cutoff is None or highest <= self._cutoff:
            return total, highest, 0
        return total, highest, int(np.count_nonzero(block > self._cutoff)) - n_flags


class Mode(StrEnum):
    """Who runs the detector."""

    INTERNAL = "internal"
    """This device arms and triggers."""
    EXTERNAL = "external"
    """This device arms, hardware triggers."""
    MONITOR = "monitor"
    """Somebody else runs the detector; frames are taken as the monitor gives them."""
    AUTO = "auto"
    """Internal, unless the detector cannot be reached or is being run by somebody else: then monitor."""


class Readout(StrEnum):
    """Where frames come from."""

    MONITOR = "monitor"
    """One HTTP request each: for looking, and for slow scans."""
    STREAM = "stream"
    """Every frame at full rate, over ZeroMQ."""
    FILEWRITER = "filewriter"
    """Every frame at full rate, in the files that the detector control unit writes itself."""


class LegacyIds(StrEnum):
    """Where ids come from if the TIFF has none (API 1.6)."""

    REFUSE = "refuse"
    """Such a frame is an error."""
    STATUS = "status"
    """From ``monitor/status/next_image_number``, read after each frame."""
    LOCAL = "local"
    """Counted here, and marked so: ``local_<series>_<n>``."""


TRIGGER_MODES = {
    Mode.INTERNAL: SOFTWARE_TRIGGERED,
    Mode.EXTERNAL: frozenset(TriggerMode) - SOFTWARE_TRIGGERED,
}
"""Trigger modes that fit; any other is replaced by the default."""

DEFAULT_TRIGGER_MODE = {Mode.INTERNAL: TriggerMode.INTS, Mode.EXTERNAL: TriggerMode.EXTS}


@dataclass(frozen=True)
class EigerSettings:
    """The signals of an `Eiger` as they are at stage.

    Attributes
    ----------
    frames_per_trigger : int
    n_triggers : int
        Triggers of one series in a step scan; after that many the detector is armed again.
    timeout : float
        s without a frame, on top of the exposure.
    exclude_masked : bool
        Keep sentinels and masked pixels out of the computed numbers.
    loss_policy : LossPolicy
        Where it is strict, an unreadable image is an error; else it counts as a missing frame.
    statistics_every : int
        Numbers are computed of every so many frames of a fly scan, where that is done aside; 0: of none.
    """

    mode: Mode = Mode.INTERNAL
    frames_per_trigger: int = 1
    n_triggers: int = 1000
    timeout: float = 10.0
    exclude_masked: bool = True
    legacy_ids: LegacyIds = LegacyIds.REFUSE
    loss_policy: LossPolicy = LossPolicy.STRICT
    statistics_every: int = 10


WINDOW = 8
"""Frames that may wait for an earlier one; fewer where they are large."""

WINDOW_BYTES = 512 * 2**20
"""The same in bytes; at least two frames."""


class FrameIds:
    """Find the series and image number of each frame.

    Parameters
    ----------
    client : SimplonClient
    legacy : LegacyIds
        What to do with frames whose TIFF has no ids.
    """

    def __init__(self, client: SimplonClient, legacy: LegacyIds):
        self._client, self._legacy = client, legacy
        self._n_local = 0

    def of(self, frame: MonitorFrame, series_id: int | None) -> tuple[int, int, str]:
        """Return (series, image, event id); `series_id` is the open series, for frames counted here.

        Raises
        ------
        WireError
            The frame has no ids, and `LegacyIds.REFUSE` holds.
        """
        if frame.series_id is not None and frame.image_id is not None:
            return frame.series_id, frame.image_id, frame.event_id
        if self._legacy is LegacyIds.STATUS:
            series, image = self._client.last_taken()
            return series, image, event_id(series, image)
        if self._legacy is LegacyIds.LOCAL:
            series, image = series_id or 0, self._n_local
            self._n_local += 1
            return series, image, f"local_{event_id(series, image)}"
        return -1, -1, frame.event_id  # which says what is missing, and what to do

    def restart(self) -> None:
        """Count from 0 again: a new series."""
        self._n_local = 0


class SeriesOrder:
    """Let only the frames of one series pass, each once and in order, and say which are missing.

    The monitor may hand out a frame before an earlier one. It waits for that: until it comes, until more than
    `window` frames wait, or until the series ends.

    Parameters
    ----------
    first : int, optional
        Number of the first image. The monitor's start at 0 on some firmware and at 1 on other: the lowest
        first number ever seen counts.

    Attributes
    ----------
    window : int
        Frames that may wait.
    series_id : int or None
    uid : str
        The detector's unique id of the series, once a frame told it: numbers begin anew when the detector
        does, and two series of one number do not mix.
    """

    def __init__(self, first: int | None = None):
        self.window = WINDOW
        self.series_id: int | None = None
        self.uid = ""
        self._first = first
        self._next: int | None = None
        self._waiting: dict[int, Any] = {}
        self._past: set[str] = set()

    def fit(self, frame_bytes: int) -> None:
        """Let as many frames of this size wait as there is memory for."""
        self.window = max(2, min(WINDOW, WINDOW_BYTES // frame_bytes))

    def start(self, series_id: int) -> None:
        """Begin a new series."""
        self._past.add(self.uid)
        self.series_id, self.uid = series_id, ""
        self._next, self._waiting = None, {}

    def is_past(self, uid: str) -> bool:
        """Whether a series of this unique id was the open one before."""
        return uid in self._past

    def accept(
        self, series_id: int, image_id: int, frame: Any, *, uid: str = "", n_wanted: int = 1
    ) -> list[tuple[str, Any]] | None:
        """Take a frame that came.

        Parameters
        ----------
        n_wanted : int
            Frames that are still to come, this one included; no more go on.

        Returns
        -------
        list of (str, object), or None
            Event id and frame of what can go on, in order, a lost one with None; None if the frame is stale.
        """
        if series_id != self.series_id or (uid and (uid in self._past or uid != (self.uid or uid))):
            return None
        if self._next is None and self._first is not None:
            self._next = self._first = min(self._first, image_id)
        if image_id in self._waiting or (self._next is not None and image_id < self._next):
            return None
        self.uid = self.uid or uid
        self._waiting[image_id] = frame
        if self._next is None:
            if image_id != 0 and 0 not in self._waiting and len(self._waiting) < min(n_wanted, self.window):
                return []  # the number 0 may still come
            self._next = self._first = min(self._waiting)
        return self._in_order(n_wanted, keep=self.window)

    def end(self, n_wanted: int) -> list[tuple[str, Any]]:
        """Return what waits, and what is missing between; nothing more comes of this series."""
        if self._next is None and self._waiting:
            self._next = self._first = min(self._waiting)
        return self._in_order(n_wanted, keep=0)

    def still_missing(self, n: int) -> list[str]:
        """Return what to call `n` frames that did not come at the end."""
        start = self._next if self._next is not None else self._first
        if start is None or self.series_id is None:
            return [""] * n
        return [event_id(self.series_id, start + k) for k in range(n)]

    def _in_order(self, n: int, keep: int) -> list[tuple[str, Any]]:
        """Return the next `n` frames at the most, lost ones among them if more than `keep` wait for them."""
        passed: list[tuple[str, Any]] = []
        while (
            self._waiting and len(passed) < n and (self._next in self._waiting or len(self._waiting) > keep)
        ):
            assert self.series_id is not None and self._next is not None  # what waits is of a series
            passed.append((event_id(self.series_id, self._next), self._waiting.pop(self._next, None)))
            self._next += 1
        return passed
