"""Pixels of the simulated images, by image id or, with a Jungfrau in the facility, by pulse id."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from ...errors import SfdaqError
from ..jungfrau.scene import Scene
from ..stamp import STAMP_PIXELS, write_stamp
from ..views import View


class Pictures:
    """Fill frames of one detector.

    A Jungfrau's frames come from its `Scene` and carry the pulse id; others show ramps with the image id.

    Parameters
    ----------
    detector_name : str
    shape : tuple of int
        (y, x).
    bit_depth : int
        8, 16 or 32.
    seed : int
        Of the scene.
    view : callable, optional
        Of the scene: pulse id to what there was to see.
    """

    def __init__(
        self,
        detector_name: str,
        shape: tuple[int, int],
        bit_depth: int,
        seed: int = 0,
        view: Callable[[int], View] | None = None,
    ):
        self.shape, self.dtype = shape, np.dtype(f"u{bit_depth // 8}")
        self._scene = _scene(detector_name, self.shape, bit_depth, seed, view)

    def fill(self, frame: np.ndarray, image_id: int, pulse_id: int) -> None:
        """Write the picture into `frame`, shape (y, x)."""
        if self._scene is not None:
            self._scene.raw(pulse_id, frame)
            return
        np.add(self._ramp, image_id % 1000, out=frame, casting="unsafe")
        if self.shape[1] >= STAMP_PIXELS:
            write_stamp(frame, image_id)

    @cached_property
    def _ramp(self) -> np.ndarray:
        y, x = np.indices(self.shape, dtype="u4")
        return (y + x) % 4096


def _scene(detector_name: str, shape: tuple[int, int], bit_depth: int, seed: int, view) -> Scene | None:
    try:
        scene = Scene(detector_name, seed, view)
    except SfdaqError:
        return None
    return scene if scene.shape == shape and bit_depth == 16 else None
