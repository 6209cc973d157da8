"""A detector in memory: stamped frames, and every way to misbehave the base has to cope with."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import bluesky.plans as bp
import h5py
import numpy as np
from ophyd import Component as Cpt
from ophyd import Signal

from sfdaq_ophyd.devices import Detector, FileDetector, Progress, WrittenFile, frames_in_hdf5
from sfdaq_ophyd.sim.stamp import write_stamp
from sfdaq_ophyd.wire.frame import Frame, FrameFormat, MissingFrame


class FakeSource:
    """Frames numbered from 1 for ever; the number is stamped into the pixels and is the event id.

    `faults` maps the count of frames() calls (from 1) to what goes wrong in it: an exception to raise,
    ``"lose"`` (the second frame is reported missing), ``"short"`` (ends one frame early), ``"hang"`` (until
    discarded).
    """

    def __init__(self, shape=(16, 16), dtype="u2", period=0.0):
        self.shape, self.dtype, self.period = shape, np.dtype(dtype), period
        self.calls = Counter()
        self.hardware = "as found"
        self.number = 0
        self.faults = {}
        self.open_fault = None
        self.requests = []
        self.armed = threading.Event()
        self._gone = threading.Event()
        self._acquiring = 0

    def open(self, settings):
        self.calls["open"] += 1
        self.hardware = "open"
        if self.open_fault:
            raise self.open_fault
        scalars = {"total": "i8", "mean": "f8"}
        return FrameFormat(self.shape, self.dtype, True, scalars, frame_time=self.period)

    def frames(self, request):
        assert self.hardware == "open", f"frames() while {self.hardware}"
        self._acquiring += 1
        assert self._acquiring == 1, "two acquisitions at once"
        gone = self._gone = threading.Event()
        self.calls["frames"] += 1
        self.requests.append(request)
        fault = self.faults.pop(self.calls["frames"], None)
        try:
            yield None
            self.armed.set()
            for k in range(request.n_frames):
                if gone.wait(self.period):
                    return
                if isinstance(fault, Exception):
                    raise fault
                if fault == "hang":
                    gone.wait(120)
                    return
                self.number += 1
                if fault == "lose" and k == min(1, request.n_frames - 1):
                    yield MissingFrame(str(self.number))
                    continue
                if fault == "short" and k == request.n_frames - 1:
                    return
                yield self.frame(self.number)
        finally:
            self._acquiring -= 1
            self.armed.clear()

    def frame(self, number):
        image = np.full(self.shape, number % 7, self.dtype)
        write_stamp(image, number)
        total = int(image.sum(dtype="i8"))
        scalars = {"total": total, "mean": total / image.size}
        return Frame(image, time.time(), str(number), 1000 + number, True, scalars)

    def discard(self):
        self.calls["discard"] += 1
        self._gone.set()

    def close(self):
        self.calls["close"] += 1
        self._gone.set()
        self.hardware = "as found"


class FakeDetector(Detector):
    """The detector base around a `FakeSource`."""

    gain = Cpt(Signal, value=3, kind="config")
    hinted = ("total",)

    def __init__(self, *, name, directory, source=None, **kwargs):
        super().__init__(source=source or FakeSource(), name=name, directory=directory, **kwargs)


class FakeFileSource(FakeSource):
    """The same frames, written to a file per acquisition; only ids and the closed file come here."""

    def __init__(self, directory, **kwargs):
        super().__init__(**kwargs)
        self.directory = Path(directory)
        self.dropped = []

    def frames(self, request):
        taken = []
        for item in super().frames(request):
            if item is None:
                yield None
            else:
                taken.append(item)
                yield Progress(len(taken), "writing")
        if not taken or self._gone.is_set():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"foreign_{taken[0].event_id}.h5"
        with h5py.File(path, "w") as file:
            file["their/data"] = np.stack([frame.image for frame in taken])

        def drop():
            self.dropped.append(path)
            path.unlink()

        parameters = frames_in_hdf5("/their/data", self.shape, request.frames_per_trigger)
        yield WrittenFile(path, len(taken), {"image": parameters}, drop=drop)
        for frame in taken:
            yield replace(frame, image=None)


class FakeWriter(FileDetector):
    """The file detector base around a `FakeFileSource`."""

    def __init__(self, *, name, directory, source=None, **kwargs):
        source = source or FakeFileSource(directory)
        super().__init__(source=source, name=name, directory=directory, **kwargs)


def count(det, n=3, **kwargs):
    """A plan to be made at each run: ``drive(engine, count(det))``."""
    return lambda: bp.count([det], n, **kwargs)
