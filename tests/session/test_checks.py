"""What the doctor asks is what it shows, and what it says is true when nothing answers.

Found faults: doctor-pulse-id.
"""

from __future__ import annotations

import io
import itertools
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sfdaq_ophyd.clients import EigerStream, SimplonClient
from sfdaq_ophyd.devices.debts import Debts, _load
from sfdaq_ophyd.errors import (
    DetectorStateError,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
)
from sfdaq_ophyd.session import checks, load_config
from sfdaq_ophyd.session.checks import Check, Finding, _offset, checks_of, clock_words, run_checks, told
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.module_header import ModuleHeader

from ..clients.stream_peers import Publisher
from ..http_peer import reply_with, serving
from ..tiled_server import API_KEY, stock_catalog

PROFILE = Path(__file__).parents[2] / "profile_collection"


def test_doctor_when_a_file_of_debts_cannot_be_read_then_it_is_named_beside_what_is_owed(
    tmp_path, monkeypatch
):
    owing, closed = Debts("eiger", "http://a", tmp_path), Debts("eiger", "http://b", tmp_path)
    for debts in (owing, closed):
        debts.owe("nimages", left=1, back=7, reason="no network")
    load = _load

    def fail(path):
        if path == closed.path:
            raise OSError(5, "Input/output error")
        return load(path)

    monkeypatch.setattr("sfdaq_ophyd.devices.debts._load", fail)
    with pytest.raises(DetectorStateError, match="nimages was left at 1, .*Input/output error") as error:
        checks.probe_debts(closed.path.parent)
    assert str(closed.path) in str(error.value)


@pytest.mark.parametrize("extra", ["", "    event_code: SOME:EVENT-CODE\n"])
def test_doctor_pulse_id_when_checked_then_every_check_asks_the_address_it_shows(
    tmp_path, monkeypatch, extra
):
    asked = []
    for name in (
        "probe_debts",
        "probe_pulse_id",
        "probe_pv",
        "probe_tcp",
        "probe_redis",
        "probe_file",
        "probe_folder",
        "probe_catalog",
        "probe_zmq",
    ):
        monkeypatch.setattr(checks, name, lambda address, *more: (asked.append(str(address)), ("", ""))[1])
    for name in ("_eiger", "_eiger_stream", "_std_daq", "_broker", "_jungfrau", "_pgroup"):
        monkeypatch.setattr(checks, name, lambda block, *more: ("", ""))
    text = (PROFILE / "facility.example.yaml").read_text()
    text = text.replace("    detectors:\n", f"{extra}    detectors:\n").replace(
        "  embedded: catalog\n", "  uri: http://tiled:8000\n"
    )
    path = tmp_path / "sfdaq.yaml"
    text += "publish:\n  - {zmq: 'proxy:5577'}\n  - {kafka: 'kafka1', topic: documents}\n"
    path.write_text(text.replace("  file: metadata.json\n", "  redis: redis://somewhere/0\n"))
    found = {}
    for check in checks_of(load_config(path)):
        before = len(asked)
        check.probe()
        found[check.name] = (check.address, asked[before:])
    assert found["sfdaq pulse_id"] == ("SLAAR21-LTIM01-EVR0:RX-PULSEID", ["SLAAR21-LTIM01-EVR0:RX-PULSEID"])
    assert found["publish zmq"][0] == "tcp://proxy:5577"
    assert found["publish kafka"][0] == "tcp://kafka1:9092"
    assert found["catalog"][0] == "http://tiled:8000"
    assert found["documents"][0].endswith("/documents")
    trigger = "SOME:EVENT-CODE" if extra else "SAR-CVME-TIFALL5-EVG0:SoftEvt-EvtCode-SP"
    assert found["sfdaq event_code"] == (trigger, [trigger])
    for name, (shown, of) in found.items():
        assert of == [shown] or name in {"eiger", "jf", "writer", "sfdaq", "sfdaq pgroup"} and of == [], name


