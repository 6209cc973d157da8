"""The driver of the websocket generation, and the websocket that controls it.

As in wire reference std-daq, section 12. A driver has one state, and one acquisition at a time, whose images
it deals to writers. It stands for one life of the process: what kills it ends it, and a new one begins idle.
What it sends to a writer that is dead waits until that one is back.

Every session is told the state, each at its own time: when it changes, and after every poll. What was over by
then it never sees. When the driver dies its sessions end without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import math
import queue
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..faults import Faults
from ..http import STATUS, refusal
from .files import Writer
from .image_source import Image, Overrun
from .settings import Timing

IDLE, CREATING, WAITING, RECORDING = "idle", "creating_file", "waiting_for_first_image", "recording"
STOP, SAVING, SAVED, ERROR = "stop", "saving_file", "file_saved", "error"

MAX_QUEUED = 1000
"""Images that wait for the driver; later ones are lost, as on the real image socket."""

BEHIND = 20
"""Images that wait, from which on the detector of a patient clock waits, too."""


HOST = "127.0.0.1"

MAX_COMMAND = 2**16
"""Longest command, bytes."""

LOOK = 1.0
"""s for which a session that tells nothing is waited for."""

PATIENCE = 30.0
"""s for which the loop may take what it is given to do."""

logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # it logs each connection that ends early

_numbers = itertools.count(1)
"""Of acquisitions, in all lives."""


class DriverDied(Exception):
    """The process is gone; its message is what killed it."""


class Command(BaseModel, strict=True):
    """A command. The driver dies of one that is no object, or of a wrong type."""

    command: str = ""


class Start(Command):
    """What a start asks for; the last two are read and ignored."""

    path: str
    file_prefix: str = "file"
    n_image: int | float = 16_777_215
    writer_id: int | float = 0
    start_id: int | float = 0

    @property
    def n_images(self) -> int:
        """So many images, as the driver stores it."""
        return int(self.n_image) % 2**64


def _finite(text: str) -> float:
    """Return a number; the driver's parser knows none that is not finite."""
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


class WebsocketDriver:
    """One life of the driver process.

    Image i of an acquisition goes to writer ``i % len(writers)``, and each to the metadata writer.

    `on_change` is called when the state has changed; `let_look` with a state before it is over, and returns
    when all sessions have told it, or hang; `on_death` when a fault has killed the process, with it and the s
    after which it is back, or None.
    """

    overrun: Overrun | None = None

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
        self._state = self.shown = IDLE  # the one that sessions see may be an earlier one
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

    def tell(self) -> tuple[str, str]:
        """Return state and status, as JSON, for one session; who is told the end makes the driver idle."""
        with self._lock:
            state = self.shown
            status: dict[str, object] = {"status": state}
            if self.shown in (RECORDING, SAVING):
                status["count"] = self._count
            if is_end := self.shown in (SAVED, ERROR):
                self._state = self.shown = IDLE
                self._count = 0
        if is_end:
            self._on_change()
        return state, as_json(status)

    def obey(self, text: str) -> tuple[str | None, bool]:
        """Obey a command; return the reply, as JSON, and whether the driver closes the connection.

        The reply is None if the next status is all that there is to say. DriverDied if it was the last
        command that this process got.
        """
        try:
            command = json.loads(text, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError):
            return as_json({"status": ERROR, "reason": f"Invalid command! {text}"}), False
        try:
            name = Command.model_validate(command).command
            if name == "stop":
                self.stop()
                return None, False
            if self._state != IDLE:
                return as_json({"status": "rejected", "reason": "driver is busy!"}), False
            if name != "start" or "path" not in command:
                reason = f"Invalid command! expected: start with path parameter, received: {text}"
                return as_json({"status": ERROR, "reason": reason}), True
            self._starts.put(Start.model_validate(command))
        except ValidationError as exc:
            raise DriverDied(str(exc)) from None
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
            with contextlib.suppress(queue.Full):
                self._images.put_nowait(image)

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
        self._stop_is_lost = False
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
        created = {
            writer: self._reach(writer).create(start.path, start.file_prefix) for writer in living_first
        }
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
        self._subscribed = True
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
                self._starts.put(start.model_copy(update={"file_prefix": f"other_{start.file_prefix}"}))
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
        if self.shown != IDLE:
            self._let_look(self.shown)
        self._change(state)

    def _change(self, state: str) -> None:
        missed = self._faults.take("missed_state", state=state)
        with self._lock:
            self._state = state
            if not missed:
                self.shown = state
            elif state in (SAVED, ERROR):  # another session was told
                self._state = self.shown = IDLE
                self._count = 0
        self._on_change()


