"""Every choice of a calibration, checked, comparable, and written to JSON and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import RequestError, WireError
from ..wire.detector_name import DetectorName
from ..wire.json_text import load_json

DOUBLE_PIXELS = ("keep", "mask", "interp")
MODULE_EDGE_PIXELS = ("keep", "mask")
BAD_CONSTANTS = ("raise", "mask")

Roi = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What is done to a raw image. Defaults are those of the facility's own library.

    Parameters
    ----------
    conversion : bool
        Raw words to keV; False leaves them as they are (masked, expanded and placed all the same).
    mask : bool, optional
        Bad pixels become `masked_value`. Default: if there is a pixel mask.
    highgain : bool
        The detector ran in high gain (``daq_rec & 1``): constants of HG0.
    factor : float, optional
        Divide by this many keV, e.g. by those of a photon; round half to even, give int32.
    rounded : bool
        False leaves out the rounding after `factor`: float32.
    gap_pixels : bool
        Chips two pixels apart, as they are: a module has 514 x 1030 pixels. Strip sensors have no gaps: there
        this and `double_pixels` have no effect.
    geometry : bool
        Modules at their places; False stacks them in y. Strip sensors are re-sorted. A detector that is in no
        geometry table is stacked in any case, with a warning.
    double_pixels : {"keep", "mask", "interp"}
        Pixels beside the gaps are twice as large: as measured, masked, or shared with the gap pixels.
    module_edge_pixels : {"keep", "mask"}
        Outermost rows and columns of each module.
    module_map : tuple of int, optional
        For each module its place among the modules in the data, -1 = switched off. Default: all there.
    roi : dict of str to (y1, y2, x1, x2), optional
        Regions of the processed image, half-open. One tuple gets the label "0", several "0", "1", ...
    downsample : (int, int), optional
        Sum blocks of this many rows and columns, scaled to the full block where pixels are bad.
    masked_value : float
        0, or NaN (float images only): then everything that `pixel_mask` calls bad is NaN, gaps included.
    mask_undefined_gain : bool
        Pixels with gain code 2, which no healthy pixel has, count as bad in that frame; else as G2.
    mask_lost_packets : bool
        Words 0xFFFF, with which slsReceiver pads lost packets, count as bad in that frame. Bad pixels of one
        frame are 0 in interpolated and downsampled images, and do not count in the scale of a block.
    bad_constants : {"raise", "mask"}
        Gains of 0, NaN or infinity, or such pedestals, on pixels that are not masked.

    Raises
    ------
    RequestError
        A value, or two that exclude each other; names field, value and what is expected.
    """

    conversion: bool = True
    mask: bool | None = None
    highgain: bool = False
    factor: float | None = None
    rounded: bool = True
    gap_pixels: bool = True
    geometry: bool = True
    double_pixels: str = "keep"
    module_edge_pixels: str = "keep"
    module_map: tuple[int, ...] | None = None
    roi: Mapping[str, Roi] | None = None
    downsample: tuple[int, int] | None = None
    masked_value: float = 0.0
    mask_undefined_gain: bool = False
    mask_lost_packets: bool = False
    bad_constants: str = "raise"

    def __post_init__(self) -> None:
        self._check_choices()
        for name, (take, expected) in _TAKEN.items():
            value = getattr(self, name)
            if value is not None or name == "masked_value":
                object.__setattr__(self, name, _taken(name, value, take, expected))
        self._check_together()

    def _check_choices(self) -> None:
        for field in fields(self):
            if field.type == "bool":
                _choice(field.name, getattr(self, field.name), (True, False))
        _choice("mask", self.mask, (True, False, None))
        _choice("double_pixels", self.double_pixels, DOUBLE_PIXELS)
        _choice("module_edge_pixels", self.module_edge_pixels, MODULE_EDGE_PIXELS)
        _choice("bad_constants", self.bad_constants, BAD_CONSTANTS)

    def _check_together(self) -> None:
        if self.double_pixels == "interp":
            if not self.gap_pixels:
                raise RequestError("gap_pixels", False, "True with double_pixels='interp'")
            if self.counts and self.downsample is None:
                expected = "None with double_pixels='interp', or rounded=False"
                raise RequestError("factor", self.factor, expected)
            if not self.conversion:
                raise RequestError("conversion", False, "True with double_pixels='interp'")
        if self.double_pixels == "mask" and self.mask is False:
            raise RequestError("mask", False, "True with double_pixels='mask'")
        if self.downsample is not None:
            if self.roi is not None:
                raise RequestError("roi", self.roi, "None with downsample")
            if self.mask is False or not self.conversion:
                raise RequestError("downsample", self.downsample, "mask and conversion to be on")
        if self.factor is not None and not self.conversion:
            raise RequestError("factor", self.factor, "None without conversion")
        if math.isnan(self.masked_value) and (self.counts or not self.conversion):
            raise RequestError("masked_value", self.masked_value, "0 in an integer image")

    @property
    def counts(self) -> bool:
        """Whether pixels are whole multiples of the factor, int32."""
        return self.factor is not None and self.rounded

    @property
    def inner_factor(self) -> float | None:
        """The factor that is folded into the gain; with `downsample` it is applied after."""
        return None if self.downsample is not None else self.factor

    @property
    def inner_fill(self) -> float:
        """The value of bad pixels before interpolation and downsampling, which need 0."""
        return 0.0 if self.downsample is not None or self.double_pixels == "interp" else self.masked_value

    def with_(self, **changes: Any) -> CalibrationOptions:
        """Return a copy with some options changed; RequestError as when options are made."""
        check_names(changes)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return all options by name."""
        return {name: getattr(self, name) for name in _DEFAULTS}

    def check_rois(self, shape: tuple[int, int]) -> None:
        """Refuse regions that leave an image of this shape, by a RequestError that names the region."""
        for label, (y1, y2, x1, x2) in (self.roi or {}).items():
            if y2 > shape[0] or x2 > shape[1]:
                raise RequestError(
                    f"roi {label!r}", (y1, y2, x1, x2), f"inside the image of {shape[0]} x {shape[1]}"
                )

    def to_json(self) -> str:
        """Write what differs from the defaults as JSON text; NaN as null."""
        differing = {k: v for k, v in self.as_dict().items() if v != _DEFAULTS[k]}
        if "masked_value" in differing:
            differing["masked_value"] = None
        return json.dumps(differing, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> CalibrationOptions:
        """Read the text of `to_json`; unknown names are refused.

        Parameters
        ----------
        text : str or bytes
            A JSON object.

        Raises
        ------
        RequestError
            No JSON object, an option that does not exist, or a value that is wrong.
        """
        try:
            values = load_json(text)
        except WireError as exc:
            raise RequestError("calibration options", text, f"JSON ({exc})") from exc
        if not isinstance(values, dict):
            raise RequestError("calibration options", text, "a JSON object")
        check_names(values)
        if "masked_value" in values and values["masked_value"] is None:
            values["masked_value"] = math.nan
        return cls(**values)

    def active_modules(self, detector_name: str) -> dict[int, int]:
        """Return module -> place among active modules in the data, of those switched on.

        Parameters
        ----------
        detector_name : str
            E.g. ``"JF01T03V01"``.

        Raises
        ------
        RequestError
            `module_map` has another length than the detector has modules.
        """
        n = DetectorName.parse(detector_name).n_modules
        module_map = range(n) if self.module_map is None else self.module_map
        if len(module_map) != n or max(module_map) >= n:
            raise RequestError(
                "module_map", self.module_map, f"{n} values from -1 to {n - 1} for {detector_name}"
            )
        return {module: place for module, place in enumerate(module_map) if place >= 0}


_DEFAULTS = {f.name: f.default for f in fields(CalibrationOptions)}


def check_names(given: Mapping[str, Any]) -> None:
    """Refuse options that do not exist, with the list of those that do."""
    for name in given:
        if name not in _DEFAULTS:
            raise RequestError("option", name, f"one of {', '.join(_DEFAULTS)}")


def disabled_to_map(detector_name: str, disabled: tuple[int, ...]) -> tuple[int, ...]:
    """Return the module map with some modules switched off; later ones move down by one each.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``.
    disabled : tuple of int
        Modules that are off, counted from 0.

    Returns
    -------
    tuple of int
        For each module its place in the data, -1 = switched off.

    Raises
    ------
    RequestError
        No module of this detector.
    """
    n = DetectorName.parse(detector_name).n_modules
    for module in disabled:
        if not _is_int(module) or not 0 <= module < n:
            raise RequestError("disabled_modules", disabled, f"modules from 0 to {n - 1} of {detector_name}")
    places = iter(range(n))
    return tuple(-1 if module in disabled else next(places) for module in range(n))


def _is_int(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
        raise RequestError(name, value, f"one of {choices}")


def _taken(name: str, value: Any, take: Callable[[Any], Any], expected: str) -> Any:
    """Return what `take` makes of a value; RequestError where it raises TypeError or ValueError."""
    try:
        return take(value)
    except RequestError:  # of a part of it
        raise
    except (TypeError, ValueError) as exc:
        raise RequestError(name, value, expected) from exc


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise ValueError
    return float(value)


def _masked_value(value: Any) -> float:
    if isinstance(value, bool) or not (value == 0 or math.isnan(value)):
        raise ValueError
    return float(value)


def _module_map(values: Any) -> tuple[int, ...]:
    values = tuple(values)
    active = [v for v in values if v != -1]
    if not active or not all(_is_int(v) and 0 <= v < len(values) for v in active):
        raise ValueError
    if len(set(active)) < len(active):
        raise ValueError
    return tuple(int(v) for v in values)


def _downsample(value: Any) -> tuple[int, int]:
    ny, nx = value
    if not (_is_int(ny) and _is_int(nx) and ny > 0 and nx > 0):
        raise ValueError
    return int(ny), int(nx)


def _rois(value: Any) -> dict[str, Roi]:
    if not isinstance(value, Mapping):
        value = tuple(value)
        value = dict(enumerate((value,) if value and all(_is_int(v) for v in value) else value))
    if not value:
        raise ValueError
    expected = "(y1, y2, x1, x2) with 0 <= y1 < y2 and 0 <= x1 < x2"
    return {str(label): _taken(f"roi {label!r}", roi, _one_roi, expected) for label, roi in value.items()}


def _one_roi(roi: Any) -> Roi:
    y1, y2, x1, x2 = roi
    if not (all(map(_is_int, roi)) and 0 <= y1 < y2 and 0 <= x1 < x2):
        raise ValueError
    return int(y1), int(y2), int(x1), int(x2)


_TAKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "factor": (_positive, "a number above 0, or None"),
    "module_map": (_module_map, "for each module -1 or its place, at least one place, none twice"),
    "roi": (_rois, "(y1, y2, x1, x2), several of them, or a dict of them"),
    "downsample": (_downsample, "two integers of at least 1"),
    "masked_value": (_masked_value, "0 or NaN"),
}
"""What becomes of options that are more than a choice, and what is expected of them."""
