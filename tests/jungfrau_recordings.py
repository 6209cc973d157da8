"""Recorded Jungfrau data: those of ``--recordings``, or ours."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent / "data" / "jungfrau"


def recordings(config, name):
    """Files of that name in the recordings given, or in ours where they have none, or without a `config`."""
    given = None if config is None else config.getoption("--recordings")
    found = [] if given is None else sorted(Path(given).rglob(name))
    return found or sorted(HERE.rglob(name))


def records(path):
    """Lines of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def module_headers(config):
    """Text of every module header that was recorded, as it came."""
    for name in ("slsreceiver_messages.jsonl", "headers.jsonl"):
        for path in recordings(config, name):
            for record in records(path):
                yield record.get("header_text") or record["header"]


def assembled_messages(config):
    """Every message of the assembled stream that was recorded."""
    for path in recordings(config, "assembled_stream_messages.jsonl"):
        yield from records(path)


def golden_folder(config):
    """The folder with calibration inputs and results: the one given, or ours."""
    given = config.getoption("--recordings")
    there = given is not None and (Path(given) / "calibration_input.npz").exists()
    return Path(given) if there else HERE / "calibration"
