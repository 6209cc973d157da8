import asyncio
import threading
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from bluesky.protocols import Readable, Triggerable
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators
from ophyd import EpicsSignalRO

from sfdaq_ophyd.devices import PulseId
from sfdaq_ophyd.devices.broker._hardware import Trigger
from sfdaq_ophyd.devices.pulse_id import PulseIdSignal
from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable, WireError
from sfdaq_ophyd.limits import counted_time
from sfdaq_ophyd.session.suspenders import SuspendBelow, look_now
from sfdaq_ophyd.sim import Facility


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["pvs"]) as facility:
        yield facility


@pytest.fixture
def pulse_id(facility):
    device = PulseId(facility.pvs["pulse_id"], name="pulse_id")
    device.wait_for_connection(timeout=60)
    yield device
    device.destroy()


@pytest.fixture
def absent():
    device = PulseId("NO:SUCH-PULSEID", name="absent")
    yield device
    device.destroy()


@pytest.fixture
def paused(facility, wait_for):
    """The pulse id at which the clock stands, and the PV."""
    stood = facility.clock.pause()
    wait_for(lambda: facility.pvs.read("pulse_id") == stood, "the paused pulse")
    yield stood
    facility.clock.resume()


def test_device_when_asked_then_follows_the_protocols(pulse_id):
    assert isinstance(pulse_id, Readable) and isinstance(pulse_id, Triggerable)


def test_get_when_clock_stands_then_exactly_its_integer(pulse_id, paused):
    assert pulse_id.get() == paused and type(pulse_id.get()) is int


def late_by_the_wall(monkeypatch, owner, name):
    """Have a signal's first get time out while this process could not look."""
    get, asked = getattr(owner, name), []

    def late(*args, **kwargs):
        asked.append(1)
        if len(asked) == 1:
            threading.Event().wait(0.05)
            raise TimeoutError("late by the clock on the wall")
        return get(*args, **kwargs)

    monkeypatch.setattr(owner, name, late)
    monkeypatch.setattr("sfdaq_ophyd.limits.counted_time", lambda: 0.0)


def test_get_when_this_process_could_not_look_then_it_asks_again(pulse_id, paused, monkeypatch):
    late_by_the_wall(monkeypatch, PulseIdSignal, "_get_with_timeout")
    assert pulse_id.get() == paused


def test_trigger_pv_when_this_process_could_not_look_then_it_is_read_again(facility, monkeypatch, tmp_path):
    pv = EpicsSignalRO(facility.pvs["event_code"], name="event_code")
    pv.wait_for_connection(timeout=60)
    trigger = Trigger("sfdaq", SimpleNamespace(url="http://broker"), pv, tmp_path)
    late_by_the_wall(monkeypatch, pv, "get")
    assert trigger.runs() is True
    pv.destroy()


def test_suspender_when_this_process_could_not_look_then_its_pv_is_read_again(facility, monkeypatch, caplog):
    pv = EpicsSignalRO(facility.pvs["event_code"], name="event_code")
    pv.wait_for_connection(timeout=60)
    late_by_the_wall(monkeypatch, pv, "get")
    list(look_now(bps.null(), {"beam": SuspendBelow(pv, 100)}, RunEngine()))
    assert "holds nothing" not in caplog.text
    pv.destroy()


def test_read_when_described_then_same_key_integer_and_the_pulse_s_own_time(pulse_id, facility):
    (key,) = pulse_id.describe()
    reading = pulse_id.read()[key]
    assert key == "pulse_id" and pulse_id.hints == {"fields": ["pulse_id"]}
    assert pulse_id.describe()[key]["dtype"] == "integer"
    assert reading["timestamp"] == pytest.approx(facility.clock.time_of(reading["value"]), abs=1e-3)


def test_trigger_when_done_then_the_id_was_counted_after_the_call(pulse_id):
    before = pulse_id.get()
    pulse_id.trigger().wait(120)
    assert pulse_id.get() > before


