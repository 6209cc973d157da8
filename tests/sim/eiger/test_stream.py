"""The stream of the simulated detector, version 2: what it says, and when."""

from __future__ import annotations

import asyncio
import re
import threading

import numpy as np
import pytest
import zmq

from sfdaq_ophyd.sim.eiger import stream
from sfdaq_ophyd.sim.stamp import read_stamp
from sfdaq_ophyd.wire import cbor
from sfdaq_ophyd.wire.eiger_stream import decode_message
from sfdaq_ophyd.wire.simplon import decode_darray

from .conftest import Rest, arm, images, take

PIXELS = ("u1", "<u2", "<u4")
START = (
    "type series_id series_unique_id arm_date beam_center_x beam_center_y channels count_time"
    " countrate_correction_enabled detector_description detector_serial_number detector_translation"
    " flatfield_enabled frame_time goniometer image_dtype image_size_x image_size_y incident_energy"
    " incident_wavelength number_of_images pixel_mask_enabled pixel_size_x pixel_size_y saturation_value"
    " sensor_material sensor_thickness threshold_energy virtual_pixel_interpolation_enabled"
)
IMAGE = "type series_id series_unique_id image_id real_time series_date start_time stop_time data"
TABLES = {"countrate_correction_lookup_table", "flatfield", "pixel_mask"}
FLOATS = (
    "beam_center_x beam_center_y count_time frame_time incident_energy incident_wavelength pixel_size_x"
    " pixel_size_y sensor_thickness"
)


def run(rest, pull, nimages=1, **options):
    """Take one series; its messages."""
    series_id = arm(rest, nimages, **options)
    for _ in range(options.get("ntrigger", 1)):
        rest.command("detector/command/trigger")
    messages = pull.series()
    assert all(message["series_id"] == series_id for message in messages)
    return messages


def test_series_when_streamed_then_as_the_monitor_has_it_with_the_same_ids_and_pixels(rest, pull):
    rest.set("detector/config/frame_time", 0.004)
    start, *frames, end = run(rest, pull, nimages=3, ntrigger=2)
    assert [message["type"] for message in (start, *frames, end)] == ["start", *6 * ["image"], "end"]
    unique_id = rest.value("detector/status/series_unique_id")
    assert {message["series_unique_id"] for message in (start, *frames, end)} == {unique_id}
    assert set(end) == {"type", "series_id", "series_unique_id"}
    assert [frame["image_id"] for frame in frames] == list(range(6))
    for frame, seen in zip(frames, images(rest, 6)):
        pixels = frame["data"]["threshold_1"].unpack()
        np.testing.assert_array_equal(pixels, seen.image)
        assert read_stamp(pixels) == rest.part.stamp_of(start["series_id"], frame["image_id"])
    assert rest.value("stream/status/dropped") == 0 and pull.silent()


def test_start_when_sent_then_with_exactly_the_keys_of_the_contract_and_floats_that_are_floats(rest, pull):
    rest.set("detector/config/omega_increment", 0.1)
    start, frame, _ = run(rest, pull)
    assert " ".join(start) == START and " ".join(frame) == IMAGE
    assert [name for name in FLOATS.split() if type(start[name]) is not float] == []
    assert start["goniometer"]["omega"] == {"increment": 0.1, "start": 0.0}
    assert start["channels"] == ["threshold_1"] and set(start["threshold_energy"]) == {
        "threshold_1",
        "threshold_2",
    }, "as the real one, which lists what is not a channel"
    assert start["arm_date"] == rest.value("detector/config/data_collection_date")
    assert isinstance(start["arm_date"], cbor.Date) and isinstance(frame["series_date"], cbor.Date)
    assert (start["image_size_y"], start["image_size_x"]) == frame["data"]["threshold_1"].shape
    assert start["number_of_images"] == 1 and "user_data" not in {**start, **frame}


def test_start_when_all_is_asked_for_then_the_three_tables_are_in_it(rest, pull):
    rest.set("stream/config/header_detail", "all")
    start, *_ = run(rest, pull)
    assert set(start) - set(START.split()) == TABLES
    mask = start["pixel_mask"]["threshold_1"].unpack()
    np.testing.assert_array_equal(mask, decode_darray(rest.value("detector/config/pixel_mask")))
    assert mask.dtype == "u4" and start["flatfield"]["threshold_1"].unpack().dtype == "f4"
    lookup = start["countrate_correction_lookup_table"].unpack()
    assert lookup.shape == (65536,) and lookup.dtype == "u4"
    last = int(np.flatnonzero(lookup == 2**32 - 1)[0])
    assert (np.diff(lookup[:last].astype("i8")) >= 0).all() and (lookup[last:] == 2**32 - 1).all()
    decode_message(cbor.encode(start))


