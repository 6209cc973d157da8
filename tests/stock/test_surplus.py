"""Files that hold more images than their points have: stock parts read what was registered, nothing else."""

from __future__ import annotations

import contextlib
import copy
import re
import threading

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted

from sfdaq_ophyd.devices import Eiger, StdDaqWriter
from sfdaq_ophyd.errors import DetectorStateError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.stamp import read_stamp

from ..devices.eiger.conftest import stamp_of
from ..devices.fake import FakeDetector, FakeSource
from ..devices.run_engine_driver import interruptible
from ..devices.std_daq_writer.documents import points_dropped
from ..devices.test_stock_stubs import flown
from ..std_daq import simulated_daq, simulated_websocket_daq
from .test_documents import (
    WRITERS,
    check_eiger,
    check_jungfrau,
    check_writer,
)

pytestmark = [
    # bluesky's own writer calls Tiled the old way
    pytest.mark.filterwarnings("ignore:The order of arguments has changed:DeprecationWarning"),
    # Tiled stores arrays of strings as zarr
    pytest.mark.filterwarnings("ignore:The data type:Warning"),
]


@pytest.fixture(scope="module", params=["flask", "websocket"])
def daq(request):
    """One file per acquisition, or two that share its images."""
    make = simulated_daq if request.param == "flask" else simulated_websocket_daq
    with make(**({"dialect": "flask"} if request.param == "flask" else {"n_writers": 2})) as server:
        yield server


@pytest.fixture
def writer(daq, tmp_path):
    address = (daq.ws_url, daq.url) if hasattr(daq, "ws_url") else (daq.url, None)
    device = StdDaqWriter(
        address[0], config_url=address[1], name="writer", directory=tmp_path / "raw", mode="run"
    )
    device.frames_per_trigger.put(2)
    device.n_points.put(10_000)
    device.timeout.put(30.0)
    yield device
    device.unstage()


PLANS = {
    "fewer points than asked for": (lambda writer: bp.count([writer], 3), 3, 1),
    "a point is not saved": (points_dropped, 2, 2),
    "a fly scan is paused": (lambda writer: fly([writer], 40, period=0.05), 40, 2),
}


def recorded(engine):
    """Return the list that all documents of an engine go to, as they are then."""
    documents = []
    engine.subscribe(lambda name, doc: documents.append((name, copy.deepcopy(doc))))
    return documents


def written_by(writers, documents, stock_client):
    """Yield a run as each of some writers has put it into a catalog of its own."""
    uid = documents[0][1]["uid"]
    for name in writers:
        catalog = stock_client.create_container()
        write = WRITERS[name](catalog)
        for name, doc in copy.deepcopy(documents):
            write(name, doc)
        yield catalog[uid]


@pytest.mark.parametrize("what", PLANS)
def test_file_when_images_came_after_its_points_then_stock_parts_read_the_points(writer, stock_client, what):
    plan, n_points, n_written = PLANS[what]
    engine = interruptible()
    documents = recorded(engine)
    if "paused" in what:
        pause = threading.Thread(target=engine.request_pause)
        engine.subscribe(lambda *_: pause.ident or pause.start(), "stream_datum")
    with contextlib.suppress(RunEngineInterrupted):
        engine(plan(writer))
    if engine.state == "paused":
        engine.resume()
    assert len({doc["uri"] for name, doc in documents if name == "stream_resource"}) == n_written
    for run in written_by(WRITERS, documents, stock_client):
        stream = run["primary"]
        images, ids = np.asarray(stream["writer_image"].read()), stream["writer_image_id"].read()
        assert images.shape == (n_points, 2, 8, 16)
        stamps = [read_stamp(image) for image in images.reshape(-1, 8, 16)]
        assert stamps == ids.ravel().tolist() and len(set(stamps)) == len(stamps)


class Pacemaker(FakeSource):
    """Frames of two points; what happens before the third one is `then`, once both points are saved."""

    then = staticmethod(lambda: None)

    def __init__(self):
        super().__init__()
        self.saved = threading.Event()

    def frame(self, number):
        if number == 5:
            assert self.saved.wait(60)
            self.then()
        return super().frame(number)


