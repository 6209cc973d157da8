"""SIMPLON's addresses, parameter envelopes and replies as typed values.

Names and spellings are the vendor's (SIMPLON 1.8 API reference); see wire reference eiger, sections 1 to 3.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RequestError, ShapeError, WireError
from . import tiff
from .json_text import load_json

BIT_DEPTHS = (8, 16, 32)


def first_sentinel(dtype: npt.DTypeLike) -> int:
    """Return the lowest value that is a flag, not a count.

    With n bits, 2**n - 1 marks a masked pixel (gap, any bit of the pixel mask, no data), and clients see
    2**n - 2 as a second flag. In 8 bit the counter may roll over, so 254 and 255 can be counts too; they
    are flags here all the same.
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "u" or 8 * dtype.itemsize not in BIT_DEPTHS:
        raise ShapeError(f"an Eiger frame is uint8, uint16 or uint32, not {dtype}")
    return (1 << 8 * dtype.itemsize) - 2


def invalid_pixels(
    image: npt.NDArray[Any], pixel_mask: npt.NDArray[np.uint32] | None = None
) -> npt.NDArray[np.bool_]:
    """Mark the pixels that hold no counts.

    Parameters
    ----------
    image : ndarray of uint8, uint16 or uint32, shape (..., y, x)
    pixel_mask : ndarray of uint32, shape (y, x), optional
        The detector's mask: needed only where it was read with ``mask_to_zero``, which leaves no sentinel.

    Returns
    -------
    ndarray of bool, shape like `image`
        True where a pixel must stay out of sums, maxima and scales.
    """
    invalid: npt.NDArray[np.bool_] = image >= first_sentinel(image.dtype)
    if pixel_mask is not None:
        if pixel_mask.shape != image.shape[-2:]:
            raise ShapeError(f"pixel mask of shape {pixel_mask.shape} for frames of {image.shape[-2:]}")
        invalid |= pixel_mask != 0
    return invalid


TYPES = ("<u4", "<f4")


