"""The writer's ring of 100 slots, overrun: ids and status right, pixels another frame's.

The case `std-daq-ring-overrun` of the faults found with the real C++ writer: 2000 images at 5 kHz, written at
860 Hz.
"""

from __future__ import annotations

from types import SimpleNamespace

import bluesky.plans as bp
import h5py
import numpy as np
import pytest

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer._control import RingOverrun
from sfdaq_ophyd.devices.std_daq_writer._daq_file import DaqFile
from sfdaq_ophyd.devices.std_daq_writer._rates import RingLag, StreamedStats
from sfdaq_ophyd.plans import fly

from .documents import events_of, images_of, run

N = 300


@pytest.fixture
def writer(daq, tmp_path):
    device = StdDaqWriter(daq.url, name="w", directory=tmp_path / "raw", redis_url=daq.redis_url)
    device.frames_per_trigger.put(N)
    return device


def test_file_when_the_ring_is_overrun_then_only_the_pixels_tell(daq, tmp_path, wait_for):
    daq.fail_next("ring_overrun", seconds=0.5)
    path = tmp_path / "x.h5"
    daq.service.write({"output_file": str(path), "n_images": N, "run_id": 1})
    wait_for(lambda: daq.service.status()["state"] == "READY", "end")
    with h5py.File(path) as file:
        (group,) = file.values()
        ids, status = group["image_id"][:], group["status"][:]
        shown = [int(stamp) for stamp in images_of(*_as_documents(path, group.name))]
    assert np.all(np.diff(ids) == 1) and not status.any()
    others = np.array(shown) - ids.astype(int)
    assert (others % 100 == 0).all() and (others >= 0).all() and (others > 0).sum() > N // 2


def _as_documents(path, group):
    resource = {
        "uid": "r",
        "data_key": "k",
        "uri": f"file://{path}",
        "parameters": {"dataset": f"{group}/data"},
    }
    datum = {"stream_resource": "r", "descriptor": "d", "indices": {"start": 0, "stop": N}}
    descriptor = {"uid": "d", "data_keys": {"k": {"shape": [1, 8, 16]}}}
    return {"stream_resource": [resource], "stream_datum": [datum], "descriptor": [descriptor]}, "k"


def test_point_when_the_ring_was_overrun_then_it_fails_and_says_so(daq, writer):
    daq.fail_next("ring_overrun", seconds=4.0)
    documents, error = run(bp.count([writer], 1))
    assert "images or more behind the detector, of a ring of 100" in str(error)
    assert "may be those of other frames" in documents["stop"][0]["reason"]
    assert "stream_resource" not in documents
    assert writer.ring_lag.get() >= 100
    assert daq.service.status()["state"] == "READY"


def test_point_when_overruns_are_tolerated_then_all_its_images_are_marked(daq, writer, caplog):
    writer.loss_policy.put("tolerant")
    daq.fail_next("ring_overrun", seconds=4.0)
    documents, error = run(bp.count([writer], 2))
    assert error is None
    first, second = (event["data"] for event in documents["event"])
    assert not any(first["w_is_good"]) and first["w_ring_lag"] >= 100
    assert all(second["w_is_good"]) and second["w_ring_lag"] < 100
    assert "may be those of other frames" in caplog.text


def test_point_when_it_is_taken_again_then_the_second_file_counts(daq, writer):
    writer.loss_policy.put("retake")
    daq.fail_next("ring_overrun", seconds=4.0)
    documents, error = run(bp.count([writer], 1))
    assert error is None
    (event,) = documents["event"]
    assert all(event["data"]["w_is_good"]) and images_of(documents, "w_image") == event["data"]["w_event_id"]


def test_fly_scan_when_the_ring_was_overrun_then_it_fails(daq, writer):
    writer.frames_per_trigger.put(1)
    daq.fail_next("ring_overrun", seconds=4.0)
    documents, error = run(fly([writer], N, period=0.05))
    assert "images or more behind the detector, of a ring of 100" in str(error)
    assert len(events_of(documents)) < N


