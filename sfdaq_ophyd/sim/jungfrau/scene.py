"""What the simulated Jungfrau sees: one picture per pulse id, wherever it is asked for; its true constants.

Streams, the broker's files and the standard DAQ's files all draw from a `Scene`, so the same pulse id has the
same pixels everywhere. A few frames are rendered once; a frame is one of them plus the sample's reflection,
as bright as the sample was in the light at that pulse, and the pulse id stamped into every module. That is
cheap enough for 100 Hz.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import h5py
import numpy as np

from ...wire.detector_name import MODULE_SHAPE, STAGE_CODES, DaqRec, DetectorName
from ..clock import View
from ..stamp import STAMP_PIXELS, write_stamp

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


PHOTON_ENERGY_KEV = 9.3
"""Energy of the simulated photons, keV."""

G0_LIMIT_KEV, G1_LIMIT_KEV = 300.0, 9000.0
"""Where pixels switch to G1 and to G2."""

REFLECTION = (slice(96, 160), slice(672, 736))
"""Rows and columns of the sample's reflection, in the first module."""

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
        Same name, seed, pulse id and view: same pixels.
    view : callable, optional
        Pulse id to what there was to see, as `PulseClock.view`; default is the whole sample in the light.

    Attributes
    ----------
    beam : bool
        Whether light reaches the detector; False gives dark frames.
    forced_stage : int or None
        None is normal running; 0, 1 or 2 gives the frames of a pedestal run's stage.
    """

    def __init__(self, detector_name: str, seed: int = 0, view: Callable[[int], View] | None = None):
        self._view = view or (lambda pulse_id: View(True, 1.0))
        self._name = DetectorName.parse(detector_name)
        self.detector_name, self.n_modules = str(self._name), self._name.n_modules
        self.shape, self.seed = self._name.raw_shape, seed
        self.beam = True
        self.forced_stage: int | None = None
        n = 8 if self.n_modules <= 4 else 4 if self.n_modules <= 16 else 2
        self._n_rendered = n
        self._rings: dict[str, np.ndarray] = {}
        self._draw_noise = lru_cache(1)(
            lambda pair: np.random.default_rng([seed, 77, pair]).standard_normal(MODULE_SHAPE, dtype="f4")
        )
        self._around: dict[int, np.ndarray] = {}  # photons where the reflection comes, of what was drawn

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
        view = self._view(pulse_id)
        if not self._is_lit(view):
            return self.dark(self.forced_stage or 0, pulse_id, out)
        out = self._stamped("light", pulse_id, out)
        k = self._index(pulse_id)
        around, photons, noise, good = self._reflections[k]
        reflection = self._light(k, REFLECTION, noise, around + _share(photons, view.sample))
        np.copyto(out[REFLECTION], reflection, where=good)
        return out

    def dark(self, stage: int, pulse_id: int = 0, out: np.ndarray | None = None) -> np.ndarray:
        """Return a dark frame with all pixels in one gain stage (0, 1, 2), as a pedestal run takes them."""
        return self._stamped(("dark0", "dark1", "dark2")[stage], pulse_id, out)

    def daq_rec(self, pulse_id: int) -> int:
        """Return the word detSpec3 of a pulse: every second pulse has the laser on."""
        lit = self._is_lit(self._view(pulse_id))
        return DaqRec(
            forced_stage=self.forced_stage or 0,
            laser=lit and pulse_id % 2 == 1,
            dark_shot=not lit,
            picker_open=lit,
        ).encode()

    def photons(self, pulse_id: int) -> np.ndarray:
        """Return the true photons per pixel, uint32 (512 n, 1024); zeros where the beam is off."""
        view, k = self._view(pulse_id), self._index(pulse_id)
        if not self._is_lit(view):
            return np.zeros(self.shape, "u4")
        photons = self._draw_photons(k)
        photons[REFLECTION] += _share(self._reflections[k][1], view.sample)
        return photons

    def _is_lit(self, view: View) -> bool:
        return self.beam and view.light and self.forced_stage is None

    @cached_property
    def _reflections(self) -> list[tuple[np.ndarray, ...]]:
        """Of every rendered frame: photons around the reflection and of it, noise, and the good pixels."""
        good = self.constants.mask[REFLECTION] == 0
        rows, columns = good.shape
        y, x = np.ogrid[0:rows, 0:columns]
        mean = 400 * np.exp(-(((y - rows / 2) / 9) ** 2) / 2 - ((x - columns / 2) / 7) ** 2 / 2)
        found: list[tuple[np.ndarray, ...]] = []
        for k in range(self._n_rendered):
            if k not in self._around:
                self._draw_photons(k)
            photons = np.random.default_rng([self.seed, 11, k]).poisson(mean)
            found.append((self._around[k], photons, self._noise(k, 0)[REFLECTION], good))
        return found

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
        stage = 0 if kind == "light" else int(kind[-1])
        for k, frame in enumerate(frames):
            photons = self._draw_photons(k) if kind == "light" else None
            for m in range(self.n_modules):
                rows, noise = slice(m * MODULE_SHAPE[0], (m + 1) * MODULE_SHAPE[0]), self._noise(k, m)
                if photons is None:
                    frame[rows] = self._digitized(k, stage, self.constants.pedestal[stage, rows], noise)
                else:
                    frame[rows] = self._light(k, rows, noise, photons[rows])
            self._spoil(frame, stage)
        return frames

    def _light(self, k: int, place, noise: np.ndarray, photons: np.ndarray) -> np.ndarray:
        """Return raw words of a place of rendered frame `k` where `photons` came, in the stages they need."""
        pedestal, gain = self.constants.pedestal, self.constants.gain
        energy = photons * np.float32(PHOTON_ENERGY_KEV)
        words = self._digitized(k, 0, pedestal[0][place], noise, gain[0][place] * energy)
        for stage, limit in ((1, G0_LIMIT_KEV), (2, G1_LIMIT_KEV)):
            bright = energy >= limit
            signal = gain[stage][place][bright] * energy[bright]
            words[bright] = self._digitized(k, stage, pedestal[stage][place][bright], noise[bright], signal)
        return words

    def _digitized(
        self, k: int, stage: int, pedestal: np.ndarray, noise: np.ndarray, signal: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """Return raw words: pedestal, dithered so that its mean is exact, noise in whole ADU, and signal."""
        dither = np.float32((k + 0.5) / self._n_rendered - 0.5)
        adc = np.rint(noise * np.float32(NOISE[stage])) + dither + pedestal + signal
        return np.clip(np.rint(adc), 0, _ADC).astype("u2") | np.uint16(STAGE_CODES[stage] << 14)

    def _noise(self, k: int, module: int) -> np.ndarray:
        """Return normal noise: opposite in frames 2i and 2i + 1, so that a full ring has none in its mean."""
        return np.roll(self._draw_noise(k // 2), 13 * module, 1) * np.float32(1 if k % 2 else -1)

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
        self._around[k] = photons[REFLECTION].copy()
        return photons


def _share(photons: np.ndarray, sample: float) -> np.ndarray:
    return np.rint(photons * sample).astype("u4")