def test_doctor_when_nothing_answers_then_no_text_says_that_something_does(tmp_path, closed_port):
    dead = f"127.0.0.1:{closed_port}"
    path = tmp_path / "sfdaq.yaml"
    path.write_text(
        "pgroup: p12345\ndirectory: new\ndevices:\n"
        f"  jf: {{class: Jungfrau, detector_name: JF01T01V01, endpoints: ['tcp://{dead}']}}\n"
        f"  writer: {{class: StdDaqWriter, url: 'http://{dead}', redis_url: 'redis://{dead}'}}\n"
        f"  eiger: {{class: Eiger, url: 'http://{dead}'}}\n"
        f"  sfdaq: {{class: SfDaqBroker, url: 'http://{dead}', detectors: {{JF01T01V01: {{}}}}}}\n"
    )
    findings = {finding.name: finding for finding in run_checks(checks_of(load_config(path)))}
    folders = [
        "directory",
        "catalog",
        "jf directory",
        "writer directory",
        "eiger directory",
        "sfdaq directory",
    ]
    assert {name for name, finding in findings.items() if finding.ok} == {*folders, "debts"}
    assert findings["directory"].found.startswith("will be made, ")
    for name, finding in findings.items():
        line = str(finding)
        assert ".." not in line.replace(str(tmp_path), "") and "\n" not in line, line
        assert finding.ok or "refused" in line or name == "jf", line
    assert findings["jf"].found == "none of 1 endpoints answers"
    assert findings["jf"].advice.startswith("Do all its endpoints answer?")
    assert findings["sfdaq pgroup"].advice.startswith("Does the broker answer?")


def test_doctor_when_an_error_has_a_hint_then_it_is_said_once():
    def fails():
        raise ServiceTimeout("jf: stage", 3, "idle", "Turn it on")

    (finding,) = run_checks([Check("jf", "here", fails, "Do nothing")])
    assert str(finding).endswith("not done after 3 s; last state idle. Turn it on")


def test_doctor_when_a_check_hangs_then_said_and_the_others_shown(wait_for):
    import threading

    done = threading.Event()
    hangs = Check("a", "here", lambda: done.wait(120), "Kick it")
    well = Check("b", "there", lambda: ("1", "fine"), "")
    found = list(run_checks([hangs, well], limit=2.0))
    done.set()
    assert [(each.name, each.ok) for each in found] == [("a", False), ("b", True)]
    assert isinstance(found[0], Finding) and found[0].found == "no answer in 2 s"


def test_doctor_when_many_checks_hang_then_one_behind_them_is_asked_all_the_same():
    done = threading.Event()
    hang = [Check(f"jf {i}", "here", lambda: done.wait(60), "Kick it") for i in range(40)]
    found = list(run_checks([*hang, Check("b", "there", lambda: ("1", "fine"), "")], limit=5.0))
    done.set()
    assert [each.found for each in found] == ["no answer in 5 s"] * 40 + ["fine"]


def test_doctor_when_a_check_never_ends_then_the_process_does():
    code = (
        "import threading; from sfdaq_ophyd.session.checks import Check, run_checks\n"
        "hangs = Check('a', 'here', lambda: threading.Event().wait(), 'Kick it')\n"
        "print([each.ok for each in run_checks([hangs], limit=0.5)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[False]\n", "")


def test_jungfrau_when_no_endpoint_answers_then_all_are_asked_side_by_side(monkeypatch):
    asked = threading.Barrier(32, timeout=60)

    def silent(endpoint):
        asked.wait()
        raise ServiceUnreachable("connect", url=endpoint, reason="timed out")

    monkeypatch.setattr(checks, "probe_tcp", silent)
    monkeypatch.setattr(checks, "ANSWER_LIMIT", 90.0)
    block = SimpleNamespace(endpoints=[f"tcp://10.0.0.1:{30000 + i}" for i in range(32)])
    with pytest.raises(DetectorStateError, match="^none of 32 endpoints answers$"):
        checks._jungfrau(block)
    assert not asked.broken


def test_broker_when_a_detector_does_not_run_then_said_in_these_words(monkeypatch):
    from sfdaq_ophyd.sim import Facility

    with Facility(only=["broker"]) as facility:
        block = load_block(facility.broker.url, "JF17T16V01")
        with pytest.raises(DetectorStateError, match=r"not running: JF17T16V01; running: JF01T03V01"):
            checks._broker(block)


