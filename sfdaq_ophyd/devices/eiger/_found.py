"""What is found at stage: size of the frames, times, thresholds, and how to compute their numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ...clients import SimplonClient
from ...clients.simplon import MonitorFrame
from ...errors import DetectorStateError, FramesMissing, ServiceRefused
from ...wire.frame import FrameFormat
from ._control import EigerControl
from ._statistics import FrameStatistics

MOST_THRESHOLDS = 8

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
    parameters = (control.read("detector", name) for name in names)
    return Times(*(float(p.value) if p is not None and p.value else 0.0 for p in parameters))


def read_size(control: EigerControl) -> tuple[tuple[int, int], int] | None:
    """Read shape (y, x) and bit depth; None where there is no detector module to ask."""
    names = ("y_pixels_in_detector", "x_pixels_in_detector", "bit_depth_image")
    parameters = [control.read("detector", name) for name in names]
    if any(parameter is None for parameter in parameters):
        return None
    height, width, bits = (parameter.value for parameter in parameters)
    return (height, width), bits


def check_thresholds(control: EigerControl) -> None:
    """Raise DetectorStateError if an exposure would give several images."""
    enabled, n = [], 1
    while n <= MOST_THRESHOLDS and (mode := control.read("detector", f"threshold/{n}/mode")) is not None:
        enabled += [n] if mode.value == "enabled" else []
        n += 1
    if len(enabled) > 1:
        raise DetectorStateError(f"{control.name}: thresholds {enabled} are enabled; {ONE_THRESHOLD}")


def differs(now: FrameFormat, before: FrameFormat) -> str:
    """Say how frames differ from what they were; empty if they do not."""
    if (now.shape, now.dtype) == (before.shape, before.dtype):
        return ""
    return f"images are {now.dtype} {now.shape} now, {before.dtype} {before.shape} when it was staged"


def newest_image(client: SimplonClient, name: str, timeout: float) -> MonitorFrame:
    """Return an image to learn the size from; takes one out of the buffer only if there is no other way.

    Raises
    ------
    FramesMissing
        The monitor has none.
    """
    try:
        frame = client.newest_image(timeout)
    except ServiceRefused as exc:
        if exc.code != 404:
            raise
        frame = client.next_image(timeout)
    if frame is None:
        raise FramesMissing(name, asked=1, got=0, detail="no image in the monitor to learn the size from")
    return frame


def make_statistics(control: EigerControl, dtype: str, exclude_masked: bool) -> FrameStatistics:
    """Return what computes the numbers; fetches the pixel mask where the detector does not apply it."""
    cutoff = control.read("detector", "countrate_correction_count_cutoff")
    applied = control.read("detector", "pixel_mask_applied")
    mask = None
    if exclude_masked and applied is not None and applied.value is False:
        mask = control.client.get_array("pixel_mask")
        mask = mask if mask.size else None  # a server without one
    return FrameStatistics(dtype, None if cutoff is None else cutoff.value, exclude_masked, mask)
