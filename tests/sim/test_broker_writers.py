"""The files the simulated writers make: content, time course, and how they fail."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - reads bitshuffle
import numpy as np
import pytest

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.sim.broker import detector_files
from sfdaq_ophyd.sim.broker.writers import DataWriter
from sfdaq_ophyd.sim.stamp import read_stamp

from .broker_http import post

JF = "JF01T03V01"
ONE = "JF03T01V02"
ENDS = ("finished", "rejected", "success", "fail")
_numbers = itertools.count(40_000)


@pytest.fixture(scope="module")
def facility():
    running = [JF, ONE]
    with Facility(only=["broker"], broker_delays=0.0, broker_running=running, seed=3) as facility:
        yield facility


@pytest.fixture
def retrieve(facility, wait_for):
    """Ask for pulses up to now, or `last`; once all writers are done, return local paths of the files."""
    broker = facility.broker
    pgroup = f"p{next(_numbers)}"
    broker.make_pgroup(pgroup)

    def run(n=4, shift=0, last=None, **fields):
        last = (facility.clock.now() if last is None else last) + shift
        body = {"pgroup": pgroup, "start_pulseid": last - n + 1, "stop_pulseid": last, **fields}
        reply = post(broker.url, "retrieve_from_buffers", body)
        assert reply["status"] == "ok", reply

        def ends():
            said = [
                (m["body"]["output_file"], (m["headers"] or {}).get("action", "")) for m in broker.messages()
            ]
            return {file for file, action in said if action.endswith(ENDS)}

        wait_for(lambda: ends() >= set(reply["files"]), "writers")
        return [broker.site.tree.local(file) for file in reply["files"]], (last - n + 1, last)

    yield run
    broker.site.faults.clear()


def test_detector_file_when_raw_then_one_row_per_pulse_with_the_scenes_pixels(facility, retrieve):
    (path,), (first, last) = retrieve(detectors={JF: {}})
    scene = facility.broker._scenes[JF]
    with h5py.File(path) as file:
        assert file["general/detector_name"][()].decode() == JF
        group = file[f"data/{JF}"]
        assert group["pulse_id"][:, 0].tolist() == list(range(first, last + 1))
        assert group["data"].shape == (4, 1536, 1024) and group["data"].dtype == np.uint16
        assert group["is_good_frame"][:, 0].tolist() == [1] * 4
        assert group["daq_rec"].dtype == np.uint32
        for row, pulse_id in enumerate(range(first, last + 1)):
            np.testing.assert_array_equal(group["data"][row], scene.raw(pulse_id))
            assert read_stamp(group["data"][row]) == pulse_id


def test_detector_file_when_slower_then_multiples_only(retrieve):
    (path,), (first, last) = retrieve(n=20, detectors={ONE: {}}, rate_multiplicator=4)
    with h5py.File(path) as file:
        ids = file[f"data/{ONE}/pulse_id"][:, 0]
        assert ids.tolist() == [i for i in range(first, last + 1) if i % 4 == 0]


@pytest.mark.parametrize("rate", [8, 40])
def test_detector_file_when_rate_does_not_divide_100_then_writer_fails(retrieve, rate):
    (path,), _ = retrieve(n=80, detectors={ONE: {}}, rate_multiplicator=rate)
    assert not path.exists()
    assert path.with_name(path.name + ".err").read_text()


def test_detector_file_when_pulses_did_not_arrive_then_rows_say_so(facility, retrieve):
    now = facility.clock.now()
    facility.broker.fail_next("missing_pulses", pulse_ids=range(now - 2, now + 1))
    (path,), (first, last) = retrieve(n=8, last=now, detectors={ONE: {}})
    with h5py.File(path) as file:
        good = file[f"data/{ONE}/is_good_frame"][:, 0]
        ids = file[f"data/{ONE}/pulse_id"][:, 0]
    assert good.tolist() == [int(i < now - 2) for i in range(first, last + 1)]
    assert set(ids[good == 0]) <= {0}
    assert "frames are missing" in (path.parent.parent / "logs" / f"acq0001.{ONE}.log").read_text()


def test_detector_file_when_asked_for_the_future_then_its_frames_are_missing(facility, retrieve):
    (path,), _ = retrieve(n=10, shift=1_000_000, detectors={ONE: {}})
    with h5py.File(path) as file:
        assert not file[f"data/{ONE}/is_good_frame"][()].any()


@pytest.mark.parametrize("fault", ["limping", "detector_stopped"])
def test_detector_file_when_the_detector_does_not_run_whole_then_no_good_frame(facility, retrieve, fault):
    facility.broker.fail_next(fault, detector=JF, **({"modules": [1]} if fault == "limping" else {}))
    try:
        (path,), _ = retrieve(detectors={JF: {}})
    finally:
        facility.broker.site.hardware[JF].set_state("running")
    with h5py.File(path) as file:
        assert not file[f"data/{JF}/is_good_frame"][()].any()


def test_detector_file_when_settings_were_changed_meanwhile_then_frames_are_missing(
    facility, retrieve, wait_for
):
    first = facility.clock.now()
    facility.broker.site.delays.factor = 0.01
    try:
        body = {"detector_name": JF, "parameters": {"exptime": 5e-6}}
        assert post(facility.broker.slow_url, "set_detector_settings", body)["status"] == "ok"
    finally:
        facility.broker.site.delays.factor = 0.0
    last = facility.clock.now()
    (path,), _ = retrieve(n=last - first + 6, last=last, detectors={ONE: {}})
    with h5py.File(path) as file:
        good = file[f"data/{ONE}/is_good_frame"][:, 0]
    assert 0 < good.sum() < len(good)
    end = facility.clock.now() + 30  # what is asked for next lies behind it
    wait_for(lambda: facility.clock.now() > end, "pulses with the trigger on")


def test_detector_file_when_parameters_are_null_then_error_file_in_the_servers_words(retrieve):
    (path,), _ = retrieve(detectors={ONE: None})
    assert not path.exists()
    log = (path.parent.parent / "logs" / f"acq0001.{ONE}.log").read_text()
    assert "AttributeError: 'NoneType' object has no attribute 'get'" in log


@pytest.mark.parametrize("parameters", [{"compression": True}, {"roi": {"a": [0, 10, 0, 10]}}])
def test_detector_file_when_compression_or_roi_stands_alone_then_only_the_raw_copy(retrieve, parameters):
    (path,), (first, _) = retrieve(detectors={ONE: parameters})
    assert not path.exists()
    with h5py.File(path.parent.parent / "raw_data" / path.name) as file:
        assert file[f"data/{ONE}/pulse_id"][0, 0] == first


def test_detector_file_when_converted_then_kev_of_good_frames_compressed(facility, retrieve, monkeypatch):
    now, made, make = facility.clock.now(), [], detector_files.calibration_for
    monkeypatch.setattr(
        detector_files, "calibration_for", lambda *given: made.append(make(*given)) or made[-1]
    )
    facility.broker.fail_next("missing_pulses", source=ONE, pulse_ids=range(now - 1, now + 1))
    converted = {"adc_to_energy": True, "compression": True}
    (path,), (first, last) = retrieve(n=6, last=now, detectors={ONE: converted})
    expected = [i for i in range(first, last + 1) if i < now - 1]
    with h5py.File(path) as file:
        group = file[f"data/{ONE}"]
        assert group["pulse_id"][:, 0].tolist() == expected  # rows are not pulses
        assert group["data"].shape == (len(expected), 514, 1030) and group["data"].dtype == np.float32
        assert group["data"].id.get_create_plist().get_filter(0)[0] == 32008
        assert group["meta/conversion"][()] and group["meta/gap_pixels"][()]
        assert group["meta/pixel_mask"].shape == (514, 1030)
        assert "frame_index" not in group
        raw = path.parent.parent / "raw_data" / path.name
    with h5py.File(raw) as file:
        assert file[f"data/{ONE}/pulse_id"].shape == (6, 1)
    retrieve(n=1, detectors={ONE: {"compression": True, "adc_to_energy": True}})
    assert len(made) == 1  # the next point asks for the same
    retrieve(n=1, detectors={ONE: {"adc_to_energy": True, "gap_pixels": False}})
    assert len(made) == 2


def test_detector_file_when_lists_are_asked_for_then_laser_and_dark_rows_and_analysis_lie_beside_it(
    facility, retrieve
):
    lists = {"adc_to_energy": True, "crystfel_lists_laser": True, "save_dap_results": True}
    (path,), (first, last) = retrieve(n=5, detectors={ONE: lists})
    remote = facility.broker.site.tree.remote(path)
    lit = [pulse_id - first for pulse_id in range(first, last + 1) if pulse_id % 2]
    dark = [pulse_id - first for pulse_id in range(first, last + 1) if not pulse_id % 2]
    for kind, rows in (("light", lit), ("dark", dark)):
        lines = path.with_suffix(f".{kind}.lst").read_text().splitlines()
        assert lines == [f"{remote} //{row}" for row in rows]
    analysed = path.with_suffix(".dap").read_text().splitlines()
    assert [int(line.split()[0]) for line in analysed] == list(range(first, last + 1))


def test_detector_file_when_lists_are_asked_for_without_conversion_then_none(retrieve):
    (path,), _ = retrieve(detectors={ONE: {"crystfel_lists_laser": True}})
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("parameters", "name", "shape", "dtype"),
    [
        ({"adc_to_energy": True, "gap_pixels": False}, ONE, (512, 1024), "f4"),
        ({"adc_to_energy": True, "factor": 0.25}, ONE, (514, 1030), "i4"),
        ({"adc_to_energy": True, "downsample": [2, 2]}, ONE, (257, 515), "f4"),
        ({"adc_to_energy": True, "downsample": "2x2"}, ONE, (514, 1030), "f4"),
        ({"adc_to_energy": True, "roi": {"spot": [10, 30, 5, 15]}}, f"{ONE}:ROI_spot", (20, 10), "f4"),
        ({"adc_to_energy": True, "roi": [[10, 30, 5, 15]]}, f"{ONE}:ROI_0", (20, 10), "f4"),
        ({"save_ppicker_events_only": True}, ONE, (512, 1024), "u2"),
    ],
)
def test_detector_file_when_processed_then_shape_and_type(retrieve, parameters, name, shape, dtype):
    (path,), _ = retrieve(detectors={ONE: parameters})
    with h5py.File(path) as file:
        data = file[f"data/{name}/data"]
        assert data.shape == (4, *shape) and data.dtype == dtype


def test_detector_file_when_modules_are_disabled_then_left_out(retrieve):
    (path,), _ = retrieve(detectors={JF: {"disabled_modules": [1]}})
    with h5py.File(path) as file:
        assert file[f"data/{JF}/data"].shape == (4, 1024, 1024)
        assert file[f"data/{JF}/meta/module_map"][()].tolist() == [0, -1, 1]


def test_detector_file_when_roi_is_a_flat_list_then_writer_fails(retrieve):
    (path,), _ = retrieve(detectors={ONE: {"adc_to_energy": True, "roi": [10, 30, 5, 15]}})
    assert not path.exists() and path.with_name(path.name + ".err").exists()


@pytest.mark.parametrize("roi", [[0, 514, 0, 9], [0, 9, 0, 1030]])
def test_detector_file_when_roi_ends_with_the_last_row_or_column_then_writer_fails(retrieve, roi):
    (path,), _ = retrieve(detectors={ONE: {"adc_to_energy": True, "roi": {"a": roi}}})
    assert not path.exists() and path.with_name(path.name + ".err").exists()


def test_detector_file_when_mask_is_off_then_double_pixels_are_kept(retrieve):
    (path,), _ = retrieve(detectors={ONE: {"adc_to_energy": True, "mask": False}})
    with h5py.File(path) as file:
        assert not file[f"data/{ONE}/meta/mask"][()]


def test_detector_file_when_pulses_are_selected_then_only_those(facility, retrieve):
    now = facility.clock.now()
    wanted, removed = now - 3, {ONE: {"remove_raw_files": True}}
    (path,), _ = retrieve(n=10, last=now, detectors=removed, selected_pulse_ids=[wanted])
    with h5py.File(path) as file:
        assert file[f"data/{ONE}/pulse_id"][:, 0].tolist() == [wanted]
    assert not (path.parent.parent / "raw_data" / path.name).exists()


def test_detector_file_when_no_frame_passes_then_none_and_raw_is_kept(facility, retrieve):
    (path,), _ = retrieve(detectors={ONE: {"remove_raw_files": True}}, selected_pulse_ids=[5])
    assert not path.exists()
    assert (path.parent.parent / "raw_data" / path.name).exists()


def test_detector_file_when_too_long_for_a_simulator_then_writer_fails(retrieve):
    (path,), _ = retrieve(n=60_000, detectors={ONE: {}})
    assert "at most 2000 frames" in (path.parent.parent / "logs" / f"acq0001.{ONE}.log").read_text()


def test_channels_and_cameras_when_retrieved_then_one_group_each_with_pulse_ids(retrieve):
    (bsdata, cameras), (first, last) = retrieve(
        channels_list=["SAR:A", "SAR:B"], camera_list=["CAM:FPICTURE"], rate_multiplicator=2
    )
    with h5py.File(bsdata) as file:
        assert sorted(file) == ["SAR:A", "SAR:B"]
        ids = file["SAR:A/pulse_id"][()]
        assert ids[0] in (first, first - 1) and ids[-1] >= last  # widened where the ends are multiples
        assert len(file["SAR:A/data"]) == len(file["SAR:A/timestamp"]) == len(ids)
        assert not np.array_equal(file["SAR:A/data"], file["SAR:B/data"])
    with h5py.File(cameras) as file:
        images = file["CAM:FPICTURE/data"][()]
        assert [read_stamp(image) for image in images] == file["CAM:FPICTURE/pulse_id"][()].tolist()


def test_pvs_when_retrieved_then_changes_around_and_inside_the_range(retrieve):
    (path,), (first, last) = retrieve(n=60, pv_list=["SAR:X"])
    with h5py.File(path) as file:
        assert file["general/instrument"][()] == b"bernina"
        ids = file["data/SAR:X/pulse_id"][:, 0]
        assert ids[0] == 0 and first <= ids[1] and ids[-2] <= last < ids[-1]
        assert len(ids) < 6
        assert file["data/SAR:X/connected"][()].all()
        stamps = file["data/SAR:X/timestamp"][:, 0].astype("i8")
        np.testing.assert_allclose(np.diff(stamps[1:]), np.diff(ids[1:]) * 10_000, atol=1)
    assert not (path.parent.parent / "logs" / "acq0001.PVDATA.log").exists()


def layout(file):
    """Paths, dtypes and shapes of one row; the names of PVs and the order are left out."""
    pvs, found = list(file["data"]), set()

    def note(name, item):
        for pv in pvs:
            name = name.replace(pv, "PV")
        if isinstance(item, h5py.Dataset):
            text = h5py.check_string_dtype(item.dtype)
            kind = ("text", text.length) if text else item.dtype.str
            found.add((name, kind, item.shape[1:], item.chunks, item.compression, len(item.attrs)))
        else:
            found.add((name, len(item.attrs)))

    file.visititems(note)
    return found


def test_pvs_when_beside_the_file_of_the_real_writer_then_the_same_layout(retrieve):
    """golden/found: sim-pv-layout."""
    (path,), _ = retrieve(n=60, pv_list=["SAR:X"])
    real = Path(__file__).parent.parent / "data" / "found" / "pv-before-start" / "acq0001.PVDATA.h5"
    with h5py.File(path) as ours, h5py.File(real) as theirs:
        assert layout(ours) == layout(theirs)


def test_channels_when_beside_the_file_of_the_real_writer_then_the_same_layout(retrieve):
    (path,), _ = retrieve(channels_list=["A:B"])
    real = Path(__file__).parent.parent / "data" / "found" / "bs-absent" / "acq0001.BSDATA.h5"
    with h5py.File(path) as ours, h5py.File(real) as theirs:
        assert set(ours.attrs) == set(theirs.attrs) == {"file_create_datetime"}
        assert set(ours) == set(theirs)
        for name, theirs_ in theirs["A:B"].items():
            ours_ = ours["A:B"][name]
            for fact in ("dtype", "chunks", "maxshape", "compression", "shuffle"):
                assert getattr(ours_, fact) == getattr(theirs_, fact), (name, fact)


def test_channels_when_one_is_offline_then_left_out_and_the_log_says_so(facility, retrieve):
    facility.broker.fail_next("channels_offline", channels=["SAR:B"])
    (path,), _ = retrieve(channels_list=["SAR:A", "SAR:B"])
    with h5py.File(path) as file:
        assert list(file) == ["SAR:A"]
    log = (path.parent.parent / "logs" / "acq0001.BSDATA.log").read_text()
    assert "check SAR:B not present in file" in log and "processing request took" in log


def test_pvs_when_stop_is_in_the_future_then_only_the_status_exchange_tells(facility, retrieve):
    (path,), _ = retrieve(shift=10_000, pv_list=["SAR:X"])
    assert not list(path.parent.glob("*")) and not list((path.parent.parent / "logs").glob("*"))
    last = facility.broker.messages()[-1]
    assert last["headers"]["action"] == "request_fail"
    assert "is not in the buffer" in last["headers"]["message"]


@pytest.mark.parametrize("roi", [[0, 10, 0, 10], [5, 50, 0, 30], [0, 513, 0, 1029]])
def test_detector_file_when_roi_begins_at_row_or_column_0_then_converted(retrieve, roi):
    """golden/found: sim-roi-at-edge."""
    (path,), _ = retrieve(detectors={ONE: {"adc_to_energy": True, "roi": {"a": roi}}})
    with h5py.File(path) as file:
        assert file[f"data/{ONE}:ROI_a/data"].shape[1:] == (roi[1] - roi[0], roi[3] - roi[2])


def test_detector_file_when_converted_then_with_the_mask_of_the_active_pedestal(facility, retrieve):
    tree, name = facility.broker.site.tree, f"/sf/jungfrau/data/pedestal/{ONE}/20300101_000000.h5"
    tree.make(name.rpartition("/")[0])
    constants = facility.broker._scenes[ONE].constants
    mask = np.zeros(constants.mask.shape, "i8")
    mask[200:210, 300:310] = 1
    with h5py.File(tree.local(name), "w") as file:
        file["gains"], file["pixel_mask"] = constants.pedestal, mask
    config = f"/gpfs/photonics/swissfel/buffer/config/{ONE}.json"
    before = tree.read_json(config)
    tree.write_json(config, {**before, "pedestal_file": name})
    try:
        (path,), _ = retrieve(
            detectors={ONE: {"adc_to_energy": True, "gap_pixels": False, "double_pixels_action": "keep"}}
        )
    finally:
        tree.write_json(config, before)
    with h5py.File(path) as file:
        good = file[f"data/{ONE}/meta/pixel_mask"][()]
    np.testing.assert_array_equal(good, mask == 0)
    assert tree.exists(before["gain_file"])  # before any pedestal was taken


@pytest.mark.parametrize(
    ("fault", "details", "file", "error"),
    [
        ("writer_fails", {"source": "BSDATA", "message": "no such channel"}, False, True),
        ("writer_silent", {"source": "BSDATA"}, False, False),
    ],
)
def test_writer_when_told_to_fail_then_only_that_source_does(facility, retrieve, fault, details, file, error):
    facility.broker.fail_next(fault, **details)
    (pvdata, bsdata), _ = retrieve(pv_list=["P"], channels_list=["C"])
    assert pvdata.exists()
    assert bsdata.exists() is file
    assert bsdata.with_name(bsdata.name + ".err").exists() is error


def test_writer_when_told_to_truncate_then_unreadable(facility, retrieve):
    facility.broker.fail_next("truncated_file", source="PVDATA")
    (path,), _ = retrieve(pv_list=["P"])
    with pytest.raises(OSError):
        h5py.File(path).close()


def test_writer_when_absent_then_the_request_vanishes_though_the_reply_was_ok(facility, wait_for):
    broker = facility.broker
    broker.fail_next("writer_absent")
    now = facility.clock.now()
    body = {"pgroup": "p12345", "start_pulseid": now - 5, "stop_pulseid": now, "pv_list": ["P"]}
    lost = post(broker.url, "retrieve_from_buffers", body)
    next_one = post(broker.url, "retrieve_from_buffers", body)
    wait_for(broker.site.tree.local(next_one["files"][0]).exists, "the next file")
    assert lost["status"] == "ok"
    assert not broker.site.tree.local(lost["files"][0]).exists()


@pytest.mark.parametrize("start_first", [False, True])
def test_status_messages_when_a_writer_works_then_correlated_in_either_order(facility, retrieve, start_first):
    broker, seen = facility.broker, []
    broker.site.messages.start_first = start_first
    broker.on_message(seen.append)
    try:
        (path,), _ = retrieve(channels_list=["C"])
    finally:
        broker.site.messages.start_first = False
    seen = [m for m in seen if m["body"]["output_file"] == broker.site.tree.remote(path)]
    status = [m for m in seen if m["exchange"] == "status"]
    actions = [m["headers"]["action"] for m in status]
    assert actions == (
        ["write_start", "write_request", "write_finished"]
        if start_first
        else ["write_request", "write_start", "write_finished"]
    )
    assert len({m["correlation_id"] for m in seen}) == 1
    assert status[-1]["headers"]["file"] == broker.site.tree.remote(path)
    assert status[-1]["headers"]["message"] is None


def test_delays_when_scaled_then_detectors_wait_10_and_channels_60_of_their_seconds(wait_for, monkeypatch):
    age = DataWriter._age
    monkeypatch.setattr(DataWriter, "_age", lambda writer, body: min(age(writer, body), 4.0))  # none is late
    with Facility(only=["broker"], speed=10, broker_delays=0.2) as facility:
        broker, now = facility.broker, facility.clock.now()
        body = {"pgroup": "p12345", "start_pulseid": now - 1, "stop_pulseid": now}
        sources = {"detectors": {ONE: {}}, "channels_list": ["C"], "pv_list": ["P"]}
        reply = post(broker.url, "retrieve_from_buffers", body | sources)
        wait_for(lambda: broker.site.tree.local(reply["files"][1]).exists(), "the last file")
        sleeps = {}
        for source in (ONE, "BSDATA"):
            name = f"/sf/bernina/data/p12345/raw/run0001/logs/acq0001.{source}.log"
            line = next(x for x in broker.site.tree.read_text(name).splitlines() if "sleeping" in x)
            sleeps[source] = float(line.split()[2])
        assert 5 < sleeps[ONE] <= 10 and 55 < sleeps["BSDATA"] <= 60


def test_stamps_when_the_clock_stood_in_between_then_those_of_the_clock(facility, retrieve):
    clock = facility.clock
    stood = clock.pause()
    assert not clock.wait_for(stood + 1, timeout=0.2)
    clock.resume()
    assert clock.wait_for(stood + 5, timeout=60)
    now = clock.now()
    (path,), _ = retrieve(n=now - stood + 3, last=now, channels_list=["SAR:A"])
    with h5py.File(path) as file:
        ids, stamps = file["SAR:A/pulse_id"][()], file["SAR:A/timestamp"][()]
    at = ids.tolist().index(stood)
    assert max(np.diff(stamps[at - 1 : at + 2])) > 0.1e9
    np.testing.assert_allclose(stamps, [1e9 * clock.time_of(int(i)) for i in ids], rtol=0, atol=1e3)