def load_block(url, detector):
    from sfdaq_ophyd.session.config import SfDaqBrokerConfig

    return SfDaqBrokerConfig.model_validate({"class": "SfDaqBroker", "url": url, "detectors": {detector: {}}})


def test_jungfrau_when_some_endpoints_or_none_answer_then_counted_and_named():
    from sfdaq_ophyd.session.config import JungfrauConfig

    with socket.socket() as there, socket.socket() as gone:
        for each in (there, gone):
            each.bind(("127.0.0.1", 0))
        there.listen()
        well, dead = (f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in (there, gone))
        for endpoints, said in (
            ([well, dead], f"1 of 2 endpoints do not answer: {dead}"),
            ([dead, dead.replace("127.0.0.1", "localhost")], "none of 2 endpoints answers"),
        ):
            block = JungfrauConfig.model_validate(
                {"class": "Jungfrau", "detector_name": "JF04T02V01", "endpoints": endpoints}
            )
            with pytest.raises(DetectorStateError, match=f"^{said}$"):
                checks._jungfrau(block)


def test_folder_when_it_cannot_be_written_or_is_full_then_said_and_nothing_is_left(tmp_path, monkeypatch):

    _, found = checks.probe_folder(tmp_path)
    assert found.startswith("can be written, ") and list(tmp_path.iterdir()) == []
    assert checks.probe_folder(tmp_path / "a" / "b")[1].startswith("will be made, ")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        checks.probe_folder(tmp_path / "file" / "below")
    monkeypatch.setattr(checks, "LEAST_SPACE", 1e9)
    with pytest.raises(OSError, match=r"is full: .* GiB free"):
        checks.probe_folder(tmp_path)


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        (0.2, ", its clock is ours within 0.5 s"),
        (7200.04, ", its clock is 7200.0 s ahead of ours"),
        (-3, ", its clock is 3.0 s behind ours"),
    ],
)
def test_clock_when_it_is_compared_then_the_offset_and_its_sign_are_said(offset, said):

    assert clock_words(offset) == said


def test_clock_when_it_was_told_while_we_waited_then_it_is_ours():

    asked = time.time() - 100  # a busy machine: the answer was read long after it was given
    assert _offset(asked + 30, asked) == 0
    assert _offset(asked - 5, asked) == pytest.approx(-5)
    assert _offset(asked + 1e6, asked) > 0


def eiger_findings(tmp_path, **block):
    keys = "".join(f", {key}: '{value}'" for key, value in block.items())
    path = tmp_path / "sfdaq.yaml"
    path.write_text(f"directory: new\ndevices:\n  eiger: {{class: Eiger{keys}}}\n")
    checks = [check for check in checks_of(load_config(path)) if check.name.startswith("eiger")]
    return {finding.name: finding for finding in run_checks(checks, limit=300)}


def test_doctor_when_an_eiger_streams_then_no_message_of_the_series_is_taken(tmp_path):
    with Facility(only=["eiger"], eiger_shape=(64, 64), eiger_initialized=True) as facility:
        url, endpoint = facility.eiger.url, facility.eiger.stream_endpoint
        client = SimplonClient(url)
        for module, name, value in (
            ("stream", "format", "cbor"),
            ("stream", "mode", "enabled"),
            ("detector", "count_time", 0.005),
            ("detector", "frame_time", 0.01),
            ("detector", "nimages", 1000),
        ):
            client.put(module, name, value)
        with EigerStream(endpoint, timeout=60) as stream, stream.frames() as frames:
            stream.wait_connected(60)
            client.arm()
            trigger = threading.Thread(target=client.trigger, args=(10.0,))
            trigger.start()
            ids = [next(frames).image_id]
            found = eiger_findings(tmp_path, url=url, readout="stream", stream=endpoint)["eiger stream"]
            ids += [frame.image_id for _, frame in zip(range(999), frames)]
            trigger.join(60)
        client.close()
    assert ids == list(range(1000))
    assert found.ok and found.address == endpoint, found
    assert "mode enabled, format cbor, state acquire, 0 dropped" in found.found


