"""The published tools' calls for a standard DAQ with control by websocket, as far as it has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..clients.std_daq import STATUS_PERIOD, StdDaqClient
from ..clients.std_daq_pushes import Pushes
from ..clients.std_daq_rest import StdDaqOtherGeneration, StdDaqRefused, StdDaqUnknownOutcome
from ..clients.std_daq_socket import CREATION_LIMIT, StdDaqWriterSocket
from ..errors import DetectorStateError, RequestError, ServiceTimeout, shown_url
from ..limits import Limit
from ..wire.std_daq_socket import PushedStatus, Tracker, split_name, start_command
from ..wire.std_daq_writing import WritingState

T = TypeVar("T")


class SocketCalls:
    """The calls of `StdDaqClient`, of a DAQ that pushes its status.

    Parameters
    ----------
    client : StdDaqWriterSocket
    """

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
        """Start writing; return the status once images are waited for, or more.

        Parameters
        ----------
        request : dict
            ``output_file`` and ``n_images``; the files are ``NAME_0.h5``, ``NAME_1.h5`` and so on.
        """
        status, _ = self._start(request, None)
        return _plain(status)

    def start_writer_sync(self, request: dict, on_count: Callable[[int], object] | None = None) -> dict:
        """Start writing; return the last status once the files are closed. Ctrl-C stops it.

        Parameters
        ----------
        request : dict
        on_count : callable, optional
            Called with the number of images handed to the writers.
        """
        status, tracker = self._start(request, on_count or (lambda count: None))
        if tracker.state is WritingState.FAILED:
            raise StdDaqRefused("writing", url=self.client.url, said=tracker.text)
        return {**_plain(status), "n_images": tracker.n_images, "count": tracker.count}

    def get_stats(self) -> NoReturn:
        """Say that there is no such call."""
        self._missing("stats")

    def get_logs(self, n_last_logs: int) -> NoReturn:
        """Say that there is no such call."""
        self._missing("logs")

    def get_deployment_status(self) -> NoReturn:
        """Say that there is no such call."""
        self._missing("deploy-status")

    def _missing(self, command: str) -> NoReturn:
        raise RequestError(
            command,
            shown_url(self.client.url),
            "a standard DAQ with control by REST: one with control by websocket has only status, config, "
            "set-config, write-async, write-sync and stop",
        )

    def _start(self, request: dict, on_count: Callable[[int], object] | None) -> tuple[PushedStatus, Tracker]:
        """Start once, and follow it until it takes images; with `on_count`, until its end."""
        if "run_id" in request:
            raise RequestError("--run-id", request["run_id"], "none: control by websocket knows no run id")
        folder, prefix = split_name(str(request["output_file"]))
        command = start_command(folder, prefix, request["n_images"])
        _refuse_to_overwrite(Path(folder), prefix)
        if not (status := self.client.settled_status()).is_idle:
            raise DetectorStateError(f"somebody else is writing: {status}. Wait for its end, or stop it")
        number, pushes = self.client.send(command), self.client.connect()
        tracker, limit = Tracker(request["n_images"]), Limit(CREATION_LIMIT)
        try:
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


def call(
    url: str,
    do: Callable[[StdDaqClient | SocketCalls], T],
    *,
    config_url: str | None = None,
    user: str = "sfdaq",
    restart_time: float = 10.0,
) -> T:
    """Do a call with the client of whatever generation is at an address.

    Parameters
    ----------
    url : str
        ``ws://...`` is the websocket's. Of a REST service it is seen by its answer: the configuration of a
        DAQ with control by websocket does not know the calls of the others, and says so.
    do : callable
        Takes the client.
    config_url : str, optional
        Of the configuration, beside a ``ws://...``.
    user : str
        As whom the configuration is read and changed.
    restart_time : float
        Seconds the DAQ's services are away after a change of the configuration.
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
