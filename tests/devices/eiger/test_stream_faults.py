"""The Eiger's stream when messages are lost, moved, changed or go to somebody else: each told by name."""

from __future__ import annotations

import lzma
import queue
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import bluesky.plans as bp
import h5py
import numpy as np
import pytest
from ophyd.sim import SynAxis

from sfdaq_ophyd import setup
from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.clients.eiger_stream import EigerFrame, Series
from sfdaq_ophyd.devices.eiger._order import SeriesOrder
from sfdaq_ophyd.devices.eiger._stream import EigerStreamSource
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.eiger.stream import SeriesSocket
from sfdaq_ophyd.wire import cbor
from sfdaq_ophyd.wire.compression import ArrayBytes
from sfdaq_ophyd.wire.eiger_stream import SeriesEnd, SeriesImage, SeriesStart

from ..run_engine_driver import check_run, drive, interruptible, streams
from .conftest import check_as_found, make_eiger, stamp_of
from .stream_line import Changed, Line, Lost, Moved, Shared, as_it_is, fly_scan, rows_of

motor = SynAxis(name="motor")


@pytest.fixture
def eiger(streamed):
    return streamed


HARMLESS = {
    "nothing": as_it_is,
    "no start": Lost("start"),
    "no end": Lost("end"),
    "twice": Changed(3, lambda data: [data, data]),
    "swapped": Moved(2),
    "end before the last": Moved(5),
}


@pytest.mark.parametrize("change", list(HARMLESS))
def test_fly_when_the_order_is_odd_and_no_image_lost_then_complete(part, line, eiger, change):
    line.change = HARMLESS[change]
    run = drive(interruptible(), fly_scan(eiger))
    check_run(run, 6, stamp_of=stamp_of)
    assert [row["eiger_event_id"].split("_")[1] for row in rows_of(run)] == list("012345")
    check_as_found(part, eiger.client)


def cut(data):
    return [data[: len(data) // 2]]


def with_wrong_length(data):
    assert data.count(b"bslz4") == 1
    at = data.index(b"bslz4") + 5
    at = data.index(bytes(4), at)  # the length of what is compressed, u64 big-endian
    return [data[:at] + b"\0\0\0\1" + data[at + 4 :]]


def with_a_longer_block(data):
    at = data.index(bytes(4), data.index(b"bslz4") + 5) + 12  # behind the prefix: length of the first block
    return [data[:at] + (int.from_bytes(data[at : at + 4], "big") + 1).to_bytes(4, "big") + data[at + 4 :]]


def with_another_uid(data):
    at = data.index(b"series_unique_id") + 18
    return [data[:at] + b"0" * 26 + data[at + 26 :]]


FATAL = {
    "lost": (Lost(2), "_2 "),
    "lost at the end": (Lost(5), "_5 "),
    "cut off": (Changed(2, cut), "1 messages were not understood"),
    "in two parts": (Changed(2, lambda data: [[data, b"more"]]), "a message of 2 parts, expected one"),
    "of another length": (Changed(2, with_wrong_length), "_2 (data of threshold_1"),
    "of blocks that are not all here": (Changed(2, with_a_longer_block), "_2: image: bslz4: 1 blocks end at"),
    "of a series begun anew": (Changed(2, with_another_uid), "of the same number came between"),
    "every second": (Shared(), "another client reads this stream"),
}


@pytest.mark.parametrize("change", list(FATAL))
def test_fly_when_an_image_does_not_come_then_its_number_and_the_reason_are_told(part, line, eiger, change):
    line.change, told = FATAL[change]
    run = drive(interruptible(), fly_scan(eiger))
    assert run.stop["exit_status"] == "fail"
    assert told in run.stop["reason"] and "eiger" in run.stop["reason"]
    check_as_found(part, eiger.client)


@pytest.mark.parametrize("plan", ["step", "fly"])
def test_plan_when_a_loss_is_tolerated_then_the_gap_is_in_its_place(part, line, eiger, plan):
    eiger.loss_policy.put("tolerant")
    plans = {"fly": fly_scan(eiger), "step": lambda: bp.count([eiger], 6)}
    line.change = Lost(2, count=1)
    run = drive(interruptible(), plans[plan])
    check_run(run, 6, stamp_of=stamp_of)
    rows = rows_of(run)
    assert [row["eiger_is_good"] for row in rows] == [True, True, False, True, True, True]
    assert [row["eiger_n_missing"] for row in rows] == [0, 0, 1, 0, 0, 0]


def test_step_when_an_image_is_lost_and_points_are_retaken_then_complete_in_a_new_series(part, line, eiger):
    eiger.loss_policy.put("retake")
    line.change = Lost(1, count=1)
    run = drive(interruptible(), lambda: bp.count([eiger], 3))
    check_run(run, 3, stamp_of=stamp_of)
    first, *others = (int(row["eiger_event_id"].split("_")[0]) for row in rows_of(run))
    assert others == [first + 1, first + 1]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (("mode", "disabled"), "the stream's mode is 'disabled', expected 'enabled'"),
        (("format", "legacy"), "the stream's format is 'legacy', expected 'cbor'"),
        (None, "another client reads this stream"),
    ],
)
def test_point_when_nothing_comes_then_the_reason_is_told(part, line, eiger, setting, told):
    client = SimplonClient(part.url)

    def silent(message, data):
        if setting is not None and isinstance(message, SeriesStart):
            client.put("stream", *setting)
        return []

    line.change = silent
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and told in run.stop["reason"]
    check_as_found(part, eiger.client)


