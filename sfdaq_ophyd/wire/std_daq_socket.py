"""Control of the standard DAQ by websocket (D3): commands, pushed statuses, what they say of an acquisition.

Source: wire reference std-daq, section 12. A command with a value of a wrong type kills the driver, so
commands are made here alone. Pushed statuses name no acquisition and can skip states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from ..errors import RequestError, WireError
from .json_text import load_json
from .std_daq import MAX_IMAGES, DataFile, FileLayout, Writing, WritingState, as_integer
from .std_daq_config import DaqConfig

MAX_MESSAGE = 2**16
"""Longest message of the driver that is taken, bytes."""

BLOCK_SIZE = 16 * 2**20
"""Largest image that can be written, bytes, where the configuration does not say ``gpfs_block_size``."""


NOT_SHOWN = "state and progress are not shown: a listener can take the end of an acquisition from a scan"
"""What a program says that only looks: the end is handed to one client, which resets the driver's state."""


class PushedState(StrEnum):
    """What the driver says it does; `REJECTED` is its answer to a command while it is busy."""

    IDLE = "idle"
    STARTED = "started"
    CREATING_FILE = "creating_file"
    FILE_CREATED = "file_created"
    WAITING_FOR_FIRST_IMAGE = "waiting_for_first_image"
    RECORDING = "recording"
    STOP = "stop"
    SAVING_FILE = "saving_file"
    FILE_SAVED = "file_saved"
    ERROR = "error"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class PushedStatus:
    """One message of the driver.

    Attributes
    ----------
    count : int or None
        Images handed to the writers, while it records and saves.
    reason : str
        Why it refused; empty where it does not say.
    """

    state: PushedState
    count: int | None = None
    reason: str = ""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is going on: idle, or over and about to be."""
        return self.state is PushedState.IDLE or self.is_over

    @property
    def takes_images(self) -> bool:
        """Whether an acquisition has begun, and is not about to end."""
        return _SHOWN.get(self.state) in (WritingState.STARTING, WritingState.WAITING, WritingState.WRITING)

    @property
    def is_over(self) -> bool:
        """Whether an acquisition has just ended: the driver is about to be idle, and takes no start yet."""
        return self.state in (PushedState.FILE_SAVED, PushedState.ERROR)

    @classmethod
    def from_text(cls, text: str | bytes) -> PushedStatus:
        """Read a message; WireError if it is no status."""
        record = load_json(text)
        if not isinstance(record, Mapping):
            raise WireError(f"status of the DAQ: expected an object, got {record!r:.200}")
        try:
            state = PushedState(str(record.get("status")))
        except ValueError:
            raise WireError(
                f"status: expected one of {', '.join(PushedState)}, got {record.get('status')!r:.200}"
            ) from None
        count = record.get("count")
        if count is not None and (type(count) is not int or not 0 <= count < 2**63):
            raise WireError(f"count: expected an unsigned integer, got {count!r:.200}")
        return cls(state, count, str(record.get("reason") or ""))

    def __str__(self) -> str:
        count = "" if self.count is None else f", {self.count} images"
        return f"{self.state}{count}{f': {self.reason}' if self.reason else ''}"


STOP_COMMAND = json.dumps({"command": "stop"})


def start_command(path: object, file_prefix: object, n_images: object, writer_id: int | None = None) -> str:
    """Return the command that starts an acquisition, every value checked.

    Parameters
    ----------
    path : str
        Folder on the DAQ's hosts, absolute.
    file_prefix : str
        How the names of the files begin.
    n_images : int
    writer_id : int, optional
        Number of the account that owns the files, where the DAQ switches accounts.

    Returns
    -------
    str

    Raises
    ------
    RequestError
    """
    if not isinstance(path, str) or not path.startswith("/") or not _is_plain(path):
        raise RequestError("path", path, 'an absolute path as text, starting with "/"')
    if not isinstance(file_prefix, str) or "/" in file_prefix or not _is_plain(file_prefix):
        raise RequestError("file_prefix", file_prefix, "the beginning of a file name as text, without '/'")
    command = {
        "command": "start",
        "path": path,
        "file_prefix": file_prefix,
        "n_image": as_integer("n_images", n_images, 1, MAX_IMAGES),
    }
    if writer_id is not None:
        command["writer_id"] = as_integer("writer_id", writer_id, 0, 2**31 - 1)
    return json.dumps(command)


def split_name(output_file: str) -> tuple[str, str]:
    """Return folder and prefix for the command: the files begin with the name, without its extension."""
    path = PurePosixPath(output_file)
    return str(path.parent), f"{path.stem}_"


def data_files(output_file: str, detector_name: str, n_writers: int) -> list[DataFile]:
    """Return the file of each writer; image i is in file ``i % n_writers``."""
    layout = FileLayout(detector_name, compound=True)
    paths = all_files(output_file, n_writers)[:n_writers]
    return [DataFile(path, layout, k, n_writers) for k, path in enumerate(paths)]


def all_files(output_file: str, n_writers: int) -> list[str]:
    """Return the files that an acquisition makes: those of the writers, and that of the metadata."""
    folder, prefix = split_name(output_file)
    return [str(PurePosixPath(folder) / f"{prefix}{k}.h5") for k in (*range(n_writers), "Meta")]


def _is_plain(text: str) -> bool:
    return text.isprintable() and text.isascii() and len(text) < 4096


class Tracker:
    """One acquisition out of the statuses pushed since its start.

    Parameters
    ----------
    n_images : int
        That it asked for.

    Attributes
    ----------
    state : WritingState
        IDLE until the driver shows more than that.
    count : int
        Images handed to the writers, as far as that was told.
    is_exact : bool
        Whether `count` is the number of images written: not where the end was not shown to us.
    ended, rejected, stopped : bool
        Whether it is over; was never begun, for the driver was busy; was told to stop.
    followed : bool
        Whether nothing pushed since its start was missed; else no count tells what its files hold.
    text : str
        The driver's last word on it.
    """

    def __init__(self, n_images: int):
        self.n_images, self.state, self.count, self.text = n_images, WritingState.IDLE, 0, ""
        self.is_exact = self.ended = self.rejected = self.stopped = False
        self.followed = True

    def see(self, status: PushedStatus) -> None:
        """Take in the next status."""
        if self.ended:
            return
        state, before = status.state, self.state
        if state in (PushedState.REJECTED, PushedState.ERROR):
            self.rejected = state is PushedState.REJECTED
            self._end(WritingState.FAILED, status)
        elif state is PushedState.IDLE:
            if before is not WritingState.IDLE:
                self._end(None, status)
        elif state is PushedState.FILE_SAVED:
            self.is_exact = before is WritingState.CLOSING
            self._end(None, status)
        elif state is PushedState.STOP:
            self.stopped, self.text = True, str(state)
        elif _ORDER.index(_SHOWN[state]) < _ORDER.index(before) or not self._can_follow(status.count or 0):
            self.replaced(status)
        else:
            self.state, self.text = _SHOWN[state], str(state)
            self.count = max(self.count, status.count or 0)

    def replaced(self, status: PushedStatus) -> None:
        """Note that it is over, for what is shown now is an acquisition of somebody else."""
        self._end(None, status)
        self.text = f"{status}: that is an acquisition of somebody else since"

    def _can_follow(self, count: int) -> bool:
        return self.count <= count <= self.n_images

    def writing(self, newest: PushedStatus, run_id: int | None) -> Writing:
        """Return how far it is, in our own words; without a run id only the state in what was said last."""
        if run_id is None:
            return Writing(WritingState.IDLE, str(newest), writer_state=str(newest.state))
        return Writing(
            state=self.state,
            words=f"{newest.state}, {self.count} of {self.n_images} images",
            run_id=run_id,
            text=self.text,
            writer_state=str(newest.state),
            acquisition_state=self.text,
            n_requested=self.count,
            n_completed=self.count,
            is_exact=self.is_exact,
        )

    def _end(self, state: WritingState | None, status: PushedStatus) -> None:
        whole = self.count >= self.n_images
        self.state = state or (WritingState.FINISHED if whole else WritingState.INTERRUPTED)
        self.is_exact = self.followed and (self.is_exact or whole)
        self.text = str(PushedState.STOP) if self.stopped and state is None else str(status)
        self.ended = True


_ORDER = list(WritingState)

_SHOWN = {
    PushedState.STARTED: WritingState.STARTING,
    PushedState.CREATING_FILE: WritingState.STARTING,
    PushedState.FILE_CREATED: WritingState.STARTING,
    PushedState.WAITING_FOR_FIRST_IMAGE: WritingState.WAITING,
    PushedState.RECORDING: WritingState.WRITING,
    PushedState.SAVING_FILE: WritingState.CLOSING,
}


def why_not_written(config: DaqConfig) -> str:
    """Return why the DAQ cannot write the images of a configuration; empty if it can."""
    number_of_writers(config.raw)
    size = config.image_pixel_height * config.image_pixel_width * config.bit_depth // 8
    largest = config.raw.get("gpfs_block_size") or BLOCK_SIZE
    if isinstance(largest, int) and size > largest:
        return f"an image of {size} bytes cannot be written: the DAQ takes {largest} at most"
    return ""


def number_of_writers(config: Mapping[str, Any]) -> int:
    """Return how many files an acquisition has; WireError if a configuration does not say."""
    n = config.get("number_of_writers")
    if type(n) is not int or not 1 <= n <= 1000:
        raise WireError(f"config: expected number_of_writers as an integer of 1 or more, got {n!r:.200}")
    return n
