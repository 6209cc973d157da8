"""Which check comes first, and what is left behind, where no recording shows it; both dialects."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.broker_operations import OPERATIONS

from .broker_http import ask, get, post

JF, OFF = "JF01T03V01", "JF03T01V02"
STRANGER, DIAVOLEZZA = "10.20.30.40", "129.129.245.7"


@pytest.fixture(scope="module")
def facilities():
    with (
        Facility(only=["broker"], broker_delays=0.0) as current,
        Facility(only=["broker"], broker_dialect="documented", broker_delays=0.0) as documented,
    ):
        yield {"current": current.broker, "documented": documented.broker}


@pytest.fixture
def current(facilities):
    yield facilities["current"]
    facilities["current"].site.faults.clear()


@pytest.fixture
def documented(facilities):
    return facilities["documented"]


def settings(broker, parameters, detector=JF):
    body = {"detector_name": detector, "parameters": parameters}
    return post(broker.slow_url, "set_detector_settings", body)


@pytest.mark.parametrize(
    ("body", "address", "exception"),
    [
        ({"pgroup": "p12345", "detectors": None}, None, "TypeError"),
        ({"pgroup": "p12345", "detectors": {}}, DIAVOLEZZA, "RuntimeError"),
        ({"pgroup": "p12345", "detectors": {}}, STRANGER, "ValueError"),
        ({"detectors": {}}, STRANGER, "ValidationError"),
    ],
)
def test_pedestal_when_refused_then_the_first_reason_counts(current, body, address, exception):
    assert post(current.url, "take_pedestal", body, address=address)["exception"] == exception


@pytest.mark.parametrize(
    ("endpoint", "missing"),
    [
        ("set_detector_settings", "parameters"),
        ("set_dap_settings", "parameters"),
        ("power_on_modules", "modules"),
        ("power_off_modules", "modules"),
    ],
)
def test_slow_call_when_all_is_missing_then_the_detector_is_asked_for_last(current, endpoint, missing):
    reply = post(current.slow_url, endpoint, {"x": 1}, address=STRANGER)
    assert reply["message"] == f'no "{missing}" provided in the request parameters'
    reply = post(current.slow_url, endpoint, {missing: []}, address=STRANGER)
    assert reply["message"] == 'no "detector_name" provided in the request parameters'


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS.values() if one.needs], ids=lambda one: one.name
)
def test_call_when_a_key_of_the_table_is_missing_then_refused_in_its_order(current, operation):
    url, body = current.url if operation.service == "broker" else current.slow_url, {"x": 1}
    for key in operation.needs.split():
        reply = ask(operation.current, url, operation.name, body, address=STRANGER)
        assert reply["message"] == f'no "{key}" provided in the request parameters'
        body[key] = []


def test_settings_when_modules_differ_in_detector_mode_then_an_error(current):
    current.site.hardware[JF].modules[1].detector_mode = "low_noise"
    assert get(current.slow_url, "get_detector_settings", {"detector_name": JF})["exception"] == "TypeError"
    current.site.hardware[JF].modules[1].detector_mode = "normal"


def test_script_when_its_name_has_a_directory_then_refused_whatever_directory(current):
    for name, directory in {"/x": "/", "a/b.py": "a"}.items():
        body = {"name": name, "code": "def proc(meta, image, mask): return 1"}
        message = post(current.slow_url, "upload_custom_dap_script", body)["message"]
        assert message == f'name "{name}" contains directory information "{directory}"'


def test_settings_when_no_dictionary_then_refused_before_the_trigger_stops(current):
    assert settings(current, ["delay"])["exception"] == "AttributeError"
    assert current.trigger.value == 254


def test_settings_when_nothing_is_named_then_ok_even_of_an_unconfigured_detector(current):
    assert settings(current, {"threshold": 3, "delay": None}, OFF)["changed_parameters"] == {}
    assert current.trigger.value == 254


@pytest.mark.parametrize(
    ("exptime", "exception"),
    [("5e-6", "TypeError"), ([5e-6], "TypeError"), (-1, "RuntimeError"), (True, None)],
)
def test_settings_when_a_time_is_odd_then_as_the_detector_library_takes_it(current, exptime, exception):
    reply = settings(current, {"exptime": exptime})
    assert reply.get("exception") == exception
    assert current.trigger.value == (254 if exception is None else 255)
    settings(current, {"exptime": 5e-6})


def test_settings_when_named_of_an_unconfigured_detector_then_the_trigger_stays_off(current):
    assert settings(current, {"delay": 0.001}, OFF)["message"] == "No modules added"
    assert current.trigger.value == 255
    settings(current, {})
    assert current.trigger.value == 254


def test_modules_when_wrong_and_unconfigured_then_the_numbers_are_checked_first(current):
    body = {"detector_name": OFF, "modules": [1]}
    assert post(current.slow_url, "power_on_modules", body)["exception"] == "ValidationError"


def test_copy_when_a_directory_or_the_copy_itself_then_the_systems_words(current):
    raw = current.make_pgroup("p70001")
    (raw / "run0001/aux").mkdir(parents=True)
    (raw / "run0001/aux/a.txt").write_text("a")
    aux = "/sf/bernina/data/p70001/raw/run0001/aux"
    body = {"pgroup": "p70001", "run_number": 1, "files": [aux, f"{aux}/a.txt"]}
    assert post(current.slow_url, "copy_user_files", body)["error_files"] == {
        aux: f"[Errno 21] Is a directory: '{aux}'",
        f"{aux}/a.txt": f"'{aux}/a.txt' and '{aux}/a.txt' are the same file",
    }
    assert (raw / "run_info").is_dir()
    assert (raw / "run0001/aux/a.txt").read_text() == "a"


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        ("import no_such_module\ndef proc(meta, image, mask): return 1", "ModuleNotFoundError"),
        ("from no_such_module import x\ndef proc(meta, image, mask): return 1", "ModuleNotFoundError"),
        ("def proc(meta, image, mask):\n    while True:\n        pass", "TimeoutError"),
        ("def other(meta, image, mask): return 1", "AttributeError"),
        ("def proc(meta, image, mask):\n    import no_such_module", None),
        ("def proc(meta, image, mask):\n    while True:\n        return 1", None),
        ("import math\nproc = lambda meta, image, mask: math.pi", None),
    ],
)
def test_script_when_tried_then_only_what_the_server_notices_is_refused(current, code, exception):
    reply = post(current.slow_url, "upload_custom_dap_script", {"name": "mine", "code": code})
    assert reply.get("exception") == exception


def test_jfstats_when_there_is_a_control_box_then_its_values_and_whether_module_0_writes(current):
    box, body = current.site.hardware["JF07T32V02"], {"det": "JF07T32V02"}
    box.configured = True
    current.site.hardware.write_latest("JF07T32V02", 0)
    reply = get(current.slow_url, "get_jfstats", body)
    assert reply["writing"] is True and reply["parameters"] == box.box
    assert reply["message"].endswith("JFCtrl monitor parameters and temperatures from JF07T32V02")
    box.box_failure = TimeoutError("timed out")
    assert get(current.slow_url, "get_jfstats", body)["exception"] == "TimeoutError"
    box.box_failure, box.configured = None, False


def test_script_when_a_stranger_sends_it_then_refused_before_it_is_read(current):
    body = {"name": "mine", "code": "def proc(:"}
    reply = post(current.slow_url, "upload_custom_dap_script", body, address=STRANGER)
    assert reply["exception"] == "ValueError"


@pytest.mark.parametrize("address", [STRANGER, DIAVOLEZZA, "129.129.243"])
@pytest.mark.parametrize("service", ["url", "slow_url"])
def test_documented_when_a_stranger_asks_then_refused_before_the_request_is_looked_at(
    documented, service, address
):
    endpoint = {"url": "take_pedestal", "slow_url": "get_dap_settings"}[service]
    reply = post(getattr(documented, service), endpoint, {"x": 1}, address=address)
    assert reply["message"] == "can not determine from which console request came, rejected"


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"x": 1}, {"status": "failed", "message": "no detectors defined"}),
        (
            {"detectors": {"JF15T08V01": {}}},
            {"status": "failed", "message": "JF15T08V01 not belongs to the bernina"},
        ),
        ({"detectors": {JF: {}}}, {"status": "failed", "message": "no pgroup in request parameters"}),
        ({"detectors": []}, {"state": "error", "status": "'list' object has no attribute 'keys'"}),
        (["detectors"], {"state": "error", "status": "'list' object has no attribute 'get'"}),
    ],
)
def test_documented_pedestal_when_refused_then_the_pgroup_is_looked_for_last(documented, body, reply):
    assert post(documented.url, "take_pedestal", body) == reply


@pytest.mark.parametrize("name", [None, ""])
def test_documented_detector_when_empty_then_as_if_missing(documented, name):
    expected = {"status": "failed", "message": "no detector name in the request"}
    assert post(documented.url, "power_on_detector", {"detector_name": name}) == expected
    assert post(documented.slow_url, "get_detector_settings", {"detector_name": name}) == expected


def test_documented_copy_when_refused_then_closed_before_run_number_before_run(documented):
    def message(**fields):
        return post(documented.slow_url, "copy_user_files", {"x": 1, **fields})["message"]

    raw = documented.make_pgroup("p70002")
    assert message() == "no pgroup in request parameters"
    assert message(pgroup="p99999", run_number=None) == "no run_number in request parameters"
    assert message(pgroup="p99999", run_number=1) == "no such run 1 in the pgroup"
    (raw / "run_info").mkdir()
    (raw / "run_info/CLOSED").write_text("")
    assert message(pgroup="p70002") == "/sf/bernina/data/p70002/raw/ is closed for writing"


def test_documented_copy_when_a_file_is_named_twice_then_listed_twice(documented):
    raw = documented.make_pgroup("p70003")
    (raw / "run0001").mkdir()
    (raw / "a.txt").write_text("a")
    file, missing = "/sf/bernina/data/p70003/raw/a.txt", "/sf/none"
    body = {"pgroup": "p70003", "run_number": 1, "files": [file, missing, file, missing]}
    reply = post(documented.slow_url, "copy_user_files", body)
    assert reply["destination_file_path"] == ["/sf/bernina/data/p70003/raw/run0001/aux/a.txt"] * 2
    assert reply["error_files"] == [missing] * 2


def test_documented_dap_when_null_or_without_parameters_then_a_new_key_or_nothing(documented):
    def message(**fields):
        return post(documented.slow_url, "set_dap_settings", {"detector_name": JF, **fields})["message"]

    assert message() == {}
    assert message(parameters={"fresh": None}) == {"fresh": [None, None]}
    assert message(parameters={"fresh": None}) == {}


def test_documented_settings_when_unknown_or_zero_then_passed_over(documented):
    before = post(documented.slow_url, "get_detector_settings", {"detector_name": JF})
    odd = {"gain_mode": "bogus", "detector_mode": "bogus", "exptime": 0, "delay": None}
    assert post(documented.slow_url, "set_detector_settings", {"detector_name": JF, **odd}) == {
        "status": "ok"
    }
    assert post(documented.slow_url, "get_detector_settings", {"detector_name": JF}) == before
    assert documented.trigger.value == 254


def test_documented_settings_when_a_value_fails_then_those_before_it_stay_and_the_trigger_is_off(documented):
    odd = {"exptime": 6e-6, "delay": "long"}
    assert (
        post(documented.slow_url, "set_detector_settings", {"detector_name": JF, **odd})["state"] == "error"
    )
    assert documented.trigger.value == 255
    good = {"detector_name": JF, "exptime": 5e-6}
    assert documented.site.hardware[JF].readback("exptime") == 6e-6
    assert post(documented.slow_url, "set_detector_settings", good) == {"status": "ok"}
    assert documented.trigger.value == 254


def test_documented_settings_when_the_trigger_does_not_stop_then_failed(documented):
    documented.fail_next("trigger_stuck")
    reply = post(documented.slow_url, "set_detector_settings", {"detector_name": JF, "exptime": 6e-6})
    assert reply == {"status": "failed", "message": "tried to stop detector trigger but failed"}


def test_documented_settings_when_modules_differ_in_a_mode_then_an_error(documented):
    documented.site.hardware[JF].modules[1].gain_mode = "fixed_gain1"
    assert post(documented.slow_url, "get_detector_settings", {"detector_name": JF})["state"] == "error"
    documented.site.hardware[JF].modules[1].gain_mode = "dynamic"


def test_documented_pvlist_when_set_then_alvras_pulse_id_stands_beside_it(documented):
    post(documented.url, "set_pvlist", {"pv_list": ["A"]})
    path = "/home/dbe/service_configs/sf.bernina.epics_buffer.json"
    stored = documented.site.tree.read_json(path)
    assert stored == {"pulse_id_pv": "SLAAR11-LTIM01-EVR0:RX-PULSEID", "pv_list": ["A"]}
    assert get(documented.url, "get_pvlist") == {"pv_list": ["A"]}
