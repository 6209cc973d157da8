"""Which acquisitions share a stream of the run."""

from __future__ import annotations

from sfdaq_ophyd.devices.broker._data_streams import data_streams
from sfdaq_ophyd.devices.broker._run import TableRow


class Table:
    def __init__(self, rows):
        self._rows = rows

    def rows(self):
        return self._rows


def found(key, shape, path):
    return {
        "key": key,
        "source": "BSDATA" if key == "CH" else key,
        "n_asked": 2,
        "n_got": 2,
        "filtered": False,
        "shape": shape,
        "dtype": "<f4",
        "dataset": "data",
        "ids": "pulse_id",
        "ids_shape": [1],
        "ids_dtype": "<u8",
        "path": path,
    }


def row(index, *data):
    numbers = {"acquisition_number": index + 1, "start_pulse_id": 10 * index, "stop_pulse_id": 10 * index + 1}
    state = {"registered": False, "read": True, "state": "complete", "files": ["a.h5", "b.h5"]}
    asked = {"asked": {"ids": [1, 2]}, "names": {"BSDATA": ["CH"]}}
    return TableRow(index=index, found=list(data), **numbers, **state, **asked)


def test_data_streams_when_files_were_checked_in_different_order_then_one_stream_with_each_in_its_place():
    first = row(0, found("JF", [4, 4], "/jf0.h5"), found("CH", [], "/ch0.h5"))
    second = row(1, found("CH", [], "/ch1.h5"), found("JF", [4, 4], "/jf1.h5"))
    ((stream, flyer),) = data_streams("sfdaq", Table([first, second]))
    assert stream == "sfdaq_data"
    uris = {}
    for _ in range(flyer.n_batches):
        for name, doc in flyer.collect_asset_docs():
            if name == "stream_resource":
                uris.setdefault(doc["data_key"], []).append(doc["uri"].rpartition("/")[2])
    assert uris["sfdaq_JF"] == ["jf0.h5", "jf1.h5"] and uris["sfdaq_CH"] == ["ch0.h5", "ch1.h5"]


def test_data_streams_when_a_shape_changes_then_it_has_a_stream_of_its_own():
    rows = [row(0, found("JF", [4, 4], "/jf0.h5")), row(1, found("JF", [2, 2], "/jf1.h5"))]
    assert [name for name, _ in data_streams("sfdaq", Table(rows))] == ["sfdaq_data", "sfdaq_data_2"]
