"""``sfdaq std-daq``: one subcommand per call of the standard DAQ, the same JSON as the published tools."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..clients.std_daq import START_TIMEOUT, STATUS_PERIOD, StdDaqClient
from ..clients.std_daq_service import StdDaqOtherGeneration, StdDaqRefused, StdDaqUnknownOutcome
from ..clients.std_daq_socket import CREATION_LIMIT, Pushes, StdDaqWriterSocket
from ..errors import DetectorStateError, RequestError, ServiceTimeout, SfdaqError, shown_url
from ..limits import Limit
from ..wire.json_text import load_json
from ..wire.std_daq import WriterState, WritingState
from ..wire.std_daq_socket import PushedStatus, Tracker, split_name, start_command

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
        changes: Any = load_json(config_file.read_text())  # the client looks at what it is
    except (OSError, ValueError) as exc:
        raise RequestError("config_file", str(config_file), f"a readable JSON file ({exc})") from exc
    done = call(
        url,
        lambda daq: daq.set_config(changes, wait=wait),
        config_url=config_url,
        user=user,
        restart_time=restart_time,
    )
    _show(done, one_line)


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
    _show(call(url, lambda daq: _by_rest(daq, "logs").get_logs(n)), one_line)


@app.command()
def stats(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Show throughput of detector and writer over the last second.

    Example: sfdaq std-daq stats
    """
    _show(call(url, lambda daq: _by_rest(daq, "stats").get_stats()), one_line)


