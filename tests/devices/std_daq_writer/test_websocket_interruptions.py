"""Scans of the websocket generation, interrupted at every message: right rows and images, an idle driver."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.devices import StdDaqWriter

from ..fake import FakeDetector, FakeSource
from ..run_engine_driver import COMING_BACK, ENDING, check_run, drive, interruptible, numbered, streams
from .test_interruptions import N, flown, frame_number, inside, one_file, step

STRIDE = 6
"""Messages from one interruption to the next in one run; one that is flown goes on anew after the first."""


@pytest.fixture
def daq(websocket_daq):
    return websocket_daq


@pytest.fixture
def make(daq, tmp_path):
    """Make a fresh writer in a fresh folder, per run."""

    class Made:
        count = 0

        def writer(self, *detectors):
            self.device = StdDaqWriter(
                daq.ws_url, config_url=daq.url, name="w", directory=self.directory, detectors=detectors
            )
            return self.device

        def camera(self):
            return FakeDetector(name="camera", directory=self.directory, source=FakeSource(period=0.005))

        def begin(self):
            self.count += 1
            self.directory = tmp_path / str(self.count)
            return self

        def stamp(self, event_id):
            return frame_number(self.directory, event_id)

    return Made()


def check_folder(run, made):
    """Check that files of the writers are joined in a registered one, or told to belong to no point."""
    registered = {
        path for one in streams(run).values() for parts in one.images.values() for path, *_ in parts
    }
    unused = set(made.device.unused.get().splitlines())
    for path in made.directory.glob("w_*.h5"):
        begin, _, k = path.stem.rpartition("_")
        if begin == "w":
            assert path in registered, f"{path} joins files for nobody"
        elif k != "Meta":
            joined = path.with_name(f"{begin}.h5")
            assert (joined in registered) != (str(path) in unused), path


def interrupted(daq, made, plan, interruption, at):
    """Run a plan, interrupted at a message or several; check rows, files and DAQ; return it."""
    run = drive(interruptible(True), lambda: plan(made.begin()), interruption, at)
    try:
        check_run(run, None if interruption in ENDING else N, stamp_of=made.stamp)
        check_folder(run, made)
        assert daq.driver.shown == "idle"
    except AssertionError as exc:
        raise AssertionError(f"{interruption} at {at} of {run.commands}: {exc}") from exc
    return run


@pytest.mark.parametrize("plan", [step, one_file, flown])
@pytest.mark.parametrize("interruption", ["pause", "suspend"])
def test_scan_when_interrupted_at_every_message_then_it_comes_back_to_the_same_rows_and_files(
    daq, make, plan, interruption
):
    every = numbered(interrupted(daq, make, plan, None, -1).commands)
    stride = len(every) if plan is flown else STRIDE
    runs = [
        interrupted(daq, make, plan, interruption, range(first, len(every), stride))
        for first in range(stride)
    ]
    assert every <= {message for run in runs for message in run.hit}
    assert interruption == "suspend" or sum(run.n_pauses for run in runs) >= len(every) // 2


@pytest.mark.parametrize("plan", [step, one_file, flown])
@pytest.mark.parametrize("interruption", ["abort", "stop"])
def test_scan_when_ended_at_every_message_then_what_is_registered_is_there(daq, make, plan, interruption):
    every = numbered(interrupted(daq, make, plan, None, -1).commands)
    runs = [interrupted(daq, make, plan, interruption, at) for at in range(len(every))]
    assert every == {message for run in runs for message in run.hit}


@pytest.mark.parametrize("interruption", [*COMING_BACK, *ENDING])
def test_scan_when_a_camera_inside_is_interrupted_too_then_rows_and_files_agree(daq, make, interruption):
    n_messages = interrupted(daq, make, inside, None, -1).n_messages
    several = interruption in COMING_BACK
    for at in [range(1, n_messages, 2 * STRIDE)] if several else (3, 4, 15):
        interrupted(daq, make, inside, interruption, at)


@pytest.mark.parametrize("plan", [step, one_file, flown])
@pytest.mark.parametrize("interruption", ["deferred pause", "halt"])
def test_scan_when_halted_or_paused_later_then_what_is_registered_is_there(daq, make, plan, interruption):
    n_messages = interrupted(daq, make, plan, None, -1).n_messages
    for at in range(3, n_messages, STRIDE):
        interrupted(daq, make, plan, interruption, at)
