"""What one acquisition wrote: what the documents say of it, and the check once it is closed.

Several files are one to the documents, and one that grows is what its points are: a virtual dataset beside
them. Images that came after the last point are in none, and no reader has to know how many those are.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from ...wire.frame import Frame
from ...wire.std_daq import DataFile, FileLayout, WriteRequest, Writing
from ...wire.std_daq_config import DaqConfig
from .._assets import frames_in_hdf5
from .._source import WrittenFile
from .._store import WrittenFileStore
from ._control import RingOverrun, ShortFile
from ._rates import RING_SLOTS, RingLag

logger = logging.getLogger(__name__)


PER_IMAGE = {"image_id": "image_id", "image_status": "status"}
"""Data keys of a file that grows, and the columns beside the images that they are."""

ROWS_PER_CHUNK = 4096
"""Of the datasets with one number per image, for readers; the file has them in one piece."""


class DaqFile:
    """The file, or the files, of the acquisition `write`.

    `files` are those with the images, as the DAQ names them, and `local` returns where this machine sees a
    path on the DAQ's hosts. Of one that `grows`, points are registered while it is open.

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
        # D3 does not cut a file of a single image: no reader would know which one is ours
        uncut = files[0].layout.compound and write.n_images == 1
        self._name_it(joined=grows or len(files) > 1 or uncut)
        self.ring, self.n_handed, self.overrun = ring, 0, False
        self._n_at_lag = 0  # images written when the largest lag was seen

    def _name_it(self, *, joined: bool) -> None:
        """Say which file the documents name: one of ours, or that of the DAQ."""
        first, asked = self._files[0], self.write.output_file
        ours = of_points(asked) if first.path == asked else asked
        self._joined, self.path = joined, ours if joined else first.path
        self._layout = FileLayout(self._config.detector_name) if joined else first.layout
        self._local = Path(self._to_local(self.path))

    def reserve(self) -> None:
        """Take the name of the file of ours, before anything is started.

        Of one file of the DAQ, documents name the file itself where none can be made beside it: then only a
        catalog of ours knows where its points end. They cannot where they name the ids too, and these are no
        dataset of their own.

        Raises
        ------
        DetectorStateError
            It must be made and cannot, or the DAQ would overwrite a file.
        """
        for path in self._paths:
            if os.path.lexists(path):
                raise DetectorStateError(f"{self._name}: {path} exists, and the DAQ would overwrite it")
        if not self._joined:
            return
        first, path = self._files[0], self._paths[0]
        alone = len(self._files) == 1 and not (self._grows and first.layout.compound)
        try:
            if (
                alone and not first.layout.compound
            ):  # whatever becomes of this process, who reads it sees the DAQ's file
                link_columns(self._local, self._layout, path)
            else:  # no HDF5 yet: whoever reads it is told so
                self._local.touch(exist_ok=False)
        except OSError as exc:
            if alone:
                logger.info("%s: no file can be made beside %s: %s", self._name, first.path, exc)
                self._name_it(joined=False)
                return
            theirs = f"the DAQ writes {len(self._files)} files, and {self._local}, which joins them,"
            if len(self._files) == 1:
                theirs = f"{self._local}, which has the ids of the images in {first.path} for readers,"
            raise DetectorStateError(
                f"{self._name}: {theirs} cannot be made here ({exc}). If this machine sees the folder under "
                "another name, tell it with mounted={...}"
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
        """Tell `on_lag` that the writer is further behind; return, once, what to say if that is too far.

        Of a writer that writes nothing more, its own limit tells: it may be dead.
        """
        before, lag = self.ring.lag, self.ring.look(writing)
        if lag > before:
            self._n_at_lag = writing.n_completed
            on_lag(lag)
        stands = writing.stop_time is None and writing.n_completed == self._n_at_lag
        if lag < RING_SLOTS or self.overrun or stands:
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
            for key, column in PER_IMAGE.items():
                more = {"dataset": self._layout.column(column)[0], "chunk_shape": (ROWS_PER_CHUNK,)}
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
            with self._told(data, path, "images"):
                n += count_std_daq_images(path, data.layout, data.share(self.write.n_images))
        return n

    def closed(self, n: int) -> StdDaqFile:
        """Read ids and statuses of the closed files, check that they hold `n` images, join several.

        FileFormatError if one is shorter, of another format, or padded where images should be;
        DetectorStateError if one cannot be read from here, or they cannot be joined.
        """
        self._parts = [(data, self._read(data, path, n)) for data, path in zip(self._files, self._paths)]
        file = self._join(n) if self._joined else self._parts[0][1]
        if n_bad := int(np.count_nonzero(~file.is_good)):
            rows = ", ".join(map(str, np.flatnonzero(~file.is_good)[:10]))
            logger.warning(
                "%s: %d of %d images in %s are incomplete (rows %s%s)",
                self._name, n_bad, n, self.path, rows, ", ..." * (n_bad > 10),
            )  # fmt: skip
        return file

    def keep(self, n: int) -> None:
        """Leave out of the file of ours what came after the first `n` images: it is of no point."""
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
        with self._told(data, path, f"{n_here} images"):
            file = read_std_daq_file(path, data.layout, n_written=n_here, shape=shape, dtype=dtype)
        if not file.image_id[1:].all():  # 0 can be the number of a first frame only
            row = int(np.argmin(file.image_id[1:] != 0)) + 1
            where, _ = data.layout.column("image_id")
            found, expected = f"padding from row {row} on", f"{n_here} frame numbers"
            raise FileFormatError(path, where, found=found, expected=expected)
        return file

    @contextmanager
    def _told(self, data: DataFile, path: Path, what: str) -> Iterator[None]:
        """Turn what the system refuses inside into a DetectorStateError that says what a person can do."""
        try:
            yield
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
    *args
        As for `WrittenFileStore`.
    is_open : callable
        Whether the file of the last point takes images.
    end : callable
        Ends it.
    """

    def __init__(self, *args: Any, is_open: Callable[[], bool], end: Callable[[], None]):
        super().__init__(*args)
        self._is_open, self._end = is_open, end

    def take_back_unsaved(self) -> None:
        """Forget points that were not saved; go on with the file if there were none."""
        with self._lock:
            self.settle()
            if self._rows or not self._is_open():
                self._end()
                super().take_back_unsaved()
            self._n_handed = 0
