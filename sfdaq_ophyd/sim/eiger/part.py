"""The simulated Eiger as a part of the Facility: one thread, one event loop, one port."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from ...errors import ServiceTimeout, ServiceUnreachable
from ...limits import Limit, counted_time
from ..child import HINT
from ..facility import World
from ..faults import Faults
from ..http import ENTRY, BoundedLog, not_opened
from .detector import EigerModel
from .frames import stamp_of
from .parameters import make_geometry
from .server import LoggedRequest, VersionRequest, make_app
from .stream_series import Recording, StreamOptions

STOP_TIMEOUT = 20.0

LOG_ENTRIES = 10_000
"""Requests that are remembered."""


class EigerPart:
    """A SIMPLON server with a detector behind it.

    Parameters
    ----------
    world : World
        What the Facility's parts share.
    model : str
        ``"500K"``, ``"1M"``, ``"4M"``, ``"9M"`` or ``"16M"``.
    shape : (y, x), optional
        Any other size; in place of `model`.
    api_version : str
        ``"1.8.0"`` (EIGER2) or ``"1.6.0"`` (EIGER).
    profile : str, optional
        TIFF layout: ``"om"`` (default), ``"v2024"``, or ``"legacy16"`` (default of API 1.6.0).
    dwell : float
        s spent in the states ``initialize`` and ``configure``, divided by the facility's speed.
    command_limit : float
        s after which the connection of a blocking command is closed while the command goes on. Also an
        attribute, to be changed at any time.
    version_request : str
        ``"both"``: known with and without a slash at its end; ``"slash"``: redirected to the one with it;
        ``"none"``: not known.
    initialized : bool
        Start in ``idle`` instead of ``na``.
    serial : str
        The ``detector_number``.
    port : int
        0 takes a free one.
    stream_port, stream_legacy_port : int
        Of the stream's versions 2 and 1; 0 takes a free one.
    stream_high_water : int, optional
        Messages kept for a slow client of the stream; default is 1000, fewer of a large detector.
    stream_replay : str or Path, optional
        Folder of a recorded series, ``*.cbor`` or ``*.cbor.xz``: version 2 sends its messages at arm, at each
        exposure and at the end, with numbers, names and times of the series that was armed.
    stream_replay_as_is : bool
        Send them as they were recorded, each once.
    stream_clock_error : float
        By which share the detector's clock is fast, e.g. ``11.6e-6``.
    stream_live : float
        Share of the exposure in ``real_time``.

    Attributes
    ----------
    url : str
        Address of the detector control unit, ``http://127.0.0.1:<port>``.
    stream_endpoint, stream_legacy_endpoint : str
        Addresses of the stream's versions 2 and 1, ``tcp://127.0.0.1:<port>``.
    requests : BoundedLog of LoggedRequest
        The last 10 000 requests answered: ``entries()``, ``clear()``.
    detector : EigerModel
        The model behind the server.
    faults : Faults
        Misbehaviour that has not happened yet.
    """

    name = "eiger"

    def __init__(
        self,
        world: World,
        *,
        model: str = "16M",
        shape: tuple[int, int] | None = None,
        api_version: Literal["1.8.0", "1.6.0"] = "1.8.0",
        profile: Literal["om", "v2024", "legacy16"] | None = None,
        dwell: float = 0.05,
        command_limit: float = 300.0,
        version_request: VersionRequest = "both",
        initialized: bool = False,
        serial: str = "E-32-0000",
        port: Annotated[int, Field(ge=0, le=65535)] = 0,
        stream_port: Annotated[int, Field(ge=0, le=65535)] = 0,
        stream_legacy_port: Annotated[int, Field(ge=0, le=65535)] = 0,
        stream_high_water: Annotated[int, Field(ge=1)] | None = None,
        stream_replay: str | Path | None = None,
        stream_replay_as_is: bool = False,
        stream_clock_error: Annotated[float, Field(gt=-0.01, lt=0.01)] = 0.0,
        stream_live: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ):
        self._initialized, self._port = initialized, port or world.next_port()
        self.command_limit, self._version_request = command_limit, version_request
        recording = None
        if stream_replay is not None:
            recording = Recording.load(stream_replay, renewed=not stream_replay_as_is)
        self.detector = EigerModel(
            make_geometry(model, api_version, shape),
            api_version,
            serial,
            world.seed,
            StreamOptions(
                port=stream_port or world.later_port(),
                legacy_port=stream_legacy_port or world.later_port(),
                high_water=stream_high_water,
                recording=recording,
                clock_error=stream_clock_error,
                live=stream_live,
            ),
            profile=profile or ("om" if api_version == "1.8.0" else "legacy16"),
            dwell=dwell / world.speed,
            patient=world.clock.patient,
            sample=lambda: world.clock.view(world.clock.now() + 1).sample,  # the clock may stand
        )
        self.requests: BoundedLog[LoggedRequest] = BoundedLog(LOG_ENTRIES * ENTRY)
        self._start_timeout, self._ready = world.start_timeout, threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._problem: Exception | None = None
        self._step, self._begun = "", 0.0
        self.url = self.stream_endpoint = self.stream_legacy_endpoint = ""

    def launch(self) -> None:
        """Begin to serve."""
        self._ready.clear()
        self._problem = None
        self._step, self._begun = "starting its thread", counted_time()
        self._thread = threading.Thread(target=self._run, name="simulated Eiger", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Return once the port is open."""
        if self._thread is None:
            self.launch()
        step, limit = self._step, Limit(self._start_timeout)
        while not limit.wait(self._ready):
            if step != self._step:
                step = self._step
                limit.restart()
            elif limit.reached():
                took = f"step {step!r}, {counted_time() - self._begun:.0f} s after the beginning"
                raise ServiceTimeout("start of the simulated Eiger", self._start_timeout, took, HINT)
        if self._problem is not None:
            self.stop()
            raise self._problem

    def stop(self) -> None:
        """Close the port and join the thread. Safe twice."""
        if self._thread is not None and self._loop is not None:
            with suppress(RuntimeError):  # it failed to start, and its loop is closed
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(STOP_TIMEOUT)
            self._thread = self._loop = None

    def addresses(self) -> dict[str, str]:
        """Say where it serves."""
        return {
            "url": self.url,
            "stream": self.stream_endpoint,
            "stream_legacy": self.stream_legacy_endpoint,
        }

    def fail_next(self, what: str, *, count: int = 1, **details) -> None:
        """Misbehave `count` times; `sfdaq_ophyd.sim.eiger.FAULTS` lists the names and what they take."""
        self.faults.add(what, details, count)

    @property
    def faults(self) -> Faults:
        """Misbehaviour that has not happened yet."""
        return self.detector.faults

    @property
    def state(self) -> str:
        """State of the detector."""
        return self.detector.state.value

    def restart(self) -> None:
        """Restart the service: not initialized, every frame and series lost, series numbers from 1 again."""
        asyncio.run_coroutine_threadsafe(self._restart(), self._running).result(STOP_TIMEOUT)

    def edge(self, width: float = 0.0) -> None:
        """Give the detector one electrical edge, or one gate of `width` s (modes exts, exte, extg, eies)."""
        self._running.call_soon_threadsafe(self.detector.edge, width)

    stamp_of = staticmethod(stamp_of)

    @property
    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise ServiceUnreachable("simulated Eiger", url=self.url, reason="it was not started")
        return self._loop

    async def _restart(self) -> None:
        self.detector.restart()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as exc:
            self._problem = exc
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._step = "switching the detector on"
        self.detector.restart()
        if self._initialized:
            self._step = "initializing the detector"
            await self.detector.initialize()
        self._step = "setting up the service"
        runner = web.AppRunner(
            make_app(self.detector, self.requests, lambda: self.command_limit, self._version_request),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.2,
        )
        await runner.setup()
        try:
            self._step = "opening the stream's ports"
            self.detector.stream.bind()
            self.stream_endpoint = self.detector.stream.endpoint("cbor")
            self.stream_legacy_endpoint = self.detector.stream.endpoint("legacy")
            self._step = "opening the service's port"
            site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=256)
            try:
                await site.start()
            except OSError as exc:
                raise not_opened("Eiger", f"http://127.0.0.1:{self._port}", exc) from exc
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._ready.set()
            await self._stopping.wait()
        finally:
            await runner.cleanup()
            self.detector.stream.close()
