"""What the Eiger's source is told at stage, and the modes it works in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ...errors import RequestError
from ...wire.simplon_states import SOFTWARE_TRIGGERED, TriggerMode


class Mode(StrEnum):
    """Who runs the detector."""

    INTERNAL = "internal"
    """This device arms and triggers."""
    EXTERNAL = "external"
    """This device arms, hardware triggers."""
    MONITOR = "monitor"
    """Somebody else runs the detector; frames are taken as the monitor gives them."""
    AUTO = "auto"
    """Internal, unless the detector cannot be reached or is being run by somebody else: then monitor."""


class LegacyIds(StrEnum):
    """Where ids come from if the TIFF has none (API 1.6)."""

    REFUSE = "refuse"
    """Such a frame is an error."""
    STATUS = "status"
    """From ``monitor/status/next_image_number``, read after each frame."""
    LOCAL = "local"
    """Counted here, and marked so: ``local_<series>_<n>``."""


TRIGGER_MODES = {
    Mode.INTERNAL: SOFTWARE_TRIGGERED,
    Mode.EXTERNAL: frozenset(TriggerMode) - SOFTWARE_TRIGGERED,
}
"""Trigger modes that fit; any other is replaced by the default."""

DEFAULT_TRIGGER_MODE = {Mode.INTERNAL: TriggerMode.INTS, Mode.EXTERNAL: TriggerMode.EXTS}


@dataclass(frozen=True)
class EigerSettings:
    """The signals of an `Eiger` as they are at stage.

    Attributes
    ----------
    frames_per_trigger : int
    n_triggers : int
        Triggers of one series in a step scan; after that many the detector is armed again.
    timeout : float
        s without a frame, on top of the exposure.
    exclude_masked : bool
        Keep sentinels and masked pixels out of the computed numbers.
    strict : bool
        An unreadable image is an error; else it counts as a missing frame.
    """

    mode: Mode = Mode.INTERNAL
    frames_per_trigger: int = 1
    n_triggers: int = 1000
    timeout: float = 10.0
    exclude_masked: bool = True
    legacy_ids: LegacyIds = LegacyIds.REFUSE
    strict: bool = True

    @classmethod
    def checked(cls, name: str, mode: str, n_triggers, **others) -> EigerSettings:
        """Return settings; RequestError if a mode is unknown or a number makes no sense."""
        if mode not in list(Mode):
            raise RequestError(f"{name}.mode", mode, f"one of {', '.join(Mode)}")
        if isinstance(n_triggers, bool) or not isinstance(n_triggers, int) or n_triggers < 1:
            raise RequestError(f"{name}.n_triggers", n_triggers, "a whole number, 1 or more")
        return cls(Mode(mode), n_triggers=n_triggers, **others)
