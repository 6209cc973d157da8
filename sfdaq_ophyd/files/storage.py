"""What a disk or a folder refuses, in our words: the path, what is free, and what a person does."""

from __future__ import annotations

import ctypes
import errno
import getpass
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StorageError
from ._hdf5 import h5py

WRITEBACK_BYTES = 16 << 20
"""New bytes with which the system begins to write; on its own it waits for seconds, and a sync with it."""

_NUMBER = re.compile(r"errno = (\d+)")

_HINTS = {
    errno.ENOSPC: "Free space there, or set another directory",
    errno.EDQUOT: "The quota is used up: free space there, or set another directory",
    errno.EROFS: "Its file system is read-only: have it mounted for writing, or set another directory",
    errno.ENOENT: "Was the folder moved or removed? Put it back, or set another directory",
    errno.ESTALE: "The file server forgot it: have it mounted anew, or set another directory",
    errno.ENOTDIR: "A file stands where a folder should be: set another directory",
    errno.EEXIST: "Something of this name is there, and is not replaced: move it, or set another directory",
}
_ANY_HINT = "See what the system's log says of this disk, or set another directory"


@contextmanager
def writing(path: str | Path, what: str = "writing") -> Iterator[None]:
    """Turn what the disk refuses inside into a `StorageError` about `path`."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, RuntimeError) as exc:
        if (number := _errno_of(exc)) is None:
            raise
        raise refused(path, number, what) from exc


def leave_open(*objects: h5py.HLObject) -> None:
    """Have HDF5 never look again at a file that it could not write.

    After a failed flush HDF5 2.0 cannot close the file: it frees half of it, and the process dies with the
    next file it makes, or at its end. So the objects of the file are kept for ever.
    """
    for one in objects:
        for kept in (one, one.id):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


def refused(path: str | Path, number: int | None, what: str = "writing", *, reason: str = "") -> StorageError:
    """Return the error for the error number `number`, or for a `reason` that has none."""
    hint, said = _ANY_HINT, ""
    if number is not None:
        hint, said = _HINTS.get(number, _ANY_HINT), os.strerror(number)
    if number in (errno.EACCES, errno.EPERM):
        hint = _whose(_nearest(path))
    return StorageError(path, what=what, reason=reason or said, free=_free(path), hint=hint, number=number)


def check_folder(folder: str | Path) -> None:
    """Raise `StorageError` if no file can be made below `folder`; nothing is made yet."""
    there = _nearest(folder)
    if not there.is_dir():
        raise refused(folder, errno.ENOTDIR, "making files in")
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        raise refused(folder, errno.EROFS if read_only else errno.EACCES, "making files in")


def make_folder(folder: str | Path) -> None:
    """Make a folder and those above it, unless they are there."""
    with writing(folder, "making the folder"):
        Path(folder).mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace a small file as a whole: a reader finds the old one or the new one. Its folder is made.

    Where it is `durable`, a crash of the machine finds one of the two as well. StorageError if it could not
    be written: the old one stays, and nothing half is left.
    """
    make_folder(path.parent)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with writing(path):
            with open(new, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def append_line(path: Path, text: str) -> None:
    """Append a line in one piece, so that two threads may; StorageError if not all of it is taken.

    It begins with the end of the line before: one that was cut off spoils only itself.
    """
    line = f"\n{text}".encode()
    with writing(path), path.open("ab", buffering=0) as file:
        if file.write(line) < len(line):  # a disk that gets full takes a part, without a word
            raise refused(path, errno.ENOSPC)


@contextmanager
def new_hdf5(path: str | Path, *, replace: bool = True, **options) -> Iterator[h5py.File]:
    """Make an HDF5 file in memory, and at the end on the disk, with its folder; `StorageError` from there.

    Nothing is made if anything is raised inside. On a disk that is full HDF5 itself would end the process.
    Without `replace` the folder must be there, and nothing of that name.
    """
    path = Path(path)
    if not replace:
        with writing(path, "making"):
            path.touch(exist_ok=False)
    try:
        with h5py.File(path, "w", driver="core", backing_store=False, block_size=1 << 20, **options) as file:
            yield file
            file.flush()
            content = file.id.get_file_image()
        write_whole(path, content, durable=False)
    except BaseException:
        if not replace:
            path.unlink(missing_ok=True)
        raise


def begin_writeback(file: io.FileIO, begun: int) -> int:
    """Have the system bring to disk what is new, and go on: then a sync has little left to wait for.

    Takes the number of bytes with which that was begun before, and returns that with which it is begun now.
    """
    size = os.fstat(file.fileno()).st_size
    if size - begun < WRITEBACK_BYTES:
        return begun
    with suppress(AttributeError, OSError):  # a hint, which not every system takes
        os.posix_fadvise(file.fileno(), begun, size - begun, os.POSIX_FADV_DONTNEED)
    return size


def sync(paths: Iterable[Path]) -> None:
    """Return once files, and their names in their folders, are on the disk itself; may take long."""
    folders = set()
    for path in paths:
        with writing(path, "syncing"):
            _sync(path)
        folders.add(path.parent)
    for folder in folders:
        with writing(folder, "syncing"):
            _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def _errno_of(exc: BaseException) -> int | None:
    """Return the error number of an error of the system, or of one inside HDF5's own text."""
    number = exc.errno if isinstance(exc, OSError) else None
    if number is None and (found := _NUMBER.search(str(exc))):
        number = int(found[1])
    return number or None


def _nearest(path: str | Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    path = Path(path).absolute()
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def _free(path: str | Path) -> str:
    try:
        usage = shutil.disk_usage(_nearest(path))
    except OSError:
        return "free space unknown"
    return f"{usage.free / 1e9:.3g} GB free of {usage.total / 1e9:.3g} GB"


def _whose(path: Path) -> str:
    try:
        owner, mode = path.owner(), path.stat().st_mode & 0o7777
    except (OSError, KeyError):
        return f"This process may not write to {path}: set another directory"
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    whose = f"{path} is {owner}'s, mode {mode:o}, and this process is {user}'s"
    return f"{whose}: change that, or set another directory"