def test_doctor_when_an_eiger_or_its_stream_cannot_be_used_then_says_state_port_or_version(
    tmp_path, closed_port
):
    dead = f"tcp://127.0.0.1:{closed_port}"
    options = {"eiger_shape": (64, 64), "eiger_initialized": True}
    with Facility(only=["eiger"], **options) as facility:
        url = facility.eiger.url
        closed = eiger_findings(tmp_path, url=url, readout="stream", stream=dead)
        assert "eiger stream" not in eiger_findings(tmp_path, url=url)
        old = eiger_findings(
            tmp_path, url=url, readout="stream", stream=facility.eiger.stream_endpoint, api_version="1.6.0"
        )
        facility.eiger.fail_next("detector_error")
        client = SimplonClient(url)
        client.arm()
        with pytest.raises(ServiceRefused):
            client.trigger()
        client.close()
        failed = eiger_findings(tmp_path, url=url)["eiger"]
    assert not failed.ok and failed.found.startswith("state error, Dectris")
    assert closed["eiger"].ok and not closed["eiger stream"].ok
    assert dead in closed["eiger stream"].found and "31001" in closed["eiger stream"].advice
    assert "API 1.6.0 has no format 'cbor'" in old["eiger stream"].found


def test_doctor_when_the_stream_has_no_address_then_that_of_the_control_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_eiger", lambda block: ("", ""))
    monkeypatch.setattr(checks, "_eiger_stream", lambda block: ("", block.stream_endpoint))
    found = eiger_findings(tmp_path, url="http://eiger-dcu:8080", readout="stream")["eiger stream"]
    assert found.address == found.found == "tcp://eiger-dcu:31001"


def test_jungfrau_when_a_port_joins_in_later_then_its_image_is_not_called_incomplete():
    ended, pixels = threading.Event(), bytes(2 * 512 * 1024)
    with Publisher(2) as peer:

        def send():
            peer.wait_subscribed()
            for number in itertools.count(1):
                for port in range(1 if number < 10 else 2):
                    header = ModuleHeader(frame_number=number, row=port, detector_blocks=(2, 1))
                    peer.send(port, header.encode(), pixels)
                if ended.wait(0.01):
                    return

        sender = threading.Thread(target=send)
        sender.start()
        options = {"detector_name": "JF99T02V01", "stream": "modules", "pull": False}
        try:
            _, found = checks._jungfrau(SimpleNamespace(endpoints=peer.endpoints, **options))
        finally:
            ended.set()
            sender.join()
    assert found.startswith("2 of 2 endpoints answer, frame ") and found.endswith(", whole")


def findings_of(tmp_path, text):
    (tmp_path / "sfdaq.yaml").write_text(text)
    return [*run_checks(checks_of(load_config(tmp_path / "sfdaq.yaml")), limit=300)]


def test_doctor_when_nobody_listens_where_documents_go_then_each_address_is_told(tmp_path, closed_port):
    dead, path = f"127.0.0.1:{closed_port}", tmp_path / "proxy"
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket(socket.AF_UNIX) as pipe:
        pipe.bind(str(path))
        pipe.listen()
        well = f"127.0.0.1:{there.getsockname()[1]}"
        found = findings_of(
            tmp_path,
            f"publish:\n  - {{zmq: '{well}'}}\n  - {{zmq: 'tcp://{dead}'}}\n  - {{zmq: 'ipc://{path}'}}\n"
            f"  - {{kafka: '{well},{dead}', topic: documents}}\n",
        )
    told = [(each.name, each.address, each.ok) for each in found if each.name.startswith("publish")]
    assert told == [
        ("publish zmq", f"tcp://{well}", True),
        ("publish zmq", f"tcp://{dead}", False),
        ("publish zmq", f"ipc://{path}", True),
        ("publish kafka", f"tcp://{well}", True),
        ("publish kafka", f"tcp://{dead}", False),
    ]


