"""Where Channel Access clients of this process look for PVs: on loopback, at the ports of our IOCs.

Channel Access finds PVs by asking every address in ``EPICS_CA_ADDR_LIST``. Each IOC of ours listens at a
UDP port of its own, and the list names these ports, so that test sessions side by side, and several
facilities in one process, do not meet. caproto reads the list at every search; pyepics reads it once,
when the first PV is made. Ports once given out are therefore used again by the next facility.
"""

from __future__ import annotations

import os
import socket
import threading

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
