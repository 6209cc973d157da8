"""The live page of a beamline: ``sfdaq watch``."""

from ..errors import require

require("web", "the live page", "fastapi", "matplotlib", "PIL", "uvicorn", "websockets")

from ..session.simulated import config_of  # noqa: E402
from .app import make_app, serve  # noqa: E402
from .sources import Watch  # noqa: E402

__all__ = ["Watch", "config_of", "make_app", "serve"]
