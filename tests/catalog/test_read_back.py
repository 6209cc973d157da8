"""What goes in as documents comes out of the catalog, unchanged."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky.callbacks.tiled_writer import TiledWriter as BlueskyTiledWriter
from bluesky_tiled_plugins import TiledWriter as PluginTiledWriter

from sfdaq_ophyd.errors import RunNotFound

from .composed import DATASET, Composed, frames_of, image_key, scalar, simple_run, write_frames


def framed_run(send, path, *, n=4, per_event=1, per_datum=1):
    """One stream with frames in one file; returns uid and frames."""
    frames = frames_of(1, n * per_event)
    write_frames(path, frames)
    run = Composed(send)
    stream = run.stream("primary", {"x": scalar("number"), "det_image": image_key(per_event=per_event)})
    source = run.frames("det_image", path, per_event=per_event)
    for i in range(0, n, per_datum):
        stream.datum(source, i, i + per_datum)
        for _ in range(per_datum):
            stream.event(x=float(i))
    run.stop()
    expected = frames if per_event == 1 else frames.reshape(n, per_event, *frames.shape[1:])
    return run.uid, expected


@pytest.mark.parametrize(("per_event", "per_datum"), [(1, 1), (3, 1), (1, 2)])
def test_frames_when_bslz4_file_outside_the_catalog_then_one_array(catalog, tmp_path, per_event, per_datum):
    uid, frames = framed_run(catalog, tmp_path / "f.h5", per_event=per_event, per_datum=per_datum)
    read = catalog[uid]["primary"]["det_image"].read()
    assert read.dtype == frames.dtype
    np.testing.assert_array_equal(read, frames)


def test_frames_when_read_through_xarray_then_aligned_with_the_events(catalog, tmp_path):
    uid, frames = framed_run(catalog, tmp_path / "f.h5")
    dataset = catalog[uid]["primary"].read()
    assert dataset["det_image"].dims[0] == dataset["x"].dims[0] == "time"
    np.testing.assert_array_equal(dataset["det_image"].values, frames)
    np.testing.assert_array_equal(dataset["x"].values, [0.0, 1.0, 2.0, 3.0])


def test_frames_when_sliced_then_only_these(catalog, tmp_path):
    uid, frames = framed_run(catalog, tmp_path / "f.h5")
    np.testing.assert_array_equal(catalog[uid]["primary"]["det_image"][2, 1:3], frames[2, 1:3])


@pytest.mark.filterwarnings("ignore:The order of arguments")  # bluesky's writer against today's tiled
@pytest.mark.parametrize("writer", [BlueskyTiledWriter, PluginTiledWriter])
def test_frames_when_written_by_the_stock_writers_then_the_same(catalog, tmp_path, writer):
    uid, frames = framed_run(writer(catalog.client, batch_size=1), tmp_path / "f.h5", per_event=2)
    np.testing.assert_array_equal(catalog[uid]["primary"]["det_image"].read(), frames)


def test_frames_when_one_file_per_trigger_then_one_array(catalog, tmp_path):
    frames = frames_of(2, 4)
    run = Composed(catalog)
    stream = run.stream("primary", {"det_image": image_key()})
    for i in range(4):
        path = write_frames(tmp_path / f"f{i}.h5", frames[i : i + 1])
        stream.datum(run.frames("det_image", path), i, i + 1)
        stream.event()
    run.stop()
    np.testing.assert_array_equal(catalog[run.uid]["primary"]["det_image"].read(), frames)


def test_streams_when_several_then_each_has_its_own_frames(catalog, tmp_path):
    run, sent = Composed(catalog), {}
    for seed, name in enumerate(["dark", "primary"]):
        sent[name] = frames_of(seed, 2)
        stream = run.stream(name, {"det_image": image_key()})
        path = write_frames(tmp_path / f"{name}.h5", sent[name])
        stream.datum(run.frames("det_image", path), 0, 2)
        stream.event()
        stream.event()
    run.stop()
    for name, frames in sent.items():
        np.testing.assert_array_equal(catalog[run.uid][name]["det_image"].read(), frames)


VALUES = [
    ("integer beyond 2**53", scalar("integer", "<i8"), [2**60 + 1, -(2**60) - 1]),
    ("id as text", scalar("string"), [str(2**64 + 1), "18446744073709551617"]),
    ("text", scalar("string"), ["Jungfrau \N{GREEK SMALL LETTER MU}m", ""]),
    ("flag", scalar("boolean"), [True, False]),
    ("number that starts whole", scalar("number"), [0, 0.5]),
    ("number of numpy", scalar("number"), [np.float64(1.25), np.float32(0.5)]),
    ("not a number", scalar("number"), [float("nan"), 1.0]),
    ("numbers, few", {"source": "t", "dtype": "array", "shape": [2]}, [[0.5, 1.5], [2.5, 3.5]]),
    ("numbers, many", {"source": "t", "dtype": "array", "shape": [64]}, [np.arange(64.0), np.ones(64)]),
    (
        "picture in the event",
        {"source": "t", "dtype": "array", "shape": [5, 7], "dtype_numpy": "<u2"},
        [np.arange(35).reshape(5, 7), np.ones((5, 7), "u2")],
    ),
    (
        "texts",
        {"source": "t", "dtype": "array", "shape": [2], "dtype_numpy": "<U4"},
        [["ab", "c"], ["d", "efgh"]],
    ),
]


@pytest.fixture(scope="module", params=[True, False], ids=["one batch", "a batch each"])
def values_read(catalog, request):
    """Read back one run that holds all of VALUES, by name."""
    run = Composed(catalog)
    stream = run.stream("primary", {name: key for name, key, _ in VALUES})
    for i in range(2):
        stream.event(**{name: values[i] for name, _, values in VALUES})
        if not request.param:
            catalog.flush()
    run.stop()
    return catalog[run.uid]["primary"].read()


@pytest.mark.parametrize(("name", "values"), [(name, values) for name, _, values in VALUES])
def test_values_when_in_events_then_exact(values_read, name, values):
    read = values_read[name].values
    assert len(read) == len(values)
    for got, sent in zip(read, values):
        np.testing.assert_array_equal(got, np.asarray(sent))


def test_metadata_when_integers_are_large_then_text(catalog):
    run = Composed(catalog, run_id=2**53 + 1, nested={"ids": [2**70, 5]}, scan_id=1)
    run.stop()
    start = catalog[run.uid].start
    assert start["run_id"] == str(2**53 + 1)
    assert start["nested"] == {"ids": [str(2**70), 5]}


def test_configuration_when_given_then_in_the_descriptor(catalog):
    run = Composed(catalog)
    run.stream(
        "primary",
        {"det": scalar("number")},
        object_keys={"det": ["det"]},
        configuration={
            "det": {
                "data": {"det_energy": 12.4},
                "timestamps": {"det_energy": 1.0},
                "data_keys": {"det_energy": scalar("number")},
            }
        },
    ).event(det=1.0)
    run.stop()
    stored = catalog[run.uid]["primary"].metadata["configuration"]["det"]
    assert stored["data"] == {"det_energy": 12.4}


def test_run_when_still_open_and_its_file_growing_then_what_came_can_be_read(catalog, tmp_path):
    frames = frames_of(3, 5)
    run = Composed(catalog)
    stream = run.stream("primary", {"x": scalar("number"), "det_image": image_key()})
    with h5py.File(tmp_path / "f.h5", "w", libver="latest") as file:
        dataset = file.create_dataset(
            DATASET,
            (0, 6, 8),
            "u4",
            maxshape=(None, 6, 8),
            chunks=(1, 6, 8),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )
        file.swmr_mode = True
        source = run.frames("det_image", tmp_path / "f.h5")
        for i in range(5):
            dataset.resize(i + 1, axis=0)
            dataset[i] = frames[i]
            file.flush()
            stream.datum(source, i, i + 1)
            stream.event(x=float(i))
            seen = catalog[run.uid]["primary"]
            np.testing.assert_array_equal(seen["det_image"].read(), frames[: i + 1])
            assert list(seen["x"].read()) == [float(k) for k in range(i + 1)]
    assert catalog.waiting == []
    run.stop()
    assert catalog[run.uid].stop["exit_status"] == "success"


def test_runs_when_open_at_the_same_time_then_kept_apart(catalog):
    outer, inner = Composed(catalog), Composed(catalog)
    streams = [run.stream("primary", {"x": scalar("number")}) for run in (outer, inner)]
    for i in range(6):
        streams[i % 2].event(x=float(i))
    inner.stop()
    outer.stop()
    assert list(catalog[outer.uid]["primary"]["x"].read()) == [0.0, 2.0, 4.0]
    assert list(catalog[inner.uid]["primary"]["x"].read()) == [1.0, 3.0, 5.0]


def test_look_up_when_by_uid_part_scan_id_or_index_then_that_run(catalog):
    before = len(catalog)
    first = simple_run(catalog, scan_id=7001)
    last = simple_run(catalog, scan_id=7002)
    assert len(catalog) == before + 2
    assert (
        catalog[first].start["uid"] == catalog[first[:8]].start["uid"] == catalog[7001].start["uid"] == first
    )
    assert catalog[-1].start["uid"] == last
    assert catalog[-2].start["uid"] == first
    assert list(catalog)[-2:] == [first, last]
    assert first in catalog


@pytest.mark.parametrize("key", ["00000000-0000-0000-0000-000000000000", "nosuch", "abc", 999_999, -100_000])
def test_look_up_when_there_is_no_such_run_then_run_not_found(catalog, key):
    with pytest.raises(RunNotFound, match="no run .* in the catalog"):
        catalog[key]


def test_databroker_when_asked_for_a_table_then_the_same_rows(catalog):
    uid = simple_run(catalog, n=4)
    header = catalog.databroker[-1]
    assert header.start["uid"] == uid
    table = header.table()
    assert list(table["x"]) == [0.0, 0.5, 1.0, 1.5]
    assert list(table.index) == [1, 2, 3, 4]


def test_databroker_when_used_then_other_clients_are_as_before(catalog, tmp_path):
    uid, frames = framed_run(catalog, tmp_path / "f.h5")
    broker = catalog.databroker
    for _ in range(2):
        assert len(broker[uid].table()) == 4
    np.testing.assert_array_equal(catalog[uid]["primary"]["det_image"].read(), frames)
