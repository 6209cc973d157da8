"""All simulators together, on free loopback ports, behind one pulse clock; what each is and is given."""

from __future__ import annotations

import importlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import RequestError, SfdaqError, require
from .clock import PulseClock

AUTO_SPEED = 4.0
"""What ``speed="auto"`` divides the services' own delays by."""

PARTS = {
    "pvs": ("sfdaq_ophyd.sim.pvs", "PvsPart"),
    "jungfrau": ("sfdaq_ophyd.sim.jungfrau", "JungfrauPart"),
    "eiger": ("sfdaq_ophyd.sim.eiger", "EigerPart"),
    "std_daq": ("sfdaq_ophyd.sim.std_daq", "StdDaqPart"),
    "broker": ("sfdaq_ophyd.sim.broker", "BrokerPart"),
}
"""Where each part lives, in the order they are started."""

NEEDS = {
    "eiger": ("aiohttp",),
    "std_daq": ("fakeredis", "fastapi", "jsonschema", "lupa", "redis", "uvicorn", "websockets"),
    "broker": ("bottle",),
}
"""Modules that the extra ``sim`` brings."""

HIGHEST_BASE = 65_490
"""First port at the most: there is room for every server after it."""


FIRST_LATER_PORT = 40
"""Behind `port_base`: servers that are new do not move the others, whose numbers stand in `sfdaq.yaml`."""


@dataclass
class World:
    """What all parts of one facility share.

    Parameters
    ----------
    clock : PulseClock
        The machine's pulse clock. Parts that do something at every pulse ``follow`` it.
    directory : Path
        Everything the parts write lies below it.
    speed : float
        Divides the services' own delays; never the frame identity.
    seed : int
        Seed of all random numbers.
    port_base : int
        First port to give out; 0 lets the system choose. Ask `next_port`, never use it directly.
    start_timeout : float
        s without a sign of progress after which the start of a part fails.
    parts : dict
        Parts already started, by name: a later part may look at an earlier one.
    """

    clock: PulseClock
    directory: Path
    speed: float = 1.0
    seed: int = 0
    port_base: int = 0
    start_timeout: float = 60.0
    parts: dict[str, Part] = field(default_factory=dict)
    _ports: dict[int, Iterator[int]] = field(default_factory=dict, repr=False)

    def next_port(self) -> int:
        """Return the port for one more server: 0 for any free one, else counted up from `port_base`."""
        return self._port(0)

    def later_port(self) -> int:
        """Return the port for a server that came when the others had their numbers."""
        return self._port(FIRST_LATER_PORT)

    def _port(self, first: int) -> int:
        if not self.port_base:
            return 0
        return next(self._ports.setdefault(first, itertools.count(self.port_base + first)))


class Part(Protocol):
    """A simulator the Facility starts and stops. Built as ``Part(world, **options)``."""

    name: str

    def launch(self) -> None:
        """Begin to start and return at once: children of several parts start side by side."""

    def start(self) -> None:
        """Return once it serves; launch it if that was not done."""

    def stop(self) -> None:
        """Leave nothing behind: threads joined, ports closed, children gone. Safe twice."""

    def addresses(self) -> dict[str, str]:
        """Say where it serves: role to URL, endpoint or PV name."""

    def fail_next(self, what: str, **details) -> None:
        """Misbehave once, by name; a name not in the part's documented list is a ValueError."""


