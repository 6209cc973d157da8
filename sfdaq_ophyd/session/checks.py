"""Ask every configured address and PV whether it is well; for ``sfdaq doctor`` and ``%doctor``."""

from __future__ import annotations

import http.client
import logging
import os
import re
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit
from urllib.request import Request, urlopen

from ..devices.debts import all_debts
from ..errors import (
    DetectorStateError,
    RequestError,
    ServiceRefused,
    ServiceUnreachable,
    SfdaqError,
    StorageError,
    shown_url,
    without_secrets,
)
from ..limits import Limit, asked_again
from ..log import keep_log
from ..wire.broker import BEAMLINES
from ..wire.json_text import load_json
from ..wire.std_daq_socket import NOT_SHOWN
from . import config as blocks
from .config import SfdaqConfig
from .devices import constant_files, debts_of
from .publish import api_key

if TYPE_CHECKING:
    from ..devices import PulseId


logger = logging.getLogger(__name__)

LIMIT = 20.0
"""s after which a check that hangs has failed; each has shorter limits of its own."""

ANSWER_LIMIT = 10.0
"""s for an answer."""

FIRST_IMAGE = 10.0
"""s for an image of a running detector."""

CLOCK_RESOLUTION = 0.5
"""s by which a clock may be off."""

ADVISED, LONGEST = 8, 300
"""Failed checks, the first ones, that say what to do; characters of what failed. The log has all."""

LEAST_SPACE = 1.0
"""GiB; a folder with less is full for a detector."""

KAFKA_PORT = 9092
"""Of a broker that is given without one, as its client has it."""


