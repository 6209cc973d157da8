"""Detectors in bluesky's own fly stubs, and in two runs at once: nothing of ours but the devices.

Found faults: stock-fly, two-runs-one-detector.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky.utils import short_uid
from event_model import StreamRange, compose_stream_resource
from ophyd.sim import motor
from ophyd.status import Status

from sfdaq_ophyd.devices import WrittenFile, frames_in_hdf5
from sfdaq_ophyd.devices._store import WrittenFileStore
from sfdaq_ophyd.errors import DetectorStateError
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire.frame import Frame, FrameFormat

from .fake import FakeDetector, FakeFileSource, FakeSource, FakeWriter
from .run_engine_driver import check_files, check_run, drive, streams


@pytest.fixture
def det(tmp_path):
    return FakeDetector(name="det", directory=tmp_path, source=FakeSource(period=0.002))


def flown(*detectors, n=10, times=1, stage=True, **prepared):
    """A plan of stubs alone, as bluesky's documentation has it."""

    @bpp.run_decorator()
    def plan():
        for detector in detectors:
            yield from bps.prepare(detector, prepared.get(detector.name, n), group="prepare")
        yield from bps.wait("prepare")
        yield from bps.declare_stream(*detectors, name="primary", collect=True)
        for _ in range(times):
            yield from bps.kickoff_all(*detectors, wait=True)
            yield from bps.collect_while_completing(
                detectors, detectors, flush_period=0.01, stream_name="primary"
            )

    return bpp.stage_wrapper(plan(), detectors) if stage else plan()


@pytest.mark.parametrize("frames_per_trigger", [1, 3])
def test_stock_fly_when_one_detector_then_ids_are_columns_of_its_file(
    engine, det, tmp_path, frames_per_trigger
):
    det.frames_per_trigger.put(frames_per_trigger)
    collected = threading.Event()
    engine.subscribe(lambda name, doc: collected.set(), "stream_datum")

    def frame(number, original=det.source.frame):
        assert number < 6 * frames_per_trigger or collected.wait(60), "collected while it flies"
        return original(number)

    det.source.frame = frame
    run = drive(engine, lambda: flown(det))
    check_run(run, 10)
    check_files(run, tmp_path)
    (descriptor,) = run.named("descriptor")
    columns = {"timestamp", "event_id", "pulse_id", "is_good", "total", "mean"}
    assert set(descriptor["data_keys"]) == {"det_image", *(f"det_{column}" for column in columns)}
    row = streams(run)["primary"].rows[0]
    assert np.all(np.array(row["det_pulse_id"]) == 1000 + np.array(row["det_event_id"]).astype(int))


def test_stock_fly_when_detectors_differ_then_all_share_one_stream(engine, det, tmp_path):
    theirs = FakeWriter(name="theirs", directory=tmp_path, source=FakeFileSource(tmp_path, shape=(8, 12)))
    det.frames_per_trigger.put(2)
    run = drive(engine, lambda: flown(det, theirs, n=6))
    assert run.error is None
    found = streams(run)["primary"]
    assert found.seq_nums == list(range(1, 7))
    assert found.data_keys["theirs_image"]["external"] == "STREAM:"
    assert "theirs_event_id" not in found.data_keys, "a foreign file has no such column"
    for key, n_frames in (("det_image", 12), ("theirs_image", 6)):
        stamps = []
        for path, dataset, start, stop in found.images[key]:
            with h5py.File(path, "r", swmr=True) as file:
                n = n_frames // 6
                stamps += [read_stamp(image) for image in file[dataset][start * n : stop * n]]
        assert stamps == list(range(1, n_frames + 1))


def test_stock_fly_when_kicked_off_again_then_points_go_on_in_the_stream(engine, det, tmp_path):
    other = FakeDetector(name="other", directory=tmp_path, source=FakeSource(period=0.003))
    run = drive(engine, lambda: flown(det, other, n=4, times=3))
    check_run(run, 12)
    check_files(run, tmp_path)


def test_stock_fly_when_staged_once_for_two_runs_then_each_has_its_own(engine, det, tmp_path):
    other = FakeDetector(name="other", directory=tmp_path, source=FakeSource(period=0.003))

    @bpp.stage_decorator([det, other])
    def plan():
        yield from flown(det, n=3, stage=False)  # one of them is ahead
        yield from flown(det, other, n=4, stage=False)

    run = drive(engine, plan)
    assert run.error is None
    for part, n, names in zip(of_each_run(run), (3, 4), ({"det"}, {"det", "other"}), strict=True):
        check_run(part, n)
        assert {key.split("_")[0] for key in part.named("descriptor")[0]["data_keys"]} == names


