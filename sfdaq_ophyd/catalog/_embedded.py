"""The embedded catalog: a server, a feed of documents into it, and the ways to read them back."""

from __future__ import annotations

import atexit
import functools
import importlib
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ..errors import RequestError, RunNotFound, ServiceTimeout, ServiceUnreachable, require
from ..starting import without_collection
from ._feed import Feed
from ._journal import Journal
from ._process import START_TIMEOUT, ServerProcess

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""s without progress after which a flush has failed."""

ANSWER_TIMEOUT = 120.0
"""s for an answer of the server: a child on this machine, whose end is noticed at once."""


def embedded_catalog(
    directory: str | Path,
    *,
    readable: Iterable[str | Path] | None = None,
    start_timeout: float = START_TIMEOUT,
) -> EmbeddedCatalog:
    """Open the catalog in `directory`, making it if it is new.

    Parameters
    ----------
    directory : str or Path
        Holds the catalog (SQLite), event tables, arrays, and documents not yet in the catalog.
    readable : iterable of path, optional
        Folders from which frame files may be read back, beside `directory`. Default: whatever the
        user running this may read; the server listens on loopback only, for one key that never
        leaves this process.
    start_timeout : float
        s without a sign of progress after which a start of the server has failed; those in which it had no
        CPU do not count.

    Returns
    -------
    EmbeddedCatalog
        A context manager; leaving it closes the catalog.

    Raises
    ------
    RequestError
        `directory` or a folder of `readable` is no folder.
    ServiceUnreachable
        Another process has this catalog open, or the server failed; with its own words.
    ServiceTimeout

    Examples
    --------
    ::

        with embedded_catalog("catalog") as catalog:
            sfdaq_ophyd.setup(RE, catalog)
            (uid,) = RE(bp.count([eiger], num=3))
            images = catalog[uid]["primary"]["eiger_image"].read()
    """
    require("catalog", "the embedded catalog", "tiled", "duckdb", "bluesky_tiled_plugins", "pyarrow")
    return EmbeddedCatalog(directory, readable=readable, start_timeout=start_timeout)


class EmbeddedCatalog:
    """A Tiled catalog of our own; made by :func:`embedded_catalog`.

    Attributes
    ----------
    directory : Path
    server : ServerProcess
    """

    def __init__(self, directory, *, readable=None, start_timeout: float = START_TIMEOUT):
        self.directory = _folder("directory", directory, make=True)
        folders = ["/"] if readable is None else [str(_folder("readable", folder)) for folder in readable]
        self.server = ServerProcess(self.directory, readable=folders, timeout=start_timeout)
        self.server.launch()
        with without_collection():
            for module in ("tiled.client", "bluesky_tiled_plugins.writing.tiled_writer"):
                importlib.import_module(module)  # while the child does the same
        self.server.wait_ready()
        self._restart_lock = threading.Lock()
        self._subscriptions: list[tuple] = []
        self._closed = False
        try:
            self._client = self._connect()
            self._write_client = self._connect().include_data_sources()
            self._journal = Journal(self.directory / "documents")
            self._feed = Feed(self._open_writer, self._journal)
            self._write_client.context.http_client.event_hooks["response"].append(self._feed.went_on)
        except BaseException:
            self.server.stop()
            raise
        atexit.register(self.close)
        if waiting := self.waiting:
            logger.warning(
                "%d runs in %s are not in the catalog; catalog.replay() brings them in",
                len(waiting),
                self._journal.directory,
            )

    def subscribe(self, run_engine) -> int:
        """Send every document of `run_engine` here; returns the token for ``RE.unsubscribe``.

        The RunEngine's thread writes a line to the journal and goes on. A run can be read while it
        goes, and is complete within a second of its end. A failing server costs neither the run
        nor its documents: see :meth:`replay`.

        Nothing else is installed, and a second call changes nothing: :func:`sfdaq_ophyd.setup` does this and
        what our devices need of a RunEngine beside it.
        """
        for engine, token in list(self._subscriptions):
            if engine is run_engine:
                engine.unsubscribe(token)
                self._subscriptions.remove((engine, token))
        token = run_engine.subscribe(self._feed)
        self._subscriptions.append((run_engine, token))
        return token

    def __call__(self, name: str, doc: dict) -> None:
        """Take one document, for callers without a RunEngine."""
        self._feed(name, doc)

    def flush(self, timeout: float = PATIENCE) -> None:
        """Wait until everything subscribed engines have emitted is written.

        Raises
        ------
        ServiceTimeout
            For `timeout` s nothing more was written.
        """
        self._feed.flush(timeout)

    @property
    def waiting(self) -> list[str]:
        """Uids of runs whose documents are on disk and not, or not all, in the catalog; oldest first."""
        return list(self._journal.waiting(but=self._feed.open_runs))

    def replay(self) -> list[str]:
        """Bring in the runs that wait in the directory's ``documents``; starts the server if it is gone.

        What the catalog has of such a run is replaced. A run that fails again stays where it is and
        does not keep the others from coming in.

        Returns
        -------
        list of str
            Uids of the runs now in the catalog.

        Raises
        ------
        ServiceUnreachable, ServiceTimeout
            The server cannot be started.
        """
        self._settle()
        self._ensure_server()
        done = []
        for uid, path in self._journal.waiting(but=self._feed.open_runs).items():
            try:
                if uid in self._write_client:
                    self._write_client.delete_contents(uid, recursive=True, external_only=False)
                writer = self._open_writer()
                for name, doc in self._journal.read(path):
                    writer(name, doc)
                writer.flush()
            except Exception as exc:
                logger.error(
                    "run %s cannot be brought in from %s: %s: %s", uid, path, type(exc).__name__, exc
                )
                continue
            self._journal.drop(uid)
            done.append(uid)
        return done

    def extend(self, uid: str, documents: Iterable[tuple[str, dict]]) -> None:
        """Add streams to a run that is closed already, such as files that came late.

        Parameters
        ----------
        uid : str
            The whole uid.
        documents : iterable of (str, dict)
            Descriptors, stream resources, stream datums and event pages of new streams.

        Raises
        ------
        RunNotFound
        """
        self._settle()
        writer = self._open_writer()
        if uid not in self._write_client:
            raise RunNotFound(uid, where=self.directory, reason="no such run", waiting=self.waiting)
        writer.go_on(self._write_client[uid])
        for name, doc in documents:
            writer(name, doc)
        writer.flush()

    def runs_at(self, time: float, at_most: int = 20) -> list[str]:
        """Return the uids of runs that were open at `time` (s since the epoch), the latest first.

        A run without an end counts as open. Of the runs begun before, the last `at_most` are looked at.
        """
        from tiled.queries import Key

        begun = self.client.search(Key("start.time") <= time).sort(("start.time", -1))
        stops = {uid: run.metadata.get("stop") or {} for uid, run in begun.items()[:at_most]}
        return [uid for uid, stop in stops.items() if stop.get("time", time) >= time]

    @property
    def client(self):
        """The Tiled client of the catalog, everything emitted so far being written; runs by start time."""
        self._settle()
        return self._client.new_variation()  # a used one remembers how many runs there were

    @property
    def databroker(self):
        """The same runs as databroker's ``Broker``: ``catalog.databroker[-1].table()``."""
        from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH
        from tiled.utils import OneShotCachedMap

        # databroker sets its own classes in the map it is given, which by default all clients of
        # the process share: every later `catalog[uid]` would have databroker's layout.
        shared = DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"]
        own = OneShotCachedMap({name: functools.partial(shared.__getitem__, name) for name in shared})
        return self.client.new_variation(structure_clients=own).v1

    @property
    def uri(self) -> str:
        """Address with key, for ``tiled.client.from_uri`` in another process of the same user."""
        return f"{self.server.url}/api/v1?api_key={self.server.api_key}"

    def __getitem__(self, key):
        """Return a run by uid, the beginning of one (5 characters or more), scan_id, or negative index.

        Raises
        ------
        RunNotFound
            None, or more than one; or only a part of it is here, since its client or the server was killed:
            `replay` brings in the rest, and ``catalog.client[key]`` is what there is.
        """
        try:
            run = self.client[key]
        except (KeyError, IndexError, ValueError) as exc:
            reason = exc.args[0] if exc.args else exc
            raise RunNotFound(key, where=self.directory, reason=reason, waiting=self.waiting) from exc
        if run.item["id"] in self.waiting:
            reason = "only a part of it: its client was killed, or the server failed"
            raise RunNotFound(key, where=self.directory, reason=reason, waiting=self.waiting)
        return run

    def __len__(self) -> int:
        """Count the runs."""
        return len(self.client)

    def __iter__(self):
        """Iterate over the uids, oldest first."""
        return iter(self.client)

    def __contains__(self, uid: object) -> bool:
        """Tell whether a run with this whole uid is here."""
        return uid in self.client

    def close(self, timeout: float = PATIENCE) -> None:
        """Write what is left, leave the RunEngines, end the server. Safe twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for run_engine, token in self._subscriptions:
            run_engine.unsubscribe(token)
        self._feed.close(timeout)
        for client in (self._client, self._write_client):
            client.context.close()
        self.server.stop()

    def __enter__(self) -> EmbeddedCatalog:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"at {self.server.url}"
        return f"<EmbeddedCatalog {str(self.directory)!r} {state}>"

    def _connect(self):
        import httpx
        from tiled.client import from_uri

        timeout = httpx.Timeout(ANSWER_TIMEOUT)
        client = from_uri(
            f"{self.server.url}/api/v1", api_key=self.server.api_key, trust_env=False, timeout=timeout
        )
        client.context.http_client.event_hooks["request"].append(self._check_alive)
        return client.sort(("start.time", 1))

    def _check_alive(self, request) -> None:
        """Fail at once where the client would repeat a request to a dead server for 45 s."""
        if not self.server.alive:
            raise ServiceUnreachable("catalog", url=self.server.url, reason="the server process has ended")

    def _ensure_server(self) -> None:
        with self._restart_lock:
            if not self.server.alive and not self._closed:
                logger.warning("the catalog's server has ended; starting it again")
                self.server.stop()
                self.server.start()

    def _open_writer(self):
        from ._writer import RunWriter

        self._ensure_server()
        return RunWriter(self._write_client)

    def _settle(self, timeout: float = PATIENCE) -> None:
        try:
            self.flush(timeout)
        except ServiceTimeout as exc:
            logger.warning("%s; reading what is there", exc)


def _folder(field: str, path, *, make: bool = False) -> Path:
    try:
        folder = Path(os.fspath(path)).expanduser().resolve()
        if make:
            folder.mkdir(parents=True, exist_ok=True)
    except (TypeError, OSError) as exc:
        raise RequestError(field, path, f"a folder ({exc})") from exc
    if not folder.is_dir():
        raise RequestError(field, path, "a folder that exists")
    return folder
