"""What clients of all generations of the standard DAQ share: errors, which one it is, its configuration.

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

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from ..errors import (
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    UnknownOutcome,
    WireError,
)
from ..limits import Limit
from ._http import HttpClient, Reply

logger = logging.getLogger(__name__)

REST_DIALECTS = ("flask", "fastapi")
"""D1 and D2 of the wire reference std-daq, section 1; D3 is "websocket"."""

PERIOD = 0.2
"""Seconds between two looks at deployment or writer."""


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
    loc = item.get("loc")
    where = ".".join(map(str, loc)) if isinstance(loc, list) else str(loc or "")
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


class StandardDaq(ABC):
    """One standard DAQ of any generation, at the address of its REST service: that of the configuration.

    Parameters
    ----------
    url : str
        Base address.
    timeout : float
        Limit of a call, s.
    restart_time : float
        Seconds the DAQ's services are away after a change of the configuration: nothing tells when they are
        back.
    keep_alive : bool
        Whether a connection is used again. One generation closes it after a reply with an error without
        saying so.
    """

    restarts_always = True
    """Whether the service takes what is stored already for a change, and restarts the DAQ."""

    def __init__(self, url: str, *, timeout: float, restart_time: float, keep_alive: bool):
        self._http = HttpClient(url, name="standard DAQ", timeout=timeout, keep_alive=keep_alive)
        self._restart_time = restart_time

    def ask_dialect(self) -> str:
        """Ask which generation the service is of, without side effects: it may have been replaced.

        Returns
        -------
        {"flask", "fastapi", "websocket"}

        Raises
        ------
        StdDaqBadReply
            The service is something else; the message says what, where it is known.
        """
        with translated():
            openapi: Reply = self._http.request("GET", "/openapi.json", idempotent=True)
            if found := _dialect_of(openapi):
                return found
            config: Reply = self._http.request("GET", "/api/config/get?user=sfdaq", idempotent=True)
            if _is_config_of_websocket(config):
                return "websocket"
            said = f"GET /openapi.json gave {openapi.code} {openapi.text[:200]!r}"
            raise WireError(f"{self._http.url} is not a standard DAQ: {said}")

    def _refuse_other(self, what: str, others: Sequence[str]) -> None:
        """Raise `StdDaqOtherGeneration` of a call if one of `others` is there now."""
        with suppress(WireError, ServiceUnreachable, ServiceTimeout):
            if (dialect := self.ask_dialect()) in others:
                raise StdDaqOtherGeneration(what, url=self._http.url, dialect=dialect)

    @abstractmethod
    def get_config(self) -> dict | None:
        """Return the stored configuration; None if there is none."""

    def set_config(
        self, daq_config: dict, *, wait: bool = True, timeout: float = 60.0, again: bool = False
    ) -> dict:
        """Change the configuration, all of it or only some keys, and wait until the DAQ is back.

        Parameters
        ----------
        daq_config : dict
            Keys to change; the others keep their values, in all generations, but for ``submodule_info``: by
            REST the service loses its content with any change. Where some is stored, or given, the older
            dialect's client says so in the log, and the newer one's refuses; there ``submodule_info={}`` lets
            it go. What is given back as it is stored is not checked.
        wait : bool
            Return only after all servers reported, the restart is over and the writer may start again.
        timeout : float
            Limit of the whole, s.
        again : bool
            Send it also where nothing differs, as to a server that missed it before. By REST that is always
            done, and restarts the DAQ.

        Returns
        -------
        dict
            The configuration now stored.

        Raises
        ------
        StdDaqRequestError
            A key or a value is wrong, or an acquisition is running; nothing was sent.
        StdDaqRefused, StdDaqInvalid
            The service said no; the stored configuration was compared and is not the one asked for, or not on
            all servers, or nothing was asked for that can be compared.
        StdDaqUnknownOutcome
            The reply was lost, and what is stored does not tell; of a DAQ with control by websocket it never
            does, for it is what one of its servers has.
        StdDaqTimeout
            Stored, but not deployed, or the writer did not come back, within `timeout`.
        """
        limit = Limit(timeout)
        with translated():
            before, changes = self._compared(daq_config)
            if not (changes or again or self.restarts_always):
                return before
            wanted = {key: changes.get(key, before.get(key)) for key in daq_config}
            body = self._config_to_send(before, wanted)
            if expected := self._why_not_now():
                raise RequestError("daq_config", daq_config, expected)
            self._tell_lost(before, wanted)
            stored = self._store(body, changes)
            if wait:
                self._wait_until_back(limit)
        return stored

    def _compared(self, given: dict) -> tuple[dict, dict]:
        """Return the stored configuration, and what differs from it, checked."""
        if not isinstance(given, Mapping):
            raise RequestError("daq_config", given, "a dictionary")
        try:
            stored = self.get_config() or {}
        except StdDaqOtherGeneration:
            raise
        except SfdaqError:
            self._check(given)  # a mistake is named also where nobody answers
            raise
        changes = {k: v for k, v in given.items() if k not in stored or _differ(stored[k], v)}
        return stored, self._check(changes)

    def _store(self, body: dict, changes: dict) -> dict:
        """Send it once; return what is stored afterwards, which has all changes."""
        stored: dict | None
        try:
            stored = self._send_config(body)
        except (ServiceRefused, UnknownOutcome) as exc:
            stored = self.get_config()
            if not changes.keys() - {"submodule_info"} or not _holds(stored, changes):
                raise
            self._stored_all_the_same(exc)
        if stored is None or not _holds(stored, changes):
            said = f"ok, but the configuration stored is {stored}"
            raise StdDaqRefused("change of the configuration", url=self._http.url, said=said)
        return stored

    def _stored_all_the_same(self, exc: ServiceRefused | UnknownOutcome) -> None:
        """Judge an error after which the change is stored."""
        logger.warning("%s; the configuration read back holds the change all the same", exc)

    def _wait_until_back(self, limit: Limit) -> None:
        """Wait for the restart of the DAQ, then until the writer may start; ServiceTimeout if it may not."""
        what = "restart of the DAQ"
        if limit.left < self._restart_time:
            raise ServiceTimeout(what, limit.seconds, "stored", f"It takes {self._restart_time:g} s more.")
        time.sleep(self._restart_time)
        while seen := self._why_not_back():
            if limit.reached():
                hint = "The writer process did not come back: the DAQ team must restart it"
                raise ServiceTimeout(what, limit.seconds, seen, hint)
            time.sleep(PERIOD)

    # ---- what differs between the generations -------------------------------------------------------

    @abstractmethod
    def _check(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of some keys, checked; RequestError if one is wrong."""

    @abstractmethod
    def _config_to_send(self, stored: dict, wanted: dict) -> dict:
        """Return what is to be sent; RequestError if this generation cannot store it."""

    def _tell_lost(self, stored: dict, wanted: dict) -> None:
        """Say in the log what is stored, or wanted, and will not be stored after the change."""
        return None

    @abstractmethod
    def _why_not_now(self) -> str:
        """Return what should be there in place of an acquisition under way; empty if there is none."""

    @abstractmethod
    def _send_config(self, body: dict) -> dict:
        """Send a configuration once; return what is stored then."""

    @abstractmethod
    def _why_not_back(self) -> str:
        """Return why the writer may not start yet; empty once it may."""


