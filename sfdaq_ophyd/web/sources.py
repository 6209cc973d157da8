"""From ``sfdaq.yaml`` to what the page watches, and who watches the page."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import RequestError
from ..session import config as blocks
from ..session.config import SfdaqConfig
from ..session.publish import api_key
from .eiger import EigerSource
from .jungfrau import JungfrauSource
from .live_frame import LiveFrame
from .runs import Curve, FolderRuns, RemoteRuns, RunsSource
from .source import (
    BrokerSource,
    DetectorSource,
    PulseIdSource,
    PvSource,
    Source,
    UnaskedSource,
    WriterSource,
)

GROUPS = ("detectors", "pulse_ids", "pvs", "writers", "brokers", "runs")
LIFETIME = 0.1
"""s for which one text of the state serves all viewers."""


class Watch:
    """The sources of one page. While nobody views it, nothing is asked of anybody.

    Parameters
    ----------
    sources : sequence of Source
        With different names in each group.
    title : str
        E.g. the beamline and the pgroup.
    """

    def __init__(self, sources: Sequence[Source], title: str = ""):
        self.sources, self.title = list(sources), title
        self.n_viewers = 0
        self._watched, self._lock = threading.Event(), threading.Lock()
        self._text, self._text_until = "", 0.0
        self._minutes, self._minutes_until = "", 0.0

    def start(self) -> None:
        """Start the sources; they rest until somebody views the page."""
        for source in self.sources:
            source.start(self._watched)

    def stop(self) -> None:
        """End the sources. Safe twice."""
        for source in self.sources:
            source.end()  # all at once, then wait for each
        for source in self.sources:
            source.stop()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Count one more viewer."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def state(self) -> dict[str, Any]:
        """Return everything the page shows; ready for JSON."""
        shown: dict[str, Any] = {"title": self.title, "time": time.time(), "n_viewers": self.n_viewers}
        for group in GROUPS:
            shown[group] = [source.state() for source in self.sources if source.group == group]
        return shown

    def state_text(self) -> str:
        """Return `state` as JSON, made once for all viewers."""
        with self._lock:
            if time.monotonic() > self._text_until:
                self._text = json.dumps(self.state(), default=str)
                self._text_until = time.monotonic() + LIFETIME
            return self._text

    def minutes_text(self) -> str:
        """Return frame rate and loss rate of the last minutes as JSON, made once for all viewers."""
        with self._lock:
            if time.monotonic() > self._minutes_until:
                self._minutes = json.dumps({"minutes": {d.name: list(d.history) for d in self._detectors}})
                self._minutes_until = time.monotonic() + LIFETIME
            return self._minutes

    def curves(self) -> list[Curve]:
        """Return the scans that go on and the last ones, newest first."""
        return [curve for source in self.sources if isinstance(source, RunsSource) for curve in source.curves]

    def detector(self, name: str) -> DetectorSource:
        """Return a detector by its name.

        Raises
        ------
        RequestError
            There is none of this name.
        """
        found = {detector.name: detector for detector in self._detectors}
        if name not in found:
            raise RequestError("detector", name, f"one of {', '.join(found) or 'none'}")
        return found[name]

    def frame(self, name: str) -> LiveFrame | None:
        """Return the newest frame of a detector, None before the first; raises as `detector`."""
        return self.detector(name).frame

    @property
    def _detectors(self) -> list[DetectorSource]:
        return [source for source in self.sources if isinstance(source, DetectorSource)]

    def _count(self, change: int) -> None:
        with self._lock:
            self.n_viewers += change
            self._text_until = 0.0
            (self._watched.set if self.n_viewers else self._watched.clear)()


MAX_RATE = 10.0
"""Hz."""


def watch_of(config: SfdaqConfig, rate: float = 4.0) -> Watch:
    """Return what a configuration names, ready to be watched; contacts nothing.

    Parameters
    ----------
    config : SfdaqConfig
    rate : float
        Pictures per second of each detector, at most.
    """
    if not 0 < rate <= MAX_RATE:
        raise RequestError("rate", rate, f"pictures per second, above 0, at most {MAX_RATE:g}")
    title = " ".join(filter(None, (config.beamline, config.pgroup)))
    return Watch(list(_sources(config, 1 / rate)), title)


def _sources(config: SfdaqConfig, period: float) -> Iterator[Source]:
    for name, block in config.devices.items():
        if isinstance(block, blocks.EigerConfig):
            yield EigerSource(name, block.url, block.api_version, period, block.readout == "stream")
        elif isinstance(block, blocks.JungfrauConfig) and block.pull:
            yield UnaskedSource(
                name, f"Jungfrau {block.detector_name}", block.endpoints[0], blocks.SHARED_OUT
            )
        elif isinstance(block, blocks.JungfrauConfig):
            from ..session.devices import calibration_loader  # imports ophyd

            yield JungfrauSource(
                name,
                block.detector_name,
                block.endpoints,
                stream=block.stream,
                load=calibration_loader(block, config.directory),
                period=period,
                frame_step=block.frame_step,
                by_frame=block.event_id == "frame",
            )
        elif isinstance(block, blocks.StdDaqWriterConfig):
            yield WriterSource(name, block.url, block.dialect, config_url=block.config_url, user=block.user)
        elif isinstance(block, blocks.SfDaqBrokerConfig):
            yield BrokerSource(
                name,
                block.url,
                block.slow_url,
                wanted=list(block.detectors),
                pgroup=block.pgroup or config.pgroup,
                dialect=block.dialect,
            )
        elif isinstance(block, blocks.PulseIdConfig):
            yield PulseIdSource(name, block.pv)
        elif isinstance(block, blocks.MotorConfig):
            yield PvSource(name, f"{block.pv}.RBV")
        else:
            yield PvSource(name, block.pv, string=block.string)
    if config.catalog.uri:
        yield RemoteRuns(config.catalog.uri, functools.partial(api_key, config))
    else:
        yield FolderRuns(config.directory / config.catalog.embedded)
