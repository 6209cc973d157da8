"""``meta/scan.json`` says what the documents say, whatever the plan moves."""

from __future__ import annotations

import enum
import json
import math
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from cycler import cycler
from ophyd import Component as Cpt
from ophyd import PseudoPositioner, PseudoSingle, Signal, SoftPositioner
from ophyd.pseudopos import pseudo_position_argument, real_position_argument
from ophyd.sim import SynAxis
from ophyd.utils import DisconnectedError

from sfdaq_ophyd.devices.broker import Point
from sfdaq_ophyd.devices.broker._scan_info import axes_of, plain, scan_info
from sfdaq_ophyd.plans import run_number_wrapper, sf_grid_scan, sf_list_scan, sf_scan

from .run_engine_driver import drive, interruptible


class Pair(PseudoPositioner):
    """Sum and difference of two motors."""

    sum = Cpt(PseudoSingle, egu="mm")
    difference = Cpt(PseudoSingle, egu="mm")
    a = Cpt(SoftPositioner, init_pos=0.0)
    b = Cpt(SoftPositioner, init_pos=0.0)

    @pseudo_position_argument
    def forward(self, pseudo):
        return self.RealPosition(
            a=(pseudo.sum + pseudo.difference) / 2, b=(pseudo.sum - pseudo.difference) / 2
        )

    @real_position_argument
    def inverse(self, real):
        return self.PseudoPosition(sum=real.a + real.b, difference=real.a - real.b)


X, Y = SynAxis(name="x"), SynAxis(name="y")
PAIR = Pair("SIM:PAIR", name="pair")
FILTER = Signal(name="filter", value="out")


def pair_as_a_whole(broker):
    def per_step(detectors, step, pos_cache):
        yield from bps.checkpoint()
        yield from bps.mv(PAIR, (step[X], 1.0), FILTER, "in")
        yield from bps.trigger_and_read([*detectors, PAIR])

    return run_number_wrapper(bp.scan_nd([broker], cycler(X, [2.0, 4.0]), per_step=per_step), broker)


PLANS = {
    "scan": (lambda d: sf_scan([d], X, -1, 1, 3), ["x"]),
    "two motors": (lambda d: sf_scan([d], X, -1, 1, Y, 5, 7, num=3), ["x", "y"]),
    "list": (lambda d: sf_list_scan([d], X, [3, 1, 2], Y, [0.5, 0.25, 0.125]), ["x", "y"]),
    "grid": (lambda d: sf_grid_scan([d], X, 0, 1, 2, Y, 0, 1, 2), ["x", "y"]),
    "snake": (lambda d: sf_grid_scan([d], X, 0, 1, 2, Y, 0, 1, 2, snake_axes=True), ["x", "y"]),
    "relative": (lambda d: run_number_wrapper(bp.rel_scan([d], X, 0, 1, 2), d), ["x"]),
    "pseudo axis": (lambda d: sf_scan([d], PAIR.sum, 0, 2, 2), ["pair_sum"]),
    "pseudo positioner": (pair_as_a_whole, ["pair_sum", "pair_difference"]),
}


@pytest.mark.parametrize("what", PLANS)
def test_scan_json_when_anything_is_moved_then_agrees_with_the_documents(bench, what):
    make, axes = PLANS[what]
    device = bench.device(check=False, n_pulses=1)
    result = drive(interruptible(), lambda: make(device))
    assert result.error is None
    events = [event["data"] for event in result.named("event")]
    scan = bench.scan_json()
    parameters = scan["scan_parameters"]
    assert parameters["name"] == axes
    assert all(len(parameters[key]) == len(axes) for key in ("Id", "units", "offset", "conversion_factor"))
    assert scan["scan_values"] == [[event[f"{axis}_setpoint"] for axis in axes] for event in events]
    assert scan["scan_readbacks"] == [[event[axis] for axis in axes] for event in events]
    assert scan["scan_readbacks_raw"] == scan["scan_readbacks"]
    assert scan["scan_step_info"] == [{"step_number": event["seq_num"]} for event in result.named("event")]
    assert parameters["expected_total_number_of_steps"] == len(events)
    assert parameters["scan_name"] == result.named("start")[0]["plan_name"]
    assert scan["scan_files"] == [event["sfdaq_files"] for event in events]
    spans = [[event["sfdaq_start_pulse_id"], event["sfdaq_stop_pulse_id"]] for event in events]
    assert scan["pulseIds"] == spans


