"""The websocket generation of the standard DAQ as a server: control, REST of the configuration and of files.

As in wire reference std-daq, section 12. Errors of REST are HTTP codes with a ``detail``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import h5py
import jsonschema
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from ..clock import PulseClock
from .files import PER_IMAGE_OF_ALL, Folders, ImageFile, MetadataFile, Pictures, Writer, is_below
from .image_source import ImageSource
from .server import DaqServer
from .settings import BLOCK_SIZE, StdDaqSettings, Timing
from .websocket_driver import Control, WebsocketDriver

logger = logging.getLogger(__name__)


GROUP = "gf-teststand"
"""The only detector whose files the service can join."""

_STREAM = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["batch", "periodic", "forward"]},
        "config": {"type": "array"},
    },
    "required": ["type"],
    "additionalProperties": False,
}
_KINDS = {
    "string": ("detector_name", "detector_type"),
    "integer": (
        *("n_modules", "bit_depth", "image_pixel_height", "image_pixel_width", "start_udp_port"),
        *("writer_user_id", "max_number_of_forwarders_spawned", "module_sync_queue_size"),
    ),
    "boolean": ("use_all_forwarders",),
    "object": ("module_positions",),
}
SCHEMA = {
    "properties": {
        **{name: {"type": kind} for kind, names in _KINDS.items() for name in names},
        "live_stream_configs": {
            "type": "object",
            "patternProperties": {"^tcp://[0-9.]+:[0-9]+$": _STREAM},
            "additionalProperties": False,
        },
    }
}
"""What the service checks of a configuration; keys that are not here may hold anything."""


class Usable(BaseModel, strict=True):
    """What driver and writers need of a configuration."""

    detector_name: str
    bit_depth: Literal[8, 16, 32]
    image_pixel_height: PositiveInt
    image_pixel_width: PositiveInt
    number_of_writers: int = Field(gt=0, le=100)
    writer_user_id: int = 0
    gpfs_block_size: PositiveInt = BLOCK_SIZE


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
        Its present life, or the last one, once started.
    writers : list of Writer
    metadata_writer : Writer or None
    """

    driver: WebsocketDriver
    _control: Control

    def __init__(self, settings: StdDaqSettings, clock: PulseClock, *, ws_port: int = 0, **options: Any):
        super().__init__(settings, clock, **options)
        self.timing, self._ws_port = Timing(settings.speed), ws_port
        self.folders = Folders(settings.folders, settings.writable)
        self._config, self._n_changes = settings.first_config, 0
        self._lock = threading.RLock()
        self.ws_url = ""
        self.writers: list[Writer] = []
        self.metadata_writer: Writer | None = None

    def _start(self) -> None:
        self._on_step("starting the control")
        self._control = Control(self.timing, self._ws_port)
        self.ws_url = self._control.url
        self.driver = self._new_driver()
        self.driver.close()  # nothing has begun
        self._running.callback(self._end_all)
        self._begin()
        self.source = ImageSource(
            *(self._clock, self._start_pulse_id, self.settings.rate_multiplicator),
            driver=lambda: self.driver,
            faults=self._faults,
        )
        self._running.callback(self.source.close)
        if self.settings.running:
            self.source.follow_clock()
        self._serve(self._app())

    def _end_all(self) -> None:
        self._control.close()
        self.driver.close()
        for writer in self._all_writers:
            writer.save()

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

    @property
    def _at_once(self) -> Mapping[str, Callable[..., object]]:
        return {"writer_dies": self._writer_dies, "driver_dies": self._driver_dies}

    def _writer_dies(self, writer: int = 0, seconds: float | None = None) -> None:
        self.writers[writer].die()
        if seconds is not None:
            self._later(seconds, self.writers[writer].revive)

    def _driver_dies(self, seconds: float | None = None) -> None:
        self._end()
        if seconds is not None:
            self._later(seconds, self.restart_driver)

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
        return {"driver": self.driver.alive, **living, **meta}

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
        with self._lock:
            self._end()
            for writer in self._all_writers:
                writer.save()
            self.writers, self.metadata_writer = [], None
            try:
                config = Usable.model_validate(self._config)
            except ValidationError as exc:
                logger.warning("the configuration is of no use: %s", exc)
                return
            shape = (config.image_pixel_height, config.image_pixel_width)
            group, block = config.detector_name, config.gpfs_block_size
            pictures = Pictures(group, shape, config.bit_depth, self.settings.seed, self._clock.view)
            common = (self.folders, config.writer_user_id)
            self.writers = [
                Writer(str(k), lambda path: ImageFile(path, group, block, pictures), *common)
                for k in range(config.number_of_writers)
            ]
            if self.settings.metadata_writer:
                self.metadata_writer = Writer(
                    "Meta",
                    lambda path: MetadataFile(path, group, block),
                    *common,
                    on_death=lambda writer: self._later(self.timing.restart, writer.revive),
                )
            self._start_driver()

    def _new_driver(self) -> WebsocketDriver:
        return WebsocketDriver(
            *(self.writers, self.metadata_writer, self.timing, self._faults),
            on_change=self._control.changed,
            let_look=self._control.let_look,
            on_death=self._driver_died,
        )

    def _start_driver(self) -> None:
        if self.writers:
            self._control.serve(driver := self._new_driver())
            self.driver = driver  # which counts as alive from here on

    def _end(self) -> None:
        """End the driver, if it lives, and its sessions."""
        with self._lock:
            self._control.cut()
            self.driver.close()

    def _driver_died(self, driver: WebsocketDriver, seconds: float | None) -> None:
        """End the sessions of a driver that a fault has killed, in its own thread."""
        self._control.cut(driver)
        if seconds is not None:
            self._later(seconds, self.restart_driver)

    # ---- REST ---------------------------------------------------------------------------------------

    def _app(self) -> FastAPI:
        app = FastAPI(title="Standard DAQ configuration (simulated)")
        app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
        app.add_api_route("/api/config/get", self._get_config)
        app.add_api_route("/api/config/set", self._post_config, methods=["POST"], response_model=None)
        add_file_endpoints(app, self.folders)
        return app

    def _get_config(self, user: str) -> dict:
        if self._faults.take("config_missing"):
            raise HTTPException(404, "Configuration file not found")
        return self._config

    async def _post_config(self, request: Request, user: str) -> Response | dict[str, str]:
        try:
            new = await request.json()
            old = self._get_config(user)
            differs = any(new.get(key) != old.get(key) for key in ("detector_name", "detector_type"))
        except (ValueError, AttributeError, RecursionError):
            return PlainTextResponse("Internal Server Error", 500)
        if differs:
            raise HTTPException(400, "Detector name or detector type cannot be changed.")
        try:
            jsonschema.validate(new, SCHEMA)
        except jsonschema.ValidationError as exc:
            raise HTTPException(400, str(exc)) from None
        self.set_config(new)
        if self._faults.take("secondary_down"):
            raise HTTPException(500, "500: Failed to synchronize with the secondary server")
        return {"message": "Configuration updated and synchronized successfully"}


