"""Scans against the simulated DAQ: documents, files, ids."""

from __future__ import annotations

import json
import re

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky.protocols import Collectable, Flyable, Readable, Stageable, Triggerable
from ophyd.sim import motor

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.devices.std_daq_writer._paths import PathMaker
from sfdaq_ophyd.errors import RequestError

from .documents import both_dialects, images_of, run


def test_device_when_it_is_asked_then_it_has_the_verbs_of_a_detector(writer):
    assert all(isinstance(writer, p) for p in (Readable, Triggerable, Stageable, Flyable, Collectable))


def test_device_when_nothing_listens_then_it_can_be_made(tmp_path):
    device = StdDaqWriter("http://127.0.0.1:9", name="w", directory=tmp_path)
    assert device.writer_state.get() == ""


@both_dialects
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
    configuration = descriptor["configuration"]["writer"]["data"]
    assert configuration["writer_detector_name"] in ("EG1M", "GF2")
    assert json.loads(configuration["writer_module_positions"]) == writer.client.config().module_positions


def test_scan_when_a_motor_moves_then_one_frame_per_point_is_a_scalar(writer):
    documents, error = run(bp.scan([writer], motor, 0, 1, 2))
    assert error is None
    data = documents["event"][0]["data"]
    assert isinstance(data["writer_event_id"], str) and data["writer_is_good"] is True


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


def test_template_when_its_folder_cannot_be_seen_then_the_run_id_keeps_names_apart(tmp_path):
    mounted = {"/daq_only/data": str(tmp_path / "absent" / "file")}
    (tmp_path / "absent").write_text("no folder")
    maker = PathMaker("/daq_only/data", "{scan_id}.h5", {"scan_id": 3}, mounted)
    assert maker.next(run_id=17) == "/daq_only/data/3_17.h5"
    assert PathMaker("/nowhere/data", "s{run_id}.h5", {}, {}).next(run_id=5) == "/nowhere/data/s5.h5"


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{sample}/{name}.h5", "../pg2"),
        ("{sample}/{name}.h5", "../../../../../../tmp/out"),
        ("{sample}/{name}.h5", ".."),
        (".{sample}/{name}.h5", "."),
        ("{sample}{sample}/{name}.h5", "."),
        ("s_{sample}", "a/../../x.h5"),
    ],
)
def test_template_when_a_value_leads_out_of_the_folder_then_it_is_refused(tmp_path, template, value):
    """`path-template`: values come from the RunEngine's metadata."""
    (tmp_path / "pg1").mkdir()
    maker = PathMaker(str(tmp_path / "pg1"), template, {"sample": value}, {})
    with pytest.raises(RequestError, match="sample"):
        maker.next(name="w", point=0, run_id=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["pg1"]


def test_template_when_it_goes_up_by_itself_then_that_is_what_was_asked_for(tmp_path):
    maker = PathMaker(str(tmp_path / "pg1"), "../pg2/{sample}/{name}.h5", {"sample": "a/b"}, {})
    assert maker.next(name="w", point=0, run_id=1) == str(tmp_path / "pg1") + "/../pg2/a/b/w.h5"


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


def test_bad_frames_when_packets_are_missing_then_is_good_says_so(daq, writer):
    writer.frames_per_trigger.put(3)
    daq.fail_next("bad_frames", n=2, status=1)
    documents, error = run(bp.count([writer], 1))
    assert error is None
    assert documents["event"][0]["data"]["writer_is_good"] == [False, False, True]


def test_companions_when_a_detector_is_inside_then_it_is_triggered_while_the_writer_is_open(daq, tmp_path):
    from ..fake import FakeDetector, FakeSource

    class Watching(FakeSource):
        states = []

        def frames(self, request):
            self.states.append(daq.service.status()["state"])
            yield from super().frames(request)

    camera = FakeDetector(name="camera", directory=tmp_path, source=Watching())
    device = StdDaqWriter(daq.url, name="w", directory=tmp_path / "raw", detectors=[camera])
    device.frames_per_trigger.put(100)
    documents, error = run(bp.count([device], 2))
    assert error is None
    assert Watching.states == ["WRITING", "WRITING"]
    assert {"w_image", "camera_image"} <= set(documents["descriptor"][0]["data_keys"])
    assert [e["data"]["camera_event_id"] for e in documents["event"]] == ["1", "2"]
    assert camera.source.hardware == "as found"


@both_dialects
def test_configure_when_a_plan_changes_the_bit_depth_then_files_follow(daq, writer, wait_for):
    from sfdaq_ophyd.plans import configure_daq, write_images

    @bpp.run_decorator()
    @bpp.finalize_decorator(lambda: configure_daq(writer, bit_depth=16))
    def plan():
        yield from configure_daq(writer, bit_depth=32, module_positions={})
        wait_for(lambda: daq.service.settled, "the writer process")
        yield from write_images(writer, 4)

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
    status.wait(60)
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
