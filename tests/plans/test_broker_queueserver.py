"""The queue server can list the plans: literal defaults, identifier names, annotated parameters."""

from __future__ import annotations

import ast
import inspect

import bluesky.plans as bp
import pytest
from ophyd.sim import SynAxis, SynSignal

from sfdaq_ophyd import plans
from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.session.queueserver import annotated

NAMES = (
    "sf_count",
    "sf_scan",
    "sf_list_scan",
    "sf_grid_scan",
    "sf_record",
    "retrieve_from_buffers",
    "re_retrieve",
    "take_pedestal",
    "power_on",
    "set_detector_settings",
    "set_dap_settings",
    "update_pv_list",
    "preflight",
    "copy_user_files",
    "close_pgroup",
)


@pytest.mark.parametrize("name", NAMES)
def test_plan_when_listed_then_parameters_are_annotated_with_literal_defaults(name):
    function = getattr(plans, name)
    assert "Parameters" in inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not parameter.empty, parameter
        if parameter.default is not parameter.empty:
            assert ast.literal_eval(repr(parameter.default)) == parameter.default


@pytest.mark.parametrize("name", NAMES)
def test_plan_when_given_to_the_queue_server_then_it_is_processed(name):
    profile_ops = pytest.importorskip("bluesky_queueserver.manager.profile_ops")
    described = profile_ops._process_plan(getattr(plans, name), existing_devices={}, existing_plans={})
    assert described["name"] == name


@pytest.fixture(scope="module")
def accepts():
    """Whether the queue server would add an item: ``accepts("count", ["sfdaq"], num=2)``."""
    profile_ops = pytest.importorskip("bluesky_queueserver.manager.profile_ops")
    names = {
        "motor": SynAxis(name="motor"),
        "diode": SynSignal(name="diode"),
        "sfdaq": SfDaqBroker("http://sf-daq:10002", name="sfdaq", pgroup="p12345"),
        "sf_list_scan": plans.sf_list_scan,
        "take_pedestal": plans.take_pedestal,
        "write_images": plans.write_images,
        **{name: getattr(bp, name) for name in ("count", "scan", "list_scan", "rel_grid_scan", "log_scan")},
    }
    names |= annotated(names)
    devices = profile_ops._prepare_devices(profile_ops.devices_from_nspace(names))
    allowed = profile_ops._prepare_plans(profile_ops.plans_from_nspace(names), existing_devices=devices)

    def accepts(name, *args, **kwargs):
        item = {"name": name, "args": args, "kwargs": kwargs}
        return profile_ops.validate_plan(item, allowed_plans=allowed, allowed_devices=devices)[0]

    return accepts


DETECTORS = ["sfdaq", "diode"]


@pytest.mark.parametrize(
    "args",
    [
        ("count", DETECTORS, 3),
        ("count", ["diode", "sfdaq.n_pulses"]),
        ("scan", DETECTORS, "motor", 0, 1, 3),
        ("list_scan", DETECTORS, "motor", [0, 0.5, 1]),
        ("rel_grid_scan", DETECTORS, "motor", 0, 1, 3, "sfdaq.n_pulses", 1, 2, 2, True),
        ("log_scan", DETECTORS, "motor", 1, 10, 3),
        ("sf_list_scan", DETECTORS, "motor", [0, 1]),
        ("take_pedestal", "sfdaq"),
    ],
    ids=lambda args: f"{args[0]}-{len(args)}",
)
def test_item_when_all_is_known_then_added(accepts, args):
    assert accepts(*args)


@pytest.mark.parametrize(
    "args",
    [
        ("count", ["sfdaq", "nix"]),
        ("scan", DETECTORS, "nix", 0, 1, 3),
        ("list_scan", DETECTORS, "nix", [0, 1]),
        ("list_scan", ["nix"], "motor", [0, 1]),
        ("log_scan", DETECTORS, "sfdaq", 1, 10, 3),
        ("sf_list_scan", DETECTORS, "nix", [0, 1]),
        ("take_pedestal", "diode"),
        ("write_images", "nix", 3),
        ("nix", DETECTORS),
    ],
    ids=lambda args: "-".join(map(str, args[:3])),
)
def test_item_when_a_device_is_unknown_or_of_another_kind_then_refused(accepts, args):
    assert not accepts(*args)


def test_item_when_an_argument_is_unknown_then_refused(accepts):
    assert not accepts("count", DETECTORS, number=3)
    assert not accepts("sf_list_scan", DETECTORS, "motor", [0, 1], polcy="staged")