def add_file_endpoints(app: FastAPI, folders: Folders) -> None:
    """Add what looks into files below `folders`, and joins them."""

    def local(path: str) -> str:
        here = folders.local(path)
        if os.path.exists(here) and not is_below(here, folders.writable):
            raise FileNotFoundError(2, "No such file or directory", path)
        return here

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            raise HTTPException(500, str(exc)) from exc

    @app.post("/api/h5/create_interleaved_vds")
    async def create(request: Request) -> dict[str, str]:
        with told():
            asked = await request.json()
            folder, name = asked.get("base_path"), asked.get("output_file")
            found = [each for each in os.listdir(local(folder)) if each.startswith("file")] if folder else []
            if not found or not name:
                raise ValueError("Missing required parameters")
            if not is_below(path := os.path.join(local(folder), name), folders.writable):
                raise PermissionError(13, "Permission denied", name)
            interleave(local(folder), path)
        return {"message": "Interleaved virtual dataset created successfully"}

    @app.get("/api/h5/get_metadata_status")
    def status(filename: str) -> dict:
        with told(), h5py.File(local(filename), "r") as file:
            return {"file": filename, "datasets": _datasets(file)}

    @app.get("/api/h5/read_metadata")
    def metadata(filename: str) -> dict:
        with told(), h5py.File(local(filename), "r") as file:
            rows = file["interleaved_metadata"][:]
            return {"metadata": [{key: row[key].item() for key in ("image_id", "status")} for row in rows]}


def _datasets(file: h5py.File) -> list[dict]:
    found: list[dict] = []

    def look(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            about = {
                "name": name,
                "shape": list(node.shape),
                "dtype": str(node.dtype),
                "size": int(node.size),
            }
            found.append({**about, "metadata": json.loads(json.dumps(dict(node.attrs), default=str))})

    file.visititems(look)
    return found


def interleave(folder: str, path: str) -> None:
    """Join all files of a folder as the service does: the last frame of each is not linked, and reads as 0.

    Parameters
    ----------
    folder : str
        With ``fileMeta.h5``, and the files of the writers, all with the same number of frames.
    path : str
        Of the file to make.
    """
    names = sorted(name for name in os.listdir(folder) if name.endswith(".h5"))
    if "fileMeta.h5" not in names:
        raise ValueError("fileMeta.h5 not found in the directory.")
    files = [os.path.join(folder, name) for name in names if name != "fileMeta.h5"]
    meta = os.path.join(folder, "fileMeta.h5")
    with h5py.File(meta, "r") as file:
        n_meta = len(file[GROUP]["metadata"])
    shapes = []
    for each in files:
        with h5py.File(each, "r") as file:
            shapes.append(file[GROUP]["data"].shape)
            dtype = file[GROUP]["data"].dtype
    (n, *shape), total = shapes[0], len(files) * shapes[0][0]
    if len(set(shapes)) > 1:
        raise ValueError(f"files of different shapes: {sorted(set(shapes))}")
    data = h5py.VirtualLayout((total, *shape), dtype)
    metadata = h5py.VirtualLayout((total + n_meta,), PER_IMAGE_OF_ALL)
    for i, each in enumerate(files):
        images = h5py.VirtualSource(each, f"{GROUP}/data", shape=shapes[0])
        ids = h5py.VirtualSource(each, f"{GROUP}/metadata", shape=(n,))
        if n > 1:
            places = slice(i, (n - 1) * len(files), len(files))
            data[places], metadata[places] = images[: n - 1], ids[: n - 1]
    if n_meta:
        metadata[total:] = h5py.VirtualSource(meta, f"{GROUP}/metadata", shape=(n_meta,))
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("interleaved_data", data, fillvalue=dtype.type(0))
        fill = np.zeros(1, PER_IMAGE_OF_ALL)[0]
        file.create_virtual_dataset("interleaved_metadata", metadata, fillvalue=fill)
