"""The network away, or the session before killed: what was found is owed, and put back."""

from __future__ import annotations

import subprocess
import sys
import threading

import bluesky.plans as bp
import pytest

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.devices.debts import all_debts
from sfdaq_ophyd.errors import StorageError, UnknownOutcome

from ...http_peer import relay
from ..run_engine_driver import check_run, drive, interruptible
from .conftest import check_as_found, make_eiger, stamp_of


@pytest.fixture
def outage(part):
    """A switch for the network, and the address behind it, of an initialized detector."""
    away = threading.Event()
    SimplonClient(part.url).initialize()
    with relay(part.url, lambda path, forward: None if away.is_set() else forward()) as url:
        yield away, url


def test_unstage_when_the_network_is_away_then_the_next_stage_puts_back_what_was_found(
    part, outage, tmp_path, caplog
):
    """eiger-unstage-outage"""
    away, url = outage
    client = SimplonClient(part.url)
    client.put("detector", "trigger_mode", "exts")
    client.put("detector", "nimages", 7)
    names = [
        ("monitor", "mode"),
        ("monitor", "discard_new"),
        ("detector", "nimages"),
        ("detector", "trigger_mode"),
    ]
    found = [client.get(module, "config", name).value for module, name in names]
    make = type(make_eiger(part, tmp_path, exposure_time=0.02))
    eiger = make(url, name="eiger", directory=tmp_path, timeout=10.0)
    eiger.stage()
    away.set()
    eiger.unstage()
    assert "detector/config/nimages was left at 1, not put back to 7" in caplog.text
    away.clear()
    eiger = make(url, name="eiger", directory=tmp_path)  # another process
    check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
    assert [client.get(module, "config", name).value for module, name in names] == found
    assert not eiger.source.control.debts.owed()
    client.put("detector", "trigger_mode", "ints")
    client.put("detector", "nimages", 1)


@pytest.mark.parametrize("value", [5, 7])
@pytest.mark.parametrize("comes_back", [False, True])
def test_unstage_when_the_network_went_with_a_setting_then_what_was_found_is_put_back(
    part, outage, tmp_path, value, comes_back
):
    """What was to be set last is not there: a value of before is."""
    away, url = outage
    client = SimplonClient(part.url)
    client.put("detector", "nimages", 7)
    eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)
    eiger.stage()
    control = eiger.source.control
    hold = control.debts.hold
    control.debts.hold = lambda changes: (hold(changes), away.set())
    with pytest.raises((ConnectionError, UnknownOutcome)):
        control.set({"detector/config/nimages": value})
    if comes_back:
        away.clear()
    eiger.unstage()
    assert client.get("detector", "config", "nimages").value == (7 if comes_back else 1)
    away.clear()
    eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)  # another process
    eiger.stage()
    eiger.unstage()
    assert client.get("detector", "config", "nimages").value == 7
    client.put("detector", "nimages", 1)


def test_point_when_the_network_goes_then_its_failure_is_told_and_the_detector_is_put_right_later(
    part, outage, tmp_path
):
    """eiger-unstage-outage"""
    away, url = outage
    make = type(make_eiger(part, tmp_path, exposure_time=0.02))
    eiger = make(url, name="eiger", directory=tmp_path, timeout=10.0)
    eiger.timeout.put(5.0)
    engine = interruptible()
    engine.subscribe(lambda *_: away.set(), "event")
    run = drive(engine, lambda: bp.count([eiger], 3))
    assert run.stop["reason"].startswith("eiger: ") and url in run.stop["reason"]
    assert "not left as found" not in str(run.error)
    assert any("disarm" in what for what in eiger.source.control.debts.owed())
    away.clear()
    eiger.stage()
    eiger.unstage()
    check_as_found(part, eiger.client)
    assert not eiger.source.control.debts.owed()


SCANS = """
import sys, threading
from sfdaq_ophyd.devices import Eiger
eiger = Eiger(sys.argv[1], name="eiger", directory=sys.argv[2])
eiger.frames_per_trigger.put(3)
eiger.stage()
status = eiger.trigger()
status.wait(120)
print("staged", flush=True)
threading.Event().wait()
"""


