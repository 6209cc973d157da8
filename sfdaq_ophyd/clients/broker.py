"""Client of the sf-daq broker: one method per call of both services."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..wire.broker import Dialect
from .broker_main import MainCalls
from .broker_slow import SlowCalls
from .broker_transport import SLOW_TIMEOUT, TIMEOUT


class BrokerClient(MainCalls, SlowCalls):
    """Speak to both services of the sf-daq broker. Contacts nothing until the first call.

    Requests are checked before they are sent, numbers come back as ints in both dialects, and a call is
    repeated only where the contract allows it: reads, and writes of the same content. Safe to use from
    several threads; the server does one request at a time for all beamlines, so poll at most once a second.

    Parameters
    ----------
    url : str
        E.g. ``http://sf-daq:10002``.
    slow_url : str, optional
        Default is the next port of the same host.
    dialect : {"current", "documented", "auto"}
        What the server speaks; "auto" asks with the first call, and only with what is safe in both.
    timeout, slow_timeout : float
        Limits of one call, s.
    sf_root : str or Path, optional
        Where the DAQ's ``/sf`` is mounted here, if it is. With it, a retrieval whose reply was lost is
        looked up instead of reported as unknown, and `local_path` maps paths of replies.
    recover_timeout : float
        How long to look, s.

    Raises
    ------
    RequestError
        An argument is wrong; nothing was sent.
    BrokerRefused
        The broker said no; see its `exception`, `said` and `nothing_done`.
    ServiceUnreachable
        The request never reached the broker.
    ServiceTimeout
        No answer to a call that may be repeated.
    UnknownOutcome
        No answer to a call that must not be repeated: a timed-out request is still carried out.
    WireError
        An answer that makes no sense.

    Examples
    --------
    >>> client = BrokerClient("http://sf-daq:10002")
    >>> client.url, client.slow_url
    ('http://sf-daq:10002', 'http://sf-daq:10003')
    """

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
        super().__init__(url, slow_url, dialect, timeout=timeout, slow_timeout=slow_timeout)
        self.sf_root = None if sf_root is None else Path(sf_root)
        self.recover_timeout = recover_timeout
