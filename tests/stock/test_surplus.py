"""Files that hold more images than their points have: stock parts read what was registered, nothing else."""

from __future__ import annotations

import contextlib
import copy
import threading

import bluesky.callbacks.tiled_writer
import bluesky.plans as bp
import bluesky_tiled_plugins
import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

from ..devices.run_engine_driver import interruptible
from ..devices.std_daq_writer.documents import points_dropped
from ..std_daq import simulated_daq, simulated_websocket_daq

pytestmark = pytest.mark.filterwarnings("ignore:The order of arguments has changed:DeprecationWarning")

WRITERS = (bluesky.callbacks.tiled_writer.TiledWriter, bluesky_tiled_plugins.TiledWriter)


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


@pytest.mark.parametrize("what", PLANS)
def test_file_when_images_came_after_its_points_then_stock_parts_read_the_points(writer, stock_client, what):
    plan, n_points, n_files = PLANS[what]
    documents, engine = [], interruptible()
    engine.subscribe(lambda name, doc: documents.append((name, copy.deepcopy(doc))))
    if "paused" in what:
        pause = threading.Thread(target=engine.request_pause)
        engine.subscribe(lambda *_: pause.ident or pause.start(), "stream_datum")
    with contextlib.suppress(RunEngineInterrupted):
        engine(plan(writer))
    if engine.state == "paused":
        engine.resume()
    assert len({doc["uri"] for name, doc in documents if name == "stream_resource"}) == n_files
    uid = documents[0][1]["uid"]
    for make in WRITERS:
        catalog = stock_client.create_container()
        write = make(catalog)
        for name, doc in copy.deepcopy(documents):
            write(name, doc)
        stream = catalog[uid]["primary"]
        images, ids = np.asarray(stream["writer_image"].read()), stream["writer_image_id"].read()
        assert images.shape == (n_points, 2, 8, 16)
        stamps = [read_stamp(image) for image in images.reshape(-1, 8, 16)]
        assert stamps == ids.ravel().tolist() and len(set(stamps)) == len(stamps)
