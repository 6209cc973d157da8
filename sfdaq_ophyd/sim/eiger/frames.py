"""Frames of one series: a shared scene image, a stamp, and the TIFF or the compression around them.

What the simulated detector sees: rings, peaks, a beam stop, gaps, Poisson noise. Seeded.

A scene is drawn, and compressed, once per configuration as a small ring of images; a frame is one of them
with another stamp in its first pixels and the sample's reflection in a few of its rows, so a frame costs next
to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...wire import compression
from ...wire.compression import ArrayBytes
from ...wire.tiff_write import TiffTags, frame_around
from ..faults import Faults
from ..stamp import STAMP_PIXELS, write_stamp
from .monitor import StoredFrame

_D_SPACINGS = (4.15, 2.94, 2.40, 2.08, 1.86, 1.70, 1.47, 1.39, 1.31)
"""Lattice spacings of LaB6, angstrom."""

_SPOT = 64
"""Rows and columns of the sample's reflection."""

_PIXEL_SIZE = 75e-6
_ROWS = 256


@dataclass(frozen=True)
class EigerScene:
    """What decides the look of a frame; equal scenes look alike."""

    shape: tuple[int, int]  # (y, x)
    bit_depth: int
    count_time: float  # s; counts grow with it
    cutoff: int  # overloaded pixels read one more than this
    energy_ev: float
    distance: float  # m
    beam_center: tuple[float, float]  # (x, y), pixels
    masked_value: int | None  # what masked pixels read; None leaves them as counted
    mask_version: int  # counts changes of the pixel mask
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


