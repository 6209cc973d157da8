"""What IPython gets: magics, Bluesky's (``%wa``, ``%mov``, ``%ct``) and ours, and failures on one screen."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from ..log import failure

_ONE_SCREEN = {"bluesky", "ophyd", "sfdaq_ophyd", "tiled"}
"""Packages whose failures a user need not see line by line."""


def register_magics(shell: Any, session: Any) -> None:
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
    shell.register_magic_function(lambda line: _say(session.report()), "line", "devices")
    shell.register_magic_function(lambda line: _doctor(session), "line", "doctor")
    if session.sim is not None:
        if getattr(shell.parent, "file_to_run", ""):
            session.sim.wait()
        shell.events.register("pre_run_cell", lambda info: _wait_for_simulators(session, info.raw_cell))


def load_ipython_extension(shell: Any) -> None:
    """Register Bluesky's magics; IPython calls this at the first use of one of them."""
    from bluesky.magics import BlueskyMagics

    shell.register_magics(BlueskyMagics)


def _show_failure(shell: Any, session: Any, exc: BaseException) -> None:
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


def _wait_for_simulators(session: Any, cell: str) -> None:
    if not session.sim.is_ready and (cell.startswith("%") or any(name in cell for name in session.devices)):
        session.sim.wait()


def _doctor(session: Any) -> None:
    """Check every address and PV of this session."""
    from .checks import checks_of, run_checks, told

    for line, _ in told(run_checks(checks_of(session.config))):
        _say(line)


def _say(text: str, stderr: bool = False) -> None:
    from rich.console import Console

    Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False).print(text)
