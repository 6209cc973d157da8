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

The embedded catalog is a server with this plugin.
"""

from bluesky_tiled_plugins.exporters import json_seq_exporter

from ._growing import GrowingHDF5Adapter

__all__ = ["GrowingHDF5Adapter", "json_seq_exporter"]
