"""A client of Redis, made of an address: for the standard DAQ's messages, and the session's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RequestError, shown_url

if TYPE_CHECKING:
    import redis
    from redis.retry import Retry


def redis_client(url: str, *, answer: float, connect: float, retry: Retry | None = None) -> redis.Redis:
    """Return a client that is not connected yet.

    Parameters
    ----------
    url : str
        ``redis://host:6379/0``.
    answer, connect : float
        Limits, s.
    retry : Retry, optional
        How a call is made again; default is that of redis.

    Raises
    ------
    RequestError
        The address is none.
    """
    import redis

    again = {} if retry is None else {"retry": retry}
    try:
        return redis.Redis.from_url(url, socket_timeout=answer, socket_connect_timeout=connect, **again)
    except ValueError:  # its text may show the password
        raise RequestError("url", shown_url(url), "an address such as redis://host:6379") from None
