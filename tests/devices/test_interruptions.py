"""Step and fly scans, interrupted at every message: the right points, no orphan, hardware as found."""

from __future__ import annotations

import threading

import bluesky.plans as bp
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.plans import fly

from .fake import FakeDetector, FakeFileSource, FakeSource, FakeWriter
from .run_engine_driver import COMING_BACK, ENDING, check_files, check_run, drive, interruptible

N = 2
STRIDE = {"pause": 1, "suspend": 1, "abort": 1, "stop": 3, "halt": 3}
"""Stop and halt take the way of abort."""


class Bench:
    """A fresh folder and detectors for each interrupted run."""

    def __init__(self, tmp_path, n_detectors=1, frames_per_trigger=1, period=0.004, theirs=False):
        self.theirs = theirs
        self.root, self.count = tmp_path, 0
        self.n_detectors, self.frames_per_trigger, self.period = n_detectors, frames_per_trigger, period
        self.threads_before = set(threading.enumerate())

    def fresh(self):
        self.count += 1
        self.directory = self.root / str(self.count)
        self.detectors = [self._detector(k) for k in range(self.n_detectors)]
        for detector in self.detectors:
            detector.frames_per_trigger.put(self.frames_per_trigger)
        return self.detectors

    def _detector(self, k):
        period, where = self.period * (k + 1), self.directory
        if self.theirs:
            return FakeWriter(name=f"det{k}", directory=where, source=FakeFileSource(where, period=period))
        return FakeDetector(name=f"det{k}", directory=where, source=FakeSource(period=period))

    def check_at_rest(self):
        for detector in self.detectors:
            assert detector.source.hardware == "as found"
            assert detector._staged.value == "no"
        names = tuple(detector.name for detector in self.detectors)
        begun = set(threading.enumerate()) - self.threads_before
        assert not [t for t in begun if t.name.startswith(names)]


def step_scan(bench):
    motor = SynAxis(name="motor")
    return bp.scan(bench.fresh(), motor, 0, 1, N)


def fly_scan(bench):
    return fly(bench.fresh(), N, period=0.006)


def every_message(bench, plan, interruption, *, save_once=False, exact=True, stride=1):
    quiet = drive(interruptible(save_once), lambda: plan(bench))
    check_run(quiet, N)
    for at in range(0, quiet.n_messages, stride):
        run = drive(interruptible(save_once), lambda: plan(bench), interruption, at)
        where = f"{interruption} at {at} ({(*run.commands, 'end')[min(at, run.n_messages)]})"
        try:
            came_back = interruption in COMING_BACK
            check_run(run, N if came_back else None, exact=exact)
            check_files(run, bench.directory)
            bench.check_at_rest()
            if not came_back and run.documents:
                early = "success" if interruption == "stop" else "abort"
                assert run.error is None
                assert run.stop["exit_status"] in ("success", early)
        except AssertionError as exc:
            raise AssertionError(f"{where}: {exc}") from exc


@pytest.mark.parametrize("interruption", ["pause", "suspend", *ENDING])
def test_step_scan_when_interrupted_then_rows_and_frames_agree(tmp_path, interruption):
    every_message(Bench(tmp_path), step_scan, interruption, exact=False, stride=STRIDE[interruption])


@pytest.mark.parametrize("interruption", ["pause", "suspend"])
def test_step_scan_when_events_are_saved_once_then_every_point_is_there_once(tmp_path, interruption):
    every_message(Bench(tmp_path), step_scan, interruption, save_once=True, stride=STRIDE[interruption])


@pytest.mark.parametrize("interruption", ["pause", "suspend", *ENDING])
def test_fly_scan_when_interrupted_then_every_point_is_there_once(tmp_path, interruption):
    every_message(Bench(tmp_path), fly_scan, interruption, stride=STRIDE[interruption])


@pytest.mark.parametrize("interruption", ["pause", "abort"])
def test_fly_scan_of_two_when_interrupted_then_rows_are_aligned(tmp_path, interruption):
    bench = Bench(tmp_path, n_detectors=2, frames_per_trigger=2)
    every_message(bench, fly_scan, interruption, stride=2)


@pytest.mark.parametrize("plan", [step_scan, fly_scan])
def test_plan_when_paused_deferred_then_every_point_is_there_once(tmp_path, plan):
    every_message(Bench(tmp_path), plan, "deferred pause", stride=7)


@pytest.mark.parametrize("plan", [step_scan, fly_scan])
@pytest.mark.parametrize("interruption", ["pause", "abort"])
def test_foreign_files_when_interrupted_then_only_kept_points_are_registered(tmp_path, plan, interruption):
    every_message(Bench(tmp_path, theirs=True), plan, interruption, save_once=True, stride=2)
