"""Runs on the page: read beside the session that writes them."""

import json

import event_model

from sfdaq_ophyd.web.runs import FolderRuns, RemoteRuns, Tail, _curve_of

from .test_curve import curve_of, scan


def documents(n_points: int):
    """Compose a run of `n_points` events."""
    run = event_model.compose_run(metadata={"plan_name": "scan", "scan_id": 7, "num_points": n_points})
    yield "start", run.start_doc
    keys = {"x": {"source": "test", "dtype": "number", "shape": []}}
    bundle = run.compose_descriptor(data_keys=keys, name="primary")
    yield "descriptor", bundle.descriptor_doc
    for i in range(n_points):
        yield "event", bundle.compose_event(data={"x": i}, timestamps={"x": 0.0})
    yield "stop", run.compose_stop()


def test_runs_when_one_goes_on_then_its_progress_and_then_its_end(catalog):
    source = FolderRuns(catalog.directory)
    docs = list(documents(4))
    for name, doc in docs[:4]:  # start, descriptor, two events
        catalog(name, doc)
    uid = docs[0][1]["uid"][:8]

    def still_open():
        return [run for run in source.look()["open"] if run["uid"] == uid]  # tests before may have left one

    (run,) = still_open()
    assert (run["scan_id"], run["n_events"], run["n_points"]) == (7, {"primary": 2}, 4)
    assert run["newest"] == docs[3][1]["time"]
    catalog(*docs[4])
    assert still_open()[0]["n_events"] == {"primary": 3}
    for name, doc in docs[5:]:
        catalog(name, doc)
    catalog.flush()
    assert still_open() == []
    seen = source.look()
    assert seen["last"][0]["exit_status"] == "success" and seen["last"][0]["n_events"] == {"primary": 4}


def test_curve_when_read_out_of_a_catalog_then_as_from_its_documents(catalog, monkeypatch):
    documents = list(scan([3.0, 1.0, 2.0], [1.0, 2.0, 5.0]))
    for name, doc in documents:
        catalog(name, doc)
    catalog.flush()
    read, expected = _curve_of(catalog[documents[0][1]["uid"]]), curve_of(documents)
    assert (read.x_name, read.x, read.ys) == (expected.x_name, expected.x, expected.ys)
    assert read.is_over
    folder = FolderRuns(catalog.directory)  # of a page that looks later
    assert folder.look()["last"][0]["uid"] == documents[0][1]["uid"][:8]
    first = folder.curves[0]
    assert (first.message(0), first.is_over) == (read.message(0), True)
    folder.look()
    assert folder.curves[0] is first and len({each.uid for each in folder.curves}) == len(folder.curves)

    source = RemoteRuns(catalog.server.url, lambda: catalog.server.api_key)
    try:
        seen = source.look()
        assert (seen["open"], seen["last"][0]["uid"]) == ([], documents[0][1]["uid"][:8])
        assert source.curves[0].message(0) == read.message(0)
        *going_on, stop = scan([3.0, 1.0], [1.0, 2.0])
        for name, doc in going_on:
            catalog(name, doc)
        catalog.flush()
        (run,) = source.look()["open"]
        assert (run["n_events"], run["newest"]) == ({"primary": 2}, doc["time"])
        catalog(*stop)
        catalog.flush()
        seen = source.look()
        source.curves.clear()
        monkeypatch.setattr("bluesky_tiled_plugins.BlueskyEventStream.read", None, raising=False)
        assert source.look()["last"] == seen["last"]  # though no points can be read
        assert not source.curves[0].x
        assert len({curve.uid for curve in source.curves}) == len(source.curves)
    finally:
        source.rest()


def test_runs_when_there_is_no_catalog_yet_then_none(tmp_path):
    assert FolderRuns(tmp_path / "later").look() == {"open": [], "last": []}


def test_tail_when_a_line_is_half_written_then_waits_for_the_rest(tmp_path):
    path = tmp_path / "run.jsonl"
    lines = [json.dumps({"name": name, "doc": doc}) for name, doc in documents(2)]
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    tail = Tail(path)
    assert tail.read()["n_events"] == {"primary": 1}
    with open(path, "a") as file:
        file.write(lines[3][20:] + "\n")
    assert tail.read()["n_events"] == {"primary": 2}
    path.unlink()
    assert tail.read() is None
