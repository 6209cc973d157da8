"""Plain requests to the simulated broker, without our client."""

from __future__ import annotations

import json
import urllib.request


def ask(method: str, url: str, endpoint: str, body=None, *, address: str | None = None) -> dict:
    """Send one request, as if from `address`, and return its JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    if address is not None:
        headers["X-Forwarded-For"] = address
    request = urllib.request.Request(f"{url}/{endpoint}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def get(url: str, endpoint: str, body=None, *, address: str | None = None) -> dict:
    """GET with a body."""
    return ask("GET", url, endpoint, body, address=address)


def post(url: str, endpoint: str, body=None, *, address: str | None = None) -> dict:
    """POST."""
    return ask("POST", url, endpoint, body, address=address)
