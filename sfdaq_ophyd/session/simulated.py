"""The simulated facility of a session: addresses at once, servers shortly after."""

from __future__ import annotations

import atexit
import os
import random
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from ..errors import ServiceUnreachable
from ..sim import Facility
from .config import SimConfig

N_PORTS = 24
"""Ports kept free for one facility; `sim.yaml` says which server has which."""


class SimulatedFacility:
    """Start a `Facility` in the background.

    Its ports are chosen first, so that devices can be made before it serves, as at a beamline.

    Attributes
    ----------
    port : int
        The first port.
    prefix : str
        Of every PV.
    """

    def __init__(self):
        self.port = _free_block(N_PORTS)
        self.prefix = f"SIM-{self.port}:"
        self._facility: Facility | None = None
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._ended = threading.Event()
        self._constants: list[tuple[Path, Path]] = []
        # pyepics reads this once, when the first PV is made; that is before the IOC serves
        os.environ["EPICS_CA_ADDR_LIST"] = f"127.0.0.1:{self.port}"
        os.environ["EPICS_CA_AUTO_ADDR_LIST"] = "NO"

    def start(self, config: SimConfig, directory: Path, writable: Sequence[Path] = ()) -> None:
        """Begin to start and return. Files go below `directory`, the standard DAQ's below `writable`, too."""
        if self._thread is not None:
            return
        options = {"std_daq_writable": list(writable), **config.options}
        options |= {"pvs_prefix": self.prefix, "port_base": self.port}
        self._facility = Facility(
            config.speed, directory, config.only, config.seed, start_timeout=config.start_timeout, **options
        )
        self._thread = threading.Thread(target=self._run, name="simulated facility", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def is_ready(self) -> bool:
        """Whether every simulator serves."""
        return self._thread is not None and not self._thread.is_alive() and self._problem is None

    def wait_for_pvs(self) -> None:
        """Wait until the PVs are served: Channel Access looks ever more rarely for one it did not find."""
        while "pvs" not in self._facility.started and self._thread.is_alive():
            self._thread.join(0.01)

    def wait(self) -> Facility:
        """Return the facility, once it serves; its start ends by itself when nothing moves any more.

        Raises
        ------
        ServiceUnreachable
            It did not start, with the reason.
        """
        if self._thread is None:
            raise ServiceUnreachable("simulated facility", url="this process", reason="not started")
        self._thread.join()
        if self._problem is not None:
            raise ServiceUnreachable(
                "simulated facility", url="this process", reason=self._problem
            ) from self._problem
        return self._facility

    def close(self) -> None:
        """End it. One that is still starting goes with the process: its children end with their input."""
        if self._ended.is_set() or self._thread is None:
            return
        self._ended.set()
        if not self._thread.is_alive():
            self._facility.close()

    def _run(self) -> None:
        try:
            self._facility.__enter__()
            if self._facility.jungfrau is not None:
                scene = self._facility.jungfrau.scene
                scene.write_constants(self._facility.directory / "constants")
        except BaseException as exc:
            self._problem = exc


def _free_block(n: int) -> int:
    """Return the first of `n` neighbouring ports that are free now."""
    for _ in range(200):
        first = random.SystemRandom().randrange(20_000, 32_000 - n)
        if all(_is_free(first + i) for i in range(n)):
            return first
    raise ServiceUnreachable("simulated facility", url="127.0.0.1", reason=f"no {n} free ports in a row")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
