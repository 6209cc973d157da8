"""The way of a run through the broker, without one: whose a number is, and what is said to be lost."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from sfdaq_ophyd.devices.broker._run import ACCEPTED, COMPLETE, READ
from sfdaq_ophyd.devices.broker._runner import BrokerRunner
from sfdaq_ophyd.errors import Discarded, FramesMissing, RequestError

PGROUP = "p12345"


class Client:
    """Gives out numbers; `meanwhile` is called while it does."""

    def __init__(self, sf_root):
        self.sf_root, self.last, self.meanwhile = sf_root, 0, lambda: None

    def advance_run_number(self, pgroup):
        self.last += 1
        self.meanwhile()
        return self.last


@pytest.fixture
def runner(tmp_path):
    settings = SimpleNamespace(pgroup=PGROUP, detectors={})
    client = Client(tmp_path / "sf")
    return BrokerRunner("sfdaq", client, lambda: settings, None, tmp_path / "runs", warns_alone=False)


def test_run_in_use_when_the_run_ends_while_a_number_is_taken_then_nobody_goes_on_with_it(runner):
    runner.name_run("aborted")
    check = runner.same_run()
    runner.client.meanwhile = runner.end_run
    with pytest.raises(Discarded, match="ended before its data were asked for"):
        runner.run_in_use(None, check)
    assert runner.run is None
    runner.client.meanwhile = lambda: None
    runner.name_run("next")
    run = runner.run_in_use(None, runner.same_run())
    assert (run.number, run.uid) == (2, "next")
    assert [table.run_facts()["run_number"] for table in runner.closed_tables()] == []


def test_run_in_use_when_the_pgroup_was_changed_then_its_number_is_not_used_in_the_other(runner):
    runner.take_run_number()
    runner._settings().pgroup = "p54321"
    with pytest.raises(RequestError, match="sfdaq.pgroup='p54321': expected p12345, of which run 1 is"):
        runner.run_in_use(None, runner.same_run())
    runner.end_run()
    assert runner.run_in_use(None, runner.same_run()).pgroup == "p54321"


def test_demand_data_when_frames_are_lost_then_names_what_may_lack_none(runner):
    run = runner.run_in_use(None, runner.same_run())
    run.uid = "a run"
    fact = {"n_asked": 10, "missing": [5]}
    found = [
        {"source": "JF01T03V01", "key": "JF01T03V01", "n_got": 0, "filtered": True, **fact},
        {"source": "BSDATA", "key": "CHANNEL", "n_got": 9, "filtered": False, **fact},
    ]
    run.table.write(ACCEPTED, 0, acquisition_number=1, files=[])
    run.table.write(READ, 0)
    run.table.write(COMPLETE, 0, found=found, failures={})
    with pytest.raises(FramesMissing, match="CHANNEL: 9 of 10 frames came"):
        runner.demand_data("a run")


@pytest.fixture
def saved(runner):
    """Write requests of run 5; return their path."""

    def write(**fields):
        meta = runner.client.sf_root / "bernina" / "data" / PGROUP / "raw" / "run0005-tag" / "meta"
        meta.mkdir(parents=True)
        body = {"pgroup": PGROUP, "start_pulseid": 100, "stop_pulseid": 109, "pv_list": ["A:B"], **fields}
        (meta / "acq0001.json").write_text(json.dumps(body))
        return str(meta / "acq0001.json")

    return write


@pytest.mark.parametrize(
    ("fields", "changes", "expected"),
    [
        ({"run_number": 7}, None, "run_number=7: expected a request of run0005-tag"),
        ({"run_number": 5}, {"run_number": 7}, "same_run tells whose number"),
    ],
)
def test_saved_requests_when_they_would_go_into_another_run_then_are_refused(
    runner, saved, fields, changes, expected
):
    """What same_run is told to write into is the run that was named, whatever a file in it says."""
    path = saved(**fields)
    with pytest.raises(RequestError, match=expected):
        runner.saved_requests(5, changes=changes)
    with pytest.raises(RequestError, match=expected):
        runner.acquire_again(None, runner.same_run(), path, changes)
    assert runner.run is None and runner.client.last == 0


@pytest.mark.parametrize("fields", [{"run_number": 5}, {}])
def test_acquire_again_when_there_is_no_other_run_then_the_old_one_goes_on(
    runner, saved, monkeypatch, fields
):
    sent = []
    monkeypatch.setattr(runner, "_send", lambda run, request: sent.append((run, request)))
    runner.acquire_again(None, runner.same_run(), saved(**fields))
    ((run, request),) = sent
    assert run.number == request.run_number == 5 and runner.client.last == 0
    assert request.extra["rerun_of"] == "run0005/acq0001"


def test_acquire_again_when_the_file_is_a_copy_elsewhere_then_its_own_number_counts(
    runner, saved, tmp_path, monkeypatch
):
    sent = []
    monkeypatch.setattr(runner, "_send", lambda run, request: sent.append(request))
    copy = shutil.copy(saved(run_number=5), tmp_path)
    runner.acquire_again(None, runner.same_run(), copy)
    assert [request.run_number for request in sent] == [5]
