"""The simulated facility of a session: addresses at once, servers shortly after."""

from __future__ import annotations

import atexit
import os
import random
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import ServiceUnreachable, SfdaqError
from ..sim import Facility
from .config import SfdaqConfig, SimConfig, StdDaqWriterConfig
from .config_file import load_config

if TYPE_CHECKING:
    from ..sim.std_daq.part import StdDaqPart

N_PORTS = 44
"""Ports kept free for one facility; `sim.yaml` says which server has which."""


class SimulatedFacility:
    """Start a `Facility` in the background.

    Its ports are chosen first, so that devices can be made before it serves, as at a beamline.
    """

    def __init__(self):
        self.port = _free_block(N_PORTS)
        self.prefix = f"SIM-{self.port}:"
        self._started: tuple[Facility, threading.Thread] | None = None
        self._problem: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._ended = threading.Event()
        # pyepics reads this once, when the first PV is made; that is before the IOC serves
        os.environ["EPICS_CA_ADDR_LIST"] = f"127.0.0.1:{self.port}"
        os.environ["EPICS_CA_AUTO_ADDR_LIST"] = "NO"

    def start(self, config: SimConfig, directory: Path, writable: Sequence[Path] = ()) -> None:
        """Begin to start and return. Files go below `directory`, the standard DAQ's below `writable`, too."""
        if self._started is not None:
            return
        options = {"std_daq_writable": list(writable), **config.options}
        options |= {"pvs_prefix": self.prefix, "port_base": self.port}
        facility = Facility(
            config.speed, directory, config.only, config.seed, start_timeout=config.start_timeout, **options
        )
        thread = threading.Thread(target=self._run, args=(facility,), name="simulated facility", daemon=True)
        thread.start()
        self._started = facility, thread
        atexit.register(self.close)

    @property
    def is_ready(self) -> bool:
        """Whether every simulator serves."""
        return self._started is not None and not self._started[1].is_alive() and self._problem is None

    def wait_for_pvs(self) -> None:
        """Wait until the PVs are served: Channel Access looks ever more rarely for one it did not find."""
        facility, thread = self._parts()
        while "pvs" not in facility.started and thread.is_alive():
            thread.join(0.01)

    def wait(self) -> Facility:
        """Return the facility, once it serves; its start ends by itself when nothing moves any more.

        Raises
        ------
        SfdaqError
            It did not start: what the simulator that failed raised, such as ServiceTimeout.
        ServiceUnreachable
            It did not start for a reason that was not foreseen.
        """
        facility, thread = self._parts()
        thread.join()
        if isinstance(self._problem, SfdaqError):
            # with its own words, and what a person does about it; each time with the traceback it came with
            raise self._problem.with_traceback(self._traceback)
        if self._problem is not None:
            raise ServiceUnreachable(
                "simulated facility", url="this process", reason=self._problem
            ) from self._problem
        return facility

    def close(self) -> None:
        """End it. One that is still starting goes with the process: its children end with their input."""
        if self._ended.is_set() or self._started is None:
            return
        self._ended.set()
        facility, thread = self._started
        if not thread.is_alive():
            facility.close()

    def _parts(self) -> tuple[Facility, threading.Thread]:
        """Return the facility and the thread that starts it."""
        if self._started is None:
            raise ServiceUnreachable("simulated facility", url="this process", reason="not started")
        return self._started

    def _run(self, facility: Facility) -> None:
        try:
            facility.__enter__()
            if facility.jungfrau is not None:
                facility.jungfrau.scene.write_constants(facility.directory / "constants")
        except BaseException as exc:
            self._problem, self._traceback = exc, exc.__traceback__


PVS = {"motor": "Motor", "motor2": "Motor", "shutter": "Signal", "beam_rate": "ReadOnly", "diode": "ReadOnly"}
"""Class of the device of each PV of the facility."""


def config_of(facility: Facility, directory: str | Path, *, pgroup: str = "p12345") -> SfdaqConfig:
    """Return a configuration with every part of `facility`, under the names the examples use.

    Parameters
    ----------
    directory : str or Path
        The catalog lies in its folder ``catalog``.
    """
    devices: dict[str, dict] = {}
    if facility.pvs:
        devices["pulse_id"] = {"class": "PulseId", "pv": facility.pvs["pulse_id"]}
        for role, cls in PVS.items():
            devices[role] = {"class": cls, "pv": facility.pvs[role]}
        devices["shutter"]["string"] = True
    if facility.eiger:
        devices["eiger"] = {"class": "Eiger", "url": facility.eiger.url}
    if jungfrau := facility.jungfrau:
        files = jungfrau.scene.write_constants(facility.directory / "constants")
        devices["jf"] = {
            "class": "Jungfrau",
            "detector_name": jungfrau.detector_name,
            "endpoints": jungfrau.endpoints,
            "constants": {"gain_file": files.gain, "pedestal_file": files.pedestal},
        }
    if facility.std_daq:
        devices["writer"] = {"class": "StdDaqWriter", **address_of_daq(facility.std_daq)}
    if broker := facility.broker:
        wanted = {facility.jungfrau.detector_name: None} if facility.jungfrau else {}
        address = {"url": broker.url, "slow_url": broker.slow_url}
        devices["sfdaq"] = {"class": "SfDaqBroker", **address, "detectors": wanted}
    return SfdaqConfig.model_validate({"directory": directory, "pgroup": pgroup, "devices": devices})


def address_of_daq(part: StdDaqPart) -> dict[str, Any]:
    """Return the addresses by which `StdDaqWriter` is made of the simulated standard DAQ."""
    return {"url": part.ws_url, "config_url": part.url} if part.ws_url else {"url": part.url}


def load_and_simulate(path: str | Path) -> tuple[SfdaqConfig, SimulatedFacility | None]:
    """Load a file. Where it asks for simulators they begin to start, and its addresses are theirs.

    The file's control layer is chosen as well: ophyd must not have been imported before.

    Returns
    -------
    config : SfdaqConfig
    sim : SimulatedFacility or None
        Still starting; None where the file has no ``sim`` block.
    """
    config, sim = load_config(path), None
    if config.sim is not None:
        sim = SimulatedFacility()
        config = load_config(path, port=sim.port, prefix=sim.prefix)
        folders = [
            config.directory / block.directory
            for block in config.devices.values()
            if isinstance(block, StdDaqWriterConfig)
        ]
        sim.start(config.sim or SimConfig(), config.directory / "facility", folders)
    if config.control_layer:
        os.environ.setdefault("OPHYD_CONTROL_LAYER", config.control_layer)
    return config, sim


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
