"""The stream: PUSH sockets, and the series that goes out on one of them, with what is to be wrong with it.

As in wire reference eiger, section 7. What nobody takes is dropped and counted; nothing waits for a client,
but for a patient detector. Used from one event loop.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import parse_monitor_message

from ...errors import RequestError
from ...limits import Limit
from ...wire import cbor
from ...wire.compression import ArrayBytes
from ...wire.eiger_stream import encode_message
from ...wire.simplon import Parameter
from ...wire.ulid import make_ulid
from ..faults import Fault, Faults
from ..http import not_opened
from .config import DetectorConfig, Subsystem
from .frames import FrameMaker, PackedScene, compress
from .parameters import SWITCH, measured, text
from .stream_series import CborSeries, Fields, LegacySeries, Parts, RecordedSeries, StreamOptions

HIGH_WATER = 1000
"""Messages the detector keeps for a slow client, unless they are more than `MEMORY`."""

MEMORY = 2 << 30
"""Bytes that those may take if no pixel could be compressed."""

EVENTS = 100
"""Clients that come and go, at most, of which the stream is told before it sends the next message."""

LINGER_MS = 2000
"""How long what was sent may still be on its way when the detector is switched off."""

_UNKNOWN_TAG = bytes.fromhex("d9fde8")  # 65000, which means nothing
_HUGE = 1 << 40


class SeriesSocket:
    """A bound PUSH socket that never waits, and knows whether somebody is connected."""

    def __init__(self, context: zmq.Context, port: int, high_water: int):
        self._socket = context.socket(zmq.PUSH)
        self._socket.set(zmq.SNDHWM, high_water)
        self._socket.set(zmq.LINGER, LINGER_MS)
        self._socket.monitor(f"inproc://clients-{id(self)}", zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._events = context.socket(zmq.PAIR)
        self._events.set(zmq.RCVHWM, 0)  # nobody may look for long, and libzmq would wait
        self._events.connect(f"inproc://clients-{id(self)}")
        self._connections: set[int] = set()
        self._patient = True
        try:
            self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        except zmq.ZMQError as exc:
            self.close()
            reason = f"port {port} for the Eiger's stream: {exc.strerror}"
            raise not_opened("Eiger", f"tcp://127.0.0.1:{port}", reason) from exc
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)

    def send(self, parts: Parts) -> bool:
        """Send one message; False if there is no client, or none with room."""
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self._patient = True
        return True

    @property
    def has_room(self) -> bool:
        """Whether a client takes a message now."""
        return bool(self._socket.poll(0, zmq.POLLOUT))

    async def wait_for_room(self, patience: float) -> None:
        """Wait while clients are connected and none has room; for `patience` s until one takes a message."""
        limit = Limit(patience)
        while self._patient and not self.has_room and self._connected():
            await asyncio.sleep(0.001)
            self._patient = not limit.reached()

    def close(self) -> None:
        """Close it; what was sent still goes out."""
        self._socket.monitor(None, 0)
        self._events.close(0)
        self._socket.close()

    def _connected(self) -> bool:
        for _ in range(EVENTS):
            if not self._events.poll(0):
                break
            event = parse_monitor_message(self._events.recv_multipart())
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._connections.add(event["value"])
            else:
                self._connections.discard(event["value"])
        return bool(self._connections)


class FaultySeries:
    """A series whose messages are those of another, but for the faults that were asked for.

    Parameters
    ----------
    series : CborSeries, LegacySeries or RecordedSeries
    faults : Faults
    """

    def __init__(self, series: CborSeries | LegacySeries | RecordedSeries, faults: Faults):
        self._series, self._faults = series, faults
        self._untagged = bool(faults.take("no_self_described"))
        self._early = faults.take("early_end")
        self._held: list[Parts] = []
        self._ended = False
        if offset := faults.take("clock_offset"):
            series.offset_ns = round(offset.get("seconds", 1.0) * 1e9)

    def start(self) -> list[Parts]:
        """Return the messages with which the series begins."""
        if self._faults.take("lost_start"):
            return []
        return self._encoded(self._series.start(), _IN_START)

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> list[Parts]:
        """Return the messages that follow an exposure; parameters as for `StreamSeries.times`."""
        series, said = self._series, []
        if self._takes("new_unique_id", image_id) and not isinstance(series, LegacySeries):
            series.unique_id = make_ulid(time_ns, 0)
            said = self._encoded(series.start())
        if not (message := series.image(image_id, time_ns, count_time)):
            return said
        if self._takes("unknown_type", image_id) and isinstance(end := series.end(), dict):
            said += self._encoded({**end, "type": "calibration"})
        (parts,) = self._encoded(message, _IN_IMAGE, image_id)
        if fault := self._takes("cut_message", image_id):
            parts = [parts[0][: int(fault.get("keep", len(parts[0]) // 2))], *parts[1:]]
        if self._takes("extra_part", image_id):
            parts = [*parts, b"{}"]
        n_before_the_end = series.number_of_images - image_id
        if self._early is not None and n_before_the_end <= int(self._early.get("before", 1)):
            said += self.end()
        said += [] if self._takes("lost_image", image_id) else [parts]
        said += [parts] if self._takes("duplicate", image_id) else []
        if self._takes("swapped", image_id):
            self._held += said
            return []
        said, self._held = said + self._held, []
        return said

    def end(self) -> list[Parts]:
        """Return the messages with which the series ends; none if they were sent."""
        said, self._held = self._held, []
        if not self._ended and not self._faults.take("lost_end"):
            said += self._encoded(self._series.end())
        self._ended = True
        return said

    def _takes(self, what: str, image_id: int | None) -> Fault | None:
        return self._faults.take(what, image_id=image_id)

    def _encoded(
        self, message: Fields | Parts, wrong: dict[str, Spoil] | None = None, image_id: int | None = None
    ) -> list[Parts]:
        """Return what is sent, nothing where there is nothing to say; of version 2 with what is wrong."""
        if not isinstance(message, dict):
            return [message] if message else []
        for what, spoil in (wrong or {}).items():
            if fault := self._takes(what, image_id):
                message = spoil(message, fault)
        data = encode_message(message)
        if "unknown_tag" in message:
            data = data.replace(b"unknown_tag\xc0", b"unknown_tag" + _UNKNOWN_TAG)
        return [[memoryview(data)[len(cbor.SELF_DESCRIBED) if self._untagged else 0 :]]]


Spoil = Callable[[Fields, Fault], Fields]
"""Returns the fields of a message of version 2 with what is wrong with them."""


def _without(fields: Fields, name: str) -> Fields:
    return {key: value for key, value in fields.items() if key != name}


def _whole(value: object) -> object:
    """Return a value with integers in place of floats wherever they say the same."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _of_arrays(spoil: Callable[[ArrayBytes], ArrayBytes]) -> Spoil:
    """Return what does something to every array of an image, if it has any."""

    def apply(fields: Fields, _fault: Fault) -> Fields:
        data = fields.get("data")
        arrays = data.items() if isinstance(data, dict) else ()
        return fields | ({"data": {channel: spoil(array) for channel, array in arrays}} if arrays else {})

    return apply


