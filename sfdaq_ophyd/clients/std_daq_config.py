"""A change of the standard DAQ's configuration, from the check to the writer that is back.

One dialect merges what it gets over what is stored; the other replaces everything, cannot store module
positions, and may change the configuration although it answers with an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ..errors import RequestError, ServiceTimeout, SfdaqError
from ..limits import Limit
from ..wire.std_daq import DaqStatus, WriterState
from ..wire.std_daq_config import KEYS, Deployment, check_config
from .std_daq_rest import StdDaqRefused, StdDaqRest, StdDaqUnknownOutcome

logger = logging.getLogger(__name__)

PERIOD = 0.2
"""Seconds between two looks at deployment or writer."""

RESTART_HINT = "The writer process did not come back: the DAQ team must restart it"


class Configured(Protocol):
    """What a change asks of the client whose configuration it is."""

    @property
    def dialect(self) -> str:
        """The generation of the service: "flask" or "fastapi"."""

    def get_config(self) -> dict | None:
        """Return the stored configuration; None if there is none."""

    def status(self) -> DaqStatus:
        """Return writer state and newest acquisition."""

    def deployment(self) -> Deployment:
        """Return how far the newest configuration has got."""

    def stop(self) -> DaqStatus:
        """Stop or reset the writer."""


class ConfigChange:
    """One change; a new object for each.

    Parameters
    ----------
    client : StdDaqClient
        Reads, and brings the writer back.
    rest : StdDaqRest
        Stores the configuration.
    restart_time : float
        Seconds the services are away after the deployment; nothing in the service tells when it is over.
    """

    def __init__(self, client: Configured, rest: StdDaqRest, *, restart_time: float):
        self._client, self._rest, self._restart_time = client, rest, restart_time

    def apply(self, changes: dict, *, wait: bool, timeout: float) -> dict:
        """Check, send, compare and, if asked to, wait; return the configuration now stored."""
        wanted = self._checked(changes)
        limit = Limit(timeout)
        status = self._client.status()
        if status.state is WriterState.WRITING:
            raise RequestError(
                "daq_config",
                changes,
                f"a writer that is not writing, for the change restarts it; it is {status}",
            )
        body = self._whole(wanted) if self._client.dialect == "fastapi" else wanted
        stored = self._send(body, wanted)
        if wait:
            self._wait_for_deployment(limit)
            wait_until_back(self._not_ready, limit, self._restart_time, "deployed", RESTART_HINT)
        return stored

    def _checked(self, changes: dict) -> dict:
        """Check what changes; what is stored already, and given back as it is, needs no check."""
        try:
            return check_config(changes)
        except RequestError as exc:
            if not isinstance(changes, Mapping):
                raise
            try:
                stored = self._client.get_config() or {}
            except SfdaqError:
                raise exc from None
            return check_config({key: value for key, value in changes.items() if not _is(stored, key, value)})

    def _whole(self, wanted: dict) -> dict:
        stored = self._client.get_config() or {}
        whole = {key: stored.get(key) for key in KEYS} | wanted
        whole["module_positions"] = whole["module_positions"] or {}
        whole["submodule_info"] = whole["submodule_info"] or {}
        if whole["module_positions"]:
            raise RequestError(
                "module_positions",
                whole["module_positions"],
                "{}: this generation of the service can store no module positions, "
                "so its configuration can only be changed by the DAQ team",
            )
        missing = [key for key, value in whole.items() if value is None]
        if missing:
            raise RequestError(
                "daq_config", wanted, f"also {', '.join(missing)}: nothing is stored to take it from"
            )
        return whole

    def _send(self, body: dict, wanted: dict) -> dict:
        try:
            stored = self._rest.post(
                "/daq/config", body, "config", hint="Read the configuration before sending it again."
            )
        except (StdDaqRefused, StdDaqUnknownOutcome) as exc:
            stored = self._client.get_config()
            if not _holds(stored, wanted):
                raise
            logger.warning("%s; the configuration read back holds the change all the same", exc)
        if not _holds(stored, wanted):
            raise StdDaqRefused(
                "POST /daq/config", url=self._rest.url, said=f"ok, but the configuration stored is {stored}"
            )
        return stored

    def _wait_for_deployment(self, limit: Limit) -> None:
        while True:
            deployment = self._client.deployment()
            if deployment.status == "SUCCESS":
                return
            seen = f"{deployment.status} {deployment.message!r}, servers {deployment.servers}"
            if deployment.status == "ERROR":
                raise StdDaqRefused("deployment of the configuration", url=self._rest.url, said=seen)
            if limit.reached():
                raise ServiceTimeout("deployment of the configuration", limit.seconds, seen)
            time.sleep(PERIOD)

    def _not_ready(self) -> str:
        """Return what the writer is; empty once it is READY, or somebody has started it since."""
        if self._client.status().state is WriterState.WRITING:
            return ""
        try:
            status = self._client.stop()
        except StdDaqRefused as exc:
            return exc.said
        return "" if status.state is WriterState.READY else str(status)


def wait_until_back(
    missing: Callable[[], str], limit: Limit, restart_time: float, now: str, hint: str = ""
) -> None:
    """Wait for the restart of the DAQ, then until nothing is `missing`; ServiceTimeout if it stays so."""
    what = "restart of the DAQ"
    if limit.left < restart_time:
        raise ServiceTimeout(what, limit.seconds, now, f"It takes {restart_time:g} s more.")
    time.sleep(restart_time)
    while seen := missing():
        if limit.reached():
            raise ServiceTimeout(what, limit.seconds, seen, hint)
        time.sleep(PERIOD)


def _is(stored: dict, key: str, value: object) -> bool:
    return key in stored and stored[key] == value


def _holds(stored: dict | None, wanted: dict) -> bool:
    """Tell whether `stored` has all of `wanted`; the content of submodule_info is lost in both dialects."""
    return stored is not None and all(
        stored.get(key) == value for key, value in wanted.items() if key != "submodule_info"
    )
