"""The standard scans with a run number of the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bluesky.plans as bp
from bluesky.utils import MsgGenerator, plan

from ..devices import SfDaqBroker
from ..errors import RequestError
from .run_number import Policy, run_number_wrapper


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
    inner = bp.count(detectors, num, delay, md={"plan_name": "sf_count", **(md or {})})
    return (yield from run_number_wrapper(inner, broker_among(detectors), policy))


@plan
def sf_scan(
    detectors: Sequence[Any],
    *args: Any,
    num: int | None = None,
    policy: Policy = "open_run",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Scan over one trajectory under one run number: `bluesky.plans.scan`.

    Parameters
    ----------
    detectors : sequence
        With exactly one `SfDaqBroker` among them.
    *args
        ``motor, start, stop`` for each motor, and the number of points.
    num : int, optional
        Number of points, if not the last of `args`.
    policy, md
        See `sf_count`.

    Returns
    -------
    str
        Uid of the run.
    """
    inner = bp.scan(detectors, *args, num=num, md={"plan_name": "sf_scan", **(md or {})})
    return (yield from run_number_wrapper(inner, broker_among(detectors), policy))


@plan
def sf_list_scan(
    detectors: Sequence[Any], *args: Any, policy: Policy = "open_run", md: dict[str, Any] | None = None
) -> MsgGenerator[str]:
    """Scan over lists of positions under one run number: `bluesky.plans.list_scan`.

    Parameters
    ----------
    detectors : sequence
        With exactly one `SfDaqBroker` among them.
    *args
        ``motor, [position, ...]`` for each motor.
    policy, md
        See `sf_count`.

    Returns
    -------
    str
        Uid of the run.
    """
    inner = bp.list_scan(detectors, *args, md={"plan_name": "sf_list_scan", **(md or {})})
    return (yield from run_number_wrapper(inner, broker_among(detectors), policy))


@plan
def sf_grid_scan(
    detectors: Sequence[Any],
    *args: Any,
    snake_axes: bool | Sequence[Any] | None = None,
    policy: Policy = "open_run",
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Scan over a mesh under one run number: `bluesky.plans.grid_scan`.

    Parameters
    ----------
    detectors : sequence
        With exactly one `SfDaqBroker` among them.
    *args
        ``motor, start, stop, num`` for each motor, the slowest first.
    snake_axes : bool or sequence, optional
        As in `bluesky.plans.grid_scan`.
    policy, md
        See `sf_count`.

    Returns
    -------
    str
        Uid of the run.
    """
    md = {"plan_name": "sf_grid_scan", **(md or {})}
    inner = bp.grid_scan(detectors, *args, snake_axes=snake_axes, md=md)
    return (yield from run_number_wrapper(inner, broker_among(detectors), policy))


def broker_among(detectors: Sequence[Any]) -> SfDaqBroker:
    """Return the one broker of a list of detectors; RequestError if there is none, or more than one."""
    brokers = [detector for detector in detectors if isinstance(detector, SfDaqBroker)]
    if len(brokers) != 1:
        names = [getattr(detector, "name", repr(detector)) for detector in detectors]
        raise RequestError("detectors", names, "exactly one SfDaqBroker among them")
    return brokers[0]
