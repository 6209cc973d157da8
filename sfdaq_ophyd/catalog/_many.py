"""Route of the embedded server: external arrays of one stream, any number by one request.

A run of the broker has two arrays per channel. Tiled takes a request and a transaction for each, and looks up
each file anew for each array; here all of that is done once. What is sent says how each array is now, so that
sending it twice does no harm.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from fastapi import APIRouter, Depends, HTTPException, Security
from sqlalchemy import select
from sqlalchemy.orm import selectinload
from tiled.catalog import orm
from tiled.catalog.utils import compute_structure_id
from tiled.server.authentication import check_scopes
from tiled.server.dependencies import get_root_tree
from tiled.server.schemas import PostMetadataRequest
from tiled.structures.core import StructureFamily

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
