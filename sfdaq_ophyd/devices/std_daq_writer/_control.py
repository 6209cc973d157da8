"""The seam between the device and a DAQ of any generation: what is asked of it, and what can go wrong."""

from __future__ import annotations

import itertools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from ...clients.std_daq import StdDaqClient
from ...clients.std_daq_socket import StdDaqWriterSocket
from ...errors import (
    DetectorStateError,
    Discarded,
    FramesMissing,
    RequestError,
    ServiceTimeout,
    ServiceUnreachable,
    SfdaqError,
    WireError,
    shown_url,
)
from ...limits import Limit
from ...wire.std_daq import DataFile, WriteRequest, Writing, WritingState
from ...wire.std_daq_config import DaqConfig
from .._worker import Worker, ends_within
from ..debts import Debts
from ._rates import NO_IMAGES, Stats

logger = logging.getLogger(__name__)

DAQ_TEAM = "The writer process is dead or the service is blocked: the DAQ team must restart it"

PERIOD = 0.05
"""Seconds between two looks at the state; news shorten it."""

AWAY_LIMIT = 3.0
"""Seconds for which the DAQ need not answer while an acquisition goes on, as when something between fails."""

RESCUE_LIMIT = 12.0
"""Seconds for which a stop under way is waited for: the service gives up on a writer after 5."""

REACTION = 2.0
"""s for which a stop waits for a DAQ that hangs, or may hang; then it is left to a thread."""


class WriterNotReady(DetectorStateError):
    """The writer cannot be used now: somebody else writes, or it does not come back."""


class WriterFailed(DetectorStateError):
    """The DAQ reported that the acquisition failed; its own words are in the text."""


class WriterDead(DetectorStateError):
    """The writer was given images and acknowledges none of them any more."""


class StopUnanswered(DetectorStateError):
    """No image was written for too long, and nobody knows yet whether the writer is slow or dead."""


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


IsClosed = Callable[[], bool]

Client = TypeVar("Client", StdDaqClient, StdDaqWriterSocket)


