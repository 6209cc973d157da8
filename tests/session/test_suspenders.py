"""Plans wait for the shutter, except those that close it."""

from __future__ import annotations

import threading

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ophyd import EpicsSignalRO, Signal

from sfdaq_ophyd.session.config import SuspenderConfig
from sfdaq_ophyd.session.suspenders import SuspendUnless, _without, look_now, make_suspenders


class Shutter:
    """A shutter, its suspender, and a RunEngine that it holds; `said` is what the plans have done."""

    def __init__(self, state):
        self.signal = Signal(name="shutter", value=state)
        self.suspender = SuspendUnless(self.signal, "Open")
        self.RE = RunEngine()
        self.RE.preprocessors.append(lambda plan: look_now(plan, {"shutter": self.suspender}, self.RE))
        self.RE.install_suspender(self.suspender)
        self.said = []
        self.free = _without(self.plan, [self.suspender])

    def plan(self, what, *messages):
        yield from bps.checkpoint()
        self.said.append((what, self.signal.get()))
        yield from (message for message in messages)  # a generator: answers are sent to it
        yield from bps.null()

    def open_when(self, is_held, wait_for):
        """Open it in another thread, once the plan is held."""

        def later():
            wait_for(is_held)
            self.signal.put("Open")

        thread = threading.Thread(target=later)
        thread.start()
        return thread

    @property
    def is_held(self):
        return self.RE.state == "running" and bool(self.suspender.held_by()[0])


@pytest.fixture
def closed():
    return Shutter("Closed")


def test_plan_when_the_shutter_is_closed_before_then_it_waits(closed, wait_for):
    thread = closed.open_when(lambda: closed.is_held, wait_for)
    closed.RE(closed.plan("scan"))
    thread.join()
    assert closed.said == [("scan", "Open")]


def test_excepted_plan_when_the_shutter_is_closed_before_then_it_runs_to_its_end(closed):
    for _ in range(2):
        closed.RE(closed.free("pedestal"))
    assert closed.said == [("pedestal", "Closed")] * 2


def test_plan_behind_an_excepted_one_when_the_shutter_is_closed_then_it_waits(closed, wait_for):
    closed.RE(closed.free("pedestal"))
    thread = closed.open_when(lambda: closed.is_held, wait_for)
    closed.RE(closed.plan("scan"))
    thread.join()
    assert closed.said == [("pedestal", "Closed"), ("scan", "Open")]


def test_run_behind_an_excepted_plan_when_the_shutter_is_closed_then_it_is_suspended(
    closed, wait_for, capsys
):
    def both():
        yield from closed.free("pedestal")
        yield from bps.open_run()
        yield from closed.plan("scan")
        yield from bps.close_run()

    thread = closed.open_when(lambda: closed.said and closed.suspender.tripped, wait_for)
    closed.RE(both())
    thread.join()
    assert [what for what, _ in closed.said] == ["pedestal", "scan"]
    assert capsys.readouterr().out.count("Suspension occurred") == 1


def test_suspender_when_an_excepted_plan_is_halted_then_it_holds_the_next_one(closed, wait_for):
    with pytest.raises(RunEngineInterrupted):
        closed.RE(closed.free("pedestal", *bps.pause()))
    closed.RE.halt()
    thread = closed.open_when(lambda: closed.is_held, wait_for)
    closed.RE(closed.plan("scan"))
    thread.join()
    assert closed.said[-1] == ("scan", "Open") and closed.suspender in closed.RE.suspenders


def test_excepted_plans_when_one_follows_the_other_in_a_plan_then_both_run_to_their_end(closed):
    def both():
        for what in ("pedestal", "again"):
            yield from closed.free(what, *bps.open_run(), *bps.close_run())

    closed.RE(both())
    assert closed.said == [("pedestal", "Closed"), ("again", "Closed")]


def test_suspender_when_a_user_removes_it_behind_an_excepted_plan_then_it_stays_removed(closed):
    closed.RE(closed.free("pedestal"))
    assert closed.suspender in closed.RE.suspenders
    closed.RE.clear_suspenders()
    closed.RE(closed.plan("scan"))
    assert closed.said == [("pedestal", "Closed"), ("scan", "Closed")] and not closed.RE.suspenders


def test_suspender_when_a_user_removes_it_in_a_pause_before_the_run_then_the_run_is_not_held(closed):
    def both():
        yield from closed.free("pedestal")
        yield from bps.checkpoint()
        yield from bps.pause()
        yield from closed.plan("scan", *bps.open_run(), *bps.close_run())

    with pytest.raises(RunEngineInterrupted):
        closed.RE(both())
    closed.RE.remove_suspender(closed.suspender)
    closed.RE.resume()
    assert closed.said == [("pedestal", "Closed"), ("scan", "Closed")] and not closed.RE.suspenders


@pytest.mark.parametrize("then", ["halt", "resume"])
def test_suspender_when_a_user_removes_it_where_an_excepted_plan_is_paused_then_it_stays_removed(
    closed, then
):
    with pytest.raises(RunEngineInterrupted):
        closed.RE(closed.free("pedestal", *bps.pause()))
    assert closed.suspender in closed.RE.suspenders
    if then == "halt":
        closed.RE.halt()
        closed.RE.clear_suspenders()
    else:
        closed.RE.clear_suspenders()
        closed.RE.resume()
    closed.RE(closed.plan("scan"))
    assert closed.said[-1] == ("scan", "Closed") and not closed.RE.suspenders


def test_suspender_when_a_user_has_removed_it_then_it_stays_removed(closed):
    closed.RE.remove_suspender(closed.suspender)
    closed.RE(closed.free("pedestal"))
    closed.RE(closed.plan("scan"))
    assert closed.said == [("pedestal", "Closed"), ("scan", "Closed")] and not closed.RE.suspenders


class ReadLate(Signal):
    """A signal that closes while its first answer is on the way."""

    n_reads = 0

    def get(self, **kwargs):
        value = super().get(**kwargs)
        self.n_reads += 1
        if self.n_reads == 1:
            self.put("Closed")
        return value


def test_suspender_when_the_signal_changes_while_it_is_read_then_the_older_value_does_not_stay():
    suspender, engine = SuspendUnless(ReadLate(name="shutter", value="Open"), "Open"), RunEngine()
    engine.install_suspender(suspender)
    suspender._sig.n_reads = 0
    look_now(bps.null(), {"shutter": suspender}, engine)
    assert suspender.tripped and suspender.held_by()[0]


@pytest.mark.parametrize("condition", [{"below": 10}, {"above": 10}, {"unless": "Open"}])
def test_suspender_when_installed_then_the_user_s_device_has_no_subscription(condition):
    """With one, ophyd tells the value of one event with the time of another."""
    device, engine = EpicsSignalRO("NO:SUCH-PV", name="beam"), RunEngine()
    blocks = {"beam": SuspenderConfig(device="beam", **condition)}
    made = make_suspenders(blocks, {"beam": device})["beam"]
    engine.install_suspender(made)
    assert made._sig.pvname == device.pvname and made._sig._monitors["NO:SUCH-PV"] is not None
    assert device._monitors["NO:SUCH-PV"] is None
    engine.clear_suspenders()
    made._sig.destroy()
    device.destroy()
