"""The feed with writers of the test's own: no server."""

from __future__ import annotations

import threading

import pytest

from sfdaq_ophyd.catalog.journal import CatalogCallback, Journal
from sfdaq_ophyd.errors import ServiceTimeout

from .composed import Composed, scalar, simple_run


class Store:
    """Keeps documents by run; `fail(name, doc)` may raise, `gate` holds every write back."""

    def __init__(self, fail=lambda name, doc: None):
        self.runs, self.flushes, self.fail = [], 0, fail
        self.gate = threading.Event()
        self.gate.set()

    def open(self):
        documents = []
        self.runs.append(documents)
        store = self

        class Writer:
            def __call__(self, name, doc):
                store.gate.wait(60)
                store.fail(name, doc)
                documents.append((name, doc))

            def flush(self):
                store.flushes += 1

        return Writer()


@pytest.fixture
def make_feed(tmp_path):
    feeds = []

    def make(store, **options):
        feed = CatalogCallback(store.open, Journal(tmp_path / "documents"), **options)
        feeds.append((feed, store))
        return feed

    yield make
    for feed, store in feeds:
        store.gate.set()
        feed.close(60)
        assert not feed._thread.is_alive()


def names(documents):
    return [name for name, _ in documents]


def test_documents_when_fed_then_written_in_order_and_the_journal_is_empty(make_feed):
    store = Store()
    feed = make_feed(store)
    simple_run(feed, n=20)
    feed.flush(60)
    assert names(store.runs[0]) == ["start", "descriptor", *["event"] * 20, "stop"]
    assert [doc["seq_num"] for name, doc in store.runs[0] if name == "event"] == list(range(1, 21))
    assert list(feed._journal.directory.glob("*.jsonl")) == []
    assert feed.open_runs == set()


def test_runs_when_interleaved_then_each_writer_sees_its_own(make_feed):
    store = Store()
    feed = make_feed(store)
    runs = [Composed(feed) for _ in range(3)]
    streams = [run.stream("primary", {"x": scalar("number")}) for run in runs]
    for i in range(9):
        streams[i % 3].event(x=float(i))
    for run in reversed(runs):
        run.stop()
    feed.flush(60)
    for k, documents in enumerate(store.runs):
        assert [doc["data"]["x"] for name, doc in documents if name == "event"] == [k, k + 3, k + 6]


def test_events_when_they_come_faster_than_the_period_then_flushed_together(make_feed):
    store = Store()
    feed = make_feed(store, period=60.0)
    run = Composed(feed)
    feed.flush(60)
    before = store.flushes
    stream = run.stream("primary", {"x": scalar("number")})
    for i in range(200):
        stream.event(x=float(i))
    feed.flush(60)
    assert store.flushes == before + 1
    run.stop()


@pytest.mark.parametrize("where", ["start", "descriptor", "event", "stop"])
def test_run_when_its_writer_fails_then_journalled_whole_and_logged_once(make_feed, caplog, where):
    bad = []

    def fail(name, doc):
        if name == where and (doc.get("run_start") in bad or doc["uid"] in bad or name == "event"):
            raise ConnectionError("server gone")

    store = Store(fail)
    feed = make_feed(store)
    received = []

    def send(name, doc):
        if name == "start":
            bad.append(doc["uid"])
        received.append((name, doc))
        feed(name, doc)

    uid = simple_run(send)
    feed.flush(60)
    (path,) = feed._journal.waiting().values()
    assert list(feed._journal.read(path)) == received
    said = [r for r in caplog.records if uid in r.getMessage()]
    assert len(said) == 1
    assert "server gone" in said[0].getMessage()
    assert "catalog.replay()" in said[0].getMessage()
    bad.clear()
    store.fail = lambda name, doc: None
    simple_run(feed)
    feed.flush(60)
    assert names(store.runs[-1])[-1] == "stop"
    assert list(feed._journal.waiting()) == [uid]


def test_queue_when_full_then_the_engine_goes_on_and_the_journal_has_all(make_feed, caplog):
    store = Store()
    feed = make_feed(store, max_queued=5)
    store.gate.clear()
    uid = simple_run(feed, n=50)
    store.gate.set()
    feed.flush(60)
    (path,) = feed._journal.waiting().values()
    assert names(feed._journal.read(path)) == ["start", "descriptor", *["event"] * 50, "stop"]
    assert [uid in r.getMessage() for r in caplog.records].count(True) == 1


def test_flush_when_the_writer_hangs_then_service_timeout(make_feed):
    store = Store()
    feed = make_feed(store)
    store.gate.clear()
    Composed(feed).stop()
    with pytest.raises(ServiceTimeout, match="catalog flush: not done after 0.05 s"):
        feed.flush(0.05)


def test_document_when_it_belongs_to_no_run_then_left_out_with_a_warning(make_feed, caplog):
    feed = make_feed(Store())
    feed("event", {"descriptor": "unknown", "uid": "x"})
    feed("stop", {"run_start": "unknown", "uid": "y"})
    assert caplog.text.count("belongs to no open run") == 2
    assert list(feed._journal.directory.glob("*.jsonl")) == []


def test_close_when_a_run_is_open_then_its_documents_stay_in_the_journal(make_feed):
    feed = make_feed(Store())
    run = Composed(feed)
    feed.close(60)
    assert list(feed._journal.waiting()) == [run.uid]


def test_flush_when_longer_than_two_limits_but_going_on_then_it_ends(make_feed):
    feed = make_feed(Store(fail=lambda name, doc: threading.Event().wait(0.4)))
    simple_run(feed, n=10)
    feed.flush(2.0)
    assert feed._queue.empty()
