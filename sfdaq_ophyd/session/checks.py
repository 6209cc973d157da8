"""Ask every configured address and PV whether it is well; for ``sfdaq doctor`` and ``%doctor``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import SfdaqError, shown_url
from ..limits import Limit
from ..wire.broker import BEAMLINES
from . import device_config as blocks
from ._probes import (
    PROBES,
    probe_catalog,
    probe_debts,
    probe_file,
    probe_folder,
    probe_pulse_id,
    probe_pv,
    probe_redis,
    probe_tcp,
)
from .config import SfdaqConfig
from .devices import constant_files, debts_of

LIMIT = 20.0
"""s after which a check that hangs has failed; each has shorter limits of its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Attributes
    ----------
    name : str
        Device and role.
    address : str
    ok : bool
    latency : float or None
        s of the answer; None without one.
    version : str
        Of what answered, as far as it tells.
    found : str
        What was seen, or what went wrong.
    advice : str
        What a person does; empty if all is well.
    """

    name: str
    address: str
    ok: bool
    latency: float | None
    version: str
    found: str
    advice: str

    def __str__(self) -> str:
        mark = "ok    " if self.ok else "FAILED"
        took = "     -" if self.latency is None else f"{self.latency * 1e3:6.1f}"
        version = f" [{self.version}]" if self.version else ""
        text = f"{mark} {took} ms  {self.name:18} {self.address}{version}  {' '.join(self.found.split())}"
        return text if self.ok else f"{text.rstrip('. ')}. {self.advice}"


@dataclass(frozen=True, slots=True)
class Check:
    """An address and how to ask it. `probe` returns (version, what was seen) or raises."""

    name: str
    address: str
    probe: Callable[[], tuple[str, str]]
    advice: str

    def __post_init__(self):
        object.__setattr__(self, "address", shown_url(self.address))


def checks_of(config: SfdaqConfig) -> list[Check]:
    """Return one check per address, PV and file of a configuration."""
    checks = list(_own_checks(config))
    for name, block in config.devices.items():
        checks += _device_checks(name, block, config)
    return checks


def run_checks(checks: list[Check], limit: float = LIMIT) -> Iterator[Finding]:
    """Run checks side by side and yield their findings in order; a check that hangs costs `limit` s."""
    pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="doctor")
    left = Limit(limit)
    futures = [(check, pool.submit(_timed, check)) for check in checks]
    for check, future in futures:
        while not wait([future], left.step()).done and not left.reached():
            pass
        if future.done():
            yield future.result()
        else:
            found = f"no answer in {limit:g} s"
            yield Finding(check.name, check.address, False, None, "", found, check.advice)
    pool.shutdown(wait=False, cancel_futures=True)


def _timed(check: Check) -> Finding:
    begin = time.perf_counter()
    try:
        version, found = check.probe()
    except (SfdaqError, OSError, ValueError, TimeoutError) as exc:
        hint = getattr(exc, "hint", "")
        found = str(exc).removesuffix(hint)
        return Finding(check.name, check.address, False, None, "", found, hint or check.advice)
    except Exception as exc:  # redis, tiled and EPICS have roots of their own
        return Finding(
            check.name, check.address, False, None, "", f"{type(exc).__name__}: {exc}", check.advice
        )
    return Finding(check.name, check.address, True, time.perf_counter() - begin, version, found, "")


def _own_checks(config: SfdaqConfig) -> Iterator[Check]:
    yield _folder_check("directory", config.directory)
    debts = debts_of(config)
    yield Check("debts", str(debts), partial(probe_debts, debts), "Stage the device, or set it by hand")
    if url := config.metadata.redis:
        yield Check("metadata", url, partial(probe_redis, url), "Start Redis, or use metadata.file")
    if uri := config.catalog.uri:
        advice = "Start the Tiled server, or leave catalog.uri out"
        yield Check("catalog", uri, partial(probe_catalog, uri), advice)
    else:
        yield _folder_check("catalog", config.directory / config.catalog.embedded)


def _folder_check(name: str, folder: Path, writes: bool = True) -> Check:
    advice = "Make it, let this user write there, and make room" if writes else "Mount it here"
    return Check(name, str(folder), partial(probe_folder, folder, writes), advice)


def _device_checks(name: str, block: blocks.DeviceConfig, config: SfdaqConfig) -> Iterator[Check]:
    if isinstance(block, blocks.PulseIdConfig):
        yield Check(name, block.pv, partial(probe_pulse_id, block.pv), _PV)
    elif isinstance(block, blocks.MotorConfig):
        yield Check(name, block.pv, partial(probe_pv, block.pv), _PV)
    elif isinstance(block, blocks.SignalConfig):
        yield Check(name, block.pv, partial(probe_pv, block.pv, block.string), _PV)
    elif isinstance(block, blocks.JungfrauConfig):
        for i, endpoint in enumerate(block.endpoints):
            yield Check(f"{name} {i}", endpoint, partial(probe_tcp, endpoint), _STREAM)
        advice = "Do all its endpoints answer? Then: is the detector running and triggered?"
        yield Check(name, block.detector_name, partial(PROBES[block.cls], block), advice)
    else:
        yield Check(name, block.url, partial(PROBES[block.cls], block), _ADVICE[block.cls])
    for path in constant_files(block, config.directory):
        yield Check(f"{name} constants", str(path), partial(probe_file, path), "Put the file there")
    if isinstance(block, blocks.FileDetectorConfig | blocks.SfDaqBrokerConfig):
        # where a DAQ writes one file, only its own hosts do; several are joined by one of ours
        writes = not isinstance(block, blocks.StdDaqWriterConfig) or block.by_websocket
        yield _folder_check(f"{name} directory", config.directory / block.directory, writes)
    if isinstance(block, blocks.StdDaqWriterConfig) and (url := block.redis_url):
        yield Check(f"{name} redis", url, partial(probe_redis, url), "Start the DAQ's Redis")
    if isinstance(block, blocks.EigerConfig) and (block.stream or block.readout == "stream"):
        probe = partial(PROBES["Eiger stream"], block)
        yield Check(f"{name} stream", block.stream_endpoint, probe, _EIGER_STREAM)
    if isinstance(block, blocks.SfDaqBrokerConfig):
        yield from _broker_checks(name, block, config)


def _broker_checks(name: str, block: blocks.SfDaqBrokerConfig, config: SfdaqConfig) -> Iterator[Check]:
    pgroup = block.pgroup or config.pgroup
    advice = "Does the broker answer? Then: is the pgroup right, there, and still open?"
    yield Check(f"{name} pgroup", pgroup or "none", partial(PROBES["pgroup"], block, pgroup), advice)
    slow = block.slow_url or _next_port(block.url)
    yield Check(f"{name} slow", slow, partial(probe_tcp, slow), "Start the slow broker, or mend slow_url")
    if not block.pulse_id and config.beamline:
        pv = BEAMLINES[config.beamline].pulse_id_pv
        yield Check(f"{name} pulse_id", pv, partial(probe_pulse_id, pv), _PV)
    for role in ("beam_rate", "event_code"):
        if pv := getattr(block, role):
            yield Check(f"{name} {role}", pv, partial(probe_pv, pv), _PV)


def _next_port(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{(parts.port or 80) + 1}"


_ADVICE = {
    "Eiger": "Is the detector control unit on, and this machine in its network?",
    "StdDaqWriter": "Start the standard DAQ's services, or mend url",
    "SfDaqBroker": "Start the broker, or mend url; it answers consoles of beamlines only",
}
_PV = "Is its IOC up, and EPICS_CA_ADDR_LIST right? caget from this machine tells"
_EIGER_STREAM = "Is that the stream's port (31001), and open to this machine? Does the control unit answer?"
_STREAM = "Is slsReceiver running, with this zmq port?"
