"""Client of the standard DAQ's REST service, both dialects.

The calls of the published client under the same names return the same dictionaries; typed views stand
beside them and are alike for both dialects.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ..errors import RequestError, ServiceTimeout, ServiceUnreachable, SfdaqError, WireError
from ..limits import Limit
from ..wire.std_daq import SLOW_CREATION_IMAGES, DaqStatus, WriteRequest, WriterState, as_integer
from ..wire.std_daq_config import KEYS, DaqConfig, DaqStats, Deployment, LogEntry, check_config
from ._http import AWAY, Reply
from .std_daq_service import (
    PERIOD,
    REST_DIALECTS,
    StandardDaq,
    StdDaqInvalid,
    StdDaqRefused,
    StdDaqRequestError,
    StdDaqUnknownOutcome,
    translated,
)

logger = logging.getLogger(__name__)

STATUS_PERIOD = 0.1
"""Seconds between two looks at the status: the service's own poll."""

START_TIMEOUT = 6.0
"""Least limit of a start or stop, s: the service itself may take 5.1 s."""

SYNC_TIMEOUT = 70.0
"""Limit of write_sync, s: the service gives up after 60 s."""

MAYBE_RUNNING = "Read the status: the acquisition may be running."


class SlowCreationWarning(UserWarning):
    """So many images that creating the file may take longer than the 5 s the service waits."""


