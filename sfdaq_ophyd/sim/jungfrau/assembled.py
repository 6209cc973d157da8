"""The sf-daq assembled stream of the simulated Jungfrau (contract jungfrau.md, section 5)."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from ...wire.detector_name import MODULE_SHAPE
from ...wire.image_header import PLACEHOLDER_SHAPE, ImageHeader
from .model import DetectorModel

_NOTHING = bytes(8)


class AssembledModel:
    """Messages of the assembled stream, made from what the detector took.

    Parameters
    ----------
    detector : DetectorModel
        Gives frame number, pixels and settings.
    """

    def __init__(self, detector: DetectorModel):
        self._detector = detector
        self._random = random.Random(detector.settings.seed)
        self._before: np.ndarray | None = None

    def image(self) -> tuple[ImageHeader, np.ndarray]:
        """Return header and pixels of the frame just taken: lost packets are 0, an old module is kept."""
        detector, settings, scene = self._detector, self._detector.settings, self._detector.scene
        pulse_id = detector.pulse_id
        pixels = scene.raw(pulse_id)
        modules = pixels.reshape(-1, *MODULE_SHAPE)
        good = not any(detector.lost.values())
        for module, packets in detector.lost.items():
            for packet in packets:
                modules[module, 4 * packet : 4 * packet + 4] = 0
        if detector.faults.take("bad_image") is not None:
            good = False
            if self._before is not None:
                modules[0] = self._before.reshape(modules.shape)[0]
        none = detector.faults.take("zero_pulse_id") is not None
        self._before = pixels
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
            return [self._left_out(header).encode(), _NOTHING]
        if take("foreign_image") is not None:
            return [b'{"htype":"bsr_m-1.1","global_timestamp":{}}', pixels]
        if take("truncated_image") is not None:
            return [header.encode(), pixels.tobytes()[: pixels.nbytes // 2]]
        return [header.encode(), pixels]

    @staticmethod
    def _left_out(header: ImageHeader) -> ImageHeader:
        return replace(header, shape=PLACEHOLDER_SHAPE, dtype=np.dtype("u2"))
