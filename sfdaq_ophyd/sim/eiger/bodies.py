"""Long bodies, sent without copying them.

``monitor/.../images``: the list, next, monitor and single frames; ``/data``: the filewriter's files, whole or
in part, their sizes, and their end.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping

from aiohttp import web

from .dcu import DetectorControlUnit
from .monitor import StoredFrame

HEAD = 2**14
"""Bytes of a body that go out with its header."""

DEFAULT_WAIT = 0.5
"""s `images/next` waits unless told otherwise."""

LONGEST_WAIT = 3600.0

HDF5 = "application/x-hdf5"

_NO_HEADERS: Mapping[str, str] = {}


async def answer_images(dcu: DetectorControlUnit, request: web.Request) -> web.StreamResponse:
    """Answer one request below ``images``."""
    names = request.match_info["rest"].strip("/").split("/")
    if request.match_info["rest"] and not request.match_info["rest"].startswith("/"):
        raise web.HTTPNotFound
    if names == [""]:
        return web.json_response(dcu.monitor.listing())
    if names[0] in ("next", "monitor") and len(names) == 1:
        if dcu.faults.take("no_image") is not None:
            return _nothing()
        wait = _wait_of(request)
        frame = await (dcu.monitor.next(wait) if names[0] == "next" else dcu.monitor.newest(wait))
        dcu.note_fetched(f"{names[0]}_image_number", frame)
        return _nothing() if frame is None else await _send(dcu, request, frame)
    if len(names) in (2, 3) and all(name.isdecimal() and len(name) < 12 for name in names):
        frame = dcu.monitor.find(*map(int, names))
        if frame is not None:
            return await _send(dcu, request, frame)
    raise web.HTTPNotFound


def _nothing() -> web.Response:
    return web.Response(status=408, text="no image within the timeout")


def _wait_of(request: web.Request) -> float:
    given = request.query.get("timeout")
    try:
        return DEFAULT_WAIT if given is None else min(max(float(given) / 1000, 0.0), LONGEST_WAIT)
    except ValueError:
        raise web.HTTPBadRequest from None


async def forever() -> None:
    """Wait until the client goes away, which cancels the handler."""
    await asyncio.Event().wait()


async def hang_up(request: web.Request) -> None:
    """Close the connection without another byte; does not return."""
    if request.transport is not None:  # else it is closed already
        request.transport.abort()
    await forever()


async def _send(dcu: DetectorControlUnit, request: web.Request, frame: StoredFrame) -> web.StreamResponse:
    kind = "image/tiff" if dcu.version == "1.8.0" else "application/tiff"
    if (fault := dcu.faults.take("content_type")) is not None:
        kind = fault.get("content_type", "text/html")
        return web.Response(body=b"<html><body>Dectris web interface</body></html>", content_type=kind)
    if (fault := dcu.faults.take("body")) is not None:
        return web.Response(body=fault["body"], content_type=kind)
    n_bytes, stop_at = frame.n_bytes, None
    if (fault := dcu.faults.take("truncate")) is not None:
        n_bytes = min(n_bytes, int(fault.get("keep", n_bytes // 2)))
    if dcu.faults.take("cut_body") is not None:
        stop_at = n_bytes // 2
    return await send(request, kind, frame.pieces, n_bytes, stop_at)


async def answer_file(dcu: DetectorControlUnit, request: web.Request) -> web.StreamResponse:
    """Answer one request for a file."""
    name, files = request.match_info["name"], dcu.files
    if name not in files.names():
        return web.Response(status=404, text="404: Not Found")
    if request.method == "DELETE":
        files.delete(name)
        return web.Response(status=204)
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD", "DELETE"))
    content = await asyncio.get_running_loop().run_in_executor(None, files.reader(name))
    getting = request.method == "GET"
    if getting and (fault := dcu.faults.take("short_file")) is not None:
        content = content[: int(fault.get("keep", len(content) // 2))]
    first, last, code = _part(request, len(content))
    if code == 206 and dcu.faults.take("no_range") is not None:
        first, last, code = 0, len(content), 200
    headers = {"Accept-Ranges": "bytes"}
    if code == 416:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(content)}"})
    if code == 206:
        headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(content)}"
    n_bytes, stop_at = last - first, None
    if getting and (fault := dcu.faults.take("cut_file")) is not None:
        stop_at = min(n_bytes, int(fault.get("after", n_bytes // 2)))
    pieces = (content[first:last],)
    return await send(request, HDF5, pieces, n_bytes, stop_at, code=code, headers=headers)


def _part(request: web.Request, size: int) -> tuple[int, int, int]:
    """Return first byte, the one after the last, and the code of the reply."""
    try:
        wanted = request.http_range
    except ValueError:
        return 0, size, 200  # not understood: the whole file
    if wanted.start is None and wanted.stop is None:
        return 0, size, 200
    first, last, _ = wanted.indices(size)
    return first, last, 206 if first < last else 416


async def send(
    request: web.Request,
    kind: str,
    pieces: tuple,
    n_bytes: int,
    stop_at: int | None = None,
    *,
    code: int = 200,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> web.StreamResponse:
    """Send `n_bytes` of the pieces without copying them; hang up after `stop_at` bytes, if given."""
    headers = {"Content-Type": kind, "Content-Length": str(n_bytes), **headers}
    reply = web.StreamResponse(status=code, headers=headers)
    await reply.prepare(request)
    if request.method != "HEAD":
        views = _cut(pieces, n_bytes if stop_at is None else stop_at)
        await reply.write(views[0][:HEAD])  # with the header
        await _send_directly(request.transport, [views[0][HEAD:], *views[1:]])
    if stop_at is not None:
        await hang_up(request)
    await reply.write_eof()
    return reply


def _cut(pieces: tuple, n_bytes: int) -> list[memoryview]:
    """Return the first `n_bytes` of the pieces, at least one."""
    views, left = [], n_bytes
    for piece in pieces:
        views.append(memoryview(piece)[:left])
        left -= len(views[-1])
    return views


async def _send_directly(transport: asyncio.Transport | None, views: list[memoryview]) -> None:
    """Hand memory to the socket as it is; the transport would copy what the socket does not take at once."""
    if transport is None:
        raise ConnectionResetError("the client went away")
    transport.set_write_buffer_limits(0)
    while transport.get_write_buffer_size():
        if transport.is_closing():
            raise ConnectionResetError("the client went away")
        await asyncio.sleep(0.001)
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as direct:
        direct.setblocking(False)
        for view in views:
            await asyncio.get_running_loop().sock_sendall(direct, view)
