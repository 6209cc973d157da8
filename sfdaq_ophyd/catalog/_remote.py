"""A catalog in a Tiled server of the facility."""

from __future__ import annotations

from pathlib import Path

from ..errors import RequestError, ServiceUnreachable, require
from ._catalog import ANSWER_TIMEOUT, Catalog


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
        if not uri.startswith(("http://", "https://")) or "api_key=" in uri:
            raise RequestError("uri", uri.partition("?")[0], "http://... or https://..., the key not in it")
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
