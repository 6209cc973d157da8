"""What can go wrong with an acquisition, by name."""

from __future__ import annotations

from ...errors import DetectorStateError, FramesMissing
from ...wire.std_daq import DaqStatus

DAQ_TEAM = "The writer process is dead or the service is blocked: the DAQ team must restart it"


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


def found(status: DaqStatus) -> str:
    """Say what a status shows, with the ids that tell whose it is."""
    a = status.acquisition
    whose = "" if a is None else f", run_id {a.run_id}, file {a.output_file}"
    return f"{status}{whose}"
