"""Look at the frames of a Jungfrau in a loop of one's own; no RunEngine, no file."""

from itertools import islice

from sfdaq_ophyd.clients import ModuleStream
from sfdaq_ophyd.sim import Facility

with Facility(only=["jungfrau"], jungfrau_rate_multiplicator=4) as facility:
    detector = facility.jungfrau
    with ModuleStream(detector.endpoints, detector_name=detector.detector_name) as stream:
        for frame in islice(stream, 10):
            print(frame.pulse_id, "whole" if frame.is_good else f"lacks {frame.missing}", frame.image.max())
        print(stream.describe_state())