class AsyncCamera:
    """A detector as ophyd-async has them: awaitable verbs, an index that begins anew with `prepare`."""

    name, parent, hints = "foreign", None, {}

    def __init__(self, path):
        self._path, self._n, self._emitted, self._bundle = path, 0, 0, None

    async def read_configuration(self):
        return {}

    async def describe_configuration(self):
        return {}

    def prepare(self, value):
        self._wanted, self._n, self._emitted, self._bundle = value, 0, 0, None
        return _done()

    def kickoff(self):
        self._wanted += self._n if self._emitted else 0
        return _done()

    def complete(self):
        async def run():
            while self._n < self._wanted:
                await asyncio.sleep(0.001)
                self._n += 1
            status.set_finished()

        status = Status(timeout=60)
        self._task = asyncio.get_running_loop().create_task(run())
        return status

    async def describe_collect(self):
        key = {"source": "sim", "dtype": "array", "dtype_numpy": "<u2", "shape": [1, 4, 4]}
        return {"foreign": {**key, "external": "STREAM:"}}

    async def get_index(self):
        return self._n

    async def collect_asset_docs(self, index=None):
        if index:
            if self._bundle is None:
                self._bundle = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{self._path}",
                    data_key="foreign",
                    parameters={"dataset": "/data", "chunk_shape": (1, 4, 4)},
                )
                yield "stream_resource", self._bundle.stream_resource_doc
            if index > self._emitted:
                indices = StreamRange(start=self._emitted, stop=index)
                self._emitted = index
                yield "stream_datum", self._bundle.compose_stream_datum(indices=indices)


def _done():
    status = Status(timeout=60)
    status.set_finished()
    return status


@pytest.mark.parametrize("again", ["prepared", "kicked off"])
def test_stock_fly_when_mixed_with_an_async_detector_then_indices_agree(engine, det, tmp_path, again):
    foreign = AsyncCamera(tmp_path / "x")

    @bpp.stage_decorator([det])
    @bpp.run_decorator()
    def plan():
        yield from bps.declare_stream(det, foreign, name="primary", collect=True)
        for k in range(2):
            if again == "prepared" or k == 0:
                yield from bps.prepare(det, 5, wait=True)
                yield from bps.prepare(foreign, 5, wait=True)
            yield from bps.kickoff_all(det, foreign, wait=True)
            yield from bps.collect_while_completing(
                [det, foreign], [det, foreign], flush_period=0.005, stream_name="primary"
            )

    run = drive(engine, plan)
    assert run.error is None
    points = {"det_image": 0, "foreign": 0}
    resources = {doc["uid"]: doc["data_key"] for doc in run.named("stream_resource")}
    for datum in run.named("stream_datum"):
        if (key := resources[datum["stream_resource"]]) in points:
            points[key] += datum["indices"]["stop"] - datum["indices"]["start"]
    assert points == {"det_image": 10, "foreign": 10}


def test_fly_during_when_its_stream_is_declared_then_it_flies_beside_the_scan(engine, det, tmp_path):
    def scan():
        yield from bps.open_run()
        yield from bps.declare_stream(det, name="flown", collect=True)
        for k in range(3):
            yield from bps.mv(motor, k)
            yield from bps.trigger_and_read([motor])
        yield from bps.close_run()

    det.n_points.put(6)
    run = drive(engine, lambda: bpp.stage_wrapper(bpp.fly_during_wrapper(scan(), [det]), [det]))
    check_run(run, 6, stream="flown")
    check_files(run, tmp_path)
    assert len(streams(run)["primary"].rows) == 3


def test_bp_fly_when_it_cannot_stage_or_declare_then_the_error_names_our_plan(engine, det, tmp_path):
    run = drive(engine, lambda: bp.fly([det]))
    assert "det: kickoff needs a staged device" in str(run.error)
    assert "sfdaq_ophyd.plans.fly" in str(run.error)
    run = drive(engine, lambda: bpp.stage_wrapper(bp.fly([det]), [det]))
    assert "det: collect needs a stream that was declared before" in str(run.error)
    assert "sfdaq_ophyd.plans.fly" in str(run.error)
    check_run(drive(engine, lambda: flown(det)), 10)


