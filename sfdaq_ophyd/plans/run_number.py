"""Run numbers, one per run, in the start document and in every request: a preprocessor, and its scans."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, get_args

import bluesky.plans as bp
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import (
    IllegalMessageSequence,
    Msg,
    MsgGenerator,
    RunEngineControlException,
    make_decorator,
    plan,
    short_uid,
)

from ..devices import FlyGroup, SfDaqBroker, StdDaqWriter, Told
from ..devices.broker import Point, Service
from ..errors import RequestError
from .broker import call_broker
from .same_pulses import forwarded, same_pulses

logger = logging.getLogger(__name__)

Policy = Literal["open_run", "staged", "first_acquisition"]

START_KEY = "sf_daq"
"""Of the start document: run_number, pgroup, beamline, and the pedestals in use."""


def run_number_wrapper(
    plan: MsgGenerator, broker: SfDaqBroker | None = None, policy: Policy | None = None
) -> MsgGenerator[Any]:
    """Give every run of a plan one run number of the broker, and register its files before it closes.

    The number is taken when the run opens, put into the start document under ``sf_daq``, and used for each
    acquisition. What the plan moves goes into ``scan_info``. Before the run closes, its files are waited for
    and registered in the stream ``NAME_data``, row k for event k; what was asked for and is not there is
    listed in ``NAME_unused``. A run that ends early does not wait.

    Devices that are triggered in one group take the same pulses: see `same_pulses`.

    As a preprocessor it serves every plan: `EmbeddedCatalog.subscribe` and the startup files install it.

    Parameters
    ----------
    plan : generator
        Any plan.
    broker : SfDaqBroker, optional
        Default is the one the plan stages, or triggers.
    policy : {"open_run", "staged", "first_acquisition"}, optional
        When the number is taken: as a run opens; the same, if the broker is staged by then, else by the first
        acquisition; or always by the first acquisition, so that an empty run uses up none. A start document
        that was made before does not hold the number. Default is "open_run" with `broker`, else "staged".

    Yields
    ------
    Msg
        Those of `plan`; more at open_run and close_run, and before each 'trigger' of the broker.

    Examples
    --------
    For every plan of a RunEngine::

        RE.preprocessors.append(run_number_wrapper)
    """
    policy = policy or ("open_run" if broker is not None else "staged")
    if policy not in get_args(Policy):
        raise RequestError("policy", policy, f"one of {', '.join(get_args(Policy))}")
    if broker is None and policy == "open_run":
        raise RequestError("broker", broker, "a SfDaqBroker, since its number is taken as the run opens")
    return forwarded(same_pulses(plan), _RunNumbers(broker, policy).around)


run_number_decorator = make_decorator(run_number_wrapper)
"""`run_number_wrapper` for a plan function: ``@run_number_decorator(sfdaq)``."""


class _RunNumbers:
    """What is put around the messages of one plan."""

    def __init__(self, broker: SfDaqBroker | None, policy: Policy):
        self._given, self._policy = broker, policy
        self._broker: SfDaqBroker | None = broker
        self._staged = False
        self._ours: Any = _NO_RUN
        self._opened: Msg | None = None
        self._moved: dict[str, tuple[Any, Any]] = {}
        self._n_points = 0
        self._run = ""
        self._bundle: bool | None = None  # whether the event under way has the broker
        self._saved: set[int] = set()
        self._dropped: set[int] = set()

    def around(self, msg: Msg) -> MsgGenerator[Any]:
        """Yield `msg` and what belongs around it; return its response."""
        match msg.command:
            case "stage" if self._concerns(msg.obj) and not self._staged:
                self._broker, self._staged = msg.obj, True
            case "unstage" if self._staged and msg.obj is self._broker:
                self._staged = False
            case "open_run" if self._ours is _NO_RUN:
                return (yield from self._open_run(msg))
            case "close_run" if self._ours is not _NO_RUN and msg.run == self._ours:
                return (yield from self._close_run(msg))
            case "close_run" if self._opened is not None and msg.run == self._opened.run:
                self._opened = None
            case "set" if not _is_told(msg.obj):
                self._moved[msg.obj.name] = (msg.obj, msg.args[0] if msg.args else None)
            case "trigger" if self._concerns(msg.obj):
                yield from self._prepare(msg, msg.obj)
            case "kickoff":
                for device in msg.obj.detectors if isinstance(msg.obj, FlyGroup) else (msg.obj,):
                    if self._concerns(device):
                        yield from self._prepare(msg, device)
            case "create" if msg.run == self._ours:
                self._bundle = False
            case "read" if self._bundle is False and msg.run == self._ours and self._concerns(msg.obj):
                self._bundle = True
            case "save" | "drop" if msg.run == self._ours:
                response = yield msg
                self._end_event(self._saved if msg.command == "save" else self._dropped)
                return response
        return (yield msg)

    def _end_event(self, acquisitions: set[int]) -> None:
        """Put the acquisition of the event under way, if it has one, with others that ended so."""
        has_broker, self._bundle = self._bundle, None
        if has_broker and self._broker is not None and (taken := self._broker.acquisition) is not None:
            acquisitions.add(taken.index)

    def _concerns(self, device: Any) -> TypeGuard[SfDaqBroker]:
        return isinstance(device, SfDaqBroker) and self._given in (None, device)

    def _open_run(self, msg: Msg) -> MsgGenerator[str]:
        self._opened, self._moved, self._n_points = None, {}, 0
        self._bundle, self._saved, self._dropped = None, set(), set()
        if START_KEY in msg.kwargs:  # a wrapper inside this one has numbered it
            return (yield msg)
        facts, broker = None, self._broker
        if broker is not None:
            if self._policy == "open_run" or (self._policy == "staged" and self._staged):
                facts = (yield from call_broker(broker, broker.runner.take_run_number)) or _facts_of(broker)
            elif self._policy == "first_acquisition":
                facts = (yield from call_broker(broker, broker.runner.run_facts)) or _facts_of(broker)
        self._opened = msg
        if broker is None or facts is None:
            self._run = (yield msg) or short_uid("run")
            return self._run
        try:
            self._run = (yield msg._replace(kwargs={**msg.kwargs, START_KEY: facts})) or short_uid("run")
        except Exception:  # the number is of no run, and must not become that of another one
            yield from call_broker(broker, broker.runner.end_run)
            raise
        yield from self._adopt(msg, broker)
        return self._run

    def _adopt(self, opened: Msg, broker: SfDaqBroker) -> MsgGenerator[None]:
        """Be the one that numbers the run just opened."""
        self._ours = opened.run
        yield from call_broker(broker, broker.runner.name_run, uid=self._run)

    def _prepare(self, msg: Msg, broker: SfDaqBroker) -> MsgGenerator[None]:
        """Adopt the open run, and announce the point, before the broker is triggered or kicked off in it."""
        if self._ours is _NO_RUN and self._opened is not None:
            self._broker = broker
            yield from self._adopt(self._opened, broker)
        if self._opened is not None and self._ours is not _NO_RUN and msg.command == "trigger":
            if msg.obj is self._broker:
                yield from self._announce_point(broker, self._opened.kwargs)

    def _announce_point(self, broker: SfDaqBroker, md: Mapping[str, Any]) -> MsgGenerator[None]:
        self._n_points += 1
        readings = {}
        for name, (device, _) in self._moved.items():
            readings[name] = ((yield Msg("read", device)) if isinstance(device, Readable) else None) or {}
        name, total = str(md.get("scan_name") or md.get("plan_name") or "scan"), md.get("num_points")
        total = total if isinstance(total, int) else None
        point = Point(self._n_points, dict(self._moved), readings, name, self._run, total)
        yield from _tell(broker, point)

    def _close_run(self, msg: Msg) -> MsgGenerator[Any]:
        broker, uid = self._broker, self._run
        assert broker is not None  # the one by which the run is ours
        self._ours, self._opened = _NO_RUN, None
        early = (msg.kwargs.get("exit_status") or "success") != "success"
        if self._bundle is not None:  # the plan ended within an event, where no stream can be registered
            with contextlib.suppress(IllegalMessageSequence):  # a pause has dropped it
                yield Msg("drop", run=msg.run)
            self._end_event(self._dropped)
        yield from _tell(broker, None)
        try:
            if unsaved := sorted(self._dropped - self._saved):
                yield from call_broker(broker, broker.runner.note_unsaved, uid=uid, indices=unsaved)
            if not early and broker.register == "run":
                limit, wait = 2 * float(broker.file_timeout.get()), broker.runner.wait_for_files
                yield from call_broker(broker, wait, timeout=limit, waits=True, uid=uid)
            if early or broker.register == "run":
                yield from self._register(broker, uid)
            if early or broker.register == "late":
                yield from call_broker(broker, broker.runner.end_run)
            else:
                yield from call_broker(broker, broker.runner.demand_data, uid=uid)
        except RunEngineControlException as exc:
            yield from call_broker(broker, broker.runner.end_run)
            exit_status = getattr(exc, "exit_status", "abort")
            yield msg._replace(kwargs={**msg.kwargs, "exit_status": exit_status})
            raise
        except Exception as exc:
            if early:  # why it ended early is what the run failed of
                logger.exception("%s: the end of a run that ended early", broker.name)
                return (yield msg)
            yield msg._replace(kwargs={**msg.kwargs, "exit_status": "fail", "reason": str(exc)})
            raise
        return (yield msg)

    def _register(self, broker: SfDaqBroker, uid: str) -> MsgGenerator[None]:
        """Collect what is there, and let no pause repeat it."""
        for stream, flyer in (yield from call_broker(broker, broker.streams, uid=uid)) or ():
            yield Msg("checkpoint")
            yield Msg("declare_stream", None, flyer, name=stream, collect=True)
            collect = Msg("collect", flyer, name=stream, return_payload=False)
            yield from bpp.rewindable_wrapper((collect for _ in range(flyer.n_batches)), False)
        yield Msg("checkpoint")


_NO_RUN = object()


def _facts_of(broker: SfDaqBroker) -> dict[str, Any]:
    """Return what goes into the start document of a run that nobody numbers, as in a dry run."""
    return {"pgroup": broker.pgroup.get(), "beamline": broker.beamline}


def _is_told(device: Any) -> bool:
    """Whether plans of this package set it to speak with a device: nothing is moved."""
    parent = getattr(device, "parent", None)
    is_armed = isinstance(parent, StdDaqWriter) and device is parent.armed
    return is_armed or isinstance(device, Told | Service)


def _tell(broker: SfDaqBroker, point: Point | None) -> MsgGenerator[None]:
    yield Msg("set", broker.next_point, point, group="next point")
    yield Msg("wait", None, group="next point")


def _numbered(
    scan: Callable[..., MsgGenerator[str]],
    detectors: Sequence[Any],
    *args: Any,
    policy: Policy,
    md: dict[str, Any] | None,
    **options: Any,
) -> MsgGenerator[str]:
    """Have a plan of bluesky run under a number of the one broker among its detectors."""
    brokers = [detector for detector in detectors if isinstance(detector, SfDaqBroker)]
    if len(brokers) != 1:
        names = [getattr(detector, "name", repr(detector)) for detector in detectors]
        raise RequestError("detectors", names, "exactly one SfDaqBroker among them")
    inner = scan(detectors, *args, md={"plan_name": f"sf_{scan.__name__}", **(md or {})}, **options)
    return (yield from run_number_wrapper(inner, brokers[0], policy))


@plan
def sf_count(
    detectors: Sequence[Any],
    num: int = 1,
    delay: float = 0.0,
    *,
    policy: Policy = "open_run",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take `num` acquisitions under one run number: `bluesky.plans.count`.

    Parameters
    ----------
    detectors : sequence
        With exactly one `SfDaqBroker` among them.
    num : int
        Points.
    delay : float
        s between points.
    policy : {"open_run", "staged", "first_acquisition"}
        See `run_number_wrapper`.
    md : dict, optional
        Metadata of the run.

    Returns
    -------
    str
        Uid of the run.
    """
    return (yield from _numbered(bp.count, detectors, num, delay, policy=policy, md=md))


