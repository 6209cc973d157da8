"""Captured streams, sent again through real sockets in the captured order."""

import json
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from sfdaq_ophyd.clients import ImageStream, ModuleStream
from sfdaq_ophyd.wire.module_header import ModuleHeader

from .stream_peers import Publisher, collect

HERE = Path(__file__).parents[1] / "data" / "jungfrau"


def captures(config):
    root = config.getoption("--recordings") or HERE / "slsreceiver"
    return sorted(path.parent for path in Path(root).rglob("headers.jsonl"))


def pytest_generate_tests(metafunc):
    if "capture" in metafunc.fixturenames:
        folders = captures(metafunc.config)
        metafunc.parametrize("capture", folders, ids=[folder.name for folder in folders])
    if "case" in metafunc.fixturenames:
        cases = defaultdict(list)
        for line in (HERE / "slsreceiver_messages.jsonl").read_text().splitlines():
            record = json.loads(line)
            cases[record["case"]].append(record)
        whole = [records for records in cases.values() if len(records) > 1]
        metafunc.parametrize("case", whole, ids=[records[0]["case"][:45] for records in whole])


def payloads(folder):
    """Pixel data by CRC-32: what the folder holds of it."""
    known = {}
    for path in folder.glob("frame_n*.npz"):
        data = np.load(path)["data"].astype("<u2").tobytes()
        known[zlib.crc32(data)] = data
    return known


def expected(messages):
    """What must come out: frame number to {port: whether complete}, by acquisition."""
    runs, ended = [{}], set()
    for port, header in messages:
        if not header.data:
            ended.add(port)
        else:
            runs[-1].setdefault(header.frame_number, {})[port] = header
    return runs[-1]


def replay(messages, n_ports, pixels):
    """Send (port, text, payload) and return the frames that come out, and the counters."""
    wanted = expected([(port, ModuleHeader.decode(text)) for port, text, _ in messages])
    with Publisher(n_ports) as peer, ModuleStream(peer.endpoints, max_age=3) as stream:
        queue = stream.frames()
        stream.wait_connected(10)
        peer.wait_subscribed()
        for port, text, payload in messages:
            peer.send(port, text, *([] if payload is None else [payload]))
        frames = collect(queue, len(wanted))
        return wanted, frames, dict(stream.counters)


def test_replay_when_captured_with_pixels_then_every_frame_comes_with_its_pixels(capture):
    lines = [json.loads(line) for line in (capture / "headers.jsonl").read_text().splitlines()]
    known = payloads(capture)
    messages = []
    for line in lines:
        text = line["header_text"].encode()
        size = line["part_sizes"][1] if len(line["part_sizes"]) > 1 else None
        data = None if size is None else known.get(line["data_crc32"], bytes(size))
        messages.append((line["stream"], text, data))
    n_ports = 1 + max(line["stream"] for line in lines)
    wanted, frames, counters = replay(messages, n_ports, known)
    assert [frame.frame_number for frame in frames] == sorted(wanted)
    data_of = {
        (ModuleHeader.decode(text).frame_number, ModuleHeader.decode(text).row): data
        for _, text, data in messages
        if data is not None
    }
    n_checked = 0
    for frame in frames:
        rows = frame.image.shape[0] // n_ports
        for row in range(n_ports):
            if (frame.frame_number, row) in data_of:
                block = frame.image[row * rows : (row + 1) * rows]
                assert block.tobytes() == data_of[frame.frame_number, row]
                n_checked += 1
    assert n_checked == len(data_of) and counters["unparsable"] == 0
    assert counters["received"] == len(data_of)


def test_replay_when_captured_with_losses_then_each_image_says_what_is_missing(case):
    first_port = min(record["port"] for record in case)
    messages = []
    for record in case:
        payload = bytes(record["parts"][1]) if len(record["parts"]) > 1 else None
        messages.append((record["port"] - first_port, record["header"].encode(), payload))
    n_ports = 1 + max(port for port, _, _ in messages)
    wanted, frames, counters = replay(messages, n_ports, {})
    assert [frame.frame_number for frame in frames] == sorted(wanted)
    for frame in frames:
        headers = wanted[frame.frame_number]
        complete = [port for port in sorted(headers) if headers[port].complete]
        assert frame.is_good == (len(complete) == n_ports)
        assert len(frame.missing) == n_ports - len(headers)
        assert len(frame.incomplete) == len(headers) - len(complete)
        if complete:
            assert frame.pulse_id == headers[complete[0]].pulse_id
            assert frame.daq_rec == headers[complete[0]].daq_rec
    assert counters["complete"] + counters["incomplete"] == len(wanted)
    assert counters["unparsable"] == counters["duplicate"] == counters["late"] == 0


@pytest.mark.parametrize("socket", ["streamvis PUB", "live PUSH"])
def test_replay_when_captured_from_the_assembled_stream_then_images_come_and_placeholders_do_not(
    socket, wait_for
):
    lines = (HERE / "assembled_stream_messages.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["socket"] == socket]
    push = socket == "live PUSH"
    with Publisher(push=push) as peer, ImageStream(peer.endpoints[0], pull=push) as stream:
        queue = stream.frames()
        stream.wait_connected(10)
        if not push:
            peer.wait_subscribed()
        for number, record in enumerate(records):
            peer.send(0, record["header"].encode(), bytes([number]) * record["parts"][1])
        whole = [record for record in records if record["parts"][1] > 8]
        frames = collect(queue, len(whole))
        wait_for(lambda: stream.counters["received"] == len(records), "all messages")
        assert stream.counters["placeholder"] == len(records) - len(whole)
    for frame, record in zip(frames, whole):
        sent = json.loads(record["header"])
        assert frame.frame_number == sent["frame"]
        assert frame.pulse_id == (sent["pulse_id"] or None)
        assert frame.is_good == bool(sent["is_good_frame"])
        assert frame.image.shape == tuple(sent["shape"])
        assert frame.image.tobytes() == bytes([records.index(record)]) * record["parts"][1]
        assert frame.extra["pedestal_file"] == sent["pedestal_file"]
