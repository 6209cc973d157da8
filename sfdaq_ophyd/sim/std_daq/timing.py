"""The standard DAQ's own delays, measured on the real programs, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Delays in s, all divided by `speed`.

    Attributes
    ----------
    poll : float
        Between two looks of the service at the writer's state.
    give_up : float
        After this long without the wanted state the writer is UNKNOWN.
    sync_limit : float
        The end of the patience of ``write_sync``.
    status_period : float
        Between two published statuses while images are acknowledged.
    stats_period : float
        Over which throughput is counted.
    deployer_poll : float
        Between two looks of a server at the configuration.
    restart : float
        For which the writer is away after a deployment.
    redis_patience : float
        For which a call to an absent Redis is tried again.
    live_silence, live_repeat : float
        Before the first "No data" picture of the live stream, and between two of them.
    """

    speed: float = 1.0

    def __getattr__(self, name: str) -> float:
        try:
            return _SECONDS[name] / self.speed
        except KeyError:
            raise AttributeError(name) from None

    def creation(self, n_images: int) -> float:
        """Time to create a file: 8 ms; 0.2 s for 5000 images, 4.3 s for 20 000, over 5 s from 21 500 on."""
        return (0.008 + 4.3 * (n_images / 20_000) ** 2.2) / self.speed


_SECONDS = {
    "poll": 0.1,
    "give_up": 5.0,
    "sync_limit": 60.0,
    "status_period": 0.5,
    "stats_period": 1.0,
    "deployer_poll": 0.5,
    "restart": 10.0,
    "redis_patience": 4.0,
    "live_silence": 2.0,
    "live_repeat": 0.5,
}
