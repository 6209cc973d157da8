"""Jungfrau detector names, ``JF<installation>T<modules>V<version>`` (contract jungfrau.md, section 1.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import RequestError

MODULE_SHAPE = (512, 1024)
"""Rows and columns of one module."""

MODULE_BYTES = MODULE_SHAPE[0] * MODULE_SHAPE[1] * 2
"""Bytes of one raw module frame."""

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
