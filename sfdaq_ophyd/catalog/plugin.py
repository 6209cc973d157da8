"""What a facility adds to the configuration of its own Tiled server.

It then reads files that are still being written, and exports runs as JSON sequences: ``run.documents()``
asks for these::

    trees:
      - path: /
        tree: catalog
        args:
          uri: catalog.db
          init_if_not_exists: true
          writable_storage: [data, "duckdb:///tables.duckdb"]
          readable_storage: [/sf/bernina/data]
          adapters_by_mimetype:
            application/x-hdf5: sfdaq_ophyd.catalog.plugin:GrowingHDF5Adapter
    media_types:
      BlueskyRun:
        application/json-seq: sfdaq_ophyd.catalog.plugin:json_seq_exporter

The embedded catalog is a server with this plugin, and with a route of its own: external arrays of one stream,
any number by one request.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import dask.array
import h5py
from bluesky_tiled_plugins.exporters import json_seq_exporter
from fastapi import APIRouter, Depends, HTTPException, Security
from sqlalchemy import select
from sqlalchemy.orm import selectinload
from tiled.adapters.hdf5 import HDF5Adapter, HDF5ArrayAdapter, h5open
from tiled.catalog import orm
from tiled.catalog.utils import compute_structure_id
from tiled.server.authentication import check_scopes
from tiled.server.dependencies import get_root_tree
from tiled.server.schemas import PostMetadataRequest
from tiled.structures.core import StructureFamily
from tiled.utils import BrokenLink, Conflicts, path_from_uri

from ..errors import SfdaqError
from ..files.repair import repair_if_ours

logger = logging.getLogger(__name__)


class GrowingHDF5Adapter(HDF5Adapter):
    """Tiled's HDF5 adapter, for files whose writer is ahead of the documents.

    A detector's file holds (n, y, x) while the catalog shows (points, frames, y, x). Tiled reshapes the whole
    dataset, which fails as long as a file has a frame that is not registered; here such frames are left out,
    of each file of several. A file that its writer still has open is answered by HTTP code 409 and its name,
    and so is a virtual dataset whose files are not all there: HDF5 would read zeros.
    """

    @classmethod
    def from_catalog(cls, data_source, node, /, *args, rows: Sequence[Sequence[int]] | None = None, **kwargs):
        """Return the adapter of one data source.

        Parameters
        ----------
        rows : sequence of (start, stop) or (start, stop, n_files), optional
            Points registered of each file, or of each of `n_files` that follow each other, in the order of
            the assets. In catalogs that have it among the parameters; default is that of the properties,
            which servers without this adapter leave alone.

        Raises
        ------
        Conflicts
            A file, or one that it joins, cannot be opened: its writer has not closed it, or was killed.
        """
        if kwargs.get("swmr"):
            _repair_those_left_open(data_source)
        try:
            paths = [Path(path_from_uri(asset.data_uri)) for asset in data_source.assets]
            dataset = "" if kwargs.get("swmr") else kwargs.get("dataset") or ""
            joins = sum(_check_joined(path, dataset) for path in paths) > 0
            adapter = super().from_catalog(data_source, node, *args, **kwargs)
            if isinstance(adapter, HDF5ArrayAdapter):
                rows = rows or data_source.properties.get("rows")
                if joins and not (kwargs.get("slice") or kwargs.get("squeeze")):
                    adapter._array = dask.array.concatenate([_by_image(path, dataset) for path in paths])  # noqa: SLF001
                adapter._array = _registered(adapter._array, data_source, rows, kwargs)  # noqa: SLF001
        except FileNotFoundError:
            raise
        except (OSError, BrokenLink, KeyError) as exc:  # h5py's KeyError: headers that are being written
            if isinstance(exc, KeyError) and "doesn't exist" in str(exc):
                raise
            newest = path_from_uri(data_source.assets[-1].data_uri)
            raise Conflicts(
                f"{newest} is not readable now: its writer has it open, or did not close it; try again when "
                f"the acquisition is over ({exc})"
            ) from exc
        return adapter


def _repair_those_left_open(data_source) -> None:
    """Let any reader open files whose writer was killed; one that lives holds a lock."""
    for asset in data_source.assets:
        with contextlib.suppress(SfdaqError, OSError):  # swmr=True reads them all the same
            path = path_from_uri(asset.data_uri)
            if repair_if_ours(path):
                logger.warning("%s: its writer was killed; repaired", path)


class _Images:
    """A dataset that is opened for each look."""

    def __init__(self, path: Path, dataset: str):
        self._where = path, dataset
        with h5py.File(path, "r", locking=False) as file:
            self.shape, self.dtype, self.ndim = file[dataset].shape, file[dataset].dtype, file[dataset].ndim

    def __getitem__(self, key):
        path, dataset = self._where
        with h5py.File(path, "r", locking=False) as file:
            return file[dataset][key]


def _by_image(path: Path, dataset: str) -> dask.array.Array:
    """Return a virtual dataset image by image: it has no chunks, and Tiled would read all of it for each."""
    images = _Images(path, dataset)
    chunks = (1, *images.shape[1:]) if images.ndim > 2 else images.shape
    return dask.array.from_array(images, chunks, name=False)


def _check_joined(path: Path, dataset: str) -> bool:
    """See that the files are there which a virtual dataset joins, with the images that it takes of them.

    Returns
    -------
    bool
        Whether it is one.
    """
    if not dataset:
        return False
    with h5py.File(path, "r", locking=False) as file:
        link = file.get(dataset, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            _check_closed(path.parent / link.filename)
            return False
        joined = file.get(dataset)
        sources = joined.virtual_sources() if isinstance(joined, h5py.Dataset) and joined.is_virtual else []
    for source in sources:
        part = path if source.file_name == "." else path.parent / source.file_name
        taken, whole = source.src_space, source.vspace
        if taken.get_select_type() == h5py.h5s.SEL_ALL:
            n_taken = whole.get_select_npoints() // math.prod(whole.shape[1:])
        else:
            n_taken = taken.get_select_bounds()[1][0] + 1
        try:
            with h5py.File(part, "r", locking=False) as file:
                n = file[source.dset_name].shape[0]
        except (OSError, KeyError) as exc:
            raise Conflicts(f"{path} joins {part}, which cannot be read; is it there? ({exc})") from exc
        if n < n_taken:
            raise Conflicts(f"{path} joins {part}, which has {n} images, not the {n_taken} that it takes")
    return bool(sources)


def _check_closed(path: Path) -> None:
    """Raise BlockingIOError if a writer has the file locked; HDF5 in this server is told not to look."""
    with contextlib.suppress(FileNotFoundError, PermissionError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as exc:  # a file system without locks
            logger.debug("%s: %s", path, exc)


def _registered(array: dask.array.Array, data_source, rows, kwargs: dict) -> dask.array.Array:
    """Cut an array, all files of a data source in one, to what is registered of each file."""
    shape = tuple(data_source.structure.shape)
    n_axes = len(shape) - (array.ndim - 1)
    n_frames = math.prod(shape[:n_axes])
    if array.shape[1:] != shape[n_axes:] or array.shape[0] <= n_frames:
        return array
    uris = [asset.data_uri for asset in data_source.assets if asset.parameter == "data_uris"]
    rows = [(start, stop) for start, stop, *n in rows or () for _ in range(*n or (1,))]
    if len(rows) != len(uris):
        return array[:n_frames]
    options = {name: kwargs[name] for name in ("dataset", "swmr", "libver", "locking") if name in kwargs}
    per_row, parts, first = math.prod(shape[1:n_axes]), [], 0
    for uri, (start, stop) in zip(uris, rows):
        parts.append(array[first + start * per_row : first + stop * per_row])
        with h5open(path_from_uri(uri), **options) as stored:
            first += stored.shape[0]
    return dask.array.concatenate(parts)


router = APIRouter()
_SCOPES = Security(check_scopes, scopes=["write:metadata", "create:node", "register"])
_TREE = Depends(get_root_tree)


@router.put("/arrays/{path:path}")
async def put_arrays(path: str, body: list[PostMetadataRequest], tree=_TREE, _=_SCOPES) -> dict:
    """Create the arrays in a stream, and update those that are there; all or none."""
    stream = await tree.lookup_adapter([segment for segment in path.split("/") if segment])
    if stream is None:
        raise HTTPException(404, f"no such stream: {path}")
    for array in body:
        if array.structure_family != StructureFamily.array or len(array.data_sources) != 1 or not array.id:
            raise HTTPException(422, f"{array.id}: no array with one data source")
        if array.data_sources[0].mimetype not in tree.context.adapters_by_mimetype:
            raise HTTPException(415, f"{array.id}: {array.data_sources[0].mimetype} cannot be read here")
    async with tree.context.session() as db:
        new = await _put(db, stream, body)
        await db.commit()
    await _tell(stream, [array for array in body if array.id in new])
    return {"arrays": len(body)}


async def _put(db, stream, body: list[PostMetadataRequest]) -> set[str]:
    assets = await _assets(db, [asset for array in body for asset in array.data_sources[0].assets])
    query = select(orm.Node).where(orm.Node.parent == stream.node.id)
    query = query.where(orm.Node.key.in_([array.id for array in body]))
    query = query.options(selectinload(orm.Node.data_sources).selectinload(orm.DataSource.asset_associations))
    there = {node.key: node for node in (await db.execute(query)).scalars()}
    sources, structures = {}, {}
    for array in body:
        given = array.data_sources[0]
        structure = asdict(given.structure)
        fields = {
            "structure_id": compute_structure_id(structure),
            "parameters": given.parameters,
            "properties": given.properties,
        }
        structures[fields["structure_id"]] = structure
        if array.id in there:
            (source,) = there[array.id].data_sources
            for name, value in fields.items():
                setattr(source, name, value)
            known = {link.asset_id for link in source.asset_associations}
        else:
            source = orm.DataSource(
                structure_family="array", mimetype=given.mimetype, management=given.management, **fields
            )
            known = set()
            node = orm.Node(key=array.id, parent=stream.node.id, metadata_=array.metadata)
            node.structure_family, node.specs = "array", []
            node.data_sources.append(source)
            db.add(node)
        sources[array.id] = source, known
    for key, structure in structures.items():
        row = stream.insert(orm.Structure).values(id=key, structure=structure)
        await db.execute(row.on_conflict_do_nothing(index_elements=["id"]))
    await db.flush()
    for array in body:
        source, known = sources[array.id]
        for asset in array.data_sources[0].assets:
            if (number := assets[asset.data_uri]) not in known:
                link = {"asset_id": number, "data_source_id": source.id}
                db.add(orm.DataSourceAssetAssociation(**link, parameter=asset.parameter, num=asset.num))
    return {array.id for array in body} - set(there)


async def _assets(db, wanted) -> dict[str, int]:
    """Return the number of each file, by its URI."""
    by_uri = {asset.data_uri: asset for asset in wanted}
    query = select(orm.Asset).where(orm.Asset.data_uri.in_(by_uri))
    there = {asset.data_uri: asset for asset in (await db.execute(query)).scalars()}
    for uri in set(by_uri) - set(there):
        there[uri] = orm.Asset(data_uri=uri, is_directory=by_uri[uri].is_directory, size=by_uri[uri].size)
        db.add(there[uri])
    await db.flush()
    return {uri: asset.id for uri, asset in there.items()}


async def _tell(stream, new: list[PostMetadataRequest]) -> None:
    """Tell those who watch the stream of new arrays, as Tiled does."""
    cache = stream.context.streaming_cache
    for array in new if cache else ():
        sequence = await cache.incr_seq(stream.node.id)
        message = {
            "type": "container-child-created",
            "sequence": sequence,
            "timestamp": datetime.now().isoformat(),
            "key": array.id,
            "structure_family": array.structure_family,
            "specs": [],
            "metadata": array.metadata,
            "data_sources": [source.model_dump() for source in array.data_sources],
            "access_tags": [],
        }
        await cache.set(stream.node.id, sequence, message)


__all__ = ["GrowingHDF5Adapter", "json_seq_exporter", "router"]
