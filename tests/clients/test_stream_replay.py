"""Captured streams, sent again through real sockets in the captured order."""

import json
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from sfdaq_ophyd.clients import ImageStream, ModuleStream
from sfdaq_ophyd.errors import WireError
from sfdaq_ophyd.wire.module_header import ModuleHeader

from ..jungfrau_recordings import recordings, records
from .stream_peers import Publisher, collect


def pytest_generate_tests(metafunc):
    names = set(metafunc.fixturenames)
    if "capture" in names:
        folders = [path.parent for path in recordings(metafunc.config, "headers.jsonl")]
        metafunc.parametrize("capture", folders, ids=[folder.name for folder in folders])
    if "case" in names:
        cases = defaultdict(list)
        for path in recordings(metafunc.config, "slsreceiver_messages.jsonl"):
            for record in records(path):
                cases[path, record["case"]].append(record)
        whole = [case for case in cases.values() if any(len(r["parts"]) > 1 for r in case) and len(case) > 1]
        metafunc.parametrize("case", whole, ids=[case[0]["case"][:45] for case in whole])
    if "assembled" in names:
        sockets = defaultdict(list)
        for path in recordings(metafunc.config, "assembled_stream_messages.jsonl"):
            for record in records(path):
                if record["parts"]:
                    sockets[path, record["socket"]].append(record)
        metafunc.parametrize("assembled", list(sockets.values()), ids=[key[1] for key in sockets])


def payloads(folder):
    """Pixel data by CRC-32: what the folder holds of it."""
    known = {}
    for path in folder.glob("frame_n*.npz"):
        data = np.load(path)["data"].astype("<u2").tobytes()
        known[zlib.crc32(data)] = data
    return known


def decoded(text):
    """The header; None if it is not one, e.g. because of a quote in a file name."""
    try:
        return ModuleHeader.decode(text)
    except WireError:
        return None


def expected(messages):
    """What must come out: (numbering, frame number) to {port: header}, in order.

    In a recording a number that is lower or the same again, after an end message, begins a new numbering.
    """
    images, numbering, last, ended = {}, Counter(), {}, set()
    for port, text, _ in messages:
        header = decoded(text)
        if header is None:
            continue
        if not header.data:
            ended.add(port)
            continue
        numbering[port] += port in ended and header.frame_number <= last[port]
        ended.discard(port)
        last[port] = header.frame_number
        images.setdefault((numbering[port], header.frame_number), {})[port] = header
    return dict(sorted(images.items()))


def replay(messages, n_ports):
    """Send (port, text, payload) and return the frames that come out, and the counters."""
    wanted = expected(messages)
    with Publisher(n_ports) as peer, ModuleStream(peer.endpoints, max_age=3) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for port, text, payload in messages:
            peer.send(port, text, *([] if payload is None else [payload]))
        frames = collect(queue, len(wanted))
        counters = dict(stream.counters)
    assert counters["unparsable"] == sum(decoded(text) is None for _, text, _ in messages)
    return wanted, frames, counters


