"""The detector's states, commands and trigger modes, as data: wire reference eiger, section 4.3."""

from __future__ import annotations

from enum import StrEnum


class DetectorState(StrEnum):
    """What ``detector/status/state`` says."""

    NA = "na"
    INITIALIZE = "initialize"
    IDLE = "idle"
    CONFIGURE = "configure"
    READY = "ready"
    """Armed, waiting for a trigger."""
    ACQUIRE = "acquire"
    TEST = "test"
    ERROR = "error"


ARMED = frozenset({DetectorState.READY, DetectorState.ACQUIRE})
"""States in which a series is open."""

BUSY = frozenset({DetectorState.INITIALIZE, DetectorState.CONFIGURE})
"""States that end by themselves."""

COMMANDS = {
    "initialize": {
        DetectorState.NA: DetectorState.IDLE,
        DetectorState.IDLE: DetectorState.IDLE,
        DetectorState.READY: DetectorState.IDLE,
        DetectorState.ACQUIRE: DetectorState.IDLE,
        DetectorState.ERROR: DetectorState.IDLE,
    },
    "arm": {DetectorState.IDLE: DetectorState.READY, DetectorState.READY: DetectorState.READY},
    "trigger": {DetectorState.READY: DetectorState.ACQUIRE},
    "disarm": dict.fromkeys((DetectorState.IDLE, *ARMED), DetectorState.IDLE),
    "cancel": dict.fromkeys((DetectorState.IDLE, *ARMED), DetectorState.IDLE),
    "abort": dict.fromkeys((DetectorState.IDLE, *ARMED), DetectorState.IDLE),
}
"""Command to {state it is allowed in: state it leads to}. What is not here is refused."""


class TriggerMode(StrEnum):
    """What starts a frame."""

    INTS = "ints"
    """One ``trigger`` command: nimages frames. The command blocks until they are exposed."""
    INTE = "inte"
    """One ``trigger`` command: one frame of the command's own count time."""
    EXTS = "exts"
    """One electrical edge: nimages frames."""
    EXTE = "exte"
    """The gate's high level is one exposure."""
    EXTG = "extg"
    """Gates counted."""
    EIES = "eies"
    """One edge ends a frame and starts the next."""


SOFTWARE_TRIGGERED = frozenset({TriggerMode.INTS, TriggerMode.INTE})
"""Modes in which the command ``trigger`` may be sent; in the others it must not."""

MANY_PER_TRIGGER = frozenset({TriggerMode.INTS, TriggerMode.EXTS})
"""Modes in which one trigger makes ``nimages`` frames; in the others it makes one."""


def frames_of(mode: str, nimages: int) -> int:
    """Return how many frames one trigger makes; ``nimages`` counts as 1 in the gated modes."""
    return nimages if mode in MANY_PER_TRIGGER else 1