def test_doctor_when_the_key_of_the_catalog_is_missing_or_refused_then_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "ANSWER_LIMIT", 120.0)
    with stock_catalog(tmp_path / "tiled") as server:
        (tmp_path / "key").write_text("")
        for key, uri, ok, said in (
            (API_KEY, server.uri, True, "answers, takes the key"),
            (API_KEY, server.uri.removesuffix("/api/v1"), True, "answers, takes the key"),
            (API_KEY, f"{server.uri}/metadata/none", False, "answered with 404"),
            ("wrong", server.uri, False, "answered with 401"),
            (None, server.uri, False, "set the environment variable TILED_API_KEY"),
            ("", server.uri, False, "put its API key into "),
        ):
            monkeypatch.delenv("TILED_API_KEY", raising=False)
            if key:
                monkeypatch.setenv("TILED_API_KEY", key)
            more = ", api_key_file: key" if key == "" else ""
            found = {each.name: each for each in findings_of(tmp_path, f"catalog: {{uri: '{uri}'{more}}}\n")}
            assert (found["catalog"].ok, said in found["catalog"].found) == (ok, True), found["catalog"]
            assert key is None or key == "" or key not in str(found["catalog"])
            assert found["documents"].ok


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("", "/api/v1/ /api/v1/metadata/"),
        ("/", "/api/v1/ /api/v1/metadata/"),
        ("/api/v1", "/api/v1/ /api/v1/metadata/"),
        ("/tiled", "/tiled/api/v1/ /tiled/api/v1/metadata/"),
        ("/tiled/api", "/tiled/api/v1/ /tiled/api/v1/metadata/"),
        ("/tiled/api/v1/metadata/raw", "/tiled/api/v1/ /tiled/api/v1/metadata/raw"),
    ],
)
def test_catalog_when_its_server_is_below_a_path_then_asked_there(given, asked):
    paths = []

    def answer(handler):
        paths.append(handler.path)
        reply_with(200, b"{}", "application/json")(handler)

    with serving(answer) as url:
        checks.probe_catalog(f"{url}{given}", lambda: "key")
    assert paths[:2] == asked.split()


def test_doctor_when_what_went_wrong_names_an_address_then_without_its_password():
    def fails(kind):
        raise kind("cannot reach https://me:s3cret@host/x")

    for kind in (ValueError, KeyError):
        (finding,) = run_checks([Check("catalog", "here", lambda kind=kind: fails(kind), "")])
        assert "https://***@host/x" in finding.found and "s3cret" not in str(finding)


@pytest.mark.parametrize(
    ("url", "slow"),
    [
        ("http://[::1]:10002", "http://[::1]:10003"),
        ("http://sf-daq:10002", "http://sf-daq:10003"),
        ("http://sf-daq", "http://sf-daq"),
    ],
)
def test_slow_broker_when_it_has_no_address_of_its_own_then_the_next_port(tmp_path, url, slow):
    path = tmp_path / "sfdaq.yaml"
    path.write_text(f"devices:\n  sfdaq: {{class: SfDaqBroker, url: '{url}'}}\n")
    (check,) = [check for check in checks_of(load_config(path)) if check.name == "sfdaq slow"]
    assert check.address == slow
    if slow == url:
        with pytest.raises(RequestError, match="a port, or slow_url"):
            check.probe()


def test_pv_when_it_was_asked_then_its_signal_is_gone(monkeypatch):
    import ophyd

    from sfdaq_ophyd import devices

    gone = []

    class Silent:
        def __init__(self, pv, **options):
            self.pv = pv

        def wait_for_connection(self, timeout):
            raise TimeoutError(self.pv)

        def destroy(self):
            gone.append(self.pv)

    monkeypatch.setattr(ophyd, "EpicsSignalRO", Silent)
    monkeypatch.setattr(devices, "PulseId", Silent)
    for probe in (checks.probe_pv, checks.probe_pulse_id):
        with pytest.raises(TimeoutError):
            probe(f"NO:{probe.__name__}")
    assert gone == ["NO:probe_pv", "NO:probe_pulse_id"]


@pytest.mark.parametrize("key", ["s3cret\nmore", "s3cret more", "s3cret\x01", "s3cr\u00e9t"])
def test_doctor_when_the_file_of_the_key_holds_something_else_then_it_is_said_without_the_key(tmp_path, key):
    (tmp_path / "key").write_text(key, encoding="utf-8")
    with serving(reply_with(200, b"{}")) as url:
        found = findings_of(tmp_path, f"catalog: {{uri: '{url}', api_key_file: '{tmp_path}/key'}}\n")
    (catalog,) = (each for each in found if each.name == "catalog")
    assert not catalog.ok and "one word of ASCII characters" in catalog.found
    assert "s3cr" not in str(found)


