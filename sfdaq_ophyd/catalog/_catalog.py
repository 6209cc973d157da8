"""A catalog of runs: a journal and a feed in front of a Tiled server, and the ways to read runs back."""

from __future__ import annotations

import atexit
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import RequestError, RunNotFound, ServiceTimeout, ServiceUnreachable, require
from .journal import CatalogCallback, Journal

logger = logging.getLogger(__name__)


PATIENCE = 30.0
"""s without progress after which a flush has failed."""

ANSWER_TIMEOUT = 120.0
"""s for an answer of the server."""


class Catalog(ABC):
    """Runs in a Tiled server, wherever it is; made by `embedded_catalog` and `remote_catalog`.

    Documents go to a journal on disk and, in the background, to the server; runs come from there.
    """

    def __init__(self, documents: Path, where: str | Path, now_at: Callable[[str], str] = str):
        self._where = where
        self._restart_lock = threading.Lock()
        self._subscriptions: list[tuple] = []
        self._closed = False
        self._journal = Journal(documents, now_at)
        self._client = self._connect()
        self._write_client = self._connect().include_data_sources()
        self._feed = CatalogCallback(self._open_writer, self._journal)
        self._write_client.context.http_client.event_hooks["response"].append(self._feed.went_on)
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

        Parameters
        ----------
        run_engine : RunEngine
            May be one of several; `close` leaves them all.

        Returns
        -------
        int
            The token. That of a second call replaces the one before.
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

        A run that failed counts as written: its documents are in the journal, and `waiting` names it.

        Parameters
        ----------
        timeout : float
            Longest wait without any progress, s; how long it takes in all is not limited.

        Raises
        ------
        ServiceTimeout
            For `timeout` s nothing more was written.
        """
        self._feed.flush(timeout)

    @property
    def waiting(self) -> list[str]:
        """Uids of runs whose documents are on disk and not, or not all, in the catalog; oldest first.

        Runs that go on, here or in another session with the same folder for documents, are none of them.
        """
        return list(self._journal.waiting(but=self._feed.open_runs))

    def replay(self) -> list[str]:
        """Bring in the runs that wait in the directory's ``documents``; starts the server if it is gone.

        Runs that another session is taking, or bringing in, are left to it.

        What the catalog has of such a run is replaced, unless that is more. Where it has the whole run, the
        file goes; where documents could not be written to disk and the catalog has as many points as are
        there, both stay, and the log names the run. A run that fails again stays where it is and does not
        keep the others from coming in.

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
            with self._journal.taken(uid, path) as is_ours:
                if is_ours and self._bring_in(uid, path):
                    done.append(uid)
        return done

    def _bring_in(self, uid: str, path: Path) -> bool:
        """Write a run that waits; False if it has to go on waiting."""
        try:
            if uid in self._write_client:
                run, (points, is_whole) = self._write_client[uid], _points_of(self._journal.read(path))
                if run.metadata.get("stop") and not is_whole:
                    logger.info("run %s is whole in the catalog, its documents in %s are not", uid, path)
                    self._journal.discard(uid)
                    return True
                if self._journal.broken(uid) and not _is_more(points, _points_in(run)):
                    logger.error(
                        "run %s is left as it is: its documents in %s break off, and the catalog has as "
                        "many points; catalog.client[%r] is what there is",
                        uid,
                        path,
                        uid,
                    )
                    return False
                self._write_client.delete_contents(uid, recursive=True, external_only=False)
            writer = self._open_writer()
            for name, doc in self._journal.read(path):
                writer(name, doc)
            writer.flush()
        except Exception as exc:
            logger.error("run %s cannot be brought in from %s: %s: %s", uid, path, type(exc).__name__, exc)
            return False
        self._journal.keep(uid)
        return True

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
            raise RunNotFound(uid, where=self._where, reason="no such run", waiting=self.waiting)
        writer.go_on(self._write_client[uid])
        documents = list(documents)
        for name, doc in documents:
            writer(name, doc)
        writer.flush()
        self._journal.extend(uid, documents)

    def runs_at(self, time: float, at_most: int = 20) -> list[str]:
        """Return the uids of runs that were open at a time, the latest first.

        A run without an end counts as open.

        Parameters
        ----------
        time : float
            s since the epoch, by the clock of the RunEngine's host.
        at_most : int
            How many of the runs begun before then are looked at, from the last one on.

        Returns
        -------
        list of str
            Whole uids.
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
        require("databroker", "catalog.databroker", "databroker")
        return self.client.v1

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
            raise RunNotFound(key, where=self._where, reason=reason, waiting=self.waiting) from exc
        if run.item["id"] in self.waiting:
            reason = "only a part of it: its client was killed, or the server failed"
            raise RunNotFound(key, where=self._where, reason=reason, waiting=self.waiting)
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
        """Write what is left, leave the RunEngines, end the connection. Safe twice.

        Parameters
        ----------
        timeout : float
            Longest wait without any progress, s. What is not written by then is on disk and comes in by
            `replay`, and the log says so.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for run_engine, token in self._subscriptions:
            run_engine.unsubscribe(token)
        self._feed.close(timeout)
        for client in (self._client, self._write_client):
            client.context.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    @abstractmethod
    def _connect(self):
        """Return a new client of the container that holds the runs."""

    def _as_catalog(self, client):
        """Return a client that finds runs by uid, scan_id and index, oldest first; it has their documents."""
        from ._documents import runs_of

        return runs_of(client, self._journal).sort(("start.time", 1))

    def _ensure_server(self) -> None:
        """See that there is a server to write to; of others' servers nothing is known beforehand."""
        return

    def _open_writer(self):
        from ._writer import RunWriter

        self._ensure_server()
        return RunWriter(self._write_client)

    def _settle(self, timeout: float = PATIENCE) -> None:
        try:
            self.flush(timeout)
        except ServiceTimeout as exc:
            logger.warning("%s; reading what is there", exc)


