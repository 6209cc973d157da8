"""Calibration constants of a simulated Jungfrau, and the files a facility keeps them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ...wire.detector_name import MODULE_SHAPE, STAGE_CODES, DetectorName
from ..stamp import STAMP_PIXELS

GAIN = (41.5, -1.4, -0.11, 2.5 * 41.5, -1.4, -0.11)
"""Nominal gain of G0, G1, G2, HG0, HG1, HG2, ADU/keV."""

PEDESTAL = (2900.0, 15200.0, 14600.0)
"""Nominal pedestal of G0, G1, G2, ADU."""

NOISE = (12.0, 1.0, 1.0)
"""Noise of G0, G1, G2, ADU rms."""

STAGE_BITS = tuple(1 << code for code in (1, 2, 4))
"""Mask bits of a pixel that showed another gain than G0, G1, G2."""

CONSTANT_BITS = tuple(1 << 9 + code for code in STAGE_CODES)
"""Mask bits of a pixel with zero standard deviation in G0, G1, G2."""

STUCK = STAGE_BITS[0] | STAGE_BITS[1] | CONSTANT_BITS[0] | CONSTANT_BITS[1] | CONSTANT_BITS[2]
DEAD = CONSTANT_BITS[0] | CONSTANT_BITS[1] | CONSTANT_BITS[2]
_OM_WORDS = (0, 16384, -16384)  # OM keeps the gain bits and reads them as int16 from the image stream


@dataclass(frozen=True)
class ConstantFiles:
    """Where `Constants.write` put things."""

    gain: Path
    pedestal: Path
    gain_maps: tuple[Path, ...]
    om_darks: tuple[Path, ...]


@dataclass(frozen=True)
class Constants:
    """True constants of a simulated detector.

    Parameters
    ----------
    detector_name : str
        E.g. ``JF01T03V01``.
    gain : ndarray of float32, shape (6, y, x)
        G0, G1, G2, HG0, HG1, HG2, ADU/keV; 1 in the stamp pixels.
    pedestal : ndarray of float32, shape (3, y, x)
        ADU, in eighths; 0 in the stamp pixels.
    mask : ndarray of int64, shape (y, x)
        Bits of wire reference jungfrau, section 8.2: dead pixels (0 ADU whatever comes), pixels stuck in G2.
    """

    detector_name: str
    gain: np.ndarray
    pedestal: np.ndarray
    mask: np.ndarray

    @classmethod
    def render(cls, detector_name: str, seed: int) -> Constants:
        """Draw constants: the same for the same name and seed."""
        name = DetectorName.parse(detector_name)
        gain = np.empty((6, name.n_modules, *MODULE_SHAPE), "f4")
        pedestal = np.empty((3, name.n_modules, *MODULE_SHAPE), "f4")
        mask = np.zeros((name.n_modules, *MODULE_SHAPE), "i8")
        for m in range(name.n_modules):
            rng = np.random.default_rng([seed, name.installation, m])
            chips = np.kron(rng.normal(size=(2, 4)), np.ones((256, 256))).astype("f4")
            spread = rng.standard_normal(MODULE_SHAPE, dtype="f4")
            for g, nominal in enumerate(GAIN):
                gain[g, m] = np.float32(nominal) * (1 + 0.02 * np.roll(spread, 97 * g, 1) + 0.005 * chips)
            for g, nominal in enumerate(PEDESTAL):
                level = nominal + 40 * np.roll(spread, 31 * (g + 1), 0) + 60 * chips
                pedestal[g, m] = np.round(level * 8) / 8
            bad = rng.choice(mask[m].size - MODULE_SHAPE[1], 60, replace=False) + MODULE_SHAPE[1]
            mask[m].flat[bad[:30]] = DEAD
            mask[m].flat[bad[30:]] = STUCK
        gain[:, :, 0, :STAMP_PIXELS] = 1
        pedestal[:, :, 0, :STAMP_PIXELS] = 0
        y, x = name.raw_shape
        return cls(str(name), gain.reshape(6, y, x), pedestal.reshape(3, y, x), mask.reshape(y, x))

    def write_gain(self, path: Path) -> None:
        """Write ``gains.h5`` for the facility's tools."""
        with h5py.File(path, "w") as file:
            file["gains"] = self.gain.astype("f8")
            file["gains"].attrs["creator"] = "sfdaq_ophyd simulator"

    def write(self, folder: str | Path) -> ConstantFiles:
        """Write the files of wire reference jungfrau, sections 8.1 and 8.2, into `folder`.

        ``gains.h5`` and ``<time>.<detector>.res.h5`` for the facility's tools; per module
        ``gainMaps_M<module>_<date>.bin`` (float64, six planes; OM reads the first three) and
        ``om_dark_M<module>.h5`` (gain bits included as OM sees them on the image stream, int16).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        gain, pedestal = folder / "gains.h5", folder / f"20240101_000000.{self.detector_name}.res.h5"
        self.write_gain(gain)
        with h5py.File(pedestal, "w") as file:
            rms = np.empty(self.pedestal.shape)
            for g, noise in enumerate(NOISE):
                rms[g] = np.where(self.mask & CONSTANT_BITS[g], 0.0, noise)
            file["gains"], file["gainsRMS"], file["pixel_mask"] = self.pedestal.astype("f8"), rms, self.mask
        maps, darks = [], []
        for m in range(self.mask.shape[0] // MODULE_SHAPE[0]):
            rows = slice(m * MODULE_SHAPE[0], (m + 1) * MODULE_SHAPE[0])
            maps.append(folder / f"gainMaps_M{m:03d}_2024-01-01.bin")
            self.gain[:, rows].astype("<f8").tofile(maps[-1])
            darks.append(folder / f"om_dark_M{m:02d}.h5")
            with h5py.File(darks[-1], "w") as file:
                for g, word in enumerate(_OM_WORDS):
                    file[f"gain{g}"] = self.pedestal[g, rows] + np.float32(word)
        return ConstantFiles(gain, pedestal, tuple(maps), tuple(darks))
