"""Scans on the page: the hinted signals against the motor, as the points come."""

import json

import event_model

from sfdaq_ophyd.web import runs as curves
from sfdaq_ophyd.web.runs import LATE_AFTER, Curve, FolderRuns


def scan(xs, ys, *, motors=("motor",), scan_id=1, hint=("diode", "shape")):
    """Compose a scan of one hinted number and one hinted array."""
    dimensions = [[[motor], "primary"] for motor in motors]
    run = event_model.compose_run(metadata={"scan_id": scan_id, "hints": {"dimensions": dimensions}})
    yield "start", run.start_doc
    number = {"source": "test", "dtype": "number", "shape": []}
    keys = {"motor": number, "diode": number, "shape": {**number, "dtype": "array", "shape": [2]}}
    hints = {"motor": {"fields": ["motor"]}, "d": {"fields": list(hint)}}
    objects = {"motor": ["motor"], "d": ["diode", "shape"]}
    bundle = run.compose_descriptor(data_keys=keys, name="primary", hints=hints, object_keys=objects)
    yield "descriptor", bundle.descriptor_doc
    for x, y in zip(xs, ys, strict=True):
        data = {"motor": x, "diode": y, "shape": [1.0, 2.0]}
        yield "event", bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0))
    yield "stop", run.compose_stop()


def curve_of(documents):
    (_, start), *rest = documents
    made = Curve(start)
    for name, doc in rest:
        made.take(name, doc)
    return made


def test_curve_when_a_motor_is_scanned_then_hinted_numbers_against_it():
    made = curve_of(scan([3.0, 1.0, 2.0], [1.0, float("nan"), 5.0]))
    assert (made.x_name, made.x, made.ys) == ("motor", [3.0, 1.0, 2.0], {"diode": [1.0, None, 5.0]})
    assert made.is_over and made.message(2)["ys"] == {"diode": [5.0]}


def test_curve_when_points_come_then_the_age_is_that_of_the_newest_and_the_next_is_late_by_their_distance():
    documents = [(name, {**doc, "time": 100.0}) for name, doc in scan([1.0, 2.0], [1.0, 2.0])]
    documents[3][1]["time"] = 130.0
    assert [curve_of(documents[:n]).newest for n in (2, 3, 4)] == [None, 100.0, 130.0]
    assert [curve_of(documents[:n]).late_after for n in (2, 3, 4)] == [LATE_AFTER, LATE_AFTER, 60.0]


def test_curve_when_two_motors_are_scanned_then_against_the_point_number():
    made = curve_of(scan([3.0, 1.0], [1.0, 2.0], motors=("motor", "other")))
    assert (made.x_name, made.x) == ("point", [1, 2])


def test_curve_when_points_come_as_a_page_then_all_of_them():
    documents = list(scan([1.0, 2.0], [3.0, 4.0]))
    page = event_model.pack_event_page(*[doc for name, doc in documents if name == "event"])
    made = curve_of([*documents[:2], ("event_page", page)])
    assert (made.x, made.ys["diode"]) == ([1.0, 2.0], [3.0, 4.0])


def test_curve_when_a_run_is_very_long_then_cut_and_said_so(monkeypatch):
    monkeypatch.setattr(curves, "MOST_POINTS", 2)
    made = curve_of(scan([1.0, 2.0, 3.0], [0.0] * 3))
    assert (made.x, made.is_cut) == ([1.0, 2.0], True)


def test_curves_when_a_run_goes_into_the_catalog_then_its_last_points_are_kept(tmp_path):
    source, journal = FolderRuns(tmp_path), tmp_path / "documents" / "run.jsonl"
    journal.parent.mkdir()
    lines = [json.dumps({"name": name, "doc": doc}) + "\n" for name, doc in scan([1.0, 2.0], [3.0, 4.0])]
    journal.write_text("".join(lines[:3]))
    source.look()
    assert source.curves[0].x == [1.0]
    with open(journal, "a") as file:
        file.writelines(lines[3:])
    journal.unlink()
    source.look()
    assert (source.curves[0].x, source.curves[0].is_over) == ([1.0, 2.0], True)
    other = [json.dumps({"name": name, "doc": doc}) + "\n" for name, doc in scan([1.0], [3.0], scan_id=2)]
    journal.write_text("".join(other[:3]))
    source.look()
    assert [(curve.scan_id, len(curve.x)) for curve in source.curves] == [(2, 1), (1, 2)]
    source.rest()