def test_stage_when_the_session_before_was_killed_in_mid_scan_then_the_next_one_puts_back_what_it_found(
    part, tmp_path
):
    client = SimplonClient(part.url)
    client.put("detector", "trigger_mode", "exts")
    client.put("detector", "nimages", 7)
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", SCANS, part.url, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        with child:
            said = child.stdout.readline()
            owed_while_it_lives = list(all_debts(tmp_path / "debts"))
            child.kill()
        assert said == "staged\n" and not owed_while_it_lives
        assert client.get("detector", "config", "nimages").value == 3
        owed = {debt.what: debt.back for _, debt in all_debts(tmp_path / "debts")}
        assert owed["detector/config/nimages"] == 7 and owed["detector/config/trigger_mode"] == "exts"
        eiger = make_eiger(part, tmp_path)
        eiger.stage()
        eiger.unstage()
        found = [client.get("detector", "config", name).value for name in ("nimages", "trigger_mode")]
        assert found == [7, "exts"] and not list(all_debts(tmp_path / "debts"))
    finally:
        client.put("detector", "trigger_mode", "ints")
        client.put("detector", "nimages", 1)
    check_as_found(part, client)


@pytest.mark.parametrize("verb", ["stage", "initialize"])
def test_verb_when_it_cannot_be_read_what_is_owed_then_refused_before_anything_is_set(
    part, outage, tmp_path, monkeypatch, verb
):
    """A debt that was not read is not paid: what it left would be taken for what was found."""
    away, url = outage
    client = SimplonClient(part.url)
    client.put("detector", "nimages", 7)
    make = type(make_eiger(part, tmp_path, exposure_time=0.02))
    eiger = make(url, name="eiger", directory=tmp_path, timeout=10.0)
    eiger.frames_per_trigger.put(3)
    eiger.stage()
    away.set()
    eiger.unstage()
    away.clear()
    path = eiger.source.control.debts.path
    eiger = make(url, name="eiger", directory=tmp_path, timeout=10.0)  # another process

    def fail(path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("sfdaq_ophyd.devices.debts._load", fail)
        with pytest.raises(StorageError, match=f"reading the debts in {path}: Input/output error"):
            getattr(eiger, verb)()
    eiger.unstage()
    assert client.get("detector", "config", "nimages").value == 3
    getattr(eiger, verb)()
    eiger.unstage()
    assert client.get("detector", "config", "nimages").value == 7
    assert not eiger.source.control.debts.owed()
    client.put("detector", "nimages", 1)


def test_initialize_when_something_is_owed_then_it_is_paid(part, outage, tmp_path):
    """eiger-unstage-outage"""
    away, url = outage
    client = SimplonClient(part.url)
    client.put("detector", "nimages", 7)
    make = type(make_eiger(part, tmp_path, exposure_time=0.02))
    eiger = make(url, name="eiger", directory=tmp_path, timeout=10.0)
    eiger.stage()
    away.set()
    eiger.unstage()
    away.clear()
    eiger.initialize()
    assert client.get("detector", "config", "nimages").value == 7
    assert not eiger.source.control.debts.owed()
    client.put("detector", "nimages", 1)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("lost", ["initialize", "trigger_mode", "nimages"])
def test_stage_when_paying_failed_after_a_reset_then_the_next_ones_pay(make_part, tmp_path, lost, restarted):
    """Whatever request the network goes with; in the same process and in another one."""
    part, gone = make_part(initialized=True), []

    def hook(path, forward):
        if gone and path.endswith(gone[0]):
            if path.endswith("initialize"):
                forward()
            return None
        return forward()

    client = SimplonClient(part.url)
    client.put("detector", "trigger_mode", "exts")
    client.put("detector", "nimages", 7)
    with relay(part.url, hook) as url:

        def another():
            return Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)

        eiger = another()
        eiger.exposure_time.put(0.02)
        eiger.frames_per_trigger.put(3)
        eiger.stage()
        gone.append("")
        eiger.unstage()
        client.command("system", "restart")
        gone[0] = lost
        for _ in range(2):
            with pytest.raises((ConnectionError, UnknownOutcome)):
                eiger.stage()
            eiger.unstage()
            assert eiger.source.control.debts.owed()
            eiger = another() if restarted else eiger
            if lost == "initialize":
                break
        gone.clear()
        eiger.stage()
        eiger.unstage()
        found = [client.get("detector", "config", name).value for name in ("nimages", "trigger_mode")]
        assert found == [7, "exts"] and not eiger.source.control.debts.owed()
        if not restarted:
            assert client.get("detector", "config", "count_time").value == 0.02


