"""How many images and triggers a series is armed for."""

from __future__ import annotations

from dataclasses import dataclass

from ...wire.simplon_states import MANY_PER_TRIGGER, TriggerMode
from .._source import Request
from ._settings import Mode


@dataclass(frozen=True)
class SeriesPlan:
    """What a series must be armed for, to serve one request.

    Attributes
    ----------
    n_images : int
        ``nimages``: frames of one trigger.
    n_triggers : int
        ``ntrigger``: triggers of the series.
    n_needed : int
        Triggers this request takes of them.
    """

    n_images: int
    n_triggers: int
    n_needed: int


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
