"""The seam between the device and a DAQ of any generation: what is asked of it, and what can go wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ...errors import DetectorStateError, FramesMissing
from ...wire.std_daq import WriteRequest
from ...wire.std_daq_config import DaqConfig
from ...wire.std_daq_writing import DataFile, Writing
from ._rates import Stats

DAQ_TEAM = "The writer process is dead or the service is blocked: the DAQ team must restart it"

PERIOD = 0.05
"""Seconds between two looks at the state; news shorten it."""

RESCUE_LIMIT = 12.0
"""Seconds for which a stop under way is waited for: the service gives up on a writer after 5."""


class WriterNotReady(DetectorStateError):
    """The writer cannot be used now: somebody else writes, or it does not come back."""


class WriterFailed(DetectorStateError):
    """The DAQ reported that the acquisition failed; its own words are in the text."""


class WriterDead(DetectorStateError):
    """The writer was given images and acknowledges none of them any more."""


class DoubleStart(DetectorStateError):
    """Somebody else's start and ours came within milliseconds; only one acquisition runs."""


class LostRecord(DetectorStateError):
    """The DAQ does not know our acquisition any more: it, or its writer, was restarted."""


class DaqGone(DetectorStateError):
    """The DAQ does not answer any more."""


class SlowCreation(DetectorStateError):
    """Creating the file took longer than the service waits; it writes no image into it."""


class MissedStart(FramesMissing):
    """The acquisition ended before the service looked; there is no record of it."""


class ShortFile(FramesMissing):
    """The acquisition ended with fewer images than asked for."""


class Stalled(FramesMissing):
    """No image was written for too long."""


class RingOverrun(FramesMissing):
    """The writer was so far behind that pixels of its images may be those of others."""


class PointsLost(DetectorStateError):
    """A file that was registered while it grew does not hold, once closed, the images of its points."""


class OtherGeneration(DetectorStateError):
    """The DAQ is of another generation than this control speaks to: one with control by websocket."""


class WriterControl(Protocol):
    """A DAQ of one generation, as one device uses it; states and files are in our own words.

    Attributes
    ----------
    news : Event
        Set by whoever knows that the state has changed.
    dead : bool
        Whether the writer did not answer when it was used last, which was told.
    takes_images_from : str
        The moment from which images are in the files, in its own words.
    """

    news: threading.Event
    dead: bool
    takes_images_from: str

    def config(self) -> DaqConfig | None:
        """Return what detector it writes; None if it is not configured.

        Raises
        ------
        OtherGeneration
        """

    def change_config(self, changes: Mapping[str, Any], timeout: float) -> DaqConfig:
        """Change some keys of the configuration; return it once the DAQ is back, within `timeout` s."""

    def stats(self) -> Stats | None:
        """Return whoever knows the throughput; None if the DAQ does not tell."""

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return the files with the images of an acquisition."""

    def makes(self, output_file: str) -> list[str]:
        """Return every file that an acquisition of this name makes, or overwrites."""

    def make_ready(self) -> None:
        """Reset what may be reset once; refuse to touch somebody else's acquisition."""

    def leave_ready(self) -> None:
        """Stop what is ours, reset what has failed; `WriterNotReady` if a person must. Safe twice."""

    def start(self, request: WriteRequest) -> None:
        """Start; returns once the writer takes images of this request, whose run id is the acquisition's.

        Raises
        ------
        WriterNotReady, WriterFailed, DoubleStart, SlowCreation, MissedStart
        """

    def watch(
        self,
        request: WriteRequest,
        given_up: threading.Event,
        timeout: float,
        why_silent: Callable[[Writing], str],
    ) -> Iterator[Writing]:
        """Yield how far our acquisition is, at each look; return once it is finished or interrupted.

        Parameters
        ----------
        given_up : Event
            Ends it with `Discarded`; the writer is stopped by `leave_ready`.
        timeout : float
            s without a new image after which it has stalled.
        why_silent : callable
            Says why the writer was given no image, as far as anybody knows.

        Raises
        ------
        WriterFailed, WriterDead, DaqGone, LostRecord, DoubleStart, Stalled, Discarded
        """

    def close(self) -> None:
        """Close connections. Safe twice; the next call opens new ones."""
