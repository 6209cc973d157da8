"""When a frame was taken: a peer's clock in our time."""

from __future__ import annotations

from collections import deque

DRIFT = 2e-5
"""How fast a peer's clock and ours may part, s/s."""

SETTLED = 4
"""Stamps in a row that do not move the clock, after which it is trusted."""

JITTER = 1e-3
"""s by which the earliest arrival may be undercut without an effect on trust."""

MOST_CLOCKS = 8
"""Acquisitions whose clocks are kept."""

STOOD = 0.1
"""s by which a stamp is late, though nothing waits: then the clock stood, or goes slowly."""


class Clock:
    """Which of our times a stamp means: arrival is late by transfer and queueing, never early.

    So the smallest difference of arrival and stamp is the offset. It may drift, and is taken anew where a
    clock stood (a simulator's does): where stamps come late that nothing else can have held up.
    """

    def __init__(self):
        self._offset: float | None = None
        self._seen, self._newest = 0.0, 0.0
        self._settled = 0
        self._late: deque[float] = deque(maxlen=2 * SETTLED)

    def follow(self, stamp: float, arrival: float, quiet: bool = False) -> None:
        """Take note of one arrival.

        Parameters
        ----------
        stamp : float
            The peer's time, s from any moment.
        arrival : float
            S since the epoch.
        quiet : bool
            Whether nothing had come for a while, so that this one cannot have waited for others.
        """
        found = arrival - stamp
        if self._offset is None:
            self._offset, self._seen, self._newest = found, arrival, stamp
            return
        expected = self._offset + DRIFT * max(0.0, arrival - self._seen)
        self._offset, self._seen = min(found, expected), arrival
        stood = quiet and found > expected + STOOD
        if stood or found < expected - JITTER:
            self._settled = 0
        elif stamp > self._newest:  # one that comes after others have told its time says nothing new
            self._settled += 1
        self._newest = max(self._newest, stamp)
        if not stood:
            self._late.clear()
            return
        self._late.append(found)
        if len(self._late) == self._late.maxlen and found > self._late[0] - JITTER:
            self._offset = min(self._late)
            self._late.clear()

    @property
    def trusted(self) -> bool:
        """Whether it can tell what is older than a moment: of late it neither ran ahead nor stood."""
        return self._settled >= SETTLED

    def time(self, stamp: float) -> float | None:
        """Return when that was, s since the epoch; None if nothing is known yet."""
        return None if self._offset is None else self._offset + stamp


class Clocks:
    """The clocks of the acquisitions of a stream: a module's begins anew with each."""

    def __init__(self):
        self._from: list[tuple[tuple[int, int], Clock]] = []  # from which image on

    def begin(self, image: tuple[int, int]) -> None:
        """Have the clock begin anew with this image (its numbering and number); ports come to it in turn."""
        if all(first != image for first, _ in self._from):
            self._from = sorted([*self._from, (image, Clock())], key=lambda pair: pair[0])[-MOST_CLOCKS:]

    def of(self, image: tuple[int, int]) -> Clock:
        """Return the clock by which an image was taken."""
        return next((clock for first, clock in reversed(self._from) if first <= image), self._from[0][1])
