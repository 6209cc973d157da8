"""Runs of many external arrays: requests grow with files, not with arrays."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from tiled.structures.array import ArrayStructure, BuiltinDtype

from sfdaq_ophyd.catalog import _writer

from .composed import Composed, frames_of, image_key, scalar, write_frames

Y, X = 2, 3
N_POINTS = 3


@pytest.fixture
def requests(catalog):
    """Count requests to the server, by method and kind."""
    counted, hooked = Counter(), []

    def count(request):
        counted[request.method, request.url.path.split("/")[3 if "/api/" in request.url.path else 2]] += 1

    for client in {id(one): one for one in (catalog._client, catalog._write_client)}.values():
        hooked.append(client.context.http_client.event_hooks["request"])
        hooked[-1].append(count)
    yield counted
    for hooks in hooked:
        hooks.remove(count)


def run_of(catalog, folder, n_keys):
    """A run with a file per point for each half of its keys; returns uid, and the frames of both halves."""
    folder.mkdir()
    keys = [f"key{i}" for i in range(n_keys)]
    halves = [frames_of(seed, N_POINTS, Y, X) for seed in (1, 2)]
    run = Composed(catalog)
    stream = run.stream("primary", {key: image_key(Y, X) for key in keys} | {"x": scalar("number")})
    for point in range(N_POINTS):
        paths = [
            write_frames(folder / f"{half}_{point}.h5", frames[point : point + 1])
            for half, frames in enumerate(halves)
        ]
        for i, key in enumerate(keys):
            stream.datum(run.frames(key, paths[i % 2], y=Y, x=X), point, point + 1)
        stream.event(x=float(point))
        if point == 0:
            catalog.flush()  # the rest is added to what is there
    run.stop()
    catalog.flush()
    return run.uid, halves


def test_arrays_when_they_are_many_then_requests_are_fewer(catalog, tmp_path, requests):
    counts = []
    for n_keys in (20, 40):
        requests.clear()
        uid, halves = run_of(catalog, tmp_path / str(n_keys), n_keys)
        counts.append(sum(n for (method, _), n in requests.items() if method != "GET"))
        assert requests["PUT", "arrays"] and not requests["POST", "register"]
    stream = catalog[uid]["primary"]
    for i in (0, 1, 38, 39):
        np.testing.assert_array_equal(stream[f"key{i}"].read(), halves[i % 2])
    assert max(counts) < 20  # how many depends on when the writer's thread looks


def test_array_when_one_of_many_is_read_then_nothing_else_is_opened(catalog, tmp_path, requests):
    uid, halves = run_of(catalog, tmp_path / "run", 20)
    for other in (tmp_path / "run").glob("1_*.h5"):
        other.unlink()
    array = catalog[uid]["primary"]["key4"]
    requests.clear()
    np.testing.assert_array_equal(array.read(), halves[0])
    assert requests == {("GET", "array"): 1}


def test_arrays_when_a_server_has_no_such_route_then_one_request_each(
    catalog, tmp_path, requests, monkeypatch
):
    monkeypatch.setattr(_writer, "ROUTE", "/custom/none")
    uid, halves = run_of(catalog, tmp_path / "run", _writer.MANY)
    assert requests["POST", "register"] == _writer.MANY and requests["PUT", "none"] == 1
    np.testing.assert_array_equal(catalog[uid]["primary"]["key3"].read(), halves[1])


def test_array_when_registered_with_many_then_goes_on_while_others_stay(catalog, tmp_path):
    frames = frames_of(3, 4, Y, X)
    path = write_frames(tmp_path / "f.h5", frames)
    run = Composed(catalog)
    stream = run.stream("primary", {f"key{i}": image_key(Y, X) for i in range(_writer.MANY)})
    sources = [run.frames(f"key{i}", path, y=Y, x=X) for i in range(_writer.MANY)]
    for source in sources:
        stream.datum(source, 0, 2)
    catalog.flush()
    stream.datum(sources[5], 2, 4)
    run.stop()
    np.testing.assert_array_equal(catalog[run.uid]["primary"]["key5"].read(), frames)
    np.testing.assert_array_equal(catalog[run.uid]["primary"]["key6"].read(), frames[:2])


@pytest.mark.parametrize("n_keys", [2, 20])
def test_files_when_each_point_has_one_then_the_server_is_told_once_of_each(catalog, tmp_path, n_keys):
    """It looks up each file that it is told of: with all files so far, a point would cost ever more."""
    told = Counter()

    def look(request):
        if request.method in ("POST", "PUT"):
            told.update(re.findall(r'"data_uri":\s*"([^"]+)"', request.content.decode()))

    hooks = catalog._write_client.context.http_client.event_hooks["request"]
    hooks.append(look)
    try:
        uid, halves = run_of(catalog, tmp_path / "run", n_keys)
    finally:
        hooks.remove(look)
    assert len(told) == 2 * N_POINTS and set(told.values()) == {n_keys // 2}
    for i in (0, 1):
        np.testing.assert_array_equal(catalog[uid]["primary"][f"key{i}"].read(), halves[i])


def test_request_when_many_points_have_gone_before_then_no_longer_than_at_first(catalog, tmp_path):
    """The server reads, stores and keeps all of it with each point: lists by point cost ever more."""
    n_points = 201
    frames = frames_of(4, n_points, Y, X)
    path = write_frames(tmp_path / "all.h5", frames)
    run = Composed(catalog)
    stream = run.stream("primary", {"each": image_key(Y, X), "all": image_key(Y, X)})
    one_file = run.frames("all", path, y=Y, x=X)
    sizes = []

    def file_of(point):  # registered alone, hence never opened
        return run.frames("each", tmp_path / f"{point:03d}.h5", y=Y, x=X)

    def point(number):
        sizes.clear()
        stream.datum(file_of(number), 0, 1, number + 1)
        stream.datum(one_file, number, number + 1)
        catalog.flush()
        return max(sizes)

    def look(request):
        sizes.append(len(request.content))

    hooks = catalog._write_client.context.http_client.event_hooks["request"]
    hooks.append(look)
    try:
        point(0)
        first = point(1)
        for number in range(2, n_points - 1):
            stream.datum(file_of(number), 0, 1, number + 1)
        stream.datum(one_file, 2, n_points - 1)
        catalog.flush()
        last = point(n_points - 1)
    finally:
        hooks.remove(look)
    assert last < 1.5 * first  # with a number for each point it was four times as long
    run.stop()
    array = catalog[run.uid]["primary"]["all"]
    np.testing.assert_array_equal(array.read(), frames)
    np.testing.assert_array_equal(array[7], frames[7])
    assert len(array.chunks[0]) < _writer.MOST_CHUNKS
    np.testing.assert_array_equal(array.read_block((1, 0, 0)), frames[4:8])


@pytest.mark.parametrize(
    ("shape", "n_bytes", "wanted"),
    [
        ((0, 2), 4, (0,)),
        ((63, 2), 4, (1,) * 63),
        ((64, 2), 4, (2,) * 32),
        ((201, 2), 4, (4,) * 50 + (1,)),
        ((100, 2**20), 32, (2,) * 50),
        ((100, 2**20), 128, (1,) * 100),
    ],
)
def test_chunks_when_points_are_many_then_joined_up_to_a_size(shape, n_bytes, wanted):
    kind = BuiltinDtype.from_numpy_dtype(np.dtype(f"V{n_bytes}"))
    chunks = ((1,) * shape[0] or (0,), (shape[1],))
    structure = ArrayStructure(data_type=kind, shape=shape, chunks=chunks)
    assert _writer.joined(structure).chunks == (wanted, (shape[1],))
