"""Hold plans while beam or shutter say so; plans that close the shutter themselves are left alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import bluesky.preprocessors as bpp
from bluesky.suspenders import SuspendCeil, SuspenderBase, SuspendFloor
from bluesky.utils import Msg, single_gen
from ophyd import EpicsSignalRO

from ..errors import ConfigError
from ..limits import asked_again
from .config import SuspenderConfig

if TYPE_CHECKING:
    from bluesky import RunEngine

logger = logging.getLogger(__name__)

LIMIT = 2.0
"""s for a suspender's PV to answer before a plan."""


class _LeavesTheStartToUs(SuspenderBase):
    """A suspender for which the RunEngine holds no plan at its start: `look_now` does, and knows for which.

    Attributes
    ----------
    is_away : bool
        A plan has taken it out and not put it back yet; after ``RE.halt()`` it never does. The RunEngine
        shows it nevertheless: a user can remove it.
    waits : bool
        The plan has put it back, and it is installed once something is to be measured.
    """

    is_away = waits = False
    _engine: RunEngine | None = None

    def install(self, RE, *, event_type=None):  # noqa: N803
        """Install the callback on the signal."""
        self.is_away = self.waits = False
        self._engine = RE
        super().install(RE, event_type=event_type)

    def taken_out(self):
        """Note that a plan has taken it out, if it has."""
        self.is_away = self.RE is None
        if self.is_away and self._engine is not None:
            self._engine._suspenders.add(self)  # noqa: SLF001 - a user sees it, and can remove it

    def remove(self):
        """Take the callback from the signal."""
        self.is_away = self.waits = False
        super().remove()

    def get_futures(self):
        """Name nothing to wait for."""
        return [], ""

    def verdict(self, value: Any) -> tuple[bool, bool]:
        """Return whether `value` would suspend, and whether it would resume."""
        return bool(self._should_suspend(value)), bool(self._should_resume(value))

    def held_by(self) -> tuple[list[Callable], str]:
        """Return what to wait for, and why."""
        return super().get_futures()


class SuspendBelow(_LeavesTheStartToUs, SuspendFloor):
    """Suspend while a PV is below a value."""


class SuspendAbove(_LeavesTheStartToUs, SuspendCeil):
    """Suspend while a PV is above a value."""


class SuspendUnless(_LeavesTheStartToUs):
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
) -> dict[str, _LeavesTheStartToUs]:
    """Make the suspenders of the file; installing them is ``RE.install_suspender``.

    Raises
    ------
    ConfigError
        A device that is no signal, or could not be made.
    """
    return {name: _make(name, block, devices.get(block.device)) for name, block in blocks.items()}


def _make(name: str, block: SuspenderConfig, signal: Any) -> _LeavesTheStartToUs:
    if signal is None or not hasattr(signal, "pvname"):
        raise ConfigError(f"suspenders.{name}.device: {block.device!r}: expected a Signal or ReadOnly device")
    options = {"sleep": block.sleep, "tripped_message": block.message or f"{name} ({signal.pvname})"}
    # with a subscription, ophyd's read() tells a value with the time of another: the device has none from us
    own = EpicsSignalRO(signal.pvname, name=signal.name)
    if block.unless is not None:
        return SuspendUnless(own, block.unless, **options)
    if block.below is not None:
        return SuspendBelow(own, block.below, resume_thresh=block.resume, **options)
    return SuspendAbove(own, block.above, resume_thresh=block.resume, **options)


def look_now(plan, suspenders: Mapping[str, _LeavesTheStartToUs], run_engine: RunEngine):
    """Preprocessor: tell every suspender the value of this moment, and hold the plan if one says so.

    One that the plan takes out at its beginning does not hold it, and is put back when something more is to
    be measured, or with the next plan. One whose PV does not answer holds nothing; that is logged.
    """
    for name, suspender in suspenders.items():
        if suspender.is_away:
            logger.info("suspender %s is put back", name)
            run_engine.install_suspender(suspender)

    def tell():
        for name, suspender in suspenders.items():
            get = functools.partial(suspender._sig.get, timeout=LIMIT, connection_timeout=LIMIT)  # noqa: SLF001
            try:
                told = None
                # what was read may be older than what the monitor has told meanwhile: read again
                while (verdict := suspender.verdict(value := asked_again(get, LIMIT))) != told:
                    suspender(value)
                    told = verdict
            except TimeoutError as exc:
                logger.warning("suspender %s holds nothing: %s", name, exc)

    tell()
    ours = list(suspenders.values())
    back: list[_LeavesTheStartToUs] = []
    own: list[Msg] = []
    looked = False

    def hold(msg):
        found = [suspender.held_by() for suspender in ours]
        if futures := [future for those, _ in found for future in those]:
            logger.warning(
                "the plan goes on when this is over: %s", "; ".join(why for _, why in found if why)
            )
            yield Msg("wait_for", None, futures)
        return (yield msg)

    def put_back(msg):
        own[:] = [Msg("install_suspender", None, suspender) for suspender in back if suspender.waits]
        back.clear()
        yield from own
        tell()
        return (yield from hold(msg))

    def look(msg):
        nonlocal looked
        if msg.command == "remove_suspender":
            if msg.args[0] in back:
                back.remove(msg.args[0])
        elif not looked:
            looked = True
            return hold(msg), None
        elif msg.command == "install_suspender" and msg.args[0] in ours:
            if not any(msg is each for each in own):
                back.append(msg.args[0])
                msg.args[0].waits = True
                run_engine._suspenders.add(msg.args[0])  # noqa: SLF001 - a user sees it, and can remove it
                return single_gen(Msg("null")), None
        elif back and msg.command in ("kickoff", "open_run", "stage", "trigger"):
            return put_back(msg), None
        return None, None

    return bpp.plan_mutator(plan, look)


def except_plans(
    plans: Mapping[str, Callable],
    blocks: Mapping[str, SuspenderConfig],
    suspenders: Mapping[str, _LeavesTheStartToUs],
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


def _without(plan: Callable, suspenders: list[_LeavesTheStartToUs]) -> Callable:
    @functools.wraps(plan)
    def free(*args, **kwargs):
        installed = [suspender for suspender in suspenders if suspender.RE is not None or suspender.waits]

        def inner():
            for suspender in installed:
                try:
                    yield Msg("remove_suspender", None, suspender)
                finally:
                    suspender.taken_out()
            return (yield from plan(*args, **kwargs))

        def put_back():
            for suspender in installed:
                if suspender.is_away:  # else a user has removed it, or it was not taken out
                    yield Msg("install_suspender", None, suspender)

        return (yield from bpp.finalize_wrapper(inner(), put_back))

    return free