class StdDaqClient(StandardDaq):
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
            if dialect not in ("auto", *REST_DIALECTS):
                raise RequestError("dialect", dialect, f"'auto' or one of {REST_DIALECTS}")
            url = url or url_base or "http://localhost:5000"
            super().__init__(url, timeout=timeout, restart_time=restart_time, keep_alive=False)
        self._told, self._dialect = dialect != "auto", None if dialect == "auto" else dialect
        self._shared_folders = _is_this_machine(self.url) if shared_folders is None else shared_folders

    @property
    def url(self) -> str:
        """Base address, without a trailing slash."""
        return self._http.url

    url_base = url

    @property
    def dialect(self) -> str:
        """Return "flask" or "fastapi"; asks the service once where it was not told.

        Of the configuration of a DAQ with control by websocket "websocket": that is `StdDaqWriterSocket`'s.
        """
        return self._dialect or self.ask_dialect()

    def ask_dialect(self) -> str:
        """Ask as `StandardDaq` does; where nobody told the dialect it is the one found last."""
        found = super().ask_dialect()
        if not self._told:
            self._dialect = found
        return found

    # ---- the published client's calls ---------------------------------------------------------------

    def get_status(self) -> dict:
        """Return the writer's status object."""
        return self._get("/writer/status", "writer")

    def get_config(self) -> dict | None:
        """Return the stored configuration; None if there is none."""
        return self._get("/daq/config", "config")

    def get_stats(self) -> dict | None:
        """Return throughput of detector and writer; None before the first second is over."""
        return self._get("/daq/stats", "stats")

    def get_logs(self, n_last_logs: int = 1) -> list | dict:
        """Return the newest finished acquisitions: a list or, from the newer dialect, a dict by log id.

        Parameters
        ----------
        n_last_logs : int
            How many at the most, 1 or more.

        Returns
        -------
        list of dict, or dict of str to dict
            As the service sent them; `logs` makes typed values of them.

        Raises
        ------
        StdDaqRequestError
            `n_last_logs` is no whole number above 0; nothing was sent.
        StdDaqRefused
            The service said no.
        StdDaqUnreachable, StdDaqTimeout, StdDaqBadReply
            There was no reply, none in time, or none that makes sense.

        Notes
        -----
        See wire reference std-daq, sections 3 and 7.
        """
        with translated():
            count = as_integer("n_last_logs", n_last_logs, 1, 2**63 - 1)
        return self._get(f"/daq/logs/{count}", "logs")

    def get_deployment_status(self) -> dict:
        """Return how far the newest configuration has got."""
        return self._get("/daq/deployment", "deployment")

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
            return self._post_start("/writer/write_async", request.to_dict(), MAYBE_RUNNING)
        except StdDaqUnknownOutcome as lost:
            return self._look_whether_started(request, lost, limit)

    def start_writer_sync(self, write_request: dict) -> dict:
        """Start writing and return when it ended, 60 s at the most; then the service reports an error.

        Parameters
        ----------
        write_request : dict
            As for `start_writer_async`.

        Returns
        -------
        dict
            The status object.

        Raises
        ------
        StdDaqRequestError, StdDaqUnreachable
            Nothing was sent.
        StdDaqRefused, StdDaqInvalid
            The service said no, or the acquisition was not over after 60 s: it goes on.
        StdDaqUnknownOutcome
            There was no reply within 70 s, or it was lost; the acquisition may be running. Unlike
            `start_writer_async` this does not look at the status.

        Notes
        -----
        See wire reference std-daq, sections 3 and 4.
        """
        request = self._checked(write_request)
        return self._post("/writer/write_sync", request.to_dict(), "writer", SYNC_TIMEOUT, MAYBE_RUNNING)

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
        reply = self._reply_to_get("/daq/config", "config")
        return DaqConfig.from_dict(reply["config"], reply.get("config_id"))

    def stats(self) -> DaqStats | None:
        """Return throughput over the last second; None before it is over."""
        return DaqStats.from_dict(self.get_stats())

    def logs(self, n_last_logs: int = 1) -> list[LogEntry]:
        """Return the newest finished acquisitions, newest first.

        Parameters
        ----------
        n_last_logs : int
            How many at the most, 1 or more.

        Returns
        -------
        list of LogEntry
            Failed acquisitions are not in the log, and a stop of a writer that is READY doubles an entry.

        Raises
        ------
        WireError
            An entry makes no sense. Otherwise as of `get_logs`.
        """
        return LogEntry.list_from(self.get_logs(n_last_logs))

    def deployment(self) -> Deployment:
        """Return how far the newest configuration has got."""
        return Deployment.from_dict(self.get_deployment_status())

    def start(self, request: WriteRequest) -> DaqStatus:
        """Start an acquisition, and return once the writer is WRITING.

        Parameters
        ----------
        request : WriteRequest
            File, number of images and run id.

        Returns
        -------
        DaqStatus
            What `start_writer_async` returns, as a typed value.

        Raises
        ------
        WireError
            The acquisition was started, but the status in the reply makes no sense. Otherwise as of
            `start_writer_async`.
        """
        return DaqStatus.from_dict(self.start_writer_async(request.to_dict()))

    def stop(self) -> DaqStatus:
        """Stop or reset the writer, as `stop_writer`."""
        return DaqStatus.from_dict(self.stop_writer())

    def close(self) -> None:
        """Close the session. Safe twice; the next call opens a new one."""
        self._http.close()

    def __repr__(self):
        return f"StdDaqClient({self.url!r})"

    # ---- inside -------------------------------------------------------------------------------------

    def _stop(self) -> dict:
        return self._post_start("/writer/stop", {}, "Read the status before stopping again.")

    def _checked(self, write_request: object) -> WriteRequest:
        """Return the checked request; an absent run id becomes the time in ns, as in the service."""
        with translated():
            request = WriteRequest.from_dict(write_request, default_run_id=time.time_ns())
        if self._shared_folders and _folder_is_missing(request.output_file):
            expected = "a path in a folder that exists; create it first"
            raise StdDaqRequestError("output_file", request.output_file, expected)
        if request.n_images > SLOW_CREATION_IMAGES:
            text = (
                f"n_images={request.n_images}: above {SLOW_CREATION_IMAGES} creating the file can take "
                "longer than the 5 s the service waits; it then reports an error and writes no image. "
                "Split the run."
            )
            warnings.warn(text, SlowCreationWarning, stacklevel=3)
        return request

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

    # ---- a change of the configuration --------------------------------------------------------------

    def _check(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return check_config(changes)

    def _config_to_send(self, stored: dict, wanted: dict) -> dict:
        """Return what one dialect merges over what is stored, and the other puts in its place."""
        if self.dialect != "fastapi":
            return {key: value for key, value in wanted.items() if key in KEYS}
        whole = {key: wanted.get(key, stored.get(key)) for key in KEYS}
        whole["module_positions"] = whole["module_positions"] or {}
        whole["submodule_info"] = whole["submodule_info"] or {}
        if whole["module_positions"]:
            expected = (
                "{}: this generation of the service can store no module positions, so its configuration can "
                "only be changed by the DAQ team"
            )
            raise RequestError("module_positions", whole["module_positions"], expected)
        if info := whole["submodule_info"]:
            expected = (
                "{}: this generation of the service stores no content of it, so any change would lose it; "
                "give submodule_info={} too, to let it go"
            )
            raise RequestError("submodule_info", info, expected)
        if missing := [key for key, value in whole.items() if value is None]:
            expected = f"also {', '.join(missing)}: nothing is stored to take it from"
            raise RequestError("daq_config", wanted, expected)
        return whole

    def _tell_lost(self, stored: dict, wanted: dict) -> None:
        """Both dialects lose ``submodule_info``."""
        if self.dialect not in REST_DIALECTS:
            return
        lost, given = stored.get("submodule_info"), wanted.get("submodule_info")
        told = "%s: a change of the configuration loses the submodule_info that is %s: %r"
        if lost:
            logger.warning(told, self.url, "stored", lost)
        if given and given != lost:
            logger.warning(told, self.url, "given", given)

    def _why_not_now(self) -> str:
        status = self.status()
        if status.state is not WriterState.WRITING:
            return ""
        return f"a writer that is not writing, for the change restarts it; it is {status}"

    def _send_config(self, body: dict) -> dict:
        hint = "Read the configuration before sending it again."
        return self._post("/daq/config", body, "config", None, hint)

    def _wait_until_back(self, limit: Limit) -> None:
        self._wait_for_deployment(limit)
        super()._wait_until_back(limit)

    def _wait_for_deployment(self, limit: Limit) -> None:
        what = "deployment of the configuration"
        while (deployment := self.deployment()).status != "SUCCESS":
            seen = f"{deployment.status} {deployment.message!r}, servers {deployment.servers}"
            if deployment.status == "ERROR":
                raise StdDaqRefused(what, url=self.url, said=seen)
            if limit.reached():
                raise ServiceTimeout(what, limit.seconds, seen)
            time.sleep(PERIOD)

    def _why_not_back(self) -> str:
        """Return what the writer is; empty once it is READY, or somebody has started it since."""
        if self.status().state is WriterState.WRITING:
            return ""
        try:
            status = self.stop()
        except StdDaqRefused as exc:
            return exc.said
        return "" if status.state is WriterState.READY else str(status)

    # ---- requests -----------------------------------------------------------------------------------

    def _get(self, path: str, key: str) -> Any:
        """Return `key` of the reply to a GET; repeated when it is lost."""
        return self._reply_to_get(path, key)[key]

    def _reply_to_get(self, path: str, key: str) -> dict:
        read = partial(self._envelope, f"GET {path}", key)
        with translated():
            return self._http.request("GET", path, idempotent=True, read=read)

    def _post(self, path: str, body: object, key: str, timeout: float | None, hint: str) -> Any:
        """Return `key` of the reply to a POST; never repeated once it may have been carried out."""
        read = partial(self._envelope, f"POST {path}", key)
        with translated():
            return self._http.request("POST", path, payload=body, timeout=timeout, hint=hint, read=read)[key]

    def _post_start(self, path: str, body: object, hint: str) -> dict:
        """Return the writer's status in reply to a start or stop, which the service answers late."""
        return self._post(path, body, "writer", max(self._http.timeout, START_TIMEOUT), hint)

    def _envelope(self, what: str, key: str, reply: Reply) -> dict:
        """Return the whole reply, in which `key` is; both ways of the service to say no are exceptions."""
        if reply.code == 200:
            content = reply.json()
            if not isinstance(content, dict) or "status" not in content:
                raise WireError(f"{what}: {self.url} sent no envelope with a status: {reply.text[:200]!r}")
            if content["status"] == "ok":
                if key not in content:
                    raise WireError(f"{what}: {self.url} sent no {key!r}: {reply.text[:200]!r}")
                return content
            raise StdDaqRefused(what, url=self.url, said=str(content.get("message", "no message")))
        if reply.code == 422 and reply.content_type == "application/json":
            content = reply.json()
            detail = content.get("detail", content) if isinstance(content, dict) else content
            raise StdDaqInvalid(what, url=self.url, detail=detail)
        if reply.code in AWAY:
            said = f"{reply.code}: {reply.text[:200]!r}"
            if what.startswith("GET "):
                raise ServiceUnreachable(what, url=self.url, reason=said)
            raise WireError(said)  # of a gateway: the service may have carried it out
        if reply.code == 404:
            self._refuse_other(what, ("websocket",))
        raise StdDaqRefused(what, url=self.url, said=reply.text, code=reply.code)


def _next_step(state: WriterState) -> str:
    if state is WriterState.UNKNOWN:
        return "Stop the writer, then start again."
    if state is WriterState.WRITING:
        return "Somebody else is writing."
    return "It may be sent again."


def _is_this_machine(url: str) -> bool:
    """Tell whether `url` names a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _folder_is_missing(path: str) -> bool:
    """Judge only below folders this machine has: of an unknown tree the service must be asked."""
    folder = os.path.dirname(path)
    if os.path.isdir(folder):
        return False
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder != "/"
