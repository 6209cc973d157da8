"""The Tiled server itself, run as ``python -m sfdaq_ophyd.catalog._server``.

One JSON line on standard input says what to serve; on standard output come the steps of the start, then READY
and the port, or in its place what is wrong (`sfdaq_ophyd.starting`).
Everything else the process prints goes to standard error. It ends when standard input closes or
its parent is gone, however the parent died.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import fcntl
import functools
import json
import os
import select
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..files.storage import write_whole
from ..limits import Limit
from ..starting import STEP, without_collection

LOCK_PATIENCE = 3.0
"""Seconds to wait for the lock of a server whose parent has just died."""

DATABASE_PATIENCE = 600
"""Seconds a request waits for its turn at a database; on a busy machine the one before it may be slow."""

EXIT_PATIENCE = 2.0
"""Seconds for open requests to end before the process leaves anyway."""


HOME = "home"
"""Name of the file that says where the directory was, line by line; the last says where it was last open."""

N_SAMPLES, SAMPLE = 16, 4096
"""How many parts of files are compared, and the bytes of each."""

_RESTORE = "Restore it from a backup; or move it away, and an empty catalog begins"


class UnusableError(Exception):
    """The directory cannot be served: another process does, or what lies there is not ours."""


def lock(directory: Path):
    """Take the lock of `directory` and return the open file that holds it; UnusableError if it is taken."""
    file = open(directory / "lock", "a+")  # noqa: SIM115 (held until the process ends)
    limit = Limit(LOCK_PATIENCE)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if limit.reached():
                file.seek(0)
                raise UnusableError(f"in use by process {file.read().strip() or 'unknown'}") from None
            time.sleep(0.05)
    file.truncate(0)
    file.write(str(os.getppid()))
    file.flush()
    return file


def prepare_database(path: Path) -> None:
    """Create the catalog's database, or see that the one there is ours.

    Raises
    ------
    UnusableError
        It is empty, damaged, or somebody else's; nothing was changed.
    """
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import check_database, stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database

    async def with_engine(path: Path, action) -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        try:
            await action(engine)
        finally:
            await engine.dispose()

    if path.exists():
        if path.stat().st_size == 0:
            raise UnusableError(f"{path} is empty. {_RESTORE}")
        try:
            asyncio.run(
                with_engine(path, lambda each: check_database(each, REQUIRED_REVISION, ALL_REVISIONS))
            )
        except Exception as exc:  # of SQLite, SQLAlchemy and Tiled
            reason = str(getattr(exc, "orig", exc)) or type(exc).__name__
            raise UnusableError(f"{path} is no catalog of this package: {reason}. {_RESTORE}") from exc
        return
    new = path.with_name("catalog.new.db")
    new.unlink(missing_ok=True)
    asyncio.run(with_engine(new, initialize_database))
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, f"sqlite+aiosqlite:///{new}")
    new.replace(path)


def settle_in(directory: Path) -> None:
    """Let the database point into `directory`, where it was moved or copied since it was last open.

    A file outside that lies where it lay relative to the catalog moved with it, or was copied: what is in its
    former place is gone, not readable, or the same.
    """
    home = directory / HOME
    with contextlib.closing(sqlite3.connect(directory / "catalog.db")) as database:
        assets = database.execute("SELECT id, data_uri FROM assets").fetchall()
        homes = home.read_text().split("\n")[:-1] if home.exists() else [_home_by(assets)]
        before = homes[-1] if homes else ""
        if before and before != str(directory):
            with database:
                for key, uri in assets:
                    if (now := _moved(uri, before, directory)) != uri:
                        database.execute("UPDATE assets SET data_uri = ? WHERE id = ?", (now, key))
        tables = directory / "tables.duckdb"
        used = any(uri.startswith("duckdb:") for _, uri in assets)
    if used and not (tables.exists() and tables.stat().st_size):
        raise UnusableError(f"{tables} is missing or empty, and catalog.db has runs in it. {_RESTORE}")
    if before != str(directory):
        write_whole(home, "".join(f"{each}\n" for each in [*filter(None, homes), directory]))


def now_at(directory: Path, uri: str) -> str:
    """Return where a file is, by where it was when `directory` was in one of its former places."""
    for before in reversed((directory / HOME).read_text().splitlines()):
        if (now := _moved(uri, before, directory)) != uri:
            return now
    return uri


def _home_by(assets: list[tuple[int, str]]) -> str:
    """Return where a catalog was that has not noted it: where its tables are."""
    for _, uri in assets:
        if uri.startswith("duckdb:") and uri.endswith("/tables.duckdb"):
            return _path_of(uri).removesuffix("/tables.duckdb")
    return ""


def _path_of(uri: str) -> str:
    return "/" + uri.partition("://")[2].partition("/")[2].lstrip("/")


def _moved(uri: str, before: str, directory: Path) -> str:
    """Return where `uri` points now; its path is as it is, since Tiled takes it so."""
    path = _path_of(uri)
    if path.startswith(f"{before}/"):
        return uri.removesuffix(path) + f"{directory}{path.removeprefix(before)}"
    new = os.path.normpath(directory / os.path.relpath(path, before))
    if new == path or not os.path.exists(new) or os.access(path, os.R_OK) and not _look_the_same(path, new):
        return uri
    return uri.removesuffix(path) + new


def _look_the_same(*paths: str) -> bool:
    """Compare files by size and samples: one is a copy, or another proposal has a file of the same name."""
    try:
        first, second = (_samples(path) for path in paths)
        return all(one == other for one, other in zip(first, second, strict=True))
    except OSError:  # such as a folder
        return False


def _samples(path: str) -> Iterator[int | bytes]:
    with open(path, "rb") as file:
        n_bytes = file.seek(0, os.SEEK_END)
        yield n_bytes
        for k in range(N_SAMPLES + 1):
            file.seek(max(0, n_bytes - SAMPLE) * k // N_SAMPLES)
            yield file.read(SAMPLE)


def build(directory: Path, *, api_key: str, readable: list[str]):
    """Return the ASGI application: SQLite for the tree, DuckDB for event tables, files for arrays.

    DuckDB and not SQLite for the tables, since SQLite stores NaN as NULL and has no list columns.
    """
    from tiled.catalog import from_uri
    from tiled.config import Authentication, StreamingCacheConfig
    from tiled.media_type_registration import default_serialization_registry
    from tiled.server.app import build_app
    from tiled.storage import parse_storage

    from ._documents import exporter
    from .journal import Journal
    from .plugin import GrowingHDF5Adapter, router

    prepare_database(directory / "catalog.db")
    settle_in(directory)
    database = f"sqlite+aiosqlite:///{directory / 'catalog.db'}?timeout={DATABASE_PATIENCE}"
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
    exports = copy.deepcopy(default_serialization_registry)
    journal = Journal(directory / "documents", functools.partial(now_at, directory))
    exports.register("BlueskyRun", "application/json-seq", exporter(journal))
    authentication = Authentication(single_user_api_key=api_key)
    app = build_app(
        tree, authentication=authentication, serialization_registry=exports, include_routers=[router]
    )
    for override in app.dependency_overrides.values():
        override()
    app.dependency_overrides = Applied(app.dependency_overrides)
    return app


class Applied(dict):
    """Overrides of dependencies that were called once: Tiled's changes the settings that all are given.

    FastAPI sees none: with any, it analyses all dependencies of a route anew at every request.
    """

    def __bool__(self) -> bool:
        return False


def take_turns(storage) -> None:
    """Let one request at a time use the DuckDB connection of `storage`, before anyone has used it.

    Tiled hands the one connection to any number of threads at once. A reader's end of a transaction is then
    the writer's as well: either fails, and rows just appended can be rolled back.
    """
    from sqlalchemy.pool import QueuePool

    connection = storage.create_adbc_connection()
    pool = QueuePool(connection.adbc_clone, pool_size=1, max_overflow=0, timeout=DATABASE_PATIENCE)
    vars(storage).update(_adbc_connection=connection, _connection_pool=pool)


def watch_parent(leave: Callable[[], object]) -> None:
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

    def say(what: str) -> None:
        answers.write(" ".join(what.splitlines()) + "\n")
        answers.flush()

    def step(what: str) -> None:
        say(f"{STEP}{what}")

    step("asking what to serve")
    wanted = json.loads(_first_line())
    leaving = threading.Event()
    watch_parent(leaving.set)
    directory = Path(wanted["directory"])
    try:
        step("waiting for the lock of the directory")
        held = lock(directory)
        step("importing tiled and opening the database")
        with without_collection(ours=True):
            app = build(directory, api_key=wanted["api_key"], readable=wanted["readable"])
        listener = socket.create_server(("127.0.0.1", wanted["port"]))
    except Exception as exc:
        say(str(exc) if isinstance(exc, UnusableError) else f"{type(exc).__name__}: {exc}")
        if not isinstance(exc, UnusableError):
            raise
        return 1

    step("beginning to serve")
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets=sockets)
            say(f"READY {listener.getsockname()[1]}")

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or leaving.is_set()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=3600,  # the client closes what is idle: both at once would cost a request
    )
    Server(config).run(sockets=[listener])
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
