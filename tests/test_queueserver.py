"""The queue server runs what its page says: a real manager, a real Redis, watched through the client API."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .ports import free_ports, listens
from .test_docs import REPO, console


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def manager(home, wait_for):
    from bluesky_queueserver_api.zmq import REManagerAPI

    assert shutil.which("redis-server"), "apt-get install redis-server"
    init, redis_server, start = console(REPO / "docs" / "how-to" / "queueserver.md")
    bin = Path(sys.executable).parent
    env = {key: value for key, value in os.environ.items() if key != "SFDAQ_CONFIG"}
    env |= {"HOME": str(home), "MPLBACKEND": "Agg"}
    subprocess.run([bin / init[0], *init[1:]], cwd=home, env=env, check=True, stdin=subprocess.DEVNULL)
    ports = free_ports(3)
    control, info = (f"tcp://127.0.0.1:{port}" for port in ports[:2])
    assert redis_server.pop() == "&"
    redis = subprocess.Popen(
        [*redis_server, "--port", str(ports[2]), "--bind", "127.0.0.1", "--save", ""],
        cwd=home,
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: listens(ports[2]), "redis-server")
    log = open(home / "manager.log", "w")
    server = subprocess.Popen(
        [
            *(bin / start[0], *start[1:], "--redis-addr", f"127.0.0.1:{ports[2]}"),
            *("--zmq-control-addr", control, "--zmq-info-addr", info),
        ],
        cwd=home,
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    api = REManagerAPI(zmq_control_addr=control, zmq_info_addr=info, timeout_recv=300)

    def answers():
        assert server.poll() is None, (home / "manager.log").read_text()[-3000:]
        try:
            return api.status()["manager_state"] == "idle"
        except api.RequestTimeoutError:
            return False

    try:
        wait_for(answers, "queue server", timeout=600)
        api.environment_open()
        api.wait_for_idle(timeout=600)
        assert api.status()["worker_environment_exists"], (home / "manager.log").read_text()[-3000:]
        yield api
        api.environment_close()
        api.wait_for_idle(timeout=600)
    finally:
        api.close()
        server.terminate()
        server.wait(60)
        redis.terminate()
        redis.wait(60)
        log.close()


def run(api, plan, home) -> dict:
    """Submit one plan, start the queue, watch it, and return the item of the history."""
    reply = api.item_add(plan)
    assert reply["success"], reply
    api.queue_start()
    api.wait_for_idle(timeout=600)
    (item,) = [item for item in api.history_get()["items"] if item["item_uid"] == reply["item"]["item_uid"]]
    assert item["result"]["exit_status"] == "completed", (item["result"], _tail(home))
    return item


def _tail(home: Path) -> str:
    return (home / "manager.log").read_text()[-3000:]


def test_plans_when_listed_then_parameters_have_types_the_server_checks(manager):
    plans = manager.plans_allowed()["plans_allowed"]
    assert {"scan", "count", "sf_scan", "sf_count", "take_pedestal", "fly"} <= set(plans)
    assert "close_pgroup" not in plans
    types = {p["name"]: p.get("annotation", {}).get("type", "") for p in plans["take_pedestal"]["parameters"]}
    assert types["broker"] == "Brokers"
    assert types["pedestalmode"] == "bool"
    assert "Movables" in types["shutter"]
    devices = manager.devices_allowed()["devices_allowed"]
    assert {"eiger", "jf", "writer", "sfdaq", "motor", "pulse_id"} <= set(devices)


def test_plan_when_an_argument_is_wrong_then_refused_before_it_is_queued(manager):
    from bluesky_queueserver_api import BPlan

    for wrong in (
        BPlan("sf_count", ["sfdaq"], policy="nix"),
        BPlan("take_pedestal", "sfdaq", timeout="long"),
        BPlan("count", ["no_such_device"]),
        BPlan("list_scan", ["diode"], "no_such_motor", [1, 2]),
        BPlan("sf_count", ["sfdaq"], number=3),
        BPlan("take_pedestal", "motor"),
    ):
        with pytest.raises(manager.RequestFailedError):
            manager.item_add(wrong)


@pytest.mark.parametrize("name, positions", [("scan", (0, 1, 3)), ("list_scan", ([0, 0.5],))])
def test_scan_when_submitted_then_done_and_its_uid_told(manager, home, name, positions):
    from bluesky_queueserver_api import BPlan

    item = run(manager, BPlan(name, ["pulse_id", "diode"], "motor", *positions), home)
    assert len(item["result"]["run_uids"]) == 1


def test_sf_scan_when_submitted_then_done_with_a_run_number(manager, home):
    from bluesky_queueserver_api import BPlan

    item = run(manager, BPlan("sf_scan", ["sfdaq", "diode"], "motor", 0, 1, 3), home)
    assert len(item["result"]["run_uids"]) == 1


def test_take_pedestal_when_submitted_with_the_shutter_then_not_held_by_its_suspender(manager, home):
    from bluesky_queueserver_api import BPlan

    item = run(manager, BPlan("take_pedestal", "sfdaq", shutter="shutter"), home)
    assert len(item["result"]["run_uids"]) == 1


def test_permissions_when_shipped_then_lie_where_the_manager_looks():
    startup = REPO / "profile_collection" / "startup"
    groups = yaml.safe_load((startup / "user_group_permissions.yaml").read_text())["user_groups"]
    assert {"root", "primary"} <= set(groups)
