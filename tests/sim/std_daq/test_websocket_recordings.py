"""The simulator does what the real websocket generation was recorded to do, and writes the files it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import requests

from sfdaq_ophyd.sim.std_daq.files import ImageFile, MetadataFile, Pictures
from sfdaq_ophyd.sim.std_daq.image_source import Image
from sfdaq_ophyd.sim.std_daq.settings import BLOCK_SIZE

from ...std_daq import simulated_websocket_daq
from ..collected import Collected
from .recording import scenarios
from .websocket_replay import WebsocketReplay, agree, collapsed, kills

OWN = Path(__file__).parents[2] / "data" / "std_daq"


def pytest_generate_tests(metafunc):
    folder = metafunc.config.getoption("--recordings") or OWN
    for argument, found in {
        "control": lambda: scenarios(folder, "control"),
        "config": lambda: scenarios(folder, "config"),
        "dump": lambda: [path for path in sorted(folder.rglob("*.h5dump.txt")) if is_ours(path.read_text())],
    }.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, paths := found(), ids=[path.name for path in paths])


def is_ours(text: str) -> bool:
    return "H5T_COMPOUND" in text and bool(re.match(r'HDF5 ".*(\d|Meta)\.h5"', text))


def read(path: Path) -> tuple[dict, list[dict]]:
    first, *rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return first["meta"], rows


def test_states_when_a_recording_is_replayed_then_they_are_the_recorded_ones(control, wait_for, subtests):
    meta, rows = read(control)
    with WebsocketReplay(meta, rows, wait_for) as replay:
        replay.run(subtests)


def test_replies_when_a_recording_of_the_configuration_is_replayed_then_they_are_the_recorded_ones(
    config, tmp_path, wait_for, subtests
):
    _, rows = read(config)
    with simulated_websocket_daq(servers=(), folders={"/sls/test/vds": str(tmp_path)}) as server:
        stored = [r["reply"] for r in rows if r["request"]["path"].startswith("/api/config/get")]
        server.set_config(stored[0] if stored else server.config)
        for i, row in enumerate(rows):
            with subtests.test(f"{i + 2}: {row['request']['path']}"):
                if row["status_code"] == 404 and "file missing" in str(row.get("note")):
                    server.fail_next("config_missing")
                if "create_interleaved" in row["request"]["path"] and not list(tmp_path.iterdir()):
                    write_files(tmp_path, rows)
                check(server.url, row)


def check(url: str, row: dict) -> None:
    asked = row["request"]
    headers = asked.get("headers") or {}
    reply = requests.request(
        asked["method"],
        url + asked["path"],
        json=asked.get("json"),
        data=asked.get("body"),
        headers=headers,
    )
    assert (reply.status_code, reply.headers["Content-Type"]) == (row["status_code"], row["content_type"])
    if "reply" in row:
        assert reply.json() == row["reply"]
    else:
        assert reply.text == row["reply_text"]


def write_files(folder: Path, rows: list[dict]) -> None:
    """Write files as there must have been for what the rows say of the joined one."""
    shown = next((r["reply"]["datasets"] for r in rows if "datasets" in str(r.get("reply"))), None)
    n, *shape = shown[0]["shape"] if shown else (4, 8, 16)
    n_meta = shown[1]["shape"][0] - n if shown else n
    pictures = Pictures("gf-teststand", tuple(shape), 16)
    writers = [ImageFile(str(folder / f"file{k}.h5"), "gf-teststand", BLOCK_SIZE, pictures) for k in (0, 1)]
    meta = MetadataFile(str(folder / "fileMeta.h5"), "gf-teststand", BLOCK_SIZE)
    for i in range(n):
        writers[i % 2].write(Image(i, i))
    for i in range(n_meta):
        meta.write(Image(i, i))
    for file in (*writers, meta):
        file.close()


def test_file_when_it_has_as_many_images_as_a_recorded_one_then_h5dump_says_the_same(dump, tmp_path):
    text = dump.read_text()
    name = re.match('HDF5 "(.*)"', text)[1]
    (group,) = re.findall(r'GROUP "([^/].*?)"', text)
    rows = [int(n) for n in re.findall(r"SIMPLE { \( (\d+)", text)]
    chunks = [int(n) for n in re.findall(r"CHUNKED \( (\d+)", text)]
    n_images = 1 if rows == chunks and rows[-1] > 1 else rows[-1]
    path = tmp_path / "x.h5"
    if "Meta" in Path(name).name:
        file = MetadataFile(str(path), group, BLOCK_SIZE)
    else:
        bits = int(re.search(r"DATATYPE  H5T_STD_U(\d+)LE", text)[1])
        shape = tuple(map(int, re.search(r"SIMPLE { \( \d+, (\d+), (\d+)", text).groups()))
        file = ImageFile(str(path), group, BLOCK_SIZE, Pictures(group, shape, bits))
    values = recorded_values(dump, n_images)
    for image_id in values:
        file.write(Image(image_id, image_id))
    file.close()
    assert h5dump(path, name) == text
    with h5py.File(path) as file:
        assert file[group]["metadata"]["image_id"][:n_images].tolist() == values
        if "status" in file[group]["metadata"].dtype.names:
            assert (file[group]["metadata"]["status"][:n_images] == 1).all()


FILL_TIME = {h5py.h5d.FILL_TIME_IFSET: "IFSET", h5py.h5d.FILL_TIME_NEVER: "NEVER"}
ALLOC_TIME = {h5py.h5d.ALLOC_TIME_INCR: "INCR", h5py.h5d.ALLOC_TIME_EARLY: "EARLY"}


def h5dump(path, name: str) -> str:
    """Return what ``h5dump -H -p`` says of a file that it calls `name`, for types the DAQ's files have."""
    with h5py.File(path) as file:
        lines = [f'HDF5 "{name}" {{', *_group("/", file, 0), "}"]
    return "\n".join(lines) + "\n"


