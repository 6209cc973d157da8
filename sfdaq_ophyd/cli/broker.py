"""``sfdaq broker``: one subcommand per call of the sf-daq broker, made of the table of operations."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..clients.broker import BrokerClient, BrokerTrap
from ..errors import RequestError, SfdaqError, WireError
from ..wire.broker_operations import OPERATIONS
from ..wire.broker_reply import AllowedDetectors, RunningDetectors
from ..wire.broker_request import RetrieveRequest
from ..wire.json_text import load_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Talk to the sf-daq broker. The address comes from --url or SFDAQ_BROKER_URL.\n\n"
    "Example: sfdaq broker get-running-detectors --url http://sf-daq:10002",
)

# how results are shown


def lines(result: Any) -> None:
    """Print one line per value, lists item by item."""
    values = _plain(result)
    console = Console(soft_wrap=True, highlight=False)
    for key, value in values.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], str):
            console.print(f"{key}:", *(f"\n  {item}" for item in value), sep="", markup=False)
        else:
            console.print(f"{key}: {value}", markup=False)


def _show(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    table = Table(*map(escape, columns))
    for row in rows:
        table.add_row(*(escape(str(item)) for item in row))
    Console().print(table)


def detector_table(allowed: AllowedDetectors) -> None:
    """Print the detectors of the beamline."""
    rows = zip(allowed.names, allowed.descriptions, allowed.visualisation_addresses)
    _show(("detector", "description", "live view"), rows)


def running_table(detectors: RunningDetectors) -> None:
    """Print running, limping and missing detectors."""
    untold = "this server does not tell which are limping or missing"
    table = Table("detector", "state", "modules running", "modules missing")
    table.caption = untold if detectors.limping is None else None
    for name in detectors.running:
        table.add_row(escape(name), "[green]running", "all", "")
    for name, modules in (detectors.limping or {}).items():
        numbers = (", ".join(map(str, group)) for group in (modules.running_modules, modules.missing_modules))
        table.add_row(escape(name), "[yellow]limping", *numbers)
    for name in detectors.missing or ():
        table.add_row(escape(name), "[red]missing", "", "all")
    Console().print(table)


def settings_table(settings: dict[str, Any]) -> None:
    """Print names and values."""
    _show(("setting", "value"), settings.items())


def changes_table(changes: dict[str, tuple[Any, Any]]) -> None:
    """Print what changed."""
    if changes:
        _show(("setting", "before", "now"), ((name, *pair) for name, pair in changes.items()))
    else:
        Console().print("nothing changed, or the server does not tell")


def module_table(values: dict[str, list[float]]) -> None:
    """Print one row per module."""
    _show(("module", *values), ((number, *row) for number, row in enumerate(zip(*values.values()))))


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


def call(show: Callable[[Any], None]):
    """Register a function ``f(client, ...)`` as a subcommand with the common options.

    What it returns is printed by `show`, unless ``--json`` was given.
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


# commands made by hand

Pgroup = Annotated[str, typer.Argument(help="E.g. p12345.")]
Rate = Annotated[int, typer.Option("--rate", help="Detectors run at 100 Hz divided by this.")]


@call(lines)
def retrieve_from_buffers(
    client: BrokerClient,
    pgroup: Annotated[str | None, typer.Argument(help="Not needed with --request.")] = None,
    first: Annotated[int | None, typer.Option(help="First pulse id.")] = None,
    last: Annotated[int | None, typer.Option(help="Last pulse id, included.")] = None,
    run_number: Annotated[
        int | None, typer.Option(help="A number taken before; default takes a new one.")
    ] = None,
    detector: Annotated[
        list[str] | None, typer.Option(help='NAME, or NAME={"parameter": value, ...}; may be repeated.')
    ] = None,
    channel: Annotated[list[str] | None, typer.Option(help="Beam-synchronous channel.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Camera image, ending in :FPICTURE.")] = None,
    pv: Annotated[list[str] | None, typer.Option(help="EPICS PV.")] = None,
    rate: Rate = 1,
    tag: Annotated[str | None, typer.Option(help="Free text, stored with the acquisition.")] = None,
    tag_in_directory: Annotated[
        bool, typer.Option(help="Put the tag into the name of the run directory.")
    ] = False,
    request: Annotated[
        Path | None, typer.Option(help="A JSON file like acqNNNN.json, in place of all others.")
    ] = None,
):
    """Ask for the data of past pulses: one acquisition of a run.

    Example: sfdaq broker retrieve-from-buffers p12345 --first 21000000000 --last 21000000099 --pv SAR:X
    """
    given = {
        "pgroup": pgroup,
        "start_pulseid": first,
        "stop_pulseid": last,
        "run_number": run_number,
        "rate_multiplicator": rate,
        "user_tag": tag,
        "append_user_tag_to_data_dir": tag_in_directory,
        "detectors": _detectors(detector or ()),
        "channels_list": channel,
        "camera_list": camera,
        "pv_list": pv,
    }
    body = {key: value for key, value in given.items() if value is not None}
    if request is not None:
        untouched = {"rate_multiplicator": 1, "append_user_tag_to_data_dir": False, "detectors": {}}
        beside = [key for key, value in body.items() if untouched.get(key) != value and value != []]
        if beside:
            raise RequestError("request", str(request), f"no {', '.join(beside)} beside it: the file has all")
        body = parsed_json("request", read_text("request", request))
    return client.retrieve_from_buffers(RetrieveRequest.from_wire(body))


