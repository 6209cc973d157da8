"""The websocket generation, D3: from idle to closed files, out of statuses that name no acquisition.

Source: wire reference std-daq, section 12. What is ours is known by having followed it from its start. A
start is never repeated, for it may be carried out late; `stop` is sent to an acquisition of ours only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ...clients.std_daq_socket import CREATION_LIMIT, Pushes, StdDaqWriterSocket
from ...errors import (
    DetectorStateError,
    Discarded,
    ServiceTimeout,
    ServiceUnreachable,
    UnknownOutcome,
)
from ...limits import Limit
from ...wire.std_daq import DataFile, WriteRequest, Writing, WritingState
from ...wire.std_daq_socket import (
    PushedStatus,
    Tracker,
    all_files,
    data_files,
    number_of_writers,
    split_name,
    start_command,
    why_not_written,
)
from . import _control
from ._control import (
    DAQ_TEAM,
    PERIOD,
    DaqGone,
    IsClosed,
    WriterControl,
    WriterDead,
    WriterFailed,
)

logger = logging.getLogger(__name__)

BEGIN_LIMIT = 5.0
"""s until the driver shows that it has begun."""

DOUBT = 1.0
"""s for which our file stays closed and the driver, connected anew, takes images: somebody else's."""


class SocketControl(WriterControl[StdDaqWriterSocket]):
    """A DAQ with control by websocket."""

    takes_images_from = "a moment after waiting_for_first_image on"
    ready = "idle"

    def __init__(
        self, name: str, writer: StdDaqWriterSocket, dialect: str, on_status: Callable[[Writing], None]
    ):
        super().__init__(name, writer, dialect, on_status)
        self.news = writer.news
        self._lock = threading.Lock()
        self._tracker, self._seen, self._hangs = Tracker(0), 0, False
        self._pushes: Pushes | None = None
        self._doubt: Limit | None = None
        self._is_closed: IsClosed = lambda: False

    # ---- the DAQ ------------------------------------------------------------------------------------

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return one file per writer: image i is in file ``i % N``."""
        config = self._known_config()
        return data_files(request.output_file, config.detector_name, number_of_writers(config.raw))

    def makes(self, output_file: str) -> list[str]:
        """Return the files of the writers, that of the metadata, and the name itself."""
        return [output_file, *all_files(output_file, number_of_writers(self._known_config().raw))]

    def close(self) -> None:
        """Close the connection, unless an acquisition of ours may still begin, and must be known then."""
        if self._ours is None:
            self.writer.close()

    # ---- staging ------------------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Stop what is left of ours; refuse others' acquisitions, and images that cannot be written."""
        if why := why_not_written(self._known_config()):
            raise DetectorStateError(f"{self._name}: {why}")
        self.dead = False
        status = self._status()
        if not status.is_idle:
            if not (self._is_ours_running() and self._tracker.followed):
                raise self._occupied(status)
            self.leave_ready()
        self._ours = None

    def leave_ready(self) -> None:
        """Stop what is ours; what does not react is remembered, and stopped by a thread, or before the next.

        A `dead` writer is left alone: what it was sent may still be carried out.
        """
        if self._ours is None or self.dead:
            return
        if self._is_ours_running():
            self._stop_what_goes_on()
        if self._is_ours_running():
            raise self._not_back(str(self._status()))
        self._ours = None

    def _stop_what_goes_on(self) -> None:
        """Return once it is stopped, or was not; sooner where it creates files, or was given up before."""
        self._follow(self._stop_aside(), lambda: self._hangs or self._tracker.state is WritingState.STARTING)

    def _reacts(self, over: threading.Event) -> bool:
        return self._follow(over, lambda: True)

    def _follow(self, over: threading.Event, may_hang: Callable[[], bool]) -> bool:
        """Wait until a stop is over; return False if it `may_hang` and nothing changes for `REACTION` s."""
        before, limit = "", Limit(_control.REACTION)
        while not over.wait(PERIOD):
            if (now := self._look().words) != before:
                before = now
                limit.restart()
            elif may_hang() and limit.reached():
                return False
        return True

    def _stop(self) -> None:
        try:
            self.writer.stop()
        except ServiceTimeout as exc:
            self._hangs = True
            raise self._not_back(exc.last_seen) from exc
        self._look()

    def _is_ours_running(self) -> bool:
        self._look()
        while self._ours is not None and (doubt := self._doubt) is not None:
            self._wait(doubt)
            self._look()
        return self._ours is not None and not self._tracker.ended

    # ---- starting -----------------------------------------------------------------------------------

    def start(self, request: WriteRequest, given_up: threading.Event, is_closed: IsClosed) -> None:
        """Start; returns once the writer takes images of this request."""
        user_id = self._known_config().writer_user_id
        folder, prefix = split_name(request.output_file)
        command = start_command(folder, prefix, request.n_images, user_id if user_id > 0 else None)
        if not self.writer.settled_status().is_idle:
            self.make_ready()
        try:
            with self._lock:
                self._tracker, self._is_closed = Tracker(request.n_images), is_closed
                self._ours, self._hangs, self._doubt, self.dead = request, False, None, False
                self._pushes = self.writer.connect()
                self._seen = self.writer.send(command)
            self._follow_start(request, given_up)
        except (ServiceUnreachable, UnknownOutcome) as exc:
            raise DaqGone(
                f"{self._name}: the DAQ is gone while {request.output_file} was started: {exc}"
            ) from exc

    def _follow_start(self, request: WriteRequest, given_up: threading.Event) -> None:
        begin, limit, tracker = Limit(BEGIN_LIMIT), Limit(CREATION_LIMIT), self._tracker
        while True:
            self._look()
            if tracker.rejected:
                self._ours = None
                raise self._occupied(f"the DAQ said {tracker.text!r}")
            if tracker.state is WritingState.FAILED:
                self._ours = None
                raise WriterFailed(
                    f"{self._name}: the DAQ could not start {request.output_file}: {tracker.text!r}; is the "
                    "folder there, and may the DAQ write to it?"
                )
            if tracker.state not in (WritingState.IDLE, WritingState.STARTING):
                return
            if given_up.is_set() and tracker.state is WritingState.STARTING:  # else a stop is not heard
                raise Discarded(f"{self._name}: {request.output_file} given up")
            if tracker.state is WritingState.IDLE and begin.reached():
                self._ours = None
                raise WriterFailed(
                    f"{self._name}: the DAQ did not begin {request.output_file} within {begin.seconds:g} s: "
                    f"it shows {self._status()}. It is not asked again: all may be over already"
                )
            if limit.reached():
                self.dead = True
                raise WriterDead(
                    f"{self._name}: the DAQ creates {request.output_file} for {limit.seconds:g} s now: one "
                    f"of its writers does not answer, and will write it when it is back. {DAQ_TEAM}"
                )
            self._wait(limit)

    # ---- until the end ------------------------------------------------------------------------------

    def _look_at(self, request: WriteRequest) -> Writing:
        writing = self._look()
        if self._tracker.rejected:
            self._ours = None
            raise self._double_start(request.output_file, f"the DAQ said {self._tracker.text!r}")
        return writing

    def _note_end(self, writing: Writing) -> bool:
        if self._tracker.ended:
            self._ours = None
        return self._tracker.ended

    def _status(self) -> PushedStatus:
        self._look()
        return self.writer.status()

    def _look(self) -> Writing:
        """Take in what was pushed since the last look; return how far our acquisition is."""
        with self._lock:
            pushes, tracker, ours = self.writer.connect(), self._tracker, self._ours
            look = next(self._looks)
            newest = pushes.since(0)[0][-1]
            if pushes is not self._pushes:
                self._pushes, self._seen, tracker.followed = pushes, 0, False
                self._doubt = None if ours is None or tracker.ended else Limit(DOUBT)
            if not (ours and self._doubt and self._is_doubtful(ours, newest, self._doubt)):
                statuses, self._seen = pushes.since(self._seen)
                for status in statuses:
                    tracker.see(status)
            writing = tracker.writing(newest, None if ours is None else ours.run_id)
        self._show(look, writing)
        return writing

    def _is_doubtful(self, ours: WriteRequest, newest: PushedStatus, doubt: Limit) -> bool:
        """Tell, connected anew, whether this may be somebody else's acquisition: if ours stays closed."""
        if newest.takes_images and self._is_closed():
            if not doubt.reached():  # ours may just have come to its end
                return True
            self._tracker.replaced(newest)
        self._doubt, goes_on = None, self._tracker.text if self._tracker.ended else "it goes on"
        logger.warning("%s: connected to the DAQ again, %s: %s", self._name, ours.output_file, goes_on)
        return False
