"""``sfdaq broker`` against the simulated broker."""

from __future__ import annotations

import io
import json
import sys

import pytest

from sfdaq_ophyd.cli import main
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.broker_operations import OPERATIONS

SHOWN = [
    (["get-allowed-detectors"], ["JF01T03V01", "Bernina (1.5M)", "sf-daq-12:5001"]),
    (["get-running-detectors"], ["JF01T03V01", "running", "JF07T32V02", "missing"]),
    (["get-pvlist"], ["SIM:PRESSURE"]),
    (["get-detector-settings", "JF01T03V01"], ["exptime", "5e-06", "dynamic"]),
    (["get-detector-temperatures", "JF01T03V01"], ["TEMPERATURE_ADC", "42"]),
    (["get-detector-status", "JF01T03V01"], ["running: [0, 1, 2]"]),
    (["get-detector-pings", "JF01T03V01"], ["responding: (0, 1, 2)"]),
    (["get-jfctrl-monitor", "JF07T32V02"], ["Humidity [%]"]),
    (["get-jfstats", "JF01T03V01"], ["TEMPERATURE_FPGA"]),
    (["power-off-modules", "JF01T03V01", "2"], ["powered_off: [2]"]),
    (["power-on-modules", "JF01T03V01", "2"], ["powered_on: [2]"]),
    (["power-on-detector", "JF03T01V02"], ["wait a few minutes"]),
    (["set-detector-settings", "JF01T03V01", "exptime=7e-6"], ["exptime", "7e-06"]),
    (["set-dap-settings", "JF01T03V01", "laser_on=true"], ["laser_on", "None", "True"]),
    (["set-dap-settings", "JF01T03V01", "threshold_value=0"], ["threshold_value", "None", "0"]),
    (["set-dap-settings", "JF01T03V01", "threshold_value=NaN"], ["threshold_value", "NaN"]),
    (["set-dap-settings", "JF01T03V01", "custom_script=5"], ["custom_script", "5"]),
    (["get-dap-settings", "JF01T03V01"], ["detector_distance"]),
    (["set-pvlist", "A:B", "C:D"], ["A:B", "C:D"]),
    (["take-pedestal", "p12345", "JF01T03V01", "--rate", "2"], ["wait_at_least_s: 70.0"]),
]


RETRIEVE = "retrieve-from-buffers"


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["broker"], broker_delays=0.0) as facility:
        yield facility