def test_replay_when_captured_with_pixels_then_every_frame_comes_with_its_pixels(capture):
    lines = records(capture / "headers.jsonl")
    known = payloads(capture)
    messages, data_of = [], {}
    for line in lines:
        text = line["header_text"].encode()
        size = line["part_sizes"][1] if len(line["part_sizes"]) > 1 else None
        messages.append((line["stream"], text, size and known.get(line["data_crc32"], bytes(size))))
    n_ports = 1 + max(line["stream"] for line in lines)
    wanted, frames, counters = replay(messages, n_ports)
    assert [frame.frame_number for frame in frames] == [number for _, number in wanted]
    for _, text, data in messages:
        if data is not None and (header := decoded(text)):
            data_of.setdefault((header.frame_number, header.row, header.column), set()).add(data)
    n_checked = 0
    for frame, headers in zip(frames, wanted.values()):
        for header in headers.values():
            (rows, columns), (row, column) = header.shape, (header.row, header.column)
            block = frame.image[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            assert block.tobytes() in data_of[frame.frame_number, row, column]
            n_checked += 1
    assert counters["received"] == n_checked == sum(len(headers) for headers in wanted.values())


COLUMNS = Path(__file__).parents[1] / "data" / "found" / "jungfrau-columns"


@pytest.mark.parametrize(("run", "blocks"), [("quad", (2, 2)), ("side", (1, 2))])
@pytest.mark.parametrize("named", [False, True], ids=["as announced", "of a named detector"])
def test_replay_when_modules_stand_in_columns_then_each_is_in_its_place(run, blocks, named):
    """jungfrau-columns: side by side as the headers say, or in the order of modules for a named detector."""
    down, across = blocks
    name = f"JF99T{down * across:02d}V01" if named else None
    messages, wanted = [], {}
    for line in records(COLUMNS / run / "headers.jsonl"):
        head, pixels = line["header"], None
        if len(line["part_sizes"]) > 1:
            mark = head["frameNumber"] % 100 * 100 + head["row"] * 10 + head["column"]
            pixels = np.full(512 * 1024, mark, "<u2")
            wanted.setdefault(head["frameNumber"], {})[head["row"], head["column"]] = mark
        messages.append((line["stream"], line["header_text"].encode(), pixels))
    n_ports = down * across
    with (
        Publisher(n_ports) as peer,
        ModuleStream(peer.endpoints, detector_name=name, max_age=5) as stream,
    ):
        queue = stream.frames()
        stream.wait_connected(60)
        peer.wait_subscribed()
        for port, text, pixels in messages:
            peer.send(port, text, *([] if pixels is None else [pixels]))
        for number, marks in wanted.items():
            frame = queue.get(60)
            assert frame.frame_number == number and frame.is_good
            assert frame.image.shape == ((512 * n_ports, 1024) if named else (512 * down, 1024 * across))
            for (row, column), mark in marks.items():
                y, x = (down * column + row, 0) if named else (row, column)
                assert (frame.image[512 * y : 512 * (y + 1), 1024 * x : 1024 * (x + 1)] == mark).all()
        assert stream.counters["unparsable"] == 0


def test_replay_when_captured_with_losses_then_each_image_says_what_is_missing(case):
    first_port = min(record["port"] for record in case)
    messages = []
    for record in case:
        payload = bytes(record["parts"][1]) if len(record["parts"]) > 1 else None
        messages.append((record["port"] - first_port, record["header"].encode(), payload))
    n_ports = 1 + max(port for port, _, _ in messages)
    wanted, frames, counters = replay(messages, n_ports)
    assert [frame.frame_number for frame in frames] == [number for _, number in wanted]
    for frame, headers in zip(frames, wanted.values()):
        complete = [port for port in sorted(headers) if headers[port].complete]
        assert frame.is_good == (len(complete) == n_ports)
        assert len(frame.missing) == n_ports - len(headers)
        assert len(frame.incomplete) == len(headers) - len(complete)
        if complete:
            assert frame.pulse_id == headers[complete[0]].pulse_id
            assert frame.daq_rec == headers[complete[0]].daq_rec
    assert counters["complete"] + counters["incomplete"] == len(wanted)
    assert counters["duplicate"] == counters["late"] == 0


def test_replay_when_captured_from_the_assembled_stream_then_images_come_and_placeholders_do_not(
    assembled, wait_for
):
    push = "PUSH" in assembled[0]["socket"]
    with Publisher(push=push) as peer, ImageStream(peer.endpoints[0], pull=push) as stream:
        queue = stream.frames()
        stream.wait_connected(60)
        if not push:
            peer.wait_subscribed()
        for number, record in enumerate(assembled):
            peer.send(0, record["header"].encode(), bytes([number]) * record["parts"][1])
        whole = [record for record in assembled if record["parts"][1] > 8]
        frames = collect(queue, len(whole))
        wait_for(lambda: stream.counters["received"] == len(assembled), "all messages")
        assert stream.counters["placeholder"] == len(assembled) - len(whole)
    for frame, record in zip(frames, whole):
        sent = json.loads(record["header"])
        assert frame.frame_number == sent["frame"]
        assert frame.pulse_id == (sent["pulse_id"] or None)
        assert frame.is_good == bool(sent["is_good_frame"])
        assert frame.image.shape == tuple(sent["shape"])
        assert frame.image.tobytes() == bytes([assembled.index(record)]) * record["parts"][1]
        assert frame.extra["pedestal_file"] == sent["pedestal_file"]
