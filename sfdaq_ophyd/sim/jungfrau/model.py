"""The simulated detector with its slsReceivers: pulse ids in, messages of every port out. No sockets here.

A model of what was measured: two-part data messages, one-part end messages, frame numbers that go on over
acquisitions, lost packets padded with 0xFFFF, three discard policies (wire reference jungfrau, section 3).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from ...errors import RequestError
from ...wire.detector_name import MODULE_SHAPE, DetectorName
from ...wire.image_header import PLACEHOLDER_SHAPE, ImageHeader
from ...wire.module_header import CLOCK_PERIOD, ModuleHeader, encode_pulse_id
from ...wire.pulse_id import check_rate_multiplicator
from ..clock import PULSE_PERIOD
from ..faults import Faults
from .scene import Scene

FAULTS = {
    "lose_module_frame": "no packet of `module` arrives for `n` frames; what is sent the discard policy says",
    "lose_packets": "`packets` (list, or a count) of `module` are lost in `n` frames",
    "duplicate": "`module` sends `n` frames twice",
    "late": "`module` sends a frame `seconds` after its time, `n` times",
    "pulse_mismatch": "`module` tells the pulse id before the right one, `n` times",
    "no_pulse_id": "all modules leave the pulse id 0, `n` times",
    "clock_offset": "`module` tells a clock `ticks` ahead, `n` times",
    "undefined_gain": "`n_pixels` pixels of `module` show gain code 2, `n` times",
    "silence": "nothing is sent for `n` frames",
    "restart": "frame numbers go on from `first` (default 1) without an end message",
    "lose_end": "`module` does not send its next end message",
    "early_end": "`module` sends an end message before its next frame",
    "corrupt_header": "`module` sends half a header, `n` times",
    "quoted_header": "`module` sends a header broken by a quote in a file name, `n` times",
    "foreign_json": "`module` sends JSON that is no header, `n` times",
    "truncated_pixels": "`module` sends half the pixels, `n` times",
    "wrong_shape": "`module` announces and sends 256 rows, `n` times",
    "wrong_dtype": "`module` announces 32 bit, `n` times",
    "extra_part": "`module` sends a third part, `n` times",
    "bad_image": "assembled stream: is_good_frame 0 with module 0 left at its old content, `n` times",
    "zero_pulse_id": "assembled stream: no module complete, all numbers 0, `n` times",
    "placeholder": "assembled stream: the image is left out, `n` times",
    "foreign_image": "assembled stream: JSON that is no header, `n` times",
    "truncated_image": "assembled stream: half the pixels, `n` times",
}
"""Name and meaning of every fault; details not given are module 0, n 1, seconds 0.05, n_pixels 5."""


DISCARDED: dict[str, Callable[[int, int], bool]] = {
    "nodiscard": lambda received, sent: False,
    "discardempty": lambda received, sent: not received,
    "discardpartial": lambda received, sent: received < sent,
}
"""Which frames of a port each policy of slsReceiver leaves out, by packets."""


@dataclass(frozen=True, kw_only=True)
class JungfrauSettings:
    """Settings of the simulated detector and its receivers.

    Parameters
    ----------
    detector_name : str
        E.g. ``JF01T03V01``.
    seed : int
        Seed of the scene, of jitter and of losses.
    rate_multiplicator : int
        100/r frames per second: the pulses whose id is a multiple of r.
    running : bool
        Whether an acquisition runs from the start.
    discard_policy : str
        slsReceiver's way with lost packets: nodiscard, discardempty, discardpartial.
    interfaces : int
        Network interfaces per module, 1 or 2; with 2 each sends half a module.
    json_version : int
        5 or 4.
    old_names : bool
        Field names of package 6.x, with `json_version` 4.
    pulse_id_as_double : bool
        Send the pulse id as the bit pattern of a double.
    extra : dict
        The user's additional header, strings; empty for none.
    skew : tuple of float
        Seconds by which each stream lags; one number for all but the first, or one per stream.
    jitter : float
        Largest random delay of each message, s.
    loss : float
        Probability that a packet-less module frame happens.
    n_frames : int
        Length of an acquisition as the receiver knows it: `progress` counts to it.
    live_rate, streamvis_rate : int
        Assembled stream: one in so many messages carries its image.
    gain_file, pedestal_file : str
        Names in the assembled stream's header.
    """

    detector_name: str = "JF01T03V01"
    seed: int = 0
    rate_multiplicator: int = 1
    running: bool = True
    discard_policy: str = "nodiscard"
    interfaces: int = 1
    json_version: int = 5
    old_names: bool = False
    pulse_id_as_double: bool = False
    extra: dict | None = None
    skew: tuple[float, ...] = ()
    jitter: float = 0.0
    loss: float = 0.0
    n_frames: int = 1000
    live_rate: int = 1
    streamvis_rate: int = 1
    gain_file: str = ""
    pedestal_file: str = ""

    def __post_init__(self):
        object.__setattr__(self, "detector_name", str(DetectorName.parse(self.detector_name)))
        check_rate_multiplicator(self.rate_multiplicator)
        skew = self.skew if isinstance(self.skew, list | tuple) else (0.0, *[self.skew] * (self.n_ports - 1))
        object.__setattr__(self, "skew", tuple(float(s) for s in skew) or (0.0,) * self.n_ports)
        for field, good, expected in (
            ("discard_policy", self.discard_policy in DISCARDED, f"one of {', '.join(DISCARDED)}"),
            ("interfaces", self.interfaces in (1, 2), "1 or 2"),
            ("json_version", self.json_version in (4, 5), "4 or 5"),
            ("skew", len(self.skew) == self.n_ports, f"{self.n_ports} times in s"),
            ("jitter", 0 <= self.jitter < 10, "seconds from 0 to 10"),
            ("loss", 0 <= self.loss <= 1, "a probability"),
            ("live_rate", self.live_rate >= 1, "at least 1"),
            ("streamvis_rate", self.streamvis_rate >= 1, "at least 1"),
        ):
            if not good:
                raise RequestError(field, getattr(self, field), expected)

    @functools.cached_property
    def n_modules(self) -> int:
        """Modules of the detector."""
        return DetectorName.parse(self.detector_name).n_modules

    @property
    def n_ports(self) -> int:
        """Streams: one per module and interface."""
        return self.n_modules * self.interfaces

    def changed(self, **changes) -> JungfrauSettings:
        """Return settings with some changed; a name or a value that is not one is a RequestError."""
        fixed = {"detector_name", "seed", "interfaces", "running"} & set(changes)
        known = {field.name for field in fields(self)}
        for name in (*fixed, *(set(changes) - known)):
            raise RequestError(
                name, changes[name], f"one of {', '.join(sorted(known))}, set before the start"
            )
        return replace(self, **changes)


PACKETS = 128
"""Packets of one module frame, 4 rows each."""

_PADDING = 0xFFFF


class PortMessage(NamedTuple):
    """One message of one port, `delay` seconds after the frame was taken."""

    port: int
    delay: float
    parts: list


SPOILED: dict[str, Callable[..., list]] = {
    "corrupt_header": lambda header, *pixels: [header[: len(header) // 2], *pixels],
    "quoted_header": lambda header, *pixels: [header.replace(b"/run/scan", b'/"run"/scan'), *pixels],
    "foreign_json": lambda header, *pixels: [b'{"htype":"dheader-1.0","series":1}', *pixels],
    "wrong_dtype": lambda header, *pixels: [header.replace(b'"bitmode":16', b'"bitmode":32'), *pixels],
    "truncated_pixels": lambda header, pixels: [header, pixels[: len(pixels) // 2]],
    "wrong_shape": lambda header, pixels: [
        header.replace(b"[1024, 512]", b"[1024, 256]").replace(b'"size":1048576', b'"size":524288'),
        pixels[: len(pixels) // 2],
    ],
    "extra_part": lambda *parts: [*parts, b"extra"],
}
"""What each of the ways in which messages from outside are broken makes of header and pixels."""


class ModuleFaults(Faults):
    """Faults of one `module`, 0 unless named, each `n` times."""

    def add(self, what: str, details: Mapping[str, Any], count: int = 1, **where: Any) -> None:
        """Arm a fault."""
        super().add(what, details, int(details.get("n", count)), module=int(details.get("module", 0)))


class DetectorModel:
    """Frames of every module, as their receivers stream them; `settings` may be replaced while it runs.

    Parameters
    ----------
    start_pulse_id : int
        Frame numbers count from here: (pulse_id - start) // rate_multiplicator + 1, less those of pulses
        without trigger.
    time_of : callable
        Time of a pulse, s: the modules' clocks go by it, also where pulses come slower than at 100 Hz.
    """

    def __init__(
        self,
        scene: Scene,
        settings: JungfrauSettings,
        start_pulse_id: int,
        time_of: Callable[[int], float],
    ):
        self.scene, self.settings, self._time_of = scene, settings, time_of
        self.faults = ModuleFaults(FAULTS)
        self.running = settings.running
        self.file_index = 0
        self.frame_number = 0
        self._first_pulse, self._first_number = start_pulse_id, 1
        self._clock_start = start_pulse_id
        self._first_taken: int | None = None
        self._first_caught: dict[int, int] = {}
        self.pulse_id = start_pulse_id
        self.lost: dict[int, set[int]] = {}
        self._random = random.Random(settings.seed)

    def start(self, pulse_id: int, first_frame_number: int | None = None) -> None:
        """Begin an acquisition after `pulse_id`; frame numbers go on unless told otherwise."""
        if self.running:
            raise RequestError("start", self.frame_number, "a detector that is not running")
        rate = self.settings.rate_multiplicator
        self._count_from((pulse_id // rate + 1) * rate, first_frame_number)
        self.running = True
        self.file_index += 1
        self._clock_start = pulse_id
        self._first_taken = None
        self._first_caught.clear()

    def stop(self) -> list[PortMessage]:
        """End the acquisition: one message per port. Harmless when idle: then they are sent again."""
        self.running = False
        ports = range(self.settings.n_ports)
        keep = [
            p for p in ports if self.faults.take("lose_end", module=p // self.settings.interfaces) is None
        ]
        return [PortMessage(p, self.settings.skew[p], [self._end()]) for p in keep]

    def take(self, pulse_id: int) -> bool:
        """Take the frame of one pulse; False if the detector does not take this one, or stays silent."""
        rate = self.settings.rate_multiplicator
        if not self.running or pulse_id % rate:
            return False
        if restart := self.faults.take("restart"):
            self._count_from(pulse_id, int(restart.get("first", 1)))
        self.pulse_id = pulse_id
        self.frame_number = self._first_number + (pulse_id - self._first_pulse) // rate
        if self._first_taken is None:
            self._first_taken = self.frame_number
        self.lost = {module: self._lost_packets(module) for module in range(self.settings.n_modules)}
        return self.faults.take("silence") is None

    def miss(self, pulse_id: int) -> None:
        """Let a pulse without trigger go by: frame numbers count triggers, and stand."""
        rate = self.settings.rate_multiplicator
        if pulse_id % rate == 0:
            self._first_pulse += rate

    def messages(self) -> list[PortMessage]:
        """Return what the receivers send of the frame just taken."""
        self._image = self.scene.raw(self.pulse_id)  # a fresh one: the messages hold it, none copies it
        pulse_id = 0 if self.faults.take("no_pulse_id") is not None else self.pulse_id
        messages = []
        for module in range(self.settings.n_modules):
            messages += self._module(module, pulse_id, self._ticks(self.pulse_id))
        return messages

    def _count_from(self, first_pulse: int, first_number: int | None) -> None:
        self._first_pulse = first_pulse
        self._first_number = self.frame_number + 1 if first_number is None else first_number

    def _ticks(self, pulse_id: int) -> int:
        seconds = self._time_of(pulse_id) - self._time_of(self._clock_start)
        return max(0, round(seconds / CLOCK_PERIOD)) + 12_345

    def _end(self) -> bytes:
        return ModuleHeader.end(self.settings.json_version).encode(old_names=self.settings.old_names)

    def _module(self, module: int, pulse_id: int, ticks: int) -> list[PortMessage]:
        take, settings = self.faults.take, self.settings
        rows = MODULE_SHAPE[0] // settings.interfaces
        lost = self.lost[module]
        if take("pulse_mismatch", module=module) is not None:
            pulse_id -= settings.rate_multiplicator
        if offset := take("clock_offset", module=module):
            ticks += int(offset.get("ticks", 5))
        pixels = self._image[module * MODULE_SHAPE[0] : (module + 1) * MODULE_SHAPE[0]]
        if undefined := take("undefined_gain", module=module):
            pixels[1, : int(undefined.get("n_pixels", 5))] = 0x8000 | 1000
        for packet in lost:
            pixels[4 * packet : 4 * packet + 4] = _PADDING
        late, twice = take("late", module=module), take("duplicate", module=module)
        early = take("early_end", module=module) is not None
        messages = []
        for interface in range(settings.interfaces):
            port = module * settings.interfaces + interface
            n_packets = PACKETS // settings.interfaces
            mine = range(interface * n_packets, (interface + 1) * n_packets)
            received = n_packets - sum(packet in mine for packet in lost)
            parts = self._parts(port, received, n_packets, pulse_id, ticks + module % 3)
            delay = settings.skew[port] + self._random.uniform(0, settings.jitter)
            delay += 0 if late is None else float(late.get("seconds", 0.05))
            if mine[-1] in lost:  # the receiver waits for the last packet until the next frame begins
                delay += settings.rate_multiplicator * PULSE_PERIOD
            if early:
                messages.append(PortMessage(port, delay, [self._end()]))
            if parts is not None:
                block = pixels[interface * rows : (interface + 1) * rows]
                parts.append(block.data.cast("B"))
                for what, spoiled in SPOILED.items():
                    if take(what, module=module) is not None:
                        parts = spoiled(*parts)
                messages += [PortMessage(port, delay, parts)] * (1 if twice is None else 2)
        return messages

    def _lost_packets(self, module: int) -> set[int]:
        if self.faults.take("lose_module_frame", module=module) is not None:
            return set(range(PACKETS))
        if packets := self.faults.take("lose_packets", module=module):
            which = packets.get("packets", 4)
            return set(which) if isinstance(which, list) else set(range(10, 10 + int(which)))
        return set(range(PACKETS)) if self._random.random() < self.settings.loss else set()

    def _parts(self, port: int, received: int, n_packets: int, pulse_id: int, ticks: int) -> list | None:
        """Return the header of one port's frame, or None where the policy says not to send it."""
        settings = self.settings
        first = self._first_caught.get(port, self._first_taken)
        assert first is not None  # a frame was taken
        if DISCARDED[settings.discard_policy](received, n_packets):
            if first == self.frame_number:
                self._first_caught[port] = first + 1
            return None
        rows = MODULE_SHAPE[0] // settings.interfaces
        index = max(0, self.frame_number - first)
        header = ModuleHeader(
            frame_number=self.frame_number,
            row=port,
            detector_blocks=(settings.n_ports, 1),
            shape=(rows, MODULE_SHAPE[1]),
            complete=received == n_packets,
            n_packets=received,
            file_index=self.file_index,
            file_name="/data/run/scan",
            frame_index=index,
            progress=100 * (index + 1) / settings.n_frames if settings.n_frames else float("inf"),
            extra=settings.extra or None,
            rx_roi=(0, MODULE_SHAPE[1] - 1, 0, rows - 1) if settings.json_version >= 5 else None,
            json_version=settings.json_version,
        )
        if received:
            header = replace(
                header,
                ticks=ticks,
                det_spec1=encode_pulse_id(pulse_id, settings.pulse_id_as_double) if pulse_id else 0,
                daq_rec=self.scene.daq_rec(pulse_id),
                exposure_ticks=50,
                module_id=100 + port // settings.interfaces,
            )
        return [header.encode(old_names=settings.old_names)]


