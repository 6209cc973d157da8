"""Scans interrupted at messages all over them: right rows, right images, a writer that is READY."""

from __future__ import annotations

import bluesky.plans as bp
import h5py
import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.files.std_daq_file import OF_POINTS
from sfdaq_ophyd.plans import fly, std_daq_wrapper

from ..fake import FakeDetector, FakeSource
from ..run_engine_driver import COMING_BACK, ENDING, check_files, check_run, drive, interruptible, streams

N = 2


@pytest.fixture
def make(daq, tmp_path):
    """Make a fresh writer in a fresh folder, per run."""

    class Made:
        count = 0

        def writer(self, *detectors):
            self.device = StdDaqWriter(daq.url, name="w", directory=self.directory, detectors=detectors)
            return self.device

        def camera(self):
            return FakeDetector(name="camera", directory=self.directory, source=FakeSource(period=0.005))

        def begin(self):
            self.count += 1
            self.directory = tmp_path / f"{daq.settings.dialect}{self.count}"
            return self

        def stamp(self, event_id):
            return frame_number(self.directory, event_id)

    return Made()


def frame_number(directory, event_id):
    """Return the frame number of an event id, which is that, or a run id and a row of its file."""
    run_id, colon, row = event_id.partition(":")
    if not colon:
        return int(event_id)
    with h5py.File(directory / f"w_{run_id}.h5") as file:
        return int(next(iter(file.values()))["image_id"][int(row)])


def shown_in_ours(run):
    """Return the DAQ's files whose points are registered in a file of ours beside them."""
    paths = [path for one in streams(run).values() for parts in one.images.values() for path, *_ in parts]
    return {path.with_name(path.name.replace(OF_POINTS, "")) for path in paths if OF_POINTS in path.name}


def step(make):
    return bp.count([make.writer()], N)


def one_file(make):
    writer = make.writer()
    writer.mode.put("run")
    writer.n_points.put(1000)
    return bp.count([writer], N)


def flown(make):
    return fly([make.writer()], N)


def wrapped(make):
    return std_daq_wrapper(bp.count([make.camera()], N), make.writer())


def inside(make):
    return bp.count([make.writer(make.camera())], N)


def flown_inside(make):
    return fly([make.writer(make.camera())], N, period=0.02)


def flown_wrapped(make):
    return std_daq_wrapper(fly([make.camera()], N, period=0.02), make.writer())


STRIDES = {step: 3, inside: 17, flown_inside: 17, flown_wrapped: 17}
"""Messages from one interruption to the next; 8 where not named."""


@pytest.mark.parametrize("daq", ["flask"], indirect=True)
@pytest.mark.parametrize("plan", [step, one_file, flown, wrapped, inside, flown_inside, flown_wrapped])
@pytest.mark.parametrize("interruption", [*COMING_BACK, *ENDING])
def test_scan_when_interrupted_at_a_message_then_rows_and_files_agree(daq, make, plan, interruption):
    quiet = drive(interruptible(True), lambda: plan(make.begin()))
    check_run(quiet, N, stamp_of=make.stamp)
    stride = STRIDES.get(plan, 8)
    offset = (list(COMING_BACK) + list(ENDING)).index(interruption) % stride
    for at in range(offset, quiet.n_messages, stride):
        run = drive(interruptible(True), lambda: plan(make.begin()), interruption, at)
        try:
            check_run(run, N if interruption in COMING_BACK else None, stamp_of=make.stamp)
            check_files(run, make.directory, [*make.device.unused.get().splitlines(), *shown_in_ours(run)])
            assert daq.service.status()["state"] == "READY"
        except AssertionError as exc:
            raise AssertionError(f"{interruption} at {at} of {run.commands}: {exc}") from exc
