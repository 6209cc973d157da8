"""The simulated facility of a session: what is said of one that does not start."""

from __future__ import annotations

import os

import pytest

from sfdaq_ophyd import log
from sfdaq_ophyd.catalog import _embedded
from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable
from sfdaq_ophyd.session import simulated
from sfdaq_ophyd.session.config import SimConfig
from sfdaq_ophyd.sim import child


class Failing:
    """In place of a `Facility`: its start raises `error`."""

    error: Exception
    started: tuple = ()

    def __init__(self, *args, **options):
        pass

    def __enter__(self):
        raise self.error

    def close(self):
        pass


@pytest.fixture
def screen_of(tmp_path, monkeypatch):
    """Return what a person sees where the simulated facility does not start, and the exception."""
    monkeypatch.setattr(log, "keep_log", lambda: tmp_path / "log")
    for name in ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(simulated, "Facility", Failing)

    def screen(error):
        monkeypatch.setattr(Failing, "error", error, raising=False)
        sim = simulated.SimulatedFacility()
        sim.start(SimConfig(), tmp_path)
        with pytest.raises(type(error) if isinstance(error, RequestError) else Exception) as caught:
            sim.wait()
        assert not sim.is_ready
        return log.failure(caught.value, "sfdaq doctor").splitlines(), caught.value

    return screen


def test_wait_when_a_simulator_did_not_start_in_time_then_where_it_stood_and_its_own_hint(screen_of):
    lines, error = screen_of(ServiceTimeout("start of the PVs", 60, "step 'importing'", child.HINT))
    assert isinstance(error, ServiceTimeout) and not isinstance(error, ServiceUnreachable)
    assert lines[1:3] == [
        "  start of the PVs: not done after 60 s; last state step 'importing'.",
        f"  What to do: {child.HINT}",
    ]


def test_wait_when_a_simulator_ended_then_its_last_words(screen_of):
    lines, _ = screen_of(ServiceUnreachable("the PVs", url="child process", reason="it ended; no caproto"))
    assert lines[1] == "  the PVs: child process is not reachable (it ended; no caproto)"


def test_wait_when_an_option_of_the_file_is_wrong_then_one_sentence(screen_of):
    lines, _ = screen_of(RequestError("option", "eiger_colour", "one of eiger_model"))
    assert lines == ["sfdaq: option='eiger_colour': expected one of eiger_model"]


def test_wait_when_it_was_not_foreseen_then_said_of_the_facility(screen_of):
    lines, error = screen_of(KeyError("x"))
    assert isinstance(error, ServiceUnreachable)
    assert lines[1] == "  simulated facility: this process is not reachable ('x')"


@pytest.mark.parametrize(
    ("hint", "names"),
    [
        (child.HINT, ["sfdaq demo or sim --start-timeout", "sim.start_timeout in sfdaq.yaml", "Facility(st"]),
        (_embedded.HINT, ["sfdaq demo --start-timeout", "catalog.start_timeout in sfdaq.yaml", "embedded_c"]),
    ],
)
def test_hint_of_a_start_when_read_then_it_names_every_place_where_its_limit_is_set(hint, names):
    for name in names:
        assert name in hint, name