def as_json(status: Mapping[str, object]) -> str:
    """Return a message as the driver writes it: keys in order, no blanks."""
    return json.dumps(status, sort_keys=True, separators=(",", ":"))


# ---- the websocket ----------------------------------------------------------------------------------


class Control:
    """The websocket's server at `url`; port 0 takes a free one, and nothing is served before `serve`."""

    def __init__(self, timing: Timing, port: int):
        self._timing = timing
        self._place = _reserve(port)
        self.url = f"ws://{HOST}:{self._place.getsockname()[1]}"
        self._driver: WebsocketDriver | None = None
        self._server: Server | None = None
        self._sessions: dict[ServerConnection, str] = {}
        self._told = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="std-daq websocket", daemon=True)
        self._thread.start()

    def serve(self, driver: WebsocketDriver) -> None:
        """Serve a driver that has just begun."""
        self._driver = driver
        self._do(self._open())

    def cut(self, driver: WebsocketDriver | None = None) -> None:
        """End all sessions without a word, and refuse new ones; only those of `driver`. Safe twice."""
        self._do(self._cut(driver))

    def close(self) -> None:
        """Cut, and end the thread. Safe twice."""
        if self._loop.is_closed():
            return
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._place.close()

    def changed(self) -> None:
        """Wake the sessions: the state has changed. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake)

    def let_look(self, state: str) -> None:
        """Wait until every session has told a state, or hangs. From any thread but the loop's."""
        with self._told:
            self._told.wait_for(lambda: all(told == state for told in self._sessions.values()), LOOK)

    # ---- in the loop --------------------------------------------------------------------------------

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("not from the loop itself")
        asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _open(self) -> None:
        self._server = await serve(
            self._session,
            *self._place.getsockname(),
            reuse_port=True,
            process_request=_refuse,
            compression=None,
            ping_interval=None,
            max_size=MAX_COMMAND,
            close_timeout=1,
        )

    async def _cut(self, driver: WebsocketDriver | None) -> None:
        if driver not in (None, self._driver):
            return
        server, self._server = self._server, None
        if server is None:
            return
        server.close(close_connections=False)
        for connection in self._sessions:
            connection.transport.abort()
        self._note(None)

    async def _session(self, connection: ServerConnection) -> None:
        driver = self._driver
        if driver is None or self._server is None:  # it died during the handshake
            connection.transport.abort()
            return
        self._note(connection, "")
        teller = asyncio.create_task(self._tell(connection, driver))
        try:
            async for message in connection:
                text = message if isinstance(message, str) else message.decode(errors="replace")
                reply, leave = driver.obey(text)
                if reply is not None:
                    await connection.send(reply)
                if leave:
                    await connection.close()
                    raise DriverDied("it closed a connection")
        except ConnectionClosed:
            pass
        except DriverDied:
            driver.end()
            await self._cut(driver)
        finally:
            teller.cancel()
            self._note(connection)

    async def _tell(self, connection: ServerConnection, driver: WebsocketDriver) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                before, news = driver.shown, self._news
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._timing.poll):
                        while driver.shown == before:
                            await news.wait()
                            news = self._news
                state, status = driver.tell()
                self._note(connection, state)
                await connection.send(status)

    def _note(self, connection: ServerConnection | None, state: str | None = None) -> None:
        """Note the state that a session tells; None if it is over, of all where none is named."""
        with self._told:
            if connection is None:
                self._sessions.clear()
            elif state is None:
                self._sessions.pop(connection, None)
            else:
                self._sessions[connection] = state
            self._told.notify_all()


def _refuse(connection: ServerConnection, request: Request) -> Response | None:
    """Refuse what does not come from this machine."""
    headers = {name.title(): ", ".join(request.headers.get_all(name)) for name in request.headers}
    why = refusal("GET", headers)
    return None if why is None else connection.respond(STATUS, f"{why}\n")


def _reserve(port: int) -> socket.socket:
    """Return a socket that keeps a port ours while nobody serves there, so that connections are refused."""
    with socket.socket() as probe:  # in use by somebody else?
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    place.bind((HOST, port))
    return place
