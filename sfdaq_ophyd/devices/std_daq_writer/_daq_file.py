"""What one acquisition wrote: what the documents say of it, and the check once it is closed.

Several files are one to the documents, and one that grows is what its points are: a virtual dataset beside
them. Images that came after the last point are in none, and no reader has to know how many those are.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...errors import DetectorStateError, FileFormatError
from ...files.joined_images import of_points
from ...files.std_daq_file import (
    StdDaqFile,
    count_std_daq_images,
    is_cut,
    link_columns,
    read_std_daq_file,
    write_joined,
)
from ...wire.frame import Frame, FrameFormat
from ...wire.std_daq import WriteRequest
from ...wire.std_daq_config import DaqConfig
from ...wire.std_daq_writing import DataFile, Writing, layout_of_one_file
from .._assets import frames_in_hdf5
from .._source import WrittenFile
from .._store import WrittenFileStore
from ._control import RingOverrun, ShortFile
from ._rates import RING_SLOTS, RingLag

logger = logging.getLogger(__name__)


PER_IMAGE = ("image_id", "image_status")
"""Data keys of a file that grows: columns beside the images."""

ROWS_PER_CHUNK = 4096
"""Of the datasets with one number per image, for readers; the file has them in one piece."""


T = TypeVar("T")


class DaqFile:
    """The file, or the files, of an acquisition.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    write : WriteRequest
        What is started.
    files : sequence of DataFile
        With the images, as the DAQ names them.
    local : callable
        Takes a path on the DAQ's hosts, returns where this machine sees it.
    config : DaqConfig
        Says shape and dtype of an image.
    ring : RingLag
        Knows how far the writer was behind.
    grows : bool
        Whether its points are registered while it is open.

    Attributes
    ----------
    path : str
        Of what the documents name, on the DAQ's hosts.
    n_handed : int
        Images that belong to points, while it grows.
    overrun : bool
        Whether pixels may be those of other frames.
    """

    def __init__(
        self,
        name: str,
        write: WriteRequest,
        files: Sequence[DataFile],
        local: Callable[[str], str],
        config: DaqConfig,
        ring: RingLag,
        *,
        grows: bool,
    ):
        self._name, self.write, self._files, self._config, self._grows = name, write, files, config, grows
        self._paths = [Path(local(file.path)) for file in files]
        self._parts: list[tuple[DataFile, StdDaqFile]] = []
        self._n_joined = 0
        self._to_local = local
        self._name_it(joined=grows or len(files) > 1)
        self.ring, self.n_handed, self.overrun = ring, 0, False

    def _name_it(self, *, joined: bool) -> None:
        """Say which file the documents name: one of ours, or that of the DAQ."""
        first, asked = self._files[0], self.write.output_file
        ours = of_points(asked) if first.path == asked else asked
        self._joined, self.path = joined, ours if joined else first.path
        self._layout = layout_of_one_file(self._config.detector_name) if joined else first.layout
        self._local = Path(self._to_local(self.path))

    def reserve(self) -> None:
        """Take the name of the file of ours, before anything is started.

        Of one file of the DAQ that has its ids in datasets of their own, documents name the file itself where
        none can be made beside it. Then only a catalog of ours knows where its points end.

        Raises
        ------
        DetectorStateError
            It cannot be made here, or the DAQ would overwrite a file.
        """
        for path in self._paths:
            if os.path.lexists(path):
                raise DetectorStateError(f"{self._name}: {path} exists, and the DAQ would overwrite it")
        if not self._joined:
            return
        first, path = self._files[0], self._paths[0]
        alone = len(self._files) == 1 and first.layout.has_columns
        try:
            if alone:  # whatever becomes of this process, who reads it sees the DAQ's file
                link_columns(self._local, self._layout, path, first.layout)
            else:  # no HDF5 yet: whoever reads it is told so
                self._local.touch(exist_ok=False)
        except OSError as exc:
            if alone:
                logger.info("%s: no file can be made beside %s: %s", self._name, first.path, exc)
                self._name_it(joined=False)
                return
            raise DetectorStateError(
                f"{self._name}: the DAQ writes {len(self._files)} files, and {self._local}, which joins "
                f"them, cannot be made here ({exc}). If this machine sees the folder under another name, "
                "tell it with mounted={...}"
            ) from exc

    def release(self) -> list[str]:
        """Give the name back, for no point needs the files; return those there are, on the DAQ's hosts."""
        if self._joined:
            self._local.unlink(missing_ok=True)
        return [file.path for file, path in zip(self._files, self._paths) if path.exists()]

    def is_closed(self) -> bool:
        """Whether the first of the files is seen to be closed; False where that cannot be told."""
        return is_cut(self._paths[0], self._files[0].layout)

    def look_at_ring(self, writing: Writing, on_lag: Callable[[float], None]) -> RingOverrun | None:
        """Tell `on_lag` that the writer is further behind; return, once, what to say if that is too far."""
        before, lag = self.ring.lag, self.ring.look(writing)
        if lag > before:
            on_lag(lag)
        if lag < RING_SLOTS or self.overrun:
            return None
        self.overrun = True
        return RingOverrun(
            self._name,
            asked=self.write.n_images,
            got=writing.n_completed,
            detail=f"the writer was {lag:.0f} images or more behind the detector, of a ring of {RING_SLOTS}: "
            f"pixels in {self.write.output_file} may be those of other frames, though ids and status are "
            "right. Lower the rate, or take bursts of fewer images",
        )

    def announced(self, frames_per_point: int, drop: Callable[[], None]) -> WrittenFile:
        """Return the asset of its images; with their frame numbers and statuses if it grows."""
        images = frames_in_hdf5(self._layout.images, self._config.image_shape, frames_per_point)
        keys = {"image": {**images, "swmr": False}}
        if self._grows:
            for key, column in zip(PER_IMAGE, (self._layout.image_id, self._layout.status)):
                more = {"dataset": column.dataset, "chunk_shape": (ROWS_PER_CHUNK,)}
                keys[key] = {**keys["image"], **more}
        return WrittenFile(self._local, self.write.n_images, keys, drop=drop, keep=self.keep)

    def hand_out(self, n: int) -> Iterator[Frame]:
        """Yield frames until `n` are handed out; ids are place in the file, for nobody can read it yet."""
        for k in range(self.n_handed, n):
            self.n_handed = k + 1
            yield Frame(None, math.nan, f"{self.write.run_id}:{k}")

    def check_count(self, ended: Writing | None, wanted: int) -> int:
        """Return how many images were written; ShortFile if those are fewer than `wanted`."""
        assert ended is not None  # it was looked at before it ended
        n = ended.n_completed if ended.is_exact else self._count()
        if n < wanted:
            why = f"the DAQ ended {self.write.output_file} with {ended.text!r}"
            raise ShortFile(self._name, asked=wanted, got=n, detail=why)
        return n

    def _count(self) -> int:
        """Return how many images the closed files hold; DetectorStateError if they cannot be read here."""
        n = 0
        for data, path in zip(self._files, self._paths):
            most = data.share(self.write.n_images)
            n += self._try(data, path, partial(count_std_daq_images, path, data.layout, most), "images")
        return n

    def closed(self, n: int) -> StdDaqFile:
        """Read ids and statuses of the closed files, check that they hold `n` images, join several.

        Raises
        ------
        FileFormatError
            One is shorter, of another format, or padded where images should be.
        DetectorStateError
            One cannot be read from here, or they cannot be joined.
        """
        parts = [(data, self._read(data, path, n)) for data, path in zip(self._files, self._paths)]
        ((_, file), *_) = parts
        if self._joined:
            self._parts = parts
            file = self._join(n)
        if n_bad := int(np.count_nonzero(~file.is_good)):
            rows = ", ".join(map(str, np.flatnonzero(~file.is_good)[:10]))
            logger.warning(
                "%s: %d of %d images in %s are incomplete (rows %s%s)",
                self._name, n_bad, n, self.path, rows, ", ..." * (n_bad > 10),
            )  # fmt: skip
        return file

    def keep(self, n: int) -> None:
        """Leave out of the file of ours what came after the first `n` images: it is of no point.

        Raises
        ------
        DetectorStateError
            It cannot be written.
        """
        if n < self._n_joined:
            self._join(n)

    def _join(self, n: int) -> StdDaqFile:
        shape, dtype = self._config.image_shape, self._config.dtype
        try:
            file = write_joined(self._local, self._layout, self._parts, n, shape=shape, dtype=dtype)
        except OSError as exc:
            raise DetectorStateError(
                f"{self._name}: the DAQ wrote {n} images to {len(self._parts)} files, which cannot be "
                f"joined in {self._local}: {exc}"
            ) from exc
        self._n_joined = n
        return file

    def _read(self, data: DataFile, path: Path, n: int) -> StdDaqFile:
        shape, dtype = self._config.image_shape, self._config.dtype
        n_here = data.share(n)
        read = partial(read_std_daq_file, path, data.layout, n_written=n_here, shape=shape, dtype=dtype)
        file = self._try(data, path, read, f"{n_here} images")
        if not file.image_id[1:].all():  # 0 can be the number of a first frame only
            row = int(np.argmin(file.image_id[1:] != 0)) + 1
            where = data.layout.image_id
            raise FileFormatError(
                path,
                where.dataset,
                found=f"padding from row {row} on",
                expected=f"{n_here} frame numbers",
            )
        return file

    def _try(self, data: DataFile, path: Path, read: Callable[[], T], what: str) -> T:
        try:
            return read()
        except OSError as exc:
            hint = "If this machine sees the folder under another name, tell it with mounted={...}"
            if isinstance(exc, FileNotFoundError) and path.parent.is_dir():
                hint = f"{path.parent} is here: the DAQ did not make the file. {hint}"
            raise DetectorStateError(
                f"{self._name}: the DAQ wrote {what} to {data.path}, but {path} cannot be "
                f"read here ({exc}). {hint}"
            ) from exc


class RunFileStore(WrittenFileStore):
    """Points of a file that stays open from trigger to trigger.

    A point that was taken but not saved leaves images in the file that belong to none: the file is ended
    then, and the next point begins another one.

    Parameters
    ----------
    name, frame_format, frames_per_point
        As for `WrittenFileStore`.
    is_open : callable
        Whether the file of the last point takes images.
    end : callable
        Ends it.
    """

    def __init__(
        self,
        name: str,
        frame_format: FrameFormat,
        frames_per_point: int,
        is_open: Callable[[], bool],
        end: Callable[[], None],
    ):
        super().__init__(name, frame_format, frames_per_point)
        self._is_open, self._end = is_open, end

    def take_back_unsaved(self) -> None:
        """Forget points that were not saved; go on with the file if there were none."""
        with self._lock:
            self.settle()
            if self._rows or not self._is_open():
                self._end()
                super().take_back_unsaved()
            self._n_handed = 0
