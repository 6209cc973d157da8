"""IPython magics: Bluesky's own (``%wa``, ``%mov``, ``%ct``), and two for what is connected."""

from __future__ import annotations

from typing import Any


def register_magics(shell: Any, session: Any) -> None:
    """Register ``%mov %movr %ct %wa`` of Bluesky, ``%devices`` and ``%doctor``; nothing without IPython.

    With simulators, a cell that names a device, and a script, wait until they serve.

    Parameters
    ----------
    shell : IPython shell, or None
    session : Session
    """
    if not hasattr(shell, "register_magics"):
        return  # plain Python, or the queue server's stand-in
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


def _wait_for_simulators(session: Any, cell: str) -> None:
    if not session.sim.is_ready and (cell.startswith("%") or any(name in cell for name in session.devices)):
        session.sim.wait()


def _doctor(session: Any) -> None:
    """Check every address and PV of this session."""
    from .checks import checks_of, run_checks

    for finding in run_checks(checks_of(session.config)):
        _say(line_of(finding))


def line_of(finding: Any) -> str:
    """Return a finding as one line."""
    mark = "ok    " if finding.ok else "FAILED"
    took = "     -" if finding.latency is None else f"{finding.latency * 1e3:6.1f}"
    version = f" [{finding.version}]" if finding.version else ""
    found = " ".join(finding.found.split())
    text = f"{mark} {took} ms  {finding.name:18} {finding.address}{version}  {found}"
    return text if finding.ok else f"{text}. {finding.advice}"


def _say(text: str) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True, markup=False).print(text)
