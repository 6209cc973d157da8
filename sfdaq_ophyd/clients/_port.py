"""What one port has sent so far, and which numbering its frames belong to."""

from __future__ import annotations

from ..wire.module_header import ModuleHeader

WINDOW = 1000
"""A jump back of more than this many frame numbers is a new numbering."""


class Numberings:
    """Every time frame numbers start anew, they belong to a new numbering, counted over all ports.

    Parameters
    ----------
    max_lag : float
        No port is further than this behind another, s.
    """

    def __init__(self, max_lag: float):
        self._max_lag = max_lag
        self._opened: dict[int, float] = {}

    def oldest(self, now: float) -> int:
        """Return the oldest numbering any port can still be in: the next one began just now, if at all."""
        past = [n for n, opened in self._opened.items() if opened < now - self._max_lag]
        for numbering in past[:-1]:
            del self._opened[numbering]
        return past[-1] if past else 0

    def after(self, numbering: int, now: float) -> int:
        """Return the numbering of a port that was in `numbering` and starts anew; -1 for a first frame."""
        chosen = max(numbering + 1, self.oldest(now))
        self._opened.setdefault(chosen, now)
        return chosen

    @property
    def newest(self) -> int:
        """The newest numbering any port has reached; -1 before the first frame."""
        return max(self._opened, default=-1)


class Port:
    """Follow one port. Inside a port numbers grow, until an acquisition or a numbering ends.

    Attributes
    ----------
    numbering : int
        See `Numberings`.
    last : int
        Highest frame number of this numbering; -1 before the first.
    n_frames : int
        Module frames so far.
    heard : float
        When the last one came, s of counted time.
    silent : bool
        Whether images need not wait for it.
    """

    def __init__(self, endpoint: str, numberings: Numberings):
        self.endpoint = endpoint
        self.numbering, self.last = -1, -1
        self.n_frames, self.heard, self.silent = 0, 0.0, False
        self._numberings = numberings
        self._ended = False
        self._ticks = 0
        self._pulse_id = self._file_index = None

    def __str__(self) -> str:
        if not self.n_frames:
            return f"{self.endpoint}: no frame yet"
        return f"{self.endpoint}: {self.n_frames} frames, last number {self.last}"

    def end(self) -> None:
        """Take note of an end message; whether the numbering ends too, the next frame tells."""
        self._ended = True

    def passed(self, numbering: int, number: int) -> bool:
        """Tell whether this port has sent `number` of that numbering, or a later one."""
        return (self.numbering, self.last) >= (numbering, number)

    def follow(self, header: ModuleHeader, now: float) -> bool:
        """Take note of a frame that came at `now`, s of counted time; True if it opened a new acquisition."""
        number = header.frame_number
        self.n_frames, self.heard, self.silent = self.n_frames + 1, now, False
        restarted = self._restarted(header)
        if restarted:
            self.numbering = self._numberings.after(self.numbering, now)
        elif (oldest := self._numberings.oldest(now)) > self.numbering:
            self.numbering, restarted = oldest, True
        elif number < self.last:
            return False  # late: says nothing about where the port is now
        opened = restarted or self._ended or 0 < header.ticks < self._ticks
        self.last = number if restarted else max(self.last, number)
        self._ended = False
        self._ticks = header.ticks or (0 if opened else self._ticks)
        self._pulse_id = header.pulse_id or self._pulse_id
        self._file_index = header.file_index
        return opened

    def _restarted(self, header: ModuleHeader) -> bool:
        """Tell a new numbering from a frame that is late or sent twice."""
        number, pulse_id = header.frame_number, header.pulse_id
        if number > self.last:
            return self.last < 0
        if self._ended or header.file_index != self._file_index or number < self.last - WINDOW:
            return True
        if pulse_id is not None and self._pulse_id is not None and pulse_id > self._pulse_id:
            return True
        first = header.frame_index == 0 and (pulse_id is None or self._pulse_id is None)
        return number < self.last and (first or self.numbering < self._numberings.newest)
