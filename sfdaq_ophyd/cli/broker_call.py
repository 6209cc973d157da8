"""What all subcommands of ``sfdaq broker`` share: address, dialect, time limit, how results are shown."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..clients.broker import BrokerClient, BrokerTrap
from ..errors import RequestError, WireError
from ..wire.broker_reply import AllowedDetectors, RunningDetectors
from ..wire.json_text import load_json


def lines(result: Any) -> None:
    """Print one line per value, lists item by item."""
    values = _plain(result)
    console = Console(soft_wrap=True, highlight=False)
    for key, value in values.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], str):
            console.print(f"{key}:", *(f"\n  {item}" for item in value), sep="", markup=False)
        else:
            console.print(f"{key}: {value}", markup=False)


def detector_table(allowed: AllowedDetectors) -> None:
    """Print the detectors of the beamline."""
    table = Table("detector", "description", "live view")
    for row in zip(allowed.names, allowed.descriptions, allowed.visualisation_addresses):
        table.add_row(*map(escape, row))
    Console().print(table)


def running_table(detectors: RunningDetectors) -> None:
    """Print running, limping and missing detectors."""
    table = Table("detector", "state", "modules running", "modules missing")
    if detectors.limping is None:
        table.caption = "this server does not tell which are limping or missing"
    for name in detectors.running:
        table.add_row(escape(name), "[green]running", "all", "")
    for name, modules in (detectors.limping or {}).items():
        table.add_row(
            escape(name),
            "[yellow]limping",
            *map(_numbers, (modules.running_modules, modules.missing_modules)),
        )
    for name in detectors.missing or ():
        table.add_row(escape(name), "[red]missing", "", "all")
    Console().print(table)


def settings_table(settings: dict[str, Any]) -> None:
    """Print names and values."""
    table = Table("setting", "value")
    for name, value in settings.items():
        table.add_row(escape(name), escape(str(value)))
    Console().print(table)


def changes_table(changes: dict[str, tuple[Any, Any]]) -> None:
    """Print what changed."""
    table = Table("setting", "before", "now")
    for name, (old, new) in changes.items():
        table.add_row(*(escape(str(item)) for item in (name, old, new)))
    Console().print(table if changes else "nothing changed, or the server does not tell")


def module_table(values: dict[str, list[float]]) -> None:
    """Print one row per module."""
    table = Table("module", *map(escape, values))
    for number, row in enumerate(zip(*values.values())):
        table.add_row(str(number), *map(str, row))
    Console().print(table)


def _numbers(modules: tuple[int, ...]) -> str:
    return ", ".join(map(str, modules))


Url = Annotated[str, typer.Option(envvar="SFDAQ_BROKER_URL", help="Address of the broker.")]
SlowUrl = Annotated[
    str | None, typer.Option(envvar="SFDAQ_BROKER_SLOW_URL", help="Default: the next port of the same host.")
]
Dialect = Annotated[str, typer.Option(help="current, documented, or auto: ask the server.")]
Timeout = Annotated[float | None, typer.Option(help="Limit of the call in s; default 10, slow broker 30.")]
SfRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="SFDAQ_SF_ROOT", help="Where /sf is mounted: to look up what became of a lost reply."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_COMMON = {
    "url": (Url, inspect.Parameter.empty),
    "slow_url": (SlowUrl, None),
    "dialect": (Dialect, "current"),
    "timeout": (Timeout, None),
    "sf_root": (SfRoot, None),
    "as_json": (Json, False),
}


def call(app: typer.Typer, show: Callable[[Any], None]):
    """Register a function ``f(client, ...)`` as a subcommand with the common options.

    Parameters
    ----------
    show : callable
        Prints what the function returns, unless ``--json`` was given.
    """

    def register(function):
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        @functools.wraps(function)
        def command(url, slow_url, dialect, timeout, sf_root, as_json, **arguments):
            limits = {} if timeout is None else {"timeout": timeout, "slow_timeout": timeout}
            client = BrokerClient(url, slow_url, dialect, sf_root=sf_root, **limits)
            with client, warnings.catch_warnings():
                warnings.simplefilter("always", BrokerTrap)
                warnings.showwarning = _show_warning
                result = function(client, **arguments)
            if as_json:
                typer.echo(json.dumps(_plain(result)))
            else:
                show(result)

        common = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, (kind, default) in _COMMON.items()
        ]
        parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        vars(command)["__signature__"] = inspect.Signature(parameters + common)  # typer reads it
        command.__annotations__ = {p.name: p.annotation for p in parameters + common}
        app.command(function.__name__.replace("_", "-"))(command)
        return function

    return register


def parsed_json(field: str, text: str) -> Any:
    """Return JSON from the command line; RequestError naming the option."""
    try:
        return load_json(text)
    except WireError as exc:
        raise RequestError(field, text, f"JSON ({exc})") from exc


def read_text(field: str, path: Path) -> str:
    """Return a file's text; RequestError naming the option."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise RequestError(field, str(path), f"a readable text file ({exc})") from exc


def _plain(result: Any) -> Any:
    is_record = dataclasses.is_dataclass(result) and not isinstance(result, type)
    return dataclasses.asdict(result) if is_record else result


def _show_warning(message, category, filename, lineno, file=None, line=None):
    typer.echo(f"sfdaq: warning: {message}", err=True)