@pytest.mark.parametrize("header_detail", ["basic", "none"])
def test_start_when_not_all_is_asked_for_then_without_tables(rest, pull, header_detail):
    rest.set("stream/config/header_detail", header_detail)
    assert not TABLES & set(run(rest, pull)[0])


def test_appendices_when_any_json_then_user_data_of_start_and_images_until_overwritten(rest, pull):
    header = {"sample": "lysozyme", "positions": [1, 2.5, None, True], "µ": -3}
    rest.set("stream/config/header_appendix", header)
    rest.set("stream/config/image_appendix", "text")
    for _ in range(2):
        start, frame, end = run(rest, pull)
        assert (start["user_data"], frame["user_data"]) == (header, "text")
    rest.set("stream/config/header_appendix", "")
    start, frame, end = run(rest, pull)
    assert "user_data" not in start and frame["user_data"] == "text" and "user_data" not in end
    assert rest.put("stream/config/image_appendix", 2**70).status_code == 400


def test_images_when_exposed_then_times_are_ticks_since_the_first_exposure(rest, pull):
    rest.set("detector/config/frame_time", 0.004)
    frames = run(rest, pull, nimages=5)[1:-1]
    assert {frame["start_time"][1] for frame in frames} == {50_000_000}
    starts = [frame["start_time"][0] for frame in frames]
    assert starts[0] == 0 and all(b > a for a, b in zip(starts, starts[1:]))
    count = round(rest.value("detector/config/count_time") * 50_000_000)
    for frame in frames:
        assert frame["stop_time"][0] - frame["start_time"][0] == frame["real_time"][0] == count
    assert len({frame["series_date"] for frame in frames}) == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", frames[0]["series_date"])
    seen = [frame.time_ns for frame in images(rest, 5)]
    for frame, time_ns in zip(frames, seen):
        assert abs(decode_message(cbor.encode(frame)).time_ns - time_ns) <= 2_000_000, "both cut to ms"


def test_clock_when_it_is_fast_and_counts_less_then_ticks_and_real_time_tell(make_part, make_pull):
    part = make_part(initialized=True, stream_clock_error=0.005, stream_live=0.9)
    rest = Rest(part)
    rest.stream(frame_time=0.02, count_time=0.01)
    frame = run(rest, make_pull(rest))[1]
    assert frame["stop_time"][0] == 502_500 and frame["real_time"][0] == 452_250


