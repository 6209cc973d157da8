"""The queue server can list the plans: literal defaults, identifier names, annotated parameters."""

from __future__ import annotations

import ast
import inspect

import pytest

from sfdaq_ophyd import plans

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
