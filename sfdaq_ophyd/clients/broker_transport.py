"""How a call reaches the broker: dialect, method, time limit, repeats, and what its failures become."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

from ..errors import BrokerRefused, RequestError, WireError, shown_url
from ..limits import Limit
from ..wire.broker import DIALECTS, SF, Dialect, acquisition, dialect_of, padded
from ..wire.broker_operations import Operation, set_detector_settings
from ..wire.broker_parameters import check_pgroup
from ..wire.broker_reply import Refusal, Retrieval, number, read_reply
from ..wire.broker_request import REQUEST_ID, encode_body
from ..wire.json_text import load_json
from ._http import HttpClient, Reply, check_url

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

TIMEOUT, SLOW_TIMEOUT = 10.0, 30.0
"""Default limits of a call in s. One slow call blocks every other to the same service: do not shorten."""

_HARMLESS = ("ValidationError", "HTTPError")
_BEFORE_ANYTHING = ("requester network IP", "no detectors configured")
_HINTS = {
    "AMQPConnectionError": "The message broker behind it is down: wait. Numbers may have been used up.",
}
_NOT_STOPPED_HINT = "The trigger PV could not be written: nothing was changed."
_TRIGGER_HINT = "The trigger of the whole beamline may be left stopped: check its PV, 254 is running."


class BrokerTransport:
    """Both services of one broker; see `BrokerClient`."""

    def __init__(
        self,
        url: str,
        slow_url: str | None = None,
        dialect: Dialect | Literal["auto"] = "current",
        *,
        timeout: float = TIMEOUT,
        slow_timeout: float = SLOW_TIMEOUT,
        sf_root: str | Path | None = None,
        recover_timeout: float = 2.0,
    ):
        if dialect not in (*DIALECTS, "auto"):
            raise RequestError("dialect", dialect, f"one of {', '.join(DIALECTS)}, auto")
        url = check_url(url)
        self._services = {
            "broker": HttpClient(url, name="sf-daq broker", timeout=timeout, keep_alive=False),
            "slow": HttpClient(
                slow_url or next_port(url), name="sf-daq slow broker", timeout=slow_timeout, keep_alive=False
            ),
        }
        self.sf_root = None if sf_root is None else Path(sf_root)
        self.recover_timeout = recover_timeout
        self._dialect = None if dialect == "auto" else dialect
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Address of the broker."""
        return self._services["broker"].url

    @property
    def slow_url(self) -> str:
        """Address of the slow broker."""
        return self._services["slow"].url

    @property
    def dialect(self) -> Dialect:
        """What the server speaks; "auto" finds out once, by the call that is safe in both; else WireError."""
        with self._lock:
            if self._dialect is None:
                reply: Reply = self._services["broker"].request(
                    "GET", "/get_allowed_detectors", idempotent=True
                )
                self._dialect = dialect_of(reply.json())
                if self._dialect is None:
                    raise WireError(f"{self.url}: no broker of a known dialect: {reply.text[:200]!r}")
                logger.info("%s speaks the %s dialect", self.url, self._dialect)
            return self._dialect

    def close(self) -> None:
        """Close the connections. Safe twice."""
        for service in self._services.values():
            service.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def call(self, operation: Operation[..., Value], body: Mapping[str, Any] | None = None) -> Value:
        """Make one call, with a body where it takes parameters, and return what its reply says: a success.

        Parameters
        ----------
        operation : Operation
            One of `wire.broker_operations.OPERATIONS`.
        body : mapping, optional
            What the operation's `request` returned.

        Returns
        -------
        object
            What the operation's `read` makes of the reply.

        Raises
        ------
        BrokerRefused
            The broker said no.
        ServiceUnreachable, ServiceTimeout, WireError
            No answer, or none that makes sense, to a call that may be repeated and was. ServiceUnreachable of
            any call too: it was not sent.
        UnknownOutcome
            No answer, or none that makes sense, to a call that must not be repeated: it may have been, or
            still be, carried out.
        RequestError
            The body is too large or not JSON, or the dialect lacks the call; nothing was sent.
        """
        name, dialect = operation.name, self.dialect
        method, data = operation.method(dialect), None if body is None else encode_body(body)
        service = self._services[operation.service]
        logger.debug("%s %s/%s %s", method, service.url, name, body)

        def answered(reply: Reply) -> Value:
            logger.debug("%s answered %d %s", name, reply.code, reply.text[:1000])
            answer = read_reply(reply.code, reply.body, dialect, operation.expected)
            if isinstance(answer, Refusal):
                raise _refused(operation, answer, reply.code, body or {}, service.url)
            return operation.read(answer, dialect)

        return service.request(
            method,
            f"/{name}",
            data=data,
            headers=None if data is None else {"Content-Type": "application/json"},
            idempotent=operation.repeat,
            hint=operation.hint,
            read=answered,
        )