def captured(part, catalog, folder, tmp_path, monkeypatch, *, series, uid, n_images, period):
    """Return the primary stream of a flight whose messages are those of a folder, byte for byte.

    Where the publishers changed a start message, it is the simulator's own.
    """
    images = [path.read_bytes() for path in sorted(folder.glob("*image.cbor"))]
    (end,) = [path.read_bytes() for path in folder.glob("*end.cbor")]
    start = [lzma.decompress(path.read_bytes()) for path in folder.glob("*start.cbor.xz")]
    assert len(images) == n_images
    part.detector.series_id = series - 1
    monkeypatch.setattr("sfdaq_ophyd.sim.eiger.detector.make_ulid", lambda *args: uid)

    def replaced(message, data):
        if isinstance(message, SeriesImage):
            return [images[message.image_id]]
        return [end] if isinstance(message, SeriesEnd) else (start or [data])

    line = Line(part.stream_endpoint)
    line.change = replaced
    try:
        eiger = make_eiger(part, tmp_path, readout="stream", stream=line.endpoint, exposure_time=period)
        engine = interruptible()
        setup(engine, catalog)
        run = drive(engine, lambda: fly([eiger], n_images, period=period))
    finally:
        line.close()
    assert run.stop["exit_status"] == "success", run.error
    primary = catalog[run.named("start")[0]["uid"]]["primary"]
    assert list(primary["eiger_event_id"].read()) == [f"{series}_{k}" for k in range(n_images)]
    assert set(primary["eiger_series_uid"].read()) == {uid}
    return primary


def test_captured_series_when_sent_into_the_device_then_in_the_catalog_as_its_readme_says(
    make_part, catalog, data_dir, tmp_path, monkeypatch
):
    """Messages of an EIGER 1M in place of the simulator's."""
    part = make_part(shape=(1065, 1030), initialized=True)
    folder, uid = data_dir / "eiger" / "stream2" / "maxiv_1m", "01HRCJF83SA63WH8M5X1VBKFJM"
    primary = captured(
        part, catalog, folder, tmp_path, monkeypatch, series=16, uid=uid, n_images=10, period=0.02
    )
    times = primary["eiger_timestamp"].read()
    np.testing.assert_allclose(times[[0, 9]], [1709819015.2, 1709819024.19992168], atol=1e-6)
    np.testing.assert_allclose(primary["eiger_real_time"].read()[0], 49716627 / 5e7)
    images = primary["eiger_image"].read().reshape(10, 1065, 1030)
    valid = images != 2**32 - 1
    assert set((~valid).sum(axis=(1, 2))) == {38130}
    assert images[9][valid[9]].sum() == 51206


