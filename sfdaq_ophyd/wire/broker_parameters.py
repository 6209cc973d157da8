"""What the broker is sent, checked name by name (wire reference sf-daq-broker, section 5).

Neither service checks any of it. A wrong detector parameter of a retrieval (5.1) shows up only in a writer's
log, or as a file that never comes; a bad hardware setting (5.3) fails *after* the slow broker has stopped the
trigger of the whole beamline, and leaves it stopped.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import RequestError
from .detector_name import DetectorName

CAMERA_SUFFIX = ":FPICTURE"
"""How the names of camera images end."""

_PGROUP = re.compile(r"p\d{5}", re.ASCII)
_DETECTOR = re.compile(r"JF\d{2}T\d{2}V\d{2}", re.ASCII)
_DEPTH = 32


def plain(value: Any, field: str, _depth: int = 0) -> Any:
    """Return `value` as plain JSON types: numpy scalars and arrays, tuples and sets become numbers and lists.

    Raises
    ------
    RequestError
        NaN or infinity (no JSON), a key that is not a string, or a type JSON does not know; `field`
        names the place.

    Examples
    --------
    >>> plain({"offset": (0, 1.5)}, "scan_info")
    {'offset': [0, 1.5]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(field, value, "a finite number: NaN and infinity are not JSON")
        return float(value)
    if _depth >= _DEPTH:
        raise RequestError(field, value, f"at most {_DEPTH} levels of nesting")
    if isinstance(value, Mapping):
        return plain_fields(value, field, _depth + 1)
    if hasattr(value, "tolist"):
        return plain(value.tolist(), field, _depth + 1)
    if isinstance(value, list | tuple):
        return [plain(item, f"{field}[{i}]", _depth + 1) for i, item in enumerate(value)]
    raise RequestError(field, value, "plain numbers, strings, lists and dicts")


def plain_fields(fields: Mapping[Any, Any], field: str, _depth: int = 1) -> dict[str, Any]:
    """Return a mapping as a plain JSON object; RequestError as from `plain`."""
    for key in fields:
        if not isinstance(key, str):
            raise RequestError(field, key, "keys that are strings")
    return {key: plain(item, f"{field}.{key}", _depth) for key, item in fields.items()}


def check_int(value: Any, field: str, low: int = 0, high: int | None = None) -> int:
    """Return `value` as a plain int from `low` to `high`; strings, floats and bools are refused."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise RequestError(field, value, "an integer") from None
    if number < low or (high is not None and number > high):
        raise RequestError(
            field, number, f"an integer of at least {low}" if high is None else f"{low} to {high}"
        )
    return number


def check_items(value: Any, field: str, expected: str) -> list[Any]:
    """Return the items of `value` as a list; RequestError if it has none, or is a text or a mapping."""
    try:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        return list(value)
    except TypeError:
        raise RequestError(field, value, expected) from None


def check_pgroup(value: Any) -> str:
    """Return `value` if it looks like a pgroup, e.g. ``p12345``."""
    if not isinstance(value, str) or not _PGROUP.fullmatch(value):
        raise RequestError("pgroup", value, "'p' and five digits, like 'p12345'")
    return value


def check_detector(value: Any, field: str = "detector_name") -> str:
    """Return `value` if it is a detector name as the broker writes them, e.g. ``JF01T03V01``."""
    if not isinstance(value, str) or not _DETECTOR.fullmatch(value):
        raise RequestError(field, value, "a detector name like 'JF01T03V01'")
    return str(DetectorName.parse(value))


def check_modules(value: Any, detector_name: str, field: str = "modules") -> list[int]:
    """Return module numbers of `detector_name`, each once, order kept."""
    items = check_items(value, field, "a list of module numbers")
    last = DetectorName.parse(detector_name).n_modules - 1
    return list(dict.fromkeys(check_int(item, field, 0, last) for item in items))


def check_names(value: Any, field: str, *, cameras: bool = False) -> list[str]:
    """Return names of channels, PVs or cameras: each once, order kept.

    Parameters
    ----------
    cameras : bool
        True: each must end in ``:FPICTURE``; False: none may.
    """
    names = check_items(value, field, "a list of names: the server splits a string into its letters")
    for name in names:
        if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
            raise RequestError(field, name, "non-empty names without blanks around them")
        if name.endswith(CAMERA_SUFFIX) is not cameras:
            where = f"camera images, ending in {CAMERA_SUFFIX}" if cameras else "cameras listed as cameras"
            raise RequestError(field, name, where)
    return list(dict.fromkeys(names))


def check_texts(value: Any, field: str) -> list[str]:
    """Return texts as they are, of which some may be no names that the DAQ takes: each once, order kept."""
    texts = check_items(value, field, "a list of texts")
    return list(dict.fromkeys(_text(text, field, "") for text in texts))


Check = Callable[[Any, str, str], Any]
"""(value, field, detector name) to the value as sent."""


def check_bool(value: Any, field: str, _: str) -> bool:
    """Return true or false; nothing else is either."""
    if not isinstance(value, bool):
        raise RequestError(field, value, "true or false")
    return value


def one_of(*choices: str) -> Check:
    """Return the check of a text that is one of several."""

    def check(value: Any, field: str, _: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise RequestError(field, value, f"one of {', '.join(choices)}")
        return value

    return check


def _modules(value: Any, field: str, detector: str) -> list[int]:
    return check_modules(value, detector, field)


def _factor(value: Any, field: str, _: str) -> float | None:
    value = plain(value, field)
    if value is not None and (isinstance(value, bool | str | list | dict) or value <= 0):
        raise RequestError(field, value, "a number above 0, or None")
    return value


def _downsample(value: Any, field: str, _: str) -> list[int]:
    value = plain(value, field)
    if not isinstance(value, list) or len(value) != 2:
        raise RequestError(field, value, "two integers, block height and width")
    return [check_int(item, field, 1) for item in value]


def _one_roi(value: Any, field: str) -> list[int]:
    value = plain(value, field)
    if not isinstance(value, list) or len(value) != 4:
        raise RequestError(field, value, "four integers [y1, y2, x1, x2]")
    y1, y2, x1, x2 = (check_int(item, field) for item in value)
    if not (y1 < y2 and x1 < x2):
        raise RequestError(field, value, "[y1, y2, x1, x2] with y1 < y2 and x1 < x2")
    return [y1, y2, x1, x2]


def _roi(value: Any, field: str, _: str) -> Any:
    if isinstance(value, Mapping):
        return {str(label): _one_roi(roi, f"{field}.{label}") for label, roi in value.items()}
    value = plain(value, field)
    if not isinstance(value, list) or not all(isinstance(roi, list) for roi in value):
        raise RequestError(
            field, value, "{label: [y1, y2, x1, x2]} or a list of such lists: the writer fails on a flat list"
        )
    return [_one_roi(roi, f"{field}[{i}]") for i, roi in enumerate(value)]


DETECTOR_PARAMETERS: dict[str, Check] = {
    "adc_to_energy": check_bool,
    "compression": check_bool,
    "disabled_modules": _modules,
    "save_dap_results": check_bool,
    "save_ppicker_events_only": check_bool,
    "roi": _roi,
    "downsample": _downsample,
    "remove_raw_files": check_bool,
    "crystfel_lists_laser": check_bool,
    "mask": check_bool,
    "double_pixels_action": one_of("keep", "mask", "interp"),
    "module_edge_pixels": one_of("keep", "mask"),
    "geometry": check_bool,
    "gap_pixels": check_bool,
    "factor": _factor,
}
"""Every parameter the writers know, with its check."""

ONLY_WITH_ENERGY = (
    "mask",
    "double_pixels_action",
    "module_edge_pixels",
    "geometry",
    "gap_pixels",
    "factor",
)
"""Parameters that do nothing without ``adc_to_energy``."""

STRIP_SENSORS = (5, 10, 11, 12, 18)
"""Installations whose pixels are sorted anew."""

ONLY_WHEN_PROCESSED = ("downsample", "crystfel_lists_laser")
"""Parameters that do nothing where only the raw file is written."""


def check_parameters(detector: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of one detector as sent; RequestError names what is wrong."""
    if not isinstance(parameters, Mapping):
        raise RequestError(f"detectors.{detector}", parameters, "a dict of parameters, {} for the defaults")
    checked = {}
    for name, value in parameters.items():
        field = f"detectors.{detector}.{name}"
        if name == "selected_pulse_ids":
            raise RequestError(
                field, value, "selected_pulse_ids at the top of the request: here it is ignored"
            )
        if name not in DETECTOR_PARAMETERS:
            raise RequestError(field, value, f"one of {', '.join(DETECTOR_PARAMETERS)}")
        checked[name] = DETECTOR_PARAMETERS[name](value, field, detector)
    _check_inside(detector, checked)
    if checked.get("downsample", [1, 1]) != [1, 1] and checked.get("roi"):
        raise RequestError(f"detectors.{detector}.downsample", checked["downsample"], "no roi beside it")
    if checked.get("double_pixels_action") == "interp":
        if not checked.get("gap_pixels", True) or checked.get("factor") is not None:
            raise RequestError(
                f"detectors.{detector}.double_pixels_action", "interp", "gap_pixels on and no factor"
            )
    return checked


def _check_inside(detector: str, parameters: Mapping[str, Any]) -> None:
    """Refuse regions that do not end before the last row and column, as the writer wants it.

    With geometry, and for strip sensors, the size is in tables of the calibration: not checked.
    """
    regions, energy = parameters.get("roi") or {}, parameters.get("adc_to_energy")
    name = DetectorName.parse(detector)
    if (energy and parameters.get("geometry")) or name.installation in STRIP_SENSORS:
        return
    active = name.n_modules - len(parameters.get("disabled_modules", ()))
    height, width = (514, 1030) if energy and parameters.get("gap_pixels", True) else (512, 1024)
    for label, region in regions.items() if isinstance(regions, dict) else enumerate(regions):
        if region[1] >= active * height or region[3] >= width:
            field = f"detectors.{detector}.roi.{label}"
            raise RequestError(field, region, f"y2 below {active * height} and x2 below {width}")


def check_detectors(detectors: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the detectors of a request with their parameters; RequestError if two share their modules."""
    if not isinstance(detectors, Mapping):
        raise RequestError("detectors", detectors, "{detector name: {parameters}}")
    checked: dict[str, dict[str, Any]] = {}
    for name, parameters in detectors.items():
        check_detector(name, "detectors")
        twin = next((other for other in checked if other[:4] == name[:4]), None)
        if twin is not None:
            raise RequestError("detectors", name, f"not together with {twin}: they share modules")
        checked[name] = check_parameters(name, parameters)
    return checked


def is_converted(parameters: Mapping[str, Any], *, selected_pulse_ids: bool = False) -> bool:
    """Say whether the raw file goes to ``raw_data/``."""
    keys = ("adc_to_energy", "compression", "disabled_modules", "roi", "save_ppicker_events_only")
    return selected_pulse_ids or any(parameters.get(key) for key in keys)


def is_processed(parameters: Mapping[str, Any], *, selected_pulse_ids: bool = False) -> bool:
    """Say whether a processed file appears in ``data/``, given that the raw one does not."""
    keys = ("adc_to_energy", "disabled_modules", "save_ppicker_events_only")
    return selected_pulse_ids or any(parameters.get(key) for key in keys)


def traps(detectors: Mapping[str, Mapping[str, Any]], *, selected_pulse_ids: bool = False) -> list[str]:
    """Return one sentence for each legal choice of parameters that does not do what it seems to.

    Examples
    --------
    >>> traps({"JF01T03V01": {"adc_to_energy": True, "compression": True}})
    []
    """
    found = []
    for name, parameters in detectors.items():
        selected = {"selected_pulse_ids": selected_pulse_ids}
        if is_converted(parameters, **selected) and not is_processed(parameters, **selected):
            where = "raw_data/ or temporary storage" if parameters.get("remove_raw_files") else "raw_data/"
            found.append(
                f"{name}: compression or roi without adc_to_energy, disabled_modules, "
                "save_ppicker_events_only or selected_pulse_ids: the announced file in data/ never appears; "
                f"the raw file goes to {where}, uncompressed and uncut"
            )
        if parameters.get("save_ppicker_events_only"):
            found.append(
                f"{name}: save_ppicker_events_only: where the pulse picker was open for no pulse of an "
                "acquisition, the announced file in data/ never appears; only the raw file is kept"
            )
        idle = [key for key in ONLY_WHEN_PROCESSED if parameters.get(key)]
        if idle and not is_processed(parameters, **selected):
            found.append(f"{name}: {', '.join(idle)} without a processed file: ignored by the writer")
        idle = [key for key in ONLY_WITH_ENERGY if key in parameters]
        if idle and not parameters.get("adc_to_energy"):
            found.append(f"{name}: {', '.join(idle)} without adc_to_energy: ignored by the writer")
    return found


# settings of hardware and online analysis

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
    if not value:
        raise RequestError(field, value, "a mode, or {mode: [modules]}")
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
    "disabled_modules": _modules,
    **dict.fromkeys(_ROI, _numbers),
    "custom_script": _text,
    "double_pixels": one_of("mask", "interp", "keep"),
    "threshold_value": one_of("0", "NaN"),
}
"""Every setting of the online analysis, with its check."""


def check_hardware_settings(
    detector_name: str, parameters: Mapping[str, Any], *, documented: bool = False
) -> dict[str, Any]:
    """Return hardware settings as sent: ``exptime`` and ``delay`` in s, ``detector_mode``, ``gain_mode``.

    Parameters
    ----------
    detector_name : str
    parameters : mapping
    documented : bool
        For a server of the documented dialect: refuse also what that one passes over, and calls "ok".

    Raises
    ------
    RequestError
        An unknown name, a wrong value, or nothing to set: even an empty call stops the trigger for 8 s.
    """
    some = f"at least one of {', '.join(HARDWARE_SETTINGS)}"
    checked = _checked(HARDWARE_SETTINGS, detector_name, parameters, some)
    if documented and checked.get("delay") == 0:
        raise RequestError("delay", checked["delay"], "above 0: the documented dialect passes 0 over")
    if documented and isinstance(mode := checked.get("gain_mode"), Mapping):
        raise RequestError("gain_mode", mode, "one mode for all modules in the documented dialect")
    return checked


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
