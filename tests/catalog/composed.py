"""Runs composed by event_model, with frames in real HDF5 files."""

from __future__ import annotations

import time

import event_model
import h5py
import hdf5plugin
import numpy as np

DATASET = "/entry/data/data"


def write_frames(path, frames):
    """Write frames (n, y, x) as the frame files are: one chunk per frame, bitshuffle and LZ4."""
    with h5py.File(path, "w") as file:
        file.create_dataset(
            DATASET, data=frames, chunks=(1, *frames.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")
        )
    return path


def frames_of(seed, n, y=6, x=8, dtype="u4"):
    return np.random.default_rng(seed).integers(0, 2**31, (n, y, x)).astype(dtype)


def scalar(dtype, dtype_numpy=None):
    key = {"source": "test", "dtype": dtype, "shape": []}
    return key if dtype_numpy is None else {**key, "dtype_numpy": dtype_numpy}


def image_key(y=6, x=8, dtype_numpy="<u4", per_event=1):
    shape = [y, x] if per_event == 1 else [per_event, y, x]
    return {
        "source": "test",
        "dtype": "array",
        "dtype_numpy": dtype_numpy,
        "shape": shape,
        "external": "STREAM:",
    }


class Composed:
    """One run; documents go to `send(name, doc)` as they are composed."""

    def __init__(self, send, **metadata):
        self.send = send
        self._bundle = event_model.compose_run(metadata={"plan_name": "composed", **metadata})
        self.uid = self._bundle.start_doc["uid"]
        send("start", self._bundle.start_doc)

    def stream(self, name, data_keys, **kwargs):
        bundle = self._bundle.compose_descriptor(name=name, data_keys=data_keys, **kwargs)
        self.send("descriptor", bundle.descriptor_doc)
        return Stream(self, bundle)

    def frames(self, key, path, *, per_event=1, y=6, x=8):
        bundle = event_model.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=key,
            parameters={
                "dataset": DATASET,
                "join_method": "stack",
                "chunk_shape": (1, y, x) if per_event == 1 else (1, per_event, y, x),
            },
            start=self._bundle.start_doc,
        )
        self.send("stream_resource", bundle.stream_resource_doc)
        return bundle

    def stop(self, **kwargs):
        self.send("stop", self._bundle.compose_stop(**kwargs))


class Stream:
    def __init__(self, run, bundle):
        self.run, self._bundle, self.n = run, bundle, 0

    def event(self, **data):
        self.n += 1
        now = time.time()
        external = [k for k, v in self._bundle.descriptor_doc["data_keys"].items() if v.get("external")]
        doc = {
            "uid": f"event-{self._bundle.descriptor_doc['uid']}-{self.n}",
            "time": now,
            "data": data,
            "timestamps": dict.fromkeys(data, now),
            "seq_num": self.n,
            "filled": dict.fromkeys([k for k in external if k in data], False),
            "descriptor": self._bundle.descriptor_doc["uid"],
        }
        self.run.send("event", doc)

    def datum(self, frames, start, stop, seq_num=None):
        seq_num = start + 1 if seq_num is None else seq_num
        self.run.send(
            "stream_datum",
            frames.compose_stream_datum(
                indices={"start": start, "stop": stop},
                seq_nums={"start": seq_num, "stop": seq_num + stop - start},
                descriptor=self._bundle.descriptor_doc,
            ),
        )


def simple_run(send, n=3, **metadata):
    """A run of one stream with one number per event; returns its uid."""
    run = Composed(send, **metadata)
    stream = run.stream("primary", {"x": scalar("number")})
    for i in range(n):
        stream.event(x=i / 2)
    run.stop()
    return run.uid
