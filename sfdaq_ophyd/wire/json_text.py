"""JSON from outside: one error, whatever is wrong with it, and no nesting that breaks what comes after."""

from __future__ import annotations

import json

from ..errors import WireError

MAX_DEPTH = 100
"""Deepest nesting that is taken; replies of the services nest below ten."""


def load_json(data: bytes | str) -> object:
    """Parse a JSON text.

    Parameters
    ----------
    data : bytes or str
        Bytes in UTF-8, 16 or 32. The caller bounds the size.

    Raises
    ------
    WireError
        Not JSON, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        text = data if isinstance(data, str) else bytes(data[:1000]).decode("utf-8", "replace")
        raise WireError(f"not JSON: {text[:200]!r}") from exc
    brackets = ("[", "{") if isinstance(data, str) else (b"[", b"{")
    if sum(map(data.count, brackets)) > MAX_DEPTH and _is_deep(value):
        raise WireError(f"JSON nested deeper than {MAX_DEPTH}: {data[:80]!r}")
    return value


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: object):
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
