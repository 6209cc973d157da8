"""The Jungfrau as a part of the Facility: a sender in a child process, and a handle to it."""

from __future__ import annotations

import json
from typing import Any

from ...errors import RequestError
from ..child import ChildPart
from ..facility import World
from ..faults import check
from .model import FAULTS, JungfrauSettings
from .scene import Scene


class JungfrauPart(ChildPart):
    """Streams of a simulated Jungfrau that runs with the pulse clock.

    Parameters
    ----------
    world : World
        Clock, seed and ports of the facility.
    name : str
        Detector name, e.g. ``JF01T03V01``.
    **settings
        Fields of `JungfrauSettings`: rate_multiplicator, discard_policy, interfaces, json_version, old_names,
        pulse_id_as_double, extra, skew, jitter, loss, live_rate, streamvis_rate, running, ...

    Attributes
    ----------
    endpoints : list of str
        One per port, as slsReceiver's.
    assembled_endpoint, live_endpoint : str
        The sf-daq assembled stream: PUB, and PUSH.
    detector_name : str
    scene : Scene
        The same frames as are sent, by pulse id; and the true constants.
    """

    name = "jungfrau"

    settings = JungfrauSettings

    def __init__(self, world: World, *, name: str = "JF01T03V01", **settings):
        super().__init__(world)
        self._settings = JungfrauSettings(detector_name=name, seed=world.seed, **settings)
        self.scene = Scene(name, world.seed, world.clock.view)
        self.detector_name = self.scene.detector_name
        self.endpoints: list[str] = []
        self.assembled_endpoint = self.live_endpoint = ""

    @property
    def rate_multiplicator(self) -> int:
        """The detector takes every so many pulses."""
        return self._settings.rate_multiplicator

    def _arguments(self) -> list[object]:
        ports = [self._world.next_port() for _ in range(self._settings.n_ports + 2)]
        return self._with_settings(self._settings, "--ports", ",".join(map(str, ports)))

    def _take_addresses(self, said: str) -> None:
        addresses = json.loads(said)
        self.endpoints = addresses["endpoints"]
        self.assembled_endpoint, self.live_endpoint = addresses["assembled"], addresses["live"]

    def addresses(self) -> dict[str, str]:
        """Return the endpoints by role."""
        modules = {f"module{i}": endpoint for i, endpoint in enumerate(self.endpoints)}
        return {**modules, "assembled": self.assembled_endpoint, "live": self.live_endpoint}

    def fail_next(self, what: str, **details) -> None:
        """Misbehave: names, meanings and details are in `model.FAULTS`."""
        check(FAULTS, what, details)
        self._command("fail", what=what, details=details)

    def clear_faults(self) -> None:
        """Forget faults that have not happened yet."""
        self._command("clear_faults")

    def configure(self, **changes) -> None:
        """Change `JungfrauSettings` while running."""
        self._settings = self._settings.changed(**changes)
        self._command("configure", changes=changes)

    def start_acquisition(self, first_frame_number: int | None = None) -> None:
        """Begin an acquisition: frame numbers go on unless told otherwise, the module clock starts anew."""
        self._command("start", first_frame_number=first_frame_number)

    def stop_acquisition(self) -> None:
        """End the acquisition with an end message on every port; again, if it has ended already."""
        self._command("stop")

    def status(self) -> dict[str, Any]:
        """Return running, frame_number, pulse_id, who listens (subscribed per port), and n_left_out."""
        return self._command("status")

    @property
    def forced_stage(self) -> int | None:
        """None normally; 0, 1 or 2 sends the dark frames of a pedestal run's stage."""
        return self.scene.forced_stage

    @forced_stage.setter
    def forced_stage(self, stage: int | None) -> None:
        if stage not in (None, 0, 1, 2):
            raise RequestError("forced_stage", stage, "None, 0, 1 or 2")
        self._command("force_stage", stage=stage)
        self.scene.forced_stage = stage
