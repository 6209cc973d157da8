"""``sfdaq std-daq``: one subcommand per call of the standard DAQ, the same JSON as the published tools."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..clients.std_daq import STATUS_PERIOD, StdDaqClient
from ..errors import RequestError, SfdaqError
from ..wire.std_daq import WriterState
from .std_daq_call import SocketCalls, call

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Talk to the standard DAQ. The address comes from -b or STD_DAQ_API_URL: of REST; of a DAQ "
    "with control by websocket ws://host:8080, or that of its configuration. Such a DAQ has status, config, "
    "set-config, write-async, write-sync and stop.\n\n"
    "Example: sfdaq std-daq status -b http://xbl-daq-28:5000",
)

Url = Annotated[
    str, typer.Option("-b", "--url", envvar="STD_DAQ_API_URL", help="Address of the service: http or ws.")
]
ConfigUrl = Annotated[
    str | None,
    typer.Option(help="Of the configuration beside ws://..., where it is not at port 5000 of that host."),
]
User = Annotated[str, typer.Option(help="As whom the configuration of a DAQ with websocket is asked for.")]
OneLine = Annotated[bool, typer.Option("--json", help="One line of JSON in place of indented JSON.")]
OutputFile = Annotated[
    str,
    typer.Argument(
        help="Absolute path on the DAQ's hosts; a DAQ with websocket makes x_0.h5, x_1.h5 of x.h5."
    ),
]
NImages = Annotated[int, typer.Argument(help="Number of images to write.", parser=int, metavar="n_images")]
RunId = Annotated[
    int | None,
    typer.Option(parser=int, metavar="INTEGER", help="Unsigned 64-bit integer. Default: the time in ns."),
]

NUMBERS = {"ignore_unknown_options": True}
"""Context of commands with a number: -1 is one, and for the service to refuse."""

DEFAULT_URL = "http://127.0.0.1:5000"
USER = "sfdaq"


def _show(content: object, one_line: bool) -> None:
    typer.echo(json.dumps(content, indent=None if one_line else 2))


@app.command()
def status(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Show the state of the writer and its newest acquisition.

    A DAQ with control by websocket is listened to for a moment: an end that comes just then may be told to us
    alone, and others see it idle.

    Example: sfdaq std-daq status
    """
    _show(call(url, lambda daq: daq.get_status()), one_line)


@app.command()
def config(
    url: Url = DEFAULT_URL, config_url: ConfigUrl = None, user: User = USER, one_line: OneLine = False
) -> None:
    """Show the stored configuration.

    Example: sfdaq std-daq config > config.json
    """
    _show(call(url, lambda daq: daq.get_config(), config_url=config_url, user=user), one_line)


@app.command()
def set_config(
    config_file: Annotated[Path, typer.Argument(help="JSON file with the keys to change.")],
    url: Url = DEFAULT_URL,
    config_url: ConfigUrl = None,
    user: User = USER,
    wait: Annotated[bool, typer.Option(help="Wait until the DAQ is back.")] = True,
    restart_time: Annotated[float, typer.Option(help="Seconds the DAQ's services are away.")] = 10.0,
    one_line: OneLine = False,
) -> None:
    """Change the configuration, all of it or some keys; restarts the DAQ.

    Example: sfdaq std-daq set-config config.json
    """
    try:
        changes = json.loads(config_file.read_text())
    except (OSError, ValueError) as exc:
        raise RequestError("config_file", str(config_file), f"a readable JSON file ({exc})") from exc
    shown = call(
        url,
        lambda daq: daq.set_config(changes, wait=wait),
        config_url=config_url,
        user=user,
        restart_time=restart_time,
    )
    _show(shown, one_line)


@app.command()
def logs(
    url: Url = DEFAULT_URL,
    n: Annotated[
        int, typer.Option("-n", help="Number of last logs to show.", parser=int, metavar="INTEGER")
    ] = 1,
    one_line: OneLine = False,
) -> None:
    """Show the newest finished acquisitions.

    Example: sfdaq std-daq logs -n 5
    """
    _show(call(url, lambda daq: daq.get_logs(n)), one_line)


@app.command()
def stats(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Show throughput of detector and writer over the last second.

    Example: sfdaq std-daq stats
    """
    _show(call(url, lambda daq: daq.get_stats()), one_line)


@app.command()
def deploy_status(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Show how far the newest configuration has got.

    Example: sfdaq std-daq deploy-status
    """
    _show(call(url, lambda daq: daq.get_deployment_status()), one_line)


@app.command(context_settings=NUMBERS)
def write_async(
    output_file: OutputFile,
    n_images: NImages,
    url: Url = DEFAULT_URL,
    run_id: RunId = None,
    one_line: OneLine = False,
) -> None:
    """Start writing and return at once.

    Example: sfdaq std-daq write-async /data/p12345/raw/test.h5 100
    """
    request = _request(output_file, n_images, run_id)
    _show(call(url, lambda daq: daq.start_writer_async(request)), one_line)


@app.command(context_settings=NUMBERS)
def write_sync(
    output_file: OutputFile,
    n_images: NImages,
    url: Url = DEFAULT_URL,
    run_id: RunId = None,
    one_line: OneLine = False,
) -> None:
    """Write and wait for the end, at most 60 s where the DAQ is asked by REST; Ctrl-C stops the writer.

    Example: sfdaq std-daq write-sync /data/p12345/raw/test.h5 100
    """
    request = _request(output_file, n_images, run_id)
    _show(call(url, lambda daq: write_with_progress(daq, request)), one_line)


@app.command()
def stop(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Stop writing, or reset a writer that is UNKNOWN.

    Example: sfdaq std-daq stop
    """
    _show(call(url, lambda daq: daq.stop_writer()), one_line)


def _request(output_file: str, n_images: int, run_id: int | None) -> dict:
    request = {"output_file": output_file, "n_images": n_images}
    return request if run_id is None else {**request, "run_id": run_id}


def write_with_progress(client: StdDaqClient | SocketCalls, request: dict) -> dict:
    """Call ``start_writer_sync``; meanwhile show the images written, on standard error, on a terminal only.

    Ctrl-C stops the writer if it still writes what was asked for here.
    """
    with _bar(int(request["n_images"])) as show:
        if isinstance(client, SocketCalls):
            return client.start_writer_sync(request, show)
        return _write_by_rest(client, {"run_id": time.time_ns(), **request}, show)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int | None], object] | None]:
    """Show a progress bar; yield what moves it, None where nobody looks."""
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield (lambda n: bar.update(task, completed=n)) if console.is_terminal else None


def _write_by_rest(client: StdDaqClient, request: dict, show: Callable[[int | None], object] | None) -> dict:
    outcome: dict = {}
    done = threading.Event()

    def write() -> None:
        try:
            outcome["status"] = client.start_writer_sync(request)
        except Exception as exc:
            outcome["error"] = exc
        done.set()

    threading.Thread(target=write, name="write_sync", daemon=True).start()
    try:
        while not done.wait(STATUS_PERIOD):
            if show is not None:
                show(_n_written(client, request["run_id"]))
    except KeyboardInterrupt:
        _stop_ours(client, request["run_id"])
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome["status"]


def _n_written(client: StdDaqClient, run_id: int) -> int | None:
    try:
        acquisition = client.status().acquisition
    except SfdaqError:
        return None  # the bar stands still; the call itself will say what is wrong
    return acquisition.n_completed if acquisition and acquisition.run_id == run_id else None


def _stop_ours(client: StdDaqClient, run_id: int) -> None:
    status = client.status()
    if status.state is WriterState.WRITING and status.acquisition and status.acquisition.run_id == run_id:
        client.stop()
