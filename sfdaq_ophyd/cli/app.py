"""The root of the command line: which commands there are, loaded when they are called."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import Annotated

import typer
from typer.core import TyperGroup

from ..log import config_sfdaq_logging, failure, keep_log, new_screen

COMMANDS = {
    "demo": "Run a whole scan against the simulated facility, and show what the catalog has of it.",
    "sim": "Run the simulated facility until Ctrl-C.",
    "init": "Write a profile collection: startup files and a sfdaq.yaml.",
    "session": "Open a profile collection in IPython.",
    "doctor": "Check every configured address and PV.",
    "watch": "Serve a page with the newest frames, pulse id, writer, broker and runs.",
    "broker": "Talk to the sf-daq broker.",
    "std-daq": "Talk to the standard DAQ.",
    "convert": "Convert raw Jungfrau files to calibrated images.",
    "repair": "Make files openable whose writer was killed.",
}
"""Name to the line shown by ``sfdaq --help``. Command ``a-b`` lives in ``sfdaq_ophyd.cli.a_b``."""


SERVE = {"sim", "session", "watch"}
"""Commands that go on until somebody ends them."""


def _module(name: str) -> str:
    return f"{__package__}.{name.replace('-', '_')}"


class LazyGroup(TyperGroup):
    """Commands that are imported when they are called; listing them costs nothing."""

    def list_commands(self, ctx) -> list[str]:
        """Name every command whose module is installed."""
        return [name for name in COMMANDS if find_spec(_module(name))]

    def get_command(self, ctx, cmd_name: str):
        """Return a stand-in that carries the help line."""
        if cmd_name not in self.list_commands(ctx):
            return None
        stand_in = typer.Typer(add_completion=False)
        stand_in.command(cmd_name, help=COMMANDS[cmd_name])(lambda: None)
        return typer.main.get_command(stand_in)

    def resolve_command(self, ctx, args):
        """Find the command to run, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name is not None and command is not None else None, rest


def load(name: str):
    """Import one command: the module's ``app``, or its function of the module's name."""
    module = importlib.import_module(_module(name))
    command = getattr(module, "app", None)
    if command is None:
        command = typer.Typer(add_completion=False)
        command.command(name)(getattr(module, name.replace("-", "_")))
    return typer.main.get_command(command)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def sfdaq(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")] = False,
) -> None:
    """Detectors and data acquisition of PSI, under Bluesky.

    Example: sfdaq demo
    """
    new_screen()
    if version:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit
    if verbose:
        config_sfdaq_logging("DEBUG")


def main() -> None:
    """Run the command line; a failure is one screen, exit code 1, and its traceback is in the log."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command:
        keep_log(command in SERVE)
    try:
        app()
    except Exception as exc:
        print(failure(exc, f"sfdaq {command}"), file=sys.stderr)
        sys.exit(1)
