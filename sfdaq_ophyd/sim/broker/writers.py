"""What a writer process does with a request: wait, write, log, report (contract sections 4.4, 6.4, 11)."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...wire.broker_paths import error_file
from .delays import Stopped
from .messages import Message
from .site import Site

SOURCE = "sf_daq_writer"

Write = Callable[[dict[str, Any], "RunLog"], None]
"""Writes the output of one request (its body)."""


class WriterError(RuntimeError):
    """The request cannot be fulfilled."""


class RunLog:
    """The log of one request.

    Parameters
    ----------
    site : Site
    path : str
        On the server.
    """

    def __init__(self, site: Site, path: str):
        self._site, self.path = site, path
        site.tree.make(path.rsplit("/", 1)[0])
        site.tree.write_text(path, "")

    def write(self, line: str) -> None:
        """Append one line."""
        self._site.tree.append_text(self.path, f"{line}\n")


class Writer:
    """Handle the requests of one kind.

    Parameters
    ----------
    site : Site
    write : callable
        Writes the file.
    delay : float
        Counted from the request, s.
    """

    def __init__(self, site: Site, write: Write, delay: float):
        self._site, self._write, self._delay = site, write, delay

    def __call__(self, request: Message) -> None:
        """Carry out one request."""
        body, report = request["body"], self._site.messages.report
        report(request, "write_start", SOURCE)
        log = RunLog(self._site, body["run_log_file"])
        log.write(
            f"request for writer type {body['writer_type']}: output file {body['output_file']} "
            f"from pulse ID {body['start_pulse_id']} to {body['stop_pulse_id']}"
        )
        self._sleep(body, log)
        started = time.time()
        try:
            carry_out(self._site, self._write, body, log)
        except Stopped:
            raise
        except Exception as exc:
            log.write(traceback.format_exc().rstrip())
            report_error_file(self._site, body)
            report(request, "write_rejected", SOURCE, str(exc))
        else:
            log.write(f"processing request took {time.time() - started} seconds")
            report(request, "write_finished", SOURCE)

    def _sleep(self, body: dict[str, Any], log: RunLog) -> None:
        factor = self._site.delays.factor
        left = self._delay - (time.time() - body["timestamp"]) / factor if factor else 0.0
        if left > 0:
            log.write(f"sleeping for {left} seconds before continuing...")
            self._site.delays.wait(left)


class EpicsWriter:
    """The writer of PVs: starts at once, has actions of its own, and no file in its messages.

    Parameters
    ----------
    site : Site
    write : callable
    """

    def __init__(self, site: Site, write: Write):
        self._site, self._write = site, write

    def __call__(self, request: Message) -> None:
        """Carry out one request."""
        body, report = request["body"], self._site.messages.report
        service = body["writer_type"]
        report(request, "request_start", service, file=False)
        log = RunLog(self._site, body["run_log_file"])
        try:
            carry_out(self._site, self._write, body, log)
        except Stopped:
            raise
        except Exception as exc:
            log.write(traceback.format_exc().rstrip())
            report_error_file(self._site, body)
            report(request, "request_fail", service, str(exc), file=False)
        else:
            report(request, "request_success", service, file=False)


def source_of(body: dict[str, Any]) -> str:
    """Return PVDATA, BSDATA, CAMERAS or the detector's name."""
    return body["output_file"].rsplit(".", 2)[1]


def carry_out(site: Site, write: Write, body: dict[str, Any], log: RunLog) -> None:
    """Write the file, unless a fault says otherwise."""
    source = source_of(body)
    if fault := site.faults.take("writer_fails", source=source):
        raise WriterError(fault.details.get("message", "no data in the buffer"))
    if site.faults.take("writer_silent", source=source):
        return
    write(body, log)
    if site.faults.take("truncated_file", source=source):
        truncate(site.tree.local(body["output_file"]))


def truncate(path: Path) -> None:
    """Cut a file in half."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def report_error_file(site: Site, body: dict[str, Any]) -> None:
    """Leave ``.err`` beside where the file would be."""
    path = error_file(body["output_file"])
    site.tree.make(path.rsplit("/", 1)[0])
    site.tree.write_text(path, f"{site.delays.request_time()}\n{json.dumps(body)}")
