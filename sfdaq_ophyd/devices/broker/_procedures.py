"""Everything a broker device can be asked to do by a plan, by name: see `Service`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._asking import Procedure
from ._hardware import Hardware
from ._pedestals import Pedestals
from ._retrieving import Retrieving
from ._run_control import RunControl

if TYPE_CHECKING:
    from ._device import SfDaqBroker


def procedures_of(device: SfDaqBroker) -> dict[str, Procedure]:
    """Return the calls of one device; each is ``function(patience, **arguments)``."""
    groups: tuple[Any, ...] = (
        RunControl(device),
        Retrieving(device),
        Pedestals(device),
        Hardware(device),
    )
    return {
        name: getattr(group, name)
        for group in groups
        for name in vars(type(group))
        if not name.startswith("_")
    }