def _detectors(texts: Iterable[str]) -> dict[str, Any]:
    detectors: dict[str, Any] = {}
    for text in texts:
        name, _, parameters = text.partition("=")
        if name in detectors:
            raise RequestError("detector", text, f"{name} once")
        detectors[name] = parsed_json("detector", parameters) if parameters else {}
    return detectors


@call(lines)
def set_pvlist(
    client: BrokerClient,
    pvs: Annotated[list[str] | None, typer.Argument(help="The whole new list.")] = None,
    file: Annotated[Path | None, typer.Option(help="One name per line, in place of arguments.")] = None,
    erase: Annotated[bool, typer.Option(help="Needed to store an empty list.")] = False,
):
    """Replace the whole list of recorded PVs; the epics buffer restarts.

    Example: sfdaq broker set-pvlist --file pvs.txt
    """
    if file and pvs:
        raise RequestError("file", str(file), f"no {', '.join(pvs)} beside it: it has the whole list")
    names = (
        [line.strip() for line in read_text("file", file).splitlines() if line.strip()] if file else pvs or []
    )
    if not names and not erase:
        raise RequestError("pvs", names, "at least one name, or --erase")
    return {"pv_list": client.set_pvlist(names)}


@call(lines)
def close_pgroup_writing(
    client: BrokerClient,
    pgroup: Pgroup,
    confirm: Annotated[str | None, typer.Option(help="The pgroup once more; asked for if not given.")] = None,
):
    """Close a pgroup for ever: no more runs, pedestals or copies; archiving starts.

    Example: sfdaq broker close-pgroup-writing p12345 --confirm p12345
    """
    if confirm is None:
        confirm = typer.prompt(f"This cannot be undone. Type {pgroup} once more", err=True)
    client.close_pgroup_writing(pgroup, confirm=confirm)
    return {"closed": pgroup}


@call(lines)
def copy_user_files(
    client: BrokerClient,
    pgroup: Pgroup,
    run_number: Annotated[int, typer.Argument(help="A run that has data.")],
    files: Annotated[list[str], typer.Argument(help="Absolute paths on the server.")],
):
    """Copy files into aux/ of a run; exit code 1 if any failed.

    Example: sfdaq broker copy-user-files p12345 7 /sf/bernina/data/p12345/res/notes.txt
    """
    result = client.copy_user_files(pgroup, run_number, files)
    if result.failed:
        reasons = "; ".join(f"{file}: {reason or 'not copied'}" for file, reason in result.failed.items())
        raise SfdaqError(f"{len(result.copied)} files copied, {len(result.failed)} not: {reasons}")
    return result


@call(lines)
def upload_custom_dap_script(
    client: BrokerClient,
    file: Annotated[Path, typer.Argument(help="A Python file that defines proc(meta, image, mask).")],
):
    """Upload a script for the online analysis.

    Example: sfdaq broker upload-custom-dap-script total.py
    """
    client.upload_custom_dap_script(file.stem, read_text("file", file))
    return {"uploaded": file.stem}


TEXTS = ("custom_script", "threshold_value")
"""Settings that are texts also where they look like a number."""


