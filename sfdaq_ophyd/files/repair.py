"""A file whose writer was killed, made openable for everybody again.

HDF5 marks a file that is open for writing in its superblock, and notes its end there when it is closed. After
a kill the mark stays, and only ``swmr=True`` opens the file. What follows is what HDF5's own ``h5clear`` does
(flags and end of file), and the rows of ids that have no image are cut. Superblock version 3, HDF5 File
Format Specification, section II.A::

    0   8   signature
    8   1   version of the superblock, 3
    9   1   bytes of an address, 8
    10  1   bytes of a length, 8
    11  1   flags: 1 open for writing, 4 open in SWMR mode
    12  8   base address
    20  8   address of the superblock's extension
    28  8   end of the file
    36  8   address of the root group
    44  4   checksum of all before (Jenkins' lookup3)
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import socket
import struct
from pathlib import Path

from ..errors import FileFormatError, StorageError
from ._hdf5 import h5py, looking_into
from .std_daq_file import join_again
from .storage import writing

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIZE = 48
_WRITING = 1 | 4
_END = 28
_MASK = 0xFFFFFFFF

WRITER_HOST = "writer_host"
"""Attribute of a file: where its lock tells whether its writer lives."""


def hold(path: str | Path) -> io.FileIO:
    """Show that the file has a writer, until the object returned is closed or the process is gone.

    A shared lock of the system, as HDF5's own readers have: none of them is disturbed, and `repair` keeps its
    hands off. Where the file system knows no locks there is none.
    """
    file = io.FileIO(path)
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return file


def repair_if_ours(path: str | Path) -> bool:
    """Repair a file of `FrameFile` whose writer was killed on this host, where its lock tells for sure.

    Returns False if it was closed, has a writer, or is somebody else's.
    """
    with open(path, "rb") as file:
        head = file.read(_SIZE)
    if len(head) < _SIZE or head[:9] != _SIGNATURE + b"\x03" or not head[11] & _WRITING:
        return False
    try:
        with h5py.File(path, "r", swmr=True, locking=False) as file:
            host = file.attrs.get(WRITER_HOST)
        return host == socket.gethostname() and repair(path)
    except StorageError:
        return False


def repair(path: str | Path) -> bool:
    """Make a file whose writer was killed openable by any reader, in place.

    Parameters
    ----------
    path : str or Path
        An HDF5 file written in SWMR mode, by `FrameFile` or somebody else; or the empty one that stands for
        several files of the standard DAQ beside it, whose images it then shows.

    Returns
    -------
    bool
        False if there was nothing to do.

    Raises
    ------
    FileFormatError
        It is no HDF5 file, of another kind, or damaged.
    StorageError
        A process has it open, or this one may not change it.
    """
    path = Path(path)
    with looking_into(path):
        if not path.is_file():
            raise FileFormatError(path, "/", found="no such file", expected="an HDF5 file")
    with writing(path, "repairing"):
        if not path.stat().st_size and join_again(path):
            return True
    with writing(path, "repairing"), open(path, "r+b") as file:
        head = bytearray(file.read(_SIZE))
        if head[:8] != _SIGNATURE or len(head) < _SIZE:
            raise FileFormatError(path, "superblock", found="another beginning", expected="an HDF5 file")
        if head[8] != 3 or head[9] != 8:
            return False  # older ones carry no such marks
        if struct.unpack_from("<I", head, 44)[0] != lookup3(head[:44]):
            raise FileFormatError(path, "superblock", found="a wrong checksum", expected="an undamaged one")
        if not head[11] & _WRITING:
            return False
        _lock(file, path)
        head[11] &= ~_WRITING & 0xFF
        struct.pack_into("<Q", head, _END, os.fstat(file.fileno()).st_size)
        struct.pack_into("<I", head, 44, lookup3(head[:44]))
        file.seek(0)
        file.write(head)
        file.flush()
        os.fsync(file.fileno())
    _cut_rows(path)
    return True


def _lock(file: io.BufferedRandom, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StorageError(
            path,
            what="repairing",
            reason="a process has it open",
            hint="Its writer lives, or somebody reads it: wait until the file is closed, or end that process",
        ) from exc


def _cut_rows(path: Path) -> None:
    """Leave as many ids as there are images, in a file of `FrameFile`."""
    with (
        looking_into(path),
        writing(path, "repairing"),
        h5py.File(path, "r+", libver="latest", locking=False) as file,
    ):
        if WRITER_HOST not in file.attrs:  # somebody else's: its lengths are its own
            return
        group = file.get("entry/data")
        images = group.get("data") if isinstance(group, h5py.Group) else None
        if not isinstance(images, h5py.Dataset) or images.ndim != 3:
            return
        for one in [*group.values(), *file["entry"].values()]:
            if isinstance(one, h5py.Dataset) and len(one) > len(images):
                one.resize(len(images), axis=0)


def lookup3(data: bytes | bytearray) -> int:
    """Return the checksum that HDF5 has of its metadata: Bob Jenkins' hashlittle of 2006, from 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    blocks = max(0, len(data) - 1) // 12
    words = struct.unpack(f"<{3 * blocks}I", data[: 12 * blocks])
    for k in range(0, len(words), 3):
        a, b, c = _mix((a + words[k]) & _MASK, (b + words[k + 1]) & _MASK, (c + words[k + 2]) & _MASK)
    tail = bytes(data[12 * blocks :])
    if not tail:
        return c
    x, y, z = struct.unpack("<3I", tail.ljust(12, b"\0"))
    return _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _rotate(x: int, n: int) -> int:
    return ((x << n) | (x >> (32 - n))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for n in (4, 6, 8, 16, 19, 4):
        a = (a - c) & _MASK ^ _rotate(c, n)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for n in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, n)) & _MASK
        a, b, c = b, c, a
    return b
