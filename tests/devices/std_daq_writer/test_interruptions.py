"""Scans of all generations, interrupted at every message: right rows, right images, a DAQ left ready."""

from __future__ import annotations

import itertools
import threading

import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest

from sfdaq_ophyd.devices import FileDetector, StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer._rates import Beginning
from sfdaq_ophyd.devices.std_daq_writer._with_detectors import DetectorGroup
from sfdaq_ophyd.errors import Discarded
from sfdaq_ophyd.files.joined_images import OF_POINTS
from sfdaq_ophyd.plans import fly, std_daq_wrapper

from ..fake import FakeDetector, FakeSource
from ..run_engine_driver import (
    COMING_BACK,
    ENDING,
    check_files,
    check_run,
    drive,
    interruptible,
    numbered,
    streams,
)

N = 2

STRIDE = 6
"""Messages from one interruption to the next in one run; one that is flown goes on anew after the first."""

GENERATIONS = ("flask", "websocket")
"""Those whose control differs."""


class Bench:
    """Makes a fresh writer of one DAQ in a fresh folder, per run."""

    def __init__(self, daq, folder):
        self.daq, self._folder, self._count = daq, folder, 0
        self.generation = daq.settings.dialect
        self._joins = self.generation == "websocket"
        self._address = {"url": daq.ws_url, "config_url": daq.url} if self._joins else {"url": daq.url}

    def begin(self):
        self._count += 1
        self.directory = self._folder / f"{self.generation}{self._count}"
        return self

    def writer(self, *detectors):
        options = {"name": "w", "directory": self.directory, "detectors": detectors}
        self.device = StdDaqWriter(**self._address, **options)
        return self.device

    def camera(self):
        return FakeDetector(name="camera", directory=self.directory, source=FakeSource(period=0.005))

    def stamp(self, event_id):
        """Return the frame number of an event id, which is that, or a run id and a row of its file."""
        run_id, colon, row = event_id.partition(":")
        if not colon:
            return int(event_id)
        with h5py.File(self.directory / f"w_{run_id}.h5") as file:
            return int(next(iter(file.values()))["image_id"][int(row)])

    def interrupted(self, plan, interruption=None, at=-1):
        """Run a plan, interrupted at a message or several; check rows, files and DAQ; return it."""
        run = drive(interruptible(True), lambda: plan(self.begin()), interruption, at)
        try:
            check_run(run, None if interruption in ENDING else N, stamp_of=self.stamp)
            self._check_folder(run)
            if self._joins:
                assert self.daq.driver.shown == "idle"
            else:
                assert self.daq.service.status()["state"] == "READY"
        except AssertionError as exc:
            raise AssertionError(f"{interruption} at {at} of {run.commands}: {exc}") from exc
        return run

    def _check_folder(self, run):
        """Check that files of the DAQ are registered, in one of ours too, or told to belong to no point."""
        images = [
            path for one in streams(run).values() for parts in one.images.values() for path, *_ in parts
        ]
        registered, unused = set(images), set(self.device.unused.get().splitlines())
        if not self._joins:
            shown = {path.with_name(path.name.replace(OF_POINTS, "")) for path in images}
            check_files(run, self.directory, [*unused, *(shown - registered)])
            return
        for path in self.directory.glob("w_*.h5"):
            begin, _, k = path.stem.rpartition("_")
            if begin == "w":
                assert path in registered, f"{path} joins files for nobody"
            elif k != "Meta":
                joined = path.with_name(f"{begin}.h5")
                assert (joined in registered) != (str(path) in unused), path


@pytest.fixture
def bench(daq, tmp_path):
    return Bench(daq, tmp_path)


def step(bench):
    return bp.count([bench.writer()], N)


def one_file(bench):
    writer = bench.writer()
    writer.mode.put("run")
    writer.n_points.put(1000)
    return bp.count([writer], N)


def flown(bench):
    return fly([bench.writer()], N)


