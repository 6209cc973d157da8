"""The standard DAQ as a part of the Facility: the simulator in a child process, and a handle to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ...errors import RequestError
from ..child import Child
from ..part import World
from .faults import check
from .settings import Settings


class StdDaqPart:
    """A standard DAQ fed by the facility's detector, or by one of its own where there is no Jungfrau.

    Parameters
    ----------
    world : World
        Clock, speed, seed and ports of the facility, the directory below which files are written; its
        Jungfrau, if there is one.
    redis_url : str, optional
        An outside Redis; default is one of our own.
    **settings
        Fields of `Settings`: dialect, pydantic, detector_name, image_shape, rate_multiplicator, running,
        servers, simulation, compressed, validator, maxlen, folders; `writable` names folders outside of the
        facility's directory that files may be written to.

    Attributes
    ----------
    url, redis_url : str
        REST and Redis.

    Notes
    -----
    It runs in a process of its own, and its writer in another: writing files does not disturb a RunEngine in
    this one, and a writer that is killed is really gone.
    """

    name = "std_daq"

    def __init__(self, world: World, *, redis_url: str | None = None, **settings):
        jungfrau = world.parts.get("jungfrau")
        given = {
            "speed": world.speed,
            "seed": world.seed,
            "redis_url": redis_url or "",
            "start_timeout": world.start_timeout,
        }
        if jungfrau is not None:
            given["detector_name"] = jungfrau.detector_name
            given["rate_multiplicator"] = jungfrau.rate_multiplicator
        try:
            chosen = Settings(**{**given, **settings})
            self._settings = replace(chosen, writable=(str(world.directory), *chosen.writable))
        except TypeError as exc:
            raise RequestError("std_daq options", sorted(settings), f"fields of Settings ({exc})") from exc
        self._world = world
        self._child: Child | None = None
        self.url = self.redis_url = ""

    def launch(self) -> None:
        """Begin to start the processes."""
        world, settings = self._world, self._settings
        options = {key: getattr(settings, key) for key in settings.__dataclass_fields__}
        self._child = Child(
            "sfdaq_ophyd.sim.std_daq",
            *("--control", "--clock", str(world.clock.path)),
            *("--start-pulse-id", str(world.clock.start_pulse_id), "--settings", json.dumps(options)),
            *("--port", str(world.next_port()), "--redis-port", str(world.next_port())),
            timeout=world.start_timeout,
        )
        self._child.launch()

    def start(self) -> None:
        """Return once REST and Redis serve."""
        if self._child is None:
            self.launch()
        addresses = json.loads(self._child.wait())
        self.url, self.redis_url = addresses["url"], addresses["redis_url"]

    def stop(self) -> None:
        """End the processes. Safe twice."""
        if self._child is not None:
            self._child.stop()

    def addresses(self) -> dict[str, str]:
        """Return REST and Redis by role."""
        return {"url": self.url, "redis_url": self.redis_url}

    def fail_next(self, what: str, **details) -> None:
        """Misbehave: names and details are in `faults.AT_NEXT_USE` and `faults.AT_ONCE`."""
        check(what, details)
        self._ask("fail", what=what, details=details)

    def burst(self, n: int, rate: float, first_id: int | None = None) -> None:
        """Let the detector send `n` images at `rate` Hz in place of following the clock."""
        self._ask("burst", n=n, rate=rate, first_id=first_id)

    def follow_clock(self) -> None:
        """Let the detector follow the pulse clock."""
        self._ask("follow_clock")

    def silence(self) -> None:
        """Let the detector send nothing."""
        self._ask("silence")

    def restart_writer(self) -> None:
        """Start the writer process anew."""
        self._ask("restart_writer")

    def _ask(self, what: str, /, **command) -> Any:
        if self._child is None:
            raise RequestError("std_daq", what, "a part that was started")
        return self._child.ask({"do": what, **command})
