"""Documents on disk: whole lines survive whatever cut the file."""

from __future__ import annotations

import enum
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.catalog.journal import Journal

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(docs=st.lists(st.dictionaries(st.text(), PLAIN, max_size=4), max_size=4))
def test_documents_when_read_back_then_equal(tmp_path, docs):
    journal = Journal(tmp_path)
    sent = [("start", {"uid": "u"}), *[("event", doc) for doc in docs]]
    for name, doc in sent:
        assert journal.write("u", name, doc)
    journal.close()
    assert list(journal.read(journal.path("u"))) == sent


@quick
@given(cut=st.integers(0, 400), junk=st.binary(max_size=20))
def test_file_when_cut_anywhere_then_a_whole_prefix_is_read(tmp_path, cut, junk):
    journal = Journal(tmp_path)
    sent = [("start", {"uid": "u"}), *[("event", {"seq_num": i, "text": "\N{BULLET}" * 3}) for i in range(5)]]
    for name, doc in sent:
        journal.write("u", name, doc)
    journal.close()
    path = journal.path("u")
    path.write_bytes(path.read_bytes()[:cut] + junk)
    read = list(journal.read(path))
    assert read == sent[: len(read)]


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.int64(2**60 + 1), 2**60 + 1),
        (np.bool_(True), True),
        (Path("/data"), "/data"),
        (Colour.RED, "red"),
        ({3, 1}, [1, 3]),
    ],
)
def test_value_when_not_of_json_then_its_plain_form(tmp_path, value, expected):
    journal = Journal(tmp_path)
    journal.write("u", "start", {"uid": "u", "value": value})
    ((_, doc),) = journal.read(journal.path("u"))
    assert doc["value"] == expected


def test_nan_when_written_then_read_as_nan(tmp_path):
    journal = Journal(tmp_path)
    journal.write("u", "start", {"uid": "u", "value": math.nan})
    ((_, doc),) = journal.read(journal.path("u"))
    assert math.isnan(doc["value"])


def test_disk_when_full_then_no_exception_and_logged_once(tmp_path, caplog, monkeypatch):
    journal = Journal(tmp_path)
    monkeypatch.setattr(journal, "path", lambda uid: Path("/dev/full"))
    assert not journal.write("u", "start", {"uid": "u"})
    assert not journal.write("u", "stop", {"uid": "v"})
    assert journal.broken("u")
    assert caplog.text.count("not backed up") == 1


def test_value_when_it_cannot_be_written_then_no_exception_and_named(tmp_path, caplog):
    journal = Journal(tmp_path)
    assert not journal.write("u", "start", {"uid": "u", "value": object()})
    assert "object cannot be written as JSON" in caplog.text


def test_uid_when_it_is_a_path_then_the_file_stays_in_the_directory(tmp_path):
    journal = Journal(tmp_path / "documents")
    journal.write("../../etc/x", "start", {"uid": "../../etc/x"})
    assert journal.path("../../etc/x").parent == tmp_path / "documents"
    assert list(journal.waiting()) == ["../../etc/x"]


def test_waiting_when_several_then_oldest_first(tmp_path):
    journal = Journal(tmp_path)
    for uid, time in [("b", 2.0), ("a", 3.0), ("c", 1.0)]:
        journal.write(uid, "start", {"uid": uid, "time": time})
    assert list(journal.waiting(but={"a"})) == ["c", "b"]
    journal.keep("c")
    assert list(journal.waiting()) == ["b", "a"]


def test_kept_when_more_than_there_is_room_for_then_the_oldest_go(tmp_path):
    journal = Journal(tmp_path, most_kept=400)
    for n in range(9):
        journal.write(f"u{n}", "start", {"uid": f"u{n}", "time": n})
        journal.keep(f"u{n}")
        os.utime(journal.find(f"u{n}"), (n, n))  # some file systems count in ticks
    kept = [n for n in range(9) if journal.find(f"u{n}")]
    assert 0 < len(kept) < 9 and kept == list(range(9))[-len(kept) :]
    assert sum(path.stat().st_size for path in (tmp_path / "kept").iterdir()) <= 400


def test_disk_when_full_until_the_end_then_the_run_is_kept_or_closed_without_an_error(tmp_path, caplog):
    journal = Journal(tmp_path)
    for uid in ("kept", "closed"):
        journal.path(uid).symlink_to("/dev/full")
        assert not journal.write(uid, "start", {"uid": uid})
        assert not journal.write(uid, "stop", {"run_start": uid})
    journal.keep("kept")
    journal.close()
    assert journal.broken("closed") and not journal.broken("kept")
    assert journal.find("kept") is None


def test_journal_when_it_broke_then_the_next_process_knows_and_does_not_keep_it(tmp_path):
    journal = Journal(tmp_path)
    journal.write("u", "start", {"uid": "u"})
    assert not journal.write("u", "event", {"data": object()})
    journal.close()
    journal = Journal(tmp_path)
    assert journal.broken("u") and list(journal.waiting()) == ["u"]
    journal.keep("u")
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_run_when_it_is_sent_again_then_what_broke_before_is_forgotten(tmp_path):
    broken = Journal(tmp_path)
    broken.write("u", "start", {"uid": "u", "value": object()})
    journal = Journal(tmp_path)
    journal.write("u", "start", {"uid": "u"})
    assert not journal.broken("u")
    journal.close()


def test_run_when_another_process_takes_it_then_it_waits_for_nobody_until_that_has_ended(tmp_path):
    taking, other = Journal(tmp_path), Journal(tmp_path)
    taking.write("u", "start", {"uid": "u"})
    assert list(other.waiting()) == []
    taking.write("u", "stop", {"run_start": "u"})  # what the catalog lacks is still to come
    assert list(other.waiting()) == []
    with other.taken("u", other.path("u")) as is_ours:
        assert not is_ours
    taking.close()
    assert list(other.waiting()) == ["u"]


def test_run_when_two_processes_bring_it_in_then_one_does(tmp_path):
    killed = Journal(tmp_path)
    killed.write("u", "start", {"uid": "u"})
    killed.close()
    one, other = Journal(tmp_path), Journal(tmp_path)
    (path,) = one.waiting().values()
    with one.taken("u", path) as is_ours:
        assert is_ours and list(other.waiting()) == []
        with other.taken("u", path) as is_theirs:
            assert not is_theirs
        one.keep("u")
    with other.taken("u", path) as is_theirs:
        assert not is_theirs


def test_run_when_it_is_kept_then_its_file_is_let_go(tmp_path):
    journal = Journal(tmp_path)
    for uid in "abc":
        journal.write(uid, "start", {"uid": uid})
    journal.keep("a")
    journal.discard("b")
    assert list(journal._held) == ["c"]
    journal.close()
    assert not journal._held
