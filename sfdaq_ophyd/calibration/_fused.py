"""The fused kernel's driver: its tables, its constants (three bytes each, in reading order) and its threads.

The constants of a gain stage lie close together: as integers, the bits of nearly all of them are less than
2^23 (a factor of two) from those of their median. So of each float32 the kernel reads a 24-bit code, the
distance to a base of the module and the stage: exact, and short, because the memory's speed is the kernel's.
Pixels that do not fit, and masked ones, have 0 as the code of their scale, and that of their pedestal is the
place of both numbers in a list.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..wire.detector_name import MODULE_SHAPE
from . import _kernel
from ._numpy import Sources, address, aligned_empty
from .geometry import CHIP, GAP, Layout, Placement, module_shape
from .options import CalibrationOptions

CODES = 1 << 24
"""Number of codes."""

_PIXELS = MODULE_SHAPE[0] * MODULE_SHAPE[1]
_BLOCK = 16
_EVERY = 61
"""Of how many pixels one is looked at for the median."""


class Packed(NamedTuple):
    """The constants of all modules, as the kernel reads them.

    Parameters
    ----------
    common : ndarray of uint16, shape (modules, blocks, 3, 16)
        G0. Of each block of 16 pixels: the low 16 bits of the pedestals, of the scales, and the high 8 bits
        of both, the scale's above.
    rare : ndarray of uint16, shape (modules, blocks, 6, 16)
        The same of G1, then of G2.
    bases : ndarray of int32, shape (modules, 6)
        Bits of code 0, of pedestal and scale per stage.
    exceptions : list of ndarray of float32, shape (n, 2)
        Per module: pedestal and scale of what has no code; first of all, those of masked pixels.
    """

    common: npt.NDArray[np.uint16]
    rare: npt.NDArray[np.uint16]
    bases: npt.NDArray[np.int32]
    exceptions: list[npt.NDArray[np.float32]]


def pack(modules: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], fill: float) -> Packed:
    """Pack the constants of modules.

    Pedestal and scale are float32 (3, 512 * 1024), in the order in which the kernel wants the pixels. Masked
    pixels have the scale `fill` and the pedestal 0.
    """
    n_blocks = _PIXELS // _BLOCK
    common = aligned_empty((len(modules), n_blocks, 3, _BLOCK), np.dtype(np.uint16))
    rare = aligned_empty((len(modules), n_blocks, 6, _BLOCK), np.dtype(np.uint16))
    bases = np.zeros((len(modules), 6), dtype=np.int32)
    exceptions: list[npt.NDArray[np.float32]] = []
    for i, (pedestal, scale) in enumerate(modules):
        listed = [np.array([[0, fill]], dtype=np.float32)]
        for stage, planes in enumerate(zip(pedestal, scale)):
            words, bases[i, 2 * stage : 2 * stage + 2] = _pack_stage(*planes, listed)
            target, first = (common, 0) if stage == 0 else (rare, 3 * (stage - 1))
            target[i, :, first : first + 3] = words.reshape(3, n_blocks, _BLOCK).swapaxes(0, 1)
        exceptions.append(np.concatenate(listed))
    return Packed(common, rare, bases, exceptions)


def _pack_stage(
    pedestal: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], listed: list[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.uint16], list[int]]:
    """Return the three planes of words and the two bases; append what has no code to `listed`."""
    masked = (pedestal.view(np.int32) == 0) & (scale.view(np.int32) == listed[0].view(np.int32)[0, 1])
    good = ~masked
    bases = [_base(plane.view(np.int32)[good]) for plane in (pedestal, scale)]
    codes = [plane.view(np.int32).astype(np.int64) - base for plane, base in zip((pedestal, scale), bases)]
    fits = good & (codes[0] >= 0) & (codes[0] < CODES) & (codes[1] > 0) & (codes[1] < CODES)
    others = np.flatnonzero(good & ~fits)
    place = sum(map(len, listed))
    low, high = (np.where(fits, code, 0) for code in codes)
    low[others] = np.arange(place, place + len(others))
    listed.append(np.stack([pedestal[others], scale[others]], axis=1))
    words = np.stack([low & 0xFFFF, high & 0xFFFF, low >> 16 | high >> 16 << 8]).astype(np.uint16)
    return words, bases


def _base(bits: npt.NDArray[np.int32]) -> int:
    """Return the bits of code 0: half the codes below the median, as far as there are such numbers."""
    median = int(np.median(bits[::_EVERY])) if bits.size else 0
    return max(median - CODES // 2, np.iinfo(np.int32).min)


SHARE = 1 << 19
"""Pixels, of all frames, in a share of the work; below two shares a second thread costs more than it gains.

A thread takes the next share when it has done one: none waits for another that the system does not let run,
except for the share that has it. Turned modules take longer, which more shares even out.
"""

MOST_SHARES = 16
"""More would be more calls than work."""


_Share = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Some bands, and the holes behind their rows."""


