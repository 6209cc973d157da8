"""Channels, cameras and PVs: one that cannot be had costs itself, never the run or the detectors' data."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky_tiled_plugins.writing.consolidators import consolidator_factory

from sfdaq_ophyd.errors import FilesMissing
from sfdaq_ophyd.files.daq_file import read_daq_file
from sfdaq_ophyd.files.held_values import write_held
from sfdaq_ophyd.plans import sf_count
from sfdaq_ophyd.sim.broker import writers

from .broker_bench import DETECTOR, cause, run, streams_of
from .run_engine_driver import drive, interruptible, streams

pytestmark = pytest.mark.usefixtures("no_faults")

FOUND = Path(__file__).parent.parent / "data" / "found"
MISSING = "sfdaq_missing_channels"


@pytest.fixture
def writer(bench, wait_for):
    """Write BSDATA of each acquisition in place of the simulator: make(path, number, first, last)."""
    over, threads = threading.Event(), []

    def start(make):
        bench.part.fail_next("writer_silent", source="BSDATA", times=1000)
        raw, done = bench.raw, set()

        def go():
            while not over.wait(0.02):
                for meta in sorted(set(raw.glob("run*/meta/acq*.json")) - done):
                    try:
                        asked = json.loads(meta.read_text())
                    except ValueError:  # being written
                        continue
                    done.add(meta)
                    path = meta.parent.parent / "data" / f"{meta.stem}.BSDATA.h5"
                    make(path, len(done), asked["start_pulseid"], asked["stop_pulseid"])
                    log = meta.parent.parent / "logs" / f"{meta.stem}.BSDATA.log"
                    log.write_text("processing request took 0.02 seconds\n")

        threads.append(threading.Thread(target=go, daemon=True))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()
    wait_for(lambda: not bench.part.n_waiting, "the simulated writers")


def real_file(folder):
    """The real writer's file, its ten pulses moved to those asked for."""

    def make(path, number, first, last):
        partial = path.with_suffix(".part")
        shutil.copy(FOUND / folder / "acq0001.BSDATA.h5", partial)
        with h5py.File(partial, "r+") as file:
            for channel in file.values():
                channel["pulse_id"][...] = range(first, last + 1)
        partial.rename(path)

    return make


def test_channel_when_it_was_offline_then_missing_with_a_mark_and_the_rest_is_there(bench, writer, caplog):
    """golden/found: bs-absent."""
    device = bench.device(channels=["A:B", "X:ABSENT"], n_pulses=10)
    writer(real_file("bs-absent"))
    result = run(sf_count([device], 3))
    assert result.error is None and result.stop["exit_status"] == "success"
    data = streams(result)["sfdaq_data"]
    assert {"sfdaq_A:B", f"sfdaq_{DETECTOR}"} <= set(data.arrays) and len(data.rows) == 3
    assert [row[MISSING] for row in data.rows] == ["X:ABSENT is not in the file"] * 3
    assert caplog.text.count("X:ABSENT is not in the file; the run goes on without") == 1


def test_channel_when_it_is_a_text_then_comes_back_as_text(bench, writer):
    """golden/found: bs-string."""
    device = bench.device(channels=["A:B", "X:STR"], n_pulses=10)
    writer(real_file("bs-string"))
    result = run(sf_count([device], 2))
    assert result.error is None
    with h5py.File(FOUND / "bs-string" / "acq0001.BSDATA.h5") as file:
        texts = [text.decode() for text in file["X:STR/data"][()]]
    rows, parts = streams_of(result)["sfdaq_data"]
    assert [row["sfdaq_X:STR"] for row in rows] == [texts, texts]
    assert [row[MISSING] for row in rows] == ["", ""]
    assert {"sfdaq_A:B", "sfdaq_X:STR_pulse_id", f"sfdaq_{DETECTOR}"} <= set(parts)


def channel(path, pulses, values):
    with h5py.File(path.with_suffix(".part"), "w") as file:
        file["C/data"], file["C/pulse_id"] = values, np.asarray(pulses, "i8")
    path.with_suffix(".part").rename(path)


def test_channel_when_its_length_changes_then_missing_from_there_on(bench, writer):
    def make(path, number, first, last):
        length = 5 if number == 2 else 4
        channel(path, range(first, last + 1), np.full((last - first + 1, length), number))

    device = bench.device(channels=["C"])
    writer(make)
    result = run(sf_count([device], 3))
    assert result.error is None
    data = streams(result)
    assert set(data) == {"primary", "sfdaq_data"}
    rows, arrays = data["sfdaq_data"].rows, data["sfdaq_data"].arrays
    assert [row["sfdaq_C_n_frames"] for row in rows] == [2, 0, 2]
    assert [row[MISSING] for row in rows] == ["", "C has <i8 (5,) per pulse, not <i8 (4,) as before", ""]
    parts = arrays["sfdaq_C_pulse_id"]
    ids = []
    for path, dataset, *_ in parts:
        with h5py.File(path) as file:
            ids.append(file[dataset][()].ravel().all())
    assert ids == [True, False, True]


def test_channel_when_pulses_are_lost_then_they_are_gaps_of_it_alone(bench):
    device = bench.device(channels=["C"], n_pulses=3)
    bench.part.fail_next("missing_pulses", source="BSDATA")
    result = run(sf_count([device], 1))
    assert result.error is None
    rows, _ = streams_of(result)["sfdaq_data"]
    assert (rows[0]["sfdaq_C_n_frames"], rows[0][f"sfdaq_{DETECTOR}_n_frames"]) == (2, 3)


