"""The live page of a beamline: ``sfdaq watch``."""

from .app import make_app
from .serve import serve
from .simulated import config_of
from .watch import Watch

__all__ = ["Watch", "config_of", "make_app", "serve"]