@pytest.fixture
def sfdaq(facility, monkeypatch, capsys):
    """Run ``sfdaq broker ...``; return exit code, standard output and standard error."""
    monkeypatch.setenv("SFDAQ_BROKER_URL", facility.broker.url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["sfdaq", "broker", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


def test_help_when_asked_then_every_call_has_a_subcommand_with_an_example(sfdaq):
    _, listing, _ = sfdaq("--help")
    for endpoint in OPERATIONS:
        command = endpoint.replace("_", "-")
        assert command in listing
        code, text, _ = sfdaq(command, "--help")
        assert code == 0 and f"Example: sfdaq broker {command}" in text


@pytest.mark.parametrize(
    ("arguments", "words"), SHOWN, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_subcommand_when_called_then_shows_the_result(sfdaq, arguments, words):
    code, out, err = sfdaq(*arguments)
    assert code == 0, err
    for word in words:
        assert word in out


@pytest.mark.parametrize("arguments", [shown[0] for shown in SHOWN], ids=lambda arguments: arguments[0])
def test_subcommand_when_asked_for_json_then_one_object(sfdaq, arguments):
    code, out, err = sfdaq(*arguments, "--json")
    assert code == 0, err
    assert isinstance(json.loads(out), dict) and out.count("\n") == 1


def test_table_when_names_look_like_markup_then_shown_as_they_are(facility, sfdaq):
    box = facility.broker.site.hardware["JF07T32V02"]
    box.box = {"Current [mA]": 5}
    assert "Current [mA]" in sfdaq("get-jfctrl-monitor", "JF07T32V02")[1]


def test_detectors_when_the_server_cannot_tell_who_limps_then_said_so(sfdaq):
    with Facility(only=["broker"], broker_dialect="documented", broker_delays=0.0) as documented:
        out = sfdaq("get-running-detectors", "--url", documented.broker.url, "--dialect", "auto")[1]
    assert "JF01T03V01" in out and "does not tell which are limping" in out


def test_detectors_when_some_modules_stopped_then_limping_row_names_them(facility, sfdaq):
    facility.broker.fail_next("limping", modules=[1])
    _, out, _ = sfdaq("get-running-detectors")
    row = next(line for line in out.splitlines() if "limping" in line)
    assert "0, 2" in row and " 1 " in row


def test_retrieve_when_asked_in_json_then_numbers_and_files_come_back(facility, sfdaq):
    _, out, _ = sfdaq("advance-run-number", "p12345", "--json")
    run_number = json.loads(out)["run_number"]
    now = facility.clock.now()
    code, out, err = sfdaq(
        *("retrieve-from-buffers", "p12345", "--first", str(now - 9), "--last", str(now), "--json"),
        *("--run-number", str(run_number), "--pv", "A:B", "--detector", 'JF03T01V02={"adc_to_energy": true}'),
    )
    assert code == 0, err
    reply = json.loads(out)
    assert reply["run_number"] == run_number
    assert [file.rsplit("/", 1)[1] for file in reply["files"]] == [
        "acq0001.PVDATA.h5",
        "acq0001.JF03T01V02.h5",
    ]
    _, out, _ = sfdaq("get-current-run-number", "p12345")
    assert out == f"run_number: {run_number}\n"


def test_retrieve_when_given_a_request_file_then_it_is_sent(facility, sfdaq, tmp_path):
    now = facility.clock.now()
    path = tmp_path / "acq0001.json"
    path.write_text(
        json.dumps({"pgroup": "p12345", "start_pulseid": now - 9, "stop_pulseid": now, "pv_list": ["A"]})
    )
    code, out, err = sfdaq("retrieve-from-buffers", "--request", str(path))
    assert code == 0, err
    assert "acq0001.PVDATA.h5" in out


def test_retrieve_when_reply_is_lost_then_found_below_sf_root(facility, sfdaq):
    facility.broker.fail_next("drop_after", endpoint="retrieve_from_buffers")
    now = str(facility.clock.now())
    code, out, err = sfdaq(
        *("retrieve-from-buffers", "p12345", "--first", now, "--last", now, "--pv", "A", "--json"),
        *("--sf-root", str(facility.broker.root)),
    )
    assert code == 0, err
    assert json.loads(out)["recovered"]


def test_retrieve_when_a_saved_request_is_sent_again_and_gets_lost_then_the_old_one_is_no_proof(
    facility, sfdaq, tmp_path
):
    now, root = facility.clock.now(), facility.broker.root
    body = {"pgroup": "p12345", "start_pulseid": now - 9, "stop_pulseid": now, "pv_list": ["A"]}
    path = tmp_path / "request.json"
    path.write_text(json.dumps(body))
    command = "retrieve-from-buffers", "--sf-root", str(root), "--json", "--request"
    _, out, err = sfdaq(*command, str(path))
    (file,) = json.loads(out)["files"]
    run = root.joinpath(*file.split("/")[2:-2])
    facility.broker.fail_next("drop_before", endpoint="retrieve_from_buffers")
    code, out, err = sfdaq(*command, str(run / "meta" / "acq0001.json"))
    assert code == 1 and not out
    assert "client_request_id" in err


def test_retrieve_when_compression_stands_alone_then_warns_on_standard_error(facility, sfdaq):
    now = str(facility.clock.now())
    code, _, err = sfdaq(
        *("retrieve-from-buffers", "p12345", "--first", now, "--last", now),
        *("--detector", 'JF01T03V01={"compression": true}'),
    )
    assert code == 0 and "never appears" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["advance-run-number", "12345"], "pgroup='12345': expected 'p' and five digits"),
        (["advance-run-number", "p99999"], "ValidationError 'pgroup directory"),
        (["get-detector-settings", "JF1"], "detector_name='JF1'"),
        (["get-detector-settings", "JF15T08V01"], "does not belong to beamline bernina"),
        (["set-detector-settings", "JF01T03V01", "exptime"], "NAME=VALUE"),
        (["set-detector-settings", "JF01T03V01", "gain_mode=bogus"], "one of dynamic, fixed_gain1"),
        (["retrieve-from-buffers", "p12345", "--first", "1"], "stop_pulseid"),
        (["retrieve-from-buffers", "--request", "/no/such/file"], "a readable text file"),
        (["retrieve-from-buffers", "p12345", "--request", "f"], "expected no pgroup beside it"),
        (
            [RETRIEVE, "--request", "f", "--last", "9", "--pv", "A"],
            "no stop_pulseid, pv_list beside",
        ),
        (
            ["retrieve-from-buffers", "--request", "f", "--rate", "2", "--detector", "J"],
            "no rate_multiplicator, det",
        ),
        (
            ["retrieve-from-buffers", "--detector", "J", "--detector", "J={}"],
            "detector='J={}': expected J once",
        ),
        (["set-pvlist"], "--erase"),
        (["set-pvlist", "A:B", "--file", "f"], "expected no A:B beside it"),
        (["close-pgroup-writing", "p12345", "--confirm", "p12346"], "cannot be undone"),
        (["copy-user-files", "p12345", "1", "/sf/none"], "does not exist"),
        (["get-pvlist", "--dialect", "old"], "dialect='old'"),
        (["get-pvlist", "--url", "http://127.0.0.1:1", "--slow-url", "http://127.0.0.1:2"], "not reachable"),
    ],
)
def test_subcommand_when_it_cannot_be_done_then_a_few_clear_lines_and_exit_code_1(sfdaq, arguments, message):
    code, out, err = sfdaq(*arguments)
    assert code == 1 and out == ""
    assert message in err
    assert len(err.strip().splitlines()) <= 5, err


