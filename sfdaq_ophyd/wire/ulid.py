"""ULIDs: 26 characters, the first ten of which are a time in ms. SIMPLON names its series so."""

from __future__ import annotations

from ..errors import WireError

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def make_ulid(time_ns: int, randomness: int) -> str:
    """Return the ULID of a moment (ns since the epoch) and 80 random bits."""
    number = (time_ns // 10**6 << 80) | (randomness & (1 << 80) - 1)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def ulid_time_ns(ulid: str) -> int:
    """Return the moment a ULID was made, ns since the epoch to the ms; WireError if it is none."""
    text = ulid.upper()
    if len(text) != 26 or any(letter not in _ALPHABET for letter in text):
        raise WireError(f"not a ULID: {ulid[:40]!r}")
    ms = 0
    for letter in text[:10]:
        ms = ms << 5 | _ALPHABET.index(letter)
    return ms * 10**6
