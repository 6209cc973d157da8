"""The service's side of the writer: starts and stops it, hands it images, waits by polling.

One thread obeys the commands in order, and it is the same thread that hands on the images: blocked by a dead
writer it never obeys again. The calling threads poll the status on their own.
"""

from __future__ import annotations

import copy
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ...limits import Limit
from ..faults import Faults
from .image_source import Image, Overrun
from .settings import ServiceError, Timing
from .writer import OwedAnswers, WriterProcess

logger = logging.getLogger(__name__)


UNKNOWN, READY, WRITING = "UNKNOWN", "READY", "WRITING"


class DaqState:
    """The status object: what each event makes of it, in both dialects.

    It is one plain dictionary whose text stands in error messages and in Redis, so the order of the keys
    matters. Before the first acquisition there is null in D2 (`null_acquisition`), an empty record in D1.
    """

    def __init__(self, *, null_acquisition: bool):
        self._null = null_acquisition
        self.status: dict = {}
        self.unknown()

    def unknown(self) -> None:
        """Forget the acquisition: the writer did not answer."""
        empty = {"state": "FINISHED", "message": "", "info": {"n_images": 0}, "stats": self._stats(None)}
        self.status = {"state": UNKNOWN, "acquisition": None if self._null else empty}

    def opened(self, info: dict) -> None:
        """Begin an acquisition: the writer has its file."""
        begun = {"state": "WAITING_IMAGES", "message": "", "stats": self._stats(time.time()), "info": info}
        self.status = {"state": WRITING, "acquisition": begun}

    @staticmethod
    def _stats(start_time: float | None) -> dict:
        counts = {"n_write_completed": 0, "n_write_requested": 0}
        return {**counts, "start_time": start_time, "stop_time": None}

    def requested(self) -> None:
        """Count an image handed to the writer."""
        if self.acquisition is not None:
            self.acquisition["stats"]["n_write_requested"] += 1

    def acknowledged(self) -> int:
        """Count an image the writer has; return how many."""
        if self.acquisition is None or self.state != WRITING:
            return 0
        self.acquisition["state"] = "ACQUIRING_IMAGES"
        self.acquisition["stats"]["n_write_completed"] += 1
        return self.acquisition["stats"]["n_write_completed"]

    def failed(self, text: str) -> None:
        """Note a failed start: it turns the *previous* acquisition into FAILED, both times overwritten."""
        self.status["state"] = READY
        if self.acquisition is not None:
            now = time.time()
            self.acquisition.update(state="FAILED", message=text)
            self.acquisition["stats"].update(start_time=now, stop_time=now)

    def closed(self, message: str) -> bool:
        """End the acquisition, also one that had ended; return whether it belongs in the log."""
        self.status["state"] = READY
        if self.acquisition is None:
            return False
        self.acquisition.update(state="FINISHED", message=message)
        self.acquisition["stats"]["stop_time"] = time.time()
        return self.acquisition["stats"]["start_time"] is not None

    @property
    def state(self) -> str:
        """UNKNOWN, READY or WRITING."""
        return self.status["state"]

    @property
    def acquisition(self) -> Any:
        """The record itself (dict); None before the first one in D2."""
        return self.status["acquisition"]

    @property
    def error(self) -> str | None:
        """Text of the last error, as long as it stands there."""
        message = "" if self.acquisition is None else self.acquisition["message"]
        return message if message.startswith("ERROR") else None

    def snapshot(self) -> dict:
        """Copy the status."""
        return copy.deepcopy(self.status)


@dataclass(frozen=True)
class Order:
    """One start: what is asked for, and what goes wrong with it."""

    info: dict
    delay: float  # s that creating the file takes
    error: str | None  # why it cannot be created
    late: float  # s by which the driver subscribes to images too late
    ghost: str | None  # the last error, which still stands at the first look and is taken for the outcome
    overrun: Overrun | None

    @property
    def can_be_encoded(self) -> bool:
        """Whether the driver's message holds it: n_images a signed 32-bit, run_id an unsigned 64-bit one."""
        n_images, run_id = self.info["n_images"], self.info["run_id"]
        return n_images < 2**31 and type(run_id) is int and 0 <= run_id < 2**64


MAX_OUTSTANDING = 20
"""Images the driver hands on before the writer must have acknowledged one."""

RING_SLOTS = 100
"""Images in the ring out of which the writer takes pixels: slot ``image_id % 100``."""