def _huge(array: ArrayBytes) -> ArrayBytes:
    algorithm = "lz4" if array.algorithm == "none" else array.algorithm
    data = _HUGE.to_bytes(8, "big") + bytes(array.data[8:])
    return replace(array, algorithm=algorithm, data=memoryview(data))


def _shorter(array: ArrayBytes) -> ArrayBytes:
    pixels = array.unpack().reshape(-1)[:-1]
    return replace(array, data=memoryview(compress(array.algorithm, pixels)))


_IN_START: dict[str, Spoil] = {
    "no_image_dtype": lambda fields, _: _without(fields, "image_dtype"),
    "integers_for_floats": lambda fields, _: {name: _whole(value) for name, value in fields.items()},
}
"""What may be wrong with a start message."""

_IN_IMAGE: dict[str, Spoil] = {
    "unknown_key": lambda fields, _: fields | {"unknown_key": {"values": [1, 2.5, None]}},
    "unknown_tag": lambda fields, _: fields | {"unknown_tag": cbor.Date("what is this?")},
    "missing_field": lambda fields, fault: _without(fields, fault.get("field", "series_date")),
    "unknown_algorithm": _of_arrays(lambda array: replace(array, algorithm="zstd")),
    "huge_prefix": _of_arrays(_huge),
    "wrong_length": _of_arrays(_shorter),
}
"""What may be wrong with an image."""