def test_wait_past_when_stepped_then_done_after_the_target_and_not_at_it(
    facility, pulse_id, paused, wait_for
):
    status = pulse_id.wait_past(paused + 3, timeout=60)
    seen = []
    status.watch(lambda **progress: seen.append(progress))
    facility.clock.step(3)
    wait_for(lambda: seen[-1]["current"] == 3, "the target itself")
    assert not status.done
    facility.clock.step(1)
    status.wait(60)
    assert seen[-1]["target"] == 4 and seen[-1]["unit"] == "pulses" and seen[-1]["fraction"] == 0


def test_wait_past_when_already_past_then_done_at_once(pulse_id):
    pulse_id.wait_past(pulse_id.get() - 100).wait(120)


def test_wait_past_when_the_pv_stands_then_fails_with_the_last_id_seen(pulse_id, paused):
    with pytest.raises(ServiceTimeout) as caught:
        pulse_id.wait_past(paused + 5, timeout=0.2).wait(120)
    assert f"last state {paused}" in str(caught.value) and "does the timing receiver count?" in str(
        caught.value
    )


def test_wait_past_when_the_pv_stops_half_way_then_fails_long_before_the_whole_time(facility, wait_for):
    device = PulseId(facility.pvs["pulse_id"], name="pulse_id", timeout=5.0)
    device.wait_for_connection(timeout=60)
    status = device.wait_past(device.get() + 100_000)
    wait_for(lambda: status.current > 5, "some pulses")
    facility.clock.pause()
    try:
        with pytest.raises(ServiceTimeout, match="after 5 s.*does the timing receiver count"):
            status.wait(60)
    finally:
        facility.clock.resume()
        device.destroy()


def test_wait_past_when_the_clock_counts_slowly_then_waits_on(facility, paused, wait_for):
    device = PulseId(facility.pvs["pulse_id"], name="pulse_id", timeout=3.0)
    device.wait_for_connection(timeout=60)
    status, begun = device.wait_past(paused + 3), counted_time()
    for n in range(4):  # at 100 Hz it would be over after 0.03 s, and 3 s of patience
        wait_for(lambda n=n: counted_time() - begun > 1.0 * (n + 1), "a long pulse")
        facility.clock.step()
    status.wait(60)
    device.destroy()


def test_waits_when_many_have_ended_then_no_subscription_is_left(pulse_id):
    for _ in range(5):
        pulse_id.trigger().wait(120)
    assert not pulse_id.value._callbacks["value"]


def test_check_when_it_counts_then_its_rate_is_that_of_the_pulses(facility, pulse_id, paused, monkeypatch):
    wait, times = pulse_id.wait_past, iter([1000.0, 1002.0])

    def wait_and_step(*args):
        status = wait(*args)
        facility.clock.step(200)
        return status

    monkeypatch.setattr(pulse_id, "wait_past", wait_and_step)
    monkeypatch.setattr("sfdaq_ophyd.devices.pulse_id.time", SimpleNamespace(monotonic=lambda: next(times)))
    assert pulse_id.check(n_pulses=200, timeout=60) == 100.0


def test_check_when_it_stands_then_says_so(pulse_id, paused):
    with pytest.raises(ServiceTimeout, match="pulse id past"):
        pulse_id.check(timeout=0.2)


def test_constructor_when_the_pv_is_absent_then_neither_blocks_nor_fails(absent):
    assert not absent.connected
    assert absent.describe()["absent"]["dtype"] == "integer"


@pytest.mark.parametrize("verb", ["get", "read", "trigger", "check"])
def test_verbs_when_the_pv_is_absent_then_unreachable_and_never_a_value(absent, verb):
    with pytest.raises(ServiceUnreachable, match="NO:SUCH-PULSEID is not reachable"):
        getattr(absent, verb)()


