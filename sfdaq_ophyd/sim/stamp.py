"""An id written into the pixels of a simulated frame, so that a test can prove which frame it holds.

Eight pixels carry the eight bytes of a 64-bit id, low byte first: values 0 to 255 survive every unsigned
dtype, and in a raw Jungfrau word they are plain ADU in gain stage G0.
"""

from __future__ import annotations

import numpy as np

STAMP_PIXELS = 8
"""Pixels [0, 0:8] of a frame or module frame hold the stamp."""


def write_stamp(image: np.ndarray, number: int) -> None:
    """Write `number` (0 to 2**64 - 1) into pixels [..., 0, 0:8] of `image`, in place."""
    image[..., 0, :STAMP_PIXELS] = np.frombuffer(int(number).to_bytes(STAMP_PIXELS, "little"), "u1")


def read_stamp(image: np.ndarray) -> int:
    """Read the id back from pixels [0, 0:8] of one image of any dtype."""
    pixels = np.rint(np.asarray(image[0, :STAMP_PIXELS], dtype="f8"))
    if ((pixels < 0) | (pixels > 255)).any():
        raise ValueError(f"no stamp in these pixels: {pixels.tolist()}")
    return int.from_bytes(pixels.astype("u1").tobytes(), "little")