@plan
def sf_scan(
    detectors: Sequence[Any],
    *args: Any,
    num: int | None = None,
    policy: Policy = "open_run",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Scan over one trajectory under one run number: `bluesky.plans.scan`; return the run's uid.

    Parameters
    ----------
    detectors, policy, md
        See `sf_count`.
    *args
        ``motor, start, stop`` for each motor, and the number of points.
    num : int, optional
        Number of points, if not the last of `args`.
    """
    return (yield from _numbered(bp.scan, detectors, *args, num=num, policy=policy, md=md))


@plan
def sf_list_scan(
    detectors: Sequence[Any], *args: Any, policy: Policy = "open_run", md: dict[str, Any] | None = None
) -> MsgGenerator[str]:
    """Scan over lists of positions under one run number: `bluesky.plans.list_scan`; return the run's uid.

    Parameters
    ----------
    detectors, policy, md
        See `sf_count`.
    *args
        ``motor, [position, ...]`` for each motor.
    """
    return (yield from _numbered(bp.list_scan, detectors, *args, policy=policy, md=md))


@plan
def sf_grid_scan(
    detectors: Sequence[Any],
    *args: Any,
    snake_axes: bool | Sequence[Any] | None = None,
    policy: Policy = "open_run",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Scan over a mesh under one run number: `bluesky.plans.grid_scan`; return the run's uid.

    Parameters
    ----------
    detectors, policy, md
        See `sf_count`.
    *args
        ``motor, start, stop, num`` for each motor, the slowest first.
    snake_axes : bool or sequence, optional
        As in `bluesky.plans.grid_scan`.
    """
    return (yield from _numbered(bp.grid_scan, detectors, *args, snake_axes=snake_axes, policy=policy, md=md))
