"""From ``sfdaq.yaml`` to what the page watches."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from ..errors import RequestError
from ..session import device_config as blocks
from ..session.catalog import api_key
from ..session.config import SfdaqConfig
from .eiger import EigerSource
from .jungfrau import JungfrauSource
from .runs import FolderRuns, RemoteRuns
from .services import BrokerSource, PulseIdSource, PvSource, WriterSource
from .source import Source
from .watch import Watch

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
