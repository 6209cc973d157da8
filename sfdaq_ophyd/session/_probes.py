"""How each kind of address is asked: one function each, read only, with a time limit."""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import urlopen

from ..devices.debts import all_debts
from ..errors import DetectorStateError, RequestError, ServiceRefused, ServiceUnreachable
from ..limits import Limit
from ..wire.json_text import load_json
from ..wire.std_daq_socket import NOT_SHOWN
from . import device_config as blocks

if TYPE_CHECKING:
    from ..devices import PulseId

LIMIT = 10.0
"""s for an answer."""

FIRST_IMAGE = 10.0
"""s for an image of a running detector."""

CLOCK_RESOLUTION = 0.5
"""s by which a clock may be off."""

LEAST_SPACE = 1.0
"""GiB; a folder with less is full for a detector."""


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


def probe_file(path: Path) -> tuple[str, str]:
    """See whether a file can be read."""
    path.open("rb").close()
    return "", f"{path.stat().st_size / 2**20:.1f} MiB"


def probe_folder(path: Path, writes: bool = True) -> tuple[str, str]:
    """Write a file without a name into a folder, or into the one it will be made in, and say how full it is.

    With `writes` False somebody else writes there, and it is only looked into.
    """
    there = next(each for each in (path, *path.parents) if each.exists())
    if writes:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"sfdaq doctor")
    else:
        os.scandir(there).close()
    disk = os.statvfs(there)
    free, total = (n * disk.f_frsize / 2**30 for n in (disk.f_bavail, disk.f_blocks))
    space = f"{free:.1f} of {total:.0f} GiB free"
    if free < LEAST_SPACE:
        raise OSError(f"{there} is full: {space}")
    can = "can be written" if writes else "can be read"
    return "", f"{can if there == path else 'will be made'}, {space}"


def probe_redis(url: str) -> tuple[str, str]:
    """Ask a Redis for its version."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=LIMIT, socket_connect_timeout=LIMIT) as client:
        before = time.time()
        client.ping()
        try:
            seconds, microseconds = client.time()
            clock = clock_words(_offset(seconds + microseconds / 1e6, before))
            return str(client.info("server").get("redis_version", "")), f"answers{clock}"
        except redis.ResponseError:
            return "", "answers"  # an embedded one has no INFO


def probe_catalog(uri: str) -> tuple[str, str]:
    """Ask a Tiled server about itself."""
    parts = urlsplit(uri)
    with urlopen(f"{parts.scheme}://{parts.netloc}/api/v1/", timeout=LIMIT) as reply:
        about = load_json(reply.read(2**20))
    version = about.get("library_version", "") if isinstance(about, dict) else ""
    return str(version), f"answers{http_clock(uri)}"


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
    value, offset = _read_pulse_id(pulse_id)
    for _ in range(5):
        if abs(offset) <= CLOCK_RESOLUTION:
            break
        pulse_id.wait_past(value, LIMIT).wait()  # the pulse just read may be an old one of a busy IOC
        value, again = _read_pulse_id(pulse_id)
        offset = min(offset, again, key=abs)
    return "Channel Access", f"pulse {value}, counts at {rate:.0f} Hz{clock_words(offset)}"


def _read_pulse_id(pulse_id: PulseId) -> tuple[int, float]:
    """Return the pulse id of this moment, and by how many s the IOC's clock is ahead of ours."""
    before = time.time()
    reading = pulse_id.read()[pulse_id.name]
    return reading["value"], _offset(reading["timestamp"], before)


def http_clock(url: str) -> str:
    """Say how far the clock of an HTTP service is from ours; nothing if it tells no time."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection, before = kind(parts.hostname or "", parts.port, timeout=LIMIT), time.time()
    try:
        connection.request("HEAD", parts.path or "/")
        told = parsedate_to_datetime(connection.getresponse().headers["Date"]).timestamp()
    except (OSError, http.client.HTTPException, TypeError, ValueError):
        return ""
    finally:
        connection.close()
    return clock_words(_offset(told + 0.5, before), 1.5)  # it counts whole seconds


def _offset(told: float, asked: float) -> float:
    """Return by how many s a clock is ahead of ours: it told its time between `asked` and now."""
    return told - min(max(told, asked), time.time())


def clock_words(offset: float, resolution: float = CLOCK_RESOLUTION) -> str:
    """Say by how many s a clock is ahead of ours, as a part of a sentence."""
    if abs(offset) <= resolution:
        return f", its clock is ours within {resolution:g} s"
    return f", its clock is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} ours"


def _eiger(block: blocks.EigerConfig) -> tuple[str, str]:
    from ..clients import SimplonClient

    client = SimplonClient(block.url, block.api_version, LIMIT)
    try:
        version, state = f"SIMPLON {client.version}", client.state()
        words = [f"state {state.value}"]
        for name in ("description", "eiger_fw_version"):
            try:
                words.append(str(client.get("detector", "config", name).value))
            except ServiceRefused:
                pass  # a detector that is not initialized does not tell, nor does every version
        if state == "error":
            raise DetectorStateError(f"{', '.join(words)}: look at the detector, then initialize it")
        return version, ", ".join(words) + http_clock(block.url)
    finally:
        client.close()


def _eiger_stream(block: blocks.EigerConfig) -> tuple[str, str]:
    """Look at the stream's port and ask by HTTP: a client of it would take every other frame."""
    from ..clients import SimplonClient

    probe_tcp(block.stream_endpoint)
    client = SimplonClient(block.url, block.api_version, LIMIT)
    try:
        if client.version == "1.6.0":
            raise DetectorStateError("API 1.6.0 has no format 'cbor' of the stream; use readout: monitor")
        told = {name: client.get("stream", "config", name).value for name in ("mode", "format")}
        told |= {name: client.get("stream", "status", name).value for name in ("state", "dropped")}
        words = f"accepts connections; mode {told['mode']}, format {told['format']}, state {told['state']}"
        return "", f"{words}, {told['dropped']} dropped; it does not tell who else is connected"
    finally:
        client.close()


