"""Commands as the driver of the websocket generation reads them: what it refuses, and what it dies of.

As in wire reference std-daq, section 12.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

MOST_IMAGES = 16_777_215
"""Images of a start that names no number."""


class DriverDied(Exception):
    """The process is gone; its message is what killed it."""


@dataclass(frozen=True)
class Start:
    """What a start asks for.

    Attributes
    ----------
    path, prefix : str
        Folder, and how the names of the files begin.
    n_images : int
    """

    path: str
    prefix: str = "file"
    n_images: int = MOST_IMAGES

    @classmethod
    def parse(cls, command: Mapping) -> Start | None:
        """Return the start of a command in its idle state; None for any other command.

        Raises
        ------
        DriverDied
            A value has a wrong type.
        """
        if command.get("command") != "start" or "path" not in command:
            return None
        n_images = _number(command, "n_image", MOST_IMAGES)
        for ignored in ("writer_id", "start_id"):
            _number(command, ignored, 0)
        return cls(_text(command, "path", ""), _text(command, "file_prefix", cls.prefix), n_images % 2**64)


def parse(text: str) -> dict:
    """Return a command.

    Raises
    ------
    ValueError
        It is no JSON.
    DriverDied
        It is no object, or its name no text.
    """
    try:
        command = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(command, dict):
        raise DriverDied(f"a command that is no object: {text}")
    _text(command, "command", "")
    return command


def _finite(text: str) -> float:
    """Return a number; the driver's parser knows none that is not finite."""
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _text(command: Mapping, name: str, default: str) -> str:
    value = command.get(name, default)
    if not isinstance(value, str):
        raise DriverDied(f"{name} is {value!r}")
    return value


def _number(command: Mapping, name: str, default: int) -> int:
    value = command.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DriverDied(f"{name} is {value!r}")
    return int(value)
