"""The writer as a process of its own: commands as JSON lines in, events as JSON lines out.

It reports steps while it starts. Commands are ``start`` (request, config, how long creating the file takes),
``image`` and ``stop``; events ``opened``, ``error``, ``ack`` and ``closed``. It ends when its input does, and
it can be killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

from ...starting import report_step, without_collection
from ..child import commands, make_parser, running_clock, say_ready, tell

with without_collection(ours=True):
    from .files import Pictures, WriterFile, is_below, may_write

LONGEST = 1e6
"""s; no file takes longer to create."""


class DaqWriter:
    """State of the writer: at most one open file, and what the last start asked for."""

    def __init__(self, config: dict, writable: Sequence[str], seed: int, compressed: bool, view):
        self._config, self._writable, self._view = config, writable, view
        self._seed, self._compressed = seed, compressed
        self._pictures: Pictures | None = None
        self._file: WriterFile | None = None
        self._n_images = self._n_written = 0

    def start(self, command: dict) -> dict:
        """Open a file, closing the one that is open without a word."""
        request = command["request"]
        self._close()
        self._n_images, self._n_written = request["n_images"], 0
        try:
            time.sleep(min(command["delay"], LONGEST))
            if command.get("error"):
                raise OSError(command["error"])
            self._open(request)
        except ValueError as exc:
            return {"event": "error", "text": f"ERROR: {exc}"}
        except OSError:
            return {"event": "error", "text": "ERROR: Cannot create output file."}
        return {"event": "opened", "info": command["info"]}

    def image(self, command: dict) -> dict | None:
        """Write one image; without an open file it is lost."""
        if self._file is None:
            return None
        self._file.write(command["image_id"], command["pulse_id"], command["status"], command["ahead"])
        self._n_written += 1
        return {"event": "ack"}

    def stop(self, command: dict) -> dict:
        """Close the file. The first image counts as written even if none came: the real one's slip."""
        self._close()
        completed = max(self._n_written, 1) == self._n_images
        return {"event": "closed", "message": "Completed." if completed else "Interrupted."}

    def _open(self, request: dict) -> None:
        config = self._config
        if config["bit_depth"] not in (8, 16, 32):
            raise ValueError(f"Unsupported bits per pixel:{config['bit_depth']}")
        user_id = config["writer_user_id"]
        inside = is_below(request["path"], self._writable)
        if not inside or not may_write(os.path.dirname(request["path"]), user_id):
            raise PermissionError(request["path"])
        if self._pictures is None:
            shape = (config["image_pixel_height"], config["image_pixel_width"])
            self._pictures = Pictures(
                config["detector_name"], shape, config["bit_depth"], self._seed, self._view
            )
        self._file = WriterFile(
            request["path"],
            config["detector_name"],
            request["n_images"],
            self._pictures,
            compressed=self._compressed,
        )
        os.chmod(request["path"], 0o644)
        if user_id >= 1 and os.geteuid() == 0:
            os.chown(request["path"], user_id, -1)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def main() -> None:
    """Serve the commands on standard input."""
    parser = make_parser("sfdaq_ophyd.sim.std_daq.writer_process", main.__doc__, control=False)
    parser.add_argument("--config", type=json.loads, required=True)
    parser.add_argument("--writable", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compressed", action="store_true")
    with running_clock(parser) as (options, clock):
        report_step("making the writer")
        writer = DaqWriter(options.config, options.writable, options.seed, options.compressed, clock.view)
        say_ready()
        for command in commands():
            event = getattr(writer, command["do"])(command)
            if event is not None:
                tell(event)


if __name__ == "__main__":
    main()
