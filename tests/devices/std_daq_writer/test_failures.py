"""Everything that can go wrong with an acquisition, named at the device; what is left behind."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.clients import StdDaqAdminException
from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer import _control, _rest_control
from sfdaq_ophyd.devices.std_daq_writer._control import DoubleStart, WriterFailed, WriterNotReady
from sfdaq_ophyd.devices.std_daq_writer._rest_control import RestControl
from sfdaq_ophyd.errors import ServiceUnreachable
from sfdaq_ophyd.wire.std_daq import DaqStatus, WriteRequest, WriterState

from ...http_peer import relay
from .documents import both_controls, both_dialects, images_of, run


@pytest.fixture
def stops(writer, monkeypatch):
    """Every stop the device sends."""
    sent, stop = [], writer.source.control.writer.stop
    monkeypatch.setattr(writer.source.control.writer, "stop", lambda: sent.append(1) or stop())
    return sent


@both_dialects
def test_stage_when_somebody_else_writes_then_it_is_refused_and_left_alone(daq, writer, tmp_path):
    theirs = {"output_file": str(tmp_path / "theirs.h5"), "n_images": 10_000, "run_id": 5}
    writer.client.start_writer_async(theirs)
    with pytest.raises(Exception, match="somebody else is writing.*run_id 5"):
        run(bp.count([writer], 1))
    assert daq.service.status()["state"] == "WRITING"
    writer.client.stop_writer()


@both_dialects
def test_trigger_when_the_detector_sends_too_few_then_the_status_says_so_and_the_writer_is_ready(daq, writer):
    writer.timeout.put(4.0)
    writer.frames_per_trigger.put(5)
    daq.fail_next("fewer_images", n=2)
    documents, error = run(bp.count([writer], 1))
    assert re.search(
        r"writer: 2 of 5 frames came; no image written to .* the detector sends no images", str(error)
    )
    assert documents["stop"][0]["exit_status"] == "fail"
    assert "2 of 5 frames came" in documents["stop"][0]["reason"]
    assert "stream_resource" not in documents
    (file,) = writer.directory.glob("*.h5")
    assert str(file) in str(error), "the file is the DAQ's and stays; the documents name it"
    assert writer.unused.get() == str(file)


def test_trigger_when_somebody_stops_our_acquisition_then_the_daq_is_quoted(daq, writer):
    writer.frames_per_trigger.put(50)
    daq.fail_next("stopped_by_other", after=5)
    _, error = run(bp.count([writer], 1))
    assert re.search(r"of 50 frames came; the DAQ ended .* with 'Interrupted.'", str(error))


@both_dialects
def test_trigger_when_the_file_cannot_be_created_then_the_daqs_words_are_in_the_reason(daq, writer):
    run(bp.count([writer], 1))  # an earlier acquisition: without one the newer dialect is silent for 5 s
    daq.fail_next("creation_error")
    documents, error = run(bp.count([writer], 1))
    assert "ERROR: Cannot create output file." in documents["stop"][0]["reason"]
    _, error = run(bp.count([writer], 1))
    assert error is None


@both_dialects
def test_trigger_when_the_folder_is_hidden_then_each_generation_says_from_whom(daq, writer):
    whose = {
        "flask": "that was configured when the service started",
        "fastapi": "the account of the service",
    }[daq.settings.dialect]
    daq.fail_next("hidden_folder")
    _, error = run(bp.count([writer], 1))
    assert re.search(f"Please create it first.'; if it is there, .*{whose}", str(error))
    assert writer.source.control.dialect == daq.settings.dialect


@pytest.mark.parametrize("daq", ["fastapi"], indirect=True)
def test_trigger_when_the_first_file_cannot_be_created_then_the_newer_dialect_is_known_not_to_say_so(
    daq, writer, monkeypatch
):
    monkeypatch.setattr(_rest_control, "SETTLE", 0.1)
    daq.fail_next("rest_restarts")
    for _ in range(2):
        daq.fail_next("creation_error")
    _, error = run(bp.count([writer], 1))
    assert "before its first acquisition it does not say that it cannot create the file" in str(error)


@both_dialects
def test_stage_when_the_last_error_is_still_shown_then_it_is_cleared_once(daq, writer, tmp_path, stops):
    run(bp.count([writer], 1))
    assert stops == [], "a writer that is READY is not stopped"
    daq.fail_next("creation_error")
    with pytest.raises(StdDaqAdminException):
        writer.client.start_writer_async({"output_file": str(tmp_path / "theirs.h5"), "n_images": 1})
    documents, error = run(bp.count([writer], 2))
    assert error is None and len(documents["event"]) == 2 and len(stops) == 1


@both_dialects
def test_trigger_when_a_start_is_a_ghost_then_it_is_stopped_and_started_again(
    daq, writer, tmp_path, stops, caplog, monkeypatch
):
    monkeypatch.setattr(_rest_control, "SETTLE", 30.0)  # it is watched for as long as a busy machine takes
    writer.frames_per_trigger.put(200)  # a single image may be over before the service looks: a missed start
    writer.stage()
    writer.trigger().wait(60)
    daq.fail_next("creation_error")
    with pytest.raises(StdDaqAdminException):
        writer.client.start_writer_async({"output_file": str(tmp_path / "theirs.h5"), "n_images": 1})
    daq.fail_next("slow_creation", seconds=0.4)
    writer.trigger().wait(60)
    assert "ghost start: ERROR: Cannot create output file." in caplog.text
    assert writer.read()["writer_n_completed"]["value"] == 200 and len(stops) == 1
    writer.unstage()


@both_dialects
def test_trigger_when_a_ghost_start_is_slower_than_it_is_watched_then_it_is_ended_all_the_same(
    daq, writer, tmp_path, monkeypatch, wait_for
):
    writer.frames_per_trigger.put(200)
    writer.stage()
    writer.trigger().wait(60)
    daq.fail_next("creation_error")
    with pytest.raises(StdDaqAdminException):
        writer.client.start_writer_async({"output_file": str(tmp_path / "theirs.h5"), "n_images": 1})
    daq.fail_next("slow_creation", seconds=0.45)
    with monkeypatch.context() as patch:
        patch.setattr(RestControl, "_began_all_the_same", lambda control, request: False)
        with pytest.raises(WriterFailed, match="Cannot create output file.*of an earlier start"):
            writer.trigger().wait(60)

    def ended():
        status = daq.service.status()
        ours = str(status["acquisition"]["info"]["run_id"]) == writer.run_id.get()
        return ours and status["state"] == "READY"

    wait_for(ended, "the end of what was created late")
    assert daq.service.status()["acquisition"]["message"] == "Interrupted."
    writer.trigger().wait(60)
    writer.unstage()


def test_unstage_when_a_start_comes_up_after_it_was_looked_for_then_the_next_one_stops_it():
    """As after an error about another start, or a reply that was lost."""
    ours, sent = WriteRequest("/data/x.h5", 5, 7), []
    theirs = {"state": "FINISHED", "message": "Completed.", "stats": {}}
    theirs["info"] = {"n_images": 1, "output_file": "/data/theirs.h5", "run_id": 1}
    running = {**theirs, "state": "WAITING_IMAGES", "message": "", "info": ours.to_dict()}
    stopped = {**running, "state": "FINISHED", "message": "Interrupted."}
    shown = [("READY", theirs), ("WRITING", running)]

    class Client:
        def status(self):
            state, acquisition = shown.pop(0)
            return DaqStatus.from_dict({"state": state, "acquisition": acquisition})

        def stop(self):
            sent.append("stop")
            return DaqStatus.from_dict({"state": "READY", "acquisition": stopped})

    control = RestControl("writer", Client(), "flask", lambda writing: None)
    control._ours = ours
    for n_stops in (0, 1, 1):
        control.leave_ready()
        assert len(sent) == n_stops


def test_looks_when_an_older_answer_comes_last_then_the_newer_one_stays():
    """A poll of one thread whose answer is late, and looks, or a stop, of another meanwhile."""
    shown, late = [], []
    old, new = ({"state": state, "acquisition": None} for state in ("WRITING", "READY"))

    class Client:
        def status(self):
            if late:
                late.pop()()  # another thread looks, and has its answer first
                return DaqStatus.from_dict(old)
            return DaqStatus.from_dict(new)

        def stop(self):
            return DaqStatus.from_dict(new)

    control = RestControl("writer", Client(), "flask", lambda writing: shown.append(writing.writer_state))
    for meanwhile in (control._status, control._stop):
        shown.clear()
        late.append(meanwhile)
        control._status()
        assert shown == ["READY"]
    control._status()
    assert shown == ["READY", "READY"], "one asked for later is shown"


def test_stop_when_a_look_of_meanwhile_was_answered_first_then_what_it_came_to_is_shown():
    shown = []

    class Client:
        def status(self):
            return DaqStatus.from_dict({"state": "WRITING", "acquisition": None})

        def stop(self):
            control._status()
            return DaqStatus.from_dict({"state": "READY", "acquisition": None})

    control = RestControl("writer", Client(), "flask", lambda writing: shown.append(writing.writer_state))
    control._stop()
    assert shown == ["WRITING", "READY"]


def test_stage_when_the_first_start_since_the_boot_failed_then_its_error_is_cleared(
    daq, writer, tmp_path, stops, caplog
):
    daq.fail_next("rest_restarts")
    writer.client.stop_writer()
    daq.fail_next("creation_error")
    with pytest.raises(StdDaqAdminException):
        writer.client.start_writer_async({"output_file": str(tmp_path / "theirs.h5"), "n_images": 1})
    del stops[:]
    daq.fail_next("slow_creation", seconds=0.1)
    writer.frames_per_trigger.put(50)
    _, error = run(bp.count([writer], 1))
    assert error is None and len(stops) == 1 and "ghost start" not in caplog.text


def test_trigger_when_two_start_at_once_then_the_loser_is_told_and_leaves_nothing_running(
    daq, writer, tmp_path, wait_for, monkeypatch
):
    """Both find the DAQ READY, ours is carried out first, and both are told ok."""
    theirs = {"output_file": str(tmp_path / "theirs.h5"), "n_images": 10_000, "run_id": 4711}
    told, both_asked, ours_asked = [], threading.Barrier(2), threading.Event()
    carry_out = daq.service._driver.force_start

    def start(info):
        both_asked.wait(60)
        if info["run_id"] == 4711:
            assert ours_asked.wait(60)
            return carry_out(info)
        order = carry_out(info)
        ours_asked.set()
        wait_for(lambda: daq.service.status()["acquisition"]["info"].get("run_id") == 4711, "their start")
        return order

    monkeypatch.setattr(daq.service._driver, "force_start", start)
    monkeypatch.setattr(_rest_control, "SETTLE", 0.3)
    writer.stage()
    other = threading.Thread(target=lambda: told.append(writer.client.start_writer_async(theirs)))
    other.start()
    with pytest.raises(DoubleStart, match="somebody else started at the same moment") as caught:
        writer.trigger().wait(60)
    other.join()
    assert "run_id 4711" in str(caught.value) and told[0]["state"] == "WRITING"
    writer.unstage()
    assert writer.client.status().acquisition.run_id == 4711, "nothing of ours is left running"
    writer.client.stop_writer()


@both_dialects
def test_trigger_when_somebody_else_starts_meanwhile_then_it_is_told_and_left_alone(daq, writer):
    writer.frames_per_trigger.put(1000)
    daq.fail_next("restarted_by_other", after=3)
    _, error = run(bp.count([writer], 1))
    assert re.search("somebody else started while .* was written: WRITING .*run_id 4711", str(error))
    assert daq.service.status()["state"] == "WRITING"
    writer.client.stop_writer()


@both_dialects
def test_trigger_when_creation_is_slow_then_it_is_named_and_nothing_runs(daq, writer, monkeypatch):
    given_up, send, explain = threading.Event(), daq.service.writer.send, RestControl._explain

    def late(command):
        assert command["do"] != "start" or given_up.wait(60)
        send(command)

    monkeypatch.setattr(daq.service.writer, "send", late)
    monkeypatch.setattr(RestControl, "_explain", lambda *args: given_up.set() or explain(*args))
    monkeypatch.setattr(_rest_control, "SETTLE", 30.0)
    daq.fail_next("slow_creation", seconds=1.0)
    _, error = run(bp.count([writer], 1))
    assert "took longer than the service waits" in str(error)


def test_trigger_when_the_start_is_missed_then_it_is_named_and_repeated_once(
    daq, writer, caplog, monkeypatch
):
    monkeypatch.setattr(_rest_control, "SETTLE", 0.1)
    daq.fail_next("missed_writing", seconds=60)  # ends as soon as all is over
    documents, error = run(bp.count([writer], 1))
    assert error is None and len(documents["event"]) == 1
    assert "ended before the service looked" in caplog.text
    for _ in range(2):
        daq.fail_next("missed_writing", seconds=60)
    _, error = run(bp.count([writer], 1))
    assert "ended before the service looked" in str(error)


@both_controls
@pytest.mark.usefixtures("stops_are_answered")
def test_retake_when_images_stall_then_the_point_is_taken_again(daq, writer):
    writer.timeout.put(4.0)
    writer.loss_policy.put("retake")
    writer.frames_per_trigger.put(4)
    daq.fail_next("stall", after=2)
    documents, error = run(bp.count([writer], 2))
    assert error is None and len(images_of(documents)) == 8


@both_dialects
def test_stage_when_the_service_was_restarted_then_unknown_is_reset_once(daq, writer, stops):
    daq.fail_next("rest_restarts")
    assert daq.service.status()["state"] == "UNKNOWN"
    _, error = run(bp.count([writer], 1))
    assert error is None and len(stops) == 1


@both_dialects
def test_trigger_when_the_service_restarts_meanwhile_then_the_record_is_lost_and_named(daq, writer, wait_for):
    writer.frames_per_trigger.put(1000)
    writer.stage()
    status = writer.trigger()
    wait_for(lambda: writer.n_completed.get() > 0, "images")
    daq.fail_next("rest_restarts")
    wait_for(lambda: status.done, "failure")
    assert "the DAQ lost the acquisition" in str(status)
    writer.unstage()
    assert daq.service.status()["state"] == "READY"


@pytest.mark.parametrize("verb", ["stop", "pause", "unstage"])
def test_start_when_it_hangs_and_is_given_up_then_it_ends_and_is_stopped_once_it_is_answered(
    daq, writer, monkeypatch, wait_for, caplog, verb
):
    monkeypatch.setattr(_control, "REACTION", 0.1)
    asked, go_on, start = threading.Event(), threading.Event(), writer.client.start
    monkeypatch.setattr(
        writer.client, "start", lambda request: asked.set() or go_on.wait(60) and start(request)
    )
    writer.frames_per_trigger.put(10_000)
    writer.stage()
    status = writer.trigger()
    assert asked.wait(120)
    with contextlib.suppress(WriterNotReady):
        getattr(writer, verb)()
    assert status.done, "what hangs is given up without waiting for its end"
    assert "what the DAQ was asked is not answered yet; once it is, the writer is stopped" in caplog.text
    if verb == "pause":
        writer.resume()
        status = writer.trigger()
        writer.stop()
        assert status.done, "nor is the one after it waited for"
    with contextlib.suppress(WriterNotReady):
        writer.unstage()
    go_on.set()
    wait_for(writer.source.control._aside_is_over.is_set, "the stop of what comes late")
    now = daq.service.status()
    assert (now["state"], now["acquisition"]["message"]) == ("READY", "Interrupted.")
    assert now["acquisition"]["info"]["n_images"] == 10_000
    writer.frames_per_trigger.put(1)
    assert run(bp.count([writer], 1))[1] is None


@both_dialects
def test_abort_when_it_comes_at_any_time_then_unstage_twice_leaves_it_ready(daq, writer):
    for _ in range(2):
        writer.frames_per_trigger.put(100_00)
        writer.stage()
        status = writer.trigger()
        writer.unstage()
        writer.unstage()
        assert status.done
        assert daq.service.status()["state"] == "READY"


@pytest.mark.parametrize("n_lost", [10, 10**9])
def test_point_when_the_service_is_away_then_it_goes_on_or_is_told_once_that_took_long(
    writer, monkeypatch, n_lost
):
    monkeypatch.setattr(_control, "AWAY_LIMIT", 30.0 if n_lost == 10 else 0.1)
    lost, read = itertools.count(), writer.client.status

    def status():
        found = read()
        if found.state is WriterState.WRITING and found.acquisition.n_completed and next(lost) < n_lost:
            raise ServiceUnreachable("status", url=writer.client.url, reason="refused")
        return found

    monkeypatch.setattr(writer.client, "status", status)
    writer.frames_per_trigger.put(50 if n_lost == 10 else 10_000)
    documents, error = run(bp.count([writer], 1))
    if n_lost == 10:
        assert error is None and len(images_of(documents)) == 50
    else:
        assert "the DAQ is gone while" in str(error)
        monkeypatch.setattr(writer.client, "status", read)


@pytest.fixture
def gateway(daq):
    """A gateway before the DAQ: its address, and its answers to come in place of those to the status."""
    answers = []

    def hook(path, forward):
        return answers.pop(0) if path == "/writer/status" and answers else forward()

    with relay(daq.url, hook) as url:
        yield url, answers


NO_ANSWERS = [(502, "text/html", b"Bad Gateway"), (200, "application/json", b'{"status": "o')]


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=["502", "half"])
def test_point_when_a_gateway_has_no_answer_for_a_moment_then_it_goes_on(
    rest_writer, tmp_path, gateway, answer, monkeypatch
):
    monkeypatch.setattr(_control, "AWAY_LIMIT", 30.0)
    url, answers = gateway
    device = StdDaqWriter(url, name="writer", directory=tmp_path / "raw")
    device.timeout.put(30.0)
    device.frames_per_trigger.put(50)
    out = iter([[answer] * 4])
    device.n_completed.subscribe(lambda value, **_: value and answers.extend(next(out, [])), run=False)
    documents, error = run(bp.count([device], 1))
    assert error is None and len(images_of(documents)) == 50 and next(out, None) is None and not answers


@pytest.mark.parametrize("answer", [*NO_ANSWERS, None], ids=["502", "half", "hung up"])
def test_unstage_when_the_reply_to_the_stop_is_lost_then_that_is_logged_and_the_next_one_stops_what_is_ours(
    daq, rest_writer, tmp_path, answer, wait_for, caplog
):
    lost = threading.Event()

    def hook(path, forward):
        return answer if path == "/writer/stop" and lost.is_set() else forward()

    with relay(daq.url, hook) as url:
        device = StdDaqWriter(url, name="writer", directory=tmp_path / "raw")
        device.frames_per_trigger.put(10_000)
        device.stage()
        device.trigger()
        wait_for(lambda: device.n_completed.get() > 0, "images")
        lost.set()
        device.unstage()
        assert "writer: could not be left READY: " in caplog.text
        assert daq.service.status()["state"] == "WRITING"
        lost.clear()
        device.unstage()
        assert daq.service.status()["state"] == "READY"


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=["502", "half"])
def test_unstage_when_a_gateway_has_no_answer_then_that_is_logged_and_the_next_one_stops_what_is_ours(
    daq, rest_writer, tmp_path, gateway, answer, monkeypatch, wait_for, caplog
):
    monkeypatch.setattr(_control, "AWAY_LIMIT", 0.1)
    url, answers = gateway
    device = StdDaqWriter(url, name="writer", directory=tmp_path / "raw")
    device.frames_per_trigger.put(10_000)
    device.stage()
    status = device.trigger()
    wait_for(lambda: device.n_completed.get() > 0, "images")
    answers.extend([answer] * 1000)
    wait_for(lambda: status.done, "the end")
    assert "the DAQ is gone while" in str(status)
    device.unstage()
    assert "could not be left READY" in caplog.text
    answers.clear()
    device.unstage()
    assert daq.service.status()["state"] == "READY"
