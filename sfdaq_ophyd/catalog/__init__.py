"""The way to the data: a Tiled catalog of our own, or in a server of the facility."""

from ._catalog import RemoteCatalog, remote_catalog
from ._embedded import EmbeddedCatalog, embedded_catalog
from .pictures import calibrated_images, run_table, scalar_keys, write_pictures

__all__ = [
    "EmbeddedCatalog",
    "RemoteCatalog",
    "calibrated_images",
    "embedded_catalog",
    "remote_catalog",
    "run_table",
    "scalar_keys",
    "write_pictures",
]
