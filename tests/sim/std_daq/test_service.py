"""Parties of the simulated service that no recording shows: throughput, restarts, users, outages."""

from __future__ import annotations

import json
import os
import threading
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import redis
import requests
import uvicorn

from sfdaq_ophyd.errors import ServiceTimeout, ServiceUnreachable
from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.faults import Faults
from sfdaq_ophyd.sim.std_daq.image_source import Image, ImageSource
from sfdaq_ophyd.sim.std_daq.server import DaqServer
from sfdaq_ophyd.sim.std_daq.settings import StdDaqSettings, Timing

from ...std_daq import simulated_daq


def stored(server, **changes):
    """Put a changed configuration into Redis by hand; the service does not see who did it."""
    config = {**server.service.config()[0], **changes}
    with redis.Redis.from_url(server.redis_url) as client:
        client.xadd("daq:config", {"json": json.dumps(config)})
    return config


def start(server, path, n_images=2, **more):
    body = {"output_file": str(path), "n_images": n_images, **more}
    return requests.post(server.url + "/writer/write_async", json=body, timeout=30).json()


def end(server, wait_for):
    wait_for(lambda: server.service.status()["state"] == "READY", "READY")


def test_throughput_when_images_are_written_then_it_counts_what_the_statuses_say(tmp_path, wait_for):
    options = {"running": False, "servers": (), "speed": 2.0}  # an entry is late by little of half a second
    with simulated_daq(**options) as server, redis.Redis.from_url(server.redis_url) as client:
        server.service.stop()
        start(server, tmp_path / "x.h5", 40)
        server.service.source.burst(45, rate=100.0)
        end(server, wait_for)

        def counted(who):
            """Return rates times the time between their entries, whose ids tell it to a few ms."""
            entries = [(int(i.split(b"-")[0]), json.loads(f[b"json"])) for i, f in client.xrange("daq:stat")]
            rates = [entry[who]["images_per_second"] for _, entry in entries]
            return sum(r * (b - a) / 1000 for r, (a, _), (b, _) in zip(rates[1:], entries, entries[1:]))

        wait_for(lambda: counted("writer") > 35, "all images counted")
        wait_for(lambda: counted("detector") > 40, "all images of the detector counted")
        assert counted("writer") == pytest.approx(40, rel=0.25)
        assert counted("detector") == pytest.approx(45, rel=0.25)


@pytest.mark.parametrize("speed", [0.1, 1.0, 40.0])
def test_throughput_when_the_simulator_has_another_speed_then_it_is_still_that_of_a_whole_second(speed):
    """Images come at the detector's rate at any speed, and who reads a figure counts it for a second."""
    assert Timing(speed).stats_period == 1.0 and Timing(speed).poll == pytest.approx(0.1 / speed)


@pytest.mark.parametrize(("dialect", "at_once"), [("flask", False), ("fastapi", True)])
def test_user_of_the_writer_when_it_changes_then_each_dialect_sees_it_in_its_own_time(
    dialect, at_once, tmp_path
):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    hidden.chmod(0o700)
    os.chown(hidden, 4711, -1) if os.geteuid() == 0 else None
    with simulated_daq(dialect=dialect, servers=(), folders={"/sls": str(tmp_path)}) as server:
        server.service.stop()
        stored(server, writer_user_id=1234)
        refused = start(server, "/sls/hidden/in/x.h5")["message"].startswith("Output file folder")
        assert refused  # it is not there for anybody
        (hidden / "in").mkdir()
        assert ("does not exist" in start(server, "/sls/hidden/in/x.h5")["message"]) is at_once
        server.service.stop()
        server.service.restart()
        assert "does not exist" in start(server, "/sls/hidden/in/x.h5")["message"]


def test_writer_when_its_user_may_not_write_then_it_cannot_create_the_file(tmp_path, wait_for):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw").chmod(0o755)
    with simulated_daq(servers=()) as server:
        server.service.stop()
        assert start(server, tmp_path / "raw" / "x.h5")["status"] == "ok"
        end(server, wait_for)
        assert (tmp_path / "raw" / "x.h5").stat().st_mode & 0o777 == 0o644
        stored(server, writer_user_id=1234)
        server.service.restart_writer()
        assert start(server, tmp_path / "raw" / "y.h5")["message"] == "ERROR: Cannot create output file."


@pytest.fixture(scope="module")
def server():
    """One for all that leave it as it was."""
    with simulated_daq(servers=()) as server:
        yield server


def test_restart_when_redis_is_empty_then_the_service_pushes_its_configuration(server):
    server.service.stop()
    before = server.service.config()
    server.fail_next("redis_empty")
    assert server.service.config() == (None, None)
    server.fail_next("rest_restarts")
    config, config_id = server.service.config()
    assert config == before[0] and config_id != before[1]
    assert server.service.status()["state"] == "UNKNOWN"


def test_log_when_redis_is_away_for_long_then_it_ends_until_the_service_restarts(tmp_path, wait_for):
    with simulated_daq(servers=(), speed=40.0) as server:
        service = server.service
        service.stop()
        server._embedded.stop()
        start(server, tmp_path / "x.h5")
        end(server, wait_for)
        wait_for(lambda: service._publisher._log_ended, "end of the log")
        server._embedded.start()
        start(server, tmp_path / "y.h5")
        end(server, wait_for)
        wait_for(lambda: service._publisher._outbox.empty(), "statuses published")
        assert service.logs(5) == []
        service.restart()
        service.stop()
        start(server, tmp_path / "z.h5")
        wait_for(lambda: len(service.logs(5)) == 1, "log entry")


