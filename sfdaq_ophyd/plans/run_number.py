"""Run numbers as a preprocessor: one per run, in the start document and in every request."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Literal

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator, RunEngineControlException, make_decorator, short_uid, single_gen

from ..devices import SfDaqBroker
from ..devices.broker import Point
from .ask import ask

Policy = Literal["open_run", "staged", "first_acquisition"]
POLICIES = ("open_run", "staged", "first_acquisition")

START_KEY = "sf_daq"
"""Of the start document: run_number, pgroup, beamline, and the pedestals in use."""


def run_number_wrapper(
    plan: MsgGenerator, broker: SfDaqBroker, policy: Policy = "open_run"
) -> MsgGenerator[Any]:
    """Give every run of a plan one run number of the broker, and register its files before it closes.

    The number is taken when the run opens, put into the start document under ``sf_daq``, and used for each
    acquisition. What the plan moves goes into ``scan_info``. Before the run closes, its files are waited for
    and registered in the stream ``NAME_data``, row k for event k; what was asked for and is not there is
    listed in ``NAME_unused``. A run that ends early does not wait.

    Parameters
    ----------
    plan : generator
        Any plan.
    broker : SfDaqBroker
    policy : {"open_run", "staged", "first_acquisition"}
        When the number is taken: as a run opens; the same, if the broker is staged by then; or by the first
        acquisition, so that an empty run uses up none (the start document cannot hold it then).

    Yields
    ------
    Msg
        Those of `plan`; more at open_run and close_run, and before each 'trigger' of the broker.

    Examples
    --------
    For every plan of a RunEngine that stages the broker::

        RE.preprocessors.append(partial(run_number_wrapper, broker=sfdaq, policy="staged"))
    """
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r}: expected one of {', '.join(POLICIES)}")
    return _forwarded(plan, _RunNumbers(broker, policy).around)


run_number_decorator = make_decorator(run_number_wrapper)
"""`run_number_wrapper` for a plan function: ``@run_number_decorator(sfdaq)``."""


class _RunNumbers:
    """What is put around the messages of one plan."""

    def __init__(self, broker: SfDaqBroker, policy: Policy):
        self._broker, self._policy = broker, policy
        self._staged = False
        self._ours: Any = _NO_RUN
        self._moved: dict[str, tuple[Any, Any]] = {}
        self._n_points = 0
        self._scan_name, self._run = "", ""

    def around(self, msg: Msg) -> MsgGenerator[Any]:
        """Yield `msg` and what belongs around it; return its response."""
        broker = self._broker
        if msg.command in ("stage", "unstage") and msg.obj is broker:
            self._staged = msg.command == "stage"
        elif msg.command == "open_run" and self._ours is _NO_RUN and START_KEY not in msg.kwargs:
            return (yield from self._open_run(msg))
        elif self._ours is not _NO_RUN:
            if msg.command == "close_run" and msg.run == self._ours:
                return (yield from self._close_run(msg))
            if msg.command == "set" and msg.obj not in (broker.service, broker.next_point):
                self._moved[msg.obj.name] = (msg.obj, msg.args[0] if msg.args else None)
            if msg.command == "trigger" and msg.obj is broker:
                yield from self._announce_point()
        return (yield msg)

    def _open_run(self, msg: Msg) -> MsgGenerator[str]:
        broker = self._broker
        facts: dict[str, Any] = {"pgroup": broker.pgroup.get(), "beamline": broker.beamline}
        if self._policy == "open_run" or (self._policy == "staged" and self._staged):
            facts = (yield from ask(broker, "take_run_number")) or facts
        elif not self._staged and self._policy == "staged":
            return (yield msg)
        uid = yield msg._replace(kwargs={**msg.kwargs, START_KEY: facts})
        self._ours, self._moved, self._n_points = msg.run, {}, 0
        self._scan_name = str(msg.kwargs.get("scan_name") or msg.kwargs.get("plan_name") or "scan")
        self._run = uid or short_uid("run")
        yield from ask(broker, "name_run", uid=self._run)
        return uid

    def _announce_point(self) -> MsgGenerator[None]:
        self._n_points += 1
        readings = {}
        for name, (device, _) in self._moved.items():
            readings[name] = (yield Msg("read", device)) or {}
        point = Point(self._n_points, dict(self._moved), readings, self._scan_name, self._run)
        yield from _tell(self._broker, point)

    def _close_run(self, msg: Msg) -> MsgGenerator[Any]:
        broker, self._ours = self._broker, _NO_RUN
        early = (msg.kwargs.get("exit_status") or "success") != "success"
        yield from _tell(broker, None)
        try:
            if not early and broker.register == "run":
                limit = 2 * float(broker.file_timeout.get())
                yield from ask(broker, "wait_for_files", timeout=limit)
            if early or broker.register == "run":
                yield from self._register()
            yield from ask(broker, "end_run" if early or broker.register == "late" else "judge_run")
        except RunEngineControlException as exc:
            yield from ask(broker, "end_run")
            yield msg._replace(kwargs={**msg.kwargs, "exit_status": exc.exit_status})
            raise
        except Exception as exc:
            yield msg._replace(kwargs={**msg.kwargs, "exit_status": "fail", "reason": str(exc)})
            raise
        return (yield msg)

    def _register(self) -> MsgGenerator[None]:
        """Collect what is there, and let no pause repeat it."""
        for stream, flyer in (yield from ask(self._broker, "streams")) or ():
            yield Msg("checkpoint")
            yield Msg("declare_stream", None, flyer, name=stream, collect=True)
            yield from bpp.rewindable_wrapper(single_gen(Msg("collect", flyer, name=stream)), False)
        yield Msg("checkpoint")


_NO_RUN = object()


def _tell(broker: SfDaqBroker, point: Point | None) -> MsgGenerator[None]:
    yield Msg("set", broker.next_point, point, group="next point")
    yield Msg("wait", None, group="next point")


def _forwarded(
    plan: MsgGenerator, around: Callable[[Msg], Generator[Msg, Any, Any]]
) -> Generator[Msg, Any, Any]:
    """Pass a plan on, each message through `around`; keeps nothing of messages gone by."""
    plan = iter(plan) if not hasattr(plan, "send") else plan
    response, exception = None, None
    while True:
        try:
            msg = plan.throw(exception) if exception is not None else plan.send(response)
        except StopIteration as end:
            return end.value
        response, exception = None, None
        try:
            response = yield from around(msg)
        except GeneratorExit:
            plan.close()
            raise
        except Exception as exc:
            exception = exc
