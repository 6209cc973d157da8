"""The envelope of the standard DAQ's REST service: both dialects, their errors, telling them apart.

Scripts written for the published client catch ``StdDaqAdminException``, ``RuntimeError`` (its answer to
every HTTP code but 200) or the exceptions of ``requests``. Each error here is one of these as well; one of
``requests`` where the program has imported that, for this package does not need it::

    StdDaqAdminException (SfdaqError)
      StdDaqRequestError (RequestError, RuntimeError)    our check failed; nothing was sent
      StdDaqRefused (ServiceRefused)                     the service answered with an error
        StdDaqInvalid                                    422: the service's own validation, with its detail
        StdDaqOtherGeneration                            the service is of a generation without this call
    StdDaqUnreachable (ServiceUnreachable)               requests.exceptions.ConnectionError
    StdDaqTimeout (ServiceTimeout)                       requests.exceptions.Timeout
    StdDaqUnknownOutcome (UnknownOutcome)                requests.exceptions.ConnectionError
    StdDaqBadReply (WireError)                           requests.exceptions.JSONDecodeError
"""

from __future__ import annotations

import ipaddress
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import (
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    UnknownOutcome,
    WireError,
)
from ..wire.std_daq import SLOW_CREATION_IMAGES, WriteRequest
from ._http import HttpClient, Reply


class SlowCreationWarning(UserWarning):
    """So many images that creating the file may take longer than the 5 s the service waits."""


def check_request(write_request: object, *, shared_folders: bool) -> WriteRequest:
    """Return the checked request; an absent run id becomes the time in ns, as in the service.

    Parameters
    ----------
    write_request : dict
        As scripts pass it. Not modified.
    shared_folders : bool
        The DAQ sees this machine's folders.

    Raises
    ------
    StdDaqRequestError
        A value is wrong, or the folder is missing.
    """
    with translated():
        request = WriteRequest.from_dict(write_request, default_run_id=time.time_ns())
    if shared_folders and _folder_is_missing(request.output_file):
        raise StdDaqRequestError(
            "output_file", request.output_file, "a path in a folder that exists; create it first"
        )
    if request.n_images > SLOW_CREATION_IMAGES:
        warnings.warn(
            f"n_images={request.n_images}: above {SLOW_CREATION_IMAGES} creating the file can take longer "
            "than the 5 s the service waits; it then reports an error and writes no image. Split the run.",
            SlowCreationWarning,
            stacklevel=4,
        )
    return request


def is_this_machine(url: str) -> bool:
    """Tell whether `url` names a loopback address."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
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


class StdDaqAdminException(SfdaqError):
    """The request was not carried out. The name of the published client."""


class StdDaqRequestError(RequestError, StdDaqAdminException, RuntimeError):
    """An argument is wrong; nothing was sent."""


class StdDaqRefused(ServiceRefused, StdDaqAdminException):
    """The service answered, and the answer was no; its own words are in `said`."""


class StdDaqInvalid(StdDaqRefused):
    """The service's validation found mistakes (422).

    Attributes
    ----------
    detail : list
        As sent: objects with ``loc``, ``msg`` and ``type``.
    """

    def __init__(self, what: str, *, url: str, detail: object):
        self.detail = detail if isinstance(detail, list) else [detail]
        super().__init__(what, url=url, said="; ".join(map(_one_mistake, self.detail)), code=422)


class StdDaqOtherGeneration(StdDaqRefused):
    """At this address is a standard DAQ of another generation, which does not know the call.

    Attributes
    ----------
    dialect : str
        The generation that is there now: "flask", "fastapi" or "websocket".
    """

    def __init__(self, what: str, *, url: str, dialect: str):
        self.dialect = dialect
        control = "websocket" if dialect == "websocket" else "REST"
        said = f"no such call: here is a standard DAQ of generation {dialect!r}, with control by {control}"
        super().__init__(what, url=url, said=said)


def _one_mistake(item: object) -> str:
    if not isinstance(item, dict):
        return str(item)
    where = ".".join(str(part) for part in item.get("loc", ()))
    given = f" (got {item['input']!r:.100})" if "input" in item else ""
    return f"{where}: {item.get('msg', item)}{given}"


class StdDaqUnreachable(ServiceUnreachable):
    """The request never reached the service."""


class StdDaqTimeout(ServiceTimeout):
    """No answer within the limit, to a request that is safe to repeat."""


class StdDaqUnknownOutcome(UnknownOutcome):
    """The request was sent, its reply was lost, and it must not be repeated blindly."""


class StdDaqBadReply(WireError):
    """What answered is not the service, or not JSON."""

    def __init__(self, message: str):
        Exception.__init__(self, message)
        self.msg, self.doc, self.pos, self.lineno, self.colno = message, "", 0, 1, 1

    def __reduce__(self):
        return StdDaqBadReply, (self.msg,)


E = TypeVar("E", bound=SfdaqError)
_BOTH: dict[tuple[type, type], type] = {}


def _caught_as(cls: type[E], name: str) -> type[E]:
    """Return `cls`; where requests is imported, a subclass that is its exception `name` as well."""
    theirs = getattr(sys.modules.get("requests.exceptions"), name, None)
    if theirs is None:
        return cls
    same = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    both = type(cls.__name__, (cls, theirs), {**same, "request": None, "response": None})
    return _BOTH.setdefault((cls, theirs), both)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the general errors of HTTP and of our own checks as the classes above."""
    try:
        yield
    except RequestError as exc:
        if isinstance(exc, StdDaqAdminException):
            raise
        raise StdDaqRequestError(exc.field, exc.value, exc.expected) from exc
    except ServiceUnreachable as exc:
        raise _caught_as(StdDaqUnreachable, "ConnectionError")(
            exc.what, url=exc.url, reason=exc.reason
        ) from exc
    except ServiceTimeout as exc:
        late = _caught_as(StdDaqTimeout, "Timeout")
        raise late(exc.what, exc.timeout, exc.last_seen, exc.hint) from exc
    except UnknownOutcome as exc:
        lost = _caught_as(StdDaqUnknownOutcome, "ConnectionError")
        raise lost(exc.what, url=exc.url, reason=exc.reason, hint=exc.hint) from exc
    except WireError as exc:
        raise _caught_as(StdDaqBadReply, "JSONDecodeError")(str(exc)) from exc


