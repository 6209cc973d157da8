"""A Redis server of our own on loopback, for a DAQ that is given none."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

from fakeredis import FakeServer, TcpFakeServer

vars(sys.modules[TcpFakeServer.__module__])["_POLL_INTERVAL"] = 0.1
"""s between two looks of each connection whether the server ends: as it comes, 100 times a second."""


class _RedisServer(TcpFakeServer):
    """Connections can be cut, as they are when a real server stops."""

    block_on_close = False

    def __init__(self, port: int):
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port))
        self.daemon_threads = True

    def process_request(self, request, client_address):
        """Remember the connection."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        """Forget the connection."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Say nothing about a connection that was cut."""


class EmbeddedRedis:
    """Redis' wire protocol on 127.0.0.1; contents survive a stop unless told otherwise.

    Parameters
    ----------
    port : int
        0 takes a free one; the port stays over stop and start.
    """

    def __init__(self, port: int = 0):
        self._port = port
        self._server: _RedisServer | None = None
        self._contents: FakeServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address, once started."""
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Serve."""
        server = self._server = _RedisServer(self._port)
        self._port = server.server_address[1]
        if self._contents is None:
            self._contents = server.fake_server
        server.fake_server = self._contents
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="embedded Redis", daemon=True
        )
        self._thread.start()

    def stop(self, *, empty: bool = False) -> None:
        """Stop serving and cut all connections; with `empty` forget the contents. Safe twice."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            for connection in tuple(server.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            server.server_close()
            self._thread.join(5)
        if empty:
            self._contents = None
