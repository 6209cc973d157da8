"""REST of the websocket generation: its configuration, and helpers for HDF5 files.

As in wire reference std-daq, section 12. Errors are HTTP codes with a ``detail``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator

import h5py
import jsonschema
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, Response

from ..faults import Faults
from .files import Folders, is_below
from .websocket_files import PER_IMAGE_OF_ALL

GROUP = "gf-teststand"
"""The only detector whose files the service can join."""

_STREAM = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["batch", "periodic", "forward"]},
        "config": {"type": "array"},
    },
    "required": ["type"],
    "additionalProperties": False,
}
_KINDS = {
    "string": ("detector_name", "detector_type"),
    "integer": (
        *("n_modules", "bit_depth", "image_pixel_height", "image_pixel_width", "start_udp_port"),
        *("writer_user_id", "max_number_of_forwarders_spawned", "module_sync_queue_size"),
    ),
    "boolean": ("use_all_forwarders",),
    "object": ("module_positions",),
}
SCHEMA = {
    "properties": {
        **{name: {"type": kind} for kind, names in _KINDS.items() for name in names},
        "live_stream_configs": {
            "type": "object",
            "patternProperties": {"^tcp://[0-9.]+:[0-9]+$": _STREAM},
            "additionalProperties": False,
        },
    }
}
"""What the service checks of a configuration; keys that are not here may hold anything."""


def make_app(
    config: Callable[[], dict], set_config: Callable[[dict], None], folders: Folders, faults: Faults
) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    config, set_config : callable
        Return and replace the stored configuration.
    folders : Folders
        Only below those files are looked at, or written.
    faults : Faults
    """
    app = FastAPI(title="Standard DAQ configuration (simulated)")
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    _add_config(app, config, set_config, faults)
    _add_h5(app, folders)
    return app


def _add_config(
    app: FastAPI, config: Callable[[], dict], set_config: Callable[[dict], None], faults: Faults
) -> None:
    def stored() -> dict:
        if faults.take("config_missing"):
            raise HTTPException(404, "Configuration file not found")
        return config()

    @app.get("/api/config/get")
    def get_config(user: str) -> dict:
        return stored()

    @app.post("/api/config/set", response_model=None)
    async def update(request: Request, user: str) -> Response | dict[str, str]:
        try:
            new = await request.json()
            old = stored()
            differs = any(new.get(key) != old.get(key) for key in ("detector_name", "detector_type"))
        except (ValueError, AttributeError, RecursionError):
            return PlainTextResponse("Internal Server Error", 500)
        if differs:
            raise HTTPException(400, "Detector name or detector type cannot be changed.")
        try:
            jsonschema.validate(new, SCHEMA)
        except jsonschema.ValidationError as exc:
            raise HTTPException(400, str(exc)) from None
        set_config(new)
        if faults.take("secondary_down"):
            raise HTTPException(500, "500: Failed to synchronize with the secondary server")
        return {"message": "Configuration updated and synchronized successfully"}


def _add_h5(app: FastAPI, folders: Folders) -> None:
    def local(path: str) -> str:
        here = folders.local(path)
        if os.path.exists(here) and not is_below(here, folders.writable):
            raise FileNotFoundError(2, "No such file or directory", path)
        return here

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            raise HTTPException(500, str(exc)) from exc

    @app.post("/api/h5/create_interleaved_vds")
    async def create(request: Request) -> dict[str, str]:
        with told():
            asked = await request.json()
            folder, name = asked.get("base_path"), asked.get("output_file")
            found = [each for each in os.listdir(local(folder)) if each.startswith("file")] if folder else []
            if not found or not name:
                raise ValueError("Missing required parameters")
            if not is_below(path := os.path.join(local(folder), name), folders.writable):
                raise PermissionError(13, "Permission denied", name)
            interleave(local(folder), path)
        return {"message": "Interleaved virtual dataset created successfully"}

    @app.get("/api/h5/get_metadata_status")
    def status(filename: str) -> dict:
        with told(), h5py.File(local(filename), "r") as file:
            return {"file": filename, "datasets": _datasets(file)}

    @app.get("/api/h5/read_metadata")
    def metadata(filename: str) -> dict:
        with told(), h5py.File(local(filename), "r") as file:
            rows = file["interleaved_metadata"][:]
            return {"metadata": [{key: row[key].item() for key in ("image_id", "status")} for row in rows]}


def _datasets(file: h5py.File) -> list[dict]:
    found: list[dict] = []

    def look(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            about = {
                "name": name,
                "shape": list(node.shape),
                "dtype": str(node.dtype),
                "size": int(node.size),
            }
            found.append({**about, "metadata": json.loads(json.dumps(dict(node.attrs), default=str))})

    file.visititems(look)
    return found


def interleave(folder: str, path: str) -> None:
    """Join all files of a folder as the service does: the last frame of each is not linked, and reads as 0.

    Parameters
    ----------
    folder : str
        With ``fileMeta.h5``, and the files of the writers, all with the same number of frames.
    path : str
        Of the file to make.
    """
    names = sorted(name for name in os.listdir(folder) if name.endswith(".h5"))
    if "fileMeta.h5" not in names:
        raise ValueError("fileMeta.h5 not found in the directory.")
    files = [os.path.join(folder, name) for name in names if name != "fileMeta.h5"]
    meta = os.path.join(folder, "fileMeta.h5")
    with h5py.File(meta, "r") as file:
        n_meta = len(file[GROUP]["metadata"])
    shapes = []
    for each in files:
        with h5py.File(each, "r") as file:
            shapes.append(file[GROUP]["data"].shape)
            dtype = file[GROUP]["data"].dtype
    (n, *shape), total = shapes[0], len(files) * shapes[0][0]
    if len(set(shapes)) > 1:
        raise ValueError(f"files of different shapes: {sorted(set(shapes))}")
    data = h5py.VirtualLayout((total, *shape), dtype)
    metadata = h5py.VirtualLayout((total + n_meta,), PER_IMAGE_OF_ALL)
    for i, each in enumerate(files):
        images = h5py.VirtualSource(each, f"{GROUP}/data", shape=shapes[0])
        ids = h5py.VirtualSource(each, f"{GROUP}/metadata", shape=(n,))
        if n > 1:
            places = slice(i, (n - 1) * len(files), len(files))
            data[places], metadata[places] = images[: n - 1], ids[: n - 1]
    if n_meta:
        metadata[total:] = h5py.VirtualSource(meta, f"{GROUP}/metadata", shape=(n_meta,))
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("interleaved_data", data, fillvalue=dtype.type(0))
        fill = np.zeros(1, PER_IMAGE_OF_ALL)[0]
        file.create_virtual_dataset("interleaved_metadata", metadata, fillvalue=fill)