@app.command()
def deploy_status(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Show how far the newest configuration has got.

    Example: sfdaq std-daq deploy-status
    """
    _show(call(url, lambda daq: _by_rest(daq, "deploy-status").get_deployment_status()), one_line)


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
    with _bar(n_images) as show:
        _show(call(url, lambda daq: _write(daq, request, show)), one_line)


@app.command()
def stop(url: Url = DEFAULT_URL, one_line: OneLine = False) -> None:
    """Stop writing, or reset a writer that is UNKNOWN.

    Example: sfdaq std-daq stop
    """
    _show(call(url, lambda daq: daq.stop_writer()), one_line)


def _request(output_file: str, n_images: int, run_id: int | None) -> dict:
    request = {"output_file": output_file, "n_images": n_images}
    return request if run_id is None else {**request, "run_id": run_id}


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int | None], object] | None]:
    """Show a progress bar on standard error, on a terminal; yield what moves it, None where nobody looks."""
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield (lambda n: bar.update(task, completed=n)) if console.is_terminal else None


def _write(
    client: StdDaqClient | SocketCalls, request: dict, show: Callable[[int | None], object] | None
) -> dict:
    """Call ``start_writer_sync``; Ctrl-C stops the writer if it still writes what was asked for here."""
    if isinstance(client, SocketCalls):
        return client.start_writer_sync(request, show)
    request, done = {"run_id": time.time_ns(), **request}, Future[dict]()

    def write() -> None:
        try:
            done.set_result(client.start_writer_sync(request))
        except Exception as exc:
            done.set_exception(exc)

    threading.Thread(target=write, name="write_sync", daemon=True).start()
    try:
        while not wait([done], STATUS_PERIOD).done:
            if show is not None:
                show(_n_written(client, request["run_id"]))
    except KeyboardInterrupt:
        with _may_be_recording():
            _stop_own(client, request["run_id"], done)
        raise
    return done.result()


def _stop_own(client: StdDaqClient, run_id: int, done: Future[dict]) -> None:
    """Stop a start that was sent, once the status shows it or UNKNOWN, neither while its file is made.

    Raises
    ------
    ServiceTimeout
        It showed nothing of it within the limit of a start.
    """
    limit = Limit(START_TIMEOUT)
    while True:
        is_answered = done.done()  # a start that failed may have left UNKNOWN: one more look
        status = client.status()
        a = status.acquisition
        is_own = status.state is WriterState.WRITING and a is not None and a.run_id == run_id
        if is_own or status.state is WriterState.UNKNOWN:
            client.stop()
            return
        if is_answered:
            return
        if limit.reached():
            raise ServiceTimeout("start of the standard DAQ", limit.seconds, str(status))
        wait([done], limit.step(STATUS_PERIOD))


@contextmanager
def _may_be_recording() -> Iterator[None]:
    """Say on standard error, in place of an error, that the stop after a Ctrl-C failed."""
    try:
        yield
    except SfdaqError as exc:
        typer.echo(f"sfdaq: {exc}. The DAQ may be recording: sfdaq std-daq stop", err=True)


def _n_written(client: StdDaqClient, run_id: int) -> int | None:
    try:
        acquisition = client.status().acquisition
    except SfdaqError:
        return None  # the bar stands still; the call itself will say what is wrong
    return acquisition.n_completed if acquisition and acquisition.run_id == run_id else None


def _by_rest(client: StdDaqClient | SocketCalls, command: str) -> StdDaqClient:
    """Return the client for a call that only a DAQ with control by REST has."""
    if isinstance(client, StdDaqClient):
        return client
    raise RequestError(
        command,
        shown_url(client.client.url),
        "a standard DAQ with control by REST: one with control by websocket has only status, config, "
        "set-config, write-async, write-sync and stop",
    )


def call(
    url: str,
    do: Callable[[StdDaqClient | SocketCalls], Any],
    *,
    config_url: str | None = None,
    user: str = "sfdaq",
    restart_time: float = 10.0,
) -> Any:
    """Do a call with the client of whatever generation is at an address.

    ``ws://...`` is the websocket's. Of a REST service it is seen by its answer: the configuration of a DAQ
    with control by websocket does not know the calls of the others, and says so.
    """
    if not url.startswith(("ws://", "wss://")):
        client = StdDaqClient(url, restart_time=restart_time)
        try:
            return do(client)
        except StdDaqOtherGeneration:
            pass
    socket = StdDaqWriterSocket(url, config_url, user=user, restart_time=restart_time)
    try:
        return do(SocketCalls(socket))
    finally:
        socket.close()


class SocketCalls:
    """The calls of `StdDaqClient`, as far as a DAQ has them that pushes its status."""

    def __init__(self, client: StdDaqWriterSocket):
        self.client = client
        self.get_config, self.set_config = client.get_config, client.set_config

    def get_status(self) -> dict:
        """Return the newest status, as it was pushed."""
        return _plain(self.client.status())

    def stop_writer(self) -> dict:
        """Stop what is recorded; return the status once the driver is idle."""
        return _plain(self.client.stop())

    def start_writer_async(self, request: dict) -> dict:
        """Start writing ``NAME_0.h5``, ``NAME_1.h5`` ...; return the status once images are waited for."""
        status, _ = self._start(request, None)
        return _plain(status)

    def start_writer_sync(self, request: dict, on_count: Callable[[int], object] | None = None) -> dict:
        """Start writing; return the last status once the files are closed. Ctrl-C stops it.

        `on_count` is called with the number of images handed to the writers.
        """
        status, tracker = self._start(request, on_count or (lambda count: None))
        if tracker.state is WritingState.FAILED:
            raise StdDaqRefused("writing", url=self.client.url, said=tracker.text)
        return {**_plain(status), "n_images": tracker.n_images, "count": tracker.count}

    def _start(self, request: dict, on_count: Callable[[int], object] | None) -> tuple[PushedStatus, Tracker]:
        """Start once, and follow it until it takes images; with `on_count`, until its end."""
        if "run_id" in request:
            raise RequestError("--run-id", request["run_id"], "none: control by websocket knows no run id")
        folder, prefix = split_name(str(request["output_file"]))
        command = start_command(folder, prefix, request["n_images"])
        _refuse_to_overwrite(Path(folder), prefix)
        if not (status := self.client.settled_status()).is_idle:
            raise DetectorStateError(f"somebody else is writing: {status}. Wait for its end, or stop it")
        tracker, limit = Tracker(request["n_images"]), Limit(CREATION_LIMIT)
        try:
            number, pushes = self.client.send(command), self.client.connect()
            while True:
                seen, number = pushes.since(number)
                for status in seen:
                    tracker.see(status)
                if tracker.rejected or tracker.state is WritingState.FAILED and on_count is None:
                    raise StdDaqRefused("start", url=self.client.url, said=tracker.text)
                taken = tracker.state not in (WritingState.IDLE, WritingState.STARTING)
                if tracker.ended or taken and on_count is None:
                    return status, tracker
                if on_count is not None:
                    on_count(tracker.count)
                self._check(pushes, tracker, limit, taken=taken)
                limit.wait(self.client.news, STATUS_PERIOD)
                self.client.news.clear()
        except KeyboardInterrupt:
            if not tracker.ended:
                with _may_be_recording():
                    self.client.stop()
            raise

    def _check(self, pushes: Pushes, tracker: Tracker, limit: Limit, *, taken: bool) -> None:
        """Raise what keeps the acquisition from its end; how long images take is not our business."""
        if pushes.lost:
            hint = "Look at the status: it may be recording."
            raise StdDaqUnknownOutcome("start", url=self.client.url, reason=pushes.lost, hint=hint)
        if taken:
            limit.restart()
        elif limit.reached():
            hint = "One of the DAQ's writers does not answer; when it is back, it carries this start out."
            raise ServiceTimeout("files of the standard DAQ", limit.seconds, tracker.text, hint)


def _plain(status: PushedStatus) -> dict[str, Any]:
    said = {"status": str(status.state), "count": status.count, "reason": status.reason or None}
    return {key: value for key, value in said.items() if value is not None}


def _refuse_to_overwrite(folder: Path, prefix: str) -> None:
    """Look for files that the DAQ would overwrite, as far as they can be seen from here."""
    if not folder.is_dir():
        return
    name = re.compile(rf"{re.escape(prefix)}(\d+|Meta)\.h5")
    there = sorted(path.name for path in folder.iterdir() if name.fullmatch(path.name))
    if there:
        raise RequestError(
            "output_file", str(folder / prefix), f"no {there[0]} there: it would be overwritten"
        )
