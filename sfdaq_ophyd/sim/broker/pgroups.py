"""A pgroup: its directories and counters, and whether it is closed (contract sections 3.4, 3.10, 4.4)."""

from __future__ import annotations

from ...wire.broker import raw_directory
from .refusals import ValidationError
from .tree import Tree


class PGroup:
    """One pgroup at one beamline.

    Parameters
    ----------
    tree : Tree
    beamline, name : str
        Where, and e.g. ``p12345``; the format is not checked, only that the directory exists.

    Raises
    ------
    ValidationError
        There is no such directory.
    """

    def __init__(self, tree: Tree, beamline: str, name: str):
        self._tree, self.name = tree, name
        self.raw = raw_directory(beamline, name)
        if not tree.exists(self.raw):
            raise ValidationError(f"pgroup directory {self.raw} not reachable")
        self.run_info = f"{self.raw}run_info"

    @property
    def closed(self) -> bool:
        """Whether it was closed for writing."""
        return self._tree.exists(f"{self.run_info}/CLOSED")

    def check_open(self, already: str = "") -> None:
        """Refuse a closed pgroup; `already` is "already " where the server says so."""
        if self.closed:
            words = f"is {already}closed for writing"
            raise ValidationError(f"pgroup directory {self.raw} {words}", f"{self.raw} {words}")

    def close(self) -> None:
        """Close it, for ever."""
        self.make_run_info()
        self._tree.write_text(f"{self.run_info}/CLOSED", "")

    def make_run_info(self) -> None:
        """Make the directory of the counters."""
        make_directory(self._tree, self.run_info)

    def last(self, counter: str) -> int:
        """Return a counter, ``LAST_RUN`` or ``LAST_ARUN``; it starts at 0, and the file is made."""
        self.make_run_info()
        path = f"{self.run_info}/{counter}"
        if not self._tree.exists(path):
            self._tree.write_text(path, "0")
        return int(self._tree.read_text(path))

    def advance(self, counter: str) -> int:
        """Count up by one and return the new number."""
        number = self.last(counter) + 1
        self._tree.write_text(f"{self.run_info}/{counter}", str(number))
        return number


def make_directory(tree: Tree, path: str) -> None:
    """Make a directory with its parents; ValidationError, in the server's words, where a file stands."""
    try:
        tree.make(path)
    except OSError as exc:
        reason = f"{type(exc).__name__}: [Errno {exc.errno}] {exc.strerror}: {path!r}"
        raise ValidationError(f"cannot create directory {path} (due to: {reason})") from exc
