"""The stream: PUSH sockets, and the series that goes out on one of them.

As in wire reference eiger, section 7. What nobody takes is dropped and counted; nothing waits for a client,
but for a patient detector. Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import zmq
from zmq.utils.monitor import parse_monitor_message

from ...limits import Limit
from ...wire.simplon import Parameter
from ..faults import Faults
from .config import DetectorConfig
from .frames import FrameMaker
from .packed import PackedScene
from .stream_faults import FaultySeries
from .stream_legacy import LegacySeries
from .stream_series import (
    CborSeries,
    Parts,
    RecordedSeries,
    SeriesSettings,
    StreamOptions,
    channels_of,
    difference_of,
)

HIGH_WATER = 1000
"""Messages the detector keeps for a slow client, unless they are more than `MEMORY`."""

MEMORY = 2 << 30
"""Bytes that those may take if no pixel could be compressed."""

LINGER_MS = 2000
"""How long what was sent may still be on its way when the detector is switched off."""


class PushSocket:
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
            raise OSError(exc.errno, f"port {port} for the Eiger's stream: {exc.strerror}") from exc
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
        while self._events.poll(0):
            event = parse_monitor_message(self._events.recv_multipart())
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._connections.add(event["value"])
            else:
                self._connections.discard(event["value"])
        return bool(self._connections)


class StreamOutput:
    """What the stream sends.

    Parameters
    ----------
    config : callable
        Returns the stream's config: name to `Parameter`.
    faults : Faults
    options : StreamOptions
    n_pixels : int
        Of an image.

    Attributes
    ----------
    n_dropped : int
        Images that nobody took, since arm.
    """

    def __init__(
        self,
        config: Callable[[], dict[str, Parameter]],
        faults: Faults,
        options: StreamOptions,
        n_pixels: int,
    ):
        self._config, self._faults, self._options = config, faults, options
        self._high_water = options.high_water or min(HIGH_WATER, max(4, MEMORY // (4 * n_pixels)))
        self._context: zmq.Context | None = None
        self._sockets: dict[str, PushSocket] = {}
        self._packed: tuple[object, object, Mapping[str, PackedScene]] = ([], (), {})
        self._series: FaultySeries | None = None
        self._socket: PushSocket | None = None
        self.initialized_ns = self.n_dropped = 0

    def bind(self) -> None:
        """Open the ports; they are open whether or not the stream is enabled."""
        self._context = zmq.Context()
        for name, port in (("cbor", self._options.port), ("legacy", self._options.legacy_port)):
            self._sockets[name] = PushSocket(self._context, port, self._high_water)

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
        self.n_dropped = 0
        stream = {name: parameter.value for name, parameter in self._config().items()}
        channels = channels_of(config)
        if stream["mode"] != "enabled" or not channels or self._faults.take("silent") is not None:
            return
        settings = SeriesSettings(
            maker=maker,
            initialized_ns=self.initialized_ns,
            number_of_images=number_of_images,
            stream=stream,
            channels=channels,
            options=self._options,
        )
        legacy = stream["format"] == "legacy"
        series: CborSeries | LegacySeries | RecordedSeries
        if self._options.recording is not None and not legacy:
            series = RecordedSeries(settings, self._options.recording)
        else:
            scenes = await self._pack(maker, config, channels, legacy)
            series = LegacySeries(settings, scenes) if legacy else CborSeries(settings, scenes)
        self._socket, self._series = self._sockets[stream["format"]], FaultySeries(series, self._faults)
        self._send(self._series.start())

    def image(self, image_id: int, time_ns: int, count_time: float | None) -> None:
        """Send one exposure; parameters as for `CborSeries.image`."""
        if self._series is not None:
            self.n_dropped += self._send(self._series.image(image_id, time_ns, count_time))

    async def wait_for_room(self, patience: float) -> None:
        """Wait while the clients there are have no room, for `patience` s at the most."""
        if self._series is not None and self._socket is not None:
            await self._socket.wait_for_room(patience)

    def end(self) -> None:
        """Send the end of the series, if one is open."""
        if self._series is not None:
            self._send(self._series.end())
            self._series = None

    def abandon(self) -> None:
        """Forget the series without a word: what it still exposes is not sent."""
        self._series, self.n_dropped = None, 0

    def _send(self, messages: list[Parts]) -> int:
        """Send what there is to say; how many messages nobody took."""
        assert self._socket is not None  # a series is open
        return [self._socket.send(parts) for parts in messages].count(False)

    async def _pack(
        self, maker: FrameMaker, config: DetectorConfig, channels: tuple[str, ...], legacy: bool
    ) -> Mapping[str, PackedScene]:
        """Return the compressed scenes of every channel; those of the last series where they are the same."""
        images, algorithm = maker.images, config["compression"]
        algorithm = "lz4 block" if legacy and algorithm == "lz4" else algorithm
        if self._packed[0] is not images or self._packed[1] != (algorithm, channels):
            shared = PackedScene(images, algorithm, maker.rows)
            scenes = dict.fromkeys(channels, shared)
            if "difference" in scenes:
                scenes["difference"] = PackedScene([difference_of(config, images)], algorithm)
            for scene in {id(scene): scene for scene in scenes.values()}.values():
                await asyncio.get_running_loop().run_in_executor(None, scene.prepare)
            self._packed = (images, (algorithm, channels), scenes)
        return self._packed[2]