def test_signal_when_put_while_its_value_is_owed_then_what_was_put_stays(make_part, tmp_path):
    part, away = make_part(initialized=True), threading.Event()
    client = SimplonClient(part.url)
    client.put("detector", "trigger_mode", "exts")
    with relay(part.url, lambda path, forward: None if away.is_set() else forward()) as url:
        eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)
        eiger.stage()
        away.set()
        eiger.unstage()
        away.clear()
        with eiger.source.control.debts.reset():
            client.initialize()
        eiger.trigger_mode.put("inte")
        eiger.stage()
        eiger.unstage()
        assert client.get("detector", "config", "trigger_mode").value == "inte"


def test_scan_when_setting_again_failed_after_a_reset_then_the_next_one_is_set_as_before(make_part, tmp_path):
    part, away = make_part(initialized=True), threading.Event()

    def hook(path, forward):
        return None if away.is_set() and path.endswith("config/count_time") else forward()

    with relay(part.url, hook) as url:
        eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)
        eiger.exposure_time.put(0.02)
        eiger.stage()
        SimplonClient(part.url).command("system", "restart")
        eiger.unstage()
        away.set()
        with pytest.raises(ConnectionError):
            eiger.stage()
        away.clear()
        check_run(drive(interruptible(), lambda: bp.count([eiger])), 1, stamp_of=stamp_of)
        assert eiger.exposure_time.get() == 0.02


@pytest.mark.parametrize("n", [1, 2, 3])
def test_point_when_setting_again_failed_before_it_then_the_next_one_is_set_as_before(make_part, tmp_path, n):
    """Whether the value cannot be read, or not be set: from the `n`th request on after arming."""
    part, sent = make_part(initialized=True), []

    def hook(path, forward):
        if path.endswith("command/arm") or (sent and path.endswith("config/count_time")):
            sent.append(path)
        return None if len(sent) > n and path == sent[-1] else forward()

    with relay(part.url, hook) as url:
        eiger = Eiger(url, name="eiger", directory=tmp_path, timeout=10.0)
        eiger.exposure_time.put(0.02)
        eiger.n_triggers.put(1)
        eiger.stage()
        eiger.trigger().wait(60)
        client = SimplonClient(part.url)
        client.initialize()
        sent.clear()
        with pytest.raises((ConnectionError, UnknownOutcome)):
            eiger.trigger().wait(60)
        n = 1000
        eiger.trigger().wait(60)
        assert client.get("detector", "config", "count_time").value == 0.02
        eiger.unstage()


def test_initialize_when_what_is_owed_cannot_be_read_then_what_the_session_had_set_is_kept(
    part, tmp_path, monkeypatch
):
    eiger = make_eiger(part, tmp_path)
    eiger.exposure_time.set(0.005).wait(60)

    def not_read(path):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as closed:
        closed.setattr("sfdaq_ophyd.devices.debts._load", not_read)
        with pytest.raises(StorageError, match="Stale file handle"):
            eiger.initialize()
    eiger.source.control.initialize()
    assert eiger.exposure_time.get() == 0.005
    eiger.initialize()


def test_pause_when_the_network_is_away_then_the_scan_goes_on_once_it_is_back(part, outage, tmp_path):
    """eiger-unstage-outage"""
    away, url = outage
    make = type(make_eiger(part, tmp_path, exposure_time=0.3))
    eiger = make(url, name="eiger", directory=tmp_path, timeout=10.0)
    eiger.stage()
    status = eiger.trigger()
    away.set()
    eiger.pause()
    assert status.exception(60) is None
    away.clear()
    eiger.trigger().wait(60)
    assert eiger.read()["eiger_is_good"]["value"]
    eiger.unstage()
    check_as_found(part, eiger.client)