def probe_tcp(address: str) -> tuple[str, str]:
    """Open and close a TCP connection."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port or 80), ANSWER_LIMIT).close()
    except OSError as exc:
        raise ServiceUnreachable("connect", url=address, reason=exc) from exc
    return "", "accepts connections"


def probe_debts(folder: Path) -> tuple[str, str]:
    """See whether devices could not put something back on the hardware."""
    owed = []
    try:
        for _, debt in all_debts(folder):
            owed.append(str(debt))
    except StorageError as exc:
        owed.append(str(exc))
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

    from ..clients.redis_client import redis_client

    with redis_client(url, answer=ANSWER_LIMIT, connect=ANSWER_LIMIT) as client:
        before = time.time()
        client.ping()
        try:
            seconds, microseconds = client.time()
            clock = clock_words(_offset(seconds + microseconds / 1e6, before))
            return str(client.info("server").get("redis_version", "")), f"answers{clock}"
        except redis.ResponseError:
            return "", "answers"  # an embedded one has no INFO


def probe_catalog(uri: str, key: Callable[[], str]) -> tuple[str, str]:
    """Ask a Tiled server about itself, and for the container of the runs, with the key."""
    secret, parts = key(), urlsplit(uri)
    api, node = _api_of(parts.path)
    about_it = f"{parts.scheme}://{parts.netloc}{api}/"
    with urlopen(about_it, timeout=ANSWER_LIMIT) as reply:  # this it tells everybody
        about, there = load_json(reply.read(2**20)), urlsplit(reply.url)
    if _origin(there) != _origin(parts) and (_origin(parts), _origin(there)) != (
        ("http", parts.hostname, 80),
        ("https", parts.hostname, 443),
    ):
        there = parts  # the key is for the configured server alone; from http to https it may be sent on
    version = about.get("library_version", "") if isinstance(about, dict) else ""
    container = Request(f"{there.scheme}://{there.netloc}{api}/metadata{node or '/'}")
    container.add_unredirected_header("Authorization", f"Apikey {secret}")
    try:
        urlopen(container, timeout=ANSWER_LIMIT).close()
    except HTTPError as exc:
        with exc:
            said = exc.read(500).decode(errors="replace")
        raise ServiceRefused("GET with the key", url=container.full_url, said=said, code=exc.code) from exc
    return str(version), f"answers, takes the key{http_clock(uri)}"


def _api_of(path: str) -> tuple[str, str]:
    """Return the path of a Tiled server's API and that of the container in it, found as its client does."""
    api, _, node = path.partition("/metadata")
    if api == path:
        api = path.rstrip("/")
        api += "/api/v1" if "/api" not in api else "/v1" if "/v1" not in api else ""
    return api, node


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of an address."""
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def probe_zmq(address: str) -> tuple[str, str]:
    """Open and close a connection to a 0MQ proxy."""
    if not address.startswith("ipc://"):
        return probe_tcp(address)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.settimeout(ANSWER_LIMIT)
        opened.connect(re.sub("^@", "\0", address.removeprefix("ipc://")))
    return "", "accepts connections"


def probe_pv(pv: str, string: bool = False) -> tuple[str, str]:
    """Read a PV."""
    from ophyd import EpicsSignalRO

    signal = EpicsSignalRO(pv, name="doctor", string=string)
    try:
        asked_again(lambda: signal.wait_for_connection(timeout=ANSWER_LIMIT), ANSWER_LIMIT)
        value = asked_again(lambda: signal.get(timeout=ANSWER_LIMIT), ANSWER_LIMIT)
        return "Channel Access", f"{value!s:.40}"
    finally:
        signal.destroy()


def probe_pulse_id(pv: str) -> tuple[str, str]:
    """See that a pulse id counts."""
    from ..devices import PulseId

    pulse_id = PulseId(pv, name="doctor", timeout=ANSWER_LIMIT)
    try:
        return _asked(pulse_id)
    finally:
        pulse_id.destroy()


def _asked(pulse_id: PulseId) -> tuple[str, str]:
    asked_again(lambda: pulse_id.wait_for_connection(timeout=ANSWER_LIMIT), ANSWER_LIMIT)
    rate = pulse_id.check(timeout=ANSWER_LIMIT)
    value, offset = _read_pulse_id(pulse_id)
    for _ in range(5):
        if abs(offset) <= CLOCK_RESOLUTION:
            break
        pulse_id.wait_past(value, ANSWER_LIMIT).wait()  # the pulse just read may be an old one of a busy IOC
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
    connection, before = kind(parts.hostname or "", parts.port, timeout=ANSWER_LIMIT), time.time()
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

    client = SimplonClient(block.url, block.api_version, ANSWER_LIMIT)
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
    client = SimplonClient(block.url, block.api_version, ANSWER_LIMIT)
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
    client = StdDaqClient(block.url, block.dialect, ANSWER_LIMIT)
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

    client = StdDaqWriterSocket(block.url, block.config_url, user=block.user, timeout=ANSWER_LIMIT)
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

    asked = run_checks(
        [Check("", each, partial(probe_tcp, each), "") for each in block.endpoints], ANSWER_LIMIT
    )
    dead = [endpoint for endpoint, finding in zip(block.endpoints, asked) if not finding.ok]
    if dead:
        n = len(block.endpoints)
        raise DetectorStateError(
            f"none of {n} endpoints answers"
            if len(dead) == n
            else f"{len(dead)} of {n} endpoints do not answer: {', '.join(dead)}"
        )
    if block.pull:
        return "", blocks.SHARED_OUT
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
        return self.line()

    def line(self, *, advised: bool = True, longest: int | None = None) -> str:
        """Return the line, with or without what to do; of a longer text what was found without its middle."""
        found = " ".join(self.found.split())
        if longest is not None and len(found) > longest:
            found = f"{found[: longest // 2]} ... {found[-longest // 2 :]}"
        mark = "ok    " if self.ok else "FAILED"
        took = "     -" if self.latency is None else f"{self.latency * 1e3:6.1f}"
        version = f" [{self.version}]" if self.version else ""
        text = f"{mark} {took} ms  {self.name:18} {self.address}{version}  {found}"
        return text if self.ok or not advised else f"{text.rstrip('. ')}. {self.advice}"


def told(findings: Iterable[Finding]) -> Iterator[tuple[str, bool]]:
    """Yield a line per finding and a last one, each with whether it is good news.

    All lines of what is well are whole. Of the failed ones the first `ADVISED` say what to do, and the last
    line says where all of it is, with tracebacks.
    """
    n = 0
    for finding in findings:
        n += not finding.ok
        yield str(finding) if finding.ok else finding.line(advised=n <= ADVISED, longest=LONGEST), finding.ok
    if n:
        yield f"{n} failed; their tracebacks, and what to do, are in {keep_log()}", False
    else:
        yield "all well", True


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
    """Run checks side by side and yield their findings in order; a check that hangs costs `limit` s.

    Each has a thread of its own, so that none waits for another; one that hangs ends with the process.
    """
    begun = []
    for check in checks:
        found = Future[Finding]()
        Thread(target=_run, args=(check, found), name=f"doctor {check.name}", daemon=True).start()
        begun.append((check, found, Limit(limit)))
    for check, found, left in begun:
        while not wait([found], left.step()).done and not left.reached():
            pass
        if found.done():
            yield found.result()
        else:
            yield _failed(check, f"no answer in {limit:g} s", check.advice)


def _run(check: Check, found: Future[Finding]) -> None:
    try:
        found.set_result(_timed(check))
    except BaseException as exc:  # for whoever asked for it, not for the thread
        found.set_exception(exc)


def _timed(check: Check) -> Finding:
    begin = time.perf_counter()
    try:
        version, found = check.probe()
    except (SfdaqError, OSError, ValueError, TimeoutError) as exc:
        hint = getattr(exc, "hint", "")
        found = without_secrets(str(exc)).removesuffix(hint)
        return _failed(check, found, hint or check.advice, exc)
    except Exception as exc:  # redis, tiled and EPICS have roots of their own
        found = without_secrets(f"{type(exc).__name__}: {exc}")
        return _failed(check, found, check.advice, exc)
    return Finding(check.name, check.address, True, time.perf_counter() - begin, version, found, "")


def _failed(check: Check, found: str, advice: str, exc: BaseException | None = None) -> Finding:
    """Return what a check that failed found, and put it in the log."""
    finding = Finding(check.name, check.address, False, None, "", found, advice)
    where = "" if exc is None else without_secrets("".join(traceback.format_exception(exc)))
    logger.info("%s\n%s", finding, where)
    return finding


def _own_checks(config: SfdaqConfig) -> Iterator[Check]:
    yield _folder_check("directory", config.directory)
    debts = debts_of(config)
    yield Check("debts", str(debts), partial(probe_debts, debts), "Stage the device, or set it by hand")
    if url := config.metadata.redis:
        yield Check("metadata", url, partial(probe_redis, url), "Start Redis, or use metadata.file")
    if uri := config.catalog.uri:
        advice = "Start the Tiled server, give its key, or leave catalog.uri out"
        yield Check("catalog", uri, partial(probe_catalog, uri, partial(api_key, config)), advice)
        yield _folder_check("documents", config.directory / config.catalog.documents)
    else:
        yield _folder_check("catalog", config.directory / config.catalog.embedded)
    for block in config.publish:
        if block.zmq:
            address = block.zmq if "://" in block.zmq else f"tcp://{block.zmq}"
            yield Check("publish zmq", address, partial(probe_zmq, address), "Start bluesky-0MQ-proxy")
        for broker in filter(None, block.kafka.split(",")):
            address = f"tcp://{broker}" if ":" in broker else f"tcp://{broker}:{KAFKA_PORT}"
            advice = "Is this broker up, and its port open to this machine?"
            yield Check("publish kafka", address, partial(probe_tcp, address), advice)


def _folder_check(name: str, folder: Path, writes: bool = True) -> Check:
    advice = "Make it, let this user write there, and make room" if writes else "Mount it here"
    return Check(name, str(folder), partial(probe_folder, folder, writes), advice)


def _device_checks(name: str, block: blocks.DeviceConfig, config: SfdaqConfig) -> Iterator[Check]:
    if isinstance(block, blocks.PulseIdConfig):
        yield Check(name, block.pv, partial(probe_pulse_id, block.pv), _PV)
    elif isinstance(block, blocks.MotorConfig | blocks.SignalConfig):
        string = isinstance(block, blocks.SignalConfig) and block.string
        yield Check(name, block.pv, partial(probe_pv, block.pv, string), _PV)
    elif isinstance(block, blocks.JungfrauConfig):
        for i, endpoint in enumerate(block.endpoints):
            yield Check(f"{name} {i}", endpoint, partial(probe_tcp, endpoint), _STREAM)
        advice = "Do all its endpoints answer? Then: is the detector running and triggered?"
        yield Check(name, block.detector_name, partial(_jungfrau, block), advice)
    elif isinstance(block, blocks.EigerConfig):
        yield Check(name, block.url, partial(_eiger, block), _CONTROL_UNIT)
    elif isinstance(block, blocks.StdDaqWriterConfig):
        advice = "Start the standard DAQ's services, or mend url"
        yield Check(name, block.url, partial(_std_daq, block), advice)
    else:
        advice = "Start the broker, or mend url; it answers consoles of beamlines only"
        yield Check(name, block.url, partial(_broker, block), advice)
    for path in constant_files(block, config.directory):
        yield Check(f"{name} constants", str(path), partial(probe_file, path), "Put the file there")
    if isinstance(block, blocks.FileDetectorConfig | blocks.SfDaqBrokerConfig):
        # where a DAQ writes one file, only its own hosts do; several are joined by one of ours
        writes = not isinstance(block, blocks.StdDaqWriterConfig) or block.by_websocket
        yield _folder_check(f"{name} directory", config.directory / block.directory, writes)
    if isinstance(block, blocks.StdDaqWriterConfig) and (url := block.redis_url):
        yield Check(f"{name} redis", url, partial(probe_redis, url), "Start the DAQ's Redis")
    if isinstance(block, blocks.EigerConfig) and (block.stream or block.readout == "stream"):
        yield Check(f"{name} stream", block.stream_endpoint, partial(_eiger_stream, block), _EIGER_STREAM)
    if isinstance(block, blocks.SfDaqBrokerConfig):
        yield from _broker_checks(name, block, config)


def _slow(block: blocks.SfDaqBrokerConfig) -> tuple[str, str]:
    from ..clients.broker_transport import next_port

    return probe_tcp(block.slow_url or next_port(block.url))


def _broker_checks(name: str, block: blocks.SfDaqBrokerConfig, config: SfdaqConfig) -> Iterator[Check]:
    from ..clients.broker_transport import next_port

    pgroup = block.pgroup or config.pgroup
    advice = "Does the broker answer? Then: is the pgroup right, there, and still open?"
    yield Check(f"{name} pgroup", pgroup or "none", partial(_pgroup, block, pgroup), advice)
    slow = block.slow_url or (next_port(block.url) if urlsplit(block.url).port else block.url)
    yield Check(f"{name} slow", slow, partial(_slow, block), "Start the slow broker, or mend slow_url")
    if not block.pulse_id and config.beamline:
        pv = BEAMLINES[config.beamline].pulse_id_pv
        yield Check(f"{name} pulse_id", pv, partial(probe_pulse_id, pv), _PV)
    trigger = BEAMLINES[config.beamline].event_code_pv if config.beamline else None
    for role, given in (("beam_rate", block.beam_rate), ("event_code", block.event_code or trigger)):
        if given:
            yield Check(f"{name} {role}", given, partial(probe_pv, given), _PV)


_PV = "Is its IOC up, and EPICS_CA_ADDR_LIST right? caget from this machine tells"
_CONTROL_UNIT = "Is the detector control unit on, and this machine in its network?"
_EIGER_STREAM = "Is that the stream's port (31001), and open to this machine? Does the control unit answer?"
_STREAM = "Is slsReceiver running, with this zmq port?"
