"""The SIMPLON REST interface over aiohttp: it translates between HTTP and the model, nothing more.

As in wire reference eiger, sections 1 to 5. aiohttp sends a header and a short body in one write, which
ADEiger's JSON reader needs; long bodies are sent without copying them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

import numpy as np
from aiohttp import web

from ...errors import DetectorStateError, RequestError, WireError
from ...wire import tiff
from ...wire.simplon import Parameter, decode_darray, encode_darray
from ...wire.tiff_write import encode
from ..http import STATUS, BoundedLog, refusal
from .config import Subsystem
from .detector import EigerModel
from .monitor import StoredFrame

JSON = "application/json; charset=utf-8"

HDF5 = "application/x-hdf5"

VersionRequest = Literal["both", "slash", "none"]
"""How servers know the version request: with and without a slash at its end, only with it, or not at all."""

LOG_BODY = 4096
"""Bytes that are remembered of a request's body."""

HEAD = 2**14
"""Bytes of a body that go out with its header."""

DEFAULT_WAIT = 0.5
"""s `images/next` waits unless told otherwise."""

LONGEST_WAIT = 3600.0


@dataclass(frozen=True)
class LoggedRequest:
    """One request the server has answered; of a long body its beginning."""

    method: str
    path: str
    body: bytes
    code: int


def make_app(
    detector: EigerModel,
    log: BoundedLog[LoggedRequest],
    command_limit: Callable[[], float],
    version_request: VersionRequest,
) -> web.Application:
    """Return the web application of one detector.

    After `command_limit()` s the connection of an open command is closed, though the command goes on.
    """
    server = _Server(detector, command_limit)

    @web.middleware
    async def around(request: web.Request, handler):
        if (why := refusal(request.method, request.headers)) is not None:
            return text(STATUS, why)
        try:
            body = await request.read()
            reply = await server.misbehave(request) or await _answer(handler, request)
        except asyncio.CancelledError:
            log.append(LoggedRequest(request.method, request.path_qs, b"", 0))
            raise
        log.append(LoggedRequest(request.method, request.path_qs, body[:LOG_BODY], reply.status))
        return reply

    app = web.Application(middlewares=[around], client_max_size=2**20 + 8 * detector.stream.n_pixels)
    app.router.add_route("*", "/data/{name:.*}", server.file)
    if version_request != "none":
        without_slash = server.version if version_request == "both" else server.redirected_version
        app.router.add_get("/{module}/api/version", without_slash)
        app.router.add_get("/{module}/api/version/", server.version)
    images = "/{module:monitor}/api/{version}/images"
    app.router.add_get(images + "{slash:/?}", server.image_list)
    app.router.add_get(images + "/{which:next|monitor}{slash:/?}", server.next_image)
    ids = r"/{series:\d{1,11}}/{image:\d{1,11}}{threshold:(/\d{1,11})?}{slash:/?}"
    app.router.add_get(images + ids, server.image)
    app.router.add_get("/{module:filewriter}/api/{version}/files{slash:/?}", server.files)
    names = "/{module}/api/{version}/{task:config|status|command}{name:(/.*)?}"
    app.router.add_route("*", names, server.parameter)
    return app


async def _answer(handler, request: web.Request) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as exc:
        return text(exc.status, f"{exc.status}: {exc.reason}")
    except KeyError as exc:
        return text(404, f"Parameter {exc.args[0]} does not exist")
    except (RequestError, WireError) as exc:
        return text(400, str(exc))
    except DetectorStateError as exc:
        return text(500, str(exc))


def text(code: int, words: str) -> web.Response:
    """Return a plain reply."""
    return web.Response(status=code, text=words)


