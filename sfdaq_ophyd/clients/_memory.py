"""Keep the memory of messages in this process, as long as a stream is open.

glibc gives the pages of a freed message back to the kernel and asks for them again, page by page, when the
next one comes: measured with messages of 1 MiB, that is a third of the time that receiving takes.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

MMAP_THRESHOLD = 32 << 20
"""Larger pieces come from the kernel and go back to it; this is glibc's own upper limit."""

TRIM_THRESHOLD = 256 << 20
"""So much freed memory may stay with this process."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - AttributeError elsewhere
    except (OSError, AttributeError, TypeError):
        return None
    return library


def give_freed_memory_back() -> None:
    """Have glibc give freed memory back to the kernel.

    It keeps a heap per thread, and every stream that is opened has new threads: without this, memory grows
    with the number of heaps.
    """
    if keep_freed_memory():
        _glibc().malloc_trim(0)


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory, up to `TRIM_THRESHOLD`; once per process.

    Returns
    -------
    bool
        Whether it was done: not without glibc, nor where MALLOC_TRIM_THRESHOLD_ in the environment says how.
    """
    library = _glibc()
    if library is None or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    mallopt = library.mallopt
    mmap, trim = mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD), mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    return bool(mmap and trim)