def _points_of(documents: Iterable[tuple[str, dict]]) -> tuple[Counter[str], bool]:
    """Count the points of each stream; tell whether there is a stop document."""
    streams: dict[str, str] = {}  # by descriptor
    keys: dict[str, str] = {}  # by stream resource
    events: Counter[str] = Counter()
    in_files: Counter[tuple[str, str]] = Counter()  # by stream and key
    name = ""
    for name, doc in documents:
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        elif name == "stream_resource":
            keys[doc["uid"]] = doc["data_key"]
        elif name == "event":
            events[streams[doc["descriptor"]]] += 1
        elif name == "event_page":
            events[streams[doc["descriptor"]]] += len(doc["seq_num"])
        elif name == "stream_datum":
            key = streams[doc["descriptor"]], keys[doc["stream_resource"]]
            in_files[key] += doc["indices"]["stop"] - doc["indices"]["start"]
    for (stream, _), n in in_files.items():
        events[stream] = max(events[stream], n)
    return events, name == "stop"


def _points_in(run) -> Counter[str]:
    """Count the points of each stream of a run in the catalog; of one in files alone, at least as many."""
    found: Counter[str] = Counter()
    for name in run:
        stream = run[name]
        structures = [item["attributes"]["structure"] for item in stream.get_contents().values()]
        found[name] = max((each["shape"][0] for each in structures if each.get("shape")), default=0)
        if "seq_num" in stream:
            found[name] = max(found[name], len(stream["seq_num"].read()))
    return found


def _is_more(points: Mapping[str, int], before: Mapping[str, int]) -> bool:
    return points != before and all(points.get(stream, 0) >= n for stream, n in before.items())


def remote_catalog(uri: str, documents: str | Path, *, api_key: str | None = None) -> RemoteCatalog:
    """Open a catalog in a Tiled server that somebody else runs.

    Any server with a writable catalog will do, also without our plugin (`sfdaq_ophyd.catalog.plugin`); only
    runs that go on can be read with it alone. The server must see the files of the detectors under the paths
    they have here.

    Parameters
    ----------
    uri : str
        Of the server, or of the container that is to hold the runs: ``https://tiled.psi.ch/api/v1/metadata/raw``.
    documents : str or Path
        Folder on this machine for the documents of runs; of this catalog alone.
    api_key : str, optional
        Must allow to write. Default: what ``tiled login`` has stored.

    Returns
    -------
    RemoteCatalog
        A context manager; leaving it closes the connection.

    Raises
    ------
    RequestError
        The address contains a key, or is none.
    ServiceUnreachable
        No server, no Tiled server, or it refuses the key.

    Examples
    --------
    ::

        with remote_catalog("https://tiled.psi.ch", "documents", api_key=key) as catalog:
            sfdaq_ophyd.setup(RE, catalog)
    """
    require("catalog", "a catalog in a Tiled server", "tiled", "bluesky_tiled_plugins", "pyarrow")
    return RemoteCatalog(uri, documents, api_key=api_key)


class RemoteCatalog(Catalog):
    """Runs in a Tiled server of the facility; made by :func:`remote_catalog`.

    Attributes
    ----------
    uri : str
        Without the key.
    """

    def __init__(self, uri: str, documents: str | Path, *, api_key: str | None = None):
        try:
            scheme = urlsplit(uri).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https") or "@" in uri or "api_key=" in uri:
            shown = uri.partition("api_key=")[0].rpartition("@")[2].partition("?")[0]
            raise RequestError("uri", shown, "http://... or https://..., neither key nor login in it")
        self.uri, self._key = uri, api_key
        super().__init__(Path(documents).expanduser(), uri)

    def _connect(self):
        import httpx
        from tiled.client import from_uri

        try:
            client = from_uri(self.uri, api_key=self._key, timeout=httpx.Timeout(ANSWER_TIMEOUT))
        except Exception as exc:  # httpx, tiled and OS errors have no common root
            raise ServiceUnreachable("catalog", url=self.uri, reason=exc) from exc
        return self._as_catalog(client)

    def __repr__(self) -> str:
        return f"<RemoteCatalog {self.uri!r}{' closed' if self._closed else ''}>"