def test_doctor_when_the_catalog_sends_on_to_another_port_then_the_key_does_not_go_there(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TILED_API_KEY", "s3cret")
    asked = []

    def elsewhere(handler):
        asked.append(("elsewhere", handler.headers.get("Authorization")))
        reply_with(200, b"{}")(handler)

    with serving(elsewhere) as other:

        def answer(handler):
            asked.append(("there", handler.headers.get("Authorization")))
            handler.send_response(302)
            handler.send_header("Location", other + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with serving(answer) as url:
            findings_of(tmp_path, f"catalog: {{uri: '{url}'}}\n")
    assert ("there", "Apikey s3cret") in asked
    assert {key for where, key in asked if where == "elsewhere"} == {None}


@pytest.mark.parametrize(
    ("configured", "sent_to", "gets_key"),
    [
        ("http://tiled", "https://tiled/api/v1/", "https://tiled"),
        ("https://tiled", "http://tiled/api/v1/", "https://tiled"),
        ("https://tiled", "https://tiled:8443/api/v1/", "https://tiled"),
        ("http://tiled:8000", "https://tiled/api/v1/", "http://tiled:8000"),
        ("http://tiled", "https://other/api/v1/", "http://tiled"),
    ],
)
def test_doctor_when_the_catalog_sends_on_then_the_key_goes_on_from_http_to_https_alone(
    monkeypatch, configured, sent_to, gets_key
):
    asked = []

    def urlopen(what, timeout):
        asked.append(what)
        reply = io.BytesIO(b"{}")
        reply.url = sent_to
        return reply

    monkeypatch.setattr(checks, "urlopen", urlopen)
    monkeypatch.setattr(checks, "http_clock", lambda uri: "")
    checks.probe_catalog(configured, lambda: "s3cret")
    assert asked[1].full_url == f"{gets_key}/api/v1/metadata/"


def test_pv_when_this_process_could_not_look_while_it_was_asked_then_it_is_asked_again(monkeypatch):
    import ophyd

    from sfdaq_ophyd import limits

    monkeypatch.setattr(limits, "counted_time", lambda: 0.0)

    class Signal:
        n = 0

        def __init__(self, *args, **options):
            pass

        def wait_for_connection(self, timeout):
            self._late("connection")

        def get(self, timeout):
            self._late("reading")
            return 4.5

        def _late(self, what):
            self.n += 1
            if self.n % 2:
                threading.Event().wait(0.05)
                raise TimeoutError(what)

        def destroy(self):
            pass

    monkeypatch.setattr(ophyd, "EpicsSignalRO", Signal)
    assert checks.probe_pv("SIM:DIODE") == ("Channel Access", "4.5")


def test_doctor_when_many_checks_fail_then_a_line_each_some_advice_and_where_the_rest_is(monkeypatch, caplog):
    def fails():
        raise ServiceUnreachable("connect", url="http://a:secret@b", reason="endless words " * 200)

    caplog.set_level("INFO", logger="sfdaq_ophyd")
    monkeypatch.setattr(checks, "keep_log", lambda: "/home/me/sfdaq.log")
    asked = [Check(f"jf {i}", "here", fails, f"Kick number {i}") for i in range(20)]
    well = Check("b", "there", lambda: ("1", "fine " * 100), "")
    lines, good = zip(*told(run_checks([*asked, well])))
    assert good == (False,) * 20 + (True, False) and lines[-2].count("fine") == 100
    assert ["Kick" in line for line in lines] == [i < checks.ADVISED for i in range(22)]
    assert all(line.startswith("FAILED") and len(line) < 500 for line in lines[:20])
    assert lines[-1] == "20 failed; their tracebacks, and what to do, are in /home/me/sfdaq.log"
    for i in range(20):
        (logged,) = [each for each in caplog.messages if f"Kick number {i}\n" in each]
        assert logged.count("endless words") >= 400 and "Traceback (most recent call last)" in logged
    assert "secret" not in caplog.text


def test_doctor_when_nothing_fails_then_all_well():
    assert [*told(run_checks([Check("b", "there", lambda: ("1", "fine"), "")]))][-1] == ("all well", True)
