"""How each kind of address is asked: one function each, read only, with a time limit."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from ..devices._debts import all_debts
from ..errors import DetectorStateError, RequestError, ServiceRefused, ServiceUnreachable
from . import _device_config as blocks

LIMIT = 5.0
"""s for an answer."""

FIRST_IMAGE = 5.0
"""s for an image of a running detector."""


def probe_tcp(address: str) -> tuple[str, str]:
    """Open and close a TCP connection."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port or 80), LIMIT).close()
    except OSError as exc:
        raise ServiceUnreachable("connect", url=address, reason=exc) from exc
    return "", "accepts connections"


def probe_debts(folder: Path) -> tuple[str, str]:
    """See whether devices could not put something back on the hardware."""
    owed = [str(debt) for _, debt in all_debts(folder)]
    if owed:
        raise DetectorStateError("; ".join(owed))
    return "", "nothing is owed to the hardware"


def probe_folder(path: Path) -> tuple[str, str]:
    """See whether a file can be read, or a folder (or the one it will be made in) be written."""
    if path.is_file():
        path.open("rb").close()
        return "", f"{path.stat().st_size / 2**20:.1f} MiB"
    if path.suffix:
        raise FileNotFoundError(f"{path} is not there")
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written")
    free = os.statvfs(there)
    made = "" if there == path else "will be made, "
    return "", f"{made}{free.f_bavail * free.f_frsize / 2**30:.0f} GiB free"


def probe_redis(url: str) -> tuple[str, str]:
    """Ask a Redis for its version."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=LIMIT, socket_connect_timeout=LIMIT) as client:
        client.ping()
        try:
            return str(client.info("server").get("redis_version", "")), "answers"
        except redis.ResponseError:
            return "", "answers"  # an embedded one has no INFO


def probe_catalog(uri: str) -> tuple[str, str]:
    """Ask a Tiled server about itself."""
    import requests

    parts = urlsplit(uri)
    reply = requests.get(f"{parts.scheme}://{parts.netloc}/api/v1/", timeout=LIMIT)
    reply.raise_for_status()
    return str(reply.json().get("library_version", "")), "answers"


def probe_pv(pv: str, string: bool = False) -> tuple[str, str]:
    """Read a PV."""
    from ophyd import EpicsSignalRO

    signal = EpicsSignalRO(pv, name="doctor", string=string)
    signal.wait_for_connection(timeout=LIMIT)
    return "Channel Access", f"{signal.get(timeout=LIMIT)!s:.40}"


def probe_pulse_id(pv: str) -> tuple[str, str]:
    """See that a pulse id counts."""
    from ..devices import PulseId

    pulse_id = PulseId(pv, name="doctor", timeout=LIMIT)
    pulse_id.wait_for_connection(timeout=LIMIT)
    rate = pulse_id.check(timeout=LIMIT)
    return "Channel Access", f"pulse {pulse_id.get()}, counts at {rate:.0f} Hz"


def _eiger(block: blocks.EigerConfig) -> tuple[str, str]:
    from ..clients import SimplonClient

    client = SimplonClient(block.url, block.api_version, LIMIT)
    try:
        version, words = f"SIMPLON {client.version}", [f"state {client.state().value}"]
        for name in ("description", "eiger_fw_version"):
            try:
                words.append(str(client.get("detector", "config", name).value))
            except ServiceRefused:
                pass  # a detector that is not initialized does not tell, nor does every version
        return version, ", ".join(words)
    finally:
        client.close()


def _std_daq(block: blocks.StdDaqWriterConfig) -> tuple[str, str]:
    from ..clients import StdDaqClient

    client = StdDaqClient(block.url, block.dialect, LIMIT)
    try:
        status = client.status()
        return client.dialect, f"writer {status.state.value}"
    finally:
        client.close()


def _broker(block: blocks.SfDaqBrokerConfig) -> tuple[str, str]:
    from ..clients import BrokerClient

    with BrokerClient(block.url, block.slow_url, block.dialect) as client:
        running = client.get_running_detectors().running
        missing, shown = sorted(set(block.detectors) - set(running)), ", ".join(running) or "no detector"
        if missing:
            raise DetectorStateError(f"not running: {', '.join(missing)}; running: {shown}")
        return block.dialect, f"running: {shown}"


def _pgroup(block: blocks.SfDaqBrokerConfig, pgroup: str) -> tuple[str, str]:
    from ..clients import BrokerClient

    if not pgroup:
        raise RequestError("pgroup", pgroup, "p and five digits, in the file or at the device")
    with BrokerClient(block.url, block.slow_url, block.dialect) as client:
        return block.dialect, f"open, last run number {client.get_current_run_number(pgroup)}"


def _jungfrau(block: blocks.JungfrauConfig) -> tuple[str, str]:
    from ..clients import ImageStream, ModuleStream

    if block.pull:
        return "", "not asked: its images are shared out among those who listen"
    if block.stream == "modules":
        stream = ModuleStream(block.endpoints, detector_name=block.detector_name, timeout=FIRST_IMAGE)
    else:
        stream = ImageStream(block.endpoints[0], detector_name=block.detector_name, timeout=FIRST_IMAGE)
    with stream:
        frame = next(iter(stream))
        state = "whole" if frame.is_good else "incomplete"
        return "", f"frame {frame.frame_number}, {state}"


PROBES = {
    "Eiger": _eiger,
    "StdDaqWriter": _std_daq,
    "SfDaqBroker": _broker,
    "Jungfrau": _jungfrau,
    "pgroup": _pgroup,
}
"""By class of the device."""