def _settings(texts: list[str]) -> dict:
    """Read NAME=VALUE arguments; what is not JSON is a text, and so is every value of `TEXTS`."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise RequestError("settings", text, "NAME=VALUE")
        try:
            settings[name] = parsed_json(name, value)
        except RequestError:
            settings[name] = value
        if name in TEXTS and not isinstance(settings[name], str):
            settings[name] = value
    return settings


class Given(NamedTuple):
    """How the shell takes one argument of a call: name, type with help, an example, and what reads it."""

    name: str
    kind: Any
    example: str = ""
    read: Callable[[Any], Any] = lambda value: value


ARGUMENTS = {
    "detector_name": Given("detector", Annotated[str, typer.Argument(help="E.g. JF01T03V01.")], "JF01T03V01"),
    "pgroup": Given("pgroup", Pgroup, "p12345"),
    "detectors": Given(
        "detectors", Annotated[list[str], typer.Argument(help="Detector names.")], "JF01T03V01"
    ),
    "modules": Given("modules", Annotated[list[int], typer.Argument(help="Module numbers.")], "0 2"),
    "parameters": Given(
        "settings",
        Annotated[list[str], typer.Argument(help="NAME=VALUE; values are JSON, bare words are texts.")],
        "NAME=VALUE",
        _settings,
    ),
    "rate_multiplicator": Given("rate", Rate),
    "pedestalmode": Given(
        "pedestalmode", Annotated[bool, typer.Option(help="The detector switches gains itself.")]
    ),
}
"""By the names that the table of operations has."""


class Subcommand(NamedTuple):
    """A call of the broker as a subcommand, and how its reply is shown.

    Attributes
    ----------
    value : str
        What a reply is that is one value; where there is none, that many modules were switched.
    example : str
        Where the examples of the arguments do not do.
    """

    method: Callable[..., Any]
    show: Callable[[Any], None] = lines
    value: str = ""
    example: str = ""


COMMANDS = (
    Subcommand(BrokerClient.get_allowed_detectors, detector_table),
    Subcommand(BrokerClient.get_running_detectors, running_table),
    Subcommand(BrokerClient.power_on_detector, value="message"),
    Subcommand(BrokerClient.advance_run_number, value="run_number"),
    Subcommand(BrokerClient.get_current_run_number, value="run_number"),
    Subcommand(BrokerClient.take_pedestal, value="wait_at_least_s"),
    Subcommand(BrokerClient.get_pvlist, value="pv_list"),
    Subcommand(BrokerClient.get_detector_settings, settings_table),
    Subcommand(
        BrokerClient.set_detector_settings, changes_table, example="JF01T03V01 exptime=5e-6 gain_mode=dynamic"
    ),
    Subcommand(BrokerClient.get_detector_status),
    Subcommand(BrokerClient.get_detector_temperatures, module_table),
    Subcommand(BrokerClient.get_detector_pings),
    Subcommand(BrokerClient.get_jfctrl_monitor, settings_table, example="JF07T32V02"),
    Subcommand(BrokerClient.get_jfstats, example="JF07T32V02"),
    Subcommand(BrokerClient.power_on_modules, value="powered_on"),
    Subcommand(BrokerClient.power_off_modules, value="powered_off"),
    Subcommand(BrokerClient.get_dap_settings, settings_table),
    Subcommand(
        BrokerClient.set_dap_settings,
        changes_table,
        example="JF01T03V01 detector_distance=0.092 laser_on=true",
    ),
)
"""Those that are made of the table of operations; the others are above."""


def _command(row: Subcommand) -> Callable[..., Any]:
    """Return the function that makes a call, with the arguments that the table of operations says."""
    name = row.method.__name__
    operation = OPERATIONS[name]
    wanted = inspect.signature(operation.request).parameters.values()
    own = {one.name: (ARGUMENTS[one.name], one.default) for one in wanted if one.name in ARGUMENTS}

    def command(client: BrokerClient, **given: Any) -> Any:
        arguments = {key: argument.read(given[argument.name]) for key, (argument, _) in own.items()}
        reply = row.method(client, **arguments)
        if row.value:
            return {row.value: arguments["modules"] if reply is None else reply}
        return {} if reply is None else reply

    first = inspect.Parameter("client", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [
        inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for argument, default in own.values()
    ]
    example = row.example or " ".join(argument.example for argument, _ in own.values()).strip()
    command.__name__ = name
    said = (inspect.getdoc(operation.request) or "").partition("\n\nParameters\n")[0].replace("`", "")
    command.__doc__ = f"{escape(said)}\n\nExample: sfdaq broker {name.replace('_', '-')} {example}"
    command.__annotations__ = {argument.name: argument.kind for argument, _ in own.values()}
    vars(command)["__signature__"] = inspect.Signature([first, *parameters])
    return command


for _row in COMMANDS:
    call(_row.show)(_command(_row))
