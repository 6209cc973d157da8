"""Private parts of others that we stand on: a newer version that lacks one is named by its test."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

WRITER = "bluesky_tiled_plugins.writing.tiled_writer"
PARTS = [
    "suitcase.msgpack:_encode",
    *[
        f"{WRITER}:_RunWriter.{name}"
        for name in (
            "_append_with_retry",
            "_close_stream_tree",
            "_internal_dims",
            "_update_data_source_for_node",
            "_write_internal_data",
        )
    ],
    f"{WRITER}:MAX_TABLE_COLUMNS",
    f"{WRITER}:RunNormalizer",
    f"{WRITER}:split_table",
    f"{WRITER}:truncate_json_overflow",
    "bluesky_tiled_plugins.writing.consolidators:Patch.combine_patches",
    "bluesky_tiled_plugins.clients.catalog_of_bluesky_runs:CatalogOfBlueskyRuns.is_sql",
    "bluesky_tiled_plugins.clients.bluesky_run:BlueskyRunV3.documents",
    "tiled.adapters.hdf5:h5open",
    "tiled.catalog.core:REQUIRED_REVISION",
    *[
        f"tiled.catalog.orm:{name}"
        for name in (
            "Asset.data_uri",
            "DataSource.asset_associations",
            "DataSource.properties",
            "DataSourceAssetAssociation.num",
            "Node.data_sources",
            "Structure.structure",
        )
    ],
    "tiled.catalog.utils:compute_structure_id",
    "tiled.server.app:build_app",
    "tiled.server.dependencies:get_root_tree",
    "tiled.server.schemas:PostMetadataRequest",
    "tiled.server.settings:get_settings.cache_clear",
    "tiled.storage:EmbeddedSQLStorage.create_adbc_connection",
    "tiled.utils:OneShotCachedMap.set",
]
ATTRIBUTES = {
    "suitcase.msgpack:Serializer.__init__": ["_buffer", "_kwargs"],
    f"{WRITER}:_RunWriter.__init__": [
        "_desc_nodes",
        "_external_data_cache",
        "_internal_arrays",
        "_internal_data_cache",
        "_internal_tables",
        "data_keys",
        "notes",
        "root_node",
    ],
    "tiled.adapters.array:ArrayAdapter.__init__": ["_array"],
    "tiled.storage:SQLStorage": ["_adbc_connection", "_connection_pool"],
}


def found(part):
    module, _, names = part.partition(":")
    thing = importlib.import_module(module)
    for name in names.split("."):
        thing = getattr(thing, name)
    return thing


@pytest.mark.parametrize("part", PARTS)
def test_part_when_looked_up_then_there(part):
    found(part)


@pytest.mark.parametrize("where", ATTRIBUTES)
def test_attributes_when_looked_up_then_there(where):
    source = inspect.getsource(found(where))
    assert [name for name in ATTRIBUTES[where] if name not in source] == []


@pytest.mark.parametrize("distribution", ["tiled", "bluesky-tiled-plugins"])
def test_distribution_when_required_then_with_an_upper_bound(distribution):
    text = (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert re.search(rf"^ +{distribution}(\[[a-z,]+\])?>=[0-9.]+,<[0-9.]+$", text, re.M)
