"""What the servers raise, and each dialect's form of it (wire reference sf-daq-broker, section 2.1)."""

from __future__ import annotations

from typing import Any

from ...wire.broker import Dialect


class ValidationError(Exception):
    """The request is wrong.

    Parameters
    ----------
    text : str
        Words of the current dialect.
    documented : str, optional
        Words of the documented one; default the same.
    """

    def __init__(self, text: str, documented: str | None = None):
        super().__init__(text)
        self.documented = text if documented is None else documented


class NothingToDo(RuntimeError):
    """A retrieval without sources: an error today, "pass" in the documented dialect."""


class AMQPConnectionError(Exception):
    """The message broker is down; its text is empty."""


class TriggerError(Exception):
    """The trigger PV does not take the event code."""


def envelope(exc: Exception, dialect: Dialect) -> dict[str, Any]:
    """Return the reply that reports `exc`."""
    if dialect == "current":
        name = "RuntimeError" if isinstance(exc, NothingToDo) else type(exc).__name__
        return {"status": "error", "message": str(exc), "exception": name}
    if isinstance(exc, NothingToDo):
        return {"status": "pass", "message": "everything fine but no request to write any data"}
    if isinstance(exc, ValidationError):
        return {"status": "failed", "message": exc.documented}
    return {"state": "error", "status": str(exc)}


def required(request: Any, *names: str, documented: str | None = None) -> None:
    """Refuse a request that lacks one of the keys, in order."""
    for name in names:
        if name not in request:
            raise ValidationError(
                f'no "{name}" provided in the request parameters',
                documented or f"no {name} in request parameters",
            )