def encode_darray(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the JSON form of a (y, x) array; its shape is [height, width], as in real replies."""
    little = np.ascontiguousarray(array, "<f4" if array.dtype.kind == "f" else "<u4")
    return {
        "__darray__": [1, 0, 0],
        "type": little.dtype.str,
        "shape": list(little.shape),
        "filters": ["base64"],
        "data": base64.b64encode(little.data).decode("ascii"),
    }


def decode_darray(reply: object) -> npt.NDArray[Any]:
    """Return the (y, x) array of uint32 or float32, read-only; WireError if it is not one."""
    if not isinstance(reply, dict) or "__darray__" not in reply:
        raise WireError(f"not a darray: {reply!r:.200}")
    if reply.get("type") not in TYPES or reply.get("filters") != ["base64"]:
        raise WireError(f"darray of type {reply.get('type')!r:.40} and filters {reply.get('filters')!r:.80}")
    shape, text = reply.get("shape"), reply.get("data")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(n) is int and 0 < n < 2**20 for n in shape)
        or not isinstance(text, str)
    ):
        raise WireError(f"darray of shape {shape!r:.80}, expected [height, width]")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise WireError(f"darray: data is not base64 ({exc})") from exc
    if len(raw) != 4 * shape[0] * shape[1]:
        raise WireError(f"darray of shape {shape} with {len(raw)} bytes, expected {4 * shape[0] * shape[1]}")
    return np.frombuffer(raw, reply["type"]).reshape(shape)


MODULES = ("detector", "monitor", "filewriter", "stream", "system")
VERSIONS = ("1.8.0", "1.6.0")
"""API versions understood here: EIGER2, and the first generation."""

NO_LIMIT = 3e38
"""API 1.6 writes +-3.4e38 where there is no limit."""

MISNAMED = {"difference_mode": "threshold/difference/mode"}
"""Names in lists of changed parameters that are not paths, and the paths meant."""

_CHECKS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "bool": (bool, "true or false"),
    "string": (str, "text"),
    "int": (int, "an integer"),
    "uint": (int, "an integer, 0 or more"),
    "float": ((int, float), "a finite number"),
}


def uri(module: str, task: str, name: str = "", *, version: str) -> str:
    """Return the path of a parameter, command or list.

    Examples
    --------
    >>> uri("detector", "config", "threshold/1/energy", version="1.8.0")
    '/detector/api/1.8.0/config/threshold/1/energy'
    """
    if module not in MODULES:
        raise RequestError("module", module, f"one of {', '.join(MODULES)}")
    return f"/{module}/api/{version}/{task}/{name}".rstrip("/")


@dataclass(frozen=True)
class Parameter:
    """One parameter as the server describes it.

    Attributes
    ----------
    value : object
        None where the server says ``null``.
    value_type : str
        ``float``, ``int``, ``uint``, ``bool``, ``string``, ``string[]``, ...
    access_mode : str
        ``r``, ``w`` or ``rw``.
    minimum, maximum : float or None
        None where there is no limit.
    allowed_values : tuple
        Empty where any value will do.
    state : str or None
        Of a status parameter: ``invalid``, ``normal``, ``critical``, ``disabled``.
    time : str or None
        When a status parameter was measured, as the server wrote it.
    """

    value: Any
    value_type: str = ""
    access_mode: str = "rw"
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    allowed_values: tuple[Any, ...] = ()
    state: str | None = None
    time: str | None = None

    @classmethod
    def from_json(cls, reply: object) -> Parameter:
        """Read an envelope; WireError if it has no value."""
        if not isinstance(reply, dict) or "value" not in reply:
            raise WireError(
                f"not a SIMPLON parameter: {_shown(reply)}, expected a JSON object with a 'value'"
            )
        value_type = str(reply.get("value_type", ""))
        allowed = reply.get("allowed_values") or ()
        numeric = value_type in ("float", "int", "uint")
        return cls(
            value=reply["value"],
            value_type=value_type,
            access_mode=str(reply.get("access_mode") or "rw"),
            unit=str(reply.get("unit") or ""),
            minimum=_limit(reply.get("min")) if numeric else None,
            maximum=_limit(reply.get("max")) if numeric else None,
            allowed_values=tuple(allowed) if isinstance(allowed, list | tuple) else (allowed,),
            state=reply.get("state"),
            time=reply.get("time"),
        )

    def to_json(self) -> dict[str, Any]:
        """Write the envelope; what does not apply is left out."""
        known = {
            "min": self.minimum,
            "max": self.maximum,
            "unit": self.unit or None,
            "allowed_values": list(self.allowed_values) or None,
            "state": self.state,
            "time": self.time,
        }
        envelope = {key: value for key, value in known.items() if value is not None}
        return {
            "access_mode": self.access_mode,
            "value": self.value,
            "value_type": self.value_type,
        } | envelope

    def check(self, name: str, value: Any) -> None:
        """Raise RequestError unless the server would take `value` for this parameter."""
        if "w" not in self.access_mode:
            raise RequestError(name, value, "nothing: the parameter is read-only")
        kind, words = _CHECKS.get(self.value_type, (object, ""))
        if self.value_type == "bool" and (isinstance(self.value, str) or value in self.allowed_values):
            kind = (bool, str)  # API 1.6 calls modes bool that take "enabled" and "disabled"
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and self.value_type != "bool")
        wrong = wrong or (isinstance(value, float) and not math.isfinite(value))
        if wrong or (self.value_type == "uint" and value < 0):
            raise RequestError(name, value, f"{words} ({self.value_type})")
        if self.allowed_values and value not in self.allowed_values:
            raise RequestError(name, value, f"one of {', '.join(map(str, self.allowed_values))}")
        too_low = self.minimum is not None and value < self.minimum
        too_high = self.maximum is not None and value > self.maximum
        if too_low or too_high:
            raise RequestError(name, value, f"{_span(self.minimum, self.maximum)} {self.unit}".rstrip())


def typed(value: object, kind: str) -> Any:
    """Return a parameter's value as a ``"number"``, ``"integer"``, ``"boolean"`` or ``"string"``.

    None where it is none: servers write ``null``, ``""`` or ``[]`` for what they do not know. Whole floats
    are integers, 0 and 1 booleans, and numbers text too: firmware differs in what it calls them.
    """
    if kind == "string":
        return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else None
    if not isinstance(value, int | float) or not abs(value) <= NO_LIMIT:
        return None
    if kind == "boolean":
        return bool(value) if value in (0, 1) else None
    if isinstance(value, bool) or (kind == "integer" and (value != int(value) or abs(value) >= 2**63)):
        return None
    return int(value) if kind == "integer" else value


def parse_changed(body: bytes, name: str) -> list[str]:
    """Read the reply to a PUT of `name`: the parameters that changed or may have changed.

    An empty body or an empty string, which some firmware sends, means `name` alone. Names that are not
    paths are put right (`MISNAMED`).
    """
    text = body.strip()
    if not text:
        return [name]
    reply = load_json(text)
    if reply in ("", None):
        return [name]
    if not isinstance(reply, list) or not all(isinstance(entry, str) for entry in reply):
        raise WireError(f"not a list of changed parameters: {_shown(reply)}")
    names: list[str] = reply
    changed = [MISNAMED.get(entry, entry) for entry in names]
    return changed if name in changed else [*changed, name]


def parse_sequence_id(body: bytes) -> int | None:
    """Return the series number in the reply to a command, None if there is none.

    The key is ``sequence id`` with a space, ``series id`` on newer firmware, ``sequence_id`` in a table of
    the reference.
    """
    text = body.strip()
    reply = load_json(text) if text else None
    if not isinstance(reply, dict):
        return None
    for key in ("sequence id", "series id", "sequence_id", "series_id"):
        if key in reply:
            number = reply[key]
            if isinstance(number, bool) or not isinstance(number, int):
                raise WireError(f"the series number is {_shown(number)}, expected an integer")
            return number
    return None


def parse_image_list(reply: Any) -> list[tuple[int, int]]:
    """Read the monitor's list of buffered images: pairs (series_id, image_id), oldest series first."""
    try:
        return [(int(series), int(image)) for series, images in reply for image in images]
    except (TypeError, ValueError, OverflowError) as exc:
        raise WireError(
            f"not a list of images: {_shown(reply)}, expected [[series, [id, ...]], ...]"
        ) from exc


def parse_keys(reply: object) -> list[str]:
    """Read a module's list of names."""
    if not isinstance(reply, list) or not all(isinstance(name, str) for name in reply):
        raise WireError(f"not a list of names: {_shown(reply)}")
    return reply


def parse_array(body: bytes) -> npt.NDArray[Any]:
    """Read ``pixel_mask`` or ``flatfield``, in any of the forms in use: TIFF, darray, lists of lists.

    Returns
    -------
    ndarray of uint32 or float32, shape (y, x)
        Empty where the server has none (``[[]]``).
    """
    if body[:4] == tiff.MAGIC:
        array = tiff.decode_array(body)
        return array if array.dtype.kind == "f" else array.astype("<u4", copy=False)
    value = Parameter.from_json(load_json(body)).value
    if not isinstance(value, list):
        return decode_darray(value)
    try:
        array = np.array(value)
        if array.ndim != 2 or array.dtype.kind not in "iuf" or (array < 0).any():
            raise ValueError(f"shape {array.shape}, {array.dtype}")
        return array.astype("<f4" if array.size and array.dtype.kind == "f" else "<u4")
    except (TypeError, ValueError, OverflowError) as exc:
        raise WireError(f"not an array: {_shown(value)} ({exc})") from exc


def event_id(series_id: int, image_id: int) -> str:
    """Return the name of one frame, e.g. ``"7_42"``."""
    return f"{series_id}_{image_id}"


def _limit(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > NO_LIMIT:
        return None
    return value


def _span(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    return f"{low:g} or more" if high is None else f"{high:g} or less"


def _shown(value: object) -> str:
    return f"{value!r:.200}"


class DetectorState(StrEnum):
    """What ``detector/status/state`` says."""

    NA = "na"
    INITIALIZE = "initialize"
    IDLE = "idle"
    CONFIGURE = "configure"
    READY = "ready"
    """Armed, waiting for a trigger."""
    ACQUIRE = "acquire"
    TEST = "test"
    ERROR = "error"


ARMED = frozenset({DetectorState.READY, DetectorState.ACQUIRE})
"""States in which a series is open."""

BUSY = frozenset({DetectorState.INITIALIZE, DetectorState.CONFIGURE})
"""States that end by themselves."""

COMMANDS = {
    "initialize": {
        DetectorState.NA: DetectorState.IDLE,
        DetectorState.IDLE: DetectorState.IDLE,
        DetectorState.READY: DetectorState.IDLE,
        DetectorState.ACQUIRE: DetectorState.IDLE,
        DetectorState.ERROR: DetectorState.IDLE,
    },
    "arm": {DetectorState.IDLE: DetectorState.READY, DetectorState.READY: DetectorState.READY},
    "trigger": {DetectorState.READY: DetectorState.ACQUIRE},
    "disarm": dict.fromkeys((DetectorState.IDLE, *ARMED), DetectorState.IDLE),
    "cancel": dict.fromkeys((DetectorState.IDLE, *ARMED), DetectorState.IDLE),
    "abort": dict.fromkeys((DetectorState.IDLE, *ARMED), DetectorState.IDLE),
}
"""Command to {state it is allowed in: state it leads to}. What is not here is refused."""


class TriggerMode(StrEnum):
    """What starts a frame."""

    INTS = "ints"
    """One ``trigger`` command: nimages frames. The command blocks until they are exposed."""
    INTE = "inte"
    """One ``trigger`` command: one frame of the command's own count time."""
    EXTS = "exts"
    """One electrical edge: nimages frames."""
    EXTE = "exte"
    """The gate's high level is one exposure."""
    EXTG = "extg"
    """Gates counted."""
    EIES = "eies"
    """One edge ends a frame and starts the next."""


SOFTWARE_TRIGGERED = frozenset({TriggerMode.INTS, TriggerMode.INTE})
"""Modes in which the command ``trigger`` may be sent; in the others it must not."""

MANY_PER_TRIGGER = frozenset({TriggerMode.INTS, TriggerMode.EXTS})
"""Modes in which one trigger makes ``nimages`` frames; in the others it makes one."""


def frames_of(mode: str, nimages: int) -> int:
    """Return how many frames one trigger makes; ``nimages`` counts as 1 in the gated modes."""
    return nimages if mode in MANY_PER_TRIGGER else 1
