"""Logging for users: one line turns it on. Nothing is configured at import."""

from __future__ import annotations

import logging
from pathlib import Path

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"

_handler: logging.Handler | None = None


def config_sfdaq_logging(level: int | str = "INFO", file: str | Path | None = None) -> logging.Handler:
    """Send this package's log records to the terminal or to a file.

    A second call replaces the first.

    Parameters
    ----------
    level : int or str
        DEBUG shows each message on a wire, INFO one line per acquisition.
    file : str or Path, optional
        Append to this file; default is standard error.

    Returns
    -------
    logging.Handler
        The handler now attached to the logger ``sfdaq_ophyd``.
    """
    global _handler
    logger = logging.getLogger("sfdaq_ophyd")
    if _handler is not None:
        logger.removeHandler(_handler)
        _handler.close()
    _handler = logging.StreamHandler() if file is None else logging.FileHandler(file)
    _handler.setFormatter(logging.Formatter(FORMAT, datefmt="%Y-%m-%d %H:%M:%S"))
    logger.addHandler(_handler)
    logger.setLevel(level)
    return _handler
