"""Run one simulated Eiger until Ctrl-C: ``python -m sfdaq_ophyd.sim.eiger --port 8080``."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from ...starting import without_collection
from ...wire.simplon import VERSIONS
from ...wire.tiff_write import PROFILES
from ..child import make_parser, on_signal, running_clock, say_ready
from ..facility import World

with without_collection(ours=True):
    from .parameters import MODELS
    from .part import EigerPart


COMMON = ("clock", "verbose", "seed")
"""Options that are not the part's own."""


def _shape(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main() -> None:
    """Parse the options, serve, and leave on Ctrl-C or SIGTERM."""
    parser = make_parser("sfdaq_ophyd.sim.eiger", __doc__, control=False)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--stream-port", type=int, default=0, help="of the stream's version 2; 0: a free one")
    parser.add_argument("--stream-legacy-port", type=int, default=0, help="of its version 1")
    parser.add_argument("--stream-replay", metavar="DIR", help="send messages recorded in DIR, *.cbor[.xz]")
    parser.add_argument("--stream-replay-as-is", action="store_true", help="with their ids and times")
    parser.add_argument("--model", default="16M", choices=MODELS)
    parser.add_argument("--shape", type=_shape, help="rows x columns in place of a model, e.g. 64x80")
    parser.add_argument("--api-version", default=VERSIONS[0], choices=VERSIONS)
    parser.add_argument("--profile", choices=PROFILES, help="TIFF layout")
    parser.add_argument("--initialized", action="store_true", help="start in idle instead of na")
    parser.add_argument("--seed", type=int, default=0)
    with running_clock(parser, verbose=logging.DEBUG) as (options, clock):
        own = {name: value for name, value in vars(options).items() if name not in COMMON}
        part = EigerPart(World(clock, Path("."), seed=options.seed), **own)
        done = threading.Event()
        on_signal(done.set)
        part.start()
        say_ready(part.url, part.stream_endpoint, part.stream_legacy_endpoint)
        done.wait()
        part.stop()


if __name__ == "__main__":
    main()
