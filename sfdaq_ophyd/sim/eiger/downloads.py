"""``/data``: the filewriter's files, whole or in part, their sizes, and their end."""

from __future__ import annotations

import asyncio

from aiohttp import web

from . import images
from .dcu import DetectorControlUnit

KIND = "application/x-hdf5"


async def answer(dcu: DetectorControlUnit, request: web.Request) -> web.StreamResponse:
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
    return await _send(dcu, request, content)


async def _send(dcu: DetectorControlUnit, request: web.Request, content: memoryview) -> web.StreamResponse:
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
    return await images.send(request, KIND, pieces, n_bytes, stop_at, code=code, headers=headers)


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
