"""How ``sfdaq broker`` shows results on a terminal."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..wire.broker_reply import AllowedDetectors, RunningDetectors


def lines(result: Any) -> None:
    """Print one line per value, lists item by item."""
    values = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result
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