DIALECTS = ("flask", "fastapi")
"""D1 and D2 of the wire reference std-daq, section 1."""

START_TIMEOUT = 6.0
"""Least limit of a start or stop, s: the service itself may take 5.1 s."""

NOT_FOUND = 404

SYNC_TIMEOUT = 70.0
"""Limit of write_sync, s: the service gives up after 60 s."""


class StdDaqRest:
    """GET and POST with the service's two ways of saying no turned into exceptions.

    Each request has its own connection: one dialect closes it after a reply with an error without saying so.

    Parameters
    ----------
    url : str
        Base address.
    dialect : {"auto", "flask", "fastapi"}
        "auto" asks once, when it matters.
    timeout : float
        Limit of a call, s.
    """

    def __init__(self, url: str, *, dialect: str = "auto", timeout: float = 10.0):
        if dialect not in ("auto", *DIALECTS):
            raise RequestError("dialect", dialect, f"'auto' or one of {DIALECTS}")
        self._http = HttpClient(url, name="standard DAQ", timeout=timeout, keep_alive=False)
        self._told, self._dialect = dialect != "auto", None if dialect == "auto" else dialect

    @property
    def url(self) -> str:
        """Base address, without a trailing slash."""
        return self._http.url

    def get(self, path: str, key: str) -> Any:
        """Return `key` of the reply to a GET; repeated when it is lost."""
        return self.get_all(path, key)[key]

    def get_all(self, path: str, key: str) -> dict:
        """Return the whole reply, in which `key` is, to a GET."""
        read = partial(self._envelope, f"GET {path}", key)
        with translated():
            return self._http.request("GET", path, idempotent=True, read=read)

    def post(self, path: str, body: object, key: str, *, timeout: float | None = None, hint: str) -> Any:
        """Return `key` of the reply to a POST; never repeated once it may have been carried out."""
        read = partial(self._envelope, f"POST {path}", key)
        with translated():
            return self._http.request("POST", path, payload=body, timeout=timeout, hint=hint, read=read)[key]

    def start_timeout(self) -> float:
        """Limit of a start or stop, s."""
        return max(self._http.timeout, START_TIMEOUT)

    def dialect(self) -> str:
        """Return "flask", "fastapi" or "websocket", asking the service the first time."""
        return self._dialect or self.ask_dialect()

    def ask_dialect(self) -> str:
        """Ask the service which generation it is, without side effects.

        "websocket" is the configuration of a DAQ that this class does not speak to.

        Raises
        ------
        StdDaqBadReply
            The service is something else; the message says what, where it is known.
        """
        with translated():
            reply = self._http.request("GET", "/openapi.json", idempotent=True)
            found = _dialect_of(reply) or self._websocket_or_nothing(reply)
        if not self._told:
            self._dialect = found
        return found

    def refuse_other(self, what: str, others: Sequence[str]) -> None:
        """Raise `StdDaqOtherGeneration` of a call if one of `others` is there now."""
        with suppress(WireError, ServiceUnreachable, ServiceTimeout):
            if (dialect := self.ask_dialect()) in others:
                raise StdDaqOtherGeneration(what, url=self.url, dialect=dialect)

    def _websocket_or_nothing(self, openapi: Reply) -> str:
        reply = self._http.request("GET", "/api/config/get?user=sfdaq", idempotent=True)
        try:
            content = reply.json()
        except WireError:
            content = None
        if isinstance(content, dict):
            config = reply.code == 200 and "status" not in content and "detector_name" in content
            if config or (reply.code == 404 and content.get("detail") == "Configuration file not found"):
                return "websocket"
        raise WireError(
            f"{self.url} is not a standard DAQ: GET /openapi.json gave {openapi.code} {openapi.text[:200]!r}"
        )

    def _envelope(self, what: str, key: str, reply: Reply) -> dict:
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
        if reply.code == NOT_FOUND:
            self.refuse_other(what, ("websocket",))
        raise StdDaqRefused(what, url=self.url, said=reply.text, code=reply.code)

    def close(self) -> None:
        """Close the session. Safe twice."""
        self._http.close()


def _dialect_of(reply: Reply) -> str | None:
    """Return the dialect that the answer to ``GET /openapi.json`` proves; None if it proves none."""
    try:
        content = reply.json()
    except WireError:
        return None
    if not isinstance(content, dict):
        return None
    paths = content.get("paths") if "openapi" in content else None
    if isinstance(paths, dict):
        if "/writer/status" in paths:
            return "fastapi"
        if any(str(path).startswith("/api/config") for path in paths):
            return "websocket"
    if reply.code == 200 and str(content.get("message", "")).startswith("404 Not Found"):
        return "flask"
    return None
