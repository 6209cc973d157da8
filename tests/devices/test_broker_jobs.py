"""Jobs of the broker device: waited with, told of, and given up unless their request is out."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from sfdaq_ophyd.devices._status import ActionStatus
from sfdaq_ophyd.devices._worker import Workers
from sfdaq_ophyd.devices.broker._service import JobStatus

DEVICE = SimpleNamespace(name="sfdaq")


@pytest.fixture
def workers():
    workers = Workers("test jobs", lambda: False)
    yield workers
    workers.end()


def test_job_when_given_up_while_it_waits_then_done_and_nothing_is_sent(workers):
    job, pulses, sent = JobStatus(DEVICE, "job", 30), ActionStatus(DEVICE, "pulses", 30), []

    def action():
        job.wait_for(pulses)
        job.commit()
        sent.append("request")

    job.begin(workers, action)
    job.give_up(30)
    job.give_up(30)
    job.wait(120)
    pulses.wait(120)
    assert not sent and not job.running and not workers.n_open


def test_job_when_its_request_is_out_then_giving_up_waits_for_the_reply(workers):
    job, out, reply, got = JobStatus(DEVICE, "job", 30), threading.Event(), threading.Event(), []

    def action():
        job.commit()
        out.set()
        got.append(reply.wait(120))

    job.begin(workers, action)
    assert out.wait(120)
    job.give_up()
    assert job.running
    reply.set()
    job.give_up(30)
    job.wait(120)
    assert got == [True] and not job.running


def test_job_when_what_it_waits_for_fails_then_fails_with_its_words(workers):
    job, pulses, seen = JobStatus(DEVICE, "job", 30), ActionStatus(DEVICE, "pulses", 30, target=4), []
    job.begin(workers, lambda: job.wait_for(pulses, lambda *told: seen.append(told)))
    pulses.progress(2, "pulse 2")
    pulses.fail(ZeroDivisionError("no pulses"))
    assert isinstance(job.exception(120), ZeroDivisionError)
    assert seen[-1] == (2, 4, "pulse 2")
