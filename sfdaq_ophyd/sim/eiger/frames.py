"""Frames of one series: a shared scene image, a stamp, and the TIFF around them.

What the simulated detector sees: rings, peaks, a beam stop, gaps, Poisson noise. Seeded.

A scene is drawn once per configuration as a small ring of images; a frame is one of them with another
stamp in its first pixels and the sample's reflection in a few of its rows, so a frame costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...wire.tiff_write import TiffTags, frame_around
from ..faults import Faults
from ..stamp import STAMP_PIXELS, write_stamp
from .config import DetectorConfig
from .monitor import StoredFrame

_D_SPACINGS = (4.15, 2.94, 2.40, 2.08, 1.86, 1.70, 1.47, 1.39, 1.31)
"""Lattice spacings of LaB6, angstrom."""

_SPOT = 64
"""Rows and columns of the sample's reflection."""

_PIXEL_SIZE = 75e-6
_ROWS = 256


@dataclass(frozen=True)
class Scene:
    """What decides the look of a frame; equal scenes look alike.

    Parameters
    ----------
    shape : (y, x)
    bit_depth : int
    count_time : float
        s; counts grow with it.
    cutoff : int
        Count rate cutoff; overloaded pixels read one more than this.
    energy_ev : float
    distance : float
        m.
    beam_center : (x, y) in pixels
    masked_value : int or None
        What masked pixels read; None leaves them as counted.
    mask_version : int
        Counts changes of the pixel mask.
    seed : int
    """

    shape: tuple[int, int]
    bit_depth: int
    count_time: float
    cutoff: int
    energy_ev: float
    distance: float
    beam_center: tuple[float, float]
    masked_value: int | None
    mask_version: int
    seed: int

    def render(self, pixel_mask: np.ndarray) -> list[np.ndarray]:
        """Draw the ring of images, each unsigned and of shape (y, x)."""
        n = 2 if np.prod(self.shape) > 2e6 else 6
        images = [np.empty(self.shape, f"<u{self.bit_depth // 8}") for _ in range(n)]
        self._draw_rings(images)
        masked = None if self.masked_value is None else pixel_mask != 0
        for k, image in enumerate(images):
            self._add_peaks(image, np.random.default_rng([self.seed, 2, k]))
            self._add_overloads(image)
            if masked is not None:
                np.copyto(image, image.dtype.type(self.masked_value), where=masked)
        return images

    def reflection(self, pixel_mask: np.ndarray) -> tuple[slice, slice, np.ndarray]:
        """Return rows, columns and counts of the sample's reflection with all of the sample in the light."""
        y, x = (max(1, int(f * n) - _SPOT // 2) for f, n in zip((0.25, 0.7), self.shape))
        rows, columns = slice(y, y + _SPOT), slice(x, x + _SPOT)
        away_y, away_x = np.ogrid[-_SPOT // 2 : _SPOT // 2, -_SPOT // 2 : _SPOT // 2]
        mean = 20000 * self.count_time * np.exp(-((away_y / 8) ** 2) / 2 - ((away_x / 6) ** 2) / 2)
        good = pixel_mask[rows, columns] == 0
        counts = np.random.default_rng([self.seed, 4]).poisson(mean)[: good.shape[0], : good.shape[1]]
        return rows, columns, counts * good

    @property
    def most(self) -> int:
        """Counts of the brightest pixel there can be that is not overloaded."""
        return min(self.cutoff, 2**self.bit_depth - 3)

    def _draw_rings(self, images: list[np.ndarray]) -> None:
        """Fill the images with Poisson counts: each pixel takes one of 256 drawn for its distance."""
        rng = np.random.default_rng([self.seed, 2])
        profile = self._radial_profile() * self.count_time
        drawn = np.minimum(rng.poisson(profile[:, None], (len(profile), 256)), 2**self.bit_depth - 3)
        drawn = drawn.astype(images[0].dtype).ravel()
        choices = rng.integers(0, 256, 2 * _ROWS * self.shape[1], dtype="u1")
        x = np.arange(self.shape[1], dtype="f4") - np.float32(self.beam_center[0])
        for start in range(0, self.shape[0], _ROWS):
            rows = slice(start, min(start + _ROWS, self.shape[0]))
            y = np.arange(rows.start, rows.stop, dtype="f4")[:, None] - np.float32(self.beam_center[1])
            distance = np.hypot(x, y).astype("i4")
            distance *= 256
            for image in images:
                at = rng.integers(0, len(choices) - distance.size + 1)
                which = distance + choices[at : at + distance.size].reshape(distance.shape)
                np.take(drawn, which, out=image[rows], mode="clip")

    def _radial_profile(self) -> np.ndarray:
        """Return counts per second and pixel by distance from the beam in pixels."""
        size = float(np.hypot(*self.shape))
        far = size + float(np.hypot(*self.beam_center))
        r = np.arange(int(far) + 2, dtype="f8")
        rate = 20 + 300 * np.exp(-r / (size / 6))
        wavelength = 12398.42 / self.energy_ev
        for spacing in _D_SPACINGS:
            sine = wavelength / (2 * spacing)
            if sine < 0.7:
                ring = self.distance * np.tan(2 * np.arcsin(sine)) / _PIXEL_SIZE
                rate += 600 * np.exp(-(((r - ring) / max(1.5, size / 400)) ** 2))
        rate[r < max(2, size / 50)] = 0  # the beam stop
        return rate

    def _add_peaks(self, image: np.ndarray, rng: np.random.Generator) -> None:
        place = np.random.default_rng([self.seed, 3])  # peaks stay where they are, their counts vary
        n = max(3, image.size // 40000)
        ys, xs = place.integers(2, self.shape[0] - 1, n), place.integers(1, self.shape[1] - 1, n)
        strength = place.pareto(1.2, n).clip(0, 200) * 4000 * self.count_time
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                counts = rng.poisson(strength * (1.0, 0.35, 0.1)[abs(dy) + abs(dx)])
                total = image[ys + dy, xs + dx] + counts
                image[ys + dy, xs + dx] = np.minimum(total, self.most)

    def _add_overloads(self, image: np.ndarray) -> None:
        """Overload one pixel near the beam stop, as a strong reflection does."""
        away = int(max(3, np.hypot(*self.shape) / 40))
        x, y = int(self.beam_center[0]) + away, int(self.beam_center[1]) + away
        if 0 < y < self.shape[0] and 0 <= x < self.shape[1]:
            image[y, x] = min(self.cutoff + 1, 2**self.bit_depth - 3)


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
        Also an attribute, as are `unique_id`, `offset_minutes` (of local time from UTC), `shape` (y, x),
        `dtype` and `n_bytes` of an image, and `channels`, names and energies in eV of the enabled thresholds;
        of the configuration `values` by name, and `arrays`.
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
        unique_id: str,
        profile: str,
        offset_minutes: int,
        series_time_ns: int | None,
        faults: Faults,
    ):
        self.images, self._profile, self._faults = images, profile, faults
        self._reflection, self._sample = reflection, sample
        self.rows = reflection[0]
        self._seen: list[tuple[int, float]] = []  # from which image on how much of the sample
        self._pixels = [image.data.cast("B") for image in images]
        self.series_id, self.series_time_ns = series_id, series_time_ns
        self.unique_id, self.offset_minutes = unique_id, offset_minutes
        self.values = {name: parameter.value for name, parameter in config.parameters.items()}
        self.arrays = dict(config.arrays)
        self.shape, self.dtype, self.n_bytes = images[0].shape, images[0].dtype, images[0].nbytes
        self._thresholds = config.thresholds()
        self.channels = [(f"threshold_{n}", energy) for n, energy in self._thresholds]
        self._common = {
            "series_unique_id": unique_id,
            "offset_minutes": offset_minutes,
            "incident_energy_ev": config["photon_energy"],
            "wavelength_angstrom": config["wavelength"],
            "beam_center": (config["beam_center_x"], config["beam_center_y"]),
            "detector_distance": config["detector_distance"],
        }

    def look(self, image_id: int) -> None:
        """Note how much of the sample is in the light: images from this one on show it."""
        sample = self._sample()
        if not self._seen or self._seen[-1][1] != sample:
            self._seen.append((image_id, sample))

    def sample_of(self, image_id: int) -> float:
        """Return how much of the sample an image shows."""
        return next((sample for since, sample in reversed(self._seen) if since <= image_id), 1.0)

    def frames(self, image_id: int, time_ns: int, count_time: float | None) -> Iterator[StoredFrame]:
        """Yield the monitor's frame of every enabled threshold, lowest first."""
        series_id = self.series_id + (1000 if self._faults.take("wrong_series") else 0)
        bare = self._faults.take("no_private_ifd")
        for threshold_id, energy in self._thresholds:
            tags = TiffTags(
                series_id=series_id,
                image_id=image_id,
                time_ns=time_ns if self.series_time_ns is None else self.series_time_ns,
                threshold_id=threshold_id,
                threshold_energy_ev=energy,
                exposure_time=self.values["count_time"] if count_time is None else count_time,
                **self._common,
            )
            pieces = self._pieces(image_id, stamp_of(series_id, image_id), None if bare else tags)
            yield StoredFrame(series_id, image_id, threshold_id, pieces)

    def image(self, image_id: int) -> np.ndarray:
        """Return the pixels of a frame, a copy."""
        image = self.images[image_id % len(self.images)].copy()
        image[self.rows] = self.band(image_id)
        write_stamp(image, stamp_of(self.series_id, image_id))
        return image

    def band(self, image_id: int) -> np.ndarray:
        """Return the rows with the sample's reflection, a copy."""
        rows, columns, counts, most = self._reflection
        band = self.images[image_id % len(self.images)][rows].copy()
        spot, shining = band[:, columns], counts > 0
        more = np.rint(counts * self.sample_of(image_id)).astype("i8")
        bright = np.minimum(spot + more, np.maximum(spot, most))  # what is overloaded stays so
        np.copyto(spot, bright.astype(band.dtype), where=shining)
        return band

    def _pieces(self, image_id: int, stamp: int, tags: TiffTags | None) -> tuple:
        k = image_id % len(self.images)
        image = self.images[k]
        before, after = frame_around(image.shape, 8 * image.itemsize, self._profile, tags)
        first = np.zeros((1, STAMP_PIXELS), image.dtype)
        write_stamp(first, stamp)
        band, row = self.band(image_id), image.strides[0]
        begin, end = self._reflection[0].start * row, self._reflection[0].start * row + band.nbytes
        pixels, spot = self._pixels[k], band.data.cast("B")
        pieces = (before + first.tobytes(), pixels[first.nbytes : begin], spot, pixels[end:], after)
        return tuple(piece for piece in pieces if len(piece))
