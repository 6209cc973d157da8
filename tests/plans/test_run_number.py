"""Run numbers, message by message, without a RunEngine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from bluesky.utils import Msg

from sfdaq_ophyd.plans import run_number_wrapper


def named(*names):
    """Functions by name that return what the start document is to hold."""

    def call(name):
        def function():
            return {"run_number": 1}

        function.__name__ = name
        return function

    return SimpleNamespace(**{name: call(name) for name in names})


@pytest.mark.parametrize("policy", ["open_run", "first_acquisition"])
def test_number_when_the_run_is_not_opened_then_it_is_used_no_more(policy):
    """As where a subscriber fails with the start document: nothing closes that run."""
    broker = SimpleNamespace(
        name="sfdaq",
        service=SimpleNamespace(name="service"),
        runner=named("take_run_number", "run_facts", "end_run", "name_run"),
    )
    plan = run_number_wrapper((msg for msg in [Msg("open_run")]), broker, policy)
    called, msg = [], next(plan)
    with pytest.raises(OSError, match="disk full"):
        while True:
            if msg.command == "set":
                called.append(msg.args[0].name)
                msg = plan.send(SimpleNamespace(result={"run_number": 1}))
            elif msg.command == "open_run":
                assert msg.kwargs["sf_daq"] == {"run_number": 1}
                msg = plan.throw(OSError("disk full"))
            else:
                msg = plan.send(None)
    taken = "take_run_number" if policy == "open_run" else "run_facts"
    assert called == [taken, "end_run"]