def wrapped(bench):
    return std_daq_wrapper(bp.count([bench.camera()], N), bench.writer())


def inside(bench):
    return bp.count([bench.writer(bench.camera())], N)


def flown_inside(bench):
    return fly([bench.writer(bench.camera())], N, period=0.02)


def flown_wrapped(bench):
    return std_daq_wrapper(fly([bench.camera()], N, period=0.02), bench.writer())


def one_by_one(bench, plan, kinds):
    """Interrupt a plan at each message of it, each generation in another way; return the runs."""
    first, runs = GENERATIONS.index(bench.generation), [bench.interrupted(plan)]
    for k, message in enumerate(numbered(runs[0].commands)):
        runs.append(bench.interrupted(plan, kinds[(first + k) % len(kinds)], message))
    return runs


def several(bench, plan, kinds):
    """Interrupt a plan several times per run, at each message of it together; return the runs."""
    first, runs = GENERATIONS.index(bench.generation), [bench.interrupted(plan)]
    for k in range(STRIDE):
        runs.append(bench.interrupted(plan, kinds[(first + k) % len(kinds)], range(k, 1000, STRIDE)))
    return runs


def check_all_hit(runs):
    """Check that no kind of message of the first run, which nobody interrupted, was left out of the others.

    How often a fly scan looks for points depends on time, so one of them may be missing.
    """
    quiet, *others = runs
    assert set(quiet.commands) <= {command for run in others for command, _ in run.hit}


@pytest.mark.parametrize("plan", [step, one_file, flown])
@pytest.mark.parametrize("daq", GENERATIONS, indirect=True)
def test_scan_when_interrupted_at_every_message_then_it_comes_back_to_the_same_rows_and_files(bench, plan):
    runs = (one_by_one if plan is flown else several)(bench, plan, COMING_BACK)
    check_all_hit(runs)
    assert sum(run.n_pauses for run in runs) > 0


@pytest.mark.parametrize("plan", [step, one_file, flown])
@pytest.mark.parametrize("daq", GENERATIONS, indirect=True)
def test_scan_when_ended_at_every_message_then_what_is_registered_is_there(bench, plan):
    check_all_hit(one_by_one(bench, plan, ENDING))


@pytest.mark.parametrize("plan", [wrapped, inside, flown_inside, flown_wrapped])
@pytest.mark.parametrize("daq", ["flask", "websocket"], indirect=True)
def test_scan_when_a_camera_is_interrupted_too_then_rows_and_files_agree(bench, plan):
    if plan in (wrapped, inside):
        for k, interruption in enumerate(COMING_BACK):
            bench.interrupted(plan, interruption, range(k, 1000, 2 * STRIDE))
    kinds = [*COMING_BACK, *ENDING] if plan in (flown_inside, flown_wrapped) else ENDING
    for at, interruption in zip(itertools.count(3, 4), kinds):
        bench.interrupted(plan, interruption, at)


def given_up_late(monkeypatch, place, device):
    """Have what is done at a place wait until the writer is given up; return what is set once it is there."""
    reached = threading.Event()
    owner, name = place
    do = getattr(owner, name)

    def late(*args):
        result = do(*args) if name == "takes_images" else True
        if result and not reached.is_set():
            reached.set()
            assert device.source._given_up.wait(120)
        return result if name == "takes_images" else do(*args)

    monkeypatch.setattr(owner, name, late)
    return reached


@pytest.fixture
def with_camera(daq, tmp_path):
    """A staged writer, and the detector inside it."""
    camera = FakeDetector(name="camera", directory=tmp_path, source=FakeSource(period=0.02))
    camera.frames_per_trigger.put(20)
    device = StdDaqWriter(daq.url, name="w", directory=tmp_path / "raw", detectors=[camera])
    device.stage()
    yield device, camera
    device.unstage()


