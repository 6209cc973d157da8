"""Raw detector arrays to physical units. Arrays in, arrays out."""

from .coordinates import pixel_coordinates
from .jungfrau import JungfrauCalibration
from .options import CalibrationOptions, disabled_to_map
from .pedestal import PedestalEvaluation
from .words import WordCounts, count_words

__all__ = [
    "CalibrationOptions",
    "JungfrauCalibration",
    "PedestalEvaluation",
    "WordCounts",
    "count_words",
    "disabled_to_map",
    "pixel_coordinates",
]