_NOTHING = bytes(8)

RING_SLOTS = 1000
"""Slots of the assembled stream's ring: a slot holds the frame of so many pulses ago until it is written."""


class AssembledModel:
    """Messages of the assembled stream, made from what the detector took."""

    def __init__(self, detector: DetectorModel):
        self._detector = detector
        self._random = random.Random(detector.settings.seed)

    def image(self) -> tuple[ImageHeader, np.ndarray]:
        """Return header and pixels of the frame just taken.

        Lost packets are 0. Of a module that is missing its slot of the ring shows what it held before.
        """
        detector, settings, scene = self._detector, self._detector.settings, self._detector.scene
        pulse_id = detector.pulse_id
        pixels = scene.raw(pulse_id)
        modules = pixels.reshape(-1, *MODULE_SHAPE)
        good = not any(detector.lost.values())
        missing = {module for module, packets in detector.lost.items() if len(packets) == PACKETS}
        for module in detector.lost.keys() - missing:
            for packet in detector.lost[module]:
                modules[module, 4 * packet : 4 * packet + 4] = 0
        if detector.faults.take("bad_image") is not None:
            good = False
            missing.add(0)
        if missing:
            before = scene.raw(pulse_id - RING_SLOTS).reshape(modules.shape)
            modules[list(missing)] = before[list(missing)]
        none = detector.faults.take("zero_pulse_id") is not None or all(detector.lost.values())
        header = ImageHeader(
            frame_number=0 if none else detector.frame_number,
            shape=scene.shape,
            is_good=good and not none,
            pulse_id=None if none else pulse_id,
            daq_rec=0 if none else scene.daq_rec(pulse_id),
            detector_name=scene.detector_name,
            gain_file=settings.gain_file,
            pedestal_file=settings.pedestal_file,
        )
        return header, pixels

    def parts(self, header: ImageHeader, pixels: np.ndarray, rate: int) -> list:
        """Return one message: with the image for 1 in `rate`, else with 8 bytes in its place."""
        take = self._detector.faults.take
        if take("placeholder") is not None or self._random.random() * rate >= 1:
            left_out = replace(header, shape=PLACEHOLDER_SHAPE, dtype=np.dtype("u2"))
            return [left_out.encode(), _NOTHING]
        if take("foreign_image") is not None:
            return [b'{"htype":"bsr_m-1.1","global_timestamp":{}}', pixels]
        if take("truncated_image") is not None:
            return [header.encode(), pixels.tobytes()[: pixels.nbytes // 2]]
        return [header.encode(), pixels]
