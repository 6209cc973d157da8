"""Run plans and read what their documents point to."""

from __future__ import annotations

from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim.stamp import read_stamp

both_dialects = pytest.mark.parametrize("daq", ["flask", "fastapi"], indirect=True)
both_controls = pytest.mark.parametrize("daq", ["flask", "websocket"], indirect=True)


def run(plan, *callbacks):
    """Run a plan; return documents by name, all valid, and the exception."""
    documents, error = {}, None
    engine = RunEngine(context_managers=[])

    def keep(name, doc):
        schema_validators[DocumentNames[name]].validate(doc)
        documents.setdefault(name, []).append(doc)

    for callback in (keep, *callbacks):
        engine.subscribe(callback)
    try:
        engine(plan)
    except FailedStatus as exc:
        error = exc
    return documents, error


def websocket_device(daq, folder):
    """Return a writer of a DAQ of the websocket generation."""
    device = StdDaqWriter(
        daq.ws_url, config_url=daq.url, name="writer", directory=folder / "raw", restart_time=1.0
    )
    device.timeout.put(30.0)
    return device


def in_mode(device, mode, n_points, frames_per_point):
    """Return a plan of points in a mode."""
    device.frames_per_trigger.put(frames_per_point)
    device.mode.put("run" if mode == "run" else "point")
    device.n_points.put(n_points)
    return fly([device], n_points) if mode == "fly" else bp.count([device], n_points)


def points_dropped(*devices, keeps=(True, False, True)):
    """Return a plan of points, of which some are not saved: of a standard DAQ, each of those ends a file."""

    @bpp.stage_decorator(devices)
    @bpp.run_decorator()
    def plan():
        for keep in keeps:
            for device in devices:
                yield from bps.trigger(device, group="point")
            yield from bps.wait("point")
            yield from bps.create("primary")
            for device in devices:
                yield from bps.read(device)
            yield from (bps.save() if keep else bps.drop())

    return plan()


def data_of(documents, key):
    """Return what the stream documents of a data key point to, image by image, in order."""
    resources = {doc["uid"]: doc for doc in documents["stream_resource"] if doc["data_key"] == key}
    found = []
    for datum in documents["stream_datum"]:
        if (resource := resources.get(datum["stream_resource"])) is None:
            continue
        (descriptor,) = (doc for doc in documents["descriptor"] if doc["uid"] == datum["descriptor"])
        n = descriptor["data_keys"][key]["shape"][0]
        with h5py.File(path_of(resource)) as file:
            data = file[resource["parameters"]["dataset"]]
            found += list(data[datum["indices"]["start"] * n : datum["indices"]["stop"] * n])
    return found


def images_of(documents, key="writer_image"):
    """Return the stamps of the images, as text."""
    return [str(read_stamp(image)) for image in data_of(documents, key)]


def rows_of(documents, key="writer_image"):
    """Return which points of its file each datum of a key brings."""
    resources = {doc["uid"] for doc in documents["stream_resource"] if doc["data_key"] == key}
    datums = [doc for doc in documents["stream_datum"] if doc["stream_resource"] in resources]
    return [(doc["indices"]["start"], doc["indices"]["stop"]) for doc in datums]


def path_of(resource):
    """Return the file of a stream resource."""
    return unquote(urlparse(resource["uri"]).path)


def events_of(documents):
    """Return the data of all events, of pages too."""
    rows = [event["data"] for event in documents.get("event", ())]
    for page in documents.get("event_page", ()):
        n = len(page["seq_num"])
        rows += [{key: column[k] for key, column in page["data"].items()} for k in range(n)]
    return rows


def ids_of(documents):
    """Return frame numbers of all points, as text, out of the files where these grow."""
    if any(doc["data_key"] == "writer_image_id" for doc in documents["stream_resource"]):
        return [str(number) for number in data_of(documents, "writer_image_id")]
    ids = [event["writer_event_id"] for event in events_of(documents)]
    return [one for point in ids for one in (point if isinstance(point, list) else [point])]