def test_close_when_confirmed_then_closed_for_ever(facility, sfdaq):
    facility.broker.make_pgroup("p54321")
    code, out, _ = sfdaq("close-pgroup-writing", "p54321", "--confirm", "p54321")
    assert (code, out) == (0, "closed: p54321\n")
    assert sfdaq("get-current-run-number", "p54321")[0] == 1


def test_close_when_asked_for_the_pgroup_then_not_on_standard_output(facility, sfdaq, monkeypatch):
    facility.broker.make_pgroup("p54322")
    monkeypatch.setattr("sys.stdin", io.StringIO("p54322\n"))
    code, out, err = sfdaq("close-pgroup-writing", "p54322", "--json")
    assert (code, json.loads(out)) == (0, {"closed": "p54322"})
    assert "Type p54322 once more" in err


def test_upload_and_copy_when_good_then_reported(facility, sfdaq, tmp_path):
    script = tmp_path / "total.py"
    script.write_text("def proc(meta, image, mask):\n    return {'total': float(image[mask].sum())}\n")
    assert sfdaq("upload-custom-dap-script", str(script))[1] == "uploaded: total\n"
    notes = facility.broker.root / "bernina/data/p12345/res/notes.txt"
    notes.parent.mkdir()
    notes.write_text("x")
    now = facility.clock.now()
    sfdaq("retrieve-from-buffers", "p12345", "--first", str(now), "--last", str(now), "--pv", "A")
    run_number = int(sfdaq("get-current-run-number", "p12345", "--json")[1].split(":")[1].strip(" }\n"))
    code, out, err = sfdaq(
        "copy-user-files", "p12345", str(run_number), "/sf/bernina/data/p12345/res/notes.txt"
    )
    assert code == 0, err
    assert "aux/notes.txt" in out
