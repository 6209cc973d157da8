"""Every recorded exchange through the client: the same request goes out, the recorded reply comes in typed.

Where the client refuses to send what was recorded, the table below says which field it names.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.errors import BrokerRefused, RequestError
from sfdaq_ophyd.wire.broker import ENDPOINTS
from sfdaq_ophyd.wire.broker_reply import Retrieval
from sfdaq_ophyd.wire.broker_request import RetrieveRequest

from ..sim.broker_recording import expanded, load
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
        list(q["detectors"]),
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

PARAMETERLESS = ("get_allowed_detectors", "get_running_detectors", "get_pvlist")


def exchanges(folder: Path):
    """Yield (id, exchange) of everything the client can be asked to do."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in load(path)[1]:
            request = line.get("request", {})
            endpoint = ENDPOINTS.get(request.get("path", "/")[1:])
            if (
                endpoint is None
                or request["method"] != getattr(endpoint, line["dialect"])
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
    except (RequestError, KeyError):
        assert not recorded.asked, "refused before sending means nothing was sent"
        assert not succeeded(exchange) or legal_but_useless(name, request)
        return
    else:
        assert succeeded(exchange)
        check_answer(answer, exchange["reply"])
    method, path, sent = recorded.asked[0]
    assert (method, path) == (exchange["request"]["method"], exchange["request"]["path"])
    check_sent(name, request, sent)


def succeeded(exchange) -> bool:
    reply = exchange["reply"]
    bare = exchange["dialect"] == "documented" and "status" not in reply and "state" not in reply
    return reply.get("status") == "ok" or bare or "error_files" in reply


def legal_but_useless(name, request) -> bool:
    """Say whether the server takes a request that the client refuses, and why that is right."""
    if name == "set_pvlist":
        return "pv_list" not in request  # the documented dialect erases the list
    if name in ("set_detector_settings", "set_dap_settings"):
        parameters = request.get("parameters", {})
        return not parameters or not set(parameters) <= {"delay", "exptime"} or None in parameters.values()
    if name == "retrieve_from_buffers":
        string_ids = isinstance(request["start_pulseid"], str)
        sources = [request.get(key) for key in ("pv_list", "channels_list", "camera_list", "detectors")]
        null = request.get("detectors") and None in request["detectors"].values()
        rate = request.get("rate_multiplicator", 1)
        no_frame = (
            request["start_pulseid"] // rate == request["stop_pulseid"] // rate if not string_ids else False
        )
        return string_ids or not any(sources) or bool(null) or no_frame
    return False


def check_sent(name, request, sent) -> None:
    """What was recorded was sent, and what today's server needs on top."""
    if name in PARAMETERLESS:
        assert sent is None
        return
    if name == "retrieve_from_buffers":
        assert sent.pop("client_request_id")
        defaults = {"rate_multiplicator": 1}
        empty = {"append_user_tag_to_data_dir": False, "user_tag": None}
        request = {**defaults, **request}
        request = {k: v for k, v in request.items() if not (k in empty and v == empty[k])}
        for key in ("pv_list", "channels_list", "camera_list"):
            if key in request:
                request[key] = list(dict.fromkeys(request[key]))
        request = {k: v for k, v in request.items() if v != [] or k not in ("pv_list", "channels_list")}
    if name == "take_pedestal":
        assert sent["run_log_level"] == "INFO"
        assert list(sent["detectors"]) == list(request["detectors"])
        return
    if name == "set_pvlist":
        request = {"pv_list": list(dict.fromkeys(request["pv_list"]))}
    if name in ("power_on_modules", "upload_custom_dap_script", "copy_user_files"):
        assert sent.keys() >= request.keys()
        return
    assert {key: sent.get(key) for key in request} == request


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
