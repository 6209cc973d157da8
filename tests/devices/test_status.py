"""Statuses: deadlines, words, watchers."""

from __future__ import annotations

import io

import bluesky.plans as bp
import pytest
from bluesky.utils import ProgressBarManager

from sfdaq_ophyd.devices._flying import JointStatus
from sfdaq_ophyd.devices._status import ActionStatus
from sfdaq_ophyd.errors import FramesMissing, ServiceRefused, ServiceTimeout
from sfdaq_ophyd.limits import counted_time

from .fake import FakeDetector, FakeSource
from .run_engine_driver import drive, interruptible


class Named:
    name = "det"


def action(what="exposure", timeout=30, **kwargs):
    return ActionStatus(Named(), what, timeout, **kwargs)


def test_status_when_nobody_ends_it_then_it_fails_with_the_last_state_in_time():
    status = action(timeout=0.05)
    status.progress(0, "armed, waiting for the gate")
    assert isinstance(status.exception(60), ServiceTimeout)
    assert str(status) == "det exposure: not done after 0.05 s; last state armed, waiting for the gate"


@pytest.mark.parametrize(
    "exc, text",
    [
        (
            FramesMissing("det", asked=3, got=1, missing=[7]),
            "det: 1 of 3 frames came; missing ids 7",
        ),
        (ServiceRefused("arm", url="there", said="no"), "det: arm: there answered: 'no'"),
    ],
)
def test_status_when_failed_then_its_text_says_who_what_and_why(exc, text):
    status = action()
    status.fail(exc)
    assert status.exception(60) is exc
    assert str(status) == f"{text} (during exposure)"


def test_status_when_ended_twice_then_the_first_counts():
    status = action()
    status.succeed()
    status.succeed()
    status.fail(ValueError("late"))
    assert status.exception(60) is None


def test_status_when_there_is_progress_then_its_time_begins_anew(wait_for):
    status = action(timeout=2.0, target=10)
    begun = counted_time()
    for step in range(1, 7):
        wait_for(lambda step=step: counted_time() - begun > 0.5 * step, "time to pass")
        status.progress(step)
    assert not status.done
    assert isinstance(status.exception(60), ServiceTimeout)


def test_status_when_held_then_its_clock_stands_until_released(wait_for):
    status = action(timeout=1.0)
    status.hold()
    other = action(timeout=2.0)
    wait_for(lambda: other.done, "the other status to time out")
    assert not status.done
    status.release()
    assert isinstance(status.exception(60), ServiceTimeout)


def test_status_when_watched_then_tells_how_far_it_is():
    status, told = action(target=10), []
    status.watch(lambda **kwargs: told.append(kwargs))
    status.progress(4, "frame 4")
    status.succeed()
    status.wait(60)
    assert [(step["current"], step["target"], step["unit"]) for step in told] == [
        *((0, 10, "frames"), (4, 10, "frames")),
        (10, 10, "frames"),
    ]
    assert [step["fraction"] for step in told] == [1.0, 0.6, 0.0]
    assert told[0]["time_remaining"] is None and told[1]["time_remaining"] > 0
    assert {step["name"] for step in told} == {"det exposure"}


def test_status_when_a_watcher_fails_then_it_goes_on_without_it():
    status = action(target=3)
    told = []

    def broken(**kwargs):
        told.append(kwargs)
        raise RuntimeError("screen is gone")

    status.watch(broken)
    status.progress(1)
    status.succeed()
    assert status.exception(60) is None
    assert len(told) == 1


def test_joint_status_when_all_are_done_then_done():
    parts = [action(target=2), action(target=6)]
    joint, told = JointStatus("both", parts), []
    joint.watch(lambda **kwargs: told.append((kwargs["name"], kwargs["current"], kwargs["target"])))
    parts[1].progress(3)
    parts[0].succeed()
    assert not joint.done
    parts[1].succeed()
    assert joint.exception(60) is None
    assert ("both", 3, 8) in told and told[-1] == ("both", 8, 8)


def test_joint_status_when_one_fails_then_fails_with_its_words():
    parts = [action("kickoff"), action("kickoff")]
    joint = JointStatus("both", parts)
    parts[1].fail(FramesMissing("jf", asked=3, got=1))
    assert isinstance(joint.exception(60), FramesMissing)
    assert "jf: 1 of 3 frames came" in str(joint)


def test_outcome_when_the_action_returns_or_raises_then_the_status_says_so_once_it_is_told():
    done, failed = action("write"), action("write")
    tells = [done.outcome(lambda: None), failed.outcome(lambda: [][0])]
    assert not done.done and not failed.done
    for tell in tells:
        tell()
    assert done.exception(60) is None
    assert isinstance(failed.exception(60), IndexError)


def test_progress_bar_when_a_scan_runs_then_it_is_drawn(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    engine = interruptible()
    engine.waiting_hook = ProgressBarManager()
    det = FakeDetector(name="det", directory=tmp_path, source=FakeSource(period=0.05))
    det.frames_per_trigger.put(8)
    assert drive(engine, lambda: bp.count([det], 1)).error is None
    assert "det exposure" in screen.getvalue()
