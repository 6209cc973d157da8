"""Hold plans while beam or shutter say so; plans that close the shutter themselves are left alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.suspenders import SuspendCeil, SuspenderBase, SuspendFloor
from bluesky.utils import Msg, single_gen
from ophyd import EpicsSignalRO

from ..errors import ConfigError
from ..limits import asked_again
from .config import SuspenderConfig

logger = logging.getLogger(__name__)

LIMIT = 2.0
"""s for a suspender's PV to answer before a plan."""


class SuspendUnless(SuspenderBase):
    """Suspend while a PV is not at one value.

    Unlike Bluesky's `SuspendWhenChanged` it knows the value the PV has at the start, and enums by their text.
    The signal is no string one: those do not tell the first value.
    """

    def __init__(self, signal: EpicsSignalRO, expected: str | float, **kwargs: Any):
        super().__init__(signal, **kwargs)
        self._expected = expected

    def _text(self, value: Any) -> Any:
        """Return the text of an enum; None while its choices are not known yet."""
        if isinstance(value, str) or not isinstance(self._expected, str):
            return value
        choices = getattr(self._sig, "enum_strs", None) or ()
        return next((text for i, text in enumerate(choices) if i == value), None)

    def _should_suspend(self, value: Any) -> bool:
        return self._text(value) not in (None, self._expected)

    def _should_resume(self, value: Any) -> bool:
        return self._text(value) == self._expected

    def _get_justification(self) -> str:
        if not self.tripped:
            return ""
        value = self._text(self._sig.get())
        return f"{self._sig.name} is {value!r}, not {self._expected!r}: {self._tripped_message}"


def make_suspenders(
    blocks: Mapping[str, SuspenderConfig], devices: Mapping[str, Any]
) -> dict[str, SuspenderBase]:
    """Make the suspenders of the file; installing them is ``RE.install_suspender``.

    Raises
    ------
    ConfigError
        A device that is no signal, or could not be made.
    """
    return {name: _make(name, block, devices.get(block.device)) for name, block in blocks.items()}


def _make(name: str, block: SuspenderConfig, signal: Any) -> SuspenderBase:
    if signal is None or not hasattr(signal, "pvname"):
        raise ConfigError(f"suspenders.{name}.device: {block.device!r}: expected a Signal or ReadOnly device")
    options = {"sleep": block.sleep, "tripped_message": block.message or f"{name} ({signal.pvname})"}
    if block.unless is not None:
        own = EpicsSignalRO(signal.pvname, name=signal.name)
        return SuspendUnless(own, block.unless, **options)
    cls, threshold = (SuspendFloor, block.below) if block.below is not None else (SuspendCeil, block.above)
    return cls(signal, threshold, resume_thresh=block.resume, **options)


def look_now(plan, suspenders: Mapping[str, SuspenderBase]):
    """Preprocessor: tell every suspender the value of this moment, and hold the plan if one says so.

    One whose PV does not answer holds nothing; that is logged.
    """
    futures = []
    for name, suspender in suspenders.items():
        get = functools.partial(suspender._sig.get, timeout=LIMIT, connection_timeout=LIMIT)  # noqa: SLF001
        try:
            suspender(asked_again(get, LIMIT))
        except TimeoutError as exc:
            logger.warning("suspender %s holds nothing: %s", name, exc)
        futures += suspender.get_futures()[0]
    if futures:
        plan = bpp.pchain(single_gen(Msg("wait_for", None, futures)), plan)
    return plan


def except_plans(
    plans: Mapping[str, Callable],
    blocks: Mapping[str, SuspenderConfig],
    suspenders: Mapping[str, SuspenderBase],
) -> dict[str, Callable]:
    """Return, by name, those of `plans` that some suspender is not to hold, wrapped accordingly.

    Signature and docstring stay as they are.
    """
    wrapped = {}
    for plan_name in {name for block in blocks.values() for name in block.not_in}:
        if plan_name not in plans:
            raise ConfigError(f"suspenders: not_in: {plan_name!r}: expected the name of a plan")
        without = [suspenders[key] for key, block in blocks.items() if plan_name in block.not_in]
        wrapped[plan_name] = _without(plans[plan_name], without)
    return wrapped


def _without(plan: Callable, suspenders: list[SuspenderBase]) -> Callable:
    @functools.wraps(plan)
    def free(*args, **kwargs):
        def inner():
            for suspender in suspenders:
                yield Msg("remove_suspender", None, suspender)
            return (yield from plan(*args, **kwargs))

        def put_back():
            for suspender in suspenders:
                yield Msg("install_suspender", None, suspender)

        return (yield from bpp.finalize_wrapper(inner(), put_back))

    return free
