"""The Tiled server itself, run as ``python -m sfdaq_ophyd.catalog._server``.

One JSON line on standard input says what to serve, one JSON line on standard output says where; steps of the
start come before it (`sfdaq_ophyd.starting`).
Everything else the process prints goes to standard error. It ends when standard input closes or
its parent is gone, however the parent died.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path

from ..limits import Limit
from ..starting import STEP

LOCK_PATIENCE = 3.0
"""Seconds to wait for the lock of a server whose parent has just died."""

DATABASE_PATIENCE = 600
"""Seconds a request waits for its turn at a database; on a busy machine the one before it may be slow."""

EXIT_PATIENCE = 2.0
"""Seconds for open requests to end before the process leaves anyway."""


class InUseError(Exception):
    """Another process serves this directory."""


def lock(directory: Path):
    """Take the lock of `directory` and return the open file that holds it; InUseError if it is taken."""
    file = open(directory / "lock", "a+")  # noqa: SIM115 (held until the process ends)
    limit = Limit(LOCK_PATIENCE)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if limit.reached():
                file.seek(0)
                raise InUseError(f"in use by process {file.read().strip() or 'unknown'}") from None
            time.sleep(0.05)
    file.truncate(0)
    file.write(str(os.getppid()))
    file.flush()
    return file


def prepare_database(uri: str) -> None:
    """Create the tables of the catalog at `uri` unless they are there."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import UninitializedDatabase, check_database, stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database

    async def create_if_missing() -> bool:
        engine = create_async_engine(uri)
        try:
            await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
        except UninitializedDatabase:
            await initialize_database(engine)
            return True
        finally:
            await engine.dispose()
        return False

    if asyncio.run(create_if_missing()):
        stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, uri)


def build(directory: Path, *, api_key: str, readable: list[str]):
    """Return the ASGI application: SQLite for the tree, DuckDB for event tables, files for arrays.

    DuckDB and not SQLite for the tables, since SQLite stores NaN as NULL and has no list columns.
    """
    from tiled.catalog import from_uri
    from tiled.config import Authentication, StreamingCacheConfig
    from tiled.server.app import build_app
    from tiled.storage import parse_storage

    from ._growing import GrowingHDF5Adapter

    database = f"sqlite+aiosqlite:///{directory / 'catalog.db'}?timeout={DATABASE_PATIENCE}"
    prepare_database(database)
    (directory / "data").mkdir(exist_ok=True)
    tables = f"duckdb:///{directory / 'tables.duckdb'}"
    tree = from_uri(
        database,
        specs=[{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
        writable_storage=[str(directory / "data"), tables],
        readable_storage=readable,
        adapters_by_mimetype={"application/x-hdf5": GrowingHDF5Adapter},
        cache_config=StreamingCacheConfig(uri="memory", data_ttl=60).model_dump(),
    )
    take_turns(parse_storage(tables))
    return build_app(tree, authentication=Authentication(single_user_api_key=api_key))


def take_turns(storage) -> None:
    """Let one request at a time use the DuckDB connection of `storage`, before anyone has used it.

    Tiled hands the one connection to any number of threads at once. A reader's end of a transaction is then
    the writer's as well: either fails, and rows just appended can be rolled back.
    """
    from sqlalchemy.pool import QueuePool

    connection = storage.create_adbc_connection()
    pool = QueuePool(connection.adbc_clone, pool_size=1, max_overflow=0, timeout=DATABASE_PATIENCE)
    vars(storage).update(_adbc_connection=connection, _connection_pool=pool)


def watch_parent(leave) -> None:
    """Call `leave` once standard input closes or the parent is another process than now."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            readable, _, _ = select.select([sys.stdin], [], [], 0.5)
            if readable and not os.read(sys.stdin.fileno(), 1024):
                break
        leave()
        time.sleep(EXIT_PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def main() -> int:
    """Serve until the parent leaves."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.close()

    def step(what: str) -> None:
        answers.write(f"{STEP}{what}\n")
        answers.flush()

    step("asking what to serve")
    wanted = json.loads(_first_line())
    state = {"leaving": False, "server": None}

    def leave() -> None:
        state["leaving"] = True
        if state["server"] is not None:
            state["server"].should_exit = True

    watch_parent(leave)
    directory = Path(wanted["directory"])
    try:
        step("waiting for the lock of the directory")
        held = lock(directory)
        step("importing tiled and opening the database")
        app = build(directory, api_key=wanted["api_key"], readable=wanted["readable"])
        listener = socket.create_server(("127.0.0.1", wanted["port"]))
    except Exception as exc:
        answer(error=f"{type(exc).__name__}: {exc}" if not isinstance(exc, InUseError) else str(exc))
        if not isinstance(exc, InUseError):
            raise
        return 1

    step("beginning to serve")
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets=sockets)
            answer(port=listener.getsockname()[1])

    server = state["server"] = Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=3600,  # the client closes what is idle: both at once would cost a request
        )
    )
    server.should_exit = state["leaving"]
    server.run(sockets=[listener])
    held.close()
    return 0


def _first_line() -> str:
    """Read one line without buffering, so that the watch sees what comes after it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            raise SystemExit("standard input closed before it said what to serve")
        line += byte
    return line.decode()


if __name__ == "__main__":
    sys.exit(main())
