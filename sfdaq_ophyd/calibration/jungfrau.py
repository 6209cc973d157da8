"""`JungfrauCalibration`: raw Jungfrau images to keV, with one set of constants and of options."""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, is_installed, require
from ..wire.detector_name import DetectorName
from ._numpy import NumpyEngine, Sources, aligned_empty, checked_out, stacked
from .constants import EMPTY, Maps, any_reason, downsample, good_fraction, share_gaps
from .options import CalibrationOptions, check_names, disabled_to_map
from .placing import Placing, fitted, interpolate, pixel_coordinates
from .raw_pixels import CODE_SHIFT, LOST, saturated_word

MAX_THREADS = 8
"""Default limit of threads per call: memory is busy long before."""


def choose_engine(wanted: object) -> str:
    """Return "numba" or "numpy"; ExtraMissing where numba was wanted and is not there."""
    if wanted not in ("auto", "numba", "numpy"):
        raise RequestError("engine", wanted, "'auto', 'numba' or 'numpy'")
    present = is_installed("numba")
    if wanted == "numba":
        require("calibration", "engine='numba'", "numba")
    return "numba" if present and wanted != "numpy" else "numpy"


def choose_threads(wanted: object) -> int:
    """Return `wanted`, or one thread per CPU up to `MAX_THREADS`."""
    if wanted is None:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise RequestError("n_threads", wanted, "an integer of at least 1, or None")
    return wanted


class Engine(Protocol):
    """What turns a stack of raw images into processed ones."""

    def run(self, raw: npt.NDArray[Any], sources: Sources, out: npt.NDArray[Any]) -> None:
        """Write `raw`, shape (frames, rows, 1024), to `out`, shape (frames, y, x)."""


