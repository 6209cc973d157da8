"""The server dies, the process dies, the directory is taken: no run is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynSignal

from sfdaq_ophyd import setup
from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.catalog._embedded import ServerProcess
from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable

from .composed import Composed, frames_of, image_key, scalar, simple_run, write_frames

VICTIM = """
import sys
from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.catalog._embedded import ServerProcess
from tests.catalog.composed import Composed, scalar, simple_run
catalog = embedded_catalog(sys.argv[1])
whole = simple_run(catalog)
half = Composed(catalog)
stream = half.stream("primary", {"x": scalar("number")})
stream.event(x=1.0)
catalog.flush()
stream.event(x=2.0)
print(catalog.server.pid, whole, half.uid, flush=True)
sys.stdin.read()
"""


def running(pid):
    """Tell whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_run_when_the_server_is_killed_in_it_then_nothing_is_lost(tmp_path, caplog, wait_for):
    motor, det = SynAxis(name="motor"), SynSignal(name="det", func=lambda: 1)
    frames = frames_of(5, 4)
    path = write_frames(tmp_path / "f.h5", frames)

    def interrupted(catalog):
        yield from bps.open_run()
        for i in range(6):
            if i == 3:
                catalog.flush()
                os.kill(catalog.server.pid, signal.SIGKILL)
                wait_for(lambda: not catalog.server.running, "server gone")
            yield from bps.mv(motor, i)
            yield from bps.trigger_and_read([det, motor])
        yield from bps.close_run()

    with embedded_catalog(tmp_path / "catalog") as catalog:
        engine = RunEngine()
        setup(engine, catalog)
        (uid,) = engine(interrupted(catalog))
        catalog.flush()
        assert catalog.waiting == [uid]
        assert [uid in r.getMessage() for r in caplog.records if r.name.endswith(".journal")] == [True]
        (after,) = engine(bp.count([det], 2))  # finds a new server
        catalog.flush(60)
        assert catalog.waiting == [uid]
        framed = Composed(catalog)
        stream = framed.stream("primary", {"det_image": image_key()})
        stream.datum(framed.frames("det_image", path), 0, 4)
        for _ in range(4):
            stream.event()
        framed.stop()
        assert catalog.replay() == [uid]
        assert catalog.waiting == []
        assert list(catalog[uid]["primary"]["motor"].read()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        assert catalog[uid].stop["num_events"] == {"primary": 6}
        assert list(catalog) == [uid, after, framed.uid]
        np.testing.assert_array_equal(catalog[framed.uid]["primary"]["det_image"].read(), frames)
        assert catalog.replay() == []
    assert not catalog.server.running
    engine(bp.count([det], 1))  # the closed catalog is out of the way
    catalog.close()


def test_process_when_killed_then_the_server_goes_and_the_directory_opens_again(tmp_path, wait_for):
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path / "catalog")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    watchdog = threading.Timer(150, victim.kill)
    watchdog.start()
    server, whole, half = victim.stdout.readline().split()
    watchdog.cancel()
    victim.kill()
    victim.communicate()
    wait_for(lambda: not running(int(server)), "server gone")
    with embedded_catalog(tmp_path / "catalog") as catalog:
        assert list(catalog[whole]["primary"]["x"].read()) == [0.0, 0.5, 1.0]
        assert catalog.waiting == [half]
        assert catalog.replay() == [half]
        assert list(catalog[half]["primary"]["x"].read()) == [1.0, 2.0]
        assert catalog[half].metadata.get("stop") is None


def test_directory_when_open_already_then_an_error_names_the_process(catalog):
    with pytest.raises(ServiceUnreachable, match=f"in use by process {os.getpid()}"):
        embedded_catalog(catalog.directory)
    assert len(catalog) >= 0


def test_catalog_moved_or_empty_when_opened_then_the_server_s_words(tmp_path):
    (tmp_path / "catalog.db").write_bytes(b"")  # other damage: test_moved.py
    with pytest.raises(ServiceUnreachable, match="catalog.db is empty. Restore it from a backup"):
        embedded_catalog(tmp_path)


def test_open_when_the_start_takes_too_long_then_service_timeout(tmp_path):
    with pytest.raises(ServiceTimeout, match=r"start of the catalog in .*: not done after 0.01 s"):
        embedded_catalog(tmp_path, start_timeout=0.01)


