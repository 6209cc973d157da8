"""SIMPLON's "darray": a 2-D array inside JSON. Contract eiger-simplon.md, section 3.1."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from ..errors import WireError

TYPES = ("<u4", "<f4")


def encode_darray(array: np.ndarray) -> dict:
    """Return the JSON form of a (y, x) array; its shape is [height, width], as in real replies."""
    little = np.ascontiguousarray(array, "<f4" if array.dtype.kind == "f" else "<u4")
    return {
        "__darray__": [1, 0, 0],
        "type": little.dtype.str,
        "shape": list(little.shape),
        "filters": ["base64"],
        "data": base64.b64encode(little).decode("ascii"),
    }


def decode_darray(reply: object) -> np.ndarray:
    """Return the (y, x) array of uint32 or float32, read-only; WireError if it is not one."""
    if not isinstance(reply, dict) or "__darray__" not in reply:
        raise WireError(f"not a darray: {reply!r:.200}")
    if reply.get("type") not in TYPES or reply.get("filters") != ["base64"]:
        raise WireError(f"darray of type {reply.get('type')!r:.40} and filters {reply.get('filters')!r:.80}")
    shape = reply.get("shape")
    good = (
        isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 2**20 for n in shape)
    )
    if not good or not isinstance(reply.get("data"), str):
        raise WireError(f"darray of shape {shape!r:.80}, expected [height, width]")
    try:
        raw = base64.b64decode(reply["data"], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise WireError(f"darray: data is not base64 ({exc})") from exc
    if len(raw) != 4 * shape[0] * shape[1]:
        raise WireError(f"darray of shape {shape} with {len(raw)} bytes, expected {4 * shape[0] * shape[1]}")
    return np.frombuffer(raw, reply["type"]).reshape(shape)
