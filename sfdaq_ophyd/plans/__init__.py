"""Plans: generators that yield messages and touch nothing."""

from .fly import collect_while_completing, fly
from .save_once import save_once

__all__ = ["collect_while_completing", "fly", "save_once"]
