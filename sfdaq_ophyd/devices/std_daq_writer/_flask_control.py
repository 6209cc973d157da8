"""The REST generation of spring 2023, D1, where it differs from D2: what a refusal can mean.

Source: wire reference std-daq, sections 4 and 5.
"""

from __future__ import annotations

from ._rest_control import RestControl


class FlaskControl(RestControl):
    """A DAQ of dialect "flask"."""

    def _hint(self, said: str) -> str:
        """Of a folder that is there all the same: whose eyes the service looks with, and since when."""
        if not said.startswith("Output file folder"):
            return ""
        return (
            "; if it is there, the account that the service writes as may not enter it: it is the one that "
            "was configured when the service started"
        )