def test_overrun_when_the_writer_stands_then_told_once_it_writes_on_or_has_ended():
    """Of a writer that is dead the limit for images without an answer tells, not the ring."""
    lags = []
    file = DaqFile.__new__(DaqFile)
    file._name, file.write, file.overrun, file._n_at_lag = (
        "w",
        SimpleNamespace(n_images=1000, output_file="f"),
        False,
        0,
    )
    file.ring = SimpleNamespace(lag=0.0, look=lambda writing: file.ring.lag)

    def look(n_completed, lag, stop_time=None):
        before, file.ring.look = file.ring.lag, lambda writing: vars(file.ring).update(lag=lag) or lag
        assert before <= lag
        return file.look_at_ring(SimpleNamespace(n_completed=n_completed, stop_time=stop_time), lags.append)

    assert look(3, 80.0) is None
    assert look(3, 180.0) is None and look(3, 180.0) is None and look(3, 280.0) is None
    assert lags == [80.0, 180.0, 280.0] and not file.overrun
    told = look(4, 280.0)
    assert isinstance(told, RingOverrun) and "280 images or more behind" in str(told)
    assert look(5, 380.0) is None, "once"
    file.overrun = False
    assert look(5, 380.0) is None
    assert isinstance(look(5, 380.0, stop_time=1.0), RingOverrun)


# ---- what the stats tell ------------------------------------------------------------------------------


class Daq:
    """A DAQ of numbers: second by second, what came and what was written."""

    def __init__(self, n_images=100_000):
        self.callback, self.n_completed, self.n_images = None, 0, n_images
        self.stats = StreamedStats(SimpleNamespace(subscribe=self._subscribe))
        self.now = 1000.0
        self.ring = RingLag(lambda: self.stats)
        self.entry(0, 0)

    def _subscribe(self, stream, callback):
        self.callback = callback

    def entry(self, sent, written, seconds=1.0):
        """Let a second go by; return the lag."""
        self.now += seconds
        rates = (
            {"images_per_second": sent, "bytes_per_second": 0},
            {"images_per_second": written, "bytes_per_second": 0},
        )
        content = dict(zip(("detector", "writer"), rates))
        self.callback(SimpleNamespace(content=content, entry_id=f"{int(self.now * 1000)}-0"))
        return self.ring.lag

    def look(self, n_completed, stop_time=None):
        acquisition = SimpleNamespace(
            n_completed=n_completed, start_time=self.start_time, stop_time=stop_time
        )
        return self.ring.look(acquisition)

    def start(self, after=0.5):
        self.start_time = self.now + after


def test_lag_when_it_is_the_case_found_then_it_is_seen():
    """A burst of 0.4 s, and the writer needs 2.3 s: nothing came while it wrote the rest."""
    daq = Daq()
    daq.start()
    daq.look(0)
    daq.look(1)
    daq.entry(2000, 430)
    daq.look(440)
    daq.entry(0, 860)
    daq.look(1300)
    assert daq.look(1310) == 860 - 430


@pytest.mark.parametrize("rate", [100, 1000, 5000])
def test_lag_when_the_writer_keeps_up_then_there_is_none_at_any_rate(rate):
    """Counts of the writer come in steps of half a second; images flow before and after."""
    daq = Daq()
    daq.entry(rate, 0)
    daq.start()
    daq.look(0)
    daq.look(1)
    for k, written in enumerate([rate / 2, rate * 1.5, rate / 2, rate, rate * 1.5, rate, rate / 2]):
        daq.entry(rate, written)
        assert daq.look(int(rate * (k + 1))) == 0
    daq.entry(rate, 1)
    assert daq.look(7 * rate, stop_time=daq.now) == 0


def test_lag_when_the_writer_is_a_little_slower_then_it_adds_up():
    daq = Daq()
    daq.start()
    daq.look(1)
    lags = []
    for k in range(20):
        daq.entry(1000, 900)
        lags.append(daq.look(900 * (k + 1)))
    assert lags[5] == 0 and lags[-1] > 1000 and lags == sorted(lags)


def test_lag_when_we_look_late_then_seconds_after_the_end_do_not_count():
    """The acquisition ends, images go on to flow, and this process was away meanwhile."""
    daq = Daq()
    daq.start()
    daq.look(1)
    daq.entry(1000, 1000)
    daq.look(900)
    daq.entry(1000, 100)
    daq.entry(1000, 0)
    assert daq.look(1000, stop_time=daq.now - 1.9) == 0
    assert daq.look(1000, stop_time=daq.now - 1.9) == 0


def test_lag_when_seconds_are_missing_then_nothing_is_concluded_across_them():
    daq = Daq()
    daq.start()
    daq.look(1)
    daq.entry(1000, 600)
    daq.look(600)
    for _ in range(3):
        daq.now += 10.0
        daq.entry(1000, 850)
        daq.look(1000)
    assert daq.ring.lag == 0