def _made(name: str, cls: type, world: World, options: Mapping[str, object]) -> Part:
    """Make part `name`; RequestError for an option it does not have, or a value it cannot take.

    Options are the keywords of its class, and the fields of the dataclass ``settings`` where it has one,
    which looks at its values itself.
    """
    from pydantic import TypeAdapter, ValidationError  # a child, which needs a World alone, does without

    parameters = [each for each in signature(cls, eval_str=True).parameters.values() if each.name != "world"]
    types = {each.name: each.annotation for each in parameters if each.annotation is not each.empty}
    names = sorted(types.keys() | getattr(getattr(cls, "settings", None), "__dataclass_fields__", {}).keys())
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    for key, value in options.items():
        if key not in names and (hasattr(cls, "settings") or not anything):
            known = ", ".join(f"{name}_{each}" for each in names)
            raise RequestError("option", f"{name}_{key}", f"one of {known}")
        try:
            TypeAdapter(types.get(key, Any), config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as exc:
            raise RequestError(f"{name}_{key}", value, f"another value ({exc.errors()[0]['msg']})") from exc
    try:
        return cls(world, **options)
    except (TypeError, ValueError, AttributeError, OverflowError) as exc:
        if isinstance(exc, SfdaqError) or not options:
            raise
        raise RequestError(f"options of {name}", dict(options), f"values of the right types ({exc})") from exc


def _part(name: str, what: str) -> property:
    return property(lambda self: self._parts.get(name), doc=f"The {what}, or None.")


class Facility:
    """Simulators of the whole beamline: ready on enter, gone on exit.

    Parameters
    ----------
    speed : float or "auto"
        Divides the services' own delays (never the frame identity); 1.0 is the real thing. With ``"auto"``
        it is 4, and the pulse clock is patient: 100 Hz while all parts keep up, slower when one does not,
        so that no simulated frame is lost for want of CPU. With a number the clock is strict.
    directory : str or Path, optional
        Where files go; default is a temporary folder that goes with the facility.
    only : iterable of str, optional
        Start only these of ``"pvs", "jungfrau", "eiger", "std_daq", "broker"``.
    seed : int
        Seed of all random numbers.
    start_timeout : float
        s without a sign of progress after which the start of a part fails.
    on_rate : callable, optional
        Called with the line that says at which rate a patient clock runs; default is the log.
    **options
        ``<part>_<option>=value`` for a part, e.g. ``eiger_model="1M"``,
        ``jungfrau_name="JF01T03V01"``, ``broker_dialect="documented"``; and ``port_base``.

    Attributes
    ----------
    eiger, jungfrau, std_daq, broker
        The parts; None where not started.
    pvs : Mapping
        Role to PV name; empty where not started.
    clock : PulseClock
        The machine's pulse clock.
    started : list of str
        Parts that serve already, for those who look on while it is entered.

    Examples
    --------
    >>> with Facility(only=["eiger"], eiger_model="1M") as facility:  # doctest: +SKIP
    ...     print(facility.eiger.url)
    """

    eiger = _part("eiger", "SIMPLON server")
    jungfrau = _part("jungfrau", "Jungfrau streams")
    std_daq = _part("std_daq", "standard DAQ")
    broker = _part("broker", "sf-daq broker")

    def __init__(
        self,
        speed: float | Literal["auto"] = 1.0,
        directory: str | Path | None = None,
        only: Iterable[str] | None = None,
        seed: int = 0,
        *,
        start_timeout: float = 60.0,
        on_rate: Callable[[str], object] | None = None,
        **options,
    ):
        if speed != "auto" and not (isinstance(speed, int | float) and speed > 0):
            raise RequestError("speed", speed, 'a number above 0, or "auto"')
        if not start_timeout > 0:
            raise RequestError("start_timeout", start_timeout, "seconds above 0")
        names = list(PARTS) if only is None else [only] if isinstance(only, str) else list(only)
        for name in names:
            if name not in PARTS:
                raise RequestError("only", name, f"names out of {', '.join(PARTS)}")
        for name in names:
            require("sim", f"the simulated {name}", *NEEDS.get(name, ()))
        self._names = [name for name in PARTS if name in names]
        self._port_base = options.pop("port_base", 0)
        if not (isinstance(self._port_base, int) and 0 <= self._port_base <= HIGHEST_BASE):
            raise RequestError(
                "port_base", self._port_base, f"0 for free ports, or a port up to {HIGHEST_BASE}"
            )
        self._options: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
        for key, value in options.items():
            part = next((p for p in PARTS if key.startswith(p + "_")), None)
            if part is None:
                raise RequestError("option", key, f"a name that starts with one of {', '.join(PARTS)}")
            self._options[part][key[len(part) + 1 :]] = value
        self._patient, self._speed = speed == "auto", AUTO_SPEED if speed == "auto" else speed
        self._directory, self._seed = directory, seed
        self._start_timeout, self._on_rate = start_timeout, on_rate
        self._parts: dict[str, Part] = {}
        self.started: list[str] = []
        self._temporary: tempfile.TemporaryDirectory | None = None
        self.clock: PulseClock | None = None

    def __enter__(self) -> Facility:
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sfdaq-facility-")
            directory = Path(self._temporary.name)
        else:
            directory = Path(self._directory)
            directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.clock = PulseClock(patient=self._patient)
        world = World(
            self.clock,
            directory,
            self._speed,
            self._seed,
            self._port_base,
            start_timeout=self._start_timeout,
            parts=self._parts,
        )
        try:
            for name in self._names:
                module, cls = PARTS[name]
                make = getattr(importlib.import_module(module), cls)
                self._parts[name] = part = _made(name, make, world, self._options[name])
                part.launch()
            for name in self._names:
                self._parts[name].start()
                self.started.append(name)
            self.clock.announce(self._on_rate)
        except BaseException as exc:
            try:
                self.close()
            except ExceptionGroup as more:
                exc.add_note(f"and then {more}: {'; '.join(map(str, more.exceptions))}")
            raise
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Stop every part, last one first. Safe twice."""
        problems = []
        for name in reversed(list(self._parts)):
            try:
                self._parts.pop(name).stop()
            except Exception as exc:
                problems.append(exc)
        if self.clock is not None:
            self.clock.close()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
        if problems:
            raise ExceptionGroup("parts of the facility did not stop cleanly", problems)

    def addresses(self) -> dict[str, dict[str, str]]:
        """Return the addresses of every part, by part and role."""
        return {name: part.addresses() for name, part in self._parts.items()}

    @property
    def pvs(self) -> Mapping[str, str]:
        """PV names by role, with `read`, `write` and `fail_next`; empty where not started."""
        part = self._parts.get("pvs")
        return part if isinstance(part, Mapping) else {}
