"""Jungfrau names, ``JF<installation>T<modules>V<version>`` (wire reference jungfrau, section 1.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import RequestError

MODULE_SHAPE = (512, 1024)
"""Rows and columns of one module."""

_NAME = re.compile(r"JF(\d{1,4})T(\d{1,4})V(\d{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class DetectorName:
    """What a detector name says.

    Parameters
    ----------
    installation : int
        Number of the installation.
    n_modules : int
        Modules of the detector, at least 1.
    version : int
        Version of hardware or arrangement.

    Examples
    --------
    >>> name = DetectorName.parse("JF1T3V1")
    >>> str(name), name.n_modules, name.raw_shape
    ('JF01T03V01', 3, (1536, 1024))
    """

    installation: int
    n_modules: int
    version: int

    @classmethod
    def parse(cls, name: str) -> DetectorName:
        """Read a name with any number of digits; RequestError (a ValueError) if it is not one."""
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None or int(match[2]) < 1:
            raise RequestError("detector_name", name, "a name like 'JF01T03V01' with at least one module")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.family}V{self.version:02d}"

    @property
    def family(self) -> str:
        """The name without its version: geometries are looked up by the full name, then by this."""
        return f"JF{self.installation:02d}T{self.n_modules:02d}"

    @property
    def raw_shape(self) -> tuple[int, int]:
        """Rows and columns of a raw image: modules stacked in y."""
        return (MODULE_SHAPE[0] * self.n_modules, MODULE_SHAPE[1])


STAGE_CODES = (0, 1, 3)
"""Gain code of the stages G0, G1, G2: in bits 14-15 of a pixel and in bits 12-13 of daq_rec."""

_HIGH_GAIN, _CHIP_1_1, _STORAGE_CELL, _FORCED = 1, 1 << 5, 15 << 8, 12
_LASER, _DARK_SHOT, _FEL, _PICKER_OPEN = 1 << 16, 1 << 17, 1 << 18, 1 << 19


def storage_cell(word: int) -> int:
    """Return the storage cell a frame was taken in, 0 to 15."""
    return word >> 8 & 15


_MODE = 0x3F17
"""High gain, fixed gain, comparator in reset, storage cell, forced switching."""


def mode_bits(word: int) -> int:
    """Return what of daq_rec all modules of an image have in common: gain mode and storage cell."""
    return word & _MODE


@dataclass(frozen=True, slots=True)
class DaqRec:
    """The fields of daq_rec that change from frame to frame.

    Parameters
    ----------
    high_gain : bool
        The detector runs in high gain (HG0).
    forced_stage : int
        0 for dynamic switching, 1 or 2 where all pixels are forced into G1 or G2.
    laser, dark_shot, fel, picker_open : bool
        The event code: what the pump laser and the beam did.

    Examples
    --------
    >>> DaqRec.decode(593696)
    DaqRec(high_gain=False, forced_stage=0, laser=True, dark_shot=False, fel=False, picker_open=True)
    >>> DaqRec.decode(593696).encode()
    593696
    """

    high_gain: bool = False
    forced_stage: int = 0
    laser: bool = False
    dark_shot: bool = False
    fel: bool = False
    picker_open: bool = False

    @classmethod
    def decode(cls, word: int) -> DaqRec:
        """Read the word; the forbidden code 2 of bits 12-13 counts as stage 2, as for pixels."""
        return cls(
            high_gain=bool(word & _HIGH_GAIN),
            forced_stage=min(word >> _FORCED & 3, 2),
            laser=bool(word & _LASER),
            dark_shot=bool(word & _DARK_SHOT),
            fel=bool(word & _FEL),
            picker_open=bool(word & _PICKER_OPEN),
        )

    @property
    def laser_on(self) -> bool:
        """Laser event code without the dark-shot code."""
        return self.laser and not self.dark_shot

    def encode(self) -> int:
        """Return the word of a chip 1.1 in its default storage cell."""
        word = _CHIP_1_1 | _STORAGE_CELL | STAGE_CODES[self.forced_stage] << _FORCED
        for flag, bit in (
            (self.high_gain, _HIGH_GAIN),
            (self.laser, _LASER),
            (self.dark_shot, _DARK_SHOT),
            (self.fel, _FEL),
            (self.picker_open, _PICKER_OPEN),
        ):
            word |= bit if flag else 0
        return word


class GainMode:
    """Whether frames were taken in high gain; one that does not say it was taken like the last that did.

    Parameters
    ----------
    high_gain : bool
        What holds until the first one says it.

    Examples
    --------
    >>> mode = GainMode()
    >>> [mode.of(word) for word in (None, 3873, None, 3872, None)]
    [False, True, True, False, False]
    """

    def __init__(self, high_gain: bool = False):
        self._high_gain = high_gain

    def of(self, daq_rec: int | None) -> bool:
        """Return it for the next frame, which says `daq_rec`; None if it does not say."""
        if daq_rec is not None:
            self._high_gain = DaqRec.decode(daq_rec).high_gain
        return self._high_gain