def test_scan_json_when_nothing_is_moved_then_has_the_dummy_values_of_the_server(bench):
    device = bench.device(check=False, n_pulses=1)
    assert drive(interruptible(), lambda: run_number_wrapper(bp.count([device], 2), device)).error is None
    assert bench.scan_json()["scan_parameters"]["name"] == ["dummy"]


def info(**values):
    """scan_info of devices with these set values, which read what they are set to."""
    moved, readings = {}, {}
    for name, value in values.items():
        moved[name] = (SimpleNamespace(name=name, hints={"fields": [name]}), value)
        readings[name] = {name: {"value": value, "timestamp": 0.0}}
    point = Point(1, moved, readings)
    return scan_info(point, axes_of(point))


def test_scan_info_when_a_text_is_set_beside_a_number_then_numbers_only():
    assert info(filter="in", x=1.5)["scan_values"] == [1.5]
    assert info(filter="in")["scan_values"] == ["in"]


def test_scan_info_when_a_value_is_no_number_or_text_then_left_out():
    assert info(thing=object(), x=np.float64(2))["name"] == ["x"]
    assert info(thing=object()) is None
    curve = info(curve=[1, 2, 3])
    assert curve["name"] == ["curve[0]", "curve[1]", "curve[2]"]
    assert curve["scan_values"] == curve["scan_readbacks"] == [1, 2, 3]


def test_scan_info_when_a_readback_is_not_known_then_null():
    motor = SimpleNamespace(name="x", hints={"fields": ["x"]})
    for readings in ({}, {"x": {}}, {"x": {"x": {"value": math.nan, "timestamp": 0.0}}}):
        point = Point(1, {"x": (motor, 1.0)}, readings)
        assert scan_info(point, axes_of(point))["scan_readbacks"] == [None]


@pytest.mark.parametrize("error", [DisconnectedError("x.EGU"), TimeoutError(), ValueError("not now")])
def test_scan_info_when_the_record_of_units_does_not_answer_then_none(error):
    class Motor:
        name, hints = "x", {"fields": ["x"]}

        @property
        def egu(self):
            raise error

    point = Point(1, {"x": (Motor(), 1.0)})
    assert scan_info(point, axes_of(point))["units"] == [""]


class Mode(enum.StrEnum):
    FINE = "fine"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.float32("nan"), None),
        (np.float16("inf"), None),
        (float("-inf"), None),
        (np.array([1.0, np.nan]), [1.0, None]),
        (np.array([[1, 2], [3, 4]], "u1"), [[1, 2], [3, 4]]),
        (np.zeros((2000, 2)), "float64 (2000, 2)"),
        (np.array(7), 7),
        ((1, np.float64("nan"), b"x"), [1, None, "x"]),
        (b"moving", "moving"),
        (b"\xff", "\ufffd"),
        (np.bytes_(b"ab"), "ab"),
        (np.str_("ab"), "ab"),
        (Mode.FINE, "fine"),
        (np.bool_(True), True),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (None, None),
        (1 + 2j, "(1+2j)"),
        (np.datetime64("2026-11-26"), "2026-11-26"),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_plain_when_it_is_no_finite_number_then_null_or_text(value, stored):
    found = plain(value)
    assert found == stored and type(found) is type(stored)
    json.dumps(found, allow_nan=False)


def test_scan_when_readbacks_are_no_numbers_then_goes_on_and_they_are_null_or_text(bench):
    """golden/found: readback-nan."""
    odd = iter([np.float32("nan"), np.array([1.0, np.nan]), b"moving", None])

    class Odd(SynAxis):
        def read(self):
            reading = super().read()
            if values:
                reading[self.name]["value"] = values.pop(0)
            return reading

    motor, values = Odd(name="m"), []
    read = motor.read

    def told():
        values[:] = [next(odd, 1.0)]
        return read()

    motor.read = told
    device = bench.device()
    result = drive(interruptible(), lambda: run_number_wrapper(bp.list_scan([device], motor, [1, 2]), device))
    assert result.error is None
    readbacks = bench.scan_json()["scan_readbacks"]
    assert readbacks[0] == [None] and len(readbacks) == 2
