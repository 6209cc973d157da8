"""Raw detector arrays to physical units. Arrays in, arrays out."""

from .jungfrau import JungfrauCalibration
from .options import CalibrationOptions, disabled_to_map
from .pedestal import PedestalEvaluation
from .placing import pixel_coordinates
from .raw_pixels import WordCounts, count_words

__all__ = [
    "CalibrationOptions",
    "JungfrauCalibration",
    "PedestalEvaluation",
    "WordCounts",
    "count_words",
    "disabled_to_map",
    "pixel_coordinates",
]
