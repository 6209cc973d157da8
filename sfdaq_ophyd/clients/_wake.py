"""Wake a thread that waits for sockets, from any other."""

from __future__ import annotations

import contextlib
import os


class Wake:
    """A pipe: ready to be read once `set` was called. Its ends close when nobody holds it any more."""

    def __init__(self):
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._read

    def set(self) -> None:
        """Wake the thread. From anywhere, any number of times."""
        with contextlib.suppress(BlockingIOError):  # it has plenty to read
            os.write(self._write, b"\0")

    def clear(self) -> None:
        """Be ready to be woken again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def __del__(self):
        os.close(self._read)
        os.close(self._write)