class WriterControl(ABC, Generic[Client]):
    """A DAQ of one generation, as one device uses it; states and files are in our own words.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    writer : StdDaqClient or StdDaqWriterSocket
    dialect : {"flask", "fastapi", "websocket"}
        The generation.
    on_status : callable
        Called with what each look shows.

    Attributes
    ----------
    news : Event
        Set by whoever knows that the state has changed.
    dead : bool
        Whether the writer did not answer when it was used last, which was told.
    takes_images_from : str
        The moment from which images are in the files, in its own words.
    ready : str
        What it calls a writer that may start.
    """

    writer: Client
    takes_images_from: str
    ready: str
    gone: tuple[type[SfdaqError], ...] = (ServiceUnreachable, ServiceTimeout, WireError)

    def __init__(self, name: str, writer: Client, dialect: str, on_status: Callable[[Writing], None]):
        self._name, self.writer, self.dialect, self._on_status = name, writer, dialect, on_status
        self._config: DaqConfig | None = None
        self._ours: WriteRequest | None = None
        self._aside, self._aside_is_over = Worker(f"{name} aside"), threading.Event()
        self._aside_is_over.set()
        self._looks, self._shown, self._showing = itertools.count(1), 0, threading.RLock()
        self.news, self.dead = threading.Event(), False

    def config(self) -> DaqConfig | None:
        """Return what detector it writes; None if it is not configured."""
        self._config = self.writer.config()
        return self._config

    def _known_config(self) -> DaqConfig:
        config = self._config or self.config()
        if config is None:
            raise DetectorStateError(f"{self._name}: the DAQ has no configuration; set one first")
        return config

    def change_config(self, changes: Mapping[str, Any], timeout: float, *, again: bool = False) -> DaqConfig:
        """Change some keys of the configuration; return it once the DAQ is back, within `timeout` s.

        With `again` they are sent also if they are stored already.
        """
        self.writer.set_config(dict(changes), timeout=timeout, again=again)
        self.config()
        return self._known_config()

    def stats(self) -> Stats | None:
        """Return whoever knows the throughput; None if the DAQ does not tell."""
        return None

    @abstractmethod
    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return the files with the images of an acquisition."""

    @abstractmethod
    def makes(self, output_file: str) -> list[str]:
        """Return every file that an acquisition of this name makes, or overwrites."""

    @abstractmethod
    def make_ready(self) -> None:
        """Reset what may be reset once; refuse to touch somebody else's acquisition."""

    @abstractmethod
    def leave_ready(self) -> None:
        """Stop what is ours, reset what has failed; `WriterNotReady` if a person must. Safe twice."""

    @abstractmethod
    def start(self, request: WriteRequest, given_up: threading.Event, is_closed: IsClosed) -> None:
        """Start; returns once the writer takes images of this request, whose run id is the acquisition's.

        `given_up` ends it with `Discarded` where it hangs; what it began is stopped by `leave_ready`.
        `is_closed` tells whether its file is seen to be closed, where the DAQ does not tell whose acquisition
        it does.
        """

    @abstractmethod
    def close(self) -> None:
        """Close connections, unless they are needed still. Safe twice; the next call opens new ones."""

    def _show(self, look: int, writing: Writing) -> None:
        """Pass on what a look saw, whose number of `_looks` was taken when it began.

        Several threads may look at once: what one saw that began later stays.
        """
        with self._showing:
            if look > self._shown:
                self._shown = look
                self._on_status(writing)

    # ---- until the end ------------------------------------------------------------------------------

    @abstractmethod
    def _look_at(self, request: WriteRequest) -> Writing:
        """Look once; raise what keeps our acquisition from going on."""

    @abstractmethod
    def _note_end(self, writing: Writing) -> bool:
        """Tell whether our acquisition is over, and note it."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop, and return once the writer may start again; `WriterNotReady` if it does not come to that."""

    def watch(
        self,
        request: WriteRequest,
        given_up: threading.Event,
        timeout: float,
        why_silent: Callable[[Writing], str] = lambda writing: NO_IMAGES,
    ) -> Iterator[Writing]:
        """Yield how far our acquisition is, at each look; return once it is finished or interrupted.

        It has stalled after `timeout` s without a new image; `why_silent` says why the writer was given none,
        as far as anybody knows. `given_up` ends it with `Discarded`.
        """
        before, limit, away = None, Limit(timeout), Limit(AWAY_LIMIT)
        while True:
            if given_up.is_set():
                raise Discarded(f"{self._name}: {request.output_file} given up")
            try:
                writing = self._look_at(request)
            except self.gone as exc:
                if not away.reached():
                    away.wait(given_up, PERIOD)
                    continue
                raise DaqGone(
                    f"{self._name}: the DAQ is gone while {request.output_file} was written: {exc}"
                ) from exc
            away.restart()
            yield writing
            if writing.state is WritingState.FAILED:
                raise WriterFailed(
                    f"{self._name}: the DAQ failed: {writing.text!r}, {writing.n_completed} of "
                    f"{request.n_images} images in {request.output_file}"
                )
            if self._note_end(writing):
                return
            if (now := (writing.state, writing.n_completed)) != before:
                before = now
                limit.restart()
            elif limit.reached():
                self._stall(request, writing, timeout, why_silent)
            self._wait(limit)

    def _stall(
        self, request: WriteRequest, writing: Writing, timeout: float, why_silent: Callable[[Writing], str]
    ) -> None:
        no_image = f"no image written to {request.output_file} for {timeout:g} s"
        came = f"{self._name}: {writing.n_completed} of {request.n_images} frames came; {no_image}"
        if writing.n_requested > writing.n_completed:
            self.dead = True
            self._stop_aside()
            raise WriterDead(
                f"{came}: the writer does not acknowledge the images it was given; last state {writing}. "
                f"{DAQ_TEAM}"
            )
        why = why_silent(writing)
        try:
            answered = self._stop_while_it_reacts()
        except WriterNotReady as exc:
            self.dead = True
            raise WriterDead(f"{came}; then {exc}") from exc
        if not answered:  # nobody waits for it here, and nothing is taken again
            self.dead = True
            raise StopUnanswered(
                f"{came}: {why}; its stop was not answered within {REACTION:g} s: it may be dead. {DAQ_TEAM}"
            )
        raise Stalled(
            self._name,
            asked=request.n_images,
            got=writing.n_completed,
            detail=f"{no_image}: {why}; last state {writing}",
        )

    # ---- the same words for the same thing, in every generation --------------------------------------

    def _occupied(self, shown: object) -> WriterNotReady:
        return WriterNotReady(
            f"{self._name}: somebody else is writing: {shown}. Wait for its end, or stop it"
        )

    def _double_start(self, started: str, shown: str) -> DoubleStart:
        return DoubleStart(
            f"{self._name}: started {started}, but {shown}: somebody else started at the same moment"
        )

    def _not_back(self, said: str) -> WriterNotReady:
        return WriterNotReady(f"{self._name}: the writer did not become {self.ready}: {said!r}. {DAQ_TEAM}")

    # ---- aside --------------------------------------------------------------------------------------

    def _wait(self, limit: Limit) -> None:
        """Wait for news, until the next look at the latest."""
        limit.wait(self.news, PERIOD)
        self.news.clear()

    def _quietly(self, leave: Callable[[], None]) -> None:
        """Leave the writer where nobody waits for it: what goes wrong is logged."""
        try:
            leave()
        except SfdaqError as exc:
            logger.error("%s", exc)

    def _stop_aside(self) -> threading.Event:
        """Stop in a thread of its own, for that may take seconds; return what is set once that has ended."""
        if self._aside_is_over.is_set():
            self._aside_is_over = self._aside.do(partial(self._quietly, self._stop))
        return self._aside_is_over

    def _stop_while_it_reacts(self) -> bool:
        """Stop; return False, and a thread goes on, where that is not answered for `REACTION` s."""
        problems: list[Exception] = []
        left = threading.Event()

        def stop() -> None:
            try:
                self._stop()
            except Exception as exc:
                problems.append(exc)
                if left.is_set():
                    logger.error("%s", exc)

        over = self._aside_is_over = self._aside.do(stop)
        try:
            reacts = self._reacts(over)
        finally:
            left.set()  # from now on nobody raises what goes wrong
        if problems:
            raise problems[0]
        return reacts

    def _reacts(self, over: threading.Event) -> bool:
        """Wait until a stop is over; return False if the DAQ does not react to it."""
        return ends_within(over, REACTION)

    def _wait_for_aside(self, seconds: float) -> None:
        if not ends_within(self._aside_is_over, seconds):
            raise WriterNotReady(
                f"{self._name}: what the DAQ was asked is not answered yet; once it is, the writer is stopped"
            )


