"""The PVs as a part of the Facility: an IOC in a child process, a handle to it, and where clients find it.

The IOC publishes the pulse id 100 times a second. In the process of the RunEngine its event loop would
compete for the interpreter with the scan it serves, in both directions; in a child it has its own.

Channel Access finds PVs by asking every address in ``EPICS_CA_ADDR_LIST``. Each IOC of ours listens on
loopback, at a UDP port of its own, and the list names these ports, so that test sessions side by side, and
several facilities in one process, do not meet. caproto reads the list at every search; pyepics reads it once,
when the first PV is made. Ports once given out are therefore used again by the next facility.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import RequestError
from ..child import ChildPart
from ..facility import World
from ..faults import check

LOOPBACK = "127.0.0.1"

_CLIENT_VARIABLES = ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST")
_lock = threading.Lock()
_reserved: dict[int, socket.socket] = {}  # UDP port to the TCP socket that keeps it for this process
_in_use: list[int] = []
_before: dict[str, str | None] = {}


def ioc_environment(port: int) -> dict[str, str]:
    """Return the environment of an IOC that listens and speaks on loopback only.

    Its beacons go to its own port: with no address caproto would broadcast them, and at the usual one
    nobody listens unless a CA repeater runs. caproto batches updates that come within 10 ms of each other,
    which is the pulse id's own pace; 1 ms keeps them prompt.
    """
    return {
        **os.environ,
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": f"{LOOPBACK}:{port}",
        "CAPROTO_SERVER_HIGH_LOAD_TIMEOUT_SEC": "0.001",
    }


def acquire_port(wanted: int = 0) -> int:
    """Choose the search port of one IOC and point this process's clients to it.

    While any port is in use, clients of this process search on loopback and nowhere else.

    Parameters
    ----------
    wanted : int
        The port, or 0 for one that is free (one this process used before, if there is one).
    """
    with _lock:
        port = wanted or next((p for p in _reserved if p not in _in_use), 0) or _reserve()
        if not _in_use:
            _before.update({name: os.environ.get(name) for name in _CLIENT_VARIABLES})
        _in_use.append(port)
        _publish()
    return port


def release_port(port: int) -> None:
    """Take a port back; with the last one, the environment is as it was before the first. Safe twice."""
    with _lock:
        if port not in _in_use:
            return
        _in_use.remove(port)
        if _in_use:
            _publish()
            return
        for name, value in _before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _publish() -> None:
    os.environ["EPICS_CA_ADDR_LIST"] = " ".join(f"{LOOPBACK}:{port}" for port in _in_use)
    os.environ["EPICS_CA_AUTO_ADDR_LIST"] = "NO"


def _reserve() -> int:
    # Nobody else gets a port whose TCP side is bound; the IOC itself takes the UDP side.
    while True:
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        holder.bind((LOOPBACK, 0))
        port = holder.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                holder.close()
                continue
        _reserved[port] = holder
        return port


SUFFIXES = {
    "pulse_id": "RX-PULSEID",
    "event_code": "SoftEvt-EvtCode-SP",
    "shutter": "SHUTTER",
    "motor": "M1",
    "motor2": "M2",
    "beam_rate": "BEAM-RATE",
    "beam_intensity": "BEAM-INTENSITY",
    "diode": "DIODE",
}
"""Role to PV name behind the prefix."""

FAULTS = {
    "disconnect": "the IOC goes without a word and comes back rebooted, after `seconds` or by reconnect",
    "stall_pulse_id": "the pulse-id PV stands for `seconds`, 2 by default",
    "refuse_put": "the next put to `role`, event_code or shutter, fails",
    "motor_stuck": "the next move of `role`, motor or motor2, stands half-way and never ends",
    "motor_limit": "the next move of `role`, motor or motor2, ends half-way at its limit switch",
}
"""Name and meaning of every fault; the first role named is the default."""


class PvsPart(ChildPart, Mapping[str, str]):
    """PV names by role, and a handle to the IOC that serves them.

    Roles: ``pulse_id``, ``event_code`` (254 running, 255 stopped), ``shutter`` (Closed, Open), ``motor``,
    ``motor2``, ``beam_rate``, ``beam_intensity``, ``diode``.

    Parameters
    ----------
    world : World
        Clock, speed, seed and ports of the facility.
    prefix : str, optional
        Of every PV; default is random, so that no two facilities share a name.
    """

    name = "pvs"

    def __init__(self, world: World, *, prefix: str | None = None):
        self.prefix = f"SIM-{uuid.uuid4().hex[:6].upper()}:" if prefix is None else prefix
        super().__init__(world)
        self._port = 0
        self._lock = threading.Lock()  # starts and ends of the IOC
        self._back: threading.Timer | None = None

    def __getitem__(self, role: str) -> str:
        return self.prefix + SUFFIXES[role]

    def __iter__(self) -> Iterator[str]:
        return iter(SUFFIXES)

    def __len__(self) -> int:
        return len(SUFFIXES)

    def launch(self) -> None:
        """Choose a port, point this process's Channel Access clients to it, and begin to start the IOC."""
        self._port = acquire_port(self._world.next_port())
        super().launch()

    def start(self) -> None:
        """Return once the IOC serves."""
        try:
            super().start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the IOC and restore the Channel Access environment. Safe twice."""
        if self._back is not None:
            self._back.cancel()
        with self._lock:
            super().stop()
            self._child = None
        release_port(self._port)

    def _arguments(self) -> list[object]:
        world = self._world
        own = ("--prefix", self.prefix, "--port", self._port)
        return [*own, "--speed", world.speed, "--seed", world.seed]

    def _environment(self) -> dict[str, str]:
        return ioc_environment(self._port)

    def _take_addresses(self, said: str) -> None:
        pass  # it serves where it was told to

    def addresses(self) -> dict[str, str]:
        """Return PV names by role, and ``ca`` where to search for them (EPICS_CA_ADDR_LIST)."""
        return {**self, "ca": f"{LOOPBACK}:{self._port}"}

    def read(self, role: str):
        """Return the present value of a role's PV, as the IOC holds it; of a motor, its readback."""
        return self._command("read", role=self._check_role(role))

    def write(self, role: str, value) -> None:
        """Change a PV from inside, without Channel Access and at once; a motor jumps there.

        What the beam gives (pulse_id, beam_intensity, diode) cannot be written: RequestError.
        """
        self._command("write", role=self._check_role(role), value=value)

    def fail_next(self, what: str, **details: Any) -> None:
        """Misbehave once: names and details are in `FAULTS`."""
        check(FAULTS, what, details)
        if what == "disconnect":
            with self._lock:
                if self._child is not None:
                    self._child.stop(kill=True)
            if (seconds := details.get("seconds")) is not None:
                self._back = threading.Timer(seconds, self.reconnect)
                self._back.daemon = True
                self._back.start()
        elif what == "stall_pulse_id":
            self._command("fail", what=what, seconds=details.get("seconds", 2.0))
        else:
            allowed = ("event_code", "shutter") if what == "refuse_put" else ("motor", "motor2")
            role = details.get("role", allowed[0])
            if role not in allowed:
                raise RequestError("role", role, f"one of {', '.join(allowed)}")
            self._command("fail", what=what, role=role)

    def reconnect(self) -> None:
        """Bring the IOC back after ``fail_next("disconnect")``, with every value as after a reboot."""
        with self._lock:
            if self._child is not None and not self._child.running:
                self._child.start()

    def _check_role(self, role: str) -> str:
        if role not in SUFFIXES:
            raise RequestError("role", role, f"one of {', '.join(SUFFIXES)}")
        return role