CHILD = """
import json, select, sys
json.loads(sys.stdin.readline())
{body}
"""
STEPS = """
for i in range(12):
    print("STEP number", i, flush=True)
    select.select([sys.stdin], [], [], 0.55)  # or until nobody waits for it
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A server that does what the test says, in place of the real one."""

    def make(body, timeout):
        (tmp_path / "child_of_test.py").write_text(CHILD.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(ServerProcess, "module", "child_of_test")
        return ServerProcess(tmp_path, readable=[], timeout=timeout)

    return make


def test_start_when_slower_than_three_limits_but_going_on_then_it_starts(child):
    server = child(f"{STEPS}\nprint('READY 7', flush=True)\nsys.stdin.read()", 2.0)
    server.start()
    assert (server.port, server.running) == (7, True)
    server.stop()


def test_start_when_it_stands_still_then_the_step_and_what_to_do(child):
    server = child(f"{STEPS}\nprint('words', file=sys.stderr, flush=True)\nsys.stdin.read()", 2.0)
    with pytest.raises(
        ServiceTimeout, match=r"step 'number 11', \d+ s after .*'words'.*start_timeout"
    ) as raised:
        server.start()
    assert raised.value.hint and not server.running


def test_start_when_the_child_ends_then_at_once_with_its_words(child):
    server = child(f"{STEPS}\nraise SystemExit('no disk')", 60)
    with pytest.raises(ServiceUnreachable, match="it ended.*no disk"):
        server.start()
    assert not server.running


@pytest.mark.parametrize("options", [{"directory": "a_file"}, {"directory": "new", "readable": ["missing"]}])
def test_open_when_a_folder_is_none_then_request_error(tmp_path, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    with pytest.raises(RequestError, match="expected a folder"):
        embedded_catalog(**options)


def test_replay_when_one_run_cannot_be_written_then_the_others_come_in(catalog, caplog):
    documents = []
    uid = simple_run(lambda name, doc: documents.append((name, doc)))
    for name, doc in documents:
        catalog._journal.write(uid, name, doc)
    bad = Composed(lambda name, doc: catalog._journal.write("bad", name, {**doc, "uid": "bad"}))
    catalog._journal.write("bad", "event", {"descriptor": "none", "uid": bad.uid})
    assert catalog.waiting == [uid, "bad"]
    assert catalog.replay() == [uid]
    assert catalog.waiting == ["bad"]
    assert "run bad cannot be brought in" in caplog.text
    catalog._journal.keep("bad")
    assert list(catalog[uid]["primary"]["x"].read()) == [0.0, 0.5, 1.0]


def broken_journal(catalog, uid, documents):
    """Write the documents of a run, and one that cannot be written, into the journal alone."""
    for name, doc in documents:
        assert catalog._journal.write(uid, name, doc)
    assert not catalog._journal.write(uid, "event", {"data": object()})
    catalog._journal._broken.clear()  # as in the next process


def half_run(catalog, n):
    """A run without an end, with `n` points in the catalog and none in the journal; returns its documents."""
    documents, writer = [], catalog._open_writer()

    def send(name, doc):
        documents.append((name, doc))
        writer(name, doc)

    half = Composed(send)
    stream = half.stream("primary", {"x": scalar("number")})
    for i in range(n):
        stream.event(x=float(i))
    writer.flush()
    return half.uid, documents


def test_disk_when_full_in_a_run_then_the_runs_after_it_come_in(catalog):
    full = Composed(lambda name, doc: None)
    catalog._journal.path(full.uid).symlink_to("/dev/full")
    full.send = catalog
    catalog("start", full._bundle.start_doc)
    full.stop()
    after = simple_run(catalog)
    assert catalog[full.uid].stop["exit_status"] == "success"
    assert len(catalog[after]["primary"]["x"].read()) == 3
    assert catalog.waiting == [] and not catalog._feed.open_runs


def test_replay_when_the_journal_broke_and_the_catalog_has_the_whole_run_then_that_stays(catalog):
    documents = []
    whole = simple_run(lambda name, doc: (documents.append((name, doc)), catalog(name, doc)))
    catalog.flush()
    catalog._journal._kept(whole).unlink()
    broken_journal(catalog, whole, documents[:3])
    assert catalog.waiting == [whole]
    assert catalog.replay() == [whole]
    assert catalog.waiting == [] and not catalog._journal.broken(whole)
    assert list(catalog[whole]["primary"]["x"].read()) == [0.0, 0.5, 1.0]
    assert catalog[whole].stop["exit_status"] == "success"


def test_replay_when_the_journal_broke_before_the_server_then_refused_by_name(catalog, caplog):
    uid, documents = half_run(catalog, 5)
    broken_journal(catalog, uid, documents[:4])
    assert catalog.replay() == []
    assert catalog.waiting == [uid]
    assert f"run {uid} is left as it is" in caplog.text
    assert len(catalog.client[uid]["primary"]["x"].read()) == 5
    catalog._journal.discard(uid)


def test_replay_when_the_journal_broke_after_the_server_then_it_brings_more_and_is_not_kept(catalog):
    uid, documents = half_run(catalog, 2)
    more = [(name, doc) for name, doc in documents]
    for seq_num in (3, 4):
        more.append(("event", {**documents[-1][1], "uid": f"more-{seq_num}", "seq_num": seq_num}))
    broken_journal(catalog, uid, more)
    assert catalog.replay() == [uid]
    assert len(catalog[uid]["primary"]["x"].read()) == 4
    assert catalog._journal.find(uid) is None and catalog.waiting == []


def test_documents_when_the_writer_refuses_one_then_only_that_run_waits(catalog):
    run = Composed(catalog)
    stream = run.stream("primary", {"image": image_key()})
    stream.datum(run.frames("image", "/none.h5", per_event=2), 0, 1)  # where the descriptor says 1
    run.stop()
    uid = simple_run(catalog)
    assert len(catalog[uid]["primary"]["x"].read()) == 3
    assert catalog.waiting == [run.uid]
    catalog._journal.keep(run.uid)
