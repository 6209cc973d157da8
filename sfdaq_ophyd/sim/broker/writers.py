"""What a writer process does with a request: wait, write, log, report (contract sections 4.4, 6.4, 11)."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...wire.broker import error_file
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
        On the server; empty for a writer without a log.
    """

    def __init__(self, site: Site, path: str):
        self._site, self.path = site, path
        if path:
            site.tree.make(path.rsplit("/", 1)[0])
            site.tree.write_text(path, "")

    def write(self, line: str) -> None:
        """Append one line."""
        if self.path:
            self._site.tree.append_text(self.path, f"{line}\n")


@dataclass(frozen=True)
class Words:
    """What a writer reports when it starts, succeeds and fails; whether it names the file, leaves texts."""

    start: str = "write_start"
    success: str = "write_finished"
    failure: str = "write_rejected"
    file: bool = True
    texts: bool = True


EPICS_WORDS = Words("request_start", "request_success", "request_fail", file=False, texts=False)
"""The epics writer speaks for itself, under the name of its service; it leaves neither log nor ``.err``."""


class Writer:
    """Handle the requests of one kind.

    Parameters
    ----------
    site : Site
    write : callable
        Writes the file.
    delay : float
        Counted from the request, s.
    words : Words
    """

    def __init__(self, site: Site, write: Write, delay: float = 0.0, words: Words = Words()):
        self._site, self._write, self._delay, self._words = site, write, delay, words

    def __call__(self, request: Message) -> None:
        """Carry out one request."""
        body, words = request["body"], self._words
        self._report(request, words.start)
        log = RunLog(self._site, body["run_log_file"] if words.texts else "")
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
            if words.texts:
                report_error_file(self._site, body)
            self._report(request, words.failure, str(exc))
        else:
            log.write(f"processing request took {time.time() - started} seconds")
            self._report(request, words.success)

    def _report(self, request: Message, action: str, message: str | None = None) -> None:
        source = SOURCE if self._words.file else request["body"]["writer_type"]
        self._site.messages.report(request, action, source, message, file=self._words.file)

    def _sleep(self, body: dict[str, Any], log: RunLog) -> None:
        factor = self._site.delays.factor
        left = self._delay - (time.time() - body["timestamp"]) / factor if factor else 0.0
        if left > 0:
            log.write(f"sleeping for {left} seconds before continuing...")
            self._site.delays.wait(left)


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
