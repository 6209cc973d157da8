"""The documents alone, without our catalog: stock writers, consolidators and server join files and events.

golden/found: data-seq-nums.
"""

from __future__ import annotations

import numpy as np
import pytest

from sfdaq_ophyd.plans import sf_count
from sfdaq_ophyd.sim.stamp import read_stamp

from .broker_bench import DETECTOR
from .run_engine_driver import drive, interruptible

pytestmark = [
    pytest.mark.usefixtures("no_faults"),
    # bluesky's own writer calls Tiled the old way
    pytest.mark.filterwarnings("ignore:The order of arguments has changed:DeprecationWarning"),
    # Tiled stores arrays of strings, such as the files of a point, as zarr
    pytest.mark.filterwarnings("ignore:The data type:Warning"),
]


@pytest.mark.parametrize("writer", ["bluesky", "bluesky_tiled_plugins"])
def test_run_when_written_and_read_by_stock_parts_then_row_k_is_event_k(bench, tiled_server, writer):
    from tiled.client import from_uri

    if writer == "bluesky":
        from bluesky.callbacks.tiled_writer import TiledWriter
    else:
        from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
    client, engine = from_uri(tiled_server.uri), interruptible()
    engine.subscribe(TiledWriter(client, batch_size=1))
    device = bench.device(channels=["CH:A", "CH:B"], n_pulses=3)
    bench.part.fail_next("channels_offline", channels=["CH:A"])  # the first acquisition has no such channel
    result = drive(engine, lambda: sf_count([device], 4))
    assert result.error is None
    stream = client[result.named("start")[0]["uid"]]["sfdaq_data"]
    first = np.asarray(stream["sfdaq_start_pulse_id"].read())
    asked = first[:, None] + np.arange(3)
    images = np.asarray(stream[f"sfdaq_{DETECTOR}"].read())
    assert [[read_stamp(image) for image in row] for row in images] == asked.tolist()
    ids = np.asarray(stream["sfdaq_CH:B_pulse_id"].read()).reshape(4, 3)
    np.testing.assert_array_equal(ids, asked)
    ids = np.asarray(stream["sfdaq_CH:A_pulse_id"].read()).reshape(4, 3)
    np.testing.assert_array_equal(ids[1:], asked[1:])
    assert not ids[0].any() and np.isnan(np.asarray(stream["sfdaq_CH:A"].read())[0]).all()
