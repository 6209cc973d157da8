"""The service's side of the writer: starts and stops it, hands it images, waits by polling.

One thread obeys the commands in order, and it is the same thread that hands on the images: blocked by a dead
writer it never obeys again. The calling threads poll the status on their own.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .faults import Faults
from .state import READY, WRITING, DaqState
from .timing import Timing
from .writer import WriterProcess

logger = logging.getLogger(__name__)

MAX_OUTSTANDING = 20
"""Images the driver hands on before the writer must have acknowledged one."""

MAX_QUEUED = 1000
"""Images waiting for the driver; later ones are lost, as on the real image socket."""


class ServiceError(Exception):
    """An error inside the service; its text is the message of the reply."""


@dataclass(frozen=True)
class Image:
    """One image of the detector, without its pixels."""

    image_id: int
    pulse_id: int
    status: int = 0


class Driver:
    """Driver of one writer.

    Parameters
    ----------
    writer : WriterProcess
    timing : Timing
    faults : Faults
    null_acquisition : bool
        See `DaqState`.
    local_path : callable
        Path in a request to path on this machine.
    publish : callable
        Called with each status worth publishing.
    log : callable
        Called with each acquisition that belongs in the log.
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
        self._inbox: queue.Queue[tuple[str, object]] = queue.Queue()
        self._subscribed = False
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
        self._inbox.put(("nothing", None))
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
        self._inbox.put(("start", info))
        if fault := self._faults.take("missed_writing"):
            self._closing.wait(fault.get("seconds", 10 * self._timing.poll))
        return self._poll(WRITING, stop_at_error=True)

    def force_start(self, info: dict) -> None:
        """Start whatever runs: what remains when another start came within the same poll."""
        self._inbox.put(("start", info))

    def stop(self) -> dict:
        """Stop or reset; return the status once it is READY, whoever's it is."""
        self._inbox.put(("stop", None))
        return self._poll(READY)

    def wait_while_writing(self, limit: float) -> dict:
        """Return the status once it is not WRITING any more; after `limit` s an error."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            status = self.status()
            if status["state"] != WRITING:
                return status
            self._closing.wait(self._timing.poll)
        raise ServiceError(
            "Your acquisition is still running, just the REST call has ended. Sync acquisition limit of 60 "
            "seconds exceeded. Use async write call for long acquisitions."
        )

    def _poll(self, wanted: str, *, stop_at_error: bool = False) -> dict:
        deadline = time.monotonic() + self._timing.give_up
        while time.monotonic() < deadline:
            self._closing.wait(self._timing.poll)
            with self._changed:
                if self._state.state == wanted:
                    return self._state.snapshot()
                if stop_at_error and self._state.error is not None:
                    raise ServiceError(self._state.error)
        with self._changed:
            self._state.unknown()
        raise ServiceError(f"Cannot reach {wanted}. Writer needs to be restarted.")

    # ---- called by the image source -----------------------------------------------------------------

    @property
    def accepting(self) -> bool:
        """Whether an acquisition has subscribed to the images."""
        return self._subscribed

    def image(self, image: Image) -> None:
        """Take an image of the detector; dropped unless an acquisition has subscribed."""
        if self._subscribed and self._inbox.qsize() < MAX_QUEUED:
            self._inbox.put(("image", image))

    # ---- called by the writer -----------------------------------------------------------------------

    def writer_event(self, event: dict) -> None:
        """Take an event of the writer into the status."""
        what, logged = event["event"], False
        with self._changed:
            if what == "opened":
                self._state.opened(event["info"])
                self._outstanding = 0
                publish = True
            elif what == "ack":
                publish = self._acknowledged()
            elif what == "error":
                self._state.failed(event["text"])
                publish = True
            else:
                logged = self._state.closed(event["message"])
                publish = True
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
        if completed == self._state.acquisition["info"]["n_images"]:
            self._inbox.put(("complete", self._state.acquisition["info"]))
        now = time.monotonic()
        if completed > 1 and now - self._last_published < self._timing.status_period:
            return False
        self._last_published = now
        return True

    # ---- the thread ---------------------------------------------------------------------------------

    def _obey(self) -> None:
        while not self._closing.is_set():
            what, content = self._inbox.get()
            if what == "start":
                self._start_writer(content)
            elif what == "image":
                self._hand_on(content)
            elif what == "stop":
                self._stop_writer()
            elif what == "complete" and self._is_current(content):
                self._stop_writer()

    def _start_writer(self, info: dict) -> None:
        self._subscribed = False
        if not _can_be_encoded(info):
            logger.debug("cannot encode %s", info)
            return
        slow = self._faults.take("slow_creation")
        failing = self._faults.take("creation_error")
        self._writer.send(
            {
                "do": "start",
                "info": info,
                "request": {
                    "path": self._local_path(info["output_file"]),
                    "n_images": info["n_images"],
                },
                "delay": slow["seconds"] if slow else self._timing.creation(info["n_images"]),
                "error": failing and failing.get("text", "told to fail"),
            }
        )
        deadline = time.monotonic() + self._timing.give_up
        while time.monotonic() < deadline and not self._closing.is_set():
            self._closing.wait(self._timing.poll)
            with self._changed:
                if self._state.state == WRITING:
                    self._subscribed = True
                    return
                if self._state.error is not None:
                    return

    def _hand_on(self, image: Image) -> None:
        with self._changed:
            if not self._subscribed or self._state.state != WRITING:
                return
            stats = self._state.acquisition["stats"]
            n_images = self._state.acquisition["info"]["n_images"]
            if stats["n_write_requested"] >= n_images:
                self._subscribed = False
                return
            self._changed.wait_for(lambda: self._outstanding < MAX_OUTSTANDING or self._closing.is_set())
            if self._closing.is_set():
                return
            self._state.requested()
            self._outstanding += 1
        self._writer.send(
            {"do": "image", "image_id": image.image_id, "pulse_id": image.pulse_id, "status": image.status}
        )

    def _stop_writer(self) -> None:
        self._subscribed = False
        self._outstanding = 0
        self._writer.send({"do": "stop"})

    def _is_current(self, info: dict) -> bool:
        with self._changed:
            return self._state.state == WRITING and self._state.acquisition["info"] is info


def _can_be_encoded(info: dict) -> bool:
    """Tell whether the driver's message holds it: n_images a signed 32-bit, run_id an unsigned 64-bit one."""
    run_id = info["run_id"]
    return (
        info["n_images"] < 2**31
        and isinstance(run_id, int)
        and not isinstance(run_id, bool)
        and 0 <= run_id < 2**64
    )
