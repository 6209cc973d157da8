"""An acquisition of the standard DAQ in our own words, the same for all generations of it.

Source: wire reference std-daq, sections 5 and 12 (states), 9 (files).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from .std_daq import AcquisitionState, DaqStatus


class WritingState(StrEnum):
    """How far an acquisition is. The last three are its end."""

    IDLE = "idle"
    STARTING = "starting"
    WAITING = "waiting for images"
    WRITING = "writing"
    CLOSING = "closing"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Writing:
    """What a DAQ says about the acquisition it does, or did last.

    Attributes
    ----------
    state : WritingState
    words : str
        All of it in the DAQ's own words, for messages.
    run_id : int or None
        Whose it is; None where there is none, or the DAQ does not tell.
    text : str
        The DAQ's own text about it; empty while it has none.
    writer_state, acquisition_state : str
        The DAQ's own names of the states; empty where it has none.
    n_images : int
        The request, never the number written.
    n_requested, n_completed : int
        Images handed to the writers, and acknowledged by them; both exact at the end.
    is_exact : bool
        Whether the counts at the end are those of the files; else these must be looked into.
    start_time, stop_time : float or None
        Seconds since the epoch, clock of the DAQ's host; None while, or where, it does not tell.
    """

    state: WritingState
    words: str
    run_id: int | None = None
    text: str = ""
    writer_state: str = ""
    acquisition_state: str = ""
    n_images: int = 0
    n_requested: int = 0
    n_completed: int = 0
    is_exact: bool = True
    start_time: float | None = None
    stop_time: float | None = None

    def __str__(self) -> str:
        return self.words


_STATES = {
    AcquisitionState.WAITING_IMAGES: WritingState.WAITING,
    AcquisitionState.ACQUIRING_IMAGES: WritingState.WRITING,
    AcquisitionState.WRITING: WritingState.WRITING,
    AcquisitionState.FLUSHING_IMAGES: WritingState.CLOSING,
    AcquisitionState.FAILED: WritingState.FAILED,
}


def writing_of(status: DaqStatus) -> Writing:
    """Return a status of D1 or D2 in our own words."""
    a = status.acquisition
    if a is None:
        return Writing(WritingState.IDLE, str(status), writer_state=str(status.state))
    interrupted = a.message.startswith("Interrupted")
    ended = WritingState.INTERRUPTED if interrupted else WritingState.FINISHED
    return Writing(
        state=_STATES.get(a.state, ended),
        words=str(status),
        run_id=a.run_id,
        text=a.message,
        writer_state=str(status.state),
        acquisition_state=str(a.state),
        n_images=a.n_images,
        n_requested=a.n_requested,
        n_completed=a.n_completed,
        start_time=a.start_time,
        stop_time=a.stop_time,
    )


GOOD, MISSING_PACKETS, MISMATCHED, NOT_KNOWN = range(4)
"""What became of an image, whatever generation wrote it: the codes of D1 and D2, and one more."""


@dataclass(frozen=True, slots=True)
class Column:
    """Where a file has one number per image: a dataset, or a field of a compound one."""

    dataset: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Where a file has what, and what its statuses mean.

    Attributes
    ----------
    images : str
        Path of the dataset, (n, y, x).
    image_id, status : Column
        Frame numbers, and the DAQ's judgement of each image.
    codes : Mapping[int, int]
        Value of the status in the file to `GOOD`, `MISSING_PACKETS` or `MISMATCHED`; others are `NOT_KNOWN`.
    """

    images: str
    image_id: Column
    status: Column
    codes: Mapping[int, int] = field(default_factory=lambda: {0: GOOD, 1: MISSING_PACKETS, 2: MISMATCHED})

    @property
    def has_columns(self) -> bool:
        """Whether ids and statuses are datasets of their own, with our codes: documents can name them."""
        plain = self.image_id.field is None and self.status.field is None
        return plain and all(value == code for value, code in self.codes.items())


def layout_of_one_file(detector_name: str) -> FileLayout:
    """Return the layout of D1 and D2."""
    group = f"/{detector_name}"
    return FileLayout(f"{group}/data", Column(f"{group}/image_id"), Column(f"{group}/status"))


def layout_of_several_files(detector_name: str) -> FileLayout:
    """Return the layout of each file of D3, where 1 is good and 0 was never judged."""
    group = f"/{detector_name}"
    metadata = f"{group}/metadata"
    return FileLayout(
        f"{group}/data",
        Column(metadata, "image_id"),
        Column(metadata, "status"),
        {1: GOOD, 2: MISSING_PACKETS, 3: MISMATCHED},
    )


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of an acquisition, and which of its images it holds.

    Attributes
    ----------
    path : str
        On the DAQ's hosts.
    layout : FileLayout
    index, n_files : int
        Of the files that share the images, which one this is.
    block : int
        Images that follow each other in one file before the next file has its turn.
    """

    path: str
    layout: FileLayout
    index: int = 0
    n_files: int = 1
    block: int = 1

    def share(self, n_images: int) -> int:
        """Return how many of the first `n_images` images of the acquisition are in this file."""
        rounds, rest = divmod(n_images, self.block * self.n_files)
        return rounds * self.block + min(max(rest - self.index * self.block, 0), self.block)

    def places(self, n_images: int) -> npt.NDArray[np.int64]:
        """Return which of the first `n_images` images of the acquisition are in this file, in its order."""
        images: npt.NDArray[np.int64] = np.arange(n_images, dtype="i8")
        held: npt.NDArray[np.int64] = images[images // self.block % self.n_files == self.index]
        return held
