"""What a subscribed catalog costs the RunEngine, and how far behind it is at the end of a run."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import bluesky.plans as bp
import h5py
import hdf5plugin
import numpy as np
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_stream_resource
from ophyd.sim import SynAxis, SynSignal

from sfdaq_ophyd.catalog import embedded_catalog

N_POINTS = 200
ROUNDS = 5
ADDED_BAR = 0.003
"""Seconds a subscribed catalog may add to an event."""


class Camera(SynSignal):
    """Documents as a detector makes them: an image in a file, and five scalars per point."""

    def __init__(self, path, n_frames):
        super().__init__(name="det", func=lambda: 0)
        with h5py.File(path, "w") as file:
            shape = (n_frames, 16, 16)
            frames = np.zeros(shape, "u4")
            file.create_dataset(
                "/entry/data/data", data=frames, chunks=(1, 16, 16), **hdf5plugin.Bitshuffle(cname="lz4")
            )
        self._path, self._index, self._resource = path, 0, None

    def stage(self):
        self._index, self._resource = 0, None
        return [self]

    def unstage(self):
        return [self]

    def describe(self):
        def scalar(dtype):
            return {"source": "bench", "dtype": dtype, "shape": []}

        return {
            "det_image": {
                "source": "bench",
                "dtype": "array",
                "dtype_numpy": "<u4",
                "shape": [16, 16],
                "external": "STREAM:",
            },
            "det_timestamp": scalar("number"),
            "det_event_id": scalar("string"),
            "det_pulse_id": scalar("integer"),
            "det_is_good": scalar("boolean"),
            "det_total": scalar("number"),
        }

    def trigger(self):
        self._index += 1
        return super().trigger()

    def read(self):
        now = time.time()
        values = {
            "det_timestamp": now,
            "det_event_id": f"1/{self._index}",
            "det_pulse_id": 2**40 + self._index,
            "det_is_good": True,
            "det_total": 1e6,
        }
        return {key: {"value": value, "timestamp": now} for key, value in values.items()}

    def get_index(self):
        return self._index

    def collect_asset_docs(self, index=None):
        if self._resource is None:
            self._resource = compose_stream_resource(
                mimetype="application/x-hdf5",
                uri=f"file://localhost{self._path}",
                data_key="det_image",
                parameters={
                    "dataset": "/entry/data/data",
                    "join_method": "stack",
                    "chunk_shape": (1, 16, 16),
                },
            )
            yield "stream_resource", self._resource.stream_resource_doc
        yield (
            "stream_datum",
            self._resource.compose_stream_datum(
                indices={"start": self._index - 1, "stop": self._index},
                seq_nums={"start": 0, "stop": 0},
                descriptor={"uid": ""},
            ),
        )


def seconds_per_event(engine, plan, n_points):
    started = time.perf_counter()
    (uid,) = engine(plan())
    return (time.perf_counter() - started) / n_points, uid


def catalog():
    """Same scan, bare and subscribed in turns, so that a busy machine is busy for both."""
    with tempfile.TemporaryDirectory() as folder:
        motor, camera = SynAxis(name="motor"), Camera(Path(folder) / "frames.h5", N_POINTS)

        def scan(n_points=N_POINTS):
            return bp.scan([camera], motor, 0, 1, n_points)

        bare, subscribed, behind = [], [], []
        with embedded_catalog(Path(folder) / "catalog") as store:
            engine = RunEngine()
            for _ in range(ROUNDS):
                bare.append(seconds_per_event(engine, scan, N_POINTS)[0])
                token = store.subscribe(engine)
                took, uid = seconds_per_event(engine, scan, N_POINTS)
                ended = time.perf_counter()
                store.flush(60)
                behind.append(time.perf_counter() - ended)
                subscribed.append(took)
                engine.unsubscribe(token)
                assert store[uid]["primary"]["det_image"].shape[0] == N_POINTS
            n_plain = 10
            token = engine.subscribe(TiledWriter(store.client, batch_size=1))
            plain, _ = seconds_per_event(engine, lambda: scan(n_plain), n_plain)
            engine.unsubscribe(token)
    alone = statistics.median(bare)
    added = statistics.median(subscribed) - alone
    late = statistics.median(behind)
    return [
        {
            "name": "catalog: scan with subscribed catalog",
            "ratio": (alone + added) / alone,
            "bar": (alone + ADDED_BAR) / alone,
            "met": added <= ADDED_BAR,
            "baseline": f"the same scan without, {alone * 1e3:.2f} ms per event",
            "note": f"{added * 1e3:.2f} ms added per event, at most 3; {ROUNDS} scans of {N_POINTS} points",
        },
        {
            "name": "catalog: time added per event",
            "ratio": added / (plain - alone),
            "bar": 0.1,
            "met": added <= 0.1 * (plain - alone),
            "baseline": f"TiledWriter with batch_size=1, {(plain - alone) * 1e3:.0f} ms added per event",
            "note": "at most the bar; both can be watched while the run goes",
        },
        {
            "name": "catalog: complete after the end of a run",
            "ratio": late / 1.0,
            "bar": 1.0,
            "met": late <= 1.0,
            "baseline": "one second",
            "note": f"{late:.2f} s, at most 1, until the last of {N_POINTS} points can be read",
        },
    ]


BENCHMARKS = [catalog]