class JungfrauCalibration:
    """Turn raw images of one detector into keV, masked, expanded and placed.

    Constants are checked, and the kernel is compiled or read from its cache, when the object is made: frames
    wait for neither. No array of the caller is written to, except `out`. Threads may share an object.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``.
    gain : array, shape (4 or 6, 512 n, 1024)
        G0, G1, G2, HG0[, HG1, HG2] in ADU/keV, of all n modules; used as float32.
    pedestal : array, shape (3 or 4, 512 n, 1024)
        G0, G1, G2[, HG0] in ADU, gain bits removed; used as float32.
    pixel_mask : array of int64 (reason bits, 0 = good) or bool (True = bad), shape (512 n, 1024), optional
        Used unless the option `mask` is False.
    disabled_modules : tuple of int
        Shorthand for a `module_map`.
    n_threads : int, optional
        Threads that share one call; default is one per CPU this process may use, at most 8.
    engine : {"auto", "numba", "numpy"}
        "auto" takes numba where it is installed. Results are identical.
    gain_file, pedestal_file, pixel_mask_file : str
        Where the constants came from: carried along for records and messages.
    **options
        Fields of `CalibrationOptions`.

    Raises
    ------
    RequestError
        Unknown detector, bad option (a ValueError); BadConstant for zero or NaN.
    ConstantsMissing
        Conversion without constants, mask without a mask (a RuntimeError).
    ShapeError, DtypeError
        Constants of the wrong shape or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> gain, pedestal = np.full((6, 512, 1024), 40.0), np.full((3, 512, 1024), 2800.0)
    >>> calibration = JungfrauCalibration("JF03T01V02", gain, pedestal, engine="numpy")
    >>> calibration.shape, calibration.unit
    ((514, 1030), 'keV')
    >>> float(calibration(np.full((512, 1024), 3200, dtype="uint16"))[0, 0])
    10.0
    """

    def __init__(
        self,
        detector_name: str,
        gain: Any = None,
        pedestal: Any = None,
        pixel_mask: Any = None,
        *,
        disabled_modules: tuple[int, ...] = (),
        n_threads: int | None = None,
        engine: str = "auto",
        gain_file: Any = "",
        pedestal_file: Any = "",
        pixel_mask_file: Any = "",
        **options: Any,
    ):
        self.detector_name = detector_name
        self.gain_file, self.pedestal_file = str(gain_file), str(pedestal_file)
        self.pixel_mask_file = str(pixel_mask_file)
        check_names(options)
        if disabled_modules:
            if options.get("module_map") is not None:
                raise RequestError("disabled_modules", disabled_modules, "none beside a module_map")
            options["module_map"] = disabled_to_map(detector_name, tuple(disabled_modules))
        self.options = opts = fitted(CalibrationOptions(**options), detector_name)
        self._placing = Placing(detector_name, opts)
        opts.check_rois(self.image_shape)
        files = ", ".join(filter(None, (self.gain_file, self.pedestal_file)))
        self._mask = pixel_mask
        self._maps = Maps.checked(detector_name, gain, pedestal, pixel_mask, f" ({files})" if files else "")
        self._maps.require(opts)
        if opts.conversion:
            self._maps = self._maps.usable(opts)
        self._bad = self._maps.bad(opts)
        self._n_threads = choose_threads(n_threads)
        self.engine = choose_engine(engine)
        self._engine: Engine | None = None
        if opts.conversion:
            constants = self._maps.folded(opts, self._bad)
            settings = (self._placing.layout, *constants, self._whole_dtype, opts)
            self._engine = make_engine(self.engine, self._n_threads, *settings)

    def with_options(self, **changes: Any) -> JungfrauCalibration:
        """Return a calibration with the same constants and some other options.

        Parameters
        ----------
        **changes
            Fields of `CalibrationOptions`; checked as when a calibration is made.
        """
        return JungfrauCalibration(
            self.detector_name,
            self._maps.gain,
            self._maps.pedestal,
            self._mask,
            n_threads=self._n_threads,
            engine=self.engine,
            gain_file=self.gain_file,
            pedestal_file=self.pedestal_file,
            pixel_mask_file=self.pixel_mask_file,
            **self.options.with_(**changes).as_dict(),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of what a call returns: the image, its one region, or its blocks."""
        if self.options.downsample is not None:
            rows, columns = self.good_fraction.shape
            return rows, columns
        if self.options.roi is not None and len(self.options.roi) == 1:
            ((y1, y2, x1, x2),) = self.options.roi.values()
            return y2 - y1, x2 - x1
        return self.image_shape

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the whole processed image, before regions and downsampling."""
        return self._placing.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32; int32 with a factor, unless `rounded` is False; uint16 without conversion."""
        if not self.options.conversion:
            return np.dtype(np.uint16)
        return np.dtype(np.int32 if self.options.counts else np.float32)

    @property
    def _whole_dtype(self) -> np.dtype[Any]:
        """The dtype before downsampling, which comes before the factor."""
        return self.dtype if self.options.downsample is None else np.dtype(np.float32)

    @property
    def unit(self) -> str:
        """``"keV"``, ``"9.3 keV"`` (with a factor: 1 is so much), or ``"ADU"`` for raw words."""
        if not self.options.conversion:
            return "ADU"
        return "keV" if self.options.factor is None else f"{self.options.factor:g} keV"

    @property
    def masking(self) -> bool:
        """Whether bad pixels are replaced."""
        return self._maps.reasons is not None and self.options.mask is not False

    @property
    def constants_hash(self) -> str:
        """SHA-256 of gain, pedestal and mask as they are used, in hexadecimal."""
        return self._maps.digest

    @property
    def module_map(self) -> tuple[int, ...]:
        """For each module its place among the active ones, -1 = switched off."""
        n_modules = DetectorName.parse(self.detector_name).n_modules
        return self.options.module_map or tuple(range(n_modules))

    @cached_property
    def _good(self) -> npt.NDArray[np.bool_]:
        good = self._placing.place(~self._bad)
        if self.options.double_pixels == "interp":
            for _, view in self._placing.layout.views(good):
                share_gaps(view)
        return good

    @cached_property
    def good_fraction(self) -> npt.NDArray[np.float64]:
        """Good pixels over all pixels of each block, float64; without `downsample` a block is a pixel."""
        return good_fraction(self._good, self.options.downsample or (1, 1))

    @cached_property
    def pixel_mask(self) -> npt.NDArray[np.bool_]:
        """True where the processed image is good; gaps and holes are not. Blocks: where all is good."""
        return self._good if self.options.downsample is None else self.good_fraction == 1

    @cached_property
    def pixel_mask_reasons(self) -> npt.NDArray[np.int64]:
        """Reason bits of the processed image, int64; 2**20 where there is no pixel. Blocks: any reason."""
        reasons = self._maps.reasons
        if reasons is None:
            reasons = np.zeros(self._bad.shape, dtype=np.int64)
        reasons = self._placing.place(reasons, empty=EMPTY)
        return reasons if self.options.downsample is None else any_reason(reasons, self.options.downsample)

    def pixel_coordinates(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return x, y and z of every raw pixel in the image with gaps and geometry; in pixels."""
        return pixel_coordinates(self.detector_name)

    get_pixel_coordinates = pixel_coordinates
    """The name that the facility's library has for it."""

    def empty(self, n_frames: int | None = None) -> npt.NDArray[Any]:
        """Return an uninitialised array for `out`, starting on a cache line.

        Parameters
        ----------
        n_frames : int, optional
            Length of a stack; default is one image.
        """
        return aligned_empty(self.shape if n_frames is None else (n_frames, *self.shape), self.dtype)

    def __call__(self, raw: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Calibrate an image or a stack.

        Parameters
        ----------
        raw : ndarray of uint16, shape (y, 1024) or (frames, y, 1024)
            Modules stacked in y: all of the detector, or only those switched on.
        out : ndarray, shape `shape` or (frames, *shape), dtype `dtype`, optional
            Written completely, gaps and holes too, and returned; each image in C order.

        Returns
        -------
        ndarray
            The image, its region if there is one, or its blocks; or a stack of them.

        Raises
        ------
        DtypeError
            `raw` is not uint16 (without conversion, anything goes).
        ShapeError
            `raw` or `out` has the wrong shape.
        """
        opts = self.options
        if opts.roi is None and opts.downsample is None:
            return self._whole(raw, out)
        if opts.downsample is not None:
            image = self._downsample(self._whole(raw), opts.downsample)
        elif opts.roi is not None and len(opts.roi) == 1:
            (image,) = self.regions(raw).values()
        else:
            raise RequestError("roi", dict(opts.roi or {}), "one region; regions() gives several")
        if out is None:
            return image
        np.copyto(checked_out(out, image.shape, image.dtype), image)
        return out

    def regions(self, raw: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Calibrate, and return a copy of each region of interest by its label; see `__call__`.

        Parameters
        ----------
        raw : ndarray of uint16, shape (y, 1024) or (frames, y, 1024)
            As for a call.

        Raises
        ------
        RequestError
            There is no region.
        """
        if self.options.roi is None:
            raise RequestError("roi", None, "at least one region")
        whole = self._whole(raw)
        return {label: whole[..., a:b, c:d].copy() for label, (a, b, c, d) in self.options.roi.items()}

    def gain_codes(self, raw: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        """Return the gain code, 0 to 3, of each pixel of the whole processed image or stack; unmasked.

        Parameters
        ----------
        raw : ndarray of uint16, shape (y, 1024) or (frames, y, 1024)
            As for a call; what is no raw image of this detector is refused as there.
        """
        raw, sources = self._placing.check(raw, np.uint16)
        return self._placing.place(raw >> np.uint16(CODE_SHIFT), sources)

    def saturated_pixels(self, raw: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.intp], ...]:
        """Return where pixels are saturated in the whole processed image or stack, as `numpy.nonzero`.

        Parameters
        ----------
        raw : ndarray of uint16, shape (y, 1024) or (frames, y, 1024)
            As for a call.
        """
        raw, sources = self._placing.check(raw, np.uint16)
        return np.nonzero(self._placing.place(raw == saturated_word(self.options.highgain), sources))

    def lost_pixels(self, raw: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
        """Return where packets were lost, as bool, in the whole processed image or stack.

        Parameters
        ----------
        raw : ndarray of uint16, shape (y, 1024) or (frames, y, 1024)
            As for a call.
        """
        raw, sources = self._placing.check(raw, np.uint16)
        return self._placing.place(raw == LOST, sources)

    def _whole(self, raw: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        opts, placing, engine = self.options, self._placing, self._engine
        raw, sources = placing.check(raw, np.uint16 if opts.conversion else None)
        shape, dtype = (*raw.shape[:-2], *placing.shape), self._whole_dtype if opts.conversion else raw.dtype
        out = aligned_empty(shape, dtype) if out is None else checked_out(out, shape, dtype)
        if engine is None:
            return placing.place(raw, sources, out, bad=self._bad)
        placing.fill(out, lambda image: engine.run(*stacked(raw, sources, image)), opts.inner_fill)
        if placing.strips is not None:
            placing.strips.share(out)
        elif opts.double_pixels == "interp":
            for _, view in placing.layout.views(out):
                interpolate(view)
            if math.isnan(opts.masked_value) and opts.downsample is None:
                out[..., ~self._good] = math.nan
        return out

    def _downsample(self, image: npt.NDArray[np.float32], block: tuple[int, int]) -> npt.NDArray[Any]:
        image = downsample(image, self.good_fraction, block)
        if self.options.factor is not None:
            image = image / np.float32(self.options.factor)
        if self.options.counts:
            return np.rint(image).astype(np.int32)
        if math.isnan(self.options.masked_value):
            image[..., self.good_fraction == 0] = math.nan
        return image


def make_engine(name: str, n_threads: int, *settings: Any) -> Engine:
    """Return the engine of that name; `settings` are those of `NumpyEngine`."""
    if name == "numpy":
        return NumpyEngine(*settings)
    from ._fused import FusedEngine

    return FusedEngine(n_threads, *settings)