def _group(name: str, group: h5py.Group, depth: int) -> list[str]:
    inside = []
    for key, node in group.items():
        inside += (_group if isinstance(node, h5py.Group) else _dataset)(key, node, depth + 1)
    return _indented([f'GROUP "{name}" {{', *inside, "}"], depth and 1)


def _dataset(name: str, dataset: h5py.Dataset, depth: int) -> list[str]:
    plan = dataset.id.get_create_plist()
    assert not plan.get_nfilters() and plan.fill_value_defined() == h5py.h5d.FILL_VALUE_DEFAULT
    sizes = ", ".join(map(str, dataset.shape))
    most = ", ".join("H5S_UNLIMITED" if n is None else str(n) for n in dataset.maxshape)
    body = [
        *_type(dataset.dtype),
        f"DATASPACE  SIMPLE {{ ( {sizes} ) / ( {most} ) }}",
        "STORAGE_LAYOUT {",
        f"   CHUNKED ( {', '.join(map(str, dataset.chunks))} )",
        f"   SIZE {dataset.id.get_storage_size()}",
        "}",
        *("FILTERS {", "   NONE", "}"),
        "FILLVALUE {",
        f"   FILL_TIME H5D_FILL_TIME_{FILL_TIME[plan.get_fill_time()]}",
        "   VALUE  H5D_FILL_VALUE_DEFAULT",
        "}",
        *("ALLOCATION_TIME {", f"   H5D_ALLOC_TIME_{ALLOC_TIME[plan.get_alloc_time()]}", "}"),
    ]
    return _indented([f'DATASET "{name}" {{', *_indented(body, 1), "}"], 1)


def _type(dtype: np.dtype) -> list[str]:
    if dtype.names is None:
        return [f"DATATYPE  {_scalar(dtype)}"]
    fields = [f'   {_scalar(dtype[name])} "{name}";' for name in dtype.names]
    return ["DATATYPE  H5T_COMPOUND {", *fields, "}"]


def _scalar(dtype: np.dtype) -> str:
    assert dtype.kind == "u" and dtype.isnative
    return f"H5T_STD_U{8 * dtype.itemsize}LE"


def _indented(lines: list[str], depth: int) -> list[str]:
    return ["   " * depth + line for line in lines]


def recorded_values(dump: Path, n_images: int) -> list[int]:
    """Return the ids of the images, as the file of values beside has them, and on from there."""
    beside = dump.with_name(dump.name.replace(".h5dump.txt", ".json"))
    known = [row[0] for row in json.loads(beside.read_text())["metadata"]] if beside.exists() else []
    return [known[i] if i < len(known) else i for i in range(n_images)]


IDLE = ("idle", None, None, 5)


@pytest.mark.parametrize(
    "ours, same",
    [
        (["idle", "recording", "saving_file", "file_saved"], True),
        (["idle", "creating_file", "recording", "saving_file", "file_saved"], True),
        (["idle", "recording", "file_saved"], True),
        (["idle", "recording", "error"], False),
        (["idle", "saving_file", "file_saved"], False),
        (["idle", "recording", "saving_file"], False),
    ],
)
def test_agree_when_a_short_state_is_missing_or_more_then_it_is_the_same_and_else_not(ours, same):
    recorded = collapsed(
        [{"status": name} for name in ("idle", "idle", "recording", "recording", "saving_file", "file_saved")]
    )
    assert agree(recorded, collapsed([{"status": name} for name in ours]), several=False) == same


@pytest.mark.parametrize("end", ["file_saved", "error"])
def test_agreement_when_another_session_is_told_the_end_then_two_sequences_are_one_all_the_same(end):
    told, not_told = (
        collapsed([{"status": name} for name in names])
        for names in (("recording", end, "idle"), ("recording", "idle"))
    )
    assert agree(told, not_told, several=True) and agree(not_told, told, several=True)
    assert not agree(told, not_told, several=False) and not agree(not_told, told, several=False)


def test_kills_when_a_type_is_wrong_then_the_driver_is_expected_to_die():
    assert all(map(kills, ["[]", "null", "7", '{"command": 7}', "{}"]))
    assert kills('{"command": "start", "path": "/", "n_image": "1"}')
    assert not any(map(kills, ["{", '{"command": "stop"}', '{"command": "start", "path": "/"}']))


def test_replay_when_a_status_differs_then_it_is_told(wait_for):
    meta, rows = read(OWN / "websocket-2025" / "w02_complete.jsonl")
    for row in rows:
        if row.get("recv", {}).get("status") == "file_saved":
            row["recv"] = {"status": "error"}
    rows, report = [row for row in rows if row.get("event") != "closed"], Collected()
    with WebsocketReplay(meta, rows, wait_for) as replay:
        replay.run(report)
    assert [name[:11] for name, _ in report.failed] == ["what client"]