def test_get_when_the_ioc_has_gone_then_no_remembered_value():
    with Facility(only=["pvs"]) as facility:
        device = PulseId(facility.pvs["pulse_id"], name="gone")
        device.wait_for_connection(timeout=60)
        device.trigger().wait(120)  # it has a subscription, and values in memory
        facility.pvs.fail_next("disconnect")
        with pytest.raises(ServiceUnreachable, match="gone: pulse id"):
            device.get()
        device.destroy()


def test_get_when_the_pv_holds_no_pulse_id_then_wire_error(facility):
    device = PulseId(facility.pvs["beam_rate"], name="wrong")
    device.wait_for_connection(timeout=60)
    facility.pvs.write("beam_rate", 99.5)
    with pytest.raises(WireError, match=r"99\.5.*expected a pulse id"):
        device.get()
    facility.pvs.write("beam_rate", 100)
    device.destroy()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_constructor_when_timeout_is_no_time_then_refused(timeout):
    with pytest.raises(RequestError, match="timeout="):
        PulseId("X", name="x", timeout=timeout)


def test_count_when_run_then_documents_are_valid_and_ids_grow(pulse_id):
    documents = []
    RunEngine()(bp.count([pulse_id], 4), lambda name, doc: documents.append((name, doc)))
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    ids = [doc["data"]["pulse_id"] for name, doc in documents if name == "event"]
    assert len(ids) == 4 and ids == sorted(set(ids))


def test_monitor_when_pulses_come_then_each_is_one_event(pulse_id, facility, paused):
    @bpp.monitor_during_decorator([pulse_id])
    @bpp.run_decorator()
    def plan():
        facility.clock.resume()
        yield from bps.trigger(pulse_id, wait=True)
        facility.clock.pause()
        for _ in range(5):
            stepped.append(facility.clock.step(1))
            yield from bps.wait_for([until(stepped[-1])])

    def until(number):
        async def seen():
            while not any(doc["data"]["pulse_id"] == number for doc in events):
                await asyncio.sleep(0.005)

        return seen

    events, stepped = [], []
    engine = RunEngine(context_managers=[])
    engine.subscribe(lambda name, doc: events.append(doc), "event")
    engine(plan())
    ids = [doc["data"]["pulse_id"] for doc in events]
    assert [each for each in ids if each in stepped] == stepped
    for doc in events[-5:]:
        schema_validators[DocumentNames.event].validate(doc)
    assert pulse_id._monitors == {}


def test_subscribe_when_ids_come_meanwhile_then_no_id_has_the_time_of_another(
    pulse_id, wait_for, monkeypatch
):
    """A read answers with a value alone; caproto tells it with the time of the monitor's last."""
    seen, reads = [], []
    for read in ("get", "get_ctrlvars"):
        monkeypatch.setattr(pulse_id.value._read_pv, read, lambda *args, **kwargs: reads.append(args))
    pulse_id.subscribe(lambda reading: seen.append(reading["pulse_id"]["value"]), run=False)
    wait_for(lambda: len(seen) > 5, "pulses")
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert not reads


def test_count_when_the_pv_stands_then_the_stop_document_says_why(facility, paused):
    device = PulseId(facility.pvs["pulse_id"], name="pulse_id", timeout=0.2)
    device.wait_for_connection(timeout=60)
    documents = []
    with pytest.raises(FailedStatus):
        RunEngine()(bp.count([device]), lambda name, doc: documents.append((name, doc)))
    name, stop = documents[-1]
    assert name == "stop" and stop["exit_status"] == "fail"
    assert f"pulse_id: pulse id past {paused}" in stop["reason"] and "timing receiver" in stop["reason"]
    device.destroy()


def test_waits_when_there_are_many_then_they_share_their_threads(pulse_id, monkeypatch):
    pulse_id.trigger().wait(120)
    started, start = [], threading.Thread.start
    monkeypatch.setattr(
        threading.Thread, "start", lambda thread: (started.append(thread.name), start(thread))
    )
    for _ in range(5):
        pulse_id.trigger().wait(120)
    assert started == []
