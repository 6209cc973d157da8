"""Which frame is which: ids within a series, stale ones kept out, gaps found."""

from __future__ import annotations

from ...clients import SimplonClient
from ...clients.simplon import MonitorFrame
from ...errors import WireError
from ...wire.simplon import event_id
from ._settings import LegacyIds


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


class SeriesFilter:
    """Let only the frames of one series pass, each once and in order, and say which are missing.

    Image numbers start at 0 on some firmware and at 1 on other: the lowest first number ever seen counts.
    """

    def __init__(self):
        self._first: int | None = None
        self._next: int | None = None
        self.series_id: int | None = None

    def start(self, series_id: int) -> None:
        """Begin a new series."""
        self.series_id, self._next = series_id, None

    def accept(self, series_id: int, image_id: int) -> list[str] | None:
        """Take the ids of a frame that came.

        Returns
        -------
        list of str, or None
            Event ids of the frames missing before it; None if the frame is stale.
        """
        if series_id != self.series_id:
            return None
        if self._next is None:
            self._first = image_id if self._first is None else min(self._first, image_id)
            self._next = self._first
        if image_id < self._next:
            return None
        missing = [event_id(series_id, k) for k in range(self._next, image_id)]
        self._next = image_id + 1
        return missing

    def still_missing(self, n: int) -> list[str]:
        """Return what to call `n` frames that did not come at the end."""
        start = self._next if self._next is not None else self._first
        return [event_id(self.series_id, start + k) if start is not None else "" for k in range(n)]


def _no_ids(frame: MonitorFrame) -> str:
    try:
        return frame.event_id
    except WireError as exc:
        return str(exc)
