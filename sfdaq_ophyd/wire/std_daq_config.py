"""Configuration, deployment, statistics and log records of the standard DAQ.

Source: wire reference std-daq, sections 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError, WireError
from .std_daq import AcquisitionRecord, as_integer

DETECTOR_TYPES = ("eiger", "jungfrau", "gigafrost", "bsread")
BIT_DEPTHS = (8, 16, 32)

INTEGERS = {
    "bit_depth": (8, 32),
    "image_pixel_height": (1, 2**20),
    "image_pixel_width": (1, 2**20),
    "n_modules": (1, 2**16),
    "start_udp_port": (1, 65535),
    "writer_user_id": (-(2**31), 2**31 - 1),
}
"""The integer keys and their limits. A writer_user_id below 1 means the user of the service."""

KEYS = ("detector_name", "detector_type", *INTEGERS, "module_positions", "submodule_info")
"""The ten keys the service knows; others it drops without a word."""


Kinds = Mapping[str, tuple[int, int] | type]

WEBSOCKET_KEYS: Kinds = {
    "number_of_writers": (1, 1000),
    "max_number_of_forwarders_spawned": (0, 2**31 - 1),
    "module_sync_queue_size": (1, 2**31 - 1),
    "gpfs_block_size": (1, 2**62),
    "ram_buffer_gb": (0, 2**31 - 1),
    "stats_collection_period": (0, 2**31 - 1),
    "delay_filter_timeout": (0, 2**31 - 1),
    "use_all_forwarders": bool,
    "sender_sends_full_images": bool,
    "switch_user_active": bool,
    "live_stream_configs": object,
    "log_level": object,
}
"""What the generation with control by websocket knows beside these: limits of integers, types of others."""


def check_config(changes: object, more: Kinds | None = None) -> dict[str, Any]:
    """Return a copy of a full or partial configuration with integers as int; RequestError if one is wrong.

    Parameters
    ----------
    changes : Mapping
        Keys and values.
    more : Mapping, optional
        What a generation knows beside `KEYS`: `WEBSOCKET_KEYS`.
    """
    if not isinstance(changes, Mapping):
        raise RequestError("daq_config", changes, "a dictionary")
    known = {**dict.fromkeys(KEYS, object), **INTEGERS, **(more or {})}
    checked: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in known:
            raise RequestError("daq_config", key, f"one of the keys {', '.join(known)}")
        kind = known[key]
        if kind is bool and not isinstance(value, bool):
            raise RequestError(key, value, "True or False")
        checked[key] = as_integer(key, value, *kind) if isinstance(kind, tuple) else value
    if checked.get("bit_depth", 16) not in BIT_DEPTHS:
        raise RequestError("bit_depth", checked["bit_depth"], f"one of {BIT_DEPTHS}")
    name = checked.get("detector_name", "x")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]{1,100}", name, re.ASCII):
        raise RequestError("detector_name", name, "a name of letters, digits, _, - and dots")
    kind = checked.get("detector_type", "eiger")
    if not isinstance(kind, str) or kind not in DETECTOR_TYPES:
        raise RequestError("detector_type", kind, f"one of {DETECTOR_TYPES}")
    if "module_positions" in checked:
        checked["module_positions"] = _check_positions(checked["module_positions"])
    return checked


def _check_positions(positions: object) -> dict[str, list[int]]:
    if not isinstance(positions, Mapping):
        raise RequestError("module_positions", positions, "a dictionary of module number to 4 integers")
    checked = {}
    for module, corners in positions.items():
        if not re.fullmatch(r"\d{1,5}", str(module), re.ASCII):
            raise RequestError("module_positions", module, "module numbers as keys")
        if not isinstance(corners, list | tuple) or len(corners) != 4:
            raise RequestError(f"module_positions[{module}]", corners, "4 integers [x0, y0, x1, y1]")
        checked[str(module)] = [
            as_integer(f"module_positions[{module}]", c, -(2**31), 2**31 - 1) for c in corners
        ]
    return checked


@dataclass(frozen=True, slots=True)
class DaqConfig:
    """The stored configuration. Sizes in pixels; `image_shape` is (y, x).

    Attributes
    ----------
    config_id : str or None
        Id of the entry in the DAQ's Redis.
    raw : dict
        As the service sent it.
    """

    detector_name: str
    detector_type: str
    bit_depth: int
    image_pixel_height: int
    image_pixel_width: int
    n_modules: int
    start_udp_port: int
    writer_user_id: int
    module_positions: dict[str, Any] = field(default_factory=dict)
    config_id: str | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of one image."""
        return self.image_pixel_height, self.image_pixel_width

    @property
    def dtype(self) -> str:
        """Numpy name of the pixel type in the files; WireError if the service stored a depth there is not."""
        if self.bit_depth not in BIT_DEPTHS:
            raise WireError(f"config: expected bit_depth as one of {BIT_DEPTHS}, got {self.bit_depth}")
        return f"uint{self.bit_depth}"

    @classmethod
    def from_dict(cls, config: object, config_id: str | None = None) -> DaqConfig | None:
        """Read a config object; None if none is stored."""
        if config is None:
            return None
        if not isinstance(config, Mapping):
            raise WireError(f"config: expected an object, got {config!r:.200}")
        try:
            return cls(
                detector_name=str(config["detector_name"]),
                detector_type=str(config["detector_type"]),
                **{key: int(config[key]) for key in INTEGERS},
                module_positions=dict(config.get("module_positions") or {}),
                config_id=config_id,
                raw=dict(config),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise WireError(f"config: {type(exc).__name__} {exc} in {config!r:.300}") from exc


@dataclass(frozen=True, slots=True)
class DaqStats:
    """Throughput over the last finished second: uncompressed bytes and images per second."""

    detector_bytes_per_second: float
    detector_images_per_second: float
    writer_bytes_per_second: float
    writer_images_per_second: float

    @classmethod
    def from_dict(cls, stats: object) -> DaqStats | None:
        """Read a stats object; None before the first second is over."""
        if stats is None:
            return None
        try:
            if not isinstance(stats, Mapping):
                raise TypeError(f"{type(stats).__name__} is no object")
            return cls(
                *(
                    float(stats[who][what])
                    for who in ("detector", "writer")
                    for what in ("bytes_per_second", "images_per_second")
                )
            )
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise WireError(f"stats: {type(exc).__name__} {exc} in {stats!r:.300}") from exc


@dataclass(frozen=True, slots=True)
class Deployment:
    """How far the newest configuration has got.

    Attributes
    ----------
    status : str
        UNKNOWN, RUNNING, SUCCESS or ERROR. SUCCESS means: all servers that answered *so far*.
    servers : dict
        Server name to its last word; empty while none answered.
    """

    config_id: str | None
    status: str
    message: str
    servers: dict[str, Any]

    @classmethod
    def from_dict(cls, deployment: object) -> Deployment:
        """Read a deployment object; null servers become an empty dictionary."""
        if not isinstance(deployment, Mapping):
            raise WireError(f"deployment: expected an object, got {deployment!r:.200}")
        servers = deployment.get("servers")
        if servers is not None and not isinstance(servers, Mapping):
            raise WireError(f"deployment.servers: expected an object or null, got {servers!r:.200}")
        return cls(
            deployment.get("config_id"),
            str(deployment.get("status")),
            str(deployment.get("message")),
            dict(servers or {}),
        )


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A finished acquisition of the log. Failed ones are not in it; a stop while READY doubles one.

    Attributes
    ----------
    log_id : str or None
        Only one dialect tells it.
    """

    log_id: str | None
    acquisition: AcquisitionRecord

    @classmethod
    def list_from(cls, logs: object) -> list[LogEntry]:
        """Read the log, newest first: a list in one dialect, an object keyed by id in the other."""
        if isinstance(logs, Mapping):
            records = list(logs.items())
        elif isinstance(logs, list):
            records = [(None, record) for record in logs]
        else:
            raise WireError(f"logs: expected a list or an object, got {logs!r:.200}")
        entries = [(log_id, AcquisitionRecord.from_dict(record)) for log_id, record in records]
        return [cls(log_id, acquisition) for log_id, acquisition in entries if acquisition is not None]
