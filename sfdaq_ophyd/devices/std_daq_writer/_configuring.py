"""Changes of the DAQ's configuration that did not come to their end: remembered, and said at each stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import RequestError, shown_url
from ...wire.std_daq_config import DaqConfig
from ..debts import Debts
from ._control import WriterControl

logger = logging.getLogger(__name__)

BY_HAND = (
    "this device does not change it by itself: give either value to configure_daq, which sends it again; "
    "a DAQ that is not back then must be restarted by the DAQ team"
)


class Configuring:
    """What was begun with the configuration of one DAQ.

    Parameters
    ----------
    name : str
        Of the device.
    address : object
        Of the DAQ.
    directory : Path
        Of the device.
    """

    def __init__(self, name: str, address: object, directory: Path):
        self._debts = Debts(name, f"{shown_url(address)} configuration", directory, advice=BY_HAND)

    def change(self, control: WriterControl, changes: Mapping[str, Any], timeout: float) -> DaqConfig:
        """Change some keys within `timeout` s, noted until the DAQ is back; return the configuration then.

        What could not be finished before is sent although it may be stored already.
        """
        if not isinstance(changes, Mapping):
            raise RequestError("daq_config", changes, "a dictionary")
        stored, owed = control.config(), self._debts.owed()
        before = {key: stored.raw.get(key) if stored else None for key in changes}
        self._debts.hold({key: (before[key], changes[key]) for key in changes if key not in owed})
        try:
            config = control.change_config(changes, timeout, again=bool(owed))
        except RequestError:  # nothing was sent
            raise
        except BaseException as exc:
            for key, value in changes.items():
                if key not in owed or owed[key].back != value:  # else it is what was to be put back
                    self._debts.owe(key, left=value, back=before[key], reason=exc)
            raise
        finally:
            self._debts.release()
        self._debts.forget(*changes)
        return config

    def compare(self, config: DaqConfig) -> None:
        """Say in the log what is not finished; forget what is as it was before."""
        for key, debt in self._debts.owed().items():
            if config.raw.get(key) == debt.back:
                self._debts.forget(key)
            else:
                logger.warning("%s", debt)

    @property
    def unfinished(self) -> str:
        """What is not finished, and what a person does; empty if nothing is."""
        return "; ".join(map(str, self._debts.owed().values()))
