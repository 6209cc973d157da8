"""What a subscribed catalog costs the RunEngine, and how far behind it is at the end of a run."""

from __future__ import annotations

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

from .pairs import Ratio, interleave, result, timed

N_POINTS = 200
N_PLAIN = 10
ROUNDS = 9
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
    """The same scan bare, subscribed, and with a plain writer, in turns: a busy machine is busy for all."""
    with tempfile.TemporaryDirectory() as folder, embedded_catalog(Path(folder) / "catalog") as store:
        motor, camera, engine = (
            SynAxis(name="motor"),
            Camera(Path(folder) / "frames.h5", N_POINTS),
            RunEngine(),
        )
        behind = []

        def scan(n_points=N_POINTS):
            return bp.scan([camera], motor, 0, 1, n_points)

        def bare():
            return seconds_per_event(engine, scan, N_POINTS)[0]

        def subscribed():
            token = store.subscribe(engine)
            took, uid = seconds_per_event(engine, scan, N_POINTS)
            behind.append(timed(store.flush)())
            engine.unsubscribe(token)
            assert store[uid]["primary"]["det_image"].shape[0] == N_POINTS
            return took

        def plain():
            token = engine.subscribe(TiledWriter(store.client, batch_size=1))
            took, _ = seconds_per_event(engine, lambda: scan(N_PLAIN), N_PLAIN)
            engine.unsubscribe(token)
            return took

        alone, ours, theirs = interleave([bare, subscribed, plain], ROUNDS)
    added, plainly = np.median(ours - alone) * 1e3, np.median(theirs - alone) * 1e3
    late = Ratio(behind[-ROUNDS:], np.ones(ROUNDS))
    return [
        result(
            "catalog: scan with subscribed catalog",
            Ratio(ours, alone),
            most=round(1 + ADDED_BAR / float(np.median(alone)), 2),
            baseline=f"the same scan without, {np.median(alone) * 1e3:.2f} ms per event",
            note=f"{added:.2f} ms added per event, at most 3; {ROUNDS} scans of {N_POINTS} points",
        ),
        result(
            "catalog: time added per event",
            Ratio(ours - alone, theirs - alone),
            most=0.1,
            baseline=f"TiledWriter with batch_size=1, {plainly:.0f} ms added per event",
            note="both can be watched while the run goes",
        ),
        result(
            "catalog: complete after the end of a run",
            late,
            most=1.0,
            baseline="one second",
            note=f"{late.value:.2f} s until the last of {N_POINTS} points can be read",
        ),
    ]


BENCHMARKS = [catalog]