def test_captured_16m_image_when_sent_into_the_device_then_in_the_catalog_as_its_readme_says(
    make_part, catalog, data_dir, tmp_path, monkeypatch
):
    """The image and the end of an EIGER2 16M."""
    part = make_part(shape=(4362, 4148), initialized=True)
    folder, uid = data_dir / "eiger" / "stream2" / "diamond_16m", "01HBV3JPF9T4ZDPADX6EMK6XMZ"
    primary = captured(
        part, catalog, folder, tmp_path, monkeypatch, series=15614, uid=uid, n_images=1, period=0.004
    )
    np.testing.assert_allclose(primary["eiger_timestamp"].read(), [1696348069.434], atol=1e-6)
    np.testing.assert_allclose(primary["eiger_real_time"].read(), [215873 / 5e7])
    image = primary["eiger_image"].read().reshape(4362, 4148)
    valid = image != 2**16 - 1
    assert image.dtype == "u2" and (~valid).sum() == 1253075 and image[valid].sum() == 13712
    assert image[1020, 3189] == 6504 == image[valid].max()


def test_fly_when_nobody_takes_the_frames_then_what_the_unit_dropped_is_told(
    make_part, tmp_path, wait_for, monkeypatch
):
    """The unit sends the start and one frame, and the others once it knows that nobody is there."""
    part = make_part(initialized=True)
    line = Line(part.stream_endpoint)
    eiger = make_eiger(part, tmp_path, readout="stream", stream=line.endpoint, exposure_time=0.02)

    sent, unplugged, push = [], threading.Event(), SeriesSocket.send

    def send(socket, parts):
        sent.append(parts)
        if len(sent) > 2:
            assert unplugged.wait(60)
            wait_for(lambda: not socket._connected(), "the end of the connection")
        return push(socket, parts)

    def unplug(message, data):
        if isinstance(message, SeriesImage):
            line.unplug()
            unplugged.set()
        return [data]

    monkeypatch.setattr(SeriesSocket, "send", send)
    line.change = unplug
    try:
        run = drive(interruptible(), fly_scan(eiger, 100))
    finally:
        line.close()
    assert run.stop["exit_status"] == "fail"
    assert re.search("the stream dropped [1-9]", run.stop["reason"])


def spoilt(data):
    """Zeros in the compressed pixels, of which no header tells."""
    first = data.index(b"bslz4") + 30
    return [data[:first] + bytes(len(data) - first)]


