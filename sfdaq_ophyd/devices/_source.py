"""What a detector must be able to do, in plain Python: the hooks behind every `Detector`.

A concrete detector is a `FrameSource` (decisions and I/O, no ophyd) and a `Detector` subclass (signals). The
base does the rest: threads, deadlines, files, documents, pause, retake, abort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..wire.frame import Frame, FrameFormat, MissingFrame, Tables


@dataclass(frozen=True, slots=True)
class Request:
    """What one call of `FrameSource.frames` shall bring.

    Attributes
    ----------
    n_frames : int
        Frames still wanted; 1 or more.
    frames_per_trigger : int
        Frames that belong together: `n_frames` of a step, a divisor of `n_frames` in a fly scan.
    flying : bool
        Whether this is a fly scan: one acquisition of many points.
    settings : object
        What `prepare` was given for this fly scan; None in a step scan.
    """

    n_frames: int
    frames_per_trigger: int = 1
    flying: bool = False
    settings: Any = None

    def rest(self, n_done: int) -> Request:
        """Return the request for what is still wanted after so many frames came."""
        return replace(self, n_frames=self.n_frames - n_done)


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life from a source that brings its frames at the end; it starts the deadline anew.

    Attributes
    ----------
    n_frames : int
        Frames so far, of those requested.
    seen : str
        State, for the message if nothing follows.
    """

    n_frames: int
    seen: str = ""


@dataclass(frozen=True)
class WrittenFile:
    """A file of somebody else; a source yields it before the frames it holds.

    A closed one is checked before. One that still grows is valid once it is closed: the source keeps its last
    frame back until it has checked that, and raises if the file does not hold what it yielded.

    Attributes
    ----------
    path : Path
        Where the catalog's server finds it.
    n_frames : int
        Frames of whole points it holds, or will hold at the most: those the source yields next.
    keys : Mapping[str, dict]
        Data key, without the device's name, to the parameters of its StreamResource; see
        `frames_in_hdf5`.
    mimetype : str
        Of the file.
    drop : callable
        Called if its points are not kept (an event dropped, a pause): rename or remove it.
    keep : callable
        Called with the frames of its saved points, the first ones, once there will be no more.
    """

    path: Path
    n_frames: int
    keys: Mapping[str, dict]
    mimetype: str = "application/x-hdf5"
    drop: Callable[[], None] = field(default=lambda: None)
    keep: Callable[[int], None] = field(default=lambda n_frames: None)


class FrameSource(Protocol):
    """Hooks of a detector whose frames come to this process.

    `open`, `discard` and `close` are called from the RunEngine's thread and must be quick or bounded in time;
    `frames` is called and iterated in a thread of its own. Any `SfdaqError` raised by a hook ends in the stop
    document's reason, so its text should name device and facts. A method ``state()``, if there is one,
    returns what the source knows about frames that did not come, for that text.
    """

    def open(self, settings: Any) -> FrameFormat:
        """Stage: find the hardware as it is, remember it, configure it; say what the frames will look like.

        If it raises, `close` is called next and must undo the half that was done.

        Parameters
        ----------
        settings : object
            What `Detector.settings` returned.

        Returns
        -------
        FrameFormat
            Of every frame until `close`.
        """

    def frames(
        self, request: Request
    ) -> Iterator[Frame | MissingFrame | FrameFormat | Progress | Tables | WrittenFile | None]:
        """Acquire: yield `request.n_frames` frames in order, and nothing that is not of this acquisition.

        ``None`` first says "armed": a kickoff waits for it. A `FrameFormat`, before the first frame, replaces
        that of `open` where nobody was told of it yet. A frame known to be lost is yielded as
        `MissingFrame` in its place. Ending early means that the rest will not come. It may block; after
        `discard`, called from another thread, it must end within seconds, by returning or raising. When
        enough frames have come, or the acquisition is given up, the iterator is closed: clean up in
        ``finally``. Images that were yielded must not be written to again.

        Parameters
        ----------
        request : Request
            How many frames, and whether of a step or of a fly scan.

        Yields
        ------
        Frame, MissingFrame, FrameFormat, Progress, Tables, WrittenFile or None
        """

    def discard(self) -> None:
        """Give up the acquisition in flight; afterwards nothing of it may come. Safe at any time, and twice.

        The next call of `frames` starts anew.
        """

    def close(self) -> None:
        """Unstage: leave the hardware as `open` found it. Safe from any state, and twice."""
