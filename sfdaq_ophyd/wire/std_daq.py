"""Write requests, status and files of the standard DAQ: of D1 and D2, and in words that fit D3 too.

Source: wire reference std-daq, sections 4 (write request), 5 and 12 (states), 9 (files).
"""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, SupportsIndex, TypeVar

from ..errors import RequestError, WireError

MAX_IMAGES = 2**31 - 1
"""Largest n_images the driver can pass on; one more and the writer ends in UNKNOWN."""

SLOW_CREATION_IMAGES = 20_000
"""From about here creating the file takes longer than the 5 s the service waits (measured: 4.3 s)."""

MAX_RUN_ID = 2**64 - 1
"""run_id is an unsigned 64-bit integer."""

MAX_TIME = 2.0**53
"""s since the epoch; nothing beyond is a time."""

OUTPUT_FILE = re.compile(r"^/[A-Za-z0-9_\-/]*\..+[^/]$")
"""What the service takes for a valid path, apart from the missing leading slash it reports first."""


class WriterState(StrEnum):
    """State of the writer as the service knows it: its last word, not its health."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    WRITING = "WRITING"


class AcquisitionState(StrEnum):
    """State of the newest acquisition. The last two are documented, only the oldest simulator shows them."""

    WAITING_IMAGES = "WAITING_IMAGES"
    ACQUIRING_IMAGES = "ACQUIRING_IMAGES"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    WRITING = "WRITING"
    FLUSHING_IMAGES = "FLUSHING_IMAGES"


def check_output_file(path: object) -> str:
    """Return `path` if the service would take it; RequestError otherwise."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise RequestError("output_file", path, 'an absolute path as text, starting with "/"')
    if not OUTPUT_FILE.match(path) or any(ord(c) < 32 for c in path):
        raise RequestError(
            "output_file",
            path,
            'only letters, digits, "_", "-" and "/" up to the first dot, then an extension of at least '
            "two characters",
        )
    return path


def as_integer(field: str, value: object, low: int, high: int) -> int:
    """Return an integer, an integral float or a text of digits as int; RequestError otherwise.

    A truth value is not a number here, and 5.7 is not 5.
    """
    number = None
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,20}\s*", value, re.ASCII):
        number = int(value)
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(TypeError):  # an array of several
            number = operator.index(value)
    if number is None or not low <= number <= high:
        raise RequestError(field, value, f"an integer from {low} to {high}")
    return number


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """One acquisition: which file, how many images, under which id.

    Parameters
    ----------
    output_file : str
        Absolute path on the DAQ's hosts. An existing file is overwritten without warning.
    n_images : int
        1 to `MAX_IMAGES`.
    run_id : int
        0 to `MAX_RUN_ID`; tells our acquisition from everybody else's.
    """

    output_file: str
    n_images: int
    run_id: int

    def __post_init__(self) -> None:
        check_output_file(self.output_file)
        object.__setattr__(self, "n_images", as_integer("n_images", self.n_images, 1, MAX_IMAGES))
        if isinstance(self.run_id, str | float):
            raise RequestError("run_id", self.run_id, f"an integer from 0 to {MAX_RUN_ID}")
        object.__setattr__(self, "run_id", as_integer("run_id", self.run_id, 0, MAX_RUN_ID))

    @classmethod
    def from_dict(cls, request: object, *, default_run_id: int) -> WriteRequest:
        """Read the dictionary scripts pass to the published client; keys it does not know are ignored."""
        if not isinstance(request, Mapping):
            raise RequestError("write request", request, "a dictionary with output_file and n_images")
        for key in ("output_file", "n_images"):
            if request.get(key) is None:
                raise RequestError(key, None, "a value: the field is mandatory")
        return cls(request["output_file"], request["n_images"], request.get("run_id", default_run_id))

    def to_dict(self) -> dict[str, str | int]:
        """Return the JSON body of ``write_async`` and ``write_sync``."""
        return {"n_images": self.n_images, "output_file": self.output_file, "run_id": self.run_id}


