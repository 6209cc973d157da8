"""A Tiled server from Tiled's own command line, in a process of its own: nothing of this package is in it."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

from .ports import free_ports

API_KEY = "stock"

TILED = """
import gc, sys
gc.disable()
import tiled.catalog, tiled.server.app
from tiled.commandline import _catalog, main

if "--init" in sys.argv:
    sys.argv.remove("--init")
    _catalog.init(sys.argv[sys.argv.index("catalog") + 1], if_not_exists=True)
gc.collect(), gc.freeze(), gc.enable()
main.main()
"""
"""What ``python -m tiled`` does, with less than half of the work at a start.

The collector does not look at what is being imported. With ``--init``, the function of ``tiled catalog init``
makes the database, not a second process that imports Tiled for that.
"""


class TiledServer:
    """``tiled serve ...``, on a free port.

    Attributes
    ----------
    directory : Path
        Holds the database, what is written, and what the server prints.
    uri : str
        For ``tiled.client.from_uri(uri, api_key=server.api_key)``.
    """

    api_key = API_KEY

    def __init__(self, directory: Path, *arguments: str, environment: dict | None = None):
        self.directory, self._arguments = directory, arguments
        self._environment = {**os.environ, "NO_COLOR": "1", **(environment or {})}
        (self.port,) = free_ports(1)
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    def start(self) -> None:
        """Start it, again at the same port."""
        command = [sys.executable, "-c", TILED, "serve", *self._arguments, "--port", str(self.port)]
        self.process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        address: queue.SimpleQueue = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(address.put,), daemon=True)
        self._reader.start()
        if address.get(timeout=600) is None:  # a server that ended has told so; this one is slow
            raise AssertionError((self.directory / "server.txt").read_text()[-2000:])

    def _read(self, tell) -> None:
        with open(self.directory / "server.txt", "a") as log, self.process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                if found := re.search(r"running on \S*?http://127\.0\.0\.1:(\d+)", line):
                    tell(int(found[1]))
        tell(None)

    def stop(self) -> None:
        """End it. Safe twice."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(60)


@contextlib.contextmanager
def stock_catalog(directory: Path, *, database: str = "catalog.db", tables: str = "", readable: str = "/"):
    """Serve a new catalog as the Tiled manual does: ``tiled serve catalog catalog.db --init``.

    Parameters
    ----------
    directory : Path
    database, tables : str
        Where the tree and where event tables are kept; default: SQLite and DuckDB, as with --temp.
    readable : str
        Folder whose frame files may be registered.
    """
    (directory / "data").mkdir(parents=True, exist_ok=True)
    tables = tables or f"duckdb:///{directory / 'tables.duckdb'}"
    options = ["--init", "-w", "data", "-w", tables, "-r", readable, "--api-key", API_KEY]
    server = TiledServer(directory, "catalog", database, *options)
    try:
        yield server
    finally:
        server.stop()
