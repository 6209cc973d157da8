"""The five modules of a detector control unit, as names to read, write and command. No HTTP in here."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import RequestError
from ...wire import cbor, tiff
from ...wire.simplon import Parameter, decode_darray
from ...wire.simplon_states import DetectorState, TriggerMode
from . import parameters as table
from .config import array_names
from .detector import EigerModel
from .monitor import MonitorBuffer

Command = Callable[[object], Awaitable[int | None]]


class Subsystem:
    """One module: envelopes out, values in.

    Parameters
    ----------
    config : callable
        Returns name to `Parameter` as they are after a reset.
    status : callable
        Returns name to `Parameter` as they are now.
    commands : mapping
        Name to coroutine function of one argument (None where the command was sent bare).
    """

    unlisted: frozenset[str] = frozenset()

    def __init__(
        self,
        config: Callable[[], dict[str, Parameter]],
        status: Callable[[], dict[str, Parameter]],
        commands: Mapping[str, Command],
    ):
        self._default, self._status, self._commands = config, status, commands
        self.reset()

    @property
    def config(self) -> dict[str, Parameter]:
        """The config parameters by name."""
        return self._config

    def keys(self, task: str) -> list[str]:
        """Return the list the server gives of a task's names."""
        names = {"config": self.config, "status": self._status(), "command": self._commands}[task]
        return sorted(name for name in names if name not in self.unlisted)

    def get(self, task: str, name: str) -> dict:
        """Return one envelope; KeyError if there is no such name."""
        return (self.config if task == "config" else self._status())[name].to_json()

    def put(self, name: str, value) -> list[str]:
        """Set one config parameter; return what changed (an empty list outside the detector module)."""
        self.config[name].check(name, value)
        self._config[name] = replace(self.config[name], value=value)
        return []

    def array(self, name: str) -> np.ndarray | None:
        """Return the 2-D array of that name; None if there is no such array."""
        return None

    def put_array(self, name: str, file: bytes) -> list[str]:
        """Set a 2-D array from a TIFF; return what changed. KeyError where there is none."""
        raise KeyError(name)

    def reset(self) -> None:
        """Begin anew with the default config."""
        self._config = self._default()

    def delete(self, name: str) -> None:
        """Restore a parameter; KeyError where that is not offered."""
        raise KeyError(name)

    def commands(self) -> Mapping[str, Command]:
        """Return the commands by name."""
        return self._commands

    def takes_argument(self, name: str) -> bool:
        """Whether a command may come with a value."""
        return False


class DetectorModule(Subsystem):
    """``detector``: nothing but ``status/state`` before initialize, and 2-D arrays among the config."""

    unlisted = table.UNLISTED

    def __init__(self, detector: EigerModel, status, version: str):
        self._detector, self._version = detector, version
        super().__init__(dict, status, _detector_commands(detector, version))

    @property
    def config(self) -> dict[str, Parameter]:
        """The config parameters by name."""
        return self._detector.config.parameters

    def keys(self, task: str) -> list[str]:
        """Return the list of names; it is the same before initialize."""
        return self._detector.config.names() if task == "config" else super().keys(task)

    def get(self, task: str, name: str) -> dict:
        """Return one envelope."""
        if self._asleep and (task, name) != ("status", "state"):
            raise KeyError(name)
        return super().get(task, name)

    def array(self, name: str) -> np.ndarray | None:
        """Return the pixel mask (uint32) or the flatfield (float32), shape (y, x)."""
        what = array_names(self._version).get(name)
        return None if what is None or self._asleep else self._detector.config.arrays[what]

    def put_array(self, name: str, file: bytes) -> list[str]:
        """Set the pixel mask or the flatfield from a TIFF."""
        if self._asleep or name not in array_names(self._version):
            raise KeyError(name)
        return self._detector.config.put_array(name, tiff.decode(file).image)

    def put(self, name: str, value) -> list[str]:
        """Set one parameter and return the names that changed."""
        if self._asleep:
            raise KeyError(name)
        if name in array_names(self._version):
            return self._detector.config.put_array(name, decode_darray(value))
        return self._detector.config.put(name, value)

    def delete(self, name: str) -> None:
        """Restore the pixel mask or the flatfield."""
        if self._asleep or name not in array_names(self._version):
            raise KeyError(name)
        self._detector.config.restore_array(name)

    def takes_argument(self, name: str) -> bool:
        """``trigger`` takes a count time, in inte only; ``hv_reset`` seconds."""
        series = self._detector.series
        inte = series is not None and series.mode == TriggerMode.INTE
        return name == "hv_reset" or (name == "trigger" and inte)

    @property
    def _asleep(self) -> bool:
        return self._detector.state == DetectorState.NA


class MonitorModule(Subsystem):
    """``monitor``: its config is that of the buffer."""

    def __init__(self, buffer: MonitorBuffer, status, version: str):
        self._buffer, self._version = buffer, version
        super().__init__(dict, status, {"clear": bare(buffer.clear), "initialize": bare(buffer.initialize)})

    @property
    def config(self) -> dict[str, Parameter]:
        """The config parameters by name."""
        buffer = self._buffer
        config = {
            "mode": table.text("enabled" if buffer.enabled else "disabled", *table.SWITCH),
            "buffer_size": table.count(buffer.buffer_size, low=1),
        }
        return (
            config if self._version == "1.6.0" else config | {"discard_new": table.flag(buffer.discard_new)}
        )

    def put(self, name: str, value) -> list[str]:
        """Set the mode, the size or the drop rule."""
        if name == "mode" and isinstance(value, bool) and self._version == "1.6.0":
            value = "enabled" if value else "disabled"
        self.config[name].check(name, value)
        if name == "mode":
            self._buffer.enabled = value == "enabled"
        elif name == "buffer_size":
            self._buffer.shrink(value)
        else:
            self._buffer.discard_new = value
        return []


class StreamModule(Subsystem):
    """``stream``: its appendices take any JSON, whatever their type is said to be."""

    unlisted = table.UNLISTED

    def put(self, name: str, value) -> list[str]:
        """Set one config parameter."""
        if not name.endswith("_appendix"):
            return super().put(name, value)
        try:
            cbor.encode(value)
        except (RecursionError, struct.error):
            raise RequestError(name, str(value)[:80], "JSON that CBOR can hold") from None
        self._config[name] = replace(self.config[name], value=value)
        return []


def bare(function: Callable[[], object]) -> Command:
    """Return the command that calls a plain function, whatever value it is sent with."""

    async def command(_argument: object) -> None:
        function()

    return command


def _detector_commands(detector: EigerModel, version: str) -> dict[str, Command]:
    async def trigger(argument: Any) -> int:
        if argument is not None:
            detector.config.parameters["count_time"].check("trigger", argument)
        return await detector.trigger(argument)

    async def hv_reset(argument: Any) -> None:
        seconds = isinstance(argument, int | float) and not isinstance(argument, bool)
        if argument is not None and not (seconds and 1 <= argument <= 600):
            raise RequestError("hv_reset", argument, "1 to 600 s")

    nothing = bare(lambda: None)
    return {
        "initialize": lambda _: detector.initialize(),
        "arm": lambda _: detector.arm(),
        "trigger": trigger,
        "disarm": lambda _: detector.disarm(),
        "cancel": lambda _: detector.cancel(),
        "abort": lambda _: detector.abort(),
        **({"status_update": nothing} if version == "1.6.0" else {}),
        "hv_reset": hv_reset,
        "check_connections": nothing,
    }
