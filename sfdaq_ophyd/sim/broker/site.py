"""Everything the two services, the writers and the faults of one simulated broker share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...wire.broker import Dialect
from ..clock import PulseClock
from ..faults import Faults
from .beamline import Delays, Tree, Trigger, beamline_of
from .hardware import Hardware, Table
from .messages import Messages


@dataclass
class Site:
    """One DAQ.

    Parameters
    ----------
    dialect : str
    home : str
        Beamline of whoever calls from this machine.
    tree, table, delays, clock, hardware, messages, faults
        See their classes.
    triggers : dict
        By beamline; made when first asked for.
    """

    dialect: Dialect
    home: str
    tree: Tree
    table: Table
    delays: Delays
    clock: PulseClock
    hardware: Hardware
    messages: Messages
    faults: Faults
    triggers: dict[str, Trigger] = field(default_factory=dict)

    def trigger(self, beamline: str) -> Trigger:
        """Return a beamline's trigger."""
        return self.triggers.setdefault(beamline, Trigger(self.delays, self.clock.now))

    def sends_current(self, current: dict[str, Any], documented: dict[str, Any]) -> dict[str, Any]:
        """Choose the reply of the dialect."""
        return current if self.dialect == "current" else documented


class Caller:
    """Who sent a request.

    Parameters
    ----------
    site : Site
    address : str or None
        Client address as forwarded; None for this machine, which counts as the home beamline.
    """

    def __init__(self, site: Site, address: str | None):
        self._site, self.address = site, address

    @property
    def beamline(self) -> str:
        """Name of the beamline; raises as the server does if there is none."""
        return self._site.home if self.address is None else beamline_of(self.address, self._site.dialect)


Handler = Callable[[Site, Any, Caller], dict[str, Any]]
"""One endpoint: returns the reply without ``status``, or with it where it is not "ok"."""
