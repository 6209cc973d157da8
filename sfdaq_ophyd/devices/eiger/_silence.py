"""Frames that do not come: how long they are waited for, and why the stream has none."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...clients.eiger_stream import EigerStream, Series
from ...errors import SfdaqError
from ...limits import Limit
from ...wire.simplon import DetectorState
from ._control import EigerControl
from ._series import Mode, SeriesOrder

WAIT = 0.1
"""s without a message after which the detector is looked at."""

GRACE = 1.0
"""s without a frame, after the exposure or the end of the series, in which a late one may still come."""

SHARED = "another client reads this stream: each message goes to one of its clients"

EXPECTED = {"mode": "enabled", "format": "cbor"}
"""Of the stream's config."""


@dataclass
class Ending:
    """How a series ends when frames do not come.

    Attributes
    ----------
    limit : Limit
        Without a frame, beyond the exposure.
    quiet, rest : Limit
        Without a frame, after the exposure, and after it was found out why there are none (`why`).
    ended : bool
        Whether the detector said so.
    over : bool
        Whether there is nothing to wait for any more.
    unreadable : str
        What was wrong with an image that came.
    """

    limit: Limit
    quiet: Limit = field(default_factory=lambda: Limit(GRACE))
    pace: Limit = field(default_factory=lambda: Limit(WAIT))
    rest: Limit | None = None
    exposed: bool = False
    ended: bool = False
    over: bool = False
    why: str = ""
    unreadable: str = ""

    def restart(self) -> None:
        """Begin all limits anew: a frame came."""
        for limit in (self.limit, self.quiet, self.rest):
            if limit is not None:
                limit.restart()


def why_missing(
    control: EigerControl,
    stream: EigerStream,
    order: SeriesOrder,
    ours: Series | None,
    mode: Mode,
    n_odd: int,
) -> str:
    """Ask the detector, and return what explains that frames of its series are missing.

    Parameters
    ----------
    control, stream, order
        Of the source.
    ours : Series or None
        What came of the series that is open.
    mode : Mode
        Who triggers.
    n_odd : int
        Messages since it was armed that were not understood.
    """
    found = [f"{n_odd} messages were not understood"] if n_odd else []
    try:
        for name, expected in EXPECTED.items():
            parameter = control.read("stream", name)
            if parameter is not None and parameter.value != expected:
                found.append(f"the stream's {name} is {parameter.value!r}, expected {expected!r}")
        dropped = control.client.get("stream", "status", "dropped").value
        waits = mode is Mode.EXTERNAL and control.client.state() == DetectorState.READY
    except SfdaqError:
        return "the stream's counters are not readable"
    if not all(stream.connected):
        found.append(f"{stream.endpoints[0]} is not connected")
    elif not found and not dropped:
        found.append(_suspicion(stream, order, ours, waits))
    found.append(f"the stream dropped {dropped}")
    return ", ".join(found)


def _suspicion(stream: EigerStream, order: SeriesOrder, ours: Series | None, waits: bool) -> str:
    """Say what is to be thought of frames that the detector has sent, for all it knows."""
    if ours is not None and ours.looks_shared:
        return SHARED
    for other in list(stream.series.values()):
        same_number = other is not ours and other.series_id == order.series_id
        if same_number and not order.is_past(other.unique_id):
            return f"series {other.unique_id} of the same number came between: did the unit restart?"
    if ours is not None and ours.n_images:
        return "lost on the way, or taken by another client"
    return "no trigger came" if waits else f"perhaps {SHARED}"
