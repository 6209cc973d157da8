"""Run one simulated Eiger until Ctrl-C: ``python -m sfdaq_ophyd.sim.eiger --port 8080``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from ...starting import without_collection
from ..clock import PulseClock
from ..part import World

with without_collection(ours=True):
    from .geometry import MODULES
    from .part import EigerPart


def _shape(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main() -> None:
    """Parse the options, serve, and leave on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m sfdaq_ophyd.sim.eiger", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--model", default="16M", choices=MODULES)
    parser.add_argument("--shape", type=_shape, help="rows x columns in place of a model, e.g. 64x80")
    parser.add_argument("--api-version", default="1.8.0")
    parser.add_argument("--profile", help="TIFF layout: om, v2024, legacy16")
    parser.add_argument("--initialized", action="store_true", help="start in idle instead of na")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING)
    world = World(PulseClock(), Path("."), seed=options.seed)
    part = EigerPart(
        world,
        model=options.model,
        shape=options.shape,
        api_version=options.api_version,
        profile=options.profile,
        initialized=options.initialized,
        port=options.port,
    )
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    part.start()
    sys.stdout.write(f"READY {part.url}\n")
    sys.stdout.flush()
    done.wait()
    part.stop()
    world.clock.close()


if __name__ == "__main__":
    main()
