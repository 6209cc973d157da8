"""Options of the simulated standard DAQ, its configuration at the first start, and its faults by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...errors import RequestError, SfdaqError
from ...wire.detector_name import DetectorName
from ...wire.pulse_id import check_rate_multiplicator

DIALECTS = ("flask", "fastapi", "websocket")

BLOCK_SIZE = 16 * 2**20
"""Block of the file system where the configuration names no other, bytes."""


class ServiceError(Exception):
    """An error inside the service; its text is the message of the reply."""


INTEGERS = (
    *("bit_depth", "image_pixel_height", "image_pixel_width", "n_modules", "start_udp_port"),
    "writer_user_id",
)
"""Numbers in a configuration, in the order in which both REST generations store them."""


@dataclass(frozen=True, kw_only=True)
class StdDaqSettings:
    """How one simulated DAQ behaves.

    Parameters
    ----------
    dialect : str
        "flask" (D1, what the published documentation describes), "fastapi" (D2) or "websocket" (D3).
    pydantic : int
        Words of the fastapi dialect's validation errors: 2 or 1.
    speed : float
        Divides the service's own delays; never the detector's rate, nor the second over which it is counted.
    detector_name : str
        A Jungfrau's frames are those of its `Scene`; any other name gets stamped ramps.
    image_shape : tuple of int
        (y, x); of a Jungfrau it follows from the name.
    rate_multiplicator : int
        The detector runs at 100/r Hz.
    running : bool
        The detector sends images in step with the pulse clock from the start.
    servers : tuple of str
        Servers that pick up a configuration; none leaves it waiting and restarts nothing. The websocket
        generation has no names for them.
    simulation : bool
        A UDP simulator stands behind ``/simulation``.
    compressed : bool
        Files with filter 32008.
    validator : bool
        A file validator writes a report on every logged file (fastapi only).
    redis_url : str
        An outside Redis; empty starts one of our own.
    n_writers : int
        Writers, each with a file of its own (websocket only).
    metadata_writer : bool
        One more writes ``<prefix>Meta.h5`` (websocket only).
    block_size : int
        Block of the file system, bytes: chunks are as large (websocket only).
    maxlen : int or None
        Entries kept per Redis stream; None keeps all, as the real one.
    seed : int
    start_timeout : float
        s without a step after which the start of the writer process fails.
    folders : dict
        Folder in requests to folder on this machine; others are used as they are.
    writable : tuple of str
        Folders below which files are written, besides those of `folders`; others are not there for the DAQ.
    """

    dialect: str = "flask"
    pydantic: int = 2
    speed: float = 1.0
    detector_name: str = ""
    image_shape: tuple[int, int] = (256, 512)
    rate_multiplicator: int = 1
    running: bool = True
    servers: tuple[str, ...] = ("daq-srv-1", "daq-srv-2")
    simulation: bool = False
    compressed: bool = False
    validator: bool = False
    redis_url: str = ""
    n_writers: int = 2
    metadata_writer: bool = True
    block_size: int = BLOCK_SIZE
    maxlen: int | None = None
    seed: int = 0
    start_timeout: float = 60.0
    folders: dict[str, str] = field(default_factory=dict)
    writable: tuple[str, ...] = ()

    def __post_init__(self):
        check_rate_multiplicator(self.rate_multiplicator)
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "servers", tuple(self.servers))
        object.__setattr__(self, "writable", _folders(self.writable))
        for name, good, expected in (
            ("dialect", self.dialect in DIALECTS, f"one of {DIALECTS}"),
            ("pydantic", self.pydantic in (1, 2), "1 or 2"),
            ("speed", self.speed > 0, "a number above 0"),
            ("n_writers", self.n_writers > 0, "1 or more"),
            ("block_size", self.block_size > 0, "bytes above 0"),
            ("image_shape", len(self.image_shape) == 2 and min(self.image_shape) > 0, "(y, x)"),
        ):
            if not good:
                raise RequestError(name, getattr(self, name), expected)

    @property
    def first_config(self) -> dict:
        """The configuration file of the service, pushed into a Redis that holds none."""
        flask, websocket = self.dialect == "flask", self.dialect == "websocket"
        config: dict[str, Any] = {
            "detector_name": self.detector_name or _NAMES[self.dialect],
            "detector_type": "eiger" if flask else "gigafrost",
            "n_modules": 2 if flask else 8,
            "bit_depth": 16,
            "image_pixel_height": self.image_shape[0],
            "image_pixel_width": self.image_shape[1],
            "start_udp_port": 50000 if flask else 2000,
            "writer_user_id": 0,
            "module_positions": {"0": [0, 255, 255, 0], "1": [256, 255, 511, 0]} if flask else {},
            "submodule_info": [] if flask else {},
        }
        if websocket:
            config["number_of_writers"] = self.n_writers
        if websocket and self.block_size != BLOCK_SIZE:
            config["gpfs_block_size"] = self.block_size
        try:
            name = DetectorName.parse(config["detector_name"])
        except SfdaqError:
            return config
        height, width = name.raw_shape
        rows = height // name.n_modules
        positions = {str(m): [0, m * rows, width - 1, (m + 1) * rows - 1] for m in range(name.n_modules)}
        config.update(
            detector_type="jungfrau",
            n_modules=name.n_modules,
            image_pixel_height=height,
            image_pixel_width=width,
            module_positions=positions if flask or websocket else {},
        )
        return config


_NAMES = {"flask": "EG1M", "fastapi": "GF2", "websocket": "gf-teststand"}
"""Detectors where none is named."""


def _folders(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    folders = [given] if isinstance(given, str | os.PathLike) else given
    try:
        return tuple(os.path.abspath(folder) for folder in folders)
    except (TypeError, ValueError):
        raise RequestError("writable", given, "a folder, or several") from None


@dataclass(frozen=True)
class Timing:
    """Delays in s, by the names in `SECONDS`, all divided by `speed`."""

    speed: float = 1.0
    stats_period: ClassVar[float] = 1.0
    """s over which throughput is counted: of images, whose rate has nothing to do with `speed`."""

    def __getattr__(self, name: str) -> float:
        try:
            return SECONDS[name] / self.speed
        except KeyError:
            raise AttributeError(name) from None

    def creation(self, n_images: int) -> float:
        """Time to create a file: 8 ms; 0.2 s for 5000 images, 4.3 s for 20 000, over 5 s from 21 500 on."""
        return (0.008 + 4.3 * (n_images / 20_000) ** 2.2) / self.speed


SECONDS = {
    "poll": 0.1,  # between two looks of the service at the writer's state
    "give_up": 5.0,  # after this long without the wanted state the writer is UNKNOWN
    "sync_limit": 60.0,  # the end of the patience of write_sync
    "status_period": 0.5,  # between two published statuses while images are acknowledged
    "deployer_poll": 0.5,  # between two looks of a server at the configuration
    "restart": 10.0,  # for which the writer is away after a deployment, and the websocket's driver
    "redis_patience": 4.0,  # for which a call to an absent Redis is tried again
    "image_wait": 1.0,  # between two looks of the websocket's driver at its state while no images come
    "saving": 0.15,  # for closing files
    "live_silence": 2.0,  # before the first "No data" picture of the live stream
    "live_repeat": 0.5,  # between two of them
}
"""Delays of the real service, s."""


_OF_ALL = {
    "slow_creation": "the next file takes `seconds` to be created",
    "creation_error": "the next file cannot be created: the writer says `text`",
    "hang": "the next request to `path` is answered after `seconds`",
    "lost_reply": "the next request to `path` is carried out, its connection closed without a reply",
    "bad_frames": "the first `n` images of an acquisition have `status` (default 1)",
    "gap": "`n` images after the first are lost",
    "stall": "no more images after `after`, for `seconds` or to the end of the acquisition",
    "fewer_images": "an acquisition gets `n` images",
    "dies_writing": "the writer (of several number `writer`) dies once `after` images are written",
    "stopped_by_other": "somebody else stops the writer once `after` images are written",
    "restarted_by_other": "somebody else starts another acquisition once `after` images are written",
    "writer_dies": "at once: the writer (of several number `writer`) dies; back after `seconds`, or not",
}

_OF_REST = {
    "late_subscription": "the driver subscribes `seconds` too late, and the first images are lost",
    "missed_writing": "the service looks away for `seconds` after a start, or until it is over",
    "hidden_folder": "`folder`, or any, is not there for the service",
    "ring_overrun": "the detector sends at `rate` in place of the writer's: an acquisition takes `seconds`",
    "server_error": "a server reports `text` at the next deployment",
    "redis_away": "at once: Redis is away for `seconds`; with `empty` it has forgotten all",
    "redis_empty": "at once: Redis has forgotten all",
    "rest_restarts": "at once: the service restarts, its writer does not",
    "ghost_start": "the next start fails, and the file of the one after it takes `seconds`",
}

_OF_WEBSOCKET = {
    "slow_saving": "the files of the next acquisition take `seconds` to be closed",
    "missed_state": "the next `state` is over before a session looks; an end was told to another session",
    "lost_stop": "the next stop before the first image is forgotten when that comes",
    "driver_dies_writing": "the driver dies once `after` images are written; back after `seconds`, or not",
    "driver_dies": "at once: the driver dies, and is back after `seconds`, or not",
    "config_missing": "the next request for the configuration, or to change it, finds no file",
    "secondary_down": "the next change of the configuration misses the second server: a 500, but done",
}

FAULTS = {**_OF_ALL, **_OF_REST, **_OF_WEBSOCKET}
"""Name and meaning of every fault."""


def faults_of(dialect: str) -> Mapping[str, str]:
    """Return the faults that a dialect can have."""
    return {**_OF_ALL, **(_OF_WEBSOCKET if dialect == "websocket" else _OF_REST)}
