"""The websocket generation of the standard DAQ as a server: control, configuration, all behind them."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

from ..clock import PulseClock
from ..faults import check
from .files import Folders, Pictures
from .image_source import ImageSource
from .serving import DaqServer, serve_fastapi
from .settings import AT_ONCE, BLOCK_SIZE, StdDaqSettings, Timing, faults_of
from .websocket_control import Control
from .websocket_driver import WebsocketDriver
from .websocket_files import ImageFile, MetadataFile, Writer
from .websocket_rest import make_app

logger = logging.getLogger(__name__)

MOST_WRITERS = 100

DEPTHS = (8, 16, 32)


class WebsocketServer(DaqServer):
    """One simulated DAQ of the websocket generation in this process.

    Parameters
    ----------
    ws_port : int
        Of the control; 0 takes a free one. `port` is that of the configuration's REST service.
    settings, clock, **options
        Of `DaqServer`.

    Attributes
    ----------
    ws_url : str
        Address of the control, once started.
    driver : WebsocketDriver
        Its present life, or the last one.
    writers : list of Writer
    metadata_writer : Writer or None
    source : ImageSource
    """

    def __init__(self, settings: StdDaqSettings, clock: PulseClock, *, ws_port: int = 0, **options: Any):
        super().__init__(settings, clock, **options)
        self.timing, self._ws_port = Timing(settings.speed), ws_port
        self.folders = Folders(settings.folders, settings.writable)
        self._config, self._n_changes = settings.first_config, 0
        self._lock = threading.RLock()
        self.ws_url = ""
        self._control: Control | None = None
        self._source: ImageSource | None = None
        self.driver: WebsocketDriver | None = None
        self.writers: list[Writer] = []
        self.metadata_writer: Writer | None = None

    def _start(self) -> None:
        self._on_step("starting the control")
        self._control = Control(self.timing, self._ws_port)
        self.ws_url = self._control.url
        self._begin()
        self._source = ImageSource(
            self._clock,
            self._start_pulse_id,
            self.settings.rate_multiplicator,
            accepting=lambda: self.driver.accepting if self.driver else 0,
            behind=lambda: bool(self.driver and self.driver.behind),
            overrun=lambda: None,
            deliver=lambda image: self.driver.image(image) if self.driver else None,
            faults=self._faults,
        )
        if self.settings.running:
            self._source.follow_clock()
        self._on_step("starting the REST service")
        app = make_app(lambda: self._config, self.set_config, self.folders, self._faults)
        timeout = self.settings.start_timeout
        self.url, self._stop_rest = serve_fastapi(app, self._faults, self._closing, self._port, timeout)

    def _stop(self) -> None:
        if self._source is not None:
            self._source.close()
        if self._control is not None:
            self._control.close()
        if self.driver is not None:
            self.driver.close()
        for writer in self._all_writers:
            writer.save()

    @property
    def source(self) -> ImageSource:
        """The detector."""
        assert self._source is not None, "not started"
        return self._source

    def addresses(self) -> dict[str, str]:
        """Return the configuration's REST and the control's websocket by role."""
        return {"url": self.url, "ws_url": self.ws_url}

    @property
    def config(self) -> dict:
        """The stored configuration."""
        return self._config

    def set_config(self, config: dict) -> None:
        """Store a configuration; a changed one restarts driver and writers, where there are servers."""
        with self._lock:
            changed, self._config = config != self._config, config
            if changed and self.settings.servers:
                self._end()
                for writer in self._all_writers:
                    writer.die()
                self._n_changes += 1
                self._later(self.timing.restart, partial(self._begin_again, self._n_changes))

    # ---- what goes wrong ----------------------------------------------------------------------------

    def fail_next(self, what: str, **details) -> None:
        """Misbehave, by the names in `settings.FAULTS`."""
        check(faults_of("websocket"), what, details)
        if what == "writer_dies":
            writer = self.writers[details.get("writer", 0)]
            writer.die()
            if "seconds" in details:
                self._later(details["seconds"], writer.revive)
        elif what in AT_ONCE:
            self._end()
            if "seconds" in details:
                self._later(details["seconds"], self.restart_driver)
        else:
            self._faults.add(what, details)

    def restart_driver(self) -> None:
        """Start the driver anew: it is idle. The writers go on."""
        with self._lock:
            self._end()
            self._start_driver()

    def restart_writer(self) -> None:
        """Start all writers anew that are dead."""
        for writer in self._all_writers:
            if not writer.alive:
                writer.revive()

    def alive(self) -> dict[str, bool]:
        """Tell which processes live: ``driver``, ``w0`` and so on, ``wm``."""
        meta = {} if self.metadata_writer is None else {"wm": self.metadata_writer.alive}
        living = {f"w{writer.name}": writer.alive for writer in self.writers}
        return {"driver": self.driver is not None and self.driver.alive, **living, **meta}

    # ---- processes ----------------------------------------------------------------------------------

    @property
    def _all_writers(self) -> list[Writer]:
        return [*self.writers, *([self.metadata_writer] if self.metadata_writer else [])]

    def _begin_again(self, change: int) -> None:
        """Begin after a change of the configuration, unless there was another one since."""
        with self._lock:
            if change == self._n_changes:
                self._begin()

    def _begin(self) -> None:
        """Start driver and writers with the stored configuration; with one of no use they end at once."""
        config, folders = self._config, self.folders
        with self._lock:
            self._end()
            for writer in self._all_writers:
                writer.save()
            try:
                group, block = config["detector_name"], _whole(config, "gpfs_block_size", BLOCK_SIZE)
                user_id, n_writers = _whole(config, "writer_user_id", 0), _whole(config, "number_of_writers")
                shape = (_whole(config, "image_pixel_height"), _whole(config, "image_pixel_width"))
                depth = _whole(config, "bit_depth")
                if not 0 < n_writers <= MOST_WRITERS or block < 1 or min(shape) < 1 or depth not in DEPTHS:
                    raise ValueError(f"{n_writers} writers, blocks of {block}, {depth} bit, images {shape}")
                pictures = Pictures(group, shape, depth, self.settings.seed, self._clock.view)
            except (KeyError, TypeError, ValueError, OverflowError) as exc:
                logger.warning("the configuration is of no use: %r", exc)
                self.writers, self.metadata_writer = [], None
                return
            self.writers = [
                Writer(str(k), lambda path: ImageFile(path, group, block, pictures), folders, user_id)
                for k in range(n_writers)
            ]
            if self.settings.metadata_writer:
                self.metadata_writer = Writer(
                    "Meta",
                    lambda path: MetadataFile(path, group, block),
                    folders,
                    user_id,
                    on_death=lambda writer: self._later(self.timing.restart, writer.revive),
                )
            self._start_driver()

    def _start_driver(self) -> None:
        control = self._control
        assert control is not None
        if not self.writers:
            return
        driver = WebsocketDriver(
            self.writers,
            self.metadata_writer,
            self.timing,
            self._faults,
            on_change=control.changed,
            let_look=control.let_look,
            on_death=self._driver_dies,
        )
        control.serve(driver)
        self.driver = driver  # which counts as alive from here on

    def _end(self) -> None:
        """End the driver, if it lives, and its sessions."""
        with self._lock:
            if self._control is not None:
                self._control.cut()
            if self.driver is not None:
                self.driver.close()

    def _driver_dies(self, driver: WebsocketDriver, seconds: float | None) -> None:
        """End the sessions of a driver that a fault has killed, in its own thread."""
        assert self._control is not None
        self._control.cut(driver)
        if seconds is not None:
            self._later(seconds, self.restart_driver)


def _whole(config: dict, key: str, default: int | None = None) -> int:
    """Return a number of the configuration; KeyError or TypeError if there is none."""
    value = config[key] if default is None else config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{key} is {value!r}")
    return int(value)
