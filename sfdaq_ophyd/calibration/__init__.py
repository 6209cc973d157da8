"""Raw detector arrays to physical units. Arrays in, arrays out."""

from .jungfrau import JungfrauCalibration
from .options import CalibrationOptions, disabled_to_map
from .words import WordCounts, count_words

__all__ = ["CalibrationOptions", "JungfrauCalibration", "WordCounts", "count_words", "disabled_to_map"]
