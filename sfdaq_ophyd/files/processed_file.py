"""Write calibrated frames as the facility's processed file. See wire reference jungfrau, section 8.5."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration import JungfrauCalibration
from ..calibration.options import Roi
from ..errors import StorageError
from ..wire import compression
from ._lazy_imports import h5py, hdf5plugin
from .storage import leave_open, writing

BLOCK_ITEMS = 32768
"""Pixels that bitshuffle takes together."""


class ProcessedFile:
    """A new file of calibrated frames; a context manager.

    Parameters
    ----------
    path : str or Path
        Must not exist.
    calibration : JungfrauCalibration
        Makes the images, and is described in ``meta``. Regions of interest become groups of their own.
    n_frames : int
        Rows of every dataset.
    threads : int
        Images compressed at the same time.
    """

    def __init__(
        self, path: str | Path, calibration: JungfrauCalibration, n_frames: int, *, threads: int = 2
    ):
        self._calibration = calibration
        self._n_frames = n_frames
        self._images: dict[str | None, h5py.Dataset] = {}
        self.path, self._broken = Path(path), False
        with writing(path, "making"):
            self._file = h5py.File(path, "x")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compress")
        try:
            with self._writing():
                self._file["general/detector_name"] = calibration.detector_name
                rois = calibration.options.roi
                name = f"data/{calibration.detector_name}"
                self._images = (
                    {None: self._group(name, None)}
                    if rois is None
                    else {label: self._group(f"{name}:ROI_{label}", roi) for label, roi in rois.items()}
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ProcessedFile:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Safe twice."""
        self._pool.shutdown()
        if not self._broken:
            with self._writing():
                self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self.path):
                yield
        except StorageError:
            self._broken = True
            leave_open(self._file, *self._images.values())
            raise

    def _group(self, name: str, roi: Roi | None) -> h5py.Dataset:
        """Make a group with its ``meta`` and its empty images; return these."""
        calibration = self._calibration
        shape = calibration.shape if roi is None else (roi[1] - roi[0], roi[3] - roi[2])
        group = self._file.create_group(name)
        for key, value in _meta(calibration, roi).items():
            group[f"meta/{key}"] = value
        return group.create_dataset(
            "data",
            shape=(self._n_frames, *shape),
            chunks=(1, *shape),
            dtype=calibration.dtype,
            **hdf5plugin.Bitshuffle(nelems=BLOCK_ITEMS, cname="lz4"),
        )

    def write_columns(self, **columns: np.ndarray) -> None:
        """Write numbers per frame, e.g. ``pulse_id``, each of shape (frames, ...), beside the images."""
        with self._writing():
            for images in self._images.values():
                for name, values in columns.items():
                    images.parent[name] = values

    def write(self, first_row: int, raw: np.ndarray) -> None:
        """Calibrate a stack of raw images, shape (frames, y, 1024); write them from row `first_row` on."""
        parts: dict[str | None, npt.NDArray[Any]] = {}
        if self._calibration.options.roi is None:
            parts[None] = self._calibration(raw)
        else:
            parts.update(self._calibration.regions(raw))
        with self._writing():
            for label, images in parts.items():
                self._write_images(self._images[label], first_row, images)

    def _write_images(self, target: h5py.Dataset, first_row: int, images: npt.NDArray[Any]) -> None:
        if not compression.available():
            target[first_row : first_row + len(images)] = images
            return
        chunks = self._pool.map(lambda image: compression.compress_bslz4(image, BLOCK_ITEMS), images)
        for row, chunk in enumerate(chunks, first_row):
            target.id.write_direct_chunk((row, 0, 0), chunk)


def _meta(calibration: JungfrauCalibration, roi: Roi | None) -> dict[str, Any]:
    options = calibration.options
    mask, reasons = calibration.pixel_mask, calibration.pixel_mask_reasons
    meta = {
        "module_map": np.array(calibration.module_map, dtype=np.int64),
        "conversion": options.conversion,
        "mask": calibration.masking,
        "gap_pixels": options.gap_pixels,
        "geometry": options.geometry,
        "double_pixels": options.double_pixels,
        "module_edge_pixels": options.module_edge_pixels,
        "downsample": np.array(options.downsample or (1, 1), dtype=np.int64),
        "conversion_factor": math.nan if options.factor is None else options.factor,
    }
    if roi is None:
        return meta | {
            "pixel_mask": mask,
            "pixel_mask_reasons": reasons,
            "good_pixels_fraction": calibration.good_fraction,
        }
    y1, y2, x1, x2 = roi
    return meta | {
        "roi": np.array([[y1, y2], [x1, x2]], dtype=np.int64),
        "pixel_mask": mask[y1:y2, x1:x2],
        "pixel_mask_reasons": reasons[y1:y2, x1:x2],
    }
