"""One file of the DAQ: what the documents say of it, and the check once it is closed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ...clients.std_daq import DataFile
from ...errors import DetectorStateError, FileFormatError
from ...files.std_daq_file import StdDaqFile, read_std_daq_file
from ...wire.frame import Frame, FrameFormat
from ...wire.std_daq import WriteRequest
from ...wire.std_daq_config import DaqConfig
from .._assets import frames_in_hdf5
from .._source import WrittenFile
from .._store import WrittenFileStore
from ._rates import RingLag

logger = logging.getLogger(__name__)


PER_IMAGE = {"image_id": "image_id", "image_status": "status"}
"""Data keys of a file that grows, and their datasets beside the images."""

ROWS_PER_CHUNK = 4096
"""Of the datasets with one number per image, for readers; the file has them in one piece."""


class DaqFile:
    """A file that was started.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    write : WriteRequest
        What was started.
    data : DataFile
        Path on the DAQ's hosts, and group.
    path : Path
        Where this machine sees it.
    config : DaqConfig
        Says shape and dtype of an image.
    ring : RingLag
        Knows how far the writer was behind.

    Attributes
    ----------
    n_handed : int
        Images that belong to points, while it grows.
    overrun : bool
        Whether pixels may be those of other frames.
    """

    def __init__(
        self, name: str, write: WriteRequest, data: DataFile, path: Path, config: DaqConfig, ring: RingLag
    ):
        self._name, self.write, self._data, self.path, self._config = name, write, data, path, config
        self.ring, self.n_handed, self.overrun = ring, 0, False

    def announced(self, frames_per_point: int, drop: Callable[[], None], *, grows: bool) -> WrittenFile:
        """Return the asset of its images; with their frame numbers and statuses if it `grows`."""
        group = f"/{self._data.group}"
        images = frames_in_hdf5(f"{group}/data", self._config.image_shape, frames_per_point)
        keys = {"image": {**images, "swmr": False}}
        if grows:
            for key, dataset in PER_IMAGE.items():
                more = {"dataset": f"{group}/{dataset}", "chunk_shape": (ROWS_PER_CHUNK,)}
                keys[key] = {**keys["image"], **more}
        return WrittenFile(self.path, self.write.n_images, keys, drop=drop)

    def hand_out(self, n: int) -> Iterator[Frame]:
        """Yield frames until `n` are handed out; ids are place in the file, for nobody can read it yet."""
        for k in range(self.n_handed, n):
            self.n_handed = k + 1
            yield Frame(None, math.nan, f"{self.write.run_id}:{k}")

    def closed(self, n: int) -> StdDaqFile:
        """Read ids and statuses of the closed file, and check that it holds `n` images.

        Raises
        ------
        FileFormatError
            It is shorter, of another format, or padded where images should be.
        DetectorStateError
            It cannot be read from here.
        """
        shape, dtype = self._config.image_shape, self._config.dtype
        try:
            file = read_std_daq_file(self.path, self._data.group, n_written=n, shape=shape, dtype=dtype)
        except OSError as exc:
            raise DetectorStateError(
                f"{self._name}: the DAQ wrote {n} images to {self._data.path}, but {self.path} cannot be "
                f"read here ({exc}). If this machine sees the folder under another name, tell it with "
                "mounted={...}"
            ) from exc
        if not file.image_id[1:].all():  # 0 can be the number of a first frame only
            row = int(np.argmin(file.image_id[1:] != 0)) + 1
            raise FileFormatError(
                self.path,
                f"/{self._data.group}/image_id",
                found=f"padding from row {row} on",
                expected=f"{n} frame numbers",
            )
        if n_bad := int(np.count_nonzero(~file.is_good)):
            rows = ", ".join(map(str, np.flatnonzero(~file.is_good)[:10]))
            logger.warning(
                "%s: %d of %d images in %s are incomplete (rows %s%s)",
                self._name, n_bad, n, self._data.path, rows, ", ..." * (n_bad > 10),
            )  # fmt: skip
        return file


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
