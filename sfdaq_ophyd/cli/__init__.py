"""The command ``sfdaq``."""

from .app import app, main

__all__ = ["app", "main"]
