"""SfDaqBroker when something fails: one message, no number wasted, nothing asked for twice."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from sfdaq_ophyd.devices.broker import Cancel, Job
from sfdaq_ophyd.devices.broker._follower import FileFollower
from sfdaq_ophyd.devices.broker._hardware import Hardware, Trigger
from sfdaq_ophyd.devices.broker._run import RunTable
from sfdaq_ophyd.errors import (
    FilesMissing,
    FramesMissing,
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    StorageError,
)
from sfdaq_ophyd.plans import fly, run_number_wrapper, sf_count
from sfdaq_ophyd.wire.broker_status import StatusBoard, read_status

from .broker_bench import DETECTOR, BrokerBench, cause, run, streams_of
from .fake import FakeDetector
from .run_engine_driver import drive, interruptible
from .std_daq_writer.documents import points_dropped
from .test_failures import failing

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.fixture
def clock(bench):
    """It goes on after the test: while it stands, no acquisition ends."""
    yield bench.facility.clock
    bench.facility.clock.resume()


def test_unused_stream_when_a_writer_fails_then_quotes_it_and_the_run_fails(bench):
    device = bench.device()
    bench.part.fail_next("writer_fails", source=DETECTOR, message="no data in the buffer")
    result = run(sf_count([device], 2))
    assert isinstance(cause(result), FilesMissing)
    assert "no data in the buffer" in str(result.stop["reason"])
    assert result.stop["exit_status"] == "fail"
    rows, _ = streams_of(result)["sfdaq_unused"]
    assert [row["sfdaq_acquisition_number"] for row in rows] == [1]
    assert "no data in the buffer" in rows[0]["sfdaq_detail"]
    good, _ = streams_of(result)["sfdaq_data"]
    assert [row["sfdaq_acquisition_number"] for row in good] == [2]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("writer_silent", "there is no file"),
        ("writer_absent", "the time is up"),
        ("truncated_file", "damaged"),
    ],
)
def test_run_when_a_file_does_not_come_then_fails_with_what_is_known(bench, fault, words):
    device = bench.device()
    device.file_timeout.put(3.0)
    details = {} if fault == "writer_absent" else {"source": DETECTOR}
    bench.part.fail_next(fault, **details)
    result = run(sf_count([device], 1))
    assert words in str(cause(result))


def test_missing_pulse_when_strict_then_run_fails_naming_it(bench):
    device = bench.device(n_pulses=3)
    bench.part.fail_next("missing_pulses", source=DETECTOR)
    result = run(sf_count([device], 1))
    error = cause(result)
    assert isinstance(error, FramesMissing)
    first = result.named("event")[0]["data"]["sfdaq_start_pulse_id"]
    assert (error.asked, error.got, error.missing) == (3, 2, (first,))


@pytest.mark.parametrize(
    ("fault", "error", "state"),
    [
        ("drop_before", "UnknownOutcome", "unknown"),
        ("garbage", "UnknownOutcome", ""),
        ("refuse", "BrokerRefused", "unknown"),
        ("wrong_run_number", "RunNumberMismatch", "unknown"),
        ("close_pgroup", "BrokerRefused", "refused"),
    ],
)
def test_step_when_the_broker_misbehaves_then_run_fails_once_and_no_number_is_wasted(
    bench, fault, error, state
):
    device = bench.device()
    device.client.recover_timeout = 0.1
    details = {"pgroup": device.pgroup.get()} if fault == "close_pgroup" else {}
    bench.part.fail_next(fault, endpoint="retrieve_from_buffers", **details)
    asked = len(bench.part.requests("retrieve_from_buffers"))
    result = run(sf_count([device], 3))
    found = cause(result)
    if fault == "garbage":  # carried out, and found in the run's meta/: nothing is lost
        assert result.error is None
        return
    assert type(found).__name__ == error
    assert result.stop["exit_status"] == "fail" and result.stop["reason"]
    assert len(bench.part.requests("retrieve_from_buffers")) == asked + 1
    assert bench.last_run() == 1
    (table,) = (bench.directory / "runs" / device.pgroup.get()).glob("*.jsonl")
    assert [row["state"] for row in RunTable(table).rows()] == [state]


def test_step_when_reply_is_lost_after_execution_then_goes_on_without_asking_again(bench):
    device = bench.device()
    bench.part.fail_next("drop_after", endpoint="retrieve_from_buffers")
    result = run(sf_count([device], 2))
    assert result.error is None
    assert [event["data"]["sfdaq_acquisition_number"] for event in result.named("event")] == [1, 2]
    assert len(bench.acquisitions()) == 2


def numbers_of(result):
    """Acquisition numbers in each stream."""
    found = streams_of(result).items()
    return {name: [row["sfdaq_acquisition_number"] for row in rows] for name, (rows, _) in found}


def test_acquisition_when_its_event_is_dropped_then_it_is_unused_and_row_k_is_event_k(bench):
    device = bench.device()
    result = run(run_number_wrapper(points_dropped(device), device))
    assert result.error is None
    numbers = numbers_of(result)
    assert numbers == {"primary": [1, 3], "sfdaq_data": [1, 3], "sfdaq_unused": [2]}


@pytest.mark.parametrize("interruption", ["abort", "pause", "pause and abort", "fails"])
def test_acquisition_when_interrupted_between_read_and_save_then_it_is_data_only_if_it_has_an_event(
    bench, interruption, wait_for
):
    device = bench.device()

    @bpp.stage_decorator([device])
    @bpp.run_decorator()
    def plan():
        for number in range(2):
            yield from bps.checkpoint()
            yield from bps.trigger(device, wait=True)
            yield from bps.create("primary")
            yield from bps.read(device)
            if number:
                wait_for(lambda: device.runner.follower.n_pending == 0, "files")
                yield from bps.sleep(0.01)
                if interruption == "fails":
                    raise RuntimeError("another device cannot be read")
            yield from bps.save()

    engine, request = interruptible(), interruption.partition(" ")[0]
    if interruption == "pause and abort":
        engine.resume = engine.abort
    at = -1 if interruption == "fails" else ("sleep", 0)
    result = drive(engine, lambda: run_number_wrapper(plan(), device), request, at)
    numbers = numbers_of(result)
    if interruption == "pause":
        assert numbers == {"primary": [1, 2], "sfdaq_data": [1, 2]}
    else:
        assert numbers == {"primary": [1], "sfdaq_data": [1], "sfdaq_unused": [2]}


def test_run_number_mismatch_when_it_happens_then_files_are_in_the_documents(bench):
    device = bench.device()
    bench.part.fail_next("wrong_run_number", endpoint="retrieve_from_buffers")
    result = run(sf_count([device], 1))
    rows, _ = streams_of(result)["sfdaq_unused"]
    assert "acq0001" in rows[0]["sfdaq_file_list"]


def test_pulse_id_when_lost_mid_acquisition_then_fails_and_nothing_was_asked_for(bench, clock):
    device = bench.device()
    device.stage()
    clock.pause()
    status = device.trigger()
    bench.pulse_id.broken = ServiceUnreachable("pulse id", url="PV", reason="gone")
    with pytest.raises(Exception, match="disconnected|gone"):
        status.wait(60)
    device.unstage()
    assert bench.last_run() == 0


def test_unstage_when_called_twice_mid_acquisition_then_nothing_is_asked_for(bench, clock):
    device = bench.device()
    device.stage()
    clock.pause()
    status = device.trigger()
    device.unstage()
    device.unstage()
    status.wait(120)
    assert not bench.acquisitions()


def test_status_exchange_when_a_writer_is_rejected_then_it_is_known_without_a_file(bench):
    board = StatusBoard()
    device = bench.device()
    device.runner.follower = FileFollower("sfdaq", board)

    def hear(message):
        if message["exchange"] == "status":
            body = json.dumps(message["body"])
            board.receive(read_status(message["headers"], body, message["correlation_id"]))

    bench.part.on_message(hear)
    bench.part.fail_next("writer_fails", source=DETECTOR, message="no such module")
    result = run(sf_count([device], 2))
    error = cause(result)
    assert isinstance(error, FilesMissing)
    assert "no such module" in str(error)
    assert len(error.reasons) == 1


def test_server_when_slow_then_the_scan_goes_on(bench):
    device = bench.device()
    bench.part.fail_next("latency", endpoint="retrieve_from_buffers", seconds=0.5)
    result = run(sf_count([device], 2))
    assert result.error is None
    assert len(bench.acquisitions()) == 2 and bench.last_run() == 1


def test_server_when_restarted_mid_scan_then_the_scan_goes_on_under_the_same_number(tmp_path):
    with BrokerBench(tmp_path) as bench:
        device = bench.device(n_pulses=1)
        service, n_events = bench.part._broker, []

        def back(port):
            service.bind(port)
            service.start()

        def restart_once(name, doc):
            n_events.append(doc)
            if len(n_events) == 2:
                port = service.port
                service.stop()
                threading.Timer(0.15, back, [port]).start()

        engine = RunEngine(context_managers=[])
        engine.subscribe(restart_once, "event")
        engine(sf_count([device], 4))
        numbers = [event["data"]["sfdaq_acquisition_number"] for event in n_events]
        assert numbers == [1, 2, 3, 4]
        assert bench.last_run() == 1 and len(bench.acquisitions()) == 4


def test_server_when_gone_mid_scan_then_the_run_fails_with_one_message_and_keeps_its_number(
    tmp_path, wait_for
):
    with BrokerBench(tmp_path) as bench:
        device = bench.device(n_pulses=1)
        engine = RunEngine(context_managers=[])
        n_events = []

        def stop_after_two(name, doc):
            n_events.append(doc)
            if len(n_events) == 2:
                for service in bench.part._services:
                    service.stop()

        engine.subscribe(stop_after_two, "event")
        stops = []
        engine.subscribe(lambda name, doc: stops.append(doc), "stop")
        with pytest.raises(FailedStatus, match="not reachable"):
            engine(sf_count([device], 5))
        assert len(n_events) == 2
        assert "not reachable" in stops[0]["reason"]
        assert bench.last_run() == 1


@pytest.mark.parametrize("verb", ["trigger", "complete"])
def test_acquisition_when_its_run_ends_meanwhile_then_asks_for_nothing_and_takes_no_number(
    bench, clock, verb
):
    device = bench.device(check=False)
    device.stage()
    device.runner.take_run_number()
    device.kickoff().wait(120)
    clock.pause()
    status = getattr(device, verb)()
    device.runner.end_run()
    clock.resume()
    status.wait(60)
    device.unstage()
    assert bench.last_run() == 1 and not bench.acquisitions()


@pytest.mark.parametrize("verb", ["retrieve", "retrieve_again"])
def test_retrieval_when_given_up_while_it_is_sent_then_the_run_has_it_all_the_same(bench, monkeypatch, verb):
    device, now = bench.device(), bench.facility.clock.now()
    given = {"start_pulse_id": now - 9, "stop_pulse_id": now - 1}
    if verb == "retrieve_again":
        assert run(sf_count([device], 1)).error is None
        given = {"path": device.runner.saved_requests(1)[0]}
    device.runner.take_run_number()
    device.runner.name_run("a run")
    sending, answered, send = threading.Event(), threading.Event(), device.client.retrieve_from_buffers

    def slow(request):
        sending.set()
        answered.wait(60)
        return send(request)

    monkeypatch.setattr(device.client, "retrieve_from_buffers", slow)
    job, streams = Job(getattr(device, verb), given, waits=True), []
    status = device.service.set(job)
    assert sending.wait(60)
    device.service.set(Cancel((job.id,)))
    assert not status.done
    end = threading.Thread(target=lambda: streams.extend(device.streams("a run")), daemon=True)
    end.start()
    answered.set()
    end.join(60)
    assert [name for name, _ in streams] == ["sfdaq_unused"]
    device.runner.end_run()


def test_reason_when_the_end_of_the_run_fails_too_then_it_is_the_points_own(bench, caplog, monkeypatch):
    device = bench.device()
    bench.part.fail_next("refuse", endpoint="retrieve_from_buffers", message="no such thing")

    def no_table(*args, **kwargs):
        raise OSError("the disk went away")

    monkeypatch.setattr(device, "streams", no_table)
    result = run(sf_count([device], 2))
    assert result.stop["exit_status"] == "fail"
    assert result.stop["reason"].startswith("sfdaq") and "no such thing" in result.stop["reason"]
    assert "no such thing" in str(result.error) and "the disk went away" in caplog.text


def test_settings_when_one_is_wrong_then_the_error_names_the_device(bench):
    device = bench.device(check=False)
    device.pgroup.put("x")
    with pytest.raises(RequestError, match=r"^sfdaq\.pgroup='x'"):
        device.trigger()


@pytest.mark.parametrize("set_back", [True, False])
def test_run_number_when_last_run_was_set_back_then_told_that_the_run_has_data_already(
    bench, caplog, set_back
):
    """golden/found: last-run-reset."""
    device = bench.device()
    assert run(sf_count([device], 1)).error is None
    if set_back:
        (bench.raw / "run_info" / "LAST_RUN").write_text("0")
    caplog.clear()
    assert run(sf_count([device], 2)).error is None
    told = f"gave out run number 1 of {device.pgroup.get()} as new, but its first acquisition is number 2"
    assert caplog.text.count(told) == int(set_back)


@pytest.mark.parametrize("broken", ["stage", "trigger", "fly scan"])
def test_point_when_the_broker_fails_and_unstage_of_a_detector_too_then_the_point_is_told(
    bench, tmp_path, broken, caplog
):
    device, camera = bench.device(), FakeDetector(name="camera", directory=tmp_path)
    failing(camera, "close", ServiceRefused("put back", url="http://elsewhere", said="never"))
    fail_of_broker(bench, device, broken)
    both = [camera, device]
    result = run(fly(both, 2) if broken == "fly scan" else sf_count(both, 1))
    exc = cause(result)
    assert "the pgroup is gone" in str(exc) and "never" not in str(exc)
    assert any("camera: and while" in note for note in exc.__notes__) and "camera: while" in caplog.text


def fail_of_broker(bench, device, what):
    def fail(*args, **more):
        raise ServiceRefused("retrieve", url="http://broker", said="the pgroup is gone")

    if what == "stage":
        device.pass_preflight = fail
    else:
        device.runner.acquire = fail


def test_point_when_a_detector_fails_and_unstage_of_the_broker_too_then_the_point_is_told(
    bench, tmp_path, caplog
):
    device, camera = bench.device(), FakeDetector(name="camera", directory=tmp_path)
    failing(camera, "frames", ServiceRefused("frames", url="http://elsewhere", said="no more"))

    def end_run():
        raise StorageError(tmp_path, what="writing", reason="No space left", hint="Make room")

    device.runner.end_run = end_run
    result = run(bpp.stage_wrapper(bpp.run_wrapper(bps.trigger_and_read([camera])), [camera, device]))
    exc = cause(result)
    assert "no more" in str(exc)
    assert any("sfdaq: and while" in note and "No space left" in note for note in exc.__notes__)
    assert "sfdaq: while" in caplog.text


class Restarted:
    """A broker's client and a job's status: states and who writes, look by look; the last for ever."""

    url, dialect = "http://sf-daq:10002", "current"

    def __init__(self, states, writing):
        self.states, self.writing, self.seen = list(states), list(writing), []

    def power_on_detector(self, detector):
        """Queue it."""

    def get_detector_status(self, detector):
        return {self.states.pop(0) if len(self.states) > 1 else self.states[0]: [0]}

    def get_running_detectors(self):
        now = self.writing.pop(0) if len(self.writing) > 1 else self.writing[0]
        limping = {DETECTOR: SimpleNamespace(missing_modules=[1])} if now == "some" else {}
        return SimpleNamespace(running=[DETECTOR] if now == "all" else [], limping=limping)

    def show(self, n_done, target, seen):
        self.seen.append(seen)

    def pause(self, seconds):
        """Look again at once."""

    def power_on(self, tmp_path, limit):
        """Restart; return what was seen when it was waited for data."""
        hardware = Hardware("sfdaq", self, lambda: None, None, tmp_path)
        restart = hardware.power_on_detector(DETECTOR)
        hardware.wait_until_running(self, DETECTOR, 60, restart)
        self.seen.clear()
        hardware.wait_until_writing(self, DETECTOR, limit, restart)
        return self.seen


AS_BEFORE = "writes, as before: the server looks 30 s back"


@pytest.mark.parametrize(
    ("states", "writing", "seen"),
    [
        (["running", "idle", "running"], ["all", "all", "none", "all"], [AS_BEFORE, "does not write"]),
        (["running", "idle", "running"], ["none", "all"], []),
        (["idle", "idle", "running"], ["some", "all", "none", "all"], [AS_BEFORE, "does not write"]),
        (["idle", "running"], ["none", "none", "all"], ["does not write"]),
    ],
)
def test_power_on_when_the_detector_wrote_before_then_it_writes_once_it_was_seen_not_to(
    tmp_path, states, writing, seen
):
    assert Restarted(states, writing).power_on(tmp_path, 60) == [*seen, "writes"]


@pytest.mark.parametrize("states", [["running", "idle", "running"], ["idle", "running"]])
def test_power_on_when_the_detector_wrote_before_then_that_is_no_evidence_while_the_server_looks_back(
    tmp_path, monkeypatch, states
):
    with pytest.raises(ServiceTimeout, match=AS_BEFORE):
        Restarted(states, ["all"]).power_on(tmp_path, 0.05)
    monkeypatch.setattr("sfdaq_ophyd.devices.broker._hardware.LOOK_BACK", 0.1)
    assert Restarted(states, ["all"]).power_on(tmp_path, 60)[-1] == "writes"


@pytest.mark.parametrize(
    ("dialect", "times", "expected"),
    [
        ("documented", {"delay": 0.0, "exptime": 1e-5}, {"exptime": 1e-5}),
        ("current", {"delay": 0.0, "exptime": [1e-5, 2e-5]}, {"delay": 0.0}),  # its modules differ
    ],
)
def test_trigger_when_the_delay_is_zero_then_it_is_started_by_a_time_that_the_server_takes(
    tmp_path, dialect, times, expected
):
    """The 2023 server passes a delay of 0 over, and a client of it refuses one."""
    sent = []
    client = SimpleNamespace(
        url="http://sf-daq:10002", dialect=dialect, get_detector_settings=lambda _: times
    )
    client.set_detector_settings = lambda _, parameters: sent.append(parameters)
    assert "has been started again" in Trigger("sfdaq", client, None, tmp_path).start(DETECTOR)
    assert sent == [expected]
