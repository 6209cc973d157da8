"""What IPython gets: magics, Bluesky's (``%wa``, ``%mov``, ``%ct``) and ours, and failures on one screen."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from ..log import failure

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .simulated import SimulatedFacility
    from .startup import Session

_ONE_SCREEN = {"bluesky", "ophyd", "sfdaq_ophyd", "tiled"}
"""Packages whose failures a user need not see line by line."""


def register_magics(shell: InteractiveShell, session: Session) -> None:
    """Register ``%mov %movr %ct %wa`` of Bluesky, ``%devices`` and ``%doctor``; nothing without IPython.

    With simulators, a cell that names a device, and a script, wait until they serve. A failure of a plan or a
    device is one screen; ``%tb`` shows its traceback.
    """
    if not hasattr(shell, "register_magics"):
        return  # plain Python, or the queue server's stand-in
    shell.set_custom_exc(
        (Exception, KeyboardInterrupt),
        lambda shell, *exc_info, **_: _show_failure(shell, session, exc_info[1]),
    )
    for name in ("ct", "mov", "movr", "wa"):
        shell.magics_manager.register_lazy(name, __name__)
    ours = {"devices": lambda line: _say(session.report()), "doctor": lambda line: _doctor(session)}
    for name, function in ours.items():
        shell.register_magic_function(function, "line", name)  # type: ignore[arg-type] # IPython counts self
    if (sim := session.sim) is not None:
        if getattr(shell.parent, "file_to_run", ""):
            sim.wait()
        shell.events.register("pre_run_cell", lambda info: _wait_for_simulators(session, sim, info.raw_cell))


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register Bluesky's magics; IPython calls this at the first use of one of them."""
    from bluesky.magics import BlueskyMagics

    shell.register_magics(BlueskyMagics)


def _show_failure(shell: InteractiveShell, session: Session, exc: BaseException) -> None:
    """Show what comes out of a plan or a device on one screen, and a mistake in a cell as IPython does."""
    from bluesky.utils import RunEngineInterrupted

    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(exc.__traceback__)}
    if isinstance(exc, RunEngineInterrupted):
        _say(str(exc), stderr=True)
    elif not _ONE_SCREEN & {module.partition(".")[0] for module in modules}:
        shell.showtraceback((type(exc), exc, exc.__traceback__))
    elif isinstance(exc, KeyboardInterrupt):
        _say("KeyboardInterrupt", stderr=True)
    else:
        sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, exc.__traceback__  # for %tb
        run = session.facts if "bluesky.run_engine" in modules else {}
        what = f"scan {run.get('scan_id')} ({run.get('plan_name', 'a plan')})" if run else "this"
        _say(failure(exc, what), stderr=True)


def _wait_for_simulators(session: Session, sim: SimulatedFacility, cell: str) -> None:
    if not sim.is_ready and (cell.startswith("%") or any(name in cell for name in session.devices)):
        sim.wait()


def _doctor(session: Session) -> None:
    """Check every address and PV of this session."""
    from .checks import checks_of, run_checks, told

    for line, _ in told(run_checks(checks_of(session.config))):
        _say(line)


def _say(text: str, stderr: bool = False) -> None:
    from rich.console import Console

    Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False).print(text)
