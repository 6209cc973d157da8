"""The SIMPLON REST interface over aiohttp: it translates between HTTP and the model, nothing more.

As in wire reference eiger, sections 1 to 5. aiohttp sends a header and a short body in one write, which
ADEiger's JSON reader needs.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import numpy as np
from aiohttp import web

from ...errors import DetectorStateError, RequestError, WireError
from ...wire.simplon import encode_darray
from ...wire.tiff_write import encode
from ..http import STATUS, BoundedLog, refusal
from . import bodies, subsystems
from .dcu import DetectorControlUnit

JSON = "application/json; charset=utf-8"

VERSION_REQUESTS = ("both", "slash", "none")
"""How servers know the version request: with and without a slash at its end, only with it, or not at all."""

LOG_BODY = 4096
"""Bytes that are remembered of a request's body."""


@dataclass(frozen=True)
class Request:
    """One request the server has answered; of a long body its beginning."""

    method: str
    path: str
    body: bytes
    code: int


def make_app(
    dcu: DetectorControlUnit, log: BoundedLog[Request], version_request: str = "both"
) -> web.Application:
    """Return the web application of one detector; `version_request` is one of `VERSION_REQUESTS`."""

    @web.middleware
    async def around(request: web.Request, handler):
        if (why := refusal(request.method, request.headers)) is not None:
            return text(STATUS, why)
        try:
            body = await request.read()
            reply = await _misbehave(dcu, request) or await _answer(handler, request)
        except asyncio.CancelledError:
            log.append(Request(request.method, request.path_qs, b"", 0))
            raise
        log.append(Request(request.method, request.path_qs, body[:LOG_BODY], reply.status))
        return reply

    app = web.Application(middlewares=[around], client_max_size=2**20 + 8 * dcu.n_pixels)
    server = _Server(dcu, version_request)
    app.router.add_route("*", "/data/{name:.*}", server.file)
    app.router.add_get("/{module}/api/version{slash:/?}", server.version)
    app.router.add_get("/monitor/api/{version}/images{rest:.*}", server.images)
    app.router.add_get("/filewriter/api/{version}/files{slash:/?}", server.files)
    app.router.add_route("*", "/{module}/api/{version}/{task}", server.parameter)
    app.router.add_route("*", "/{module}/api/{version}/{task}/{name:.*}", server.parameter)
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


async def _misbehave(dcu: DetectorControlUnit, request: web.Request) -> web.StreamResponse | None:
    path = request.path
    if (fault := dcu.faults.take("delay", path=path)) is not None:
        await asyncio.sleep(fault.get("seconds", 1.0))
    if dcu.faults.take("hang", path=path) is not None:
        await bodies.forever()
    if dcu.faults.take("restart", path=path) is not None:
        dcu.restart()
    if dcu.faults.take("cut", path=path) is not None:
        await bodies.hang_up(request)
    if (fault := dcu.faults.take("error", path=path)) is not None:
        return text(fault.get("code", 500), fault.get("text", "internal failure"))
    return None


def text(code: int, words: str) -> web.Response:
    """Return a plain reply."""
    return web.Response(status=code, text=words)


def data(value) -> web.Response:
    """Return a JSON reply."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return web.Response(body=body, headers={"Content-Type": JSON})


class _Server:
    def __init__(self, dcu: DetectorControlUnit, version_request: str):
        self._dcu, self._version_request = dcu, version_request

    async def version(self, request: web.Request) -> web.Response:
        if request.match_info["module"] not in self._dcu.modules or self._version_request == "none":
            raise web.HTTPNotFound
        if self._version_request == "slash" and not request.match_info["slash"]:
            return web.Response(status=307, headers={"Location": f"{request.path}/"})
        return data({"value": self._dcu.version, "value_type": "string"})

    async def files(self, request: web.Request) -> web.Response:
        self._module(request, "filewriter")
        return data(self._dcu.files.names())

    async def file(self, request: web.Request) -> web.StreamResponse:
        return await bodies.answer_file(self._dcu, request)

    async def images(self, request: web.Request) -> web.StreamResponse:
        self._module(request, "monitor")
        return await bodies.answer_images(self._dcu, request)

    async def parameter(self, request: web.Request) -> web.Response:
        module = self._module(request, request.match_info["module"])
        task, name = request.match_info["task"], request.match_info.get("name", "").strip("/")
        method, body = request.method, await request.read()
        if task == "command" and method == "PUT":
            return await self._command(request, module, name, body)
        if name == "keys" and method == "GET" and task in ("config", "status", "command"):
            return data(module.keys(task))
        if task == "config" and method == "GET" and (array := module.array(name)) is not None:
            return await _in_thread(_array, array, request.headers.get("Accept", ""))
        if task in ("config", "status") and method == "GET":
            return data(await _in_thread(module.get, task, name))
        if task == "config" and method == "PUT":
            if "tiff" in request.content_type:
                return data(await _in_thread(module.put_array, name, body))
            return data(await self._put(module, name, body))
        if task == "config" and method == "DELETE":
            module.delete(name)
            return text(200, "")
        raise web.HTTPNotFound

    def _module(self, request: web.Request, name: str) -> subsystems.Subsystem:
        module = self._dcu.modules.get(name)
        if module is None or request.match_info["version"] != self._dcu.version:
            raise web.HTTPNotFound
        return module

    async def _put(self, module: subsystems.Subsystem, name: str, body: bytes) -> list[str]:
        sent = _parse(body)
        if name:
            return await _in_thread(module.put, name, _value(name, sent))
        changed = [entry for key in sent for entry in module.put(key, _value(key, sent[key]))]
        return list(dict.fromkeys(changed))

    async def _command(self, request, module: subsystems.Subsystem, name: str, body: bytes) -> web.Response:
        known = module.commands
        if name not in known:
            raise web.HTTPNotFound
        argument = None
        if body.strip() not in (b"", b"''", b'""'):
            sent = _parse(body)
            if sent and not module.takes_argument(name):
                return text(404, f'error during request: path error: unknown path: "{name}"')
            argument = _value(name, sent) if sent else None
        task = asyncio.ensure_future(known[name](argument))
        try:
            sequence_id = await asyncio.wait_for(asyncio.shield(task), self._dcu.command_limit)
        except TimeoutError:
            await bodies.hang_up(request)
        return text(200, "") if sequence_id is None else data({"sequence id": sequence_id})


def _array(array: np.ndarray, accept: str) -> web.Response:
    """Return a 2-D array as TIFF where that is asked for, else as a darray in JSON."""
    for kind in ("image/tiff", "application/tiff"):
        if kind in accept:
            return web.Response(body=encode(np.asarray(array)), content_type=kind)
    value_type = "float[][]" if array.dtype.kind == "f" else "uint[][]"
    return data({"access_mode": "rw", "value": encode_darray(array), "value_type": value_type})


async def _in_thread(function, *arguments):
    """Run what may take seconds on a 16M (arrays) beside the event loop; answer the rest at once."""
    if any("mask" in a or "flatfield" in a for a in arguments if isinstance(a, str)) or function is _array:
        return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    return function(*arguments)


def _parse(body: bytes) -> dict:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"malformed JSON: {exc}") from exc
    if not isinstance(sent, dict):
        raise WireError("malformed JSON: expected an object")
    return sent


def _value(name: str, sent) -> object:
    if not isinstance(sent, dict) or "value" not in sent:
        raise WireError(f"no value for {name}")
    return sent["value"]
