"""``sfdaq sim``: the simulated facility in the foreground."""

from __future__ import annotations

import json
import signal
import sys
import threading
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from ..errors import RequestError
from ..sim import Facility


def parse_speed(word: str) -> float | str:
    """Read the option ``--speed``: a number, or auto."""
    try:
        return word if word == "auto" else float(word)
    except ValueError:
        raise typer.BadParameter(f"{word!r} is neither a number nor auto") from None


SPEED = typer.Option(
    parser=parse_speed,
    metavar="NUMBER|auto",
    help="Divide the services' own delays by this; auto: by 4, and the pulse clock waits for slow parts.",
)
START_TIMEOUT = typer.Option(help="s without a sign of progress after which a start fails.")


def say_rate(line: str) -> None:
    """Print at which rate the pulse clock runs."""
    print(line, file=sys.stderr, flush=True)


def sim(
    only: Annotated[str, typer.Option(help="Parts to start, with commas: eiger,std-daq. Default: all.")] = "",
    speed: Annotated[Any, SPEED] = "1",
    start_timeout: Annotated[float, START_TIMEOUT] = 60.0,
    port_base: Annotated[int, typer.Option(help="First port, counted up per server; 0 takes free ones.")] = 0,
    directory: Annotated[Path | None, typer.Option(help="For files. Default: a temporary folder.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of a part, NAME=VALUE; see Facility. May be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as one line of JSON.")] = False,
) -> None:
    """Run the simulated facility until Ctrl-C.

    Prints READY once everything serves, then the addresses.

    Example: sfdaq sim --only eiger,pvs --option eiger_model=1M
    """
    names = [name.strip().replace("-", "_") for name in only.split(",") if name.strip()] or None
    serving, stop = threading.Event(), threading.Event()

    def end(*_) -> None:
        stop.set()
        if not serving.is_set():
            raise KeyboardInterrupt  # what has started is ended on the way out

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    facility = Facility(
        speed,
        directory,
        names,
        seed,
        start_timeout=start_timeout,
        on_rate=say_rate,
        port_base=port_base,
        **_options(option or []),
    )
    with facility:
        serving.set()
        addresses = facility.addresses()
        print("READY", flush=True)
        if as_json:
            print(json.dumps(addresses), flush=True)
        else:
            _show(addresses)
        stop.wait()


def _options(words: list[str]) -> dict:
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        taken = {*signature(Facility).parameters, "port_base"}  # have options of their own
        if not equals or not name.isidentifier() or name in taken:
            raise RequestError("--option", word, "NAME=VALUE, e.g. eiger_model=1M")
        try:
            parsed = yaml.safe_load(value)
        except Exception:  # of a date that is none, brackets too deep, a tag that does not fit
            raise RequestError("--option", word, "NAME=VALUE with a value in YAML") from None
        options[name] = value if isinstance(parsed, dict) else parsed  # "SIM:" is a prefix, no mapping
    return options


def _show(addresses: dict[str, dict]) -> None:
    table = Table("part", "role", "address")
    for part, roles in addresses.items():
        for role, address in roles.items():
            shown = address if isinstance(address, str) else "\n".join(map(str, address))
            table.add_row(part, role, shown)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if "pvs" in addresses:
        where = addresses["pvs"]["ca"]
        console.print(f"export EPICS_CA_ADDR_LIST={where} EPICS_CA_AUTO_ADDR_LIST=NO", soft_wrap=True)
    console.print("Ctrl-C ends it.")
