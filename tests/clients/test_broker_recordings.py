"""Every recorded exchange through the client: the same request goes out, the recorded reply comes in typed.

Where the client refuses to send what was recorded, the table below says which field it names.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.clients.broker_transport import REQUEST_ID
from sfdaq_ophyd.errors import BrokerRefused, RequestError
from sfdaq_ophyd.wire.broker_operations import OPERATIONS
from sfdaq_ophyd.wire.broker_parameters import DAP_SETTINGS
from sfdaq_ophyd.wire.broker_reply import Retrieval
from sfdaq_ophyd.wire.broker_request import SERVER_KEYS, RetrieveRequest

from ..sim.broker_recording import expanded, load, recordings_in
from .recorded_broker import RecordedBroker, words

DATA = Path(__file__).parent.parent / "data" / "broker"

CALLS = {
    "get_allowed_detectors": lambda c, q: c.get_allowed_detectors(),
    "get_running_detectors": lambda c, q: c.get_running_detectors(),
    "power_on_detector": lambda c, q: c.power_on_detector(q["detector_name"]),
    "advance_run_number": lambda c, q: c.advance_run_number(
        q["pgroup"], extra={key: value for key, value in q.items() if key != "pgroup"}
    ),
    "get_current_run_number": lambda c, q: c.get_current_run_number(q["pgroup"]),
    "retrieve_from_buffers": lambda c, q: c.retrieve_from_buffers(RetrieveRequest.from_wire(q)),
    "take_pedestal": lambda c, q: c.take_pedestal(
        q["pgroup"],
        q["detectors"],
        rate_multiplicator=q.get("rate_multiplicator", 1),
        pedestalmode=q.get("pedestalmode", False),
    ),
    "get_pvlist": lambda c, q: c.get_pvlist(),
    "set_pvlist": lambda c, q: c.set_pvlist(q["pv_list"]),
    "close_pgroup_writing": lambda c, q: c.close_pgroup_writing(q["pgroup"], confirm=q["pgroup"]),
    "get_detector_settings": lambda c, q: c.get_detector_settings(q["detector_name"]),
    "set_detector_settings": lambda c, q: c.set_detector_settings(q["detector_name"], q["parameters"]),
    "get_detector_status": lambda c, q: c.get_detector_status(q["detector_name"]),
    "get_detector_temperatures": lambda c, q: c.get_detector_temperatures(q["detector_name"]),
    "get_detector_pings": lambda c, q: c.get_detector_pings(q["detector_name"]),
    "get_jfctrl_monitor": lambda c, q: c.get_jfctrl_monitor(q["detector_name"]),
    "get_jfstats": lambda c, q: c.get_jfstats(q["det"]),
    "power_on_modules": lambda c, q: c.power_on_modules(q["detector_name"], q["modules"]),
    "power_off_modules": lambda c, q: c.power_off_modules(q["detector_name"], q["modules"]),
    "copy_user_files": lambda c, q: c.copy_user_files(q["pgroup"], q["run_number"], q.get("files", [])),
    "get_dap_settings": lambda c, q: c.get_dap_settings(q["detector_name"]),
    "set_dap_settings": lambda c, q: c.set_dap_settings(q["detector_name"], q["parameters"]),
    "upload_custom_dap_script": lambda c, q: c.upload_custom_dap_script(q["name"], q["code"]),
}

_DETECTOR = ("detector_name",)
_SOURCES = ("detectors", "channels", "cameras", "pvs", "detectors, channels, cameras, pvs")
CHECKED_HERE = {
    **dict.fromkeys(CALLS, ("detector_name", "pgroup", "extra")),
    "retrieve_from_buffers": (
        *("pgroup", "PulseRange", "pulses", "pulse range", "run_number", "rate_multiplicator"),
        *("user_tag", "append_user_tag_to_data_dir", "scan_info", "selected_pulse_ids", "extra", *_SOURCES),
    ),
    "take_pedestal": ("pgroup", "detectors", "rate_multiplicator", "pedestalmode"),
    "set_pvlist": ("pv_list",),
    "set_detector_settings": (*_DETECTOR, "parameters", "exptime", "delay", "detector_mode", "gain_mode"),
    "set_dap_settings": (*_DETECTOR, "parameters", *DAP_SETTINGS),
    "power_on_modules": (*_DETECTOR, "modules"),
    "power_off_modules": (*_DETECTOR, "modules"),
    "copy_user_files": ("pgroup", "run_number", "files"),
    "upload_custom_dap_script": ("name", "code"),
}
"""Fields that the client checks and the server does not, by call."""

NEEDED = {
    **dict.fromkeys(CALLS, ("detector_name", "pgroup")),
    "set_pvlist": ("pv_list",),
    "get_jfstats": ("det",),
    "set_detector_settings": (*_DETECTOR, "parameters"),
    "set_dap_settings": (*_DETECTOR, "parameters"),
    "power_on_modules": (*_DETECTOR, "modules"),
    "power_off_modules": (*_DETECTOR, "modules"),
    "copy_user_files": ("pgroup", "run_number", "files"),
    "upload_custom_dap_script": ("name", "code"),
}
"""Fields that must be sent, by call."""

REFUSED_HERE = {
    "04-retrieve-basic": ("detectors, channels, cameras, pvs", "PulseRange.first"),
    "06-retrieve-alignment": ("pulse range", "pulse range"),
    "16-slow-set-detector-settings": ("parameters", "exptime"),
    "19-slow-dap-settings": ("parameters",),
    "32-flow-retrieve-detector": ("detectors.JF01T03V01",),
    "46-doc-pvlist": ("pv_list",),
    "47-doc-slow": ("parameters", "parameters"),
}
"""What the client refuses in our recordings although the server takes it: fields, in order."""

PARAMETERLESS = ("get_allowed_detectors", "get_running_detectors", "get_pvlist")


def exchanges(folder: Path):
    """Yield (id, exchange) of everything the client can be asked to do."""
    for path in recordings_in(folder):
        first, lines = load(path)
        for line in lines:
            line = {key: value for key, value in line.items() if value is not None}
            request, dialect = line.get("request", {}), line.setdefault("dialect", first.get("dialect"))
            endpoint = OPERATIONS.get(request.get("path", "/")[1:])
            if (
                endpoint is None
                or "reply" not in line
                or request["method"] != getattr(endpoint, dialect)
                or "body" in request
            ):
                continue  # other paths, methods and bodies: the client cannot send them
            if endpoint.name in PARAMETERLESS and request.get("json"):
                continue
            if endpoint.name not in PARAMETERLESS and not isinstance(request.get("json"), dict):
                continue
            yield f"{path.stem}-{line['step']}", line


def pytest_generate_tests(metafunc):
    if "exchange" in metafunc.fixturenames:
        found = list(exchanges(metafunc.config.getoption("recordings") or DATA))
        metafunc.parametrize("exchange", [line for _, line in found], ids=[name for name, _ in found])


@pytest.fixture(scope="module")
def recorded():
    broker = RecordedBroker()
    yield broker
    broker.close()


def test_exchange_when_made_by_the_client_then_request_and_reply_as_recorded(recorded, exchange):
    request = expanded(exchange["request"].get("json"))
    name = exchange["request"]["path"][1:]
    recorded.exchange, recorded.asked = exchange, []
    client = BrokerClient(recorded.url, recorded.url, dialect=exchange["dialect"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            answer = CALLS[name](client, request)
    except BrokerRefused as refused:
        assert refused.said.startswith(words(exchange["reply"]))
        assert refused.exception == exchange["reply"].get("exception", "")
        assert not succeeded(exchange)
    except (RequestError, KeyError) as refusal:
        assert not recorded.asked, "refused before sending means nothing was sent"
        assert not succeeded(exchange) or rightly_refused(name, request, exchange, refusal)
        return
    else:
        assert succeeded(exchange)
        check_answer(answer, exchange["reply"])
    method, path, sent = recorded.asked[0]
    assert (method, path) == (exchange["request"]["method"], exchange["request"]["path"])
    check_sent(name, request, sent)


def test_recordings_when_the_server_takes_what_the_client_does_not_then_only_where_it_should(recorded):
    refused = {}
    for name, exchange in exchanges(DATA):
        recorded.exchange, recorded.asked = exchange, []
        client = BrokerClient(recorded.url, recorded.url, dialect=exchange["dialect"])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                CALLS[exchange["request"]["path"][1:]](client, expanded(exchange["request"].get("json")))
        except BrokerRefused:
            pass
        except (RequestError, KeyError) as refusal:
            if succeeded(exchange):
                field = refusal.args[0] if isinstance(refusal, KeyError) else refusal.field
                refused.setdefault(name.rsplit("-", 1)[0], []).append(field)
    assert {name: tuple(fields) for name, fields in refused.items()} == REFUSED_HERE


def succeeded(exchange) -> bool:
    reply = exchange["reply"]
    bare = exchange["dialect"] == "documented" and "status" not in reply and "state" not in reply
    return reply.get("status") == "ok" or bare or "error_files" in reply


def rightly_refused(name: str, request, exchange, refusal: Exception) -> bool:
    """Say whether the client names a field that it checks and the server does not, or one that is missing."""
    if isinstance(refusal, KeyError):  # the documented dialect takes less
        return refusal.args[0] not in request and exchange["dialect"] == "documented"
    return re.split(r"[.\[]", refusal.field)[0] in CHECKED_HERE[name]


def check_sent(name, request, sent) -> None:
    """What was recorded was sent, each source once, empty ones left out, and what the server needs on top."""
    if name in PARAMETERLESS:
        assert sent is None
        return
    if name == "retrieve_from_buffers":
        assert sent.pop("client_request_id")
        request = {key: value for key, value in request.items() if key not in (*SERVER_KEYS, REQUEST_ID)}
        assert sent == {"rate_multiplicator": 1, **without_empty_sources(request)}
        return
    if name == "take_pedestal":
        assert sent.pop("run_log_level") == "INFO"
        assert list(sent.pop("detectors")) == list(request["detectors"])
    if name == "upload_custom_dap_script":
        sent["name"], request = sent["name"].removesuffix(".py"), {**request}
        request["name"] = request["name"].removesuffix(".py")
    if name == "set_pvlist":
        request = {**request, "pv_list": list(dict.fromkeys(request["pv_list"]))}
    assert {key: sent[key] for key in sent if key in request} == {
        key: request[key] for key in request if key in sent
    }
    assert sent.keys() >= set(NEEDED[name]) & request.keys()


_NULL_IS_NONE = ("run_number", "user_tag", "scan_info")


def without_empty_sources(request) -> dict:
    """Return a request for data as the client words it; for most fields null is nothing."""
    request = {key: value for key, value in request.items() if value is not None or key not in _NULL_IS_NONE}
    for key in ("pv_list", "channels_list", "camera_list"):
        request[key] = list(dict.fromkeys(request.get(key) or ()))
    empty = {
        "pv_list": [],
        "channels_list": [],
        "camera_list": [],
        "detectors": {},
        "selected_pulse_ids": [],
        "append_user_tag_to_data_dir": False,
        "user_tag": None,
    }
    return {key: value for key, value in request.items() if not (key in empty and value == empty[key])}


def check_answer(answer, reply) -> None:
    if isinstance(answer, Retrieval):
        assert str(answer.run_number) == reply["run_number"]
        assert str(answer.acquisition_number) == reply["acquisition_number"]
        assert str(answer.unique_acquisition_number) == reply["unique_acquisition_number"]
        assert list(answer.files) == reply["files"]
    elif isinstance(answer, int) and not isinstance(answer, bool):
        assert str(answer) in (str(reply.get("run_number")), str(reply["message"]))
    elif isinstance(answer, float):
        assert f"at least {answer} seconds" in reply["message"] or answer >= 200
