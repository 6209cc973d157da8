"""Hardware and online-analysis settings (wire reference sf-daq-broker, sections 5.2, 5.3, 10).

The slow broker validates nothing: a bad hardware setting fails *after* it has stopped the trigger of the
whole beamline, and leaves it stopped.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from .broker_parameters import check_detector, check_int, check_modules, plain

DETECTOR_MODES = ("normal", "low_noise")
GAIN_MODES = ("dynamic", "fixed_gain1", "fixed_gain2")
HARDWARE_SETTINGS = ("delay", "detector_mode", "exptime", "gain_mode")
"""Names on the wire, in the order the server applies them; the document's exposure_time is its exptime."""

_DAP_TYPES: dict[str, tuple[str, ...]] = {
    "int": ("aggregation_max",),
    "bool": (
        "apply_additional_mask",
        "apply_aggregation",
        "apply_threshold",
        "do_peakfinder_analysis",
        "do_radial_integration",
        "do_spi_analysis",
        "enable_bsread",
        "laser_on",
        "select_only_ppicker_events",
    ),
    "number": (
        "beam_center_x",
        "beam_center_y",
        "beam_energy",
        "detector_distance",
        "hitfinder_adc_thresh",
        "hitfinder_min_pix_count",
        "hitfinder_min_snr",
        "npeaks_threshold_hit",
        "radial_integration_silent_min",
        "radial_integration_silent_max",
        "spi_threshold_photon",
        "spi_threshold_hit_percentage",
        "threshold_min",
        "threshold_max",
    ),
    "list": ("disabled_modules", "roi_x1", "roi_x2", "roi_y1", "roi_y2"),
    "str": ("custom_script",),
}
_DAP_CHOICES = {"double_pixels": ("mask", "interp", "keep"), "threshold_value": ("0", "NaN")}
DAP_SETTINGS: dict[str, str] = {
    **{name: kind for kind, names in _DAP_TYPES.items() for name in names},
    **dict.fromkeys(_DAP_CHOICES, "choice"),
}
"""Every setting of the online analysis and its type."""

_ROI = ("roi_x1", "roi_x2", "roi_y1", "roi_y2")


def check_number(value: Any, field: str, *, above: float | None = None) -> float:
    """Return a finite plain number; bools and strings are refused."""
    value = plain(value, field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(field, value, "a number")
    if above is not None and value <= above:
        raise RequestError(field, value, f"a number above {above:g}")
    return value


def check_hardware_settings(detector_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return hardware settings as sent.

    Parameters
    ----------
    parameters : dict
        ``exptime`` and ``delay`` in s, ``detector_mode``, ``gain_mode`` (or ``{mode: [modules]}``).

    Raises
    ------
    RequestError
        An unknown name, a wrong value, or nothing to set: even an empty call stops the trigger for 8 s.
    """
    check_detector(detector_name)
    if not isinstance(parameters, Mapping) or not parameters:
        raise RequestError("parameters", parameters, f"at least one of {', '.join(HARDWARE_SETTINGS)}")
    checked: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "exptime":
            checked[name] = check_number(value, name, above=0)
        elif name == "delay":
            checked[name] = check_number(value, name, above=-1e-12)
        elif name == "detector_mode":
            checked[name] = _one_of(value, name, DETECTOR_MODES)
        elif name == "gain_mode" and isinstance(value, Mapping):
            checked[name] = {
                _one_of(mode, name, GAIN_MODES): check_modules(modules, detector_name, f"{name}.{mode}")
                for mode, modules in value.items()
            }
        elif name == "gain_mode":
            checked[name] = _one_of(value, name, GAIN_MODES)
        else:
            raise RequestError("parameters", name, f"names out of {', '.join(HARDWARE_SETTINGS)}")
    return checked


def check_dap_settings(detector_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of the online analysis as sent; RequestError names what is wrong."""
    check_detector(detector_name)
    if not isinstance(parameters, Mapping) or not parameters:
        raise RequestError("parameters", parameters, "at least one setting of the online analysis")
    checked = {name: _check_dap(name, value, detector_name) for name, value in parameters.items()}
    given = [checked[name] for name in _ROI if name in checked]
    if len({len(values) for values in given}) > 1:
        raise RequestError(
            "parameters", {n: checked[n] for n in _ROI if n in checked}, "lists of equal length"
        )
    return checked


def _check_dap(name: str, value: Any, detector_name: str) -> Any:
    kind = DAP_SETTINGS.get(name)
    if kind == "int":
        return check_int(value, name)
    if kind == "bool":
        if not isinstance(value, bool):
            raise RequestError(name, value, "true or false")
        return value
    if kind == "number":
        return check_number(value, name)
    if kind == "list":
        if name == "disabled_modules":
            return check_modules(value, detector_name, name)
        value = plain(value, name)
        if not isinstance(value, list):
            raise RequestError(name, value, "a list with one entry per region")
        return [check_number(item, name) for item in value]
    if kind == "choice":
        return _one_of(value, name, _DAP_CHOICES[name])
    if kind == "str":
        if not isinstance(value, str):
            raise RequestError(name, value, "a text")
        return value
    raise RequestError("parameters", name, f"names out of {', '.join(sorted(DAP_SETTINGS))}")


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


def _one_of(value: Any, field: str, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise RequestError(field, value, f"one of {', '.join(choices)}")
    return value
