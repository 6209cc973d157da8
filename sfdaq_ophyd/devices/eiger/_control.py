"""The detector's configuration and series: what was found, what was set, what must be put back."""

from __future__ import annotations

import contextlib
import logging
import threading

from ...clients.simplon import ARM_TIMEOUT, SimplonClient
from ...errors import DetectorStateError, RequestError, ServiceRefused, SfdaqError
from ...wire.simplon import Parameter
from ...wire.simplon_states import ARMED, BUSY, DetectorState

logger = logging.getLogger(__name__)


class EigerControl:
    """Configure, arm and disarm one detector, and leave it as it was found. Safe from several threads.

    Parameters
    ----------
    client : SimplonClient
    name : str
        Of the device, for messages.

    Attributes
    ----------
    series_id : int or None
        The series opened here; None when there is none.
    """

    def __init__(self, client: SimplonClient, name: str):
        self.client, self.name = client, name
        self.series_id: int | None = None
        self._found: dict[tuple[str, str], object] = {}
        self._lock = threading.RLock()
        self._touched = False

    def check_version(self) -> None:
        """Raise RequestError if the server speaks another API version than we do."""
        spoken = self.client.discover_version()
        if spoken not in (None, self.client.version):
            raise RequestError(
                f"{self.name}: api_version",
                self.client.version,
                f"{spoken!r}, which {self.client.url} speaks",
            )

    def make_idle(self) -> None:
        """Bring the detector to ``idle``: initialize it if need be, end a series somebody left open.

        Raises
        ------
        DetectorStateError
            It is in ``error`` or another state that a person must look at.
        """
        state = self.client.wait_while(BUSY, ARM_TIMEOUT, f"{self.name}: the detector to be idle")
        if state == DetectorState.NA:
            logger.info("%s: initializing the detector", self.name)
            self.client.initialize()
            state = self.client.state()
        if state in ARMED:
            logger.warning("%s: found in state %s; disarming", self.name, state)
            self.client.disarm()
            state = self.client.state()
        if state != DetectorState.IDLE:
            raise self.state_error(state)

    def state_error(self, state: DetectorState) -> DetectorStateError:
        """Return the error for a state in which there is no going on."""
        told = ""
        with contextlib.suppress(SfdaqError):
            errors = self.client.get("detector", "status", "error").value
            told = f", status/error {errors!r:.200}" if errors else ""
        advice = {
            DetectorState.NA: "it was restarted; stage the device again to initialize it",
            DetectorState.ERROR: "look at the detector, then initialize it",
        }.get(state, "expected 'idle'")
        return DetectorStateError(f"{self.name}: the detector is in state '{state}'{told}; {advice}")

    def read(self, module: str, name: str) -> Parameter | None:
        """Return a config parameter; None where this detector does not have it."""
        try:
            return self.client.get(module, "config", name)
        except ServiceRefused as exc:
            if exc.code == 404:
                return None
            raise

    def set(self, module: str, name: str, value) -> None:
        """Set a config parameter, remembering what was there; nothing is sent if it is so already."""
        parameter = self.read(module, name)
        if parameter is None:
            return
        with self._lock:
            self._found.setdefault((module, name), parameter.value)
        if parameter.value != value:
            parameter.check(f"{self.name}: {module}/config/{name}", value)
            self.client.put(module, name, value)

    def arm(self) -> int:
        """Open a series."""
        with self._lock:
            self._touched = True
        series_id = self.client.arm()
        with self._lock:
            self._touched, self.series_id = True, series_id
        logger.info("%s: armed, series %d", self.name, series_id)
        return series_id

    def disarm(self) -> None:
        """End the series and keep its data."""
        self.client.disarm()
        self.series_id = None

    def abort(self) -> None:
        """End the series opened here, if any. Safe twice."""
        with self._lock:
            touched, self._touched, self.series_id = self._touched, False, None
        if not touched:
            return
        try:
            if self.client.wait_while(BUSY, ARM_TIMEOUT, f"{self.name}: the end of arming") in ARMED:
                self.client.abort()
        except BaseException:
            with self._lock:
                self._touched = True  # not known to be over: the next call tries again
            raise

    def restore(self) -> None:
        """End the series, and put back what was set. Safe twice; raises the first error after trying all."""
        problems: list[Exception] = []
        try:
            self.abort()
        except SfdaqError as exc:
            problems.append(exc)
        with self._lock:
            found, self._found = self._found, {}
        for (module, name), value in reversed(found.items()):
            try:
                now = self.read(module, name)
                if now is not None and now.value != value:
                    self.client.put(module, name, value)
            except SfdaqError as exc:
                problems.append(exc)
                if isinstance(exc, ConnectionError | TimeoutError):
                    break
        if problems:
            logger.error("%s: not left as found: %s", self.name, problems[0])
            raise problems[0]
