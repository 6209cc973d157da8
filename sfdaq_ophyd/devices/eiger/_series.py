"""Series of an Eiger: who runs it, the settings of the device at stage, and what one must be armed for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ...wire.simplon import MANY_PER_TRIGGER, SOFTWARE_TRIGGERED, TriggerMode
from .._acquisition import LossPolicy
from .._source import Request


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


class Readout(StrEnum):
    """Where frames come from."""

    MONITOR = "monitor"
    """One HTTP request each: for looking, and for slow scans."""
    STREAM = "stream"
    """Every frame at full rate, over ZeroMQ."""
    FILEWRITER = "filewriter"
    """Every frame at full rate, in the files that the detector control unit writes itself."""


class LegacyIds(StrEnum):
    """Where ids come from if the TIFF has none (API 1.6)."""

    REFUSE = "refuse"
    """Such a frame is an error."""
    STATUS = "status"
    """From ``monitor/status/next_image_number``, read after each frame: nobody else may take images."""
    LOCAL = "local"
    """Counted here, and marked so: ``local_<series>_<n>``."""


class TimestampSource(StrEnum):
    """Which time the timestamp of a frame is."""

    DETECTOR = "detector"
    """What the detector tells; of a frame that carries none, the time of receipt, and the log says so."""
    HOST = "host"
    """The time of receipt."""


TRIGGER_MODES = {
    Mode.INTERNAL: SOFTWARE_TRIGGERED,
    Mode.EXTERNAL: frozenset(TriggerMode) - SOFTWARE_TRIGGERED,
}
"""Trigger modes that fit; any other is replaced by the default."""

DEFAULT_TRIGGER_MODE = {Mode.INTERNAL: TriggerMode.INTS, Mode.EXTERNAL: TriggerMode.EXTS}


@dataclass(frozen=True)
class EigerSettings:
    """The signals of an `Eiger` as they are at stage."""

    mode: Mode = Mode.INTERNAL
    frames_per_trigger: int = 1
    n_triggers: int = 1000
    timeout: float = 10.0
    exclude_masked: bool = True
    legacy_ids: LegacyIds = LegacyIds.REFUSE
    loss_policy: LossPolicy = LossPolicy.STRICT
    statistics_every: int = 10
    timestamp_source: TimestampSource = TimestampSource.DETECTOR


@dataclass(frozen=True)
class SeriesPlan:
    """What a series must be armed for, to serve one request."""

    n_images: int
    """``nimages``: frames of one trigger."""
    n_triggers: int
    """``ntrigger``: triggers of the series."""
    n_needed: int
    """Triggers this request takes of them."""


def plan_series(mode: Mode, trigger_mode: str, n_triggers: int, request: Request) -> SeriesPlan:
    """Return what to arm for.

    Run by us, a step scan shares one series of `n_triggers` triggers, and a fly scan is one trigger of all
    its frames. With triggers from outside every request has a series of its own, so that no earlier edge
    counts.
    """
    many = trigger_mode in MANY_PER_TRIGGER
    if mode is Mode.INTERNAL:
        if request.flying:
            return SeriesPlan(request.n_frames, 1, 1) if many else _single(request.n_frames)
        needed = 1 if many else request.n_frames
        return SeriesPlan(request.n_frames if many else 1, max(needed, n_triggers), needed)
    if many:
        needed = request.n_frames // request.frames_per_trigger
        return SeriesPlan(request.frames_per_trigger, needed, needed)
    edges_more = 1 if trigger_mode == TriggerMode.EIES else 0  # n edges make n - 1 frames
    return _single(request.n_frames + edges_more)


def _single(n: int) -> SeriesPlan:
    return SeriesPlan(1, n, n)