def interleaved(*detectors, n=3, declared=False):
    """Two runs, one inside the other, whose points take turns."""

    @bpp.stage_decorator(detectors)
    def plan():
        for key in "12":
            yield from bpp.set_run_key_wrapper(bps.open_run(), key)
            if declared:
                yield from bpp.set_run_key_wrapper(bps.declare_stream(*detectors, name="primary"), key)
        for _ in range(n):
            for key in "12":
                yield from bpp.set_run_key_wrapper(bps.trigger_and_read(detectors), key)
        for key in "12":
            yield from bpp.set_run_key_wrapper(bps.close_run(), key)

    return plan()


def of_each_run(run):
    """The documents of each run, apart."""
    owner, parts = {}, {doc["uid"]: type(run)() for doc in run.named("start")}
    for kind, doc in run.documents:
        start = doc["uid"] if kind == "start" else doc.get("run_start")
        start = start or owner[doc.get("descriptor") or doc["stream_resource"]]
        owner[doc.get("uid")] = start
        parts[start].documents.append((kind, doc))
    return list(parts.values())


@pytest.mark.parametrize("declared", [False, True])
def test_two_runs_one_detector_when_they_take_turns_then_each_has_its_points(engine, det, tmp_path, declared):
    run = drive(engine, lambda: interleaved(det, motor, declared=declared))
    assert run.error is None
    check_files(run, tmp_path)
    ids = []
    for part in of_each_run(run):
        check_run(part, 3)
        ids.append([row["det_event_id"] for row in streams(part)["primary"].rows])
    assert ids == [["1", "3", "5"], ["2", "4", "6"]]


def test_two_runs_one_detector_when_they_follow_each_other_then_files_hold_many_points(engine, det, tmp_path):
    """An inner run that is closed does not cost its successors a file per point."""

    @bpp.stage_decorator([det])
    def plan():
        yield from bpp.set_run_key_wrapper(bps.open_run(), "outer")
        yield from bpp.set_run_key_wrapper(bps.trigger_and_read([det]), "outer")
        yield from bpp.set_run_key_wrapper(bps.close_run(), "outer")
        yield from bps.open_run()
        for _ in range(4):
            yield from bps.trigger_and_read([det])
        yield from bps.close_run()

    run = drive(engine, plan)
    assert run.error is None
    check_files(run, tmp_path)
    assert len(list(tmp_path.glob("*.h5"))) == 2


def test_two_runs_one_detector_when_a_parent_reads_between_children_then_nothing_is_lost(
    engine, det, tmp_path
):
    @bpp.stage_decorator([det])
    def plan():
        yield from bpp.set_run_key_wrapper(bps.open_run(), "parent")
        for k in range(3):
            yield from bpp.set_run_key_wrapper(bps.trigger_and_read([det]), "parent")
            child = short_uid("child")
            yield from bpp.set_run_key_wrapper(bpp.run_wrapper(inner(k)), child)
        yield from bpp.set_run_key_wrapper(bps.close_run(), "parent")

    def inner(k):
        for _ in range(k + 1):
            yield from bps.trigger_and_read([det])

    run = drive(engine, plan)
    assert run.error is None
    check_files(run, tmp_path)
    for part, n in zip(of_each_run(run), (3, 1, 2, 3), strict=True):
        check_run(part, n)


def test_two_runs_one_detector_when_a_file_is_the_first_ones_then_the_second_is_refused_by_name(tmp_path):
    """Somebody else's file of many points cannot be shared; what the first run has of it stays."""
    store = WrittenFileStore("writer", FrameFormat((4, 4), "u2"), 1)
    keys = {"image": frames_in_hdf5("/data", (4, 4), 1)}
    store.append(WrittenFile(tmp_path / "whole_run.h5", 4, keys))

    def point(number):
        store.append(Frame(None, 1.0, str(number)))
        for name, doc in store.documents(1):
            doc["run_start" if name == "stream_resource" else "descriptor"] = "as the RunEngine does"

    first, second = OrderedDict(), OrderedDict()
    store.described(first)
    point(1)
    store.described(second)
    with pytest.raises(
        DetectorStateError, match="writer: .*whole_run.h5 holds points of another stream or run"
    ):
        point(2)
    assert store.n_ready == 1 and first == second
