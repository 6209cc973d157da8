"""What the detector says of its images: times, sizes, thresholds, and what numbers are computed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import DetectorStateError
from ...wire.eiger_stream import MAX_SIDE
from ...wire.frame import FrameFormat
from ...wire.simplon import BIT_DEPTHS, typed
from ._control import EigerControl
from ._series import FrameStatistics

MOST_THRESHOLDS = 8

DIFFERENCE = "difference"
"""What the stream calls the difference of two thresholds."""

ONE_THRESHOLD = (
    "the monitor gives an image for each threshold, under one number: leave one enabled "
    "(detector/config/threshold/<n>/mode, threshold/difference/mode)"
)


@dataclass(frozen=True)
class Times:
    """How long things take, s; 0 where the detector does not say.

    Attributes
    ----------
    frame_time : float
        From frame to frame.
    count_time : float
        Exposure of a frame.
    delay : float
        From trigger to exposure.
    """

    frame_time: float = 0.0
    count_time: float = 0.0
    delay: float = 0.0


def read_times(control: EigerControl) -> Times:
    """Read the times the detector is set to."""
    names = ("frame_time", "count_time", "trigger_start_delay")
    return Times(*(max(0.0, float(_read(control, name, "number") or 0.0)) for name in names))


def read_size(control: EigerControl) -> tuple[tuple[int, int], int] | None:
    """Read shape (y, x) and bit depth; None where there is no detector module to ask."""
    sizes = range(1, MAX_SIDE + 1)
    expected = {"y_pixels_in_detector": sizes, "x_pixels_in_detector": sizes, "bit_depth_image": BIT_DEPTHS}
    found = {name: control.read("detector", name) for name in expected}
    values = []
    for name, parameter in found.items():
        if parameter is None:
            return None
        values.append(typed(parameter.value, "integer"))
        if values[-1] not in expected[name]:
            wanted = f"1 to {MAX_SIDE}" if expected[name] is sizes else f"one of {BIT_DEPTHS}"
            told = f"{control.name}: detector/config/{name} is {parameter.value!r:.80}"
            raise DetectorStateError(f"{told}, expected {wanted}")
    height, width, bits = values
    return (height, width), bits


def enabled_thresholds(control: EigerControl) -> list[int]:
    """Return the numbers of the thresholds that are enabled; none where the detector has but one."""
    enabled, n = [], 1
    while n <= MOST_THRESHOLDS and (mode := control.value(f"detector/config/threshold/{n}/mode")) is not None:
        enabled += [n] if mode == "enabled" else []
        n += 1
    return enabled


def channels_of(control: EigerControl) -> list[str]:
    """Return the names of the images of one exposure: of each threshold in use, and of their difference."""
    names = [f"threshold_{n}" for n in enabled_thresholds(control)]
    if control.value("detector/config/threshold/difference/mode") == "enabled":
        names.append(DIFFERENCE)
    return names or ["threshold_1"]


def check_thresholds(control: EigerControl) -> None:
    """Raise DetectorStateError if an exposure would give several images."""
    enabled = enabled_thresholds(control)
    if len(enabled) > 1:
        raise DetectorStateError(f"{control.name}: thresholds {enabled} are enabled; {ONE_THRESHOLD}")


def differs(now: FrameFormat, before: FrameFormat) -> str:
    """Say how frames differ from what they were; empty if they do not."""
    if now.images == before.images:
        return ""
    if (now.shape, now.dtype) == (before.shape, before.dtype):
        return f"each exposure has {len(now.images)} images now, {len(before.images)} when it was staged"
    return f"images are {now.dtype} {now.shape} now, {before.dtype} {before.shape} when it was staged"


def make_statistics(control: EigerControl, dtype: str, exclude_masked: bool) -> FrameStatistics:
    """Return what computes the numbers; fetches the pixel mask where the detector does not apply it."""
    cutoff = _read(control, "countrate_correction_count_cutoff", "integer")
    mask = None
    if exclude_masked and _read(control, "pixel_mask_applied", "boolean") is False:
        mask = control.client.get_array("pixel_mask")
        mask = mask if mask.size else None  # a server without one
    return FrameStatistics(dtype, cutoff, exclude_masked, mask)


def _read(control: EigerControl, name: str, kind: str) -> Any:
    """Return a value of the detector's config; None where it does not tell one of this kind."""
    return typed(control.value(f"detector/config/{name}"), kind)
