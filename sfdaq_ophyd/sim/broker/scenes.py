"""What each detector sees: the facility's live detector where it is the same, else a scene of its own."""

from __future__ import annotations

from collections.abc import Callable

from ..jungfrau.scene import Scene
from ..views import View


class Scenes:
    """Scenes by detector name, made when first asked for.

    Parameters
    ----------
    seed : int
        The same seed gives the same pixels as the live stream.
    view : callable
        Pulse id to what there was to see.
    live : Scene, optional
        Scene of the facility's Jungfrau.
    """

    def __init__(self, seed: int, view: Callable[[int], View], live: Scene | None = None):
        self._seed, self._view = seed, view
        self._scenes = {} if live is None else {live.detector_name: live}

    def __getitem__(self, detector: str) -> Scene:
        if detector not in self._scenes:
            self._scenes[detector] = Scene(detector, self._seed, self._view)
        return self._scenes[detector]
