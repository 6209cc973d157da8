"""A synchronous write with a progress bar on a terminal, and a writer that is stopped by Ctrl-C."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..clients.std_daq import STATUS_PERIOD, StdDaqClient
from ..errors import SfdaqError
from ..wire.std_daq import WriterState


def write_with_progress(client: StdDaqClient, request: dict) -> dict:
    """Call ``start_writer_sync``; meanwhile show the images written, on standard error, on a terminal only.

    Ctrl-C stops the writer if it still writes what was asked for here.
    """
    request = {"run_id": time.time_ns(), **request}
    outcome: dict = {}
    done = threading.Event()

    def call() -> None:
        try:
            outcome["status"] = client.start_writer_sync(request)
        except Exception as exc:
            outcome["error"] = exc
        done.set()

    threading.Thread(target=call, name="write_sync", daemon=True).start()
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("", total=int(request["n_images"]))
            while not done.wait(STATUS_PERIOD):
                if console.is_terminal:
                    bar.update(task, completed=_n_written(client, request["run_id"]))
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
