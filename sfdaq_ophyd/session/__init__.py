"""A whole session from one file: what ``profile_collection`` and ``sfdaq doctor`` stand on."""

from .config import SfdaqConfig
from .config_file import load_config
from .metadata import FileStore, PersistentMetadata, RedisStore, next_scan_id
from .startup import Session, config_path, open_session

__all__ = [
    "FileStore",
    "PersistentMetadata",
    "RedisStore",
    "Session",
    "SfdaqConfig",
    "config_path",
    "load_config",
    "next_scan_id",
    "open_session",
]
