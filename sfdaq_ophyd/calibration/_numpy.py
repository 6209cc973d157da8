"""The same numbers without numba: plain numpy, for machines without it and as the kernel's measure."""

from __future__ import annotations

import numpy as np

from ..wire.detector_name import MODULE_SHAPE
from .geometry import Layout, pixel_index
from .words import ADC_BITS, CODE_SHIFT, LOST, UNDEFINED_CODE


class PlacingEngine:
    """Put raw words, or anything else per pixel, in their places; bad pixels, gaps and holes are 0.

    Parameters
    ----------
    layout : Layout
        Where modules go.
    bad : ndarray of bool, shape (512 n, 1024), optional
        Masked pixels of all modules.
    """

    def __init__(self, layout: Layout, bad: np.ndarray | None = None):
        self._layout = layout
        self._bad = None if bad is None else bad.reshape(-1, *MODULE_SHAPE)
        self._pixels = pixel_index(layout)

    def run(self, raw: np.ndarray, sources: dict[int, int], out: np.ndarray) -> None:
        """Place `raw` (frames, rows, 1024) in `out` (frames, y, x); `sources` is module -> place in raw."""
        modules = raw.reshape(len(raw), -1, *MODULE_SHAPE)
        out[...] = 0
        for module, view in self._layout.views(out):
            words = modules[:, sources[module]]
            if self._bad is not None:
                words = np.where(self._bad[module], words.dtype.type(0), words)
            view[(slice(None), *self._pixels)] = words


class NumpyEngine:
    """Calibrate with numpy, module by module.

    Parameters
    ----------
    layout : Layout
        Where modules go.
    pedestal, scale : ndarray of float32, shape (3, 512 n, 1024)
        Per gain stage; masked pixels have pedestal 0 and `fill` as scale.
    dtype : numpy.dtype
        float32, or int32: rounded half to even.
    fill : float
        Value of bad pixels, gaps and holes.
    mask_undefined, mask_lost : bool
        Whether code 2 and 0xFFFF count as bad.
    """

    def __init__(self, layout: Layout, pedestal, scale, dtype, fill, mask_undefined, mask_lost):
        self._layout, self._dtype, self._fill = layout, dtype, np.float32(fill)
        self._pedestal = pedestal.reshape(3, -1, *MODULE_SHAPE)
        self._scale = scale.reshape(3, -1, *MODULE_SHAPE)
        self._mask_undefined, self._mask_lost = mask_undefined, mask_lost
        self._pixels = pixel_index(layout)

    def run(self, raw: np.ndarray, sources: dict[int, int], out: np.ndarray) -> None:
        """Calibrate `raw` (frames, rows, 1024) into `out` (frames, y, x); `sources`: module to its place."""
        modules = raw.reshape(len(raw), -1, *MODULE_SHAPE)
        for frame, image in zip(modules, out):
            image[...] = self._fill
            for module, view in self._layout.views(image):
                view[self._pixels] = self._convert(frame[sources[module]], module)

    def _convert(self, words, module):
        code = words >> CODE_SHIFT
        pedestal, scale = self._pedestal[0, module].copy(), self._scale[0, module].copy()
        for stage, here in ((1, code == 1), (2, code >= 2)):
            pedestal[here] = self._pedestal[stage, module][here]
            scale[here] = self._scale[stage, module][here]
        for wanted, here in (
            (self._mask_undefined, code == UNDEFINED_CODE),
            (self._mask_lost, words == LOST),
        ):
            if wanted:
                pedestal[here], scale[here] = 0, self._fill
        value = ((words & ADC_BITS).astype(np.float32) - pedestal) * scale
        return np.rint(value).astype(self._dtype) if self._dtype.kind == "i" else value
