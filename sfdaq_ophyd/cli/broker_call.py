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

from ..clients.broker import BrokerClient, BrokerTrap
from ..errors import RequestError, WireError
from ..wire.json_text import load_json

Pgroup = Annotated[str, typer.Argument(help="E.g. p12345.")]
Detector = Annotated[str, typer.Argument(help="E.g. JF01T03V01.")]
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
        command.__signature__ = inspect.Signature(parameters + common)
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
    return dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result


def _show_warning(message, category, filename, lineno, file=None, line=None):
    typer.echo(f"sfdaq: warning: {message}", err=True)
