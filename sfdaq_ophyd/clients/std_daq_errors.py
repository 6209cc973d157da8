"""What can go wrong with the standard DAQ's REST service, also under the published client's names.

Scripts written for the published client catch ``StdDaqAdminException``, ``RuntimeError`` (its answer to
every HTTP code but 200) or the exceptions of ``requests``. Each error here is one of these as well; one of
``requests`` where the program has imported that, for this package does not need it::

    StdDaqAdminException (SfdaqError)
      StdDaqRequestError (RequestError, RuntimeError)    our check failed; nothing was sent
      StdDaqRefused (ServiceRefused)                     the service answered with an error
        StdDaqInvalid                                    422: the service's own validation, with its detail
    StdDaqUnreachable (ServiceUnreachable)               requests.exceptions.ConnectionError
    StdDaqTimeout (ServiceTimeout)                       requests.exceptions.Timeout
    StdDaqUnknownOutcome (UnknownOutcome)                requests.exceptions.ConnectionError
    StdDaqBadReply (WireError)                           requests.exceptions.JSONDecodeError
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from ..errors import (
    RequestError,
    ServiceRefused,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    UnknownOutcome,
    WireError,
)


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


def _caught_as(cls: type[Exception], name: str) -> type[Exception]:
    """Return `cls`; where requests is imported, a subclass that is its exception `name` as well."""
    theirs = getattr(sys.modules.get("requests.exceptions"), name, None)
    return cls if theirs is None else _both(cls, theirs)


@cache
def _both(cls: type[Exception], theirs: type[Exception]) -> type[Exception]:
    same = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, theirs), {**same, "request": None, "response": None})


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
        error = _caught_as(StdDaqTimeout, "Timeout")
        raise error(exc.what, exc.timeout, exc.last_seen, exc.hint) from exc
    except UnknownOutcome as exc:
        error = _caught_as(StdDaqUnknownOutcome, "ConnectionError")
        raise error(exc.what, url=exc.url, reason=exc.reason, hint=exc.hint) from exc
    except WireError as exc:
        raise _caught_as(StdDaqBadReply, "JSONDecodeError")(str(exc)) from exc
