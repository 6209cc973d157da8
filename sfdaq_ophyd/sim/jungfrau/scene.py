"""What the simulated Jungfrau sees: one picture per pulse id, wherever it is asked for.

Streams, the broker's files and the standard DAQ's files all draw from a `Scene`, so the same pulse id has the
same pixels everywhere. A few frames are rendered once; a frame is one of them plus the pulse id stamped into
every module, which is cheap enough for 100 Hz.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from ...wire.daq_rec import STAGE_CODES, DaqRec
from ...wire.detector_name import MODULE_SHAPE, DetectorName
from ..stamp import STAMP_PIXELS, write_stamp
from .constants import DEAD, NOISE, STUCK, ConstantFiles, Constants

PHOTON_ENERGY_KEV = 9.3
"""Energy of the simulated photons, keV."""

G0_LIMIT_KEV, G1_LIMIT_KEV = 300.0, 9000.0
"""Where pixels switch to G1 and to G2."""

SATURATED = 0xC000
"""Raw word of a saturated pixel: G2 with 0 ADU."""

_GOLDEN = 0x9E3779B97F4A7C15
_ADC = 0x3FFF


class Scene:
    """Frames of a simulated Jungfrau.

    Parameters
    ----------
    detector_name : str
        E.g. ``JF01T03V01``; says how many modules there are.
    seed : int
        Same name, seed and pulse id: same pixels.

    Attributes
    ----------
    beam : bool
        Whether light reaches the detector; False gives dark frames.
    forced_stage : int or None
        None is normal running; 0, 1 or 2 gives the frames of a pedestal run's stage.
    """

    def __init__(self, detector_name: str, seed: int = 0):
        self._name = DetectorName.parse(detector_name)
        self.detector_name, self.n_modules = str(self._name), self._name.n_modules
        self.shape, self.seed = self._name.raw_shape, seed
        self.beam, self.forced_stage = True, None
        n = 8 if self.n_modules <= 4 else 4 if self.n_modules <= 16 else 2
        self._n_rendered = n
        self._rings: dict[str, np.ndarray] = {}

    @cached_property
    def constants(self) -> Constants:
        """True gain (6, y, x), pedestal (3, y, x) and mask (y, x)."""
        return Constants.render(self.detector_name, self.seed)

    def write_constants(self, folder: str | Path) -> ConstantFiles:
        """Write the constants' files into `folder`; see `Constants.write`."""
        return self.constants.write(folder)

    def raw(self, pulse_id: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return the raw frame of a pulse, stamped with its id in every module.

        Parameters
        ----------
        pulse_id : int
            From 0 to 2**64 - 1.
        out : ndarray of uint16, shape (512 n, 1024), optional
            Written in place of a new array.

        Returns
        -------
        ndarray of uint16, shape (512 n, 1024)
        """
        if self.forced_stage is not None or not self.beam:
            return self.dark(self.forced_stage or 0, pulse_id, out)
        return self._stamped("light", pulse_id, out)

    def dark(self, stage: int, pulse_id: int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """Return a dark frame with all pixels in one gain stage (0, 1, 2), as a pedestal run takes them."""
        return self._stamped(("dark0", "dark1", "dark2")[stage], pulse_id, out)

    def daq_rec(self, pulse_id: int) -> int:
        """Return the word detSpec3 of a pulse: every second pulse has the laser on."""
        lit = self.beam and self.forced_stage is None
        return DaqRec(
            forced_stage=self.forced_stage or 0,
            laser=lit and pulse_id % 2 == 1,
            dark_shot=not lit,
            picker_open=lit,
        ).encode()

    def photons(self, pulse_id: int) -> np.ndarray:
        """Return the true photons per pixel, uint32 (512 n, 1024); zeros where the beam is off."""
        if self.forced_stage is not None or not self.beam:
            return np.zeros(self.shape, "u4")
        return self._draw_photons(self._index(pulse_id))

    def _index(self, pulse_id: int) -> int:
        """Choose a rendered frame: evenly used whatever the step between pulse ids."""
        return (pulse_id * _GOLDEN % 2**64) * self._n_rendered >> 64

    def _stamped(self, kind: str, pulse_id: int, out: np.ndarray | None) -> np.ndarray:
        if kind not in self._rings:
            self._rings[kind] = self._render(kind)
        out = np.empty(self.shape, "u2") if out is None else out
        np.copyto(out, self._rings[kind][self._index(pulse_id)])
        write_stamp(out.reshape(self.n_modules, *MODULE_SHAPE), pulse_id)
        return out

    def _render(self, kind: str) -> np.ndarray:
        frames = np.empty((self._n_rendered, *self.shape), "u2")
        for k, frame in enumerate(frames):
            if kind == "light":
                self._render_light(k, frame)
            else:
                frame[...] = self._word(int(kind[-1]), np.float32(0), k)
            self._spoil(frame, 0 if kind == "light" else int(kind[-1]))
        return frames

    def _render_light(self, k: int, frame: np.ndarray) -> None:
        energy = self._draw_photons(k).astype("f4") * np.float32(PHOTON_ENERGY_KEV)
        frame[...] = self._word(0, energy, k)
        for stage, limit in ((1, G0_LIMIT_KEV), (2, G1_LIMIT_KEV)):
            where = np.nonzero(energy >= limit)
            frame[where] = self._word(stage, energy[where], k, where)

    def _word(self, stage: int, energy: np.ndarray, k: int, where=...) -> np.ndarray:
        """Return raw words: pedestal, dithered so that its mean is exact, plus signal and noise."""
        level = self.constants.pedestal[stage][where] + np.float32((k + 0.5) / self._n_rendered - 0.5)
        level += self._noise(stage, k)[where]
        if np.ndim(energy):
            level += self.constants.gain[stage][where] * energy
        adc = np.clip(np.rint(level, out=level), 0, _ADC).astype("u2")
        return adc | np.uint16(STAGE_CODES[stage] << 14)

    def _noise(self, stage: int, k: int) -> np.ndarray:
        """Whole ADU; frames 2i and 2i + 1 have opposite noise, so that a full ring has none in its mean."""
        rng = np.random.default_rng([self.seed, 77, stage, k // 2])
        one = np.rint(rng.standard_normal(MODULE_SHAPE, dtype="f4") * np.float32(NOISE[stage]))
        one *= 1 if k % 2 else -1
        return np.concatenate([np.roll(one, 13 * m, 1) for m in range(self.n_modules)])

    def _spoil(self, frame: np.ndarray, stage: int) -> None:
        mask = self.constants.mask
        frame[mask == DEAD] = STAGE_CODES[stage] << 14
        frame[mask == STUCK] = STAGE_CODES[2] << 14 | 9000

    @cached_property
    def _mean_photons(self) -> np.ndarray:
        """Rings around the beam, a few reflections, and a direct beam that saturates."""
        y, x = np.ogrid[0 : self.shape[0], 0 : self.shape[1]]
        y = y + 38 * (y // MODULE_SHAPE[0])  # the gaps between modules
        cy, cx = y[-1, 0] / 2 + 40, MODULE_SHAPE[1] / 2 + 30
        r = np.hypot(y - cy, x - cx).astype("f4")
        mean = 0.02 + 1.5 * np.exp(-(((r - 220) / 25) ** 2)) + 0.4 * np.exp(-(((r - 420) / 40) ** 2))
        mean += 30000 * np.exp(-((r / 6) ** 2))
        mean = mean.astype("f4")
        rng = np.random.default_rng([self.seed, 5])
        for _ in range(12 * self.n_modules):
            py, px = rng.integers(4, self.shape[0] - 4), rng.integers(4, MODULE_SHAPE[1] - 4)
            spot = np.exp(-((np.hypot(*np.ogrid[-3:4, -3:4]) / 1.3) ** 2))
            mean[py - 3 : py + 4, px - 3 : px + 4] += (10 ** rng.uniform(1, 3.3) * spot).astype("f4")
        return mean

    def _draw_photons(self, k: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 3, k])
        photons = rng.poisson(self._mean_photons).astype("u4")
        photons.reshape(self.n_modules, *MODULE_SHAPE)[:, 0, :STAMP_PIXELS] = 0
        return photons