def data(value) -> web.Response:
    """Return a JSON reply."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return web.Response(body=body, headers={"Content-Type": JSON})


class _Server:
    """Handlers of requests."""

    def __init__(self, detector: EigerModel, command_limit: Callable[[], float]):
        self._detector, self._command_limit = detector, command_limit
        self._modules: dict[str, Subsystem] = {
            "detector": detector,
            "monitor": detector.monitor,
            "stream": detector.stream,
            "filewriter": detector.files,
            "system": detector.system,
        }

    async def misbehave(self, request: web.Request) -> web.Response | None:
        """Do what was asked for with this request, whatever it is; None if it is to be answered."""
        faults, path = self._detector.faults, request.path
        if fault := faults.take("delay", path=path):
            await asyncio.sleep(fault.get("seconds", 1.0))
        if faults.take("hang", path=path):
            await _forever()
        if faults.take("restart", path=path):
            self._detector.restart()
        if faults.take("cut", path=path):
            await _hang_up(request)
        if fault := faults.take("error", path=path):
            return text(fault.get("code", 500), fault.get("text", "internal failure"))
        return None

    async def version(self, request: web.Request) -> web.Response:
        if request.match_info["module"] not in self._modules:
            raise web.HTTPNotFound
        return data({"value": self._detector.version, "value_type": "string"})

    async def redirected_version(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{request.path}/"})

    async def parameter(self, request: web.Request) -> web.Response:
        module, method = self._module(request), request.method
        task, name = request.match_info["task"], request.match_info["name"].strip("/")
        if (task, method) == ("command", "PUT"):
            return await self._command(request, module, name)
        if name == "keys" and method == "GET":
            return data(module.keys(task))
        if task != "command" and method == "GET":
            accept = request.headers.get("Accept", "")
            parameter = module.read(task, name)
            if isinstance(parameter.value, np.ndarray):
                return await asyncio.to_thread(_array, parameter, accept)
            return data(parameter.to_json())
        if (task, method) == ("config", "PUT"):
            return data(await self._put(request, module, name))
        if (task, method) == ("config", "DELETE"):
            module.delete(name)
            return text(200, "")
        raise web.HTTPNotFound

    def _module(self, request: web.Request) -> Subsystem:
        module = self._modules.get(request.match_info["module"])
        if module is None or request.match_info["version"] != self._detector.version:
            raise web.HTTPNotFound
        return module

    async def _put(self, request: web.Request, module: Subsystem, name: str) -> list[str]:
        body = await request.read()
        if "tiff" in request.content_type:
            if not isinstance(module.read("config", name).value, np.ndarray):
                raise KeyError(name)
            return module.put(name, await asyncio.to_thread(lambda: tiff.decode(body).image))
        sent, changed = _parse(body), []
        for key, said in ({name: sent} if name else sent).items():
            value = _value(key, said)
            if isinstance(module.read("config", key).value, np.ndarray):
                value = await asyncio.to_thread(decode_darray, value)
            changed += module.put(key, value)
        return list(dict.fromkeys(changed))

    async def _command(self, request: web.Request, module: Subsystem, name: str) -> web.Response:
        if (command := module.commands.get(name)) is None:
            raise web.HTTPNotFound
        sent, arguments = {}, []
        if (body := await request.read()).strip() not in (b"", b"''", b'""'):
            sent = _parse(body)
        if sent:
            if not module.takes_argument(name):
                return text(404, f'error during request: path error: unknown path: "{name}"')
            arguments = [_value(name, sent)]
        sequence_id = command(*arguments)
        if inspect.isawaitable(sequence_id):
            try:
                task = asyncio.ensure_future(sequence_id)
                sequence_id = await asyncio.wait_for(asyncio.shield(task), self._command_limit())
            except TimeoutError:
                await _hang_up(request)
        return text(200, "") if sequence_id is None else data({"sequence id": sequence_id})

    async def image_list(self, request: web.Request) -> web.Response:
        self._module(request)
        return data(self._detector.monitor.listing())

    async def next_image(self, request: web.Request) -> web.StreamResponse:
        self._module(request)
        given, wait = request.query.get("timeout"), DEFAULT_WAIT
        if not self._detector.faults.take("no_image"):
            try:
                wait = wait if given is None else min(max(float(given) / 1000, 0.0), LONGEST_WAIT)
            except ValueError:
                raise web.HTTPBadRequest from None
            monitor = self._detector.monitor
            take = monitor.next if request.match_info["which"] == "next" else monitor.newest
            if (frame := await take(wait)) is not None:
                return await self._send_frame(request, frame)
        return text(408, "no image within the timeout")

    async def image(self, request: web.Request) -> web.StreamResponse:
        self._module(request)
        wanted = request.match_info
        threshold = wanted["threshold"].removeprefix("/")
        frame = self._detector.monitor.find(
            int(wanted["series"]), int(wanted["image"]), int(threshold) if threshold else None
        )
        if frame is None:
            raise web.HTTPNotFound
        return await self._send_frame(request, frame)

    async def _send_frame(self, request: web.Request, frame: StoredFrame) -> web.StreamResponse:
        kind = "image/tiff" if self._detector.version == "1.8.0" else "application/tiff"
        faults = self._detector.faults
        if fault := faults.take("content_type"):
            kind = fault.get("content_type", "text/html")
            return web.Response(body=b"<html><body>Dectris web interface</body></html>", content_type=kind)
        if fault := faults.take("body"):
            return web.Response(body=fault["body"], content_type=kind)
        n_bytes, stop_at = frame.n_bytes, None
        if fault := faults.take("truncate"):
            n_bytes = min(n_bytes, int(fault.get("keep", n_bytes // 2)))
        if faults.take("cut_body"):
            stop_at = n_bytes // 2
        return await _send(request, {"Content-Type": kind}, frame.pieces, n_bytes, stop_at)

    async def files(self, request: web.Request) -> web.Response:
        self._module(request)
        return data(self._detector.files.names())

    async def file(self, request: web.Request) -> web.StreamResponse:
        name, files, faults = request.match_info["name"], self._detector.files, self._detector.faults
        if name not in files.names():
            raise web.HTTPNotFound
        if request.method == "DELETE":
            files.remove(name)
            return web.Response(status=204)
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD", "DELETE"))
        content = await asyncio.to_thread(files.reader(name))
        getting = request.method == "GET"
        if getting and (fault := faults.take("short_file")):
            content = content[: int(fault.get("keep", len(content) // 2))]
        part, code = _part(request, len(content))
        if code == 206 and faults.take("no_range"):
            part, code = range(len(content)), 200
        headers = {"Accept-Ranges": "bytes", "Content-Type": HDF5}
        if code != 200:
            span = f"{part.start}-{part.stop - 1}" if code == 206 else "*"
            headers["Content-Range"] = f"bytes {span}/{len(content)}"
        if code == 416:
            return web.Response(status=416, headers=headers)
        stop_at = None
        if getting and (fault := faults.take("cut_file")):
            stop_at = min(len(part), int(fault.get("after", len(part) // 2)))
        pieces = (content[part.start : part.stop],)
        return await _send(request, headers, pieces, len(part), stop_at, code=code)


def _array(parameter: Parameter, accept: str) -> web.Response:
    """Return a 2-D array as TIFF where that is asked for, else as a darray in JSON."""
    for kind in ("image/tiff", "application/tiff"):
        if kind in accept:
            return web.Response(body=encode(np.asarray(parameter.value)), content_type=kind)
    return data(replace(parameter, value=encode_darray(parameter.value)).to_json())


def _parse(body: bytes) -> dict[str, Any]:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"malformed JSON: {exc}") from exc
    if not isinstance(sent, dict):
        raise WireError("malformed JSON: expected an object")
    return sent


def _value(name: str, sent: object) -> object:
    if not isinstance(sent, dict) or "value" not in sent:
        raise WireError(f"no value for {name}")
    return sent["value"]


def _part(request: web.Request, size: int) -> tuple[range, int]:
    """Return the bytes that are asked for of a file, and the code of the reply."""
    try:
        wanted = request.http_range
    except ValueError:
        return range(size), 200  # not understood: the whole file
    if wanted.start is None and wanted.stop is None:
        return range(size), 200
    part = range(size)[wanted]
    return part, 206 if part else 416


async def _forever() -> NoReturn:
    """Wait until the client goes away, which cancels the handler."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future that nobody sets")


async def _hang_up(request: web.Request) -> NoReturn:
    """Close the connection without another byte; does not return."""
    if request.transport is not None:  # else it is closed already
        request.transport.abort()
    await _forever()


async def _send(
    request: web.Request,
    headers: dict[str, str],
    pieces: tuple[bytes | memoryview, ...],
    n_bytes: int,
    stop_at: int | None,
    *,
    code: int = 200,
) -> web.StreamResponse:
    """Send `n_bytes` of the pieces without copying them; hang up after `stop_at` bytes, if given."""
    reply = web.StreamResponse(status=code, headers={**headers, "Content-Length": str(n_bytes)})
    await reply.prepare(request)
    if request.method != "HEAD":
        views, left = [], n_bytes if stop_at is None else stop_at
        for piece in pieces:
            views.append(memoryview(piece)[:left])
            left -= len(views[-1])
        await reply.write(views[0][:HEAD])  # with the header
        await _send_directly(request.transport, [views[0][HEAD:], *views[1:]])
    if stop_at is not None:
        await _hang_up(request)
    await reply.write_eof()
    return reply


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
