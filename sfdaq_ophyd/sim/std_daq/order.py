"""What goes through the driver: starts, with what is to go wrong in them, and images without their pixels."""

from __future__ import annotations

from dataclasses import dataclass

from .faults import Faults
from .timing import Timing


@dataclass(frozen=True)
class Image:
    """One image of the detector, without its pixels."""

    image_id: int
    pulse_id: int
    status: int = 0


@dataclass(frozen=True)
class Overrun:
    """A detector that is faster than the writer, so that the ring is overrun.

    Attributes
    ----------
    rate : float
        Images per second of the detector, from the first image to the end of the acquisition.
    pause : float
        s between two images that are written.
    """

    rate: float
    pause: float


@dataclass(frozen=True)
class Order:
    """One start.

    Attributes
    ----------
    info : dict
        What is asked for.
    delay : float
        s that creating the file takes.
    error : str or None
        Why it cannot be created.
    late : float
        s by which the driver subscribes to images too late.
    ghost : str or None
        The last error, which still stands when driver and service look: both take it for the outcome.
    overrun : Overrun or None
    """

    info: dict
    delay: float
    error: str | None
    late: float
    ghost: str | None
    overrun: Overrun | None

    @property
    def can_be_encoded(self) -> bool:
        """Whether the driver's message holds it: n_images a signed 32-bit, run_id an unsigned 64-bit one."""
        run_id = self.info["run_id"]
        return (
            self.info["n_images"] < 2**31
            and isinstance(run_id, int)
            and not isinstance(run_id, bool)
            and 0 <= run_id < 2**64
        )


def make_order(info: dict, faults: Faults, timing: Timing, standing_error: str | None) -> Order:
    """Return the order of one start, with the faults that wait for it."""
    slow, failing = faults.take("slow_creation"), faults.take("creation_error")
    late, overrun = faults.take("late_subscription"), faults.take("ring_overrun")
    delay = slow["seconds"] if slow else timing.creation(info["n_images"])
    return Order(
        info,
        delay,
        error=failing and failing.get("text", "told to fail"),
        late=late["seconds"] if late else 0.0,
        ghost=standing_error if delay > timing.poll else None,
        overrun=overrun and _overrun(info["n_images"], **overrun),
    )


def _overrun(n_images: int, seconds: float = 4.0, rate: float | None = None, **_) -> Overrun:
    pause = seconds / n_images
    return Overrun(max(2000.0, 4 / pause) if rate is None else rate, pause)