def _differ(stored: object, given: object) -> bool:
    """Tell whether two values do; so does one in which there is an array of several numbers."""
    try:
        return bool(stored != given)
    except ValueError:
        return True


def _holds(stored: dict | None, changes: dict) -> bool:
    """Tell whether `stored` has all of `changes`; the content of submodule_info is lost in D1 and D2."""
    return stored is not None and all(
        stored.get(key) == value for key, value in changes.items() if key != "submodule_info"
    )


def _json_of(reply: Reply) -> dict:
    """Return the object in a reply; an empty one if there is none."""
    with suppress(WireError):
        if isinstance(content := reply.json(), dict):
            return content
    return {}


def _dialect_of(reply: Reply) -> str | None:
    """Return the dialect that the answer to ``GET /openapi.json`` proves; None if it proves none."""
    content = _json_of(reply)
    paths = content.get("paths") if "openapi" in content else None
    if isinstance(paths, dict):
        if "/writer/status" in paths:
            return "fastapi"
        if any(str(path).startswith("/api/config") for path in paths):
            return "websocket"
    if reply.code == 200 and str(content.get("message", "")).startswith("404 Not Found"):
        return "flask"
    return None


def _is_config_of_websocket(reply: Reply) -> bool:
    """Tell from the answer to ``GET /api/config/get`` whether it is that of D3."""
    content = _json_of(reply)
    if reply.code == 200:
        return "status" not in content and "detector_name" in content
    return reply.code == 404 and content.get("detail") == "Configuration file not found"
