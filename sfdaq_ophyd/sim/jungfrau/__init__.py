"""The simulated Jungfrau: module streams, the assembled stream, and the scene they show."""

from .part import JungfrauPart
from .scene import Scene

__all__ = ["JungfrauPart", "Scene"]