MAX_QUEUED = 10_000
"""Images waiting for the driver; later ones are lost, as on the real image socket."""


class Driver:
    """Driver of one writer.

    It calls `publish` with each status worth publishing, and `log` with each acquisition that belongs in the
    log; `local_path` turns the path of a request into one of this machine.
    """

    def __init__(
        self,
        writer: WriterProcess,
        timing: Timing,
        faults: Faults,
        *,
        null_acquisition: bool,
        local_path: Callable[[str], str],
        publish: Callable[[dict], None],
        log: Callable[[dict], None],
    ):
        self._writer, self._timing, self._faults = writer, timing, faults
        self._local_path, self._publish, self._log = local_path, publish, log
        self._state = DaqState(null_acquisition=null_acquisition)
        self._changed = threading.Condition()
        self._owed = OwedAnswers(writer, timing)
        self._opened: tuple[int, dict] = (0, {})
        self._inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self._subscribed, self._n_subscriptions = False, 0
        self.overrun: Overrun | None = None  # of the ring, in the present acquisition
        self._newest_id = 0
        self._outstanding = 0
        self._last_published = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._obey, name="std-daq driver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, also a blocked one. Safe twice."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._inbox.put(lambda: None)
        self._thread.join(10)

    # ---- called by the service ----------------------------------------------------------------------

    def status(self) -> dict:
        """Copy the status object."""
        with self._changed:
            return self._state.snapshot()

    def start(self, info: dict) -> dict:
        """Start an acquisition; return the status once it is WRITING, whoever's it is."""
        with self._changed:
            if self._state.state != READY:
                raise ServiceError(
                    f"Cannot start new acquisition while previous one is running:\n {self._state.snapshot()}"
                )
            n_opened = self._opened[0]
        order = self.force_start(info)
        missed = self._faults.take("missed_writing")
        if missed:
            self._look_away(n_opened, missed.get("seconds", 10 * self._timing.poll))
        return self._poll(WRITING, order, None if missed else n_opened)

    def _look_away(self, n_opened: int, seconds: float) -> None:
        def over() -> bool:
            return self._closing.is_set() or self._opened[0] > n_opened and self._state.state == READY

        with self._changed:
            self._changed.wait_for(over, seconds)

    def force_start(self, info: dict) -> Order:
        """Start whatever runs: what remains when another start came within the same poll."""
        slow, failing, late, overrun = (
            self._faults.take(name)
            for name in ("slow_creation", "creation_error", "late_subscription", "ring_overrun")
        )
        delay = slow["seconds"] if slow else self._timing.creation(info["n_images"])
        with self._changed:
            order = Order(
                info,
                delay,
                error=failing.get("text", "told to fail") if failing else None,
                late=late["seconds"] if late else 0.0,
                ghost=self._state.error if delay > self._timing.poll else None,
                overrun=Overrun.of(info["n_images"], **overrun) if overrun else None,
            )
            if order.can_be_encoded:
                self._owed.started(slow=delay >= self._timing.give_up)
        self._inbox.put(partial(self._start_writer, order))
        return order

    def stop(self) -> dict:
        """Stop or reset; return the status once it is READY, whoever's it is."""
        self._subscribed = False
        self._owed.stopped(blocked=self._outstanding >= MAX_OUTSTANDING)
        self._inbox.put(self._stop_writer)
        return self._poll(READY)

    def wait_while_writing(self) -> dict:
        """Return the status once the acquisition ended; an error after the limit of ``write_sync``."""
        patience = Limit(self._timing.sync_limit)
        while (status := self.status())["state"] == WRITING:
            if patience.reached():
                raise ServiceError(
                    "Your acquisition is still running, just the REST call has ended. Sync acquisition limit "
                    "of 60 seconds exceeded. Use async write call for long acquisitions."
                )
            self._closing.wait(self._timing.poll)
        return status

    def _poll(self, wanted: str, order: Order | None = None, n_opened: int | None = None) -> dict:
        """Look until the state is the wanted one; of a start also if it was, and is over by now."""
        over = self._owed.over()
        while not over() and not self._closing.wait(self._timing.poll):
            with self._changed:
                if order is not None and order.ghost is not None:
                    raise ServiceError(order.ghost)
                if self._state.state == wanted and not (wanted == READY and self._owed.stop_is_due):
                    return self._state.snapshot()
                if n_opened is not None and self._opened[0] > n_opened:
                    return self._opened[1]
                if order is not None and self._state.error is not None and not self._owed.lags():
                    raise ServiceError(self._state.error)
        with self._changed:
            self._state.unknown()
        raise ServiceError(f"Cannot reach {wanted}. Writer needs to be restarted.")

    # ---- called by the image source -----------------------------------------------------------------

    @property
    def accepting(self) -> int:
        """Number of the acquisition that has subscribed to the images; 0 if none has."""
        return self._n_subscriptions if self._subscribed else 0

    @property
    def behind(self) -> bool:
        """Whether images wait for a writer that takes them; never for one that is gone."""
        too_many = self._inbox.qsize() > MAX_OUTSTANDING
        return self._subscribed and too_many and self.overrun is None and not self._owed.in_vain

    def image(self, image: Image) -> None:
        """Take an image of the detector; dropped unless an acquisition has subscribed."""
        self._newest_id = image.image_id
        if self._subscribed and self._inbox.qsize() < MAX_QUEUED:
            self._inbox.put(partial(self._hand_on, image))

    # ---- called by the writer -----------------------------------------------------------------------

    def writer_event(self, event: dict) -> None:
        """Take an event of the writer into the status."""
        what, publish, logged = event["event"], True, False
        with self._changed:
            self._owed.answered(what)
            if what == "opened":
                self._state.opened(event["info"])
                self._opened = (self._opened[0] + 1, self._state.snapshot())
                self._outstanding = 0
            elif what == "ack":
                publish = self._acknowledged()
            elif what == "error":
                self._state.failed(event["text"])
            else:
                logged = self._state.closed(event["message"])
            if publish:
                self._publish(self._state.snapshot())
            if logged:
                self._log(self._state.snapshot()["acquisition"])
            self._changed.notify_all()

    def _acknowledged(self) -> bool:
        self._outstanding -= 1
        completed = self._state.acknowledged()
        if not completed:
            return False
        info = self._state.acquisition["info"]
        if completed == info["n_images"]:
            self._inbox.put(partial(self._complete, info))
        now = time.monotonic()
        if completed > 1 and now - self._last_published < self._timing.status_period:
            return False
        self._last_published = now
        return True

    # ---- the thread ---------------------------------------------------------------------------------

    def _obey(self) -> None:
        while not self._closing.is_set():
            self._inbox.get()()

    def _start_writer(self, order: Order) -> None:
        self._subscribed = False
        if not order.can_be_encoded:
            logger.debug("cannot encode %s", order.info)
            return
        n_opened, path = self._opened[0], self._local_path(order.info["output_file"])
        command = {"path": path, "info": order.info, "delay": order.delay, "error": order.error}
        self._writer.send({"do": "start", **command})
        over = self._owed.over()
        while not over() and not self._closing.wait(self._timing.poll):
            with self._changed:
                opened, error = self._opened[0] > n_opened, self._state.error
            if order.ghost is not None or error is not None and not self._owed.lags():
                return
            if opened:
                self._closing.wait(order.late)
                self.overrun = order.overrun
                self._n_subscriptions += 1
                self._subscribed = True
                return

    def _hand_on(self, image: Image) -> None:
        with self._changed:
            if not self._subscribed or self._state.state != WRITING:
                return
            acquisition = self._state.acquisition
            if acquisition["stats"]["n_write_requested"] >= acquisition["info"]["n_images"]:
                self._subscribed = False
                return
            self._changed.wait_for(lambda: self._outstanding < MAX_OUTSTANDING or self._closing.is_set())
            if self._closing.is_set():
                return
            self._state.requested()
            self._outstanding += 1
        ahead = 0
        if self.overrun is not None:
            self._closing.wait(self.overrun.pause)
            ahead = (self._newest_id - image.image_id) // RING_SLOTS * RING_SLOTS
        self._writer.send({"do": "image", **asdict(image), "ahead": ahead})

    def _stop_writer(self) -> None:
        self._subscribed = False
        self._outstanding = 0
        self._writer.send({"do": "stop"})

    def _complete(self, info: dict) -> None:
        """Stop the writer once it has all images of an acquisition, if that is still the present one."""
        with self._changed:
            is_current = self._state.state == WRITING and self._state.acquisition["info"] is info
        if is_current:
            self._stop_writer()
