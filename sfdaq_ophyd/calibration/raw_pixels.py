"""What the 16 bits of a raw Jungfrau pixel say (wire reference jungfrau, section 1.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ADC_BITS = 0x3FFF
"""Bits 0 to 13: ADU."""

CODE_SHIFT = 14
"""Bits 14 and 15: gain code."""

UNDEFINED_CODE = 2
"""A gain code no healthy pixel has; calibrated with the constants of G2."""

LOST = 0xFFFF
"""slsReceiver's padding of lost packets."""

PACKET_WORDS = 4096
"""Pixels of a packet: 4 rows of a module."""


def with_lost_packets(raw: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return raw images with `LOST` in packets of nothing but zeros, which is how sf-daq pads lost ones.

    Parameters
    ----------
    raw : ndarray of uint16, shape (..., 512 n, 1024)
        Not written to.

    Returns
    -------
    ndarray
        `raw` itself where there are none, or where it is not made of packets; else a copy.
    """
    if raw.size % PACKET_WORDS:
        return raw
    packets = np.ascontiguousarray(raw).reshape(-1, PACKET_WORDS)
    empty = (packets[:, 0] == 0) & ~packets.any(axis=1)
    if not empty.any():
        return raw
    packets = packets.copy()
    packets[empty] = LOST
    return packets.reshape(raw.shape)


@dataclass(frozen=True, slots=True)
class WordCounts:
    """Pixels of a raw image that deserve a look.

    Parameters
    ----------
    n_g1, n_g2 : int
        In the medium and the low gain stage (codes 1 and 3).
    n_undefined_gain : int
        With gain code 2.
    n_saturated : int
        Saturated: 0xC000, in high gain 0x3FFF; nothing else counts.
    n_lost : int
        0xFFFF, the padding of lost packets (counted in `n_g2` too).
    """

    n_g1: int
    n_g2: int
    n_undefined_gain: int
    n_saturated: int
    n_lost: int


def saturated_word(highgain: bool) -> int:
    """Return the one raw word that means saturated.

    Parameters
    ----------
    highgain : bool
        The detector runs in high gain.

    Returns
    -------
    int
        0x3FFF in high gain, else 0xC000.
    """
    return 0x3FFF if highgain else 0xC000


def count_words(raw: npt.NDArray[np.uint16], *, highgain: bool = False) -> WordCounts:
    """Count the pixels of a raw image, uint16 of any shape, that are not plain G0.

    Parameters
    ----------
    raw : ndarray of uint16
        Raw words.
    highgain : bool
        The detector ran in high gain: another word means saturated.
    """
    switched = raw[raw > ADC_BITS]
    n_codes = np.bincount(switched >> CODE_SHIFT, minlength=4)
    where = raw if highgain else switched
    return WordCounts(
        n_g1=int(n_codes[1]),
        n_g2=int(n_codes[3]),
        n_undefined_gain=int(n_codes[UNDEFINED_CODE]),
        n_saturated=int(np.count_nonzero(where == saturated_word(highgain))),
        n_lost=int(np.count_nonzero(switched == LOST)),
    )
