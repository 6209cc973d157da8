"""Client of the standard DAQ's REST service, both dialects.

The calls of the published client under the same names return the same dictionaries; typed views stand
beside them and are alike for both dialects.
"""

from __future__ import annotations

import logging
import time

from ..errors import SfdaqError
from ..limits import Limit
from ..wire.std_daq import DaqStatus, WriteRequest, WriterState, as_integer
from ..wire.std_daq_config import DaqConfig, DaqStats, Deployment, LogEntry
from .std_daq_config import ConfigChange
from .std_daq_rest import (
    START_TIMEOUT,
    SYNC_TIMEOUT,
    StdDaqRequestError,
    StdDaqRest,
    StdDaqUnknownOutcome,
    check_request,
    is_this_machine,
    translated,
)

logger = logging.getLogger(__name__)


STATUS_PERIOD = 0.1
"""Seconds between two looks at the status: the service's own poll."""


class StdDaqClient:
    """One standard DAQ. Contacts nothing until the first call.

    Parameters
    ----------
    url : str
        Base address, default ``http://localhost:5000``; `url_base` is the published client's name for it.
    dialect : {"auto", "flask", "fastapi"}
        Which generation of the service; "auto" finds out when it matters, without side effects.
    timeout : float
        Limit of a call in s. Starting and stopping get at least 6 s, ``start_writer_sync`` gets 70 s.
    shared_folders : bool, optional
        Whether the DAQ sees this machine's folders, so that a missing one is reported before sending.
        Default: only where the service runs on this machine, and only below folders this machine has.
    restart_time : float
        Seconds the DAQ's services are away after a configuration was deployed.

    Examples
    --------
    >>> client = StdDaqClient("http://localhost:5000")
    >>> client.start_writer_async({"output_file": "/data/x.h5", "n_images": 10})  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str | None = None,
        dialect: str = "auto",
        timeout: float = 10.0,
        *,
        url_base: str | None = None,
        shared_folders: bool | None = None,
        restart_time: float = 10.0,
    ):
        if url is not None and url_base is not None:
            raise StdDaqRequestError("url_base", url_base, "either url or url_base, not both")
        with translated():
            self._rest = StdDaqRest(
                url or url_base or "http://localhost:5000", dialect=dialect, timeout=timeout
            )
        self._shared_folders = is_this_machine(self.url) if shared_folders is None else shared_folders
        self._restart_time = restart_time

    @property
    def url(self) -> str:
        """Base address."""
        return self._rest.url

    url_base = url

    @property
    def dialect(self) -> str:
        """Return "flask" or "fastapi"; asks the service once where it was not told.

        Of the configuration of a DAQ with control by websocket "websocket": that is `StdDaqWriterSocket`'s.
        """
        return self._rest.dialect()

    def ask_dialect(self) -> str:
        """Ask the service anew which generation it is: it may have been replaced."""
        return self._rest.ask_dialect()

    # ---- the published client's calls ---------------------------------------------------------------

    def get_status(self) -> dict:
        """Return the writer's status object."""
        return self._rest.get("/writer/status", "writer")

    def get_config(self) -> dict | None:
        """Return the stored configuration; None if there is none."""
        return self._rest.get("/daq/config", "config")

    def get_stats(self) -> dict | None:
        """Return throughput of detector and writer; None before the first second is over."""
        return self._rest.get("/daq/stats", "stats")

    def get_logs(self, n_last_logs: int = 1) -> list | dict:
        """Return the newest finished acquisitions: a list or, from the newer dialect, a dict by log id."""
        with translated():
            count = as_integer("n_last_logs", n_last_logs, 1, 2**63 - 1)
        return self._rest.get(f"/daq/logs/{count}", "logs")

    def get_deployment_status(self) -> dict:
        """Return how far the newest configuration has got."""
        return self._rest.get("/daq/deployment", "deployment")

    def set_config(self, daq_config: dict, *, wait: bool = True, timeout: float = 60.0) -> dict:
        """Change the configuration, all of it or only some keys, and wait until the DAQ is back.

        Every call restarts the DAQ's services, also where nothing changes.

        Parameters
        ----------
        daq_config : dict
            Keys to change; the others keep their values, in both dialects. What is given back as it is stored
            is not checked.
        wait : bool
            Return only after all servers reported, the restart is over and the writer is READY.
        timeout : float
            Limit of the whole, s.

        Returns
        -------
        dict
            The configuration now stored.

        Raises
        ------
        StdDaqRequestError
            A key or a value is wrong, or an acquisition is running; nothing was sent.
        StdDaqRefused, StdDaqInvalid
            The service said no; the stored configuration was compared and is not the one asked for.
        StdDaqTimeout
            Stored, but not deployed, or the writer did not come back, within `timeout`.
        """
        change = ConfigChange(self, self._rest, restart_time=self._restart_time)
        with translated():
            return change.apply(daq_config, wait=wait, timeout=timeout)

    def start_writer_async(self, write_request: dict) -> dict:
        """Start writing and return once the writer is WRITING.

        Parameters
        ----------
        write_request : dict
            ``output_file``, ``n_images`` and, optional, ``run_id`` (default: now, in ns). Not modified.

        Returns
        -------
        dict
            The status object. Compare its ``info`` with the request: of two starts within a few
            milliseconds both get an answer, and both get the winner's.

        Raises
        ------
        StdDaqRequestError
            Nothing was sent.
        StdDaqRefused, StdDaqInvalid
            The service said no.
        StdDaqUnknownOutcome
            The reply was lost, and the status did not tell.
        """
        request = self._checked(write_request)
        limit = Limit(START_TIMEOUT)
        try:
            return self._rest.post(
                "/writer/write_async",
                request.to_dict(),
                "writer",
                timeout=self._rest.start_timeout(),
                hint="Read the status: the acquisition may be running.",
            )
        except StdDaqUnknownOutcome as lost:
            return self._look_whether_started(request, lost, limit)

    def start_writer_sync(self, write_request: dict) -> dict:
        """Start writing and return when it ended, 60 s at the most; then the service reports an error.

        Takes and raises what `start_writer_async` does.
        """
        request = self._checked(write_request)
        return self._rest.post(
            "/writer/write_sync",
            request.to_dict(),
            "writer",
            timeout=SYNC_TIMEOUT,
            hint="Read the status: the acquisition may be running.",
        )

    def stop_writer(self) -> dict:
        """Stop writing, or reset a writer that is UNKNOWN.

        While READY this is not neutral: it rewrites the stop time and adds a log entry.
        """
        try:
            return self._stop()
        except StdDaqUnknownOutcome as lost:
            try:
                status = self.get_status()
                state = DaqStatus.from_dict(status).state
            except SfdaqError as exc:
                raise lost from exc
            return status if state is WriterState.READY else self._stop()

    # ---- typed views, alike for both dialects -------------------------------------------------------

    def status(self) -> DaqStatus:
        """Return writer state and newest acquisition; no acquisition before the first one."""
        return DaqStatus.from_dict(self.get_status())

    def config(self) -> DaqConfig | None:
        """Return the stored configuration with its id; None if there is none."""
        reply = self._rest.get_all("/daq/config", "config")
        return DaqConfig.from_dict(reply["config"], reply.get("config_id"))

    def stats(self) -> DaqStats | None:
        """Return throughput over the last second; None before it is over."""
        return DaqStats.from_dict(self.get_stats())

    def logs(self, n_last_logs: int = 1) -> list[LogEntry]:
        """Return the newest finished acquisitions, newest first."""
        return LogEntry.list_from(self.get_logs(n_last_logs))

    def deployment(self) -> Deployment:
        """Return how far the newest configuration has got."""
        return Deployment.from_dict(self.get_deployment_status())

    def start(self, request: WriteRequest) -> DaqStatus:
        """Start an acquisition, as `start_writer_async`."""
        return DaqStatus.from_dict(self.start_writer_async(request.to_dict()))

    def stop(self) -> DaqStatus:
        """Stop or reset the writer, as `stop_writer`."""
        return DaqStatus.from_dict(self.stop_writer())

    def close(self) -> None:
        """Close the session. Safe twice; the next call opens a new one."""
        self._rest.close()

    def __repr__(self):
        return f"StdDaqClient({self.url!r})"

    # ---- inside -------------------------------------------------------------------------------------

    def _stop(self) -> dict:
        return self._rest.post(
            "/writer/stop",
            {},
            "writer",
            timeout=self._rest.start_timeout(),
            hint="Read the status before stopping again.",
        )

    def _checked(self, write_request: object) -> WriteRequest:
        return check_request(write_request, shared_folders=self._shared_folders)

    def _look_whether_started(self, request: WriteRequest, lost: StdDaqUnknownOutcome, limit: Limit) -> dict:
        """Read from the status whether a start whose reply was lost was carried out."""
        while True:
            seen = None
            try:
                status = self.get_status()
                seen = DaqStatus.from_dict(status)
            except SfdaqError as exc:
                hint = f"The status cannot be read either ({exc}). {lost.hint}"
            else:
                if seen.acquisition is not None and seen.acquisition.is_answer_to(request):
                    logger.warning("%s; the status shows it was carried out: %s", lost, seen)
                    return status
                hint = f"The status shows {seen}: it did not start. {_next_step(seen.state)}"
            if limit.reached() or (seen is not None and seen.state is WriterState.UNKNOWN):
                raise type(lost)(lost.what, url=self.url, reason=lost.reason, hint=hint) from lost
            time.sleep(limit.step(STATUS_PERIOD))


def _next_step(state: WriterState) -> str:
    if state is WriterState.UNKNOWN:
        return "Stop the writer, then start again."
    if state is WriterState.WRITING:
        return "Somebody else is writing."
    return "It may be sent again."
