"""Open an HDF5 file and look into it, with errors that name file, dataset, found and expected.

Constants that cannot be right: refused, or warned of, by file, dataset and range.

Medians of a stage are looked at, and shares of its pixels: single bad pixels are the mask's business, and
`JungfrauCalibration` refuses zeros and NaN on pixels in use.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..calibration.constants import STAGES
from ..errors import FileFormatError, SfdaqError
from ..wire.detector_name import DetectorName

logger = logging.getLogger(__name__)


class _LazyModule:
    """Imports a module at its first use: without HDF5, importing the devices takes a tenth less."""

    def __init__(self, *names: str):  # the module, and what has to be imported before it
        self._names = names

    def __getattr__(self, name: str) -> object:
        module, *_ = [import_module(each) for each in self._names]
        if self._names[0] == "h5py":  # without its lock, in the middle of what others do: see `_leave_hdf5`
            atexit.unregister(module._unregister_converters)  # noqa: SLF001 - no public name
        value = getattr(module, name)
        setattr(self, name, value)  # not asked for again
        return value


if TYPE_CHECKING:
    import h5py
    import hdf5plugin
else:
    h5py = _LazyModule("h5py", "hdf5plugin")  # which registers the filters of compressed files
    hdf5plugin = _LazyModule("hdf5plugin")


def _leave_hdf5() -> None:
    """Let the interpreter end: a daemon thread that is in HDF5 then would keep h5py's lock, and this process.

    Registered before all that closes what it has at the end, and so done after it.
    """
    if "h5py" in sys.modules:
        from h5py._objects import phil  # noqa: PLC2701 - h5py has no public name for its lock

        phil.acquire()
        sys.modules["h5py"]._unregister_converters()  # noqa: SLF001 - twice does no harm


atexit.register(_leave_hdf5)

Shape = tuple[int, ...]


def chunk_filter(compression: str = "bslz4") -> Mapping[str, object]:
    """Return keyword arguments of ``create_dataset`` for chunks that come compressed in this way."""
    if compression == "none":
        return {}
    return hdf5plugin.LZ4() if compression == "lz4" else hdf5plugin.Bitshuffle(cname="lz4")


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """Open for reading; FileFormatError if there is no such file, it is not HDF5, or odd in any other way."""
    file = open_file(path)
    with looking_into(path), file:
        yield file


@contextmanager
def looking_into(path: str | Path, where: str = "/") -> Iterator[None]:
    """Turn whatever an odd file provokes inside into a FileFormatError; ours pass."""
    try:
        yield
    except SfdaqError:
        raise
    except Exception as exc:  # h5py and numpy have many words for what is not as it should be
        found = f"unreadable data ({type(exc).__name__}: {exc})"
        raise FileFormatError(path, where, found=found, expected="whole data") from exc


def open_file(path: str | Path) -> h5py.File:
    """Return the open file; FileFormatError if there is none, or it is not HDF5. The caller closes."""
    with looking_into(path):
        if not Path(path).is_file():
            raise FileFormatError(path, "/", found="no such file", expected="an HDF5 file")
        try:
            return h5py.File(path, "r")
        except OSError as exc:
            found = f"no readable HDF5 ({exc})"
            raise FileFormatError(path, "/", found=found, expected="an HDF5 file") from exc


def check_detector(path: str | Path, name: str, detector_name: str) -> None:
    """Refuse a file that says it is another detector's, by its own name or by that of its folder.

    Files hold no detector name, but the facility calls them ``<time>.<detector>.res.h5`` and
    ``<detector>/gains.h5``. Versions of one detector are the same modules.
    """
    path = Path(path)
    says = _DETECTOR.search(path.name) or _DETECTOR.fullmatch(path.absolute().parent.name)
    if says and DetectorName.parse(says[0]).family != DetectorName.parse(detector_name).family:
        raise FileFormatError(
            path, name, found=f"constants of {says[0]}, by its name", expected=f"those of {detector_name}"
        )


def dataset(
    file: h5py.File, name: str, *, kinds: str, shape: str, fits: Callable[[Shape], bool]
) -> h5py.Dataset:
    """Return a dataset whose dtype kind is among `kinds` (letters) and whose shape `fits`.

    FileFormatError otherwise; `shape` is the expected one in words.
    """
    try:
        found = file.get(name)
    except (RuntimeError, OSError, KeyError) as exc:  # a damaged index, or links in a circle
        raise FileFormatError(file.filename, name, found=f"{exc}", expected=f"{shape}") from exc
    if not isinstance(found, h5py.Dataset):
        there = "nothing" if found is None else f"a {type(found).__name__.lower()}"
        raise FileFormatError(file.filename, name, found=there, expected=f"a dataset of shape {shape}")
    if found.dtype.kind not in kinds or not fits(found.shape):
        words = " or ".join(_KINDS[kind] for kind in kinds)
        raise FileFormatError(
            file.filename, name, found=f"{found.dtype} {found.shape}", expected=f"{words} of shape {shape}"
        )
    return found


def own(file: h5py.File, name: str) -> h5py.HLObject | None:
    """Return what is there, None if nothing; FileFormatError if a link on the way leads into another file."""
    found = file.get(name)
    if found is not None and found.file.filename != file.filename:
        raise FileFormatError(
            file.filename, name, found="a link to another file", expected="data of this file"
        )
    return found


def read(source: h5py.Dataset, where: Any = ()) -> npt.NDArray[Any]:
    """Read a dataset or part of it; FileFormatError if the file is truncated or a filter fails."""
    with looking_into(source.file.filename, source.name):
        return source[where]


def read_planes(file: h5py.File, name: str, detector_name: str, n_planes: Shape) -> npt.NDArray[Any]:
    """Read maps of all modules, floats of shape (planes, 512 n, 1024), in one of so many planes."""
    rows, columns = DetectorName.parse(detector_name).raw_shape
    shape = f"({' or '.join(map(str, n_planes))}, {rows}, {columns}) for {detector_name}"
    fits = [(n, rows, columns) for n in n_planes]
    return read(dataset(file, name, kinds="f", shape=shape, fits=fits.__contains__))


_DETECTOR = re.compile(r"(?<![A-Za-z0-9])JF\d{1,4}T0*[1-9]\d{0,3}V\d{1,4}(?![0-9])", re.ASCII)
_KINDS = {"u": "unsigned integers", "i": "integers", "f": "floats", "b": "booleans"}


ADC_MAX = 16383
"""Largest ADU of a pixel; what is above are gain bits."""

MANY = 0.01
"""Share of pixels above which a fault is not one of single pixels."""


def check_gain(path: str | Path, dataset: str, gain: np.ndarray) -> None:
    """Refuse gains of the wrong sign, or inverted (keV/ADU); `gain` is (planes, y, x) in ADU/keV.

    G0 and HG0 are positive, the others negative; each stage amplifies less than the one before (wire
    reference jungfrau, section 8.1).
    """
    medians = [_median(plane) for plane in gain]
    for k, (median, plane) in enumerate(zip(medians, gain)):
        positive = k % 3 == 0
        if np.isfinite(median) and median != 0 and (median > 0) != positive:
            expected = f"{'positive' if positive else 'negative'} gains in ADU/keV"
            raise _wrong(path, dataset, k, plane, "the wrong sign", expected)
    for k in (1, 2, 4, 5):
        if k < len(gain) and np.isfinite(medians[k]) and abs(medians[k]) > abs(medians[k - 1]) > 0:
            expected = f"less than in {STAGES[k - 1]}: ADU/keV, not keV/ADU"
            raise _wrong(path, dataset, k, gain[k], "inverted", expected)
    _warn_of_nothing(path, dataset, gain)


def check_pedestal(path: str | Path, dataset: str, pedestal: np.ndarray) -> None:
    """Refuse pedestals that no ADC can give, warn of a stage without values; (planes, y, x) in ADU."""
    for k, plane in enumerate(pedestal):
        if (share := float(np.mean(plane > ADC_MAX))) > MANY:
            what = f"{share:.0%} of the pixels above the ADC's range: are the gain bits still in it?"
            raise _wrong(path, dataset, k, plane, what, f"0 to {ADC_MAX} ADU, gain bits taken out")
        if (share := float(np.mean(plane < 0))) > MANY:
            what = f"{share:.0%} of the pixels below 0"
            raise _wrong(path, dataset, k, plane, what, f"0 to {ADC_MAX} ADU")
    _warn_of_nothing(path, dataset, pedestal)


def _warn_of_nothing(path: str | Path, dataset: str, planes: np.ndarray) -> None:
    for k, plane in enumerate(planes):
        then = "Pixels that switch to it come out wrong, unless they are masked"
        warn_of_nothing(path, dataset, k, plane, then)


def warn_of_nothing(path: str | Path, dataset: str, stage: int, plane: np.ndarray, then: str) -> None:
    """Warn where a stage, as in `STAGES`, has no values for most pixels, and say what comes of it `then`."""
    empty = float(np.mean(~np.isfinite(plane) | (plane == 0)))
    if empty > 0.5:
        logger.warning(
            "%s: dataset %r: %s holds nothing (0 or NaN) for %.0f %% of the pixels; range %s. %s",
            path, dataset, STAGES[stage], 100 * empty, _range(plane), then,
        )  # fmt: skip


def _wrong(
    path: str | Path, dataset: str, k: int, plane: np.ndarray, what: str, expected: str
) -> FileFormatError:
    return FileFormatError(path, dataset, found=f"{STAGES[k]} {_range(plane)}, {what}", expected=expected)


def _range(plane: np.ndarray) -> str:
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return "without a number"
    return f"from {finite.min():g} to {finite.max():g}, median {np.median(finite):g}"


def _median(plane: np.ndarray) -> float:
    finite = plane[np.isfinite(plane) & (plane != 0)]
    return float(np.median(finite)) if finite.size else float("nan")