@pytest.mark.parametrize(("frame_time", "bits"), [(0.02, 32), (0.002, 16), (0.0003, 8)])
@pytest.mark.parametrize("algorithm", ["bslz4", "lz4", "none"])
def test_images_when_of_any_depth_and_compression_then_the_monitors_pixels(
    make_part, make_pull, frame_time, bits, algorithm
):
    rest = Rest(make_part(shape=(230, 91), initialized=True))  # blocks, and a rest of 2 pixels
    rest.set("monitor/config/mode", "enabled")
    rest.stream(compression=algorithm, frame_time=frame_time)
    assert rest.value("detector/config/bit_depth_image") == bits
    pull = make_pull(rest)
    start, *frames, _ = run(rest, pull, nimages=7)
    dtype = PIXELS[bits // 16]
    assert start["image_dtype"] == np.dtype(dtype).name
    for frame, seen in zip(frames, images(rest, 7)):
        array = frame["data"]["threshold_1"]
        assert (array.algorithm, array.dtype, array.shape) == (algorithm, dtype, (230, 91))
        np.testing.assert_array_equal(array.unpack(), seen.image)


def test_images_when_the_mask_is_applied_then_masked_pixels_read_so(rest, pull):
    rest.set("detector/config/frame_time", 0.02)
    (frame,) = run(rest, pull)[1:-1]
    mask = decode_darray(rest.value("detector/config/pixel_mask"))
    np.testing.assert_array_equal(frame["data"]["threshold_1"].unpack() == 2**32 - 1, mask != 0)
    rest.set("detector/config/mask_to_zero", True)
    (frame,) = run(rest, pull)[1:-1]
    assert frame["data"]["threshold_1"].unpack()[mask != 0].max() == 0


def test_channels_when_both_thresholds_and_the_difference_are_enabled_then_in_one_message(rest, pull):
    rest.set("detector/config/threshold/2/mode", "enabled")
    rest.set("detector/config/threshold/difference/mode", "enabled")
    start, *frames, _ = run(rest, pull, nimages=2)
    names = ["threshold_1", "threshold_2", "difference"]
    assert start["channels"] == names and [list(frame["data"]) for frame in frames] == [names, names]
    first, second, difference = (array.unpack() for array in frames[1]["data"].values())
    np.testing.assert_array_equal(first, second)
    mask = decode_darray(rest.value("detector/config/pixel_mask"))
    assert difference[1:][mask[1:] == 0].max() == 0 and (difference[mask != 0] == first[mask != 0]).all()
    assert len({read_stamp(image) for image in (first, second, difference)}) == 1
    rest.set("detector/config/threshold/1/mode", "disabled")
    rest.set("detector/config/threshold/difference/mode", "disabled")
    start, frame, _ = run(rest, pull)
    assert start["channels"] == list(frame["data"]) == ["threshold_2"]


def test_eies_when_edges_come_at_a_steady_period_then_each_ends_a_frame_and_starts_the_next(
    rest, pull, wait_for
):
    arm(rest, nimages=7, ntrigger=5, mode="eies")
    rest.part.edge()
    wait_for(lambda: rest.state() == "acquire", "the first frame")
    for _ in range(5):
        rest.part.edge()
    start, *frames, _ = pull.series()
    assert start["number_of_images"] == 4 and [frame["image_id"] for frame in frames] == [0, 1, 2, 3]
    for frame, following in zip(frames, frames[1:]):  # ticks, each rounded
        assert abs(frame["stop_time"][0] - following["start_time"][0]) <= 2
        assert frame["real_time"][0] == frame["stop_time"][0] - frame["start_time"][0]
    wait_for(lambda: rest.state() == "idle", "idle")
    assert [frame.image_id for frame in images(rest, 4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("command", ["disarm", "cancel", "abort"])
def test_eies_when_the_series_is_ended_between_two_edges_then_no_more_frames(rest, pull, wait_for, command):
    series_id = arm(rest, ntrigger=5, mode="eies")
    for _ in range(3):
        rest.part.edge()
    assert [pull.message()["type"] for _ in range(3)] == ["start", "image", "image"]
    assert rest.state() == "acquire"
    rest.command(f"detector/command/{command}")
    rest.part.edge()
    assert pull.message()["type"] == "end" and rest.state() == "idle"
    assert arm(rest, ntrigger=2, mode="eies") == series_id + 1
    for _ in range(2):
        rest.part.edge()
    assert [message["type"] for message in pull.series()] == ["start", "image", "end"]
    wait_for(lambda: rest.state() == "idle", "idle")


def test_start_when_armed_then_sent_before_any_trigger(rest, pull):
    series_id = arm(rest)
    start = pull.message()
    assert (start["type"], start["series_id"]) == ("start", series_id)


@pytest.mark.parametrize("command", ["disarm", "cancel", "abort", "initialize"])
def test_end_when_the_series_is_ended_by_a_command_then_sent_once(rest, pull, command):
    series_id = take(rest, nimages=2, ntrigger=3)
    for _ in range(2):
        rest.command(f"detector/command/{command}")
    kinds = [message["type"] for message in pull.series()]
    assert kinds == ["start", "image", "image", "end"] and pull.silent()
    assert arm(rest) == (1 if command == "initialize" else series_id + 1)
    assert pull.message()["type"] == "start"


@pytest.mark.parametrize("command", ["abort", "initialize"])
def test_end_when_a_command_comes_in_mid_series_then_no_frame_comes_after_it_nor_in_the_next(
    rest, pull, command
):
    arm(rest, nimages=100_000)
    first = rest.value("detector/status/series_unique_id")
    other = Rest(rest.part)
    thread = threading.Thread(target=other.command, args=["detector/command/trigger"])
    thread.start()
    assert [pull.message()["type"] for _ in range(2)] == ["start", "image"]
    rest.command(f"detector/command/{command}")
    second = take(rest, nimages=2)
    thread.join(60)
    left, (start, *frames, _) = pull.series(), pull.series()
    assert {message["series_unique_id"] for message in left} == {first}
    assert start["series_id"] == second and [frame["image_id"] for frame in frames] == [0, 1]


def test_end_when_armed_again_then_of_the_old_series_before_the_new_ones_start(rest, pull):
    arm(rest)
    arm(rest)
    assert [pull.message()["type"] for _ in range(3)] == ["start", "end", "start"]


def test_number_of_images_when_triggers_make_one_each_then_their_number(rest, pull):
    start, *frames, _ = run(rest, pull, nimages=5, ntrigger=2, mode="inte")
    assert start["number_of_images"] == len(frames) == 2


def test_stream_when_disabled_then_silent_and_nothing_is_dropped(rest, pull):
    rest.command("stream/command/initialize")
    assert rest.value("stream/config/mode") == "disabled" and rest.value("stream/config/format") == "legacy"
    take(rest)
    assert pull.silent() and rest.value("stream/status/dropped") == 0
    assert rest.value("stream/status/state") == "disabled"


def test_stream_when_initialized_in_a_series_then_no_more_data_comes(rest, pull):
    take(rest, ntrigger=2)
    assert [pull.message()["type"] for _ in range(2)] == ["start", "image"]
    rest.command("stream/command/initialize")
    rest.command("detector/command/trigger")
    assert pull.silent()


def test_stream_when_asked_over_rest_then_its_keys_and_states_are_those_of_the_contract(rest, pull):
    names = ["format", "header_appendix", "header_detail", "image_appendix", "mode"]
    assert rest.get("stream/config/keys").json() == names
    assert rest.get("stream/status/keys").json() == ["dropped", "state"]
    assert rest.value("stream/status/error") == [] and rest.value("stream/status/state") == "ready"
    assert rest.put("stream/config/mode", "enabled").json() == []
    for name, value in (("mode", "on"), ("format", "hdf5"), ("header_detail", "some"), ("format", 1)):
        assert rest.put(f"stream/config/{name}", value).status_code == 400
    arm(rest)
    assert rest.value("stream/status/state") == "acquire"
    rest.command("detector/command/disarm")
    assert rest.value("stream/status/state") == "ready"


def test_restart_when_in_a_series_then_no_end_comes_and_the_next_one_has_its_number_and_another_name(
    rest, pull
):
    first = arm(rest)
    rest.part.restart()
    rest.command("detector/command/initialize")
    assert rest.value("stream/config/mode") == "disabled"
    rest.stream()
    assert arm(rest) == first
    old, new = pull.message(), pull.message()
    assert (old["type"], new["type"]) == ("start", "start")
    assert old["series_id"] == new["series_id"] and old["series_unique_id"] != new["series_unique_id"]


def vendors_tags(cbor2, decompress):
    """Return how a message's tags are read with cbor2 and DECTRIS' decompressor, as in their example."""
    dtypes = {64: "u1", 69: "<u2", 70: "<u4", 85: "<f4"}

    def read(*said):
        tag = next(one for one in said if isinstance(one, cbor2.CBORTag))  # its place depends on the version
        if tag.tag == 56500:
            algorithm, element_size, data = tag.value
            return decompress(data, algorithm, elem_size=element_size)
        if tag.tag == 40:
            shape, array = tag.value
            return array.reshape(shape)
        return np.frombuffer(tag.value, dtypes[tag.tag])

    return read


@pytest.mark.parametrize(("algorithm", "frame_time"), [("bslz4", 0.004), ("bslz4", 0.05), ("lz4", 0.004)])
def test_series_when_read_with_dectris_own_decompressor_then_each_pixel_is_as_the_monitor_has_it(
    rest, pull, algorithm, frame_time
):
    vendor = pytest.importorskip("dectris.compression", reason="dectris-compression is not installed")
    cbor2 = pytest.importorskip("cbor2", reason="cbor2 is not installed")
    tag_hook = vendors_tags(cbor2, vendor.decompress)
    rest.set("detector/config/compression", algorithm)
    rest.set("detector/config/frame_time", frame_time)
    rest.set("stream/config/header_detail", "all")
    series_id = arm(rest, nimages=3)
    rest.command("detector/command/trigger")
    messages = [cbor2.loads(pull.parts()[0], tag_hook=tag_hook) for _ in range(5)]
    assert [message["type"] for message in messages] == ["start", *3 * ["image"], "end"]
    mask = decode_darray(rest.value("detector/config/pixel_mask"))
    np.testing.assert_array_equal(messages[0]["pixel_mask"]["threshold_1"], mask)
    for message, seen in zip(messages[1:4], images(rest, 3)):
        pixels = message["data"]["threshold_1"]
        np.testing.assert_array_equal(pixels, seen.image)
        assert read_stamp(pixels) == rest.part.stamp_of(series_id, message["image_id"])


def test_stream_when_clients_come_and_go_faster_than_it_looks_then_it_does_not_stand_still(monkeypatch):
    accepted = {"event": zmq.EVENT_ACCEPTED, "value": 7}
    monkeypatch.setattr(stream, "parse_monitor_message", lambda parts: accepted)
    endless = type("Endless", (), {"poll": lambda self, timeout: 1, "recv_multipart": lambda self: []})()
    with zmq.Context() as context:
        socket = stream.SeriesSocket(context, 0, 10)
        with monkeypatch.context() as patch:
            patch.setattr(socket, "_events", endless)
            asyncio.run(socket.wait_for_room(0.0))
        socket.close()
