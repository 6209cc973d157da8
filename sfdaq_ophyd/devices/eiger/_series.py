"""Which frame is which: ids within a series, stale ones kept out, late ones put in order, gaps found."""

from __future__ import annotations

from typing import Any

from ...clients import SimplonClient
from ...clients.simplon import MonitorFrame
from ...errors import WireError
from ...wire.simplon import event_id
from ._settings import LegacyIds

WINDOW = 8
"""Frames that may wait for an earlier one; fewer where they are large."""


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
        raise WireError(_no_ids(frame))

    def restart(self) -> None:
        """Count from 0 again: a new series."""
        self._n_local = 0


class SeriesOrder:
    """Let only the frames of one series pass, each once and in order, and say which are missing.

    The monitor may hand out a frame before an earlier one. It waits for that: until it comes, until more than
    `window` frames wait, or until the series ends.

    Image numbers start at 0 on some firmware and at 1 on other: the lowest first number ever seen counts.

    Attributes
    ----------
    window : int
        Frames that may wait.
    series_id : int or None
    uid : str
        The detector's unique id of the series, once a frame told it: numbers begin anew when the detector
        does, and two series of one number do not mix.
    """

    def __init__(self):
        self.window = WINDOW
        self.series_id: int | None = None
        self.uid = ""
        self._first: int | None = None
        self._next: int | None = None
        self._waiting: dict[int, Any] = {}
        self._past: set[str] = set()

    def start(self, series_id: int) -> None:
        """Begin a new series."""
        self._past.add(self.uid)
        self.series_id, self.uid = series_id, ""
        self._next, self._waiting = None, {}

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
        return [event_id(self.series_id, start + k) if start is not None else "" for k in range(n)]

    def _in_order(self, n: int, keep: int) -> list[tuple[str, Any]]:
        """Return the next `n` frames at the most, lost ones among them if more than `keep` wait for them."""
        passed = []
        while (
            self._waiting and len(passed) < n and (self._next in self._waiting or len(self._waiting) > keep)
        ):
            passed.append((event_id(self.series_id, self._next), self._waiting.pop(self._next, None)))
            self._next += 1
        return passed


def _no_ids(frame: MonitorFrame) -> str:
    try:
        return frame.event_id
    except WireError as exc:
        return str(exc)