def next_port(url: str) -> str:
    """Return `url` with its port plus one: where the slow broker is unless told otherwise."""
    parts = urlsplit(url)
    if parts.port is None:
        raise RequestError("url", shown_url(url), "a port, or slow_url: the slow broker is on the next port")
    host = parts.netloc.rsplit(":", 1)[0]
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port + 1}"))


def _refused(
    operation: Operation[..., Any], answer: Refusal, code: int, sent: Mapping, url: str
) -> BrokerRefused:
    nothing_done = _nothing_done(operation, answer, code)
    hint = _HINTS.get(answer.exception, "")
    if operation is set_detector_settings and not hint:
        if not nothing_done:
            hint = _TRIGGER_HINT
        elif answer.exception == "TriggerError":
            hint = _NOT_STOPPED_HINT
    return BrokerRefused(
        operation.name,
        url=url,
        sent=sent,
        reply=answer.reply,
        said=answer.message,
        exception=answer.exception,
        code=code,
        nothing_done=nothing_done,
        hint=hint,
    )


def _nothing_done(operation: Operation[..., Any], answer: Refusal, code: int) -> bool:
    """Say whether a refusal came before any effect; an error of a gateway (5xx) may come after."""
    if code != 200:
        return code < 500
    if operation.only_reads or answer.exception in _HARMLESS:
        return True
    if answer.exception == "TriggerError":
        return "not start" not in answer.message
    too_early = any(words in answer.message for words in _BEFORE_ANYTHING)
    return too_early or answer.reply.get("status") in ("failed", "pass")


_NUMBERS = ("run_number", "acquisition_number", "unique_acquisition_run_number")

PERIOD = 0.2
"""s between two looks for a request."""

MAX_JSON = 16 * 2**20
"""Of a file that is read here, bytes."""


def find_retrieval(
    sf_root: str | Path,
    pgroup: str,
    request_id: str,
    run_number: int | None = None,
    *,
    timeout: float = 0.0,
) -> Retrieval | None:
    """Look for a request in the runs of a pgroup, and rebuild its reply.

    Parameters
    ----------
    sf_root : str or Path
        Where ``/sf`` is mounted here.
    pgroup : str
    request_id : str
        What was sent as ``client_request_id``.
    run_number : int, optional
        Look only here; None looks at every run.
    timeout : float
        Keep looking for so long, s: a queued request is carried out late.

    Returns
    -------
    Retrieval or None
        None if there is no proof: not found, or found but the data were not requested (the acquisition
        has no entry in ``scan.json``).
    """
    pattern = (
        f"*/data/{check_pgroup(pgroup)}/raw/run{padded(run_number) if run_number is not None else ''}*/meta"
    )
    limit = Limit(timeout)
    while True:
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            for meta in Path(sf_root).glob(pattern):
                found = _in_run(meta, request_id, Path(sf_root))
                if found is not None:
                    return found
        if limit.reached():
            return None
        time.sleep(limit.step(PERIOD))


def _in_run(meta: Path, request_id: str, sf_root: Path) -> Retrieval | None:
    for path in meta.glob("acq*.json"):
        request = read_json(path)
        if request.get(REQUEST_ID) != request_id:
            continue
        try:
            run_number, acquisition_number, unique = (number(request.get(key), key) for key in _NUMBERS)
        except WireError:
            continue
        folder = PurePosixPath(SF, *meta.parent.relative_to(sf_root).parts, "data")
        stem = f"{folder / acquisition(acquisition_number)}."
        entries = read_json(meta / "scan.json").get("scan_files")
        for files in entries if isinstance(entries, list) else ():
            if _are_paths(files) and all(file.startswith(stem) for file in files):
                return Retrieval(run_number, acquisition_number, unique, tuple(files), recovered=True)
    return None


def _are_paths(files: object) -> bool:
    return isinstance(files, list) and bool(files) and all(isinstance(file, str) for file in files)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty if it is absent, half written or far too large."""
    try:
        if path.stat().st_size > MAX_JSON:
            return {}
        content = load_json(path.read_bytes())
    except (OSError, WireError):
        return {}
    return content if isinstance(content, dict) else {}
