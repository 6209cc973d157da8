"""Frames of one series: a shared scene image, a stamp, and the TIFF around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...wire.tiff_write import TiffTags, frame_around
from ..stamp import STAMP_PIXELS, write_stamp
from .config import DetectorConfig
from .faults import Faults
from .monitor import StoredFrame


def stamp_of(series_id: int, image_id: int) -> int:
    """Return the number written into the first pixels of a frame."""
    return series_id << 32 | image_id


class FrameMaker:
    """Make the frames of one series, in the state the configuration had when it was armed.

    Parameters
    ----------
    images : list of ndarray
        Of the scene; frame i shows image i modulo their number.
    reflection : tuple
        Of the scene, `Scene.reflection`; and the counts of its brightest pixel.
    sample : callable
        How much of the sample is in the light now.
    series_id : int
        Also an attribute, as are `shape` (y, x), `dtype` and `n_bytes` of an image, and `n_channels`, the
        number of enabled thresholds.
    series_time_ns : int or None
        Written into every frame in place of its own time.
    """

    def __init__(
        self,
        config: DetectorConfig,
        images: list[np.ndarray],
        reflection: tuple[slice, slice, np.ndarray, int],
        *,
        sample: Callable[[], float],
        series_id: int,
        series_unique_id: str,
        profile: str,
        offset_minutes: int,
        series_time_ns: int | None,
        faults: Faults,
    ):
        self._images, self._profile, self._faults = images, profile, faults
        self._reflection, self._sample = reflection, sample
        self._seen: list[tuple[int, float]] = []  # from which image on how much of the sample
        self._pixels = [memoryview(image).cast("B") for image in images]
        self.series_id, self._series_time_ns = series_id, series_time_ns
        self.shape, self.dtype, self.n_bytes = images[0].shape, images[0].dtype, images[0].nbytes
        self._thresholds = config.thresholds()
        self.n_channels = len(self._thresholds)
        self._count_time = config["count_time"]
        self._common = {
            "series_unique_id": series_unique_id,
            "offset_minutes": offset_minutes,
            "incident_energy_ev": config["photon_energy"],
            "wavelength_angstrom": config["wavelength"],
            "beam_center": (config["beam_center_x"], config["beam_center_y"]),
            "detector_distance": config["detector_distance"],
        }

    def frames(self, image_id: int, time_ns: int, count_time: float | None) -> Iterator[StoredFrame]:
        """Yield the frame of every enabled threshold, lowest first."""
        sample = self._sample()
        if not self._seen or self._seen[-1][1] != sample:
            self._seen.append((image_id, sample))
        series_id = self.series_id + (1000 if self._faults.take("wrong_series") else 0)
        bare = self._faults.take("no_private_ifd")
        for threshold_id, energy in self._thresholds:
            tags = TiffTags(
                series_id=series_id,
                image_id=image_id,
                time_ns=time_ns if self._series_time_ns is None else self._series_time_ns,
                threshold_id=threshold_id,
                threshold_energy_ev=energy,
                exposure_time=self._count_time if count_time is None else count_time,
                **self._common,
            )
            pieces = self._pieces(image_id, stamp_of(series_id, image_id), None if bare else tags)
            yield StoredFrame(series_id, image_id, threshold_id, pieces)

    def image(self, image_id: int) -> np.ndarray:
        """Return the pixels of a frame, a copy."""
        image = self._images[image_id % len(self._images)].copy()
        image[self._reflection[0]] = self._band(image_id)
        write_stamp(image, stamp_of(self.series_id, image_id))
        return image

    def _band(self, image_id: int) -> np.ndarray:
        """Return the rows with the sample's reflection, a copy."""
        rows, columns, counts, most = self._reflection
        band = self._images[image_id % len(self._images)][rows].copy()
        spot, shining = band[:, columns], counts > 0
        sample = next((sample for since, sample in reversed(self._seen) if since <= image_id), 1.0)
        more = np.rint(counts * sample).astype("i8")
        bright = np.minimum(spot + more, np.maximum(spot, most))  # what is overloaded stays so
        np.copyto(spot, bright.astype(band.dtype), where=shining)
        return band

    def _pieces(self, image_id: int, stamp: int, tags: TiffTags | None) -> tuple:
        k = image_id % len(self._images)
        image = self._images[k]
        before, after = frame_around(image.shape, 8 * image.itemsize, self._profile, tags)
        first = np.zeros((1, STAMP_PIXELS), image.dtype)
        write_stamp(first, stamp)
        band, row = self._band(image_id), image.strides[0]
        begin, end = self._reflection[0].start * row, self._reflection[0].start * row + band.nbytes
        pixels, spot = self._pixels[k], memoryview(band).cast("B")
        pieces = (before + first.tobytes(), pixels[first.nbytes : begin], spot, pixels[end:], after)
        return tuple(piece for piece in pieces if len(piece))
