"""What could not be put back: kept on disk by address, paid once, never over somebody else's value."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sfdaq_ophyd.devices.debts import Debts, _process, all_debts, keep_in
from sfdaq_ophyd.errors import ServiceUnreachable, StorageError, UnknownOutcome


@pytest.fixture
def debts(tmp_path):
    return Debts("eiger", "http://dcu", tmp_path)


def hardware(**values):
    """Return a dict of values, and how to read and write it."""
    return values, {"read": values.get, "write": values.update}


def owe(debts, what="nimages", left=1, back=7):
    debts.owe(what, left=left, back=back, reason="no network")


def test_debt_when_noted_then_another_process_knows_it_and_a_person_too(debts, tmp_path, caplog):
    owe(debts)
    assert "eiger: nimages was left at 1, not put back to 7" in caplog.text and "no network" in caplog.text
    (debt,) = Debts("eiger", "http://dcu", tmp_path).owed().values()
    assert (debt.left, debt.back) == (1, 7)
    assert [address for address, _ in all_debts(debts.path.parent)] == ["http://dcu"]
    assert not Debts("eiger", "http://other", tmp_path).owed()


def test_debt_when_its_values_are_of_numpy_then_another_process_knows_it(debts, tmp_path):
    owe(debts, left=np.float32(1.5), back=np.arange(2))
    (debt,) = Debts("eiger", "http://dcu", tmp_path).owed().values()
    assert (debt.left, debt.back) == (1.5, [0, 1])


def test_debts_when_paid_then_put_back_in_order_once_and_the_file_goes(debts):
    written = []
    owe(debts, "ntrigger", 1, 3)
    owe(debts, "trigger_mode", "ints", "exts")
    now = {"ntrigger": 1, "trigger_mode": "ints"}
    debts.pay(now.get, written.append)
    debts.pay(now.get, written.append)
    assert [list(values.items()) for values in written] == [[("ntrigger", 3), ("trigger_mode", "exts")]]
    assert not debts.path.exists()


def test_debts_when_noted_again_then_the_first_value_is_put_back(debts):
    owe(debts, left=1, back=7)
    owe(debts, left=5, back=1)
    values, how = hardware(nimages=5)
    debts.pay(**how)
    assert values == {"nimages": 7}


@pytest.mark.parametrize(("reset", "after"), [(False, 3), (True, 7)])
def test_debts_when_somebody_set_the_value_since_then_it_stays_unless_a_reset_did(debts, reset, after):
    owe(debts)
    values, how = hardware(nimages=3)
    if reset:
        with debts.reset():
            pass
    debts.pay(**how)
    assert values == {"nimages": after}
    assert not debts.owed()


@pytest.mark.parametrize(
    ("error", "after"), [(UnknownOutcome("reset", url="http://dcu", reason="", hint=""), 7),
                         (ServiceUnreachable("reset", url="http://dcu", reason=""), 3)]
)  # fmt: skip
def test_debts_when_a_reset_fails_then_they_are_known_to_be_reset_unless_it_was_not_sent(
    debts, tmp_path, error, after
):
    owe(debts)
    with pytest.raises(type(error)), debts.reset():
        raise error
    values, how = hardware(nimages=3)
    Debts("eiger", "http://dcu", tmp_path).pay(**how)  # another process
    assert values == {"nimages": after}


def test_debts_when_paying_fails_after_a_reset_then_all_are_paid_the_next_time(debts, tmp_path):
    owe(debts, "ntrigger", 1, 3)
    owe(debts, left=1, back=7)
    with debts.reset():
        values, how = hardware(ntrigger=0, nimages=0)
    owe(debts, left=2, back=1)  # noted again

    def refuse(settings):
        values.update(ntrigger=3)
        raise ConnectionError("away again")

    for _ in range(2):
        with pytest.raises(ConnectionError):
            debts.pay(values.get, refuse)
    Debts("eiger", "http://dcu", tmp_path).pay(**how)  # another process
    assert values == {"ntrigger": 3, "nimages": 7}


def test_debts_when_the_hardware_has_no_such_value_after_a_reset_then_it_is_not_written(debts):
    owe(debts)
    with debts.reset():
        pass
    values, how = hardware()
    debts.pay(**how)
    assert not values and not debts.owed()


def test_changes_when_reset_while_staged_then_owed_after_a_kill_and_not_once_they_are_held_again(
    debts, tmp_path, monkeypatch
):
    debts.hold({"mode": ("exts", "ints"), "nimages": (7, 1)})
    with debts.reset():
        pass
    debts.hold({"nimages": (7, 1)})  # set again; the mode not yet
    monkeypatch.setattr(
        "sfdaq_ophyd.devices.debts._process", lambda pid: (now := _process(pid)) and f"{now} of another start"
    )
    values, how = hardware(mode="inte", nimages=3)
    Debts("eiger", "http://dcu", tmp_path).pay(**how)
    assert values == {"mode": "exts", "nimages": 3}, "somebody set the second, not the first"


def test_debts_when_paying_fails_then_all_is_still_owed(debts):
    owe(debts, "a")
    owe(debts, "b")

    def refuse(values):
        raise ConnectionError("away again")

    with pytest.raises(ConnectionError):
        debts.pay(lambda what: 1, refuse)
    assert list(debts.owed()) == ["a", "b"]


def test_debts_when_only_some_are_to_be_paid_then_the_others_stay(debts):
    owe(debts, "monitor/mode")
    owe(debts, "detector/mode")
    debts.pay(lambda what: 1, lambda values: None, only="monitor/")
    assert list(debts.owed()) == ["detector/mode"]


def test_debts_when_a_session_keeps_them_then_they_lie_in_its_folder(debts, tmp_path):
    keep_in(tmp_path / "session")
    try:
        owe(debts)
        assert len(list((tmp_path / "session").iterdir())) == 1
        assert not (tmp_path / "debts").exists()
    finally:
        keep_in(None)
    assert not debts.owed()


def test_debts_when_the_disk_takes_nothing_then_this_process_remembers(debts, caplog):
    debts.path.parent.write_text("a file where the folder should be")
    owe(debts)
    assert "could not be kept" in caplog.text
    values, how = hardware(nimages=1)
    debts.pay(**how)
    assert values == {"nimages": 7}


def test_changes_when_noted_at_stage_then_they_are_owed_once_the_process_is_gone(
    debts, tmp_path, monkeypatch
):
    other = Debts("watcher", "http://dcu", tmp_path)
    debts.hold({"mode": ("exts", "ints"), "nimages": (7, 1)})
    debts.hold({"nimages": (1, 5)})

    def changed():
        stat = debts.path.stat()
        return stat.st_ino, stat.st_mtime_ns  # reading it moves another time

    before = changed()
    debts.hold({"nimages": (1, 5)})
    assert changed() == before, "what is noted already costs nothing"
    assert not debts.owed() and not other.owed() and not list(all_debts(debts.path.parent))
    monkeypatch.setattr(
        "sfdaq_ophyd.devices.debts._process", lambda pid: (now := _process(pid)) and f"{now} of another start"
    )
    owed = other.owed()
    assert {what: (debt.left, debt.back) for what, debt in owed.items()} == {
        "nimages": (5, 7),
        "mode": ("ints", "exts"),
    }
    assert list(owed) == ["nimages", "mode"], "back in the reverse order"
    assert [address for address, _ in all_debts(debts.path.parent)] == ["http://dcu"] * 2


def test_changes_when_put_back_then_the_note_goes_and_what_failed_is_owed(debts):
    debts.hold({"a": (1, 2), "b": (3, 4)})
    owe(debts, "b", left=4, back=3)
    debts.release()
    debts.release()
    assert list(debts.owed()) == ["b"]
    debts.forget("b")
    assert not debts.path.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"address": "http://dcu", "owed": [1]}', "[" * 100_000, '{"owed": {"a": 1}}']
)
def test_debts_when_their_file_holds_something_else_then_it_is_told_and_the_device_goes_on(
    debts, caplog, content
):
    debts.path.parent.mkdir()
    debts.path.write_text(content)
    assert debts.owed() == {}
    assert "not a file of debts" in caplog.text
    owe(debts)
    assert list(debts.owed()) == ["nimages"]
    (aside,) = debts.path.parent.glob("*.unreadable-*")
    assert aside.read_text() == content and f"kept as {aside}" in caplog.text
    assert [address for address, _ in all_debts(debts.path.parent)] == ["http://dcu"]


def test_debts_when_their_file_cannot_be_read_once_then_all_are_paid_once_it_can(debts, monkeypatch, caplog):
    owe(debts, "ntrigger", 1, 3)
    owe(debts, "mode", "ints", "exts")

    def fail(path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("sfdaq_ophyd.devices.debts.Path.open", fail)
        owe(debts)
        owe(debts, "mode", "inte", "ints")
        with pytest.raises(StorageError, match="It may tell of values that are to be put back"):
            list(all_debts(debts.path.parent))
    assert "debts could not be read from" in caplog.text and "could not be kept in" in caplog.text
    values, how = hardware(ntrigger=1, nimages=1, mode="inte")
    debts.pay(**how)
    assert values == {"ntrigger": 3, "nimages": 7, "mode": "exts"}, "the first value noted is put back"
    assert not list(debts.path.parent.iterdir())


def test_debts_when_their_file_cannot_be_read_then_nothing_is_paid_and_the_file_is_named(debts, monkeypatch):
    owe(debts)
    asked = []

    def fail(path):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("sfdaq_ophyd.devices.debts.Path.open", fail)
        with pytest.raises(StorageError, match="Stale file handle") as error:
            debts.pay(asked.append, asked.append)
    assert error.value.path == str(debts.path) and error.value.errno == 116 and not asked
    values, how = hardware(nimages=1)
    debts.pay(**how)
    assert values == {"nimages": 7}


def test_folder_of_debts_when_one_file_cannot_be_read_then_the_others_are_told_first(
    debts, tmp_path, monkeypatch
):
    owe(debts)
    other = Debts("watcher", "http://a", tmp_path)
    owe(other)
    opened = type(tmp_path).open

    def fail(path, *mode):
        if path == other.path:
            raise OSError(13, "Permission denied")
        return opened(path, *mode)

    monkeypatch.setattr("sfdaq_ophyd.devices.debts.Path.open", fail)
    told = []
    with pytest.raises(StorageError, match="Permission denied") as error:
        for address, _ in all_debts(debts.path.parent):
            told.append(address)
    assert told == ["http://dcu"] and error.value.path == str(other.path)


def test_folder_of_debts_when_it_cannot_be_listed_then_nobody_says_that_nothing_is_owed(debts, monkeypatch):
    assert not list(all_debts(debts.path.parent))

    def fail(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sfdaq_ophyd.devices.debts.os.listdir", fail)
    with pytest.raises(StorageError, match="Permission denied"):
        list(all_debts(debts.path.parent))


def test_debts_when_what_is_known_is_enough_then_it_is_paid_though_the_file_cannot_be_read(
    debts, monkeypatch
):
    def fail(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("sfdaq_ophyd.devices.debts.Path.open", fail)
    owe(debts)
    values, how = hardware(nimages=1)
    debts.pay(**how, owed=debts.owed())
    assert values == {"nimages": 7}


def test_debts_when_two_devices_owe_to_one_address_then_both_are_kept(debts, tmp_path):
    owe(debts)
    Debts("watcher", "http://dcu", tmp_path).owe("mode", left="on", back="off", reason="away")
    assert [debt.device for debt in debts.owed().values()] == ["eiger", "watcher"]
    assert json.loads(debts.path.read_text())["address"] == "http://dcu"