@pytest.mark.parametrize("verb", ["pause", "stop"])
@pytest.mark.parametrize("place", [(Beginning, "takes_images"), (DetectorGroup, "trigger")])
def test_writer_when_given_up_while_it_opens_then_no_detector_inside_goes_on(
    with_camera, monkeypatch, place, verb
):
    device, camera = with_camera
    reached = given_up_late(monkeypatch, place, device)
    status = device.trigger()
    assert reached.wait(120)
    getattr(device, verb)()
    assert not camera._is_acquiring
    assert isinstance(status.exception(120), Discarded if verb == "stop" else type(None))
    device.resume()
    device.trigger().wait(60)
    assert len(camera.read()["camera_event_id"]["value"]) == 20


def test_trigger_when_the_writer_failed_before_its_detectors_then_they_are_given_up_first(
    daq, with_camera, wait_for
):
    device, camera = with_camera
    camera.source.faults[1] = "hang"
    failed = device.trigger()
    wait_for(lambda: camera.source.armed.is_set(), "the detector inside")
    daq.service.stop()
    assert failed.exception(60) is not None
    device.trigger().wait(60)


def test_fly_when_paused_while_it_opens_then_detectors_inside_wait_for_the_writer(with_camera, monkeypatch):
    device, camera = with_camera
    reached = given_up_late(monkeypatch, (DetectorGroup, "fly"), device)
    device.prepare(2).wait(120)
    device.kickoff()
    completed = device.complete()
    assert reached.wait(120)
    device.pause()
    assert not camera._is_acquiring
    device.resume()
    completed.wait(60)
    assert camera.get_index() == device.get_index() == 2


def test_fly_when_the_second_is_paused_while_it_opens_then_the_points_of_the_first_stay(
    with_camera, monkeypatch
):
    device, camera = with_camera
    device.prepare(2).wait(120)
    device.kickoff()
    device.complete().wait(60)
    reached = given_up_late(monkeypatch, (Beginning, "takes_images"), device)
    device.kickoff()
    completed = device.complete()
    assert reached.wait(120)
    device.pause()
    assert camera.n_flown == 2
    device.resume()
    completed.wait(60)
    assert camera.get_index() == device.get_index() == 2


def test_unstage_when_it_is_interrupted_then_detectors_inside_and_the_writer_are_unstaged_all_the_same(
    daq, tmp_path, monkeypatch
):
    cameras = [FakeDetector(name=name, directory=tmp_path) for name in ("first", "second")]
    device = StdDaqWriter(daq.url, name="w", directory=tmp_path / "raw", detectors=cameras)
    device.stage()

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(cameras[0].source, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        device.unstage()
    assert not any(one.is_staged for one in (*cameras, device))
    assert cameras[1].source.hardware == "as found"


@pytest.mark.parametrize(("faster", "period", "images"), [("writer", 0.02, 1), ("camera", 0.0, 10)])
@pytest.mark.parametrize("daq", GENERATIONS, indirect=True)
def test_fly_when_paused_with_other_counts_inside_then_all_go_on_from_the_same_point(
    bench, wait_for, faster, period, images
):
    n = 100
    bench.begin()
    camera = bench.camera()
    camera.source.period = period
    device = bench.writer(camera)
    device.frames_per_trigger.put(images)

    def they_differ():
        written, taken = FileDetector.get_index(device), camera.get_index()
        return 0 < taken < written if faster == "writer" else 0 < written < taken

    looked = []

    def look(msg):
        if msg.command == "collect" and not looked:
            looked.append(msg)
            wait_for(they_differ, "points of both, of one more")
        return msg

    def plan():
        return bpp.msg_mutator(fly([device], n, period=0.02), look)

    run = drive(interruptible(True), plan, "pause", ("collect", 0))
    check_run(run, n, stamp_of=bench.stamp)
    assert run.n_pauses == 1
    assert device.n_images.get() == images * camera.source.requests[-1].n_frames < images * n
