"""A server that gives one recorded reply, and keeps what it was asked."""

from __future__ import annotations

import html
import json
import threading
from http.server import BaseHTTPRequestHandler

from ..http_peer import OneByOne


class RecordedBroker:
    """Set `exchange`, ask, look at `asked` (method, path, JSON body)."""

    def __init__(self):
        self.exchange, self.asked = None, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                outer.asked.append((self.command, self.path, json.loads(body) if body else None))
                reply, headers = outer.exchange["reply"], outer.exchange["headers"]
                if isinstance(reply, dict) and reply.get("__html__"):
                    raw = f"<html><title>{reply['title']}</title><pre>{reply['pre']}</pre></html>".encode()
                else:
                    raw = json.dumps(reply).encode()
                self.send_response(outer.exchange["status_code"])
                self.send_header("Content-Type", headers["Content-Type"])
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *args):
                pass

        self._server = OneByOne(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def words(reply) -> str:
    """Return what a recorded refusal says."""
    if reply.get("__html__"):
        return html.unescape(reply["title"])
    return str(reply.get("message", reply.get("status", "")))
