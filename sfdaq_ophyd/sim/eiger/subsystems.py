"""The modules of a detector control unit, as names to read, write and command. No HTTP in here."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import RequestError
from ...wire import cbor, tiff
from ...wire.simplon import DetectorState, Parameter, TriggerMode, decode_darray
from . import parameters as table
from .config import DetectorConfig
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
        self._default, self._status, self.commands = config, status, commands
        self.reset()

    @property
    def config(self) -> dict[str, Parameter]:
        """The config parameters by name."""
        return self._config

    def keys(self, task: str) -> list[str]:
        """Return the list the server gives of a task's names."""
        names = {"config": self.config, "status": self._status(), "command": self.commands}[task]
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

    def takes_argument(self, name: str) -> bool:
        """Whether a command may come with a value."""
        return False


class DetectorModule(Subsystem):
    """``detector``: nothing but ``status/state`` before initialize, and 2-D arrays among the config."""

    unlisted = table.UNLISTED

    def __init__(self, detector: EigerModel, status, version: str):
        self._detector = detector
        super().__init__(dict, status, _detector_commands(detector, version))

    @property
    def config(self) -> dict[str, Parameter]:
        """The config parameters by name."""
        return self._detector.config.parameters

    def get(self, task: str, name: str) -> dict:
        """Return one envelope."""
        if (task, name) != ("status", "state"):
            self._awake(name)
        return super().get(task, name)

    def array(self, name: str) -> np.ndarray | None:
        """Return the pixel mask (uint32) or the flatfield (float32), shape (y, x)."""
        config, awake = self._detector.config, self._detector.state != DetectorState.NA
        return config.arrays[config.array_names[name]] if awake and name in config.array_names else None

    def put_array(self, name: str, file: bytes) -> list[str]:
        """Set the pixel mask or the flatfield from a TIFF."""
        return self._with_array(name).put_array(name, tiff.decode(file).image)

    def put(self, name: str, value) -> list[str]:
        """Set one parameter and return the names that changed."""
        config = self._awake(name)
        if name in config.array_names:
            return config.put_array(name, decode_darray(value))
        return config.put(name, value)

    def delete(self, name: str) -> None:
        """Restore the pixel mask or the flatfield."""
        self._with_array(name).restore_array(name)

    def takes_argument(self, name: str) -> bool:
        """``trigger`` takes a count time, in inte only; ``hv_reset`` seconds."""
        series = self._detector.series
        inte = series is not None and series.mode == TriggerMode.INTE
        return name == "hv_reset" or (name == "trigger" and inte)

    def _awake(self, name: str) -> DetectorConfig:
        if self._detector.state == DetectorState.NA:
            raise KeyError(name)
        return self._detector.config

    def _with_array(self, name: str) -> DetectorConfig:
        if name not in (config := self._awake(name)).array_names:
            raise KeyError(name)
        return config


class MonitorModule(Subsystem):
    """``monitor``: its config is that of the buffer."""

    def __init__(self, buffer: MonitorBuffer, status, version: str):
        self._buffer, self._version = buffer, version
        commands = {"clear": bare(buffer.clear), "initialize": bare(self.reset)}
        super().__init__(lambda: table.monitor_config(version), status, commands)

    def reset(self) -> None:
        """Begin anew with the default config, and an empty buffer."""
        super().reset()
        self._buffer.initialize()

    def put(self, name: str, value) -> list[str]:
        """Set the mode, the size or the drop rule."""
        if name == "mode" and isinstance(value, bool) and self._version == "1.6.0":
            value = "enabled" if value else "disabled"
        super().put(name, value)
        self._buffer.configure(name, value)
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


def bare(function: Callable[[], Any]) -> Command:
    """Return the command that calls a function, or coroutine function, whatever value it is sent with."""

    async def command(_argument: object) -> int | None:
        done = function()
        return await done if inspect.isawaitable(done) else None

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

    own = ("initialize", "arm", "disarm", "cancel", "abort")
    nothing = ("check_connections", *(["status_update"] if version == "1.6.0" else []))
    return {
        **{name: bare(getattr(detector, name)) for name in own},
        **{name: bare(lambda: None) for name in nothing},
        "trigger": trigger,
        "hv_reset": hv_reset,
    }