def test_point_when_its_pixels_cannot_be_unpacked_then_it_fails_by_its_number(part, line, eiger):
    line.change = Changed(0, spoilt)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail" and "_0 (" in run.stop["reason"]
    check_as_found(part, eiger.client)


def with_data(change):
    """Change the arrays of images, a dict by channel."""

    def changed(message, data):
        if not isinstance(message, SeriesImage):
            return [data]
        fields = cbor.decode(data)
        change(fields["data"])
        fields["series_date"] = cbor.Date(fields["series_date"])
        return [cbor.encode(fields)]

    return changed


def test_point_when_more_images_come_than_were_announced_then_told_by_name(part, line, eiger):
    """As when somebody enables a threshold in the middle of a scan."""
    line.change = with_data(lambda data: data.update(threshold_2=data["threshold_1"]))
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail"
    assert "image_2 came, none was announced" in run.stop["reason"]
    check_as_found(part, eiger.client)


@pytest.fixture
def thresholds(part):
    """Enable two thresholds and their difference; both are as before afterwards."""
    client = SimplonClient(part.url)
    modes = ("threshold/2/mode", "threshold/difference/mode")
    for name in modes:
        client.put("detector", name, "enabled")
    yield
    for name in modes:
        client.put("detector", name, "disabled")
    client.put("detector", "threshold/1/mode", "enabled")


def spoil(array):
    """Zeros in the compressed pixels, of which no header tells."""
    return replace(array, data=memoryview(bytes(array.data[:30]) + bytes(len(array.data) - 30)))


BROKEN = {
    "gone": (lambda data: data.pop("threshold_2"), "image_2", "threshold_2 did not come"),
    "cut": (lambda data: data.update(threshold_1=cut_short(data["threshold_1"])), "image", "1 blocks end at"),
    "spoilt": (lambda data: data.update(threshold_1=spoil(data["threshold_1"])), "image", "bslz4: "),
    "of another type": (
        lambda data: data.update(threshold_2=wide(data["threshold_2"])),
        "image_2",
        "uint32 ",
    ),
}


def cut_short(array):
    return replace(array, data=array.data[:-1])


def wide(array):
    return ArrayBytes(array.shape, np.dtype("<u4"), "none", 0, memoryview(bytes(4 * 32 * 48)))


@pytest.mark.parametrize("what", list(BROKEN))
def test_point_when_one_threshold_is_missing_or_broken_then_the_others_are_kept(
    part, line, eiger, thresholds, what, caplog
):
    change, lost, told = BROKEN[what]
    eiger.loss_policy.put("tolerant")
    line.change = with_data(change)
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "success", run.error
    (row,) = rows_of(run)
    assert not row["eiger_is_good"] and row["eiger_n_missing"] == 0 and row["eiger_event_id"].endswith("_0")
    assert np.isnan(row["eiger_total"]) == (lost == "image")
    assert f"{lost}: " in caplog.text and told in caplog.text
    images = streams(run)["primary"].images
    for name in ("image", "image_2", "image_3"):
        ((path, dataset, *_),) = images[f"eiger_{name}"]
        with h5py.File(path) as file:
            assert file[dataset][0].any() == (name != lost)


def test_point_when_one_threshold_is_missing_and_no_loss_is_tolerated_then_it_fails_and_names_it(
    part, line, eiger, thresholds
):
    line.change = with_data(lambda data: data.pop("threshold_2"))
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "fail"
    assert "_0 (lacks image_2: threshold_2 did not come)" in run.stop["reason"]
    check_as_found(part, eiger.client)


def test_difference_when_signed_then_a_point_is_described_so_and_a_flight_told_at_its_first_frame(
    part, line, eiger, thresholds, caplog
):
    line.change = with_data(
        lambda data: data.update(difference=replace(data["difference"], dtype=np.dtype("<i2")))
    )
    run = drive(interruptible(), lambda: bp.count([eiger]))
    assert run.stop["exit_status"] == "success", run.error
    assert streams(run)["primary"].data_keys["eiger_image_3"]["dtype_numpy"] == "<i2"
    line.change = as_it_is
    run = drive(interruptible(), fly_scan(eiger))
    assert "image_3: uint16 (32, 48) came, int16 (32, 48) was announced" in run.stop["reason"]
    assert caplog.text.count("the difference is uint16, described as int16") == 1
    run = drive(interruptible(), fly_scan(eiger))
    assert run.stop["exit_status"] == "success", run.error
    assert streams(run)["primary"].data_keys["eiger_image_3"]["dtype_numpy"] == "<u2"


class Backlog(EigerStreamSource):
    """A source whose frames wait in memory, and whose last ones found no room there."""

    _longest = 60.0

    def __init__(self, n_frames, n_refused):
        self._events, self._order, self._armed_for = queue.SimpleQueue(), SeriesOrder(0), 1
        self._order.start(1)
        self._n_refused, self._newest, self.n_stale = 0, -1, 0
        series = Series(1, "U")
        self.stream = SimpleNamespace(series={"U": series})
        for k in range(n_frames - n_refused):
            self._events.put(
                EigerFrame(
                    image=None,
                    packed={},
                    is_good=True,
                    lacks="",
                    timestamp=0.0,
                    event_id=f"1_{k}",
                    image_id=k,
                    series_id=1,
                    series_uid="U",
                    has_detector_time=True,
                    received=0.0,
                    real_time=0.0,
                    user_data=None,
                )
            )
        for k in range(n_frames - n_refused, n_frames):
            series.refuse(k, "there was no room for it here")

    def _made(self, name, frame):
        yield name

    def _new_tables(self):
        yield from ()

    def _count_stale(self, n):
        self.n_stale += n


@pytest.mark.parametrize("n_refused", [1, 9, 40])
def test_backlog_when_its_last_frames_were_refused_then_those_before_are_taken(n_refused):
    """More are refused than frames may be out of order: what lies in memory is not lost for that."""
    source = Backlog(100, n_refused)
    taken = list(source._take_series(SimpleNamespace(n_frames=100), None, threading.Event()))
    n_good = 100 - n_refused
    assert taken[:n_good] == [f"1_{k}" for k in range(n_good)]
    assert [item.what for item in taken[n_good:]] == [
        f"1_{k} (there was no room for it here)" for k in range(n_good, 100)
    ]
    assert source.n_stale == 0