class StreamOutput(Subsystem):
    """``stream``: what it is told, and what it sends. Its appendices take any JSON.

    Attributes
    ----------
    n_pixels : int
        Of an image.
    n_dropped : int
        Images that nobody took, since arm.
    initialized_ns : int
        When the detector was initialized, ns since the epoch.
    """

    unlisted = frozenset({"error"})

    def __init__(self, version: str, faults: Faults, n_pixels: int, options: StreamOptions):
        self._faults, self._options, self.n_pixels = faults, options, n_pixels
        self._high_water = options.high_water or min(HIGH_WATER, max(4, MEMORY // (4 * n_pixels)))
        self._context: zmq.Context | None = None
        self._sockets: dict[str, SeriesSocket] = {}
        self._packed: tuple[object, object, dict[str, PackedScene]] = ([], (), {})
        self._series: FaultySeries | None = None
        self._socket: SeriesSocket | None = None
        self.initialized_ns = self.n_dropped = 0
        self.commands = {"initialize": self.reset}
        super().__init__(version)

    def _defaults(self) -> dict[str, Parameter]:
        formats = ("legacy", "cbor") if self.version == "1.8.0" else ("legacy",)
        return {
            "mode": text("disabled", *SWITCH),
            "format": text("legacy", *formats),
            "header_detail": text("basic", "all", "basic", "none"),
            "header_appendix": text(""),
            "image_appendix": text(""),
        }

    def _status(self) -> dict[str, Parameter]:
        return {
            "state": self._output_state(),
            "dropped": measured(self.n_dropped, "uint"),
            "error": measured([], "string[]"),
        }

    def reset(self) -> None:
        """Begin anew with the default config; what an open series still exposes is not sent."""
        super().reset()
        self._series, self.n_dropped = None, 0

    def put(self, name: str, value: Any) -> list[str]:
        """Set one config parameter."""
        if not name.endswith("_appendix"):
            return super().put(name, value)
        try:
            cbor.encode(value)
        except (RecursionError, struct.error):
            raise RequestError(name, str(value)[:80], "JSON that CBOR can hold") from None
        self.force(name, value)
        return []

    def bind(self) -> None:
        """Open the ports; they are open whether or not the stream is enabled."""
        self._context = zmq.Context()
        for name, port in (("cbor", self._options.port), ("legacy", self._options.legacy_port)):
            self._sockets[name] = SeriesSocket(self._context, port, self._high_water)

    def close(self) -> None:
        """Close the ports. Safe twice."""
        for socket in self._sockets.values():
            socket.close()
        self._sockets = {}
        if self._context is not None:
            self._context.term()
            self._context = None

    def endpoint(self, name: str) -> str:
        """Return the address of version 2 (``"cbor"``) or 1 (``"legacy"``)."""
        return self._sockets[name].endpoint

    async def open(self, maker: FrameMaker, config: DetectorConfig, number_of_images: int) -> None:
        """Begin a series, if the stream is enabled: its start message goes out at once."""
        self.end()
        self.acquiring, self.n_dropped = self.enabled, 0
        if not self.enabled or not config.channels() or self._faults.take("silent"):
            return
        name, scenes = self["format"], dict[str, PackedScene]()
        kind: type[CborSeries | LegacySeries | RecordedSeries] = LegacySeries
        if name == "cbor":
            kind = CborSeries if self._options.recording is None else RecordedSeries
        if kind is not RecordedSeries:
            scenes = await self._pack(maker, config, name)
        series = kind(
            maker=maker,
            options=self._options,
            initialized_ns=self.initialized_ns,
            number_of_images=number_of_images,
            stream={key: parameter.value for key, parameter in self.config.items()},
            scenes=scenes,
        )
        self._socket, self._series = self._sockets[name], FaultySeries(series, self._faults)
        self._send(self._series.start())

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> None:
        """Send one exposure; parameters as for `StreamSeries.times`."""
        if self._series is not None:
            self.n_dropped += self._send(self._series.image(image_id, time_ns, count_time))

    async def wait_for_room(self, patience: float) -> None:
        """Wait while the clients there are have no room, for `patience` s at the most."""
        if self._series is not None and self._socket is not None:
            await self._socket.wait_for_room(patience)

    def end(self) -> None:
        """Send the end of the series, if one is open."""
        self.acquiring = False
        if self._series is not None:
            self._send(self._series.end())
            self._series = None

    def _send(self, messages: list[Parts]) -> int:
        """Send what there is to say; how many messages nobody took."""
        assert self._socket is not None  # a series is open
        return [self._socket.send(parts) for parts in messages].count(False)

    async def _pack(self, maker: FrameMaker, config: DetectorConfig, name: str) -> dict[str, PackedScene]:
        """Return the compressed scenes of every channel; those of the last series where they are the same."""
        images, algorithm, channels = maker.images, config["compression"], config.channels()
        algorithm = "lz4 block" if name == "legacy" and algorithm == "lz4" else algorithm
        if self._packed[0] is not images or self._packed[1] != (algorithm, channels):
            scenes = dict.fromkeys(channels, PackedScene(images, algorithm, maker.rows))
            if "difference" in scenes:  # of two thresholds that see the same
                nothing, masked = np.zeros_like(images[0]), config.masked_value()
                if masked is not None:
                    nothing[config["pixel_mask"] != 0] = masked
                scenes["difference"] = PackedScene([nothing], algorithm)
            for scene in dict.fromkeys(scenes.values()):
                await asyncio.get_running_loop().run_in_executor(None, scene.prepare)
            self._packed = (images, (algorithm, channels), scenes)
        return self._packed[2]
