"""Any arguments, any replies, any refusal: the client answers, or raises one of its own errors."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.errors import BrokerRefused, RequestError, SfdaqError, UnknownOutcome

from .recorded_broker import RecordedBroker
from .test_broker_recordings import CALLS

JF = "JF01T03V01"
GOOD = {
    "pgroup": "p12345",
    "detector_name": JF,
    "det": JF,
    "modules": [0],
    "run_number": 1,
    "files": [],
    "parameters": {"exptime": 1e-6},
    "name": "mine",
    "code": "def proc(meta, image, mask): pass",
    "pv_list": ["A"],
    "detectors": {JF: {}},
    "start_pulseid": 1000,
    "stop_pulseid": 1009,
}
FIELDS = (
    *GOOD,
    *("rate_multiplicator", "user_tag", "append_user_tag_to_data_dir", "scan_info", "selected_pulse_ids"),
    *("channels_list", "camera_list", "pedestalmode", "client_name"),
)
REPLY_KEYS = (
    *("message", "run_number", "acquisition_number", "unique_acquisition_number", "files", "detectors"),
    *("names", "descriptions", "visualisation_address", "running_detectors", "missing_detectors"),
    *("limping_detectors", "pv_list", "parameters", "changed_parameters", "detector_status", "temperatures"),
    *("pings", "writing", "destination_files", "error_files", "destination_file_path", "exptime"),
)
INNER_KEYS = (
    *(JF, "JF06T08V07", "roi", "downsample", "factor", "gain_mode", "exptime", "roi_x1", "disabled_modules"),
    *("custom_script", "running_modules", "missing_modules", "responding", "unreachable", "idle", "x"),
)
WORDS = ("", "p12345", JF, "JF99T00V00", "a", "proc", "1", "C:FPICTURE", "dynamic")
LEAVES = st.none() | st.booleans() | st.integers(-5, 70_000) | st.floats() | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER_KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
few = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def recorded():
    broker = RecordedBroker()
    yield broker
    broker.close()


def answer(recorded, reply) -> None:
    headers = {"Content-Type": "application/json"}
    recorded.exchange, recorded.asked = {"reply": reply, "headers": headers, "status_code": 200}, []


@few
@given(st.sampled_from(sorted(CALLS)), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_call_when_its_arguments_are_anything_then_sent_or_refused_with_the_field(recorded, name, fields):
    answer(recorded, {"status": "error", "message": "no", "exception": "ValidationError"})
    client = BrokerClient(recorded.url, recorded.url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            CALLS[name](client, {**GOOD, **fields})
        except BrokerRefused:
            assert recorded.asked
        except RequestError:
            assert not recorded.asked


@few
@given(
    st.sampled_from(sorted(CALLS)),
    st.sampled_from(("current", "documented")),
    st.sampled_from(({}, {"status": "ok"}, {"status": "error"})),
    st.dictionaries(st.sampled_from(REPLY_KEYS), VALUES, max_size=4),
)
def test_call_when_its_reply_is_anything_then_answered_or_an_error_of_ours(
    recorded, name, dialect, status, reply
):
    answer(recorded, {**status, **reply})
    try:
        CALLS[name](BrokerClient(recorded.url, recorded.url, dialect=dialect), GOOD)
    except SfdaqError as exc:
        assert str(exc)


@pytest.mark.parametrize("name", ["advance_run_number", "retrieve_from_buffers", "set_detector_settings"])
def test_call_when_ok_comes_without_what_was_asked_then_unknown_outcome_if_it_must_not_be_repeated(
    recorded, name
):
    answer(recorded, {"status": "ok", "message": "fine"})
    fields = {"pgroup": "p12345"} if name == "advance_run_number" else GOOD
    with pytest.raises(UnknownOutcome, match="expected"):
        CALLS[name](BrokerClient(recorded.url, recorded.url), fields)
    assert len(recorded.asked) == 1


@pytest.mark.parametrize(
    ("code", "exception", "message", "nothing_done"),
    [
        (502, "", "Bad Gateway", False),
        (404, "", "Not Found", True),
        (200, "ValueError", "cannot match requester network IP 10.20.30.40 to beamline", True),
        (200, "RuntimeError", "no detectors configured for beamline diavolezza", True),
        (200, "ValidationError", "anything", True),
        (200, "TypeError", "anything", False),
        (200, "AMQPConnectionError", "", False),
    ],
)
def test_refusal_when_read_then_says_whether_anything_was_done(
    recorded, code, exception, message, nothing_done
):
    reply = {"status": "error", "message": message, "exception": exception}
    recorded.exchange = {"reply": reply, "headers": {"Content-Type": "application/json"}, "status_code": code}
    with BrokerClient(recorded.url, recorded.url) as client, pytest.raises(BrokerRefused) as refused:
        client.advance_run_number("p12345")
    assert refused.value.nothing_done is nothing_done
