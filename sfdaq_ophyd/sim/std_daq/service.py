"""The service behind both REST dialects: the parties of a DAQ put together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis

from ...limits import Limit
from ..clock import PulseClock
from ..faults import Faults
from .driver import Driver
from .files import Folders
from .image_source import Image, ImageSource
from .publisher import CONFIG, LOG, STAT, Publisher, StatsCounter, Store, validate
from .settings import ServiceError, StdDaqSettings, Timing
from .state import Deployer, deployment
from .writer import WriterProcess


class Service:
    """One DAQ: driver, writer process, image source, servers, Redis streams.

    Parameters
    ----------
    settings : StdDaqSettings
    clock : PulseClock
    redis_url : str
    start_pulse_id : int
        Pulse id of frame 1.
    faults : Faults
    on_step : callable
        Called with every step of the writer's start.
    """

    def __init__(
        self,
        settings: StdDaqSettings,
        clock: PulseClock,
        redis_url: str,
        start_pulse_id: int,
        faults: Faults,
        on_step: Callable[[str], object] = lambda step: None,
    ):
        self.settings, self.timing, self.faults = settings, Timing(settings.speed), faults
        self.store = Store(redis_url, self.timing, settings.maxlen)
        self.folders = Folders(settings.folders, settings.writable)
        self._observers: list[Callable[[Image], None]] = []
        self.writer = WriterProcess(self._writer_event, settings, self.folders.writable, clock.path, on_step)
        self._n_written = self._n_published = self._n_of_acquisition = 0
        self._news = threading.Event()
        self._config = self._boot_config()
        self._publisher = Publisher(self.store, self.timing, self._logged)
        self.writer.start(self._config)
        self._driver = self._new_driver()
        self.source = ImageSource(
            clock,
            start_pulse_id,
            settings.rate_multiplicator,
            accepting=lambda: self._driver.accepting,
            behind=lambda: self._driver.behind,
            overrun=lambda: self._driver.overrun,
            deliver=self._image,
            faults=faults,
        )
        self._stats = StatsCounter(self.store, self.timing, self._counts)
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
        self._publisher = Publisher(self.store, self.timing, self._logged)
        self._driver = self._new_driver()
        self._stats = StatsCounter(self.store, self.timing, self._counts)
        for part in old:
            part.close()

    def add_servers(self, servers: Sequence[str]) -> None:
        """Let servers pick up configurations from now on."""
        self._deployer = Deployer(
            self.store,
            self.timing,
            self.faults,
            servers=servers,
            stop_writer=self.writer.kill,
            restart=self._start_writer,
        )

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
        return self._driver.wait_while_writing(self.timing.sync_limit)

    def stop(self) -> dict:
        """Stop or reset the writer; return the status once READY."""
        return self._driver.stop()

    def check_folder(self, path: str, user_id: int | None = None) -> None:
        """Raise the service's error if the folder of `path` is not there for the writer's user."""
        folder = path.rpartition("/")[0] or "/"
        if self.faults.take("hidden_folder", folder=folder):
            raise ServiceError(f"Output file folder {folder} does not exist. Please create it first.")
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

    def n_reports(self, log_id: str) -> int:
        """Count the validator's reports on a logged file."""
        return self.store.redis.xlen(f"{LOG}:{log_id}")

    def log_entry(self, log_id: str) -> dict:
        """Return one acquisition of the log."""
        entry = self.store.entry(LOG, log_id)
        if entry is None:
            raise ServiceError(f"Cannot find log with log_id={log_id}.")
        return entry

    def deployment(self) -> dict:
        """Return how far the newest configuration has got."""
        return deployment(self.store)

    def observe(self, observer: Callable[[Image], None]) -> Callable[[], None]:
        """Call back with each detector image; returns the function that ends it."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

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

    def _new_driver(self) -> Driver:
        return Driver(
            self.writer,
            self.timing,
            self.faults,
            null_acquisition=self.settings.dialect == "fastapi",
            local_path=self.folders.local,
            publish=self._publish,
            log=lambda acquisition: self._publisher.log(acquisition),
        )

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

    def _image(self, image: Image) -> None:
        self._publisher.image_seen()
        self._driver.image(image)
        for observer in tuple(self._observers):
            observer(image)

    def _counts(self) -> tuple[int, int, int]:
        config = self._config
        size = config["image_pixel_height"] * config["image_pixel_width"] * config["bit_depth"] // 8
        return self.source.n_images, self._n_written, size

    def _logged(self, log_id: str, acquisition: dict) -> None:
        if self.settings.validator:
            path = self.folders.local(acquisition["info"]["output_file"])
            try:
                validate(self.store, log_id, path)
            except redis.RedisError:
                pass  # the validator is a program of its own: what it cannot report is lost

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


def ok(message: str, **payload: Any) -> dict:
    """Return a reply of success, of both REST dialects."""
    return {"status": "ok", "message": message, **payload}


def config_words(config: dict | None) -> str:
    """Return what both say of the stored configuration."""
    return "No config set yet." if config is None else f"DAQ configured for bit_depth={config['bit_depth']}."
