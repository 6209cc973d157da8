"""The IOC through real Channel Access, and its handle."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ophyd import EpicsMotor, EpicsSignal, EpicsSignalRO
from ophyd.utils import WaitTimeoutError

from sfdaq_ophyd.devices.pulse_id import PulseIdSignal
from sfdaq_ophyd.errors import RequestError, ServiceUnreachable
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.pvs.part import SUFFIXES


@pytest.fixture(scope="module")
def facility():
    with Facility(only=["pvs"], speed=10) as facility:
        yield facility


@pytest.fixture
def connect(facility):
    """Make a signal or device of a role, and destroy it afterwards."""
    made = []

    def make(cls, role, **kwargs):
        device = cls(facility.pvs[role], name=role, **kwargs)
        made.append(device)
        device.wait_for_connection(timeout=60)
        return device

    yield make
    for device in made:
        device.destroy()


def test_roles_when_listed_then_every_one_is_served(facility, connect):
    assert set(facility.pvs) == set(SUFFIXES)
    for role in facility.pvs:
        assert connect(EpicsSignalRO, role).get() is not None


def test_pulse_id_when_watched_then_each_is_stamped_with_its_time(facility, connect, wait_for):
    signal_ = connect(PulseIdSignal, "pulse_id")
    seen = []
    signal_.subscribe(lambda value, timestamp, **_: seen.append((int(value), timestamp)), run=False)
    wait_for(lambda: len(seen) > 20, "20 pulses")
    for pulse_id, stamp in seen[1:20]:  # the first may be older than the clock's last change
        assert stamp == pytest.approx(facility.clock.time_of(pulse_id), abs=1e-3)


def test_pulse_id_when_clock_is_paused_and_stepped_then_follows_exactly_and_leaves_none_out(
    facility, connect, wait_for
):
    signal_, seen = connect(EpicsSignalRO, "pulse_id"), []
    stood = facility.clock.pause()
    try:
        wait_for(lambda: signal_.get() == stood, "the paused pulse")
        signal_.subscribe(lambda value, **_: seen.append(int(value)), run=False)
        facility.clock.step(50)
        wait_for(lambda: stood + 50 in seen, "the stepped pulse")
        assert signal_.get() == stood + 50
    finally:
        facility.clock.resume()
    assert [pulse_id for pulse_id in seen if stood < pulse_id <= stood + 50] == list(
        range(stood + 1, stood + 51)
    )


def test_motor_when_moved_then_stands_there(connect):
    motor = connect(EpicsMotor, "motor")
    motor.set(12.5).wait(60)
    assert motor.position == motor.user_readback.get() == 12.5
    assert motor.egu == "mm" and motor.limits == (-50, 50)


def test_motor_when_told_to_stay_then_done_again(connect):
    motor = connect(EpicsMotor, "motor")
    motor.set(motor.position).wait(60)
    motor.set(motor.position).wait(60)


def test_motor_when_stopped_then_was_seen_moving_and_stands_short_of_the_target(facility, connect, wait_for):
    motor = connect(EpicsMotor, "motor2", timeout=60)
    motor.velocity.set(0.05).wait(120)
    status = motor.set(40)
    wait_for(lambda: motor.position > 0, "it seen on its way")
    motor.stop()
    wait_for(lambda: status.done, "end of the move")
    assert 0 < facility.pvs.read("motor2") < 40
    wait_for(lambda: motor.user_setpoint.get() == facility.pvs.read("motor2"), "setpoint at the readback")
    motor.velocity.set(10).wait(120)


def test_motor_when_sent_elsewhere_on_the_way_then_ends_there(facility, connect, wait_for):
    setpoint = connect(EpicsSignal, "motor2")  # an EpicsMotor would stop the first move itself
    setpoint.put(-40)
    wait_for(lambda: facility.pvs.read("motor2") < 0, "start")
    setpoint.put(3, wait=True, timeout=60)
    assert facility.pvs.read("motor2") == 3


def test_motor_when_put_outside_its_limits_then_does_not_move(facility, connect):
    motor = connect(EpicsMotor, "motor")
    with pytest.raises(ValueError, match="outside of range"):
        motor.set(51)
    raw = EpicsSignal(facility.pvs["motor"] + ".VAL", name="raw")
    raw.wait_for_connection(timeout=60)
    raw.put(51)
    assert raw.get(use_monitor=False) == facility.pvs.read("motor") != 51
    raw.destroy()
    motor.set(2).wait(60)


def test_motor_when_redefined_then_offset_keeps_the_dial(connect, wait_for):
    motor = connect(EpicsMotor, "motor")
    was = motor.position
    motor.set_current_position(was + 5)
    wait_for(lambda: motor.position == was + 5, "new position")
    assert motor.user_offset.get() == pytest.approx(5)
    motor.set_current_position(was)


def test_shutter_when_put_by_name_then_done_after_its_travel(facility, connect):
    shutter = connect(EpicsSignal, "shutter", string=True)
    shutter.set("Closed").wait(60)
    assert facility.pvs.read("shutter") == "Closed"
    shutter.set("Open").wait(60)
    assert shutter.get() == "Open"


def test_beam_when_lost_then_intensity_and_diode_are_dark(facility, wait_for):
    pvs = facility.pvs
    wait_for(lambda: pvs.read("beam_intensity") > 100, "beam")
    pvs.write("beam_rate", 0)
    wait_for(lambda: pvs.read("beam_intensity") == 0 == pvs.read("diode"), "no beam")
    pvs.write("beam_rate", 100)
    pvs.write("motor", 1.0)
    wait_for(lambda: pvs.read("diode") > 0.5, "beam behind the slit")


def test_fail_next_refuse_put_when_put_then_code_is_unchanged(facility, connect):
    code = connect(EpicsSignal, "event_code")
    assert code.get() == 254
    facility.pvs.fail_next("refuse_put", role="event_code")
    code.put(255)
    assert code.get(use_monitor=False) == 254
    code.put(255)
    assert code.get(use_monitor=False) == 255
    assert not facility.clock.view(facility.clock.now() + 1).triggered, "detectors see it"
    facility.pvs.write("event_code", 254)
    assert facility.clock.view(facility.clock.now() + 1).triggered


def test_beam_rate_when_a_client_puts_0_then_the_light_goes_until_it_is_back(facility, connect):
    rate = connect(EpicsSignal, "beam_rate")
    for value, light in ((0.0, False), (100.0, True)):
        rate.put(value, wait=True, timeout=60)
        assert facility.clock.light == light


def test_fail_next_motor_limit_when_moved_then_the_move_fails(facility, connect):
    motor = connect(EpicsMotor, "motor")
    facility.pvs.fail_next("motor_limit")
    with pytest.raises(Exception, match="(?i)fail"):
        motor.set(motor.position + 10).wait(60)
    # ophyd forgets who waits for the end of a move after it has told them: the same object could be too fast
    connect(EpicsMotor, "motor").set(0).wait(60)


def test_fail_next_motor_stuck_when_stopped_then_usable_again(facility, connect, wait_for):
    motor = connect(EpicsMotor, "motor")
    facility.pvs.fail_next("motor_stuck")
    start = motor.position
    status = motor.set(start + 10)
    wait_for(lambda: facility.pvs.read("motor") == pytest.approx(start + 5), "half way")
    assert not status.done
    motor.stop()

    def moved():  # ophyd forgets who waits for this move where the end of the stopped one comes only now
        with contextlib.suppress(WaitTimeoutError):
            motor.set(start).wait(20)
            return True

    wait_for(moved, "the move back")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pvs: pvs.fail_next("nonsense"), ValueError, "one of disconnect"),
        (lambda pvs: pvs.fail_next("refuse_put", role="motor"), ValueError, "event_code, shutter"),
        (lambda pvs: pvs.read("nonsense"), RequestError, "role='nonsense'"),
        (lambda pvs: pvs.write("pulse_id", 1), RequestError, "what the beam gives"),
        (lambda pvs: pvs["nonsense"], KeyError, "nonsense"),
    ],
)
def test_handle_when_asked_nonsense_then_says_so(facility, call, error, message):
    with pytest.raises(error, match=message):
        call(facility.pvs)


def test_fail_next_disconnect_when_reconnected_then_the_same_pv_is_back(connect):
    with Facility(only=["pvs"]) as other:
        pulse_id = EpicsSignalRO(other.pvs["pulse_id"], name="other")
        pulse_id.wait_for_connection(timeout=60)
        other.pvs.write("event_code", 255)
        other.pvs.fail_next("disconnect")
        with pytest.raises(ServiceUnreachable, match="not running"):
            other.pvs.read("pulse_id")
        other.pvs.reconnect()
        assert other.pvs.read("event_code") == 254
        assert other.clock.view(other.clock.now() + 1).triggered
        pulse_id.wait_for_connection(timeout=60)
        assert pulse_id.get() > 0
        pulse_id.destroy()


def test_two_facilities_when_open_together_then_each_finds_its_own(connect, facility):
    with Facility(only=["pvs"]) as other:
        assert other.pvs["pulse_id"] != facility.pvs["pulse_id"]
        assert len(os.environ["EPICS_CA_ADDR_LIST"].split()) == 2
        mine, theirs = connect(EpicsSignal, "event_code"), EpicsSignal(other.pvs["event_code"], name="theirs")
        theirs.wait_for_connection(timeout=60)
        theirs.put(255, wait=True, timeout=60)
        assert (mine.get(), other.pvs.read("event_code")) == (254, 255)
        theirs.destroy()
    assert len(os.environ["EPICS_CA_ADDR_LIST"].split()) == 1


PYEPICS = """
    import os
    os.environ["OPHYD_CONTROL_LAYER"] = "pyepics"
    from sfdaq_ophyd.sim import Facility
    for _ in range(2):  # one after the other: libca looks for addresses once only
        with Facility(only=["pvs"], speed=10) as facility:
            import ophyd
            from sfdaq_ophyd.devices import PulseId
            assert ophyd.get_cl().name == "pyepics"
            motor = ophyd.EpicsMotor(facility.pvs["motor"], name="motor")
            motor.wait_for_connection(timeout=60)
            motor.set(2.5).wait(60)
            assert motor.position == 2.5
            pulse_id = PulseId(facility.pvs["pulse_id"], name="pulse_id")
            pulse_id.wait_for_connection(timeout=60)
            begin = facility.clock.now()
            pulse_id.trigger().wait(60)
            assert begin < pulse_id.get() <= facility.clock.now()
            motor.destroy(), pulse_id.destroy()
    print("passed")
"""


def test_pvs_when_read_with_pyepics_then_work_too():
    pytest.importorskip("epics")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EPICS_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PYEPICS)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout.strip() == "passed", done.stderr


def test_ioc_when_its_parent_is_killed_then_ends(wait_for):
    code = (
        "import time; from sfdaq_ophyd.sim import Facility; f = Facility(only=['pvs']); f.__enter__();"
        "print(f.pvs['pulse_id'], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        prefix = parent.stdout.readline().removesuffix("RX-PULSEID\n")
        assert _iocs(prefix)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    wait_for(lambda: not _iocs(prefix), "end of the orphan")


def _iocs(prefix: str) -> list[bytes]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.append(line.read_bytes())
    return [line for line in found if b"sfdaq_ophyd.sim.pvs" in line and prefix.encode() in line]


def test_shutter_when_closed_or_without_beam_then_the_clock_tells_every_simulator(facility):
    facility.pvs.write("shutter", "Closed")
    assert not facility.clock.light
    facility.pvs.write("shutter", "Open")
    assert facility.clock.light
    facility.pvs.write("beam_rate", 0.0)
    assert not facility.clock.light
    facility.pvs.write("beam_rate", 100.0)
    assert facility.clock.light
