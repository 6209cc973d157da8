"""HTTP servers of a test's own making: ``with serving(answer) as url``."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from urllib.parse import urlsplit

import requests


class HungUpOn:
    """Before a server class of `socketserver`: that a client hung up is no failure, and nothing to print."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ssl.SSLError):
            super().handle_error(request, client_address)


class Server(HungUpOn, ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True


class OneByOne(HungUpOn, HTTPServer):
    """One connection at a time."""


@contextlib.contextmanager
def serving(answer, context=None):
    """A server of one's own: ``answer(handler)`` writes the reply; with a TLS context it speaks that."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize = "HTTP/1.1", -1

        def do_GET(self):
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:  # shakes hands in the connection's own thread
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def relay(target, hook):
    """A server before another: ``hook(path, forward)`` returns (code, type, body), or None to hang up.

    ``forward()`` asks the other one, and returns the same.
    """

    def answer(handler):
        def forward():
            headers = {
                key: handler.headers[key] for key in ("Content-Type", "Accept") if key in handler.headers
            }
            reply = requests.request(
                handler.command, target + handler.path, data=handler.body or None, headers=headers, timeout=60
            )
            return reply.status_code, reply.headers.get("Content-Type", ""), reply.content

        told = hook(handler.path, forward)
        if told is None:
            handler.close_connection = True
        else:
            code, content_type, body = told
            reply_with(code, body, content_type)(handler)

    with serving(answer) as url:
        yield url


def reply_with(code, body, content_type="application/json; charset=utf-8"):
    def answer(handler):
        handler.send_response(code)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def forward(handler, target, path=None):
    """Answer as the server at `target` does, asked for `path`."""
    connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=30)
    headers = {k: v for k, v in handler.headers.items() if k in ("Content-Type", "Accept")}
    connection.request(handler.command, path or handler.path, handler.body or None, headers)
    with contextlib.closing(connection), connection.getresponse() as reply:
        reply_with(reply.status, reply.read(), reply.headers.get("Content-Type", "text/plain"))(handler)