class FusedEngine:
    """Calibrate with the compiled kernel; parameters as `NumpyEngine`, and threads that share an image."""

    def __init__(
        self,
        n_threads: int,
        layout: Layout,
        pedestal: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        dtype: np.dtype[Any],
        options: CalibrationOptions,
    ):
        self._layout, self._n_threads, fill = layout, n_threads, options.inner_fill
        packed = pack(list(_in_reading_order(layout, pedestal, scale)), fill)
        self._constants = (packed.common, packed.rare, packed.bases, np.concatenate(packed.exceptions))
        self._bands = _bands(layout, packed.exceptions)
        self._holes, self._lead = _holes(layout, self._bands)
        self._fill = fill
        bits = int(np.float32(fill).view(np.int32)) if dtype.kind == "f" else 0
        self._settings = (
            CHIP // 16, GAP if layout.gap_pixels else 0, *(address(array) for array in self._constants),
            float(fill), bits, options.mask_undefined_gain, options.mask_lost_packets, dtype.kind == "i",
        )  # fmt: skip
        self._local = threading.local()
        self._tables: dict[tuple[int, ...], list[_Share]] = {}

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Calibrate `raw` (frames, rows, 1024) into `out` (frames, y, x); every frame is contiguous."""
        n_threads = min(self._n_threads, raw.size // SHARE) or 1
        images = (address(raw), raw.strides[0], address(out), out.strides[0], len(raw), out.shape[-1])
        n_shares = min(MOST_SHARES, max(2 * n_threads, raw.size // SHARE)) if n_threads > 1 else 1
        shares = iter(self._shares(sources, n_shares))
        others = [_pool(self._n_threads).submit(self._run, images, shares) for _ in range(n_threads - 1)]
        for image in out if self._lead else ():
            image.reshape(-1)[: self._lead] = self._fill
        self._run(images, shares)
        for other in others:
            if not other.cancel():  # it never began, and there is nothing left
                other.result()

    def _run(self, images: tuple[int, ...], shares: Iterator[_Share]) -> None:
        scratch = self._scratch()
        for share in shares:
            _kernel.calibrate(*images, *share, *self._settings, scratch)

    def _shares(self, sources: Sources, n_shares: int) -> list[_Share]:
        """Return shares of bands and holes; tables are kept per order of modules in the data."""
        key = (n_shares, *sources.values())
        if key not in self._tables:
            bands = self._bands.copy()
            places = np.array([sources[p.module] for p in self._layout.placements])
            bands[:, 2] = np.repeat(places * MODULE_SHAPE[0], [_n_bands(p) for p in self._layout.placements])
            parts = np.array_split(bands, n_shares), np.array_split(self._holes, n_shares)
            self._tables[key] = list(zip(*parts))
        return self._tables[key]

    def _scratch(self) -> int:
        """Return the address of this thread's scratch memory, on a cache line."""
        there: int | None = getattr(self._local, "address", None)
        if there is None:
            self._local.scratch = aligned_empty((_kernel.SCRATCH_BYTES,), np.dtype(np.uint8))
            there = self._local.address = address(self._local.scratch)
        return there


def _n_bands(placement: Placement) -> int:
    return MODULE_SHAPE[placement.turns % 2] // _kernel.BAND


def _in_reading_order(
    layout: Layout, pedestal: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Yield pedestal and scale of each module, its pixels as they follow each other in the image."""
    for placement in layout.placements:
        rows = slice(placement.module * MODULE_SHAPE[0], (placement.module + 1) * MODULE_SHAPE[0])
        turned_pedestal, turned_scale = (
            np.ascontiguousarray(np.rot90(planes[:, rows], placement.turns, axes=(1, 2))).reshape(3, _PIXELS)
            for planes in (pedestal, scale)
        )
        yield turned_pedestal, turned_scale


def _bands(layout: Layout, exceptions: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.int64]:
    """Return the kernel's table of bands; the column of raw rows is filled in per call."""
    table, listed = [], 0
    for i, p in enumerate(layout.placements):
        width = MODULE_SHAPE[1 - p.turns % 2]
        for band in range(_n_bands(p)):
            row = band * _kernel.BAND
            y = p.y + row + (GAP * (row // CHIP) if layout.gap_pixels else 0)
            table.append((band, p.turns, 0, y, p.x, i * _PIXELS + row * width, i, listed))
        listed += len(exceptions[i])
    return np.array(table, dtype=np.int64)


def _holes(layout: Layout, bands: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """Return, for each band, how many pixels that nothing covers follow each of its rows in the flat image.

    A hole before the first module belongs to no row: it is returned apart, as the number of its pixels.
    """
    covered = np.zeros(layout.shape, dtype=bool)
    for block in layout.blocks(covered):
        block[...] = True
        if layout.gap_pixels:
            for y in range(CHIP, len(block), CHIP + GAP):
                block[y : y + GAP] = False
    flat = np.concatenate([[True], covered.ravel(), [True]])
    starts, ends = np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2).T
    length = dict(zip(starts.tolist(), (ends - starts).tolist()))
    holes = np.zeros((len(bands), _kernel.BAND), dtype=np.int64)
    for i, (_, turns, _, y, x, *_) in enumerate(bands.tolist()):
        width = module_shape(layout.gap_pixels)[1 - turns % 2]
        for row in range(_kernel.BAND):
            holes[i, row] = length.get((y + row) * layout.shape[1] + x + width, 0)
    return holes, length.get(0, 0)


_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Return the pool shared by all calibrations with this many threads; the caller is one of them."""
    with _pools_lock:
        if n_threads not in _pools:
            _pools[n_threads] = ThreadPoolExecutor(n_threads - 1, thread_name_prefix="jungfrau-calibration")
        return _pools[n_threads]


os.register_at_fork(after_in_child=_pools.clear)
