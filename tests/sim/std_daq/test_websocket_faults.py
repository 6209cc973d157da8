"""The websocket generation: its configuration, its faults by name, and as a part of the Facility."""

from __future__ import annotations

import re

import h5py
import pytest
import requests

from sfdaq_ophyd.sim.facility import Facility
from sfdaq_ophyd.sim.stamp import read_stamp

from ...std_daq import simulated_websocket_daq
from .conftest import Session, ids, refuses


def test_config_when_asked_then_it_is_the_bare_object(ws):
    reply = requests.get(ws.url + "/api/config/get", params={"user": "x"}, timeout=60)
    assert reply.json()["number_of_writers"] == 2 and "status" not in reply.json()
    assert requests.get(ws.url + "/openapi.json", timeout=60).json()["openapi"]


def test_config_when_it_changes_then_driver_and_writers_restart_with_it(tmp_path, wait_for):
    with simulated_websocket_daq(speed=40.0) as server, Session(server) as session:
        session.until("idle")
        config = {**server.config, "number_of_writers": 3}
        url = server.url + "/api/config/set?user=x"
        assert requests.post(url, json=config, timeout=60).status_code == 200
        assert session.gone() == ""
        wait_for(lambda: server.alive().get("w2") and server.alive()["driver"], "the restart")
        with Session(server) as again:
            again.start(tmp_path, 3)
            again.until("file_saved")
    assert (tmp_path / "file2.h5").exists()


def test_config_when_it_is_of_no_use_then_nothing_runs_until_a_better_one_comes(wait_for):
    with simulated_websocket_daq(speed=40.0) as server:
        whole = server.config
        part = {key: whole[key] for key in ("detector_name", "detector_type", "bit_depth")}
        url = server.url + "/api/config/set?user=x"
        for config in (part, {**whole, "number_of_writers": "two"}, {**whole, "bit_depth": 13}):
            assert requests.post(url, json=config, timeout=60).status_code == 200
            assert requests.get(server.url + "/api/config/get?user=x", timeout=60).json() == config
            refuses(server, wait_for)
        requests.post(url, json=whole, timeout=60)
        wait_for(lambda: server.alive()["driver"], "a driver")
        with Session(server) as session:
            session.until("idle")


def test_config_when_the_second_server_is_down_then_a_500_has_changed_it_nevertheless(ws):
    ws.fail_next("secondary_down")
    url = ws.url + "/api/config/set?user=x"
    assert requests.post(url, json=ws.config, timeout=60).status_code == 500
    ws.fail_next("config_missing")
    assert requests.get(ws.url + "/api/config/get?user=x", timeout=60).status_code == 404


def test_interleaved_when_joined_then_the_last_frame_of_each_file_is_lost(ws, session, tmp_path):
    session.start(tmp_path, 8)
    session.until("file_saved")
    body = {"base_path": str(tmp_path), "output_file": "all.h5"}
    reply = requests.post(ws.url + "/api/h5/create_interleaved_vds", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    first = ids(tmp_path / "fileMeta.h5")[0]
    with h5py.File(tmp_path / "all.h5") as file:
        shown = [read_stamp(image) for image in file["interleaved_data"]]
        assert shown == [*range(first, first + 6), 0, 0]
        assert file["interleaved_metadata"].shape == (16,)


@pytest.mark.parametrize("state", ["waiting_for_first_image", "saving_file", "file_saved"])
def test_fault_when_a_state_is_missed_then_no_session_sees_it(state, ws, session, tmp_path):
    ws.fail_next("missed_state", state=state)
    session.until("idle")
    session.start(tmp_path, 30)
    session.until("recording", "saving_file", "file_saved")
    session.until("file_saved", "idle")
    assert state not in session.states


def test_fault_when_a_stop_is_lost_then_it_records_on_until_the_next(ws, session, tmp_path):
    ws.source.silence()
    ws.fail_next("lost_stop")
    session.start(tmp_path, 1000)
    session.until("waiting_for_first_image")
    session.stop()
    session.until("stop")
    ws.source.follow_clock()
    session.until("recording")
    session.stop()
    session.until("file_saved")


def test_fault_when_a_writer_dies_writing_then_it_records_for_ever_and_its_file_cannot_be_read(
    ws, session, tmp_path
):
    ws.fail_next("dies_writing", after=5, writer=1)
    session.start(tmp_path, 50)
    count = session.until("recording", count=5)["count"]
    for _ in range(60):
        assert session.next() == {"status": "recording", "count": count}
    with pytest.raises(OSError):
        h5py.File(tmp_path / "file1.h5")


def test_fault_when_the_driver_dies_writing_then_sessions_end_and_it_is_back_idle(
    ws, session, tmp_path, wait_for
):
    ws.fail_next("driver_dies_writing", after=3, seconds=0.1)
    session.start(tmp_path, 50)
    assert session.gone() == ""
    wait_for(lambda: ws.alive()["driver"], "a driver")
    with Session(ws) as again:
        again.until("idle")


@pytest.mark.parametrize(
    "what, state", [("stopped_by_other", "stop"), ("restarted_by_other", "creating_file")]
)
def test_fault_when_somebody_else_stops_or_restarts_then_it_is_seen(what, state, ws, session, tmp_path):
    ws.fail_next(what, after=3)
    session.start(tmp_path, 1000)
    session.until("file_saved")
    if what == "restarted_by_other":
        session.until("waiting_for_first_image", "recording")
        session.stop()
        session.until("file_saved")
        assert (tmp_path / "other_fileMeta.h5").exists()
    assert len(ids(tmp_path / "fileMeta.h5")) < 1000


def test_fault_when_a_creation_is_refused_or_slow_then_error_or_a_late_file(ws, session, tmp_path):
    ws.fail_next("creation_error")
    session.start(tmp_path, 3)
    session.until("error")
    ws.fail_next("slow_creation", seconds=0.1)
    session.start(tmp_path, 3)
    session.until("file_saved")


@pytest.mark.parametrize("what", ["redis_away", "ghost_start", "no_such_thing"])
def test_fault_when_this_generation_cannot_have_it_then_it_is_refused_by_name(what, ws):
    with pytest.raises(ValueError, match=re.escape(what)):
        ws.fail_next(what)


def test_facility_when_the_dialect_is_websocket_then_its_child_serves_and_obeys(tmp_path):
    options = {"std_daq_image_shape": (8, 16), "std_daq_block_size": 4096, "std_daq_n_writers": 3}
    with Facility(
        speed="auto", directory=tmp_path, only="std_daq", std_daq_dialect="websocket", **options
    ) as facility:
        part = facility.std_daq
        assert facility.addresses()["std_daq"] == {"url": part.url, "ws_url": part.ws_url}
        with pytest.raises(ValueError, match="redis_away"):
            part.fail_next("redis_away")
        with Session(part) as session:
            session.start(tmp_path, 6)
            session.until("file_saved")
            part.fail_next("driver_dies")
            assert session.gone() == ""
        part.restart_driver()
        with Session(part) as session:
            session.until("idle")
    assert len(ids(tmp_path / "file2.h5")) == 2
