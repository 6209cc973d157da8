"""The REST generations of the standard DAQ as a server: REST on loopback, Redis, everything behind them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import redis

from ...errors import ServiceUnreachable
from ..clock import PulseClock
from ..faults import check
from .embedded_redis import EmbeddedRedis
from .image_source import ImageSource
from .service import Service
from .serving import DaqServer
from .settings import AT_ONCE, StdDaqSettings, faults_of


class StdDaqServer(DaqServer):
    """One simulated DAQ of the REST generations in this process.

    Parameters
    ----------
    redis_port : int
        0 takes a free one.
    settings, clock, **options
        Of `DaqServer`.

    Attributes
    ----------
    redis_url : str
        Address of Redis, once started.
    """

    def __init__(self, settings: StdDaqSettings, clock: PulseClock, *, redis_port: int = 0, **options: Any):
        super().__init__(settings, clock, **options)
        self._embedded = None if settings.redis_url else EmbeddedRedis(redis_port)
        self.redis_url = settings.redis_url
        self._service: Service | None = None
        # each generation does without the other's libraries, which take long to import
        self._rest = importlib.import_module(f".rest_{settings.dialect}", __package__)

    def _start(self) -> None:
        if self._embedded is not None:
            self._on_step("starting Redis")
            self._embedded.start()
            self.redis_url = self._embedded.url
        self._on_step("starting the writer")
        self._service = Service(
            *(self.settings, self._clock, self.redis_url, self._start_pulse_id, self._faults),
            self._on_step,
        )
        self._on_step("starting the REST service")
        self.url, self._stop_rest = self._rest.serve(
            self._service, self._faults, self._closing, self._port, self.settings.start_timeout
        )

    def _stop(self) -> None:
        if self._service is not None:
            self._service.close()
        if self._embedded is not None:
            self._embedded.stop()

    @property
    def service(self) -> Service:
        """What stands behind the REST interface; ServiceUnreachable before the start."""
        if self._service is None:
            raise ServiceUnreachable("simulated standard DAQ", url=self.url, reason="it was not started")
        return self._service

    @property
    def source(self) -> ImageSource:
        """The detector."""
        return self.service.source

    def addresses(self) -> dict[str, str]:
        """Return REST and Redis by role."""
        return {"url": self.url, "redis_url": self.redis_url}

    def restart_writer(self) -> None:
        """Start the writer process anew."""
        self.service.restart_writer()

    def restart_driver(self) -> None:
        """Start the service anew; its writer goes on."""
        self.service.restart()

    def fail_next(self, what: str, **details) -> None:
        """Misbehave, by the names in `settings.FAULTS`."""
        if what not in AT_ONCE:
            self._faults.add(what, details)
            return
        check(faults_of(self.settings.dialect), what, details)
        at_once: dict[str, Callable[..., object]] = {
            "writer_dies": self._writer_dies,
            "redis_away": self._redis_away,
            "redis_empty": lambda: redis.Redis.from_url(self.redis_url).flushall(),
            "rest_restarts": self.service.restart,
            "ghost_start": self._ghost_start,
        }
        at_once[what](**details)

    def _writer_dies(self, seconds: float | None = None) -> None:
        self.service.writer.kill()
        if seconds is not None:
            self._later(seconds, self.service.restart_writer)

    def _ghost_start(self, seconds: float = 0.3) -> None:
        """Let the next start fail, and the one after it take longer than a poll to create its file."""
        self._faults.add("creation_error", {})
        self._faults.add("slow_creation", {"seconds": 0.0})
        self._faults.add("slow_creation", {"seconds": seconds})

    def _redis_away(self, seconds: float = 1.0, empty: bool = False) -> None:
        if self._embedded is None:
            raise ValueError("redis_away: only our own Redis can be stopped; stop the outside one yourself")
        self._embedded.stop(empty=empty)
        self._later(seconds, self._embedded.start)