@dataclass(frozen=True, slots=True)
class AcquisitionRecord:
    """What the service says about its newest acquisition.

    Attributes
    ----------
    n_images : int
        The request, never the number written.
    n_requested, n_completed : int
        Images handed to the writer and acknowledged by it; both exact once FINISHED.
    start_time, stop_time : float or None
        Seconds since the epoch, clock of the DAQ's host. `stop_time` is None while it runs.
    """

    state: AcquisitionState
    message: str
    output_file: str
    n_images: int
    run_id: int
    n_requested: int
    n_completed: int
    start_time: float | None
    stop_time: float | None

    def is_answer_to(self, request: WriteRequest) -> bool:
        """Tell whether this is our acquisition: same run id and same file."""
        return self.run_id == request.run_id and self.output_file == request.output_file

    @classmethod
    def from_dict(cls, record: object) -> AcquisitionRecord | None:
        """Read an acquisition object; None where there was none yet (null, or without file and run id)."""
        if record is None:
            return None
        fields: Mapping[str, Any] = record if isinstance(record, Mapping) else {}
        info, stats = _mapping(fields, "info"), _mapping(fields, "stats")
        if "output_file" not in info or "run_id" not in info:
            return None
        return cls(
            state=_state(AcquisitionState, fields, "acquisition.state"),
            message=str(fields.get("message") or ""),
            output_file=str(info["output_file"]),
            n_images=_count(info, "n_images"),
            run_id=_count(info, "run_id"),
            n_requested=_count(stats, "n_write_requested"),
            n_completed=_count(stats, "n_write_completed"),
            start_time=_time(stats, "start_time"),
            stop_time=_time(stats, "stop_time"),
        )


@dataclass(frozen=True, slots=True)
class DaqStatus:
    """Writer state and newest acquisition, alike for both dialects.

    Attributes
    ----------
    message : str
        The service's last word, also where it is of no acquisition that has a file.
    """

    state: WriterState
    acquisition: AcquisitionRecord | None
    message: str = ""

    @classmethod
    def from_dict(cls, status: object) -> DaqStatus:
        """Read a status object; WireError if it is none."""
        if not isinstance(status, Mapping):
            raise WireError(f"status: expected an object, got {status!r:.200}")
        record = status.get("acquisition")
        return cls(
            state=_state(WriterState, status, "state"),
            acquisition=AcquisitionRecord.from_dict(record),
            message=str(record.get("message") or "") if isinstance(record, Mapping) else "",
        )

    def __str__(self) -> str:
        a = self.acquisition
        if a is None:
            return f"{self.state}, no acquisition"
        return f"{self.state} / {a.state}, message {a.message!r}, {a.n_completed} of {a.n_images} images"


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
        n_requested=a.n_requested,
        n_completed=a.n_completed,
        start_time=a.start_time,
        stop_time=a.stop_time,
    )


GOOD, MISSING_PACKETS, MISMATCHED, NOT_KNOWN = range(4)
"""What became of an image, whatever generation wrote it: the codes of D1 and D2, and one more."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Where a file has what, and what its statuses mean.

    Attributes
    ----------
    detector_name : str
        Its group.
    compound : bool
        Whether ids and statuses are fields of one dataset, where 1 is good and 0 was never judged, as in each
        of the files of D3. Else they are datasets of their own, with our codes: documents can name them.
    """

    detector_name: str
    compound: bool = False

    @property
    def images(self) -> str:
        """Path of the dataset, (n, y, x)."""
        return f"/{self.detector_name}/data"

    def column(self, what: str) -> tuple[str, str | None]:
        """Return path and field of the "image_id", or the "status", of each image; None without fields."""
        group = f"/{self.detector_name}"
        return (f"{group}/metadata", what) if self.compound else (f"{group}/{what}", None)

    @property
    def good(self) -> int:
        """Status of a good image; the next ones are those of `MISSING_PACKETS` and `MISMATCHED`."""
        return GOOD + self.compound


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
        return sum(map(len, self.places(n_images)))

    def places(self, n_images: int) -> list[range]:
        """Return which of the first `n_images` images of the acquisition are in this file, in its order."""
        if 1 in (self.block, self.n_files):
            return [range(self.index, n_images, self.n_files)]
        begins = range(self.index * self.block, n_images, self.n_files * self.block)
        return [range(begin, min(begin + self.block, n_images)) for begin in begins]


def _mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    if not isinstance(value, Mapping):
        raise WireError(f"acquisition.{key}: expected an object, got {value!r:.200}")
    return value


_State = TypeVar("_State", bound=StrEnum)


def _state(enum: type[_State], record: Mapping[str, Any], field: str) -> _State:
    value: Any = record.get("state")
    try:
        return enum(value)
    except ValueError:
        raise WireError(f"{field}: expected one of {', '.join(enum)}, got {value!r:.200}") from None


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RUN_ID:
        raise WireError(f"{key}: expected an unsigned integer, got {value!r:.200}")
    return value


def _time(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_TIME:
        raise WireError(f"{key}: expected seconds or null, got {value!r:.200}")
    return float(value)
