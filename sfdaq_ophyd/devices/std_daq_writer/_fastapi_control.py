"""The REST generation of 2023 to 2024, D2, where it differs from D1: what a refusal can mean.

Source: wire reference std-daq, sections 4 and 5.
"""

from __future__ import annotations

from ...wire.std_daq import DaqStatus
from ._rest_control import CANNOT_REACH, RestControl


class FastApiControl(RestControl):
    """A DAQ of dialect "fastapi"."""

    _had_acquisition = True

    def _status(self) -> DaqStatus:
        status = super()._status()
        self._had_acquisition = status.acquisition is not None
        return status

    def _hint(self, said: str) -> str:
        """Of a folder that is there all the same, and of a first file that cannot be created."""
        if said.startswith("Output file folder"):
            user = 0 if self._config is None else self._config.writer_user_id
            who = f"the account {user}" if user > 0 else "the account of the service"
            return f"; if it is there, {who}, which writes the files, may not enter it"
        if said.startswith(CANNOT_REACH) and not self._had_acquisition:
            return "; before its first acquisition it does not say that it cannot create the file, either"
        return ""