@pytest.fixture(scope="module")
def unit():
    with Facility(only=["eiger"], eiger_shape=(32, 48), eiger_dwell=0) as facility:
        yield facility.eiger


@pytest.fixture
def filed(unit, tmp_path):
    """An Eiger whose points are in the files of its filewriter, many in each."""
    eiger = Eiger(unit.url, name="eiger", directory=tmp_path, readout="filewriter", timeout=60)
    eiger.exposure_time.put(0.002)
    eiger.timeout.put(30.0)
    eiger.frames_per_trigger.put(2)
    yield eiger
    eiger.unstage()
    eiger.client.close()


def points_flown(eiger, other):
    return fly([eiger, other], 6, period=0.01)


def points_flown_by_stubs(eiger, other):
    return flown(eiger, other, n=6)


@pytest.mark.parametrize(
    ("plan", "what", "n_points"),
    [
        (points_flown, "fails", 2),
        (points_flown, "is aborted", 2),
        (points_flown, "is paused", 6),
        (points_flown_by_stubs, "fails", 2),
    ],
)
def test_fly_when_it_ends_within_a_data_file_then_stock_parts_read_the_points(
    filed, tmp_path, stock_client, plan, what, n_points
):
    """Of the Eiger's filewriter, and of a file that we write."""
    other = FakeDetector(name="other", directory=tmp_path, source=Pacemaker())
    other.frames_per_trigger.put(2)
    engine = interruptible()
    documents = recorded(engine)
    engine.subscribe(lambda _, doc: doc["indices"]["stop"] < 2 or other.source.saved.set(), "stream_datum")

    def fail():
        raise DetectorStateError("other: broken")

    def pause():
        threading.Thread(target=engine.request_pause).start()
        assert other.source._gone.wait(60)

    other.source.then = fail if what == "fails" else pause
    with contextlib.suppress(RunEngineInterrupted, FailedStatus):
        engine(plan(filed, other))
    if engine.state == "paused":
        engine.abort() if what == "is aborted" else engine.resume()
    for run in written_by(WRITERS, documents, stock_client):
        stream = run["primary"]
        images = np.asarray(stream["eiger_image"].read())
        assert images.shape == (n_points, 2, 32, 48)
        stamps = [read_stamp(image) for image in images.reshape(-1, 32, 48)]
        if "eiger_event_id" in stream:
            ids = re.findall(r"\d+_\d+", str(stream["eiger_event_id"].read().tolist()))
            assert stamps == [stamp_of(one) for one in ids] and len(set(stamps)) == n_points * 2
        else:  # bluesky's own stubs ask for no rows, and the file has no ids
            assert np.diff(stamps).tolist() == [1] * (len(stamps) - 1)
        stamps = [read_stamp(image) for image in np.asarray(stream["other_image"].read()).reshape(-1, 16, 16)]
        ids = re.findall(r"\d+", str(stream["other_event_id"].read().tolist()))
        assert stamps == [int(one) for one in ids] and len(set(stamps)) == n_points * 2


CHECKS = (check_eiger, check_jungfrau, check_writer)


def test_points_when_one_is_not_saved_then_stock_parts_read_the_others(facility, detectors, stock_client):
    engine = interruptible()
    documents = recorded(engine)
    *taking, _ = detectors  # the broker's data are a stream of their own, tested beside it
    engine(points_dropped(*taking))
    for run in written_by(["bluesky"], documents, stock_client):
        for check in CHECKS:
            check(run["primary"], 2, facility)


def test_fly_when_several_are_aborted_then_stock_parts_read_what_was_saved(facility, detectors, stock_client):
    *flying, _ = detectors
    engine = interruptible()
    documents = recorded(engine)
    pause = threading.Thread(target=engine.request_pause)
    engine.subscribe(lambda *_: pause.ident or pause.start(), "stream_datum")
    with contextlib.suppress(RunEngineInterrupted):
        engine(fly(flying, 2000, period=0.05))
    assert engine.state == "paused", "no run is over so soon"
    engine.abort()
    pause.join()
    for run in written_by(["plugins"], documents, stock_client):
        n = len(run["primary"]["eiger_event_id"].read())
        assert 0 < n < 2000
        for check in CHECKS:
            check(run["primary"], n, facility)