def _std_daq(block: blocks.StdDaqWriterConfig) -> tuple[str, str]:
    from ..clients import StdDaqClient, StdDaqOtherGeneration

    if block.by_websocket:
        return _std_daq_by_websocket(block)
    client = StdDaqClient(block.url, block.dialect, LIMIT)
    try:
        status = client.status()
        return client.dialect, f"writer {status.state.value}{http_clock(block.url)}"
    except StdDaqOtherGeneration:
        if block.dialect != "auto":
            raise
        return _std_daq_by_websocket(block)
    finally:
        client.close()


def _std_daq_by_websocket(block: blocks.StdDaqWriterConfig) -> tuple[str, str]:
    """Ask for the configuration; of the driver only whether its port is open, for no session is harmless."""
    from ..clients import StdDaqWriterSocket

    client = StdDaqWriterSocket(block.url, block.config_url, user=block.user, timeout=LIMIT)
    try:
        config = client.get_config()
        probe_tcp(client.url)
        shown = f"{config.get('detector_name')}, {config.get('number_of_writers')} writers"
        return client.dialect, f"{shown}{http_clock(client.config_url)}; {NOT_SHOWN}"
    finally:
        client.close()


def _broker(block: blocks.SfDaqBrokerConfig) -> tuple[str, str]:
    from ..clients import BrokerClient

    with BrokerClient(block.url, block.slow_url, block.dialect) as client:
        running = client.get_running_detectors().running
        missing, shown = sorted(set(block.detectors) - set(running)), ", ".join(running) or "no detector"
        if missing:
            raise DetectorStateError(f"not running: {', '.join(missing)}; running: {shown}")
        return block.dialect, f"running: {shown}{http_clock(block.url)}"


def _pgroup(block: blocks.SfDaqBrokerConfig, pgroup: str) -> tuple[str, str]:
    from ..clients import BrokerClient

    if not pgroup:
        raise RequestError("pgroup", pgroup, "p and five digits, in the file or at the device")
    with BrokerClient(block.url, block.slow_url, block.dialect) as client:
        return block.dialect, f"open, last run number {client.get_current_run_number(pgroup)}"


def _jungfrau(block: blocks.JungfrauConfig) -> tuple[str, str]:
    from ..clients import ImageStream, ModuleStream

    dead = [endpoint for endpoint in block.endpoints if not _accepts(endpoint)]
    if dead:
        n = len(block.endpoints)
        raise DetectorStateError(
            f"none of {n} endpoints answers"
            if len(dead) == n
            else f"{len(dead)} of {n} endpoints do not answer: {', '.join(dead)}"
        )
    if block.pull:
        return "", "not asked: its images are shared out among those who listen"
    if block.stream == "modules":
        stream: ModuleStream | ImageStream = ModuleStream(
            block.endpoints, detector_name=block.detector_name, timeout=FIRST_IMAGE
        )
    else:
        stream = ImageStream(block.endpoints[0], detector_name=block.detector_name, timeout=FIRST_IMAGE)
    limit = Limit(FIRST_IMAGE)
    with stream:
        frame = next(frame for frame in stream if not stream.is_early(frame) or limit.reached())
        state = "whole" if frame.is_good else "incomplete"
        n = len(block.endpoints)
        return "", f"{n} of {n} endpoints answer, frame {frame.frame_number}, {state}"


def _accepts(endpoint: str) -> bool:
    try:
        probe_tcp(endpoint)
    except ServiceUnreachable:
        return False
    return True


PROBES: dict[str, Callable[..., tuple[str, str]]] = {
    "Eiger": _eiger,
    "Eiger stream": _eiger_stream,
    "StdDaqWriter": _std_daq,
    "SfDaqBroker": _broker,
    "Jungfrau": _jungfrau,
    "pgroup": _pgroup,
}
"""By class of the device."""
