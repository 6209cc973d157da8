"""Scans against the simulated DAQ: documents, files, ids; what is left behind when something fails."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky import RunEngine
from bluesky.protocols import Collectable, Flyable, Readable, Stageable, Triggerable
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators
from ophyd.sim import motor

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp


def run(plan):
    """Run a plan; return documents by name, all valid, and the exception."""
    documents, error = {}, None
    engine = RunEngine(context_managers=[])

    def keep(name, doc):
        schema_validators[DocumentNames[name]].validate(doc)
        documents.setdefault(name, []).append(doc)

    engine.subscribe(keep)
    try:
        engine(plan)
    except FailedStatus as exc:
        error = exc
    return documents, error


def images_of(documents):
    """Read the stamps of the frames the stream documents point to, in order."""
    resources = {doc["uid"]: doc for doc in documents["stream_resource"]}
    stamps = []
    for datum in documents["stream_datum"]:
        resource = resources[datum["stream_resource"]]
        n = resource["parameters"]["chunk_shape"][1]
        with h5py.File(unquote(urlparse(resource["uri"]).path)) as file:
            data = file[resource["parameters"]["dataset"]]
            rows = range(datum["indices"]["start"] * n, datum["indices"]["stop"] * n)
            stamps += [str(read_stamp(data[row])) for row in rows]
    return stamps


def test_device_when_it_is_asked_then_it_has_the_verbs_of_a_detector(writer):
    assert all(isinstance(writer, p) for p in (Readable, Triggerable, Stageable, Flyable, Collectable))


def test_device_when_nothing_listens_then_it_can_be_made(tmp_path):
    device = StdDaqWriter("http://127.0.0.1:9", name="w", directory=tmp_path)
    assert device.writer_state.get() == ""


def test_count_when_each_point_is_a_file_then_ids_in_events_are_those_in_the_pixels(writer):
    writer.frames_per_trigger.put(3)
    documents, error = run(bp.count([writer], 3))
    assert error is None
    events = [event["data"] for event in documents["event"]]
    assert len(documents["stream_resource"]) == 3
    assert images_of(documents) == [image_id for data in events for image_id in data["writer_event_id"]]
    assert [data["writer_n_completed"] for data in events] == [3, 3, 3]
    assert {data["writer_message"] for data in events} == {"Completed."}
    assert len({data["writer_file"] for data in events}) == 3
    run_ids = [data["writer_run_id"] for data in events]
    assert len(set(run_ids)) == 3 and all(re.fullmatch(r"\d{19}", run_id) for run_id in run_ids)
    (descriptor,) = documents["descriptor"]
    assert descriptor["data_keys"]["writer_image"]["shape"] == [3, 8, 16]
    assert descriptor["configuration"]["writer"]["data"]["writer_detector_name"] in ("EG1M", "GF2")


def test_scan_when_a_motor_moves_then_one_frame_per_point_is_a_scalar(writer):
    documents, error = run(bp.scan([writer], motor, 0, 1, 2))
    assert error is None
    data = documents["event"][0]["data"]
    assert isinstance(data["writer_event_id"], str) and data["writer_is_good"] is True


def test_fly_when_points_are_flown_then_one_file_holds_all_of_them(writer):
    writer.frames_per_trigger.put(2)
    documents, error = run(fly([writer], 4))
    assert error is None
    assert len(documents["stream_resource"]) == 1
    ids = [i for page in documents["event_page"] for row in page["data"]["writer_event_id"] for i in row]
    assert images_of(documents) == ids and len(ids) == 8


def test_template_when_it_names_a_scan_then_files_never_overwrite_one_another(daq, tmp_path):
    device = StdDaqWriter(
        daq.url,
        name="w",
        directory=tmp_path,
        template="{pgroup}/run{run_number:04d}/{scan_id:05d}.h5",
        fields=lambda: {"pgroup": "p12345", "run_number": 7, "scan_id": 3},
    )
    documents, error = run(bp.count([device], 2))
    assert error is None
    files = [event["data"]["w_file"] for event in documents["event"]]
    folder = tmp_path / "p12345" / "run0007"
    assert files == [str(folder / "00003.h5"), str(folder / "00003_1.h5")]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{scan_id}.h5", "scan_id"),
        ("a b.h5", "letters, digits"),
        ("{point:q}.h5", "formats that fit"),
    ],
)
def test_template_when_it_is_wrong_then_it_is_refused_before_anything_is_sent(daq, tmp_path, template, words):
    device = StdDaqWriter(daq.url, name="w", directory=tmp_path, template=template)
    before = daq.service.status()["acquisition"]
    _, error = run(bp.count([device], 1))
    assert words in str(error)
    assert daq.service.status()["acquisition"] == before


def test_stage_when_somebody_else_writes_then_it_is_refused_and_left_alone(daq, writer, tmp_path):
    theirs = {"output_file": str(tmp_path / "theirs.h5"), "n_images": 10_000, "run_id": 5}
    writer.client.start_writer_async(theirs)
    with pytest.raises(Exception, match="somebody else is writing.*run_id 5"):
        run(bp.count([writer], 1))
    assert daq.service.status()["state"] == "WRITING"
    writer.client.stop_writer()


def test_trigger_when_the_detector_sends_too_few_then_the_status_says_so_and_the_writer_is_ready(daq, writer):
    writer.timeout.put(0.5)
    writer.frames_per_trigger.put(5)
    daq.fail_next("fewer_images", n=2)
    documents, error = run(bp.count([writer], 1))
    assert re.search(
        r"writer: 2 of 5 frames came; no image written to .* the detector sends no images", str(error)
    )
    assert documents["stop"][0]["exit_status"] == "fail"
    assert "2 of 5 frames came" in documents["stop"][0]["reason"]
    assert "stream_resource" not in documents
    assert not list((Path(writer.directory)).glob("*[0-9].h5"))


def test_trigger_when_somebody_stops_our_acquisition_then_the_daq_is_quoted(daq, writer):
    writer.frames_per_trigger.put(50)
    daq.fail_next("stopped_by_other", after=5)
    _, error = run(bp.count([writer], 1))
    assert re.search(r"of 50 frames came; the DAQ ended .* with 'Interrupted.'", str(error))


def test_trigger_when_the_file_cannot_be_created_then_the_daqs_words_are_in_the_reason(daq, writer):
    run(bp.count([writer], 1))  # an earlier acquisition: without one the newer dialect is silent for 5 s
    daq.fail_next("creation_error")
    documents, error = run(bp.count([writer], 1))
    assert "ERROR: Cannot create output file." in documents["stop"][0]["reason"]
    _, error = run(bp.count([writer], 1))
    assert error is None


def test_trigger_when_a_start_is_a_ghost_then_it_is_stopped_and_started_again(daq, writer):
    run(bp.count([writer], 1))
    daq.fail_next("creation_error")
    run(bp.count([writer], 1))
    daq.fail_next("ghost_start")
    run(bp.count([writer], 1))
    documents, error = run(bp.count([writer], 2))
    assert error is None and len(documents["event"]) == 2


def test_trigger_when_creation_is_slow_then_it_is_named_and_nothing_runs(daq, writer):
    daq.fail_next("slow_creation", seconds=1.0)
    _, error = run(bp.count([writer], 1))
    assert "took longer than the service waits" in str(error)


def test_trigger_when_the_start_is_missed_then_it_is_named_and_repeated_once(daq, writer, caplog):
    daq.fail_next("missed_writing", seconds=0.2)
    documents, error = run(bp.count([writer], 1))
    assert error is None and len(documents["event"]) == 1
    assert "ended before the service looked" in caplog.text
    for _ in range(2):
        daq.fail_next("missed_writing", seconds=0.2)
    _, error = run(bp.count([writer], 1))
    assert "ended before the service looked" in str(error)


def test_retake_when_images_stall_then_the_point_is_taken_again(daq, writer):
    writer.timeout.put(0.5)
    writer.loss_policy.put("retake")
    writer.frames_per_trigger.put(4)
    daq.fail_next("stall", after=2, seconds=1.0)
    documents, error = run(bp.count([writer], 2))
    assert error is None and len(images_of(documents)) == 8


def test_bad_frames_when_packets_are_missing_then_is_good_says_so(daq, writer):
    writer.frames_per_trigger.put(3)
    daq.fail_next("bad_frames", n=2, status=1)
    documents, error = run(bp.count([writer], 1))
    assert error is None
    assert documents["event"][0]["data"]["writer_is_good"] == [False, False, True]


def test_stage_when_the_service_was_restarted_then_unknown_is_reset_once(daq, writer):
    daq.fail_next("rest_restarts")
    assert daq.service.status()["state"] == "UNKNOWN"
    _, error = run(bp.count([writer], 1))
    assert error is None


def test_trigger_when_the_service_restarts_meanwhile_then_the_record_is_lost_and_named(daq, writer, wait_for):
    writer.frames_per_trigger.put(1000)
    writer.stage()
    status = writer.trigger()
    wait_for(lambda: writer.n_completed.get() > 0, "images")
    daq.fail_next("rest_restarts")
    wait_for(lambda: status.done, "failure")
    assert "the DAQ lost the acquisition" in str(status)
    writer.unstage()
    assert daq.service.status()["state"] == "READY"


def test_unstage_when_the_writer_process_is_dead_then_a_person_is_asked_for(daq, writer, wait_for):
    writer.frames_per_trigger.put(1000)
    writer.stage()
    status = writer.trigger()
    wait_for(lambda: writer.n_completed.get() > 0, "images")
    daq.fail_next("writer_dies")
    wait_for(lambda: status.done, "failure", timeout=20)
    assert "does not acknowledge" in str(status)
    with pytest.raises(Exception, match="the DAQ team must restart it"):
        writer.unstage()
    daq.service.restart()
    daq.service.restart_writer()
    writer.unstage()


def test_abort_when_it_comes_at_any_time_then_unstage_twice_leaves_it_ready(daq, writer):
    for _ in range(2):
        writer.frames_per_trigger.put(100_00)
        writer.stage()
        status = writer.trigger()
        writer.unstage()
        writer.unstage()
        assert status.done
        assert daq.service.status()["state"] == "READY"


def test_companions_when_a_detector_is_inside_then_it_is_triggered_while_the_writer_is_open(daq, tmp_path):
    from ..fake import FakeDetector, FakeSource

    class Watching(FakeSource):
        states = []

        def frames(self, request):
            self.states.append(daq.service.status()["state"])
            yield from super().frames(request)

    camera = FakeDetector(name="camera", directory=tmp_path, source=Watching())
    device = StdDaqWriter(daq.url, name="w", directory=tmp_path / "raw", detectors=[camera])
    device.frames_per_trigger.put(20)
    documents, error = run(bp.count([device], 2))
    assert error is None
    assert Watching.states == ["WRITING", "WRITING"]
    assert {"w_image", "camera_image"} <= set(documents["descriptor"][0]["data_keys"])
    assert [e["data"]["camera_event_id"] for e in documents["event"]] == ["1", "2"]
    assert camera.source.hardware == "as found"


def test_configure_when_a_plan_changes_the_bit_depth_then_files_follow(daq, writer, wait_for):
    from sfdaq_ophyd.plans import configure_daq, write_images

    @bpp.run_decorator()
    def plan():
        yield from configure_daq(writer, bit_depth=32, module_positions={})
        wait_for(lambda: daq.service.writer.listening, "the writer process", timeout=30)
        yield from write_images(writer, 4)
        yield from configure_daq(writer, bit_depth=16)

    documents, error = run(plan())
    assert error is None
    with h5py.File(documents["event"][0]["data"]["writer_file"]) as file:
        assert next(iter(file.values()))["data"].dtype == "u4"
    assert writer.bit_depth.get() == 16
    assert writer.frames_per_trigger.get() == 1


def test_progress_when_a_file_grows_then_watchers_see_the_count(writer):
    seen = []
    writer.frames_per_trigger.put(30)
    writer.stage()
    status = writer.trigger()
    status.watch(lambda **kwargs: seen.append(kwargs["current"]))
    status.wait(10)
    writer.unstage()
    assert any(0 < current < 30 for current in seen)


def test_bps_when_two_files_are_one_run_then_ids_grow(writer):
    @bpp.stage_decorator([writer])
    @bpp.run_decorator()
    def plan():
        for _ in range(3):
            yield from bps.trigger_and_read([writer])

    documents, error = run(plan())
    ids = [int(event["data"]["writer_event_id"]) for event in documents["event"]]
    assert error is None and ids == sorted(set(ids))


def rows_of(documents):
    """Return the row of the file each point's datum points to."""
    return [(doc["indices"]["start"], doc["indices"]["stop"]) for doc in documents["stream_datum"]]


