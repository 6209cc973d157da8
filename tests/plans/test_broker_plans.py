"""Every plan around the broker: its messages, a real run, and an end or a pause at each message."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from bluesky.simulators import RunEngineSimulator
from ophyd.sim import SynAxis

from sfdaq_ophyd import plans

from ..devices.broker_bench import DETECTOR, Shutter, first_run, sent
from ..devices.run_engine_driver import drive, interruptible, streams


@dataclass
class Case:
    """One plan, how to make it, and what it may send once and no more."""

    name: str
    make: callable
    once: tuple[str, ...] = ()
    prepare: callable = lambda bench, device: None


def past(bench, device, n=4):
    now = bench.facility.clock.now()
    return {"start_pulse_id": now - n, "stop_pulse_id": now - 1}


OFF = "JF04T01V01"
"""A detector that does not run before it is powered on."""


def switched_off(bench, device):
    bench.part.site.hardware[OFF].configured = False


MOTOR = SynAxis(name="motor")
RETRIEVE = ("advance_run_number", "retrieve_from_buffers")
CASES = [
    Case("sf_count", lambda b, d: plans.sf_count([d], 1), RETRIEVE),
    Case("sf_scan", lambda b, d: plans.sf_scan([d], MOTOR, 0, 1, 1), RETRIEVE),
    Case("sf_list_scan", lambda b, d: plans.sf_list_scan([d], MOTOR, [1]), RETRIEVE),
    Case("sf_grid_scan", lambda b, d: plans.sf_grid_scan([d], MOTOR, 0, 1, 1), RETRIEVE),
    Case("sf_record", lambda b, d: plans.sf_record(d, 0.03), RETRIEVE),
    Case("retrieve", lambda b, d: plans.retrieve_from_buffers(d, **past(b, d)), RETRIEVE),
    Case(
        "re_retrieve",
        lambda b, d: plans.re_retrieve(d, 1),
        RETRIEVE,
        first_run,
    ),
    Case("pedestal", lambda b, d: plans.take_pedestal(d, shutter=b.shutter), ("take_pedestal",)),
    Case("power_on", lambda b, d: plans.power_on(d, OFF), ("power_on_detector",), switched_off),
    Case(
        "set_detector_settings",
        lambda b, d: plans.set_detector_settings(d, DETECTOR, {"exptime": 1e-5}),
        ("set_detector_settings",),
    ),
    Case(
        "set_dap_settings",
        lambda b, d: plans.set_dap_settings(d, DETECTOR, {"beam_energy": 9000.0}),
        ("set_dap_settings",),
    ),
    Case(
        "update_pv_list", lambda b, d: plans.update_pv_list(d, add=[f"SIM:{d.pgroup.get()}"]), ("set_pvlist",)
    ),
    Case("preflight", lambda b, d: plans.preflight(d)),
    Case(
        "copy_user_files",
        lambda b, d: plans.copy_user_files(d, 1, [b.user_file(d)]),
        ("copy_user_files",),
        first_run,
    ),
    Case(
        "close_pgroup",
        lambda b, d: plans.close_pgroup(d, d.pgroup.get()),
        ("close_pgroup_writing",),
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request, bench):
    bench.shutter = Shutter(bench.facility.clock)
    bench.user_file = lambda device: user_file(bench, device)
    return request.param


def user_file(bench, device):
    path = f"/sf/bernina/data/{device.pgroup.get()}/res/notes.txt"
    tree = bench.part.site.tree
    tree.make(path.rsplit("/", 1)[0])
    tree.write_text(path, "gold")
    return path


def ready(bench, case):
    device = bench.device(check=False)
    case.prepare(bench, device)
    return device


def test_plan_when_only_iterated_then_nothing_is_sent(bench, case):
    device = ready(bench, case)
    before = len(sent(bench))
    messages = list(case.make(bench, device))
    assert messages
    assert len(sent(bench)) == before


def test_plan_when_simulated_then_has_the_messages_of_a_dry_run(bench, case):
    device = ready(bench, case)
    before = len(sent(bench))
    messages = RunEngineSimulator().simulate_plan(case.make(bench, device))
    jobs = [msg.args[0].name for msg in messages if msg.command == "set" and msg.obj is device.service]
    assert len(sent(bench)) == before
    assert jobs == EXPECTED_JOBS[case.name]


@pytest.mark.parametrize(
    ("duration", "paused", "slept"), [(10, 0, 10), (10, 4.5, 5.5), (0.5, 0, 0.5), (3, 60, 1)]
)
def test_record_when_paused_then_the_time_of_the_pause_counts(bench, monkeypatch, duration, paused, slept):
    """The pause is in the first sleep; what it replays is that sleep alone."""
    now, sleeps = [100.0], []

    def sleep(msg):
        (step,) = msg.args
        now[0] += step if sleeps else step + paused
        sleeps.append(step)

    monkeypatch.setattr("sfdaq_ophyd.plans.retrieve.time", SimpleNamespace(monotonic=lambda: now[0]))
    simulator = RunEngineSimulator()
    simulator.add_handler("sleep", sleep)
    messages = simulator.simulate_plan(plans.sf_record(bench.device(), duration))
    assert sum(sleeps) == slept and max(sleeps) <= 1
    before = [earlier.command for earlier, msg in itertools.pairwise(messages) if msg.command == "sleep"]
    assert set(before) == {"checkpoint"}


def test_record_when_simulated_and_no_time_passes_then_it_sleeps_as_long_as_it_would(bench):
    messages = RunEngineSimulator().simulate_plan(plans.sf_record(bench.device(), 600))
    assert sum(msg.args[0] for msg in messages if msg.command == "sleep") == pytest.approx(600, rel=0.1)


_RUN = ["take_run_number", "name_run", "wait_for_files", "streams", "demand_data"]
EXPECTED_JOBS = {
    **dict.fromkeys(("sf_count", "sf_scan", "sf_list_scan", "sf_grid_scan"), _RUN),
    "sf_record": _RUN,
    "retrieve": ["check_settings", *_RUN[:2], "retrieve", *_RUN[2:]],
    "re_retrieve": ["saved_requests", *_RUN],
    "pedestal": ["begin_pedestal", "wait_for_pedestal"],
    "power_on": ["check_reachable", "power_on_detector", "wait_until_running", "wait_until_writing"],
    **{
        name: [name]
        for name in (
            "set_detector_settings",
            "set_dap_settings",
            "update_pv_list",
            "copy_user_files",
        )
    },
    "preflight": ["pass_preflight"],
    "close_pgroup": ["close_pgroup_writing"],
}


def test_plan_when_run_then_succeeds_and_sends_each_once(bench, case):
    device = ready(bench, case)
    before = len(sent(bench))
    result = drive(interruptible(), lambda: case.make(bench, device))
    assert result.error is None
    streams(result)
    endpoints = sent(bench, before)
    for name in case.once:
        assert endpoints.count(name) == 1, endpoints
    if result.documents:
        assert result.stop["exit_status"] == "success"


STRIDES = {"abort": 1, "pause": 3, "stop": 6, "halt": 6}
"""Aborted at every message, otherwise interrupted at every few."""

INTERRUPTED = [case for case in CASES if case.name not in ("sf_count", "sf_list_scan", "sf_grid_scan")]
"""These three are plans of bluesky in the same wrapper as sf_scan, which stands for them."""


@pytest.mark.parametrize("case", INTERRUPTED, ids=lambda case: case.name, indirect=True)
@pytest.mark.parametrize("interruption", STRIDES)
def test_plan_when_interrupted_at_any_message_then_sends_nothing_twice_and_leaves_nothing(
    bench, case, interruption, wait_for
):
    quiet = drive(interruptible(), lambda: case.make(bench, ready(bench, case)))
    for at in range(0, quiet.n_messages, STRIDES[interruption]):
        device = ready(bench, case)
        bench.shutter.put("Open")
        before = len(sent(bench))
        result = drive(interruptible(), lambda device=device: case.make(bench, device), interruption, at)
        where = f"{interruption} at {at} ({(*result.commands, 'end')[min(at, len(result.commands))]})"
        wait_for(lambda device=device: not device.workers.n_open, f"{where}: calls under way")
        streams(result)
        endpoints = sent(bench, before)
        for name in case.once:
            assert endpoints.count(name) <= 1, f"{where}: {endpoints}"
        assert bench.last_run() <= 2, where
        if result.documents:
            assert result.named("start") and result.named("stop"), where
        if interruption != "halt":
            wait_for(lambda: bench.shutter.stands, f"{where}: a shutter that stands")
            assert bench.shutter.get() == "Open", where
