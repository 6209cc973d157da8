"""What an HTTP simulator on loopback refuses: requests that a web page elsewhere made a browser send."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

STATUS = 403
"""HTTP status of a refusal."""


def refusal(method: str, headers: Mapping[str, str]) -> str | None:
    """Return why a request is refused; None if it may come from a client of this machine.

    A name other than ``localhost`` in Host means that some name server led a browser here, a foreign Origin
    that a page elsewhere did. Preflights (OPTIONS) are never answered.

    Parameters
    ----------
    method : str
    headers : mapping
        Looked up by ``"Host"`` and ``"Origin"``; either may be missing, as from clients that are no browsers.
    """
    if method.upper() == "OPTIONS":
        return "no cross-origin requests are served here"
    host, origin = headers.get("Host"), headers.get("Origin")
    if host is not None and not _is_local(f"//{host}"):
        return f"Host {host[:100]!r} is not served here: ask for localhost or an address"
    if origin is not None and not _is_local(origin):
        return f"requests of pages from {origin[:100]!r} are not served here"
    return None


def _is_local(url: str) -> bool:
    """Tell whether the host of a URL is localhost or spelled as an address."""
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
