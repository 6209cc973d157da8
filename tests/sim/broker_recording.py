"""Recordings of the broker: read, normalise, compare. Format: tests/data/broker/README.md."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from sfdaq_ophyd.wire.broker import DIALECTS

VOLATILE = ("request_time", "general/created", "correlation_id", "timestamp", "elapsed_s")
STAMPS = (
    re.compile(r"\d{8}_\d{6}"),
    re.compile(r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d"),
    re.compile(r"\d\d-[A-Z][a-z]{2}-\d{4}_\d\d:\d\d:\d\d"),
)
OWN_WORDS = ("ValidationError", "HTTPError", "AMQPConnectionError")
BY_WRITERS = re.compile(
    r"\.(log|h5|err|dap|lst)$|/(raw_data|gainMaps|pixel_mask)/|/sf/jungfrau/|/buffer/config/"
)


def load(path: Path) -> tuple[dict, list[dict]]:
    """Return the first line and all others."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return lines[0], lines[1:]


def recordings_in(folder: Path) -> list[Path]:
    """Return the broker's recordings in a folder and below; what is none is passed over."""
    return [path for path in sorted(folder.rglob("*.jsonl")) if _is_recording(path)]


def _is_recording(path: Path) -> bool:
    with path.open() as file:
        line = file.readline()
    try:
        first = json.loads(line)
    except ValueError:
        return False
    return isinstance(first, dict) and "setup" in first and first.get("dialect") in DIALECTS


def expanded(value):
    """Replace the recordings' shorthands by what they stand for."""
    if isinstance(value, dict):
        if set(value) == {"__range__"}:
            return list(range(*value["__range__"]))
        if set(value) == {"__repeat__"}:
            text, n = value["__repeat__"]
            return text * n
        return {key: expanded(item) for key, item in value.items()}
    return [expanded(item) for item in value] if isinstance(value, list) else value


def stamped(text: str) -> str:
    for pattern in STAMPS:
        text = pattern.sub("<stamp>", text)
    return text


def normal(value):
    """Return a value without its volatile parts."""
    if isinstance(value, dict):
        value = {key: "<volatile>" if key in VOLATILE else normal(item) for key, item in value.items()}
        if value.get("directory_name") == "JF_pedestals" and "start_pulseid" in value:
            value["stop_pulseid"] -= value["start_pulseid"]  # the pulses themselves are the clock's
            value["start_pulseid"] = 0
        return value
    if isinstance(value, list):
        return [normal(item) for item in value]
    return stamped(value) if isinstance(value, str) else value


def reply_of(code: int, headers: dict, body: bytes):
    """Return a reply as the recordings hold it; None for an empty one, as of HEAD."""
    if not body:
        return None
    if "json" in headers.get("Content-Type", ""):
        return json.loads(body)
    page = body.decode()
    title, pre = (re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S) for tag in ("title", "pre"))
    return {"__html__": True, "title": title and title[1], "pre": pre and pre[1]}


def comparable(reply):
    """Return a reply without what may differ: see the README; None for an empty one."""
    if not reply or reply == {"__html__": True, "title": None, "pre": None}:
        return None
    reply = normal(reply)
    if not isinstance(reply, dict):
        return reply
    if reply.get("state") == "error" or reply.get("exception") not in (None, *OWN_WORDS):
        return {key: value for key, value in reply.items() if key not in ("message", "status")}
    if isinstance(reply.get("message"), str):
        text = re.sub(r"\(due to: (\w+): .*\)", r"(due to: \1)", reply["message"])
        listing = re.search(r"\[('.*')\]", text)
        if listing:
            text = text.replace(listing[1], ", ".join(sorted(listing[1].split(", "))))
        reply["message"] = text
    return reply


class Snapshot:
    """Directories and files of a tree, by their paths on the server."""

    def __init__(self, tree):
        self.dirs, self.files = set(), {}
        for path in tree.directory.rglob("*"):
            name = tree.remote(path)
            if path.is_dir():
                self.dirs.add(name + "/")
            elif path.suffix == ".h5":
                self.files[name] = path.stat().st_size
            elif path.name != "LATEST":
                self.files[name] = path.read_bytes()

    def changes_since(self, before: Snapshot) -> dict:
        """Return effects as the recordings hold them."""
        common = self.files.keys() & before.files.keys()
        return {
            "dirs_created": sorted(self.dirs - before.dirs),
            "files_created": {name: self.files[name] for name in self.files.keys() - before.files.keys()},
            "files_changed": {n: self.files[n] for n in common if self.files[n] != before.files[n]},
            "removed": sorted((before.files.keys() | before.dirs) - (self.files.keys() | self.dirs)),
        }


def content(recorded: dict, actual) -> tuple:
    """Return recorded and actual content of a file, comparable."""
    if "json" in recorded:
        return normal(recorded["json"]), normal(json.loads(actual))
    if "text" in recorded:
        return normal(recorded["text"]), normal(actual.decode())
    return None, None


def compare_effects(recorded: dict, actual: dict, *, writers: bool) -> None:
    """Assert that the same directories and files came, changed and went; what writers make is left out."""

    def ours(name: str) -> bool:
        return not (writers and BY_WRITERS.search(name))

    recorded = {key: value for key, value in recorded.items() if value is not None}
    assert sorted(stamped(n) for n in recorded.get("dirs_created", ()) if ours(n)) == sorted(
        stamped(n) for n in actual["dirs_created"] if ours(n)
    )
    assert sorted(recorded.get("removed", ())) == actual["removed"]
    for key in ("files_created", "files_changed"):
        wanted = {stamped(n): c for n, c in recorded.get(key, {}).items() if ours(n)}
        got = {stamped(n): c for n, c in actual[key].items() if ours(n)}
        assert sorted(wanted) == sorted(got), key
        for name, recorded_content in wanted.items():
            expected, found = content(recorded_content, got[name])
            assert expected == found, name


def requests_of(messages: list[dict]) -> list[dict]:
    """Return published messages as the recordings of single calls hold them."""
    statuses = {m["correlation_id"]: m for m in messages if m["exchange"] == "status"}
    return [
        {
            "routing_key": message["routing_key"],
            "body": message["body"],
            "status_headers": statuses[message["correlation_id"]]["headers"],
            "status_routing_key": statuses[message["correlation_id"]]["routing_key"],
        }
        for message in messages
        if message["exchange"] == "request"
    ]


def of_writers_in(recorded: list[dict], messages: list[dict]) -> list[dict]:
    """Return messages without those of writers that did not run when the recording was made."""
    answered = {_output(message) for message in recorded if _says_a_writer(message)}
    return [m for m in messages if not _says_a_writer(m) or _output(m) in answered]


def _says_a_writer(message: dict) -> bool:
    return message["exchange"] == "status" and message["headers"]["action"] != "write_request"


def _output(message: dict) -> str:
    return stamped(message["body"].get("output_file") or "")


def kinds(messages: list[dict]) -> Counter:
    """Count messages by exchange, key, action and file."""
    return Counter(
        (
            message["exchange"],
            message["routing_key"],
            (message["headers"] or {}).get("action"),
            stamped((message["headers"] or {}).get("file") or ""),
            (message["headers"] or {}).get("message") is None,
        )
        for message in messages
    )