def test_channel_when_one_pulse_is_asked_for_then_a_catalog_takes_it(bench):
    result = run(sf_count([bench.device(channels=["C"], n_pulses=1)], 1))
    descriptor = next(doc for doc in result.named("descriptor") if doc["name"] == "sfdaq_data")
    datums = {doc["stream_resource"]: doc for doc in result.named("stream_datum")}
    shapes = {}
    for resource in result.named("stream_resource"):
        consolidator = consolidator_factory(resource, descriptor)
        consolidator.consume_stream_datum(datums[resource["uid"]])
        shapes[resource["data_key"]] = consolidator.structure().shape
    assert shapes["sfdaq_C"] == shapes["sfdaq_C_pulse_id"] == (1,)
    assert len(shapes[f"sfdaq_{DETECTOR}"]) == 4


def test_channel_when_best_effort_callback_watches_then_it_warns_of_nothing(bench):
    engine = interruptible()
    engine.subscribe(BestEffortCallback())
    device = bench.device(channels=["C"], n_pulses=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = drive(engine, lambda: sf_count([device], 1))
    hints = {doc["name"]: doc["hints"] for doc in result.named("descriptor")}
    assert result.error is None and hints["sfdaq_data"] == {"sfdaq_data": {"fields": []}}


def test_channel_when_none_may_be_missing_then_the_run_fails(bench):
    device = bench.device(channels=["C", "D"])
    device.tolerate_missing_channels.put(False)
    bench.part.fail_next("channels_offline", channels=["D"])
    result = run(sf_count([device], 1))
    assert isinstance(cause(result), FilesMissing) and "'D': found nothing" in str(cause(result))


def test_channels_when_their_writer_fails_then_the_run_fails_and_detectors_data_are_there(bench):
    device = bench.device(channels=["C"])
    bench.part.fail_next("writer_fails", source="BSDATA", message="no such backend")
    result = run(sf_count([device], 2))
    assert isinstance(cause(result), FilesMissing) and "no such backend" in str(cause(result))
    rows, parts = streams_of(result)["sfdaq_data"]
    assert len(parts[f"sfdaq_{DETECTOR}"]) == 2
    assert "no such backend" in rows[0][MISSING] and rows[1][MISSING] == ""


def test_channels_when_all_are_offline_then_the_run_has_only_the_mark(bench):
    device = bench.device(detectors=[], channels=["C", "D"], check=False)
    bench.part.fail_next("channels_offline", channels=["C", "D"])
    result = run(sf_count([device], 1))
    assert result.error is None
    ((row,), parts) = streams_of(result)["sfdaq_data"]
    assert not parts and row[MISSING] == "C is not in the file; D is not in the file"


def test_name_when_it_is_a_channel_and_a_pv_then_the_channels_data_are_there(bench):
    device = bench.device(channels=["C"], pvs=["C", "P"])
    result = run(sf_count([device], 2))
    assert result.error is None
    rows, parts = streams_of(result)["sfdaq_data"]
    assert [(row["sfdaq_C_n_frames"], row["sfdaq_P_n_frames"], row[MISSING]) for row in rows] == [
        (2, 2, "")
    ] * 2
    assert all("BSDATA" in str(path) for path, _ in parts["sfdaq_C"])


def test_pv_when_it_is_in_no_file_then_an_empty_column_and_the_mark(bench, monkeypatch):
    device = bench.device(pvs=["GONE", "P"])
    write_pv = writers.write_pv

    def without_gone(file, name, *more):
        if name != "GONE":
            write_pv(file, name, *more)

    monkeypatch.setattr(writers, "write_pv", without_gone)
    result = run(sf_count([device], 2))
    assert result.error is None
    data = streams(result)["sfdaq_data"]
    assert [row[MISSING] for row in data.rows] == ["GONE is not in the file"] * 2
    for path, dataset, *_ in data.arrays["sfdaq_GONE"]:
        with h5py.File(path) as file:
            assert np.isnan(file[dataset][()]).all()


def test_pv_when_it_stands_still_then_has_its_value_at_every_pulse(tmp_path):
    """golden/found: pv-before-start."""
    path = FOUND / "pv-before-start" / "acq0001.PVDATA.h5"
    names = ["SLAAR21-LTIM01-EVR0:M1.RBV", "SLAAR21-LTIM01-EVR0:BEAM-INTENSITY"]
    asked = range(29119703854, 29119703864)
    view = tmp_path / "held.h5"
    write_held(view, path, read_daq_file(path, "PVDATA", names), names, asked)
    with h5py.File(view) as file:
        still, moving = (file[f"data/{name}/data"][()].tolist() for name in names)
        assert file[f"data/{names[0]}/pulse_id"][()].tolist() == list(asked)
    assert still == [0.0] * 10
    assert moving == [501.41751292827564] * 2 + [503.99863081937656] * 8


def test_data_when_several_acquisitions_then_each_file_has_the_seq_num_of_its_event(bench):
    """golden/found: data-seq-nums."""
    result = run(sf_count([bench.device(channels=["C"])], 3))
    keys = {doc["uid"]: doc["data_key"] for doc in result.named("stream_resource")}
    spans = {}
    for doc in result.named("stream_datum"):
        at = doc["seq_nums"]["start"], doc["seq_nums"]["stop"]
        spans.setdefault(keys[doc["stream_resource"]], []).append(at)
    assert spans and all(span == [(1, 2), (2, 3), (3, 4)] for span in spans.values()), spans
