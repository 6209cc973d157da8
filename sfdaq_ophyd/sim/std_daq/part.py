"""The standard DAQ as a part of the Facility: the simulator in a child process, and a handle to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ..child import ChildPart
from ..facility import World
from ..faults import check
from ..jungfrau.part import JungfrauPart
from .settings import StdDaqSettings, faults_of


class StdDaqPart(ChildPart):
    """A standard DAQ fed by the facility's detector, or by one of its own where there is no Jungfrau.

    Parameters
    ----------
    world : World
        Clock, speed, seed and ports of the facility, the directory below which files are written; its
        Jungfrau, if there is one.
    **settings
        Fields of `StdDaqSettings`; `writable` names folders outside of the facility's directory.

    Attributes
    ----------
    url, redis_url, ws_url : str
        REST (of the websocket generation that of its configuration); Redis and the websocket that controls
        the writers, empty in the dialects that have none.

    Notes
    -----
    It runs in a process of its own, and its writer in another: writing files does not disturb a RunEngine in
    this one, and a writer that is killed is really gone.
    """

    name = "std_daq"

    settings = StdDaqSettings

    def __init__(self, world: World, **settings):
        jungfrau = world.parts.get("jungfrau")
        given: dict[str, Any] = {
            "speed": world.speed,
            "seed": world.seed,
            "start_timeout": world.start_timeout,
        }
        if isinstance(jungfrau, JungfrauPart):
            given["detector_name"] = jungfrau.detector_name
            given["rate_multiplicator"] = jungfrau.rate_multiplicator
        chosen = StdDaqSettings(**{**given, **settings})
        super().__init__(world)
        self._settings = replace(chosen, writable=(str(world.directory), *chosen.writable))
        self._addresses = dict[str, str]()
        self.url = self.redis_url = self.ws_url = ""

    def _arguments(self) -> list[object]:
        other = "--ws-port" if self._settings.dialect == "websocket" else "--redis-port"
        ports = ("--port", self._world.next_port(), other, self._world.next_port())
        return self._with_settings(self._settings, *ports)

    def _take_addresses(self, said: str) -> None:
        self._addresses = json.loads(said)
        self.url = self._addresses["url"]
        self.redis_url, self.ws_url = (self._addresses.get(role, "") for role in ("redis_url", "ws_url"))

    def addresses(self) -> dict[str, str]:
        """Return REST, and Redis or the websocket, by role."""
        return dict(self._addresses)

    def fail_next(self, what: str, **details) -> None:
        """Misbehave: names and details are in `settings.FAULTS`, for those that the dialect can have."""
        check(faults_of(self._settings.dialect), what, details)
        self._command("fail", what=what, details=details)

    def burst(self, n: int, rate: float, first_id: int | None = None) -> None:
        """Let the detector send `n` images at `rate` Hz in place of following the clock."""
        self._command("burst", n=n, rate=rate, first_id=first_id)

    def follow_clock(self) -> None:
        """Let the detector follow the pulse clock."""
        self._command("follow_clock")

    def silence(self) -> None:
        """Let the detector send nothing."""
        self._command("silence")

    def restart_writer(self) -> None:
        """Start the writer process anew, or those that are dead."""
        self._command("restart_writer")

    def restart_driver(self) -> None:
        """Start anew what drives the writers; they go on."""
        self._command("restart_driver")
