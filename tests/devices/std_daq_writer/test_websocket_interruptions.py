"""Scans of the websocket generation, interrupted at messages all over them: right rows and images, idle."""

from __future__ import annotations

import pytest

from sfdaq_ophyd.devices import StdDaqWriter

from ...std_daq import simulated_websocket_daq
from ..fake import FakeDetector, FakeSource
from ..run_engine_driver import COMING_BACK, ENDING, check_run, drive, interruptible, streams
from .test_interruptions import N, flown, frame_number, inside, one_file, step

STRIDE = 23
"""Messages from one interruption to the next; each kind of interruption begins at another one."""


@pytest.fixture(scope="module")
def daq():
    with simulated_websocket_daq() as server:
        yield server


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


@pytest.mark.parametrize("plan", [step, one_file, flown, inside])
@pytest.mark.parametrize("interruption", [*COMING_BACK, *ENDING])
def test_scan_when_interrupted_at_a_message_then_rows_and_files_agree(daq, make, plan, interruption):
    quiet = drive(interruptible(True), lambda: plan(make.begin()))
    check_run(quiet, N, stamp_of=make.stamp)
    check_folder(quiet, make)
    offset = 4 * (list(COMING_BACK) + list(ENDING)).index(interruption)
    for at in range(offset, quiet.n_messages, STRIDE):
        run = drive(interruptible(True), lambda: plan(make.begin()), interruption, at)
        try:
            check_run(run, N if interruption in COMING_BACK else None, stamp_of=make.stamp)
            check_folder(run, make)
            assert daq.driver.shown == "idle"
        except AssertionError as exc:
            raise AssertionError(f"{interruption} at {at} of {run.commands}: {exc}") from exc