BY_HAND = (
    "this device does not change it by itself: give either value to configure_daq, which sends it again; "
    "a DAQ that is not back then must be restarted by the DAQ team"
)


class Configuring:
    """Changes of one DAQ's configuration: one that does not come to its end is remembered, and told."""

    def __init__(self, name: str, address: str, directory: Path):
        self._debts = Debts(name, f"{shown_url(address)} configuration", directory, advice=BY_HAND)

    def change(self, control: WriterControl, changes: Mapping[str, Any], timeout: float) -> DaqConfig:
        """Change some keys within `timeout` s, noted until the DAQ is back; return the configuration then.

        What could not be finished before is sent although it may be stored already.
        """
        if not isinstance(changes, Mapping):
            raise RequestError("daq_config", changes, "a dictionary")
        stored, owed = control.config(), self._debts.owed(surely=True)
        before = {key: stored.raw.get(key) if stored else None for key in changes}
        self._debts.hold({key: (before[key], changes[key]) for key in changes if key not in owed})
        try:
            config = control.change_config(changes, timeout, again=bool(owed))
        except RequestError:  # nothing was sent
            raise
        except BaseException as exc:
            for key, value in changes.items():
                if key not in owed or owed[key].back != value:  # else it is what was to be put back
                    self._debts.owe(key, left=value, back=before[key], reason=exc)
            raise
        finally:
            self._debts.release()
        self._debts.forget(*changes)
        return config

    def compare(self, config: DaqConfig) -> None:
        """Say in the log what is not finished; forget what is as it was before."""
        for key, debt in self._debts.owed().items():
            if config.raw.get(key) == debt.back:
                self._debts.forget(key)
            else:
                logger.warning("%s", debt)

    @property
    def unfinished(self) -> str:
        """What is not finished, and what a person does; empty if nothing is."""
        return "; ".join(map(str, self._debts.owed().values()))
