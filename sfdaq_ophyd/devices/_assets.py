"""StreamResource and StreamDatum of one file, by the portable recipe both TiledWriters read alike.

A datum is emitted only for data that is on disk, and the indices of a file have no gap: an event that the
RunEngine dropped gives its index to the next one. Whether an event was saved is read off the documents
themselves: the RunEngine writes the descriptor's uid into a stream_datum when, and only when, it emits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from event_model import StreamRange
from event_model import compose_stream_resource as compose

from ..files.frame_file import IDS_PER_CHUNK

HDF5 = "application/x-hdf5"
_NOTHING: Mapping[str, dict] = {}


def frames_in_hdf5(dataset: str, shape: tuple[int, int], frames_per_point: int) -> dict:
    """Return the parameters of a StreamResource for a dataset (n, y, x) with one frame per chunk."""
    return {
        "dataset": dataset,
        "chunk_shape": (1, frames_per_point, *shape),
        "join_method": "stack",
        "swmr": True,
    }


def column_in_hdf5(dataset: str, chunk: int = IDS_PER_CHUNK) -> dict:
    """Return the parameters of a StreamResource for a dataset (n,) with one number or id per frame."""
    return {"dataset": dataset, "chunk_shape": (chunk,), "join_method": "stack", "swmr": True}


class FileAssets:
    """Documents of one file.

    Parameters
    ----------
    path : str or Path
        Absolute.
    keys : Mapping[str, dict]
        Data key to the parameters of its StreamResource.
    mimetype : str
        Of the file.
    """

    def __init__(self, path: str | Path, keys: Mapping[str, dict], mimetype: str = HDF5):
        self._uri = "file://localhost" + Path(path).absolute().as_posix()
        self._keys, self._mimetype = dict(keys), mimetype
        self._bundles: dict[str, tuple] = {}
        self._handed: list[dict] = []

    def documents(
        self, start: int, stop: int, more: Mapping[str, dict] = _NOTHING
    ) -> Iterator[tuple[str, dict]]:
        """Yield what registers the points `start` to `stop` (exclusive) for all data keys, `more` too."""
        self._handed = []
        for key, parameters in {**self._keys, **more}.items():
            if key not in self._bundles or not self._bundles[key][0].get("run_start"):
                bundle = compose(mimetype=self._mimetype, uri=self._uri, data_key=key, parameters=parameters)
                self._bundles[key] = (bundle.stream_resource_doc, bundle.compose_stream_datum)
                yield "stream_resource", bundle.stream_resource_doc
        for _, compose_datum in self._bundles.values():
            datum = compose_datum(indices=StreamRange(start=start, stop=stop))
            self._handed.append(datum)
            yield "stream_datum", datum

    @property
    def saved(self) -> bool:
        """Whether the RunEngine emitted the datums handed out last."""
        return bool(self._handed) and all(datum["descriptor"] for datum in self._handed)
