"""What can be set on the simulated Jungfrau, and by which names it misbehaves."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ...errors import RequestError
from ...wire.detector_name import DetectorName
from ...wire.pulse_id import check_rate_multiplicator

DISCARD_POLICIES = ("nodiscard", "discardempty", "discardpartial")

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
        name = DetectorName.parse(self.detector_name)
        object.__setattr__(self, "detector_name", str(name))
        check_rate_multiplicator(self.rate_multiplicator)
        skew = self.skew if isinstance(self.skew, list | tuple) else (0.0, *[self.skew] * (self.n_ports - 1))
        object.__setattr__(self, "skew", tuple(float(s) for s in skew) or (0.0,) * self.n_ports)
        for field, good, expected in (
            ("discard_policy", self.discard_policy in DISCARD_POLICIES, f"one of {DISCARD_POLICIES}"),
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

    @property
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