def test_run_mode_when_points_are_taken_then_one_file_holds_them_row_by_row(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(3)
    writer.frames_per_trigger.put(2)
    documents, error = run(bp.count([writer], 3))
    assert error is None
    (resource,) = documents["stream_resource"]
    assert rows_of(documents) == [(0, 1), (1, 2), (2, 3)]
    (file,) = {event["data"]["writer_file"] for event in documents["event"]}
    assert unquote(urlparse(resource["uri"]).path) == file
    run_id = documents["event"][0]["data"]["writer_run_id"]
    assert documents["event"][1]["data"]["writer_event_id"] == [f"{run_id}:2", f"{run_id}:3"]
    assert len(images_of(documents)) == 6
    assert daq.service.status()["acquisition"]["message"] == "Completed."


def test_run_mode_when_fewer_points_are_taken_then_unstage_closes_the_file(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(10_000)
    documents, error = run(bp.count([writer], 2))
    assert error is None
    assert daq.service.status()["acquisition"]["message"] == "Interrupted."
    assert len(images_of(documents)) == 2


def test_run_mode_when_an_event_is_dropped_then_the_next_point_begins_another_file(daq, writer):
    writer.mode.put("run")
    writer.n_points.put(10_000)

    @bpp.stage_decorator([writer])
    @bpp.run_decorator()
    def plan():
        for keep in (True, False, True):
            yield from bps.trigger(writer, wait=True)
            yield from bps.create("primary")
            yield from bps.read(writer)
            yield from (bps.save() if keep else bps.drop())

    documents, error = run(plan())
    assert error is None
    assert len(documents["stream_resource"]) == 2 and rows_of(documents) == [(0, 1), (0, 1)]
    files = [event["data"]["writer_file"] for event in documents["event"]]
    assert len(set(files)) == 2 and all(Path(file).exists() for file in files)


def test_mode_when_it_is_no_mode_then_it_is_refused(writer):
    writer.mode.put("nosuch")
    with pytest.raises(Exception, match="mode='nosuch'"):
        writer.stage()
