"""Recorded exchanges: reading them, and comparing a reply without its volatile parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

MEASURED = {"bytes_per_second", "images_per_second", "n_generated_images", "file_size"}
ADDRESSES = re.compile(
    r"(http://)?(127\.0\.0\.1|localhost|HOST|SIMHOST|REDISHOST)(:|', port=)\d+|host='\w+[\w.]*'"
)
PYTHON_WORDS = re.compile(r"int\(\) argument must be .*")
NUMBERS_OF_TIME = re.compile(r"'(start|stop)_time': [\d.]+")
RUN_ID = re.compile(r"('run_id': )\d{16,}")


def scenarios(folder: Path) -> list[Path]:
    """Return the files with HTTP exchanges of the REST dialects, anywhere below `folder`."""
    found = []
    for path in sorted(folder.rglob("*.jsonl")):
        if path.name.endswith(".redis.jsonl"):
            continue
        with path.open() as lines:
            first = json.loads(lines.readline() or "{}")
        if str(first.get("meta", {}).get("stack", "")).split("-")[0] in ("flask", "fastapi"):
            found.append(path)
    return found


def read(path: Path) -> tuple[dict, list[dict]]:
    """Return (meta, rows)."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return lines[0]["meta"], [row for row in lines[1:] if "request" in row or "note" in row]


def acquisition_of(reply) -> dict | None:
    """Return the acquisition in a writer reply that names a file, or None."""
    writer = reply.get("writer") if isinstance(reply, dict) else None
    acquisition = (writer or {}).get("acquisition")
    return acquisition if acquisition and "output_file" in acquisition["info"] else None


def log_of(reply) -> list[dict]:
    """Return the acquisitions of a log reply, newest first."""
    logs = reply.get("logs") if isinstance(reply, dict) else None
    return list(logs.values()) if isinstance(logs, dict) else list(logs or ())


def identity(info: dict) -> tuple:
    """Tell acquisitions apart: file, count, and the run id unless it is a time."""
    return (
        info.get("output_file"),
        info.get("n_images"),
        None if _is_time(info.get("run_id")) else info.get("run_id"),
    )


def _is_time(run_id) -> bool:
    """Tell a default run id: the time of the recording, or of the replay, in ns."""
    return isinstance(run_id, int) and 17 * 10**17 < run_id < 2 * 10**18


def masked(value, key: str = ""):
    """Return a reply with its volatile parts replaced by what kind of thing stood there."""
    if isinstance(value, dict):
        if value and all(re.fullmatch(r"\d+-\d+", k) for k in value):  # a log keyed by id
            return {"ids": [masked(v) for v in value.values()]}
        value = dict(value)
        if value.get("state") == "ACQUIRING_IMAGES" and "stats" in value:
            value["stats"] = {**value["stats"], "n_write_completed": "some", "n_write_requested": "some"}
        return {k: masked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(v, key) for v in value]
    if value is not None and (key.endswith("_time") or key in ("config_id", "log_id") or key in MEASURED):
        return f"<{key}>"
    if key == "run_id" and _is_time(value):
        return "<run_id>"
    if key == "servers" and value:
        return value
    if isinstance(value, str):
        for pattern, word in (
            (ADDRESSES, "<address>"),
            (PYTHON_WORDS, "<python>"),
            (NUMBERS_OF_TIME, "<time>"),
        ):
            value = pattern.sub(word, value)
        return RUN_ID.sub(r"\1<run_id>", value)
    return value
