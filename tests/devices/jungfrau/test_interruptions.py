"""The Jungfrau paused, suspended and ended at many messages: the right points, and nothing left running."""

from __future__ import annotations

import threading

import bluesky.plans as bp
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd.plans import fly

from ..run_engine_driver import COMING_BACK, ENDING, check_files, check_run, drive, interruptible

N = 2
PLANS = {
    "step": lambda detectors: bp.scan(detectors, SynAxis(name="motor"), 0, 1, N),
    "fly": lambda detectors: fly(detectors, N),
}
STRIDE = {"pause": 2, "abort": 3}
"""Messages between two tries; 5 for the others."""


@pytest.mark.parametrize("interruption", [*COMING_BACK, *ENDING])
@pytest.mark.parametrize("plan", list(PLANS))
def test_scan_when_interrupted_at_a_message_then_frames_are_right_and_nothing_runs_on(
    make, tmp_path, plan, interruption
):
    came_back = interruption in COMING_BACK
    quiet = drive(interruptible(True), lambda: PLANS[plan]([make(tmp_path / "quiet")]))
    check_run(quiet, N)
    for at in range(0, quiet.n_messages, STRIDE.get(interruption, 5)):
        jungfrau = make(tmp_path / str(at))
        run = drive(
            interruptible(came_back), lambda jungfrau=jungfrau: PLANS[plan]([jungfrau]), interruption, at
        )
        where = (*run.commands, "end")[min(at, run.n_messages)]
        try:
            check_run(run, N if came_back else None)
            check_files(run, tmp_path / str(at))
            assert not [t.name for t in threading.enumerate() if t.name.startswith(("jf", "frames of"))]
        except AssertionError as exc:
            raise AssertionError(f"{interruption} at {at} ({where}): {exc}") from exc
