"""Hardware and online-analysis settings (wire reference sf-daq-broker, sections 5.2, 5.3, 10).

The slow broker validates nothing: a bad hardware setting fails *after* it has stopped the trigger of the
whole beamline, and leaves it stopped.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import RequestError
from .broker_parameters import Check, check_bool, check_detector, check_int, check_modules, one_of, plain

DETECTOR_MODES = ("normal", "low_noise")
GAIN_MODES = ("dynamic", "fixed_gain1", "fixed_gain2")


def _number(value: Any, field: str, _: str = "", *, above: float | None = None) -> float:
    """Return a finite plain number; bools and strings are refused."""
    value = plain(value, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(field, value, "a number")
    if above is not None and value <= above:
        raise RequestError(field, value, f"a number above {above:g}")
    return value


def _gain_mode(value: Any, field: str, detector: str) -> Any:
    mode_of = one_of(*GAIN_MODES)
    if not isinstance(value, Mapping):
        return mode_of(value, field, detector)
    return {
        mode_of(mode, field, detector): check_modules(modules, detector, f"{field}.{mode}")
        for mode, modules in value.items()
    }


def _numbers(value: Any, field: str, _: str) -> list[float]:
    value = plain(value, field)
    if not isinstance(value, list):
        raise RequestError(field, value, "a list with one entry per region")
    return [_number(item, field) for item in value]


def _text(value: Any, field: str, _: str) -> str:
    if not isinstance(value, str):
        raise RequestError(field, value, "a text")
    return value


HARDWARE_SETTINGS: dict[str, Check] = {
    "delay": partial(_number, above=-1e-12),
    "detector_mode": one_of(*DETECTOR_MODES),
    "exptime": partial(_number, above=0),
    "gain_mode": _gain_mode,
}
"""In the order the server applies them, each with its check; the document's exposure_time is its exptime."""

_ROI = ("roi_x1", "roi_x2", "roi_y1", "roi_y2")

DAP_SETTINGS: dict[str, Check] = {
    "aggregation_max": lambda value, field, _: check_int(value, field),
    "apply_additional_mask": check_bool,
    "apply_aggregation": check_bool,
    "apply_threshold": check_bool,
    "do_peakfinder_analysis": check_bool,
    "do_radial_integration": check_bool,
    "do_spi_analysis": check_bool,
    "enable_bsread": check_bool,
    "laser_on": check_bool,
    "select_only_ppicker_events": check_bool,
    "beam_center_x": _number,
    "beam_center_y": _number,
    "beam_energy": _number,
    "detector_distance": _number,
    "hitfinder_adc_thresh": _number,
    "hitfinder_min_pix_count": _number,
    "hitfinder_min_snr": _number,
    "npeaks_threshold_hit": _number,
    "radial_integration_silent_min": _number,
    "radial_integration_silent_max": _number,
    "spi_threshold_photon": _number,
    "spi_threshold_hit_percentage": _number,
    "threshold_min": _number,
    "threshold_max": _number,
    "disabled_modules": lambda value, field, detector: check_modules(value, detector, field),
    **dict.fromkeys(_ROI, _numbers),
    "custom_script": _text,
    "double_pixels": one_of("mask", "interp", "keep"),
    "threshold_value": one_of("0", "NaN"),
}
"""Every setting of the online analysis, with its check."""


def check_hardware_settings(detector_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return hardware settings as sent.

    Parameters
    ----------
    detector_name : str
    parameters : dict
        ``exptime`` and ``delay`` in s, ``detector_mode``, ``gain_mode`` (or ``{mode: [modules]}``).

    Raises
    ------
    RequestError
        An unknown name, a wrong value, or nothing to set: even an empty call stops the trigger for 8 s.
    """
    some = f"at least one of {', '.join(HARDWARE_SETTINGS)}"
    return _checked(HARDWARE_SETTINGS, detector_name, parameters, some)


def check_dap_settings(detector_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of the online analysis as sent; RequestError names what is wrong."""
    some = "at least one setting of the online analysis"
    checked = _checked(DAP_SETTINGS, detector_name, parameters, some)
    regions = {name: checked[name] for name in _ROI if name in checked}
    if len({len(values) for values in regions.values()}) > 1:
        raise RequestError("parameters", regions, "lists of equal length")
    return checked


def _checked(table: Mapping[str, Check], detector: str, parameters: Any, some: str) -> dict[str, Any]:
    check_detector(detector)
    if not isinstance(parameters, Mapping) or not parameters:
        raise RequestError("parameters", parameters, some)
    checked = {}
    for name, value in parameters.items():
        if name not in table:
            raise RequestError("parameters", name, f"names out of {', '.join(sorted(table))}")
        checked[name] = table[name](value, name, detector)
    return checked


def check_script(name: str, code: str) -> str:
    """Return the file name of a custom analysis script; RequestError if the server could not use it.

    The code is parsed, never run.
    """
    stem = name.removesuffix(".py") if isinstance(name, str) else name
    if not isinstance(stem, str) or not stem.isidentifier():
        raise RequestError("name", name, "a Python identifier, without directories")
    if not isinstance(code, str):
        raise RequestError("code", code, "the script as text")
    try:
        tree = ast.parse(code, f"{stem}.py")
    except (SyntaxError, ValueError, RecursionError) as exc:
        raise RequestError("code", code, f"Python code ({exc})") from exc
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not functions & {"proc", stem}:
        raise RequestError("code", code, f"a function proc(meta, image, mask), or one named {stem}")
    return f"{stem}.py"