def test_images_when_the_trigger_stops_then_none_come_and_their_ids_stand(wait_for):
    clock, images = PulseClock(), []
    clock.pause()
    driver = SimpleNamespace(accepting=0, overrun=None, behind=False, image=images.append)
    source = ImageSource(clock, clock.now() + 1, 1, lambda: driver, Faults({}))
    try:
        source.follow_clock()
        wait_for(lambda: clock.step() and images, "it follows the clock")
        last = clock.now()
        clock.show(triggered=False)
        clock.step(5)
        clock.show(triggered=True)
        clock.step(2)
        wait_for(lambda: images[-1].pulse_id == last + 7, "images with the trigger on")
        pulse_ids = [*range(images[0].pulse_id, last + 1), last + 6, last + 7]
        assert images == [Image(n, pulse) for n, pulse in enumerate(pulse_ids, images[0].image_id)]
    finally:
        source.close()
        clock.close()


def test_images_when_the_writer_is_slow_then_a_patient_clock_waits_and_none_is_lost(
    server, tmp_path, wait_for, monkeypatch
):
    server.service.stop()
    driver, writer, waiting = server.service._driver, server.service.writer, []
    send = writer.send

    def slowly(command):
        if command["do"] == "image":
            waiting.append(driver._inbox.qsize())
            time.sleep(0.05)
        send(command)

    monkeypatch.setattr(writer, "send", slowly)
    start(server, tmp_path / "x.h5", 80)
    end(server, wait_for)
    with h5py.File(tmp_path / "x.h5") as file:
        (group,) = file.values()
        ids = group["image_id"][:].astype(int)
    assert (np.diff(ids) == 1).all()
    assert max(waiting) <= 2 * 20, "the clock stood instead of running ahead"


def test_start_when_the_writer_lacks_cpu_then_the_service_does_not_give_up_on_it(
    server, tmp_path, wait_for, monkeypatch
):
    """At this speed the service waits for half a second; the answer comes after one."""
    server.service.stop()
    writer = server.service.writer
    send = writer.send
    with monkeypatch.context() as patch:
        patch.setattr(writer, "send", lambda command: (time.sleep(1.0), send(command)))
        assert start(server, tmp_path / "x.h5")["status"] == "ok"
    end(server, wait_for)


@pytest.mark.parametrize("starved", [True, False])
def test_start_when_the_writer_had_no_cpu_for_longer_than_the_service_waits_then_that_does_not_count(
    server, tmp_path, wait_for, monkeypatch, starved
):
    server.service.stop()
    writer = server.service.writer
    send = writer.send
    with monkeypatch.context() as patch:
        patch.setattr("sfdaq_ophyd.sim.std_daq.writer.LONGEST", 0.6)
        patch.setattr("sfdaq_ophyd.starting.time_without_cpu", lambda pid: starved and time.monotonic())
        answered = threading.Event()
        late = 3.0 if starved else 60.0
        patch.setattr(writer, "send", lambda command: (answered.wait(late), send(command)))
        assert start(server, tmp_path / "x.h5")["status"] == ("ok" if starved else "error")
        answered.set()
    wait_for(lambda: server.service.status()["state"] == "WRITING", "the start that came late")
    end(server, wait_for)


class Service(DaqServer):
    """A DAQ that is a REST service alone."""

    def _start(self):
        self._serve(lambda scope, receive, send: None)

    def addresses(self):
        return {"url": self.url}

    _at_once = {}


@pytest.fixture
def service_of():
    """Return a function that makes a service on a port that fails after `timeout` s."""
    clock = PulseClock()
    yield lambda timeout, port=0: Service(StdDaqSettings(start_timeout=timeout), clock, port=port)
    clock.close()


def test_start_when_the_service_does_nothing_more_then_its_limit_fails_with_step_time_and_what_to_do(
    service_of, monkeypatch
):
    def hang(server, sockets):
        while not server.should_exit:
            time.sleep(0.01)

    monkeypatch.setattr(uvicorn.Server, "run", hang)
    expected = r"DAQ: not done after 0\.1 s; last state step 'starting the REST service', \d+ s after"
    with pytest.raises(ServiceTimeout, match=expected) as caught:
        service_of(0.1).start()
    assert "start_timeout" in caught.value.hint


@pytest.mark.parametrize(
    ("raised", "reason"),
    [(None, "it ended by itself"), (OSError("no more files"), "no more files"), (SystemExit(3), "3")],
)
def test_start_when_the_service_ends_by_itself_then_fails_at_once_and_says_why(
    service_of, monkeypatch, raised, reason
):
    def end(server, sockets):
        if raised is not None:
            raise raised

    monkeypatch.setattr(uvicorn.Server, "run", end)
    service = service_of(600)
    with pytest.raises(ServiceUnreachable, match="start of the simulated standard DAQ: ") as caught:
        service.start()
    assert caught.value.reason == reason and caught.value.url == service.url


def test_start_when_its_port_is_taken_then_fails_with_the_address(service_of):
    with service_of(60) as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(ServiceUnreachable, match=f"{first.url} is not reachable .*in use"):
            service_of(60, port).start()
