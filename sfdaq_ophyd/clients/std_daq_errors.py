"""What can go wrong with the standard DAQ's REST service, also under the published client's names.

Scripts written for the published client catch ``StdDaqAdminException``, ``RuntimeError`` (its answer to
every HTTP code but 200) or the exceptions of ``requests``. Each class here is one of these as well::

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

from collections.abc import Iterator
from contextlib import contextmanager

import requests

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


class StdDaqUnreachable(ServiceUnreachable, requests.exceptions.ConnectionError):
    """The request never reached the service."""

    request = response = None


class StdDaqTimeout(ServiceTimeout, requests.exceptions.Timeout):
    """No answer within the limit, to a request that is safe to repeat."""

    request = response = None


class StdDaqUnknownOutcome(UnknownOutcome, requests.exceptions.ConnectionError):
    """The request was sent, its reply was lost, and it must not be repeated blindly."""

    request = response = None


class StdDaqBadReply(WireError, requests.exceptions.JSONDecodeError):
    """What answered is not the service, or not JSON."""

    request = response = None

    def __init__(self, message: str):
        Exception.__init__(self, message)
        self.msg, self.doc, self.pos, self.lineno, self.colno = message, "", 0, 1, 1

    def __reduce__(self):
        return type(self), (self.msg,)


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
        raise StdDaqUnreachable(exc.what, url=exc.url, reason=exc.reason) from exc
    except ServiceTimeout as exc:
        raise StdDaqTimeout(exc.what, exc.timeout, exc.last_seen, exc.hint) from exc
    except UnknownOutcome as exc:
        raise StdDaqUnknownOutcome(exc.what, url=exc.url, reason=exc.reason, hint=exc.hint) from exc
    except WireError as exc:
        raise StdDaqBadReply(str(exc)) from exc
