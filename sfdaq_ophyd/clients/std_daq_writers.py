"""The seam between a device and whatever writes files: start, stop, status, list of files.

The REST dialects stand behind it as one class; control by websocket would be one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..wire.std_daq import DaqStatus, WriteRequest
from ..wire.std_daq_config import DaqConfig
from .std_daq import StdDaqClient


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of an acquisition: its path on the DAQ's hosts, and the group with data, image_id, status."""

    path: str
    group: str


class FileWriter(Protocol):
    """A data acquisition that writes files on request."""

    def config(self) -> DaqConfig | None:
        """Return what detector it writes; None if it is not configured."""

    def status(self) -> DaqStatus:
        """Return state and newest acquisition."""

    def start(self, request: WriteRequest) -> DaqStatus:
        """Start; return the status once it writes, whosever acquisition that is."""

    def stop(self) -> DaqStatus:
        """Stop or reset; return the status once it is READY."""

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return the files an acquisition makes, in the order of its images."""

    def close(self) -> None:
        """Close connections. Safe twice."""


class RestWriter:
    """A standard DAQ with REST control, either dialect: one file per acquisition.

    Parameters
    ----------
    client : StdDaqClient
    """

    def __init__(self, client: StdDaqClient):
        self.client = client
        self.status = client.status
        self.start, self.stop, self.close = client.start, client.stop, client.close
        self._config: DaqConfig | None = None

    def config(self) -> DaqConfig | None:
        """Return what detector it writes; None if it is not configured."""
        self._config = self.client.config()
        return self._config

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return the one file, in the group named after the detector as `config` saw it last."""
        config = self._config or self.config()
        return [DataFile(request.output_file, config.detector_name if config else "")]
