"""The service behind both REST dialects, the parties of a DAQ put together, and the server around it."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis

from ...limits import Limit
from ..clock import PulseClock
from ..faults import Faults
from .driver import Driver
from .embedded_redis import EmbeddedRedis
from .files import MISSING, Folders, Pictures
from .image_source import ImageSource
from .redis_streams import CONFIG, LOG, STAT, Deployer, RedisStreams, StatsCounter, StatusPublisher, validate
from .server import DaqServer
from .settings import ServiceError, StdDaqSettings, Timing
from .writer import WriterProcess


class StdDaqService:
    """One DAQ: driver, writer process, image source, servers, Redis streams.

    `start_pulse_id` is that of frame 1; `on_step` is called with every step of the writer's start.
    """

    def __init__(
        self,
        settings: StdDaqSettings,
        clock: PulseClock,
        redis_url: str,
        start_pulse_id: int,
        faults: Faults,
        on_step: Callable[[str], object],
    ):
        self.settings, self.timing, self.faults = settings, Timing(settings.speed), faults
        self.store = RedisStreams(redis_url, self.timing, settings.maxlen)
        self.folders = Folders(settings.folders, settings.writable)
        self.writer = WriterProcess(self._writer_event, settings, self.folders.writable, clock.path, on_step)
        self._n_written = self._n_published = self._n_of_acquisition = 0
        self._news = threading.Event()
        self._config = self._boot_config()
        self.writer.start(self._config)
        self.source = ImageSource(
            clock, start_pulse_id, settings.rate_multiplicator, lambda: self._driver, faults
        )
        self.source.observers.append(lambda image: self._publisher.image_seen())
        self._begin()
        self._deployer: Deployer | None = None
        if settings.servers:
            self.add_servers(settings.servers)
        if settings.running:
            self.source.follow_clock()

    def close(self) -> None:
        """End all parties. Safe twice."""
        self.source.close()
        if self._deployer is not None:
            self._deployer.close()
        self._stats.close()
        self._driver.close()
        self.writer.kill()
        self._publisher.close()
        self.store.close()

    def restart(self) -> None:
        """Restart the service alone: the state is UNKNOWN, the writer goes on."""
        self._boot_config()
        old = self._driver, self._stats, self._publisher
        self._begin()
        for part in old:
            part.close()

    def add_servers(self, servers: Sequence[str]) -> None:
        """Let servers pick up configurations from now on."""
        self._deployer = Deployer(
            self.store,
            self.timing,
            self.faults,
            servers=servers,
            running=self.config()[1],
            stop_writer=self.writer.kill,
            restart=self._start_writer,
        )

    @property
    def settled(self) -> bool:
        """Whether the newest configuration is deployed, and the writer takes commands."""
        newest = self.store.newest(CONFIG)
        deployed = newest[0][0] if newest else None
        return self.writer.listening and self._deployer is not None and self._deployer.deployed == deployed

    def restart_writer(self) -> None:
        """Start the writer process anew with the stored configuration."""
        self._start_writer(self.config()[0] or self._config)

    # ---- what the REST dialects ask -----------------------------------------------------------------

    def status(self) -> dict:
        """Return the status object."""
        return self._driver.status()

    def write(self, info: dict) -> dict:
        """Start an acquisition; return the status once WRITING."""
        if fault := self.faults.take("restarted_by_other"):
            self._at_image(fault, lambda: self._driver.force_start({**info, "run_id": 4711}))
        if fault := self.faults.take("stopped_by_other"):
            self._at_image(fault, self.stop)
        if fault := self.faults.take("dies_writing"):
            self._at_image(fault, self.writer.kill)
        return self._driver.start(info)

    def wait_while_writing(self) -> dict:
        """Return the status once the acquisition ended, within the limit of ``write_sync``."""
        return self._driver.wait_while_writing()

    def stop(self) -> dict:
        """Stop or reset the writer; return the status once READY."""
        return self._driver.stop()

    def check_folder(self, path: str, user_id: int | None = None) -> None:
        """Raise the service's error if the folder of `path` is not there for the writer's user."""
        folder = path.rpartition("/")[0] or "/"
        if self.faults.take("hidden_folder", folder=folder):
            raise ServiceError(MISSING.format(folder))
        if missing := self.folders.missing(folder, self._user_id if user_id is None else user_id):
            raise ServiceError(missing)

    def config(self) -> tuple[dict | None, str | None]:
        """Return configuration and id; both None if nothing is stored."""
        newest = self.store.newest(CONFIG)
        return (newest[0][1], newest[0][0]) if newest else (None, None)

    def stored_config(self) -> dict:
        """Return the configuration; where none is stored, fail in the words of the real service."""
        config = self.config()[0]
        if config is None:
            raise TypeError("'NoneType' object is not subscriptable")
        return config

    def set_config(self, config: dict) -> None:
        """Store a whole configuration, which deploys it."""
        self.store.add(CONFIG, config)

    def stats(self) -> dict | None:
        """Return throughput; None before the first entry."""
        newest = self.store.newest(STAT)
        return newest[0][1] if newest else None

    def logs(self, count: int) -> list[tuple[str, dict]]:
        """Return (id, acquisition) of the newest log entries, newest first."""
        return self.store.newest(LOG, count)

    def pictures(self) -> Pictures:
        """Return the detector's pictures as the stored configuration has it."""
        config = self.stored_config()
        shape = (config["image_pixel_height"], config["image_pixel_width"])
        return Pictures(config["detector_name"], shape, config["bit_depth"], self.settings.seed)

    # ---- inside -------------------------------------------------------------------------------------

    def _boot_config(self) -> dict:
        """Return the stored configuration, pushed if there was none; one dialect keeps its user for good."""
        config = self.config()[0]
        if config is None:
            config = self.settings.first_config
            self.store.add(CONFIG, config)
        self._user_id = config["writer_user_id"]
        return config

    def _start_writer(self, config: dict) -> None:
        self.writer.start(config)
        self._config = config

    def _begin(self) -> None:
        """Begin the service: its driver, and what it puts into Redis."""
        self._publisher = StatusPublisher(self.store, self.timing, self._logged)
        self._driver = Driver(
            *(self.writer, self.timing, self.faults),
            null_acquisition=self.settings.dialect == "fastapi",
            local_path=self.folders.local,
            publish=self._publish,
            log=lambda acquisition: self._publisher.log(acquisition),
        )
        self._stats = StatsCounter(self.store, self.timing, self._counts)

    def _writer_event(self, event: dict) -> None:
        if event["event"] == "ack":
            self._n_of_acquisition += 1
        elif event["event"] == "opened":
            self._n_of_acquisition = 0
        self._driver.writer_event(event)
        self._news.set()

    def _publish(self, status: dict) -> None:
        """Publish a status; the writer's throughput is counted from these alone."""
        acquisition = status["acquisition"]
        n_images = acquisition["stats"]["n_write_completed"] if acquisition else 0
        self._n_written += max(0, n_images - self._n_published)
        self._n_published = n_images
        self._publisher.status(status)

    def _counts(self) -> tuple[int, int, int]:
        config = self._config
        size = config["image_pixel_height"] * config["image_pixel_width"] * config["bit_depth"] // 8
        return self.source.n_images, self._n_written, size

    def _logged(self, log_id: str, acquisition: dict) -> None:
        if self.settings.validator:
            path = self.folders.local(acquisition["info"]["output_file"])
            with contextlib.suppress(redis.RedisError):  # a program of its own: what it cannot report is lost
                validate(self.store, log_id, path)

    def _at_image(self, fault: dict, act: Callable[[], object]) -> None:
        """Do something, as another party, once so many images of the next acquisition are written."""

        def wait():
            limit, opened = Limit(60), False
            while not limit.reached():
                opened = opened or self.status()["state"] == "WRITING"
                if opened and self._n_of_acquisition >= fault.get("after", 1):
                    act()
                    return
                self._news.wait(0.1)
                self._news.clear()

        threading.Thread(target=wait, name="std-daq other party", daemon=True).start()


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
    service : StdDaqService
        What stands behind the REST interface, once started.
    """

    service: StdDaqService

    def __init__(self, settings: StdDaqSettings, clock: PulseClock, *, redis_port: int = 0, **options: Any):
        super().__init__(settings, clock, **options)
        self._embedded = None if settings.redis_url else EmbeddedRedis(redis_port)
        self.redis_url = settings.redis_url
        # D1 does without FastAPI and pydantic, which take long to import
        name = ".rest_fastapi" if settings.dialect == "fastapi" else ".rest"
        self._rest = importlib.import_module(name, __package__)

    def _start(self) -> None:
        if self._embedded is not None:
            self._on_step("starting Redis")
            self._running.callback(self._embedded.stop)
            self._embedded.start()
            self.redis_url = self._embedded.url
        self._on_step("starting the writer")
        self.service = StdDaqService(
            *(self.settings, self._clock, self.redis_url, self._start_pulse_id, self._faults),
            self._on_step,
        )
        self.source = self.service.source
        self._running.callback(self.service.close)
        self._serve(self._rest.make_app(self.service, self._closing), **self._rest.SERVED)

    def addresses(self) -> dict[str, str]:
        """Return REST and Redis by role."""
        return {"url": self.url, "redis_url": self.redis_url}

    def restart_writer(self) -> None:
        """Start the writer process anew."""
        self.service.restart_writer()

    def restart_driver(self) -> None:
        """Start the service anew; its writer goes on."""
        self.service.restart()

    @property
    def _at_once(self) -> Mapping[str, Callable[..., object]]:
        return {
            "writer_dies": self._writer_dies,
            "redis_away": self._redis_away,
            "redis_empty": lambda: redis.Redis.from_url(self.redis_url).flushall(),
            "rest_restarts": self.restart_driver,
            "ghost_start": self._ghost_start,
        }

    def _writer_dies(self, seconds: float | None = None) -> None:
        self.service.writer.kill()
        if seconds is not None:
            self._later(seconds, self.restart_writer)

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
