"""The driver of the websocket generation: one state, one acquisition at a time, its images dealt to writers.

As in wire reference std-daq, section 12. A driver stands for one life of the process: what kills it ends it,
and a new one begins idle. What it sends to a writer that is dead waits until that one is back.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..faults import Faults
from .image_source import Image
from .settings import Timing
from .websocket_commands import DriverDied, Start, parse
from .websocket_files import Writer

logger = logging.getLogger(__name__)

IDLE, CREATING, WAITING, RECORDING = "idle", "creating_file", "waiting_for_first_image", "recording"
STOP, SAVING, SAVED, ERROR = "stop", "saving_file", "file_saved", "error"

MAX_QUEUED = 1000
"""Images that wait for the driver; later ones are lost, as on the real image socket."""

BEHIND = 20
"""Images that wait, from which on the detector of a patient clock waits, too."""


_numbers = itertools.count(1)
"""Of acquisitions, in all lives."""


class WebsocketDriver:
    """One life of the driver process.

    Parameters
    ----------
    writers : sequence of Writer
        Image i of an acquisition goes to writer ``i % len(writers)``.
    metadata_writer : Writer or None
        It gets each of them.
    timing : Timing
    faults : Faults
    on_change : callable
        Called when the state has changed.
    let_look : callable
        Called with a state before it is over; returns when all sessions have told it, or hang.
    on_death : callable
        Called when a fault has killed the process, with it and the s after which it is back, or None.

    Attributes
    ----------
    alive : bool
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        metadata_writer: Writer | None,
        timing: Timing,
        faults: Faults,
        on_change: Callable[[], object],
        let_look: Callable[[str], object],
        on_death: Callable[[WebsocketDriver, float | None], object],
    ):
        self._writers, self._metadata_writer = list(writers), metadata_writer
        self._timing, self._faults = timing, faults
        self._on_change, self._let_look, self._on_death = on_change, let_look, on_death
        self._lock = threading.Lock()
        self._state = self._shown = IDLE
        self._count = 0
        self._starts: queue.SimpleQueue[Start | None] = queue.SimpleQueue()
        self._images: queue.Queue[Image] = queue.Queue(MAX_QUEUED)
        self._subscribed, self._blocked, self._acquisition = False, False, 0
        self._stop_is_lost = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="std-daq websocket driver", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the process lives."""
        return not self._closing.is_set()

    def end(self) -> None:
        """End, in the middle of whatever it does. Safe twice."""
        self._closing.set()
        self._subscribed = False
        self._starts.put(None)

    def close(self) -> None:
        """End, and wait for the thread. Safe twice."""
        self.end()
        self._thread.join(10)

    # ---- called by the sessions ---------------------------------------------------------------------

    @property
    def shown(self) -> str:
        """The state as sessions see it."""
        return self._shown

    def tell(self) -> tuple[str, str]:
        """Return state and status, as JSON, for one session; who is told the end makes the driver idle."""
        with self._lock:
            state = self._shown
            status: dict[str, object] = {"status": state}
            if self._shown in (RECORDING, SAVING):
                status["count"] = self._count
            if is_end := self._shown in (SAVED, ERROR):
                self._state = self._shown = IDLE
                self._count = 0
        if is_end:
            self._on_change()
        return state, as_json(status)

    def obey(self, text: str) -> tuple[str | None, bool]:
        """Obey a command.

        Returns
        -------
        reply : str or None
            JSON; None if the next status is all that there is to say.
        leave : bool
            Whether the driver closes the connection.

        Raises
        ------
        DriverDied
            It was the last command that this process got.
        """
        try:
            command = parse(text)
        except ValueError:
            return as_json({"status": ERROR, "reason": f"Invalid command! {text}"}), False
        if command.get("command") == "stop":
            self.stop()
            return None, False
        if self._state != IDLE:
            return as_json({"status": "rejected", "reason": "driver is busy!"}), False
        if (start := Start.parse(command)) is None:
            reason = f"Invalid command! expected: start with path parameter, received: {text}"
            return as_json({"status": ERROR, "reason": reason}), True
        self._starts.put(start)
        return None, False

    def stop(self) -> None:
        """Stop what is recorded or begins; while the files are created it is forgotten when they are."""
        if self._state == WAITING and self._faults.take("lost_stop"):
            self._stop_is_lost = True
        if self._state in (CREATING, WAITING, RECORDING):
            self._change(STOP)

    # ---- called by the image source -----------------------------------------------------------------

    @property
    def accepting(self) -> int:
        """Number of the acquisition that takes images; 0 if none does."""
        return self._acquisition if self._subscribed else 0

    @property
    def behind(self) -> bool:
        """Whether images wait for writers that take them."""
        return self._subscribed and not self._blocked and self._images.qsize() > BEHIND

    def image(self, image: Image) -> None:
        """Take an image of the detector; lost unless an acquisition takes it."""
        if self._subscribed:
            try:
                self._images.put_nowait(image)
            except queue.Full:
                logger.debug("image %d is lost: the driver does not take it", image.image_id)

    # ---- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while (start := self._starts.get()) is not None:
            try:
                self._acquire(start)
            except DriverDied:
                return

    def _acquire(self, start: Start) -> None:
        while self._state != IDLE:  # somebody else's: the end before is not told yet
            self._pause(self._timing.poll)
        self._go_on(CREATING)
        if not self._create(start):
            self._go_on(ERROR)
            return
        self._go_on(WAITING)
        self._record(start)
        for writer in self._all:
            self._reach(writer)
        self._go_on(SAVING)
        slow = self._faults.take("slow_saving")
        self._pause(slow["seconds"] if slow else self._timing.saving)
        for writer in self._all:
            self._reach(writer).save()
        self._go_on(SAVED)

    @property
    def _all(self) -> list[Writer]:
        return [*([self._metadata_writer] if self._metadata_writer else []), *self._writers]

    def _create(self, start: Start) -> bool:
        """Have all files created; tell whether they are."""
        refused = self._faults.take("creation_error")
        living_first = sorted(self._all, key=lambda writer: not writer.alive)
        created = {writer: self._reach(writer).create(start.path, start.prefix) for writer in living_first}
        slow = self._faults.take("slow_creation")
        seconds = slow["seconds"] if slow else 0.0
        if any(not writer.alive for writer in self._all):  # it died of the request, and never answers
            seconds = self._timing.give_up
        self._pause(min(seconds, self._timing.give_up))
        return all(created.values()) and not refused and seconds < self._timing.give_up

    def _record(self, start: Start) -> None:
        other, stopped, dies, driver_dies = (
            self._faults.take(name)
            for name in ("restarted_by_other", "stopped_by_other", "dies_writing", "driver_dies_writing")
        )
        self._images = queue.Queue(MAX_QUEUED)
        self._acquisition = next(_numbers)
        self._subscribed, self._stop_is_lost = True, False
        n = 0
        while n < start.n_images and (self._state in (WAITING, RECORDING) or self._stop_is_lost):
            try:
                image = self._images.get(timeout=self._timing.image_wait)
            except queue.Empty:
                self._pause(0)
                continue
            if self._state == WAITING or self._stop_is_lost:
                self._stop_is_lost = False
                self._go_on(RECORDING)
            for writer in (self._metadata_writer, self._writers[n % len(self._writers)]):
                if writer is not None:
                    self._reach(writer).write(image)
            n += 1
            self._count = n
            if dies and n == dies.get("after", 1):
                self._writers[dies.get("writer", 0)].die()
            if driver_dies and n == driver_dies.get("after", 1):
                self.end()
                self._on_death(self, driver_dies.get("seconds"))
                raise DriverDied("told to")
            if other and n == other.get("after", 1):
                self._starts.put(replace(start, prefix=f"other_{start.prefix}"))
            if other and n == other.get("after", 1) or stopped and n == stopped.get("after", 1):
                self.stop()
        self._subscribed = False

    def _reach(self, writer: Writer) -> Writer:
        """Return a writer once it lives: what is sent to a dead one waits."""
        while not writer.alive:
            self._blocked = True
            self._pause(self._timing.poll)
        self._blocked = False
        return writer

    def _pause(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise DriverDied("closed")

    def _go_on(self, state: str) -> None:
        """Change the state once sessions have told the one before: what they miss is a fault."""
        if self._shown != IDLE:
            self._let_look(self._shown)
        self._change(state)

    def _change(self, state: str) -> None:
        missed = self._faults.take("missed_state", state=state)
        with self._lock:
            self._state = state
            if not missed:
                self._shown = state
            elif state in (SAVED, ERROR):  # another session was told
                self._state = self._shown = IDLE
                self._count = 0
        self._on_change()


def as_json(status: Mapping[str, object]) -> str:
    """Return a message as the driver writes it: keys in order, no blanks."""
    return json.dumps(status, sort_keys=True, separators=(",", ":"))