@dataclass(eq=False, kw_only=True)
class FrameMaker:
    """Make the frames of one series, in the state the configuration had when it was armed."""

    values: dict[str, Any]  # of the configuration, by name
    thresholds: list[tuple[int, float]]  # number and energy in eV of those enabled
    images: list[np.ndarray]  # of the scene: frame i shows image i modulo their number
    reflection: tuple[slice, slice, np.ndarray]  # of the scene: `EigerScene.reflection`
    most: int  # of the scene: `EigerScene.most`
    sample: Callable[[], float]  # how much of the sample is in the light now
    series_id: int
    unique_id: str
    profile: str  # layout of TIFFs
    offset_minutes: int  # of local time from UTC
    series_time_ns: int | None  # written into every frame in place of its own time
    faults: Faults

    def __post_init__(self):
        image = self.images[0]
        self.shape, self.dtype, self.n_bytes = image.shape, image.dtype, image.nbytes
        self.rows = self.reflection[0]
        self._seen: list[tuple[int, float]] = []  # from which image on how much of the sample

    def look(self, image_id: int) -> None:
        """Note how much of the sample is in the light: images from this one on show it."""
        sample = self.sample()
        if not self._seen or self._seen[-1][1] != sample:
            self._seen.append((image_id, sample))

    def sample_of(self, image_id: int) -> float:
        """Return how much of the sample an image shows."""
        return next((sample for since, sample in reversed(self._seen) if since <= image_id), 1.0)

    def frames(self, image_id: int, time_ns: int, count_time: float | None) -> Iterator[StoredFrame]:
        """Yield the monitor's frame of every enabled threshold, lowest first."""
        series_id = self.series_id + (1000 if self.faults.take("wrong_series") else 0)
        bare, values = self.faults.take("no_private_ifd"), self.values
        for threshold_id, energy in self.thresholds:
            tags = TiffTags(
                series_id=series_id,
                image_id=image_id,
                series_unique_id=self.unique_id,
                time_ns=time_ns if self.series_time_ns is None else self.series_time_ns,
                offset_minutes=self.offset_minutes,
                threshold_id=threshold_id,
                threshold_energy_ev=energy,
                exposure_time=values["count_time"] if count_time is None else count_time,
                incident_energy_ev=values["photon_energy"],
                wavelength_angstrom=values["wavelength"],
                beam_center=(values["beam_center_x"], values["beam_center_y"]),
                detector_distance=values["detector_distance"],
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
        rows, columns, counts = self.reflection
        band = self.images[image_id % len(self.images)][rows].copy()
        spot, shining = band[:, columns], counts > 0
        more = np.rint(counts * self.sample_of(image_id)).astype("i8")
        bright = np.minimum(spot + more, np.maximum(spot, self.most))  # what is overloaded stays so
        np.copyto(spot, bright.astype(band.dtype), where=shining)
        return band

    def _pieces(self, image_id: int, stamp: int, tags: TiffTags | None) -> tuple:
        image = self.images[image_id % len(self.images)]
        before, after = frame_around(image.shape, 8 * image.itemsize, self.profile, tags)
        first = np.zeros((1, STAMP_PIXELS), image.dtype)
        write_stamp(first, stamp)
        band, row = self.band(image_id), image.strides[0]
        begin, end = self.rows.start * row, self.rows.start * row + band.nbytes
        pixels, spot = image.data.cast("B"), band.data.cast("B")
        pieces = (before + first.tobytes(), pixels[first.nbytes : begin], spot, pixels[end:], after)
        return tuple(piece for piece in pieces if len(piece))


_BLOCK = {"bslz4": compression.BLOCK_BYTES, "lz4": 1 << 16, "none": 1 << 16}
"""Bytes of a block by algorithm; of any other, all are one."""


def compress(algorithm: str, pixels: np.ndarray) -> bytes | memoryview:
    """Return pixels compressed by the algorithm of that name, its prefix before them."""
    match algorithm:
        case "none":
            return np.ascontiguousarray(pixels).data.cast("B")
        case "lz4 block":
            return compression.compress_lz4_block(pixels)
        case "lz4":
            return compression.compress_lz4(pixels, _BLOCK["lz4"])
    return compression.compress_bslz4(pixels, _BLOCK["bslz4"] // pixels.itemsize)


class PackedScene:
    """The images of one scene, compressed once: a frame of the stream costs the blocks in which it differs.

    The blocks of a compressed image do not know each other. Those that hold the frame's stamp are made for
    every frame, those with the sample's reflection when the sample has moved, all others once.

    Parameters
    ----------
    images : list of ndarray
        Frame i shows image i modulo their number.
    algorithm : str
        ``"bslz4"``, ``"lz4"`` or ``"none"``; ``"lz4 block"`` of version 1, which is made anew for each.
    rows : slice
        Those that change with the sample; none by default.
    """

    def __init__(self, images: list[np.ndarray], algorithm: str, rows: slice = slice(0, 0)):
        self.algorithm, self._shape, self._dtype = algorithm, images[0].shape, images[0].dtype
        self._images = [image.reshape(-1) for image in images]
        n_bytes = images[0].nbytes
        self._items = _BLOCK.get(algorithm, n_bytes) // self._dtype.itemsize
        self._prefix = compression.prefix(n_bytes, _BLOCK[algorithm]) if algorithm.endswith("lz4") else b""
        self._band = slice(rows.start * self._shape[1], min(rows.stop, self._shape[0]) * self._shape[1])
        n_blocks = -(-images[0].size // self._items)
        first, last = self._band.start // self._items, -(-self._band.stop // self._items)
        self._changing = slice(max(first, 1) * self._items, max(min(last, n_blocks), 1) * self._items)
        self._fixed: dict[int, tuple[bytes | memoryview, ...]] = {}
        self._varied: dict[int, tuple[float, np.ndarray, bytes | memoryview]] = {}

    def prepare(self) -> None:
        """Compress what no frame changes."""
        for k, image in enumerate(self._images):
            pieces = image[self._items : self._changing.start], image[self._changing.stop :]
            self._fixed[k] = tuple(self._blocks(piece) for piece in pieces)

    def frame(self, maker: FrameMaker, image_id: int) -> ArrayBytes:
        """Return the compressed pixels of one frame. Call `prepare` before."""
        k, sample = image_id % len(self._images), maker.sample_of(image_id)
        if k not in self._varied or self._varied[k][0] != sample:
            self._varied[k] = (sample, *self._vary(k, maker.band(image_id)))
        _, head, changing = self._varied[k]
        write_stamp(head[np.newaxis], stamp_of(maker.series_id, image_id))
        before, after = self._fixed[k]
        data = b"".join((self._prefix, self._blocks(head), before, changing, after))
        element_size = self._dtype.itemsize if self.algorithm == "bslz4" else 0
        return ArrayBytes(self._shape, self._dtype, self.algorithm, element_size, memoryview(data))

    def _vary(self, k: int, band: np.ndarray) -> tuple[np.ndarray, bytes | memoryview]:
        """Return the pixels of the first block, and the blocks that change, with the sample as it stands."""
        image, band = self._images[k], band.reshape(-1)
        pieces = []
        for part in (slice(0, self._items), self._changing):
            pixels = image[part].copy()
            first, last = max(part.start, self._band.start), min(part.stop, self._band.stop)
            if first < last:
                at = slice(first - self._band.start, last - self._band.start)
                pixels[first - part.start : last - part.start] = band[at]
            pieces.append(pixels)
        return pieces[0], self._blocks(pieces[1])

    def _blocks(self, pixels: np.ndarray) -> bytes | memoryview:
        return compress(self.algorithm, pixels)[len(self._prefix) :] if pixels.size else b""
