"""Recorded exchanges: reading them, and comparing a reply without its volatile parts."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
from pathlib import Path

from PIL import Image

MEASURED = {"bytes_per_second", "images_per_second", "n_generated_images", "file_size"}
ADDRESSES = re.compile(
    r"(http://)?(127\.0\.0\.1|localhost|HOST|SIMHOST|REDISHOST)(:|', port=)\d+|host='\w+[\w.]*'"
)
PYTHON_WORDS = re.compile(r"int\(\) argument must be .*")
NUMBERS_OF_TIME = re.compile(r"'(start|stop)_time': [\d.]+")
REFUSED = re.compile(r"Cannot start new acquisition while previous one is running:\n (\{.*)", re.DOTALL)
RUN_ID = re.compile(r"('run_id': )\d{16,}")


def scenarios(folder: Path, kind: str = "rest") -> list[Path]:
    """Return the recordings of a kind, anywhere below `folder`.

    That is "rest" (either dialect), or of the websocket generation "control" and "config".
    """
    return [path for path, _, found in _recordings(folder) if found == kind]


def others(folder: Path) -> list[tuple[Path, str]]:
    """Return the other recordings below `folder`, each with why nothing here speaks to it."""
    spoken = "the simulator speaks the two REST dialects and the websocket generation only"
    return [
        (path, f"{spoken}, not {stack}" if stack else f"{spoken}; the recording names no service")
        for path, stack, kind in _recordings(folder)
        if kind is None
    ]


def _recordings(folder: Path) -> list[tuple[Path, str, str | None]]:
    """Return each recording, what it says of the service, and its kind.

    A line that is no JSON is for the replay.
    """
    found = []
    for path in sorted(folder.rglob("*.jsonl")):
        if path.name.endswith(".redis.jsonl"):
            continue
        lines = []
        with contextlib.suppress(ValueError):
            lines += map(json.loads, path.read_text().splitlines())
        meta = lines[0].get("meta") if lines and isinstance(lines[0], dict) else None
        if isinstance(meta, dict):
            stack = str(meta.get("stack") or "")
            found.append((path, stack, _kind(stack, lines[1:])))
    return found


def _kind(stack: str, rows: list) -> str | None:
    if stack.split("-")[0] in ("flask", "fastapi"):
        return "rest"
    if any("client" in row for row in rows):
        return "control"
    paths = [str((row.get("request") or {}).get("path")) for row in rows]
    return "config" if any(path.startswith("/api/") for path in paths) else None


def read(path: Path) -> tuple[dict, list[dict]]:
    """Return (meta, rows)."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    rows = [
        line for line in lines[1:] if isinstance(line.get("request"), dict) or line.get("note") is not None
    ]
    return lines[0]["meta"], rows


def acquisition_of(reply) -> dict | None:
    """Return the acquisition in a writer reply that names a file, or None."""
    writer = reply.get("writer") if isinstance(reply, dict) else None
    acquisition = (writer or {}).get("acquisition")
    return acquisition if is_named(acquisition) else None


def is_named(acquisition: dict | None) -> bool:
    """Tell a real acquisition from the empty record of a service that had none."""
    return bool(acquisition) and "output_file" in acquisition["info"]


def identity_asked(body) -> tuple:
    """Return the `identity` of the acquisition that a request starts."""
    body = body if isinstance(body, dict) else {}
    try:
        n_images = int(body.get("n_images"))
    except (TypeError, ValueError):
        n_images = None
    return identity({**body, "n_images": n_images})


def log_of(reply) -> list[dict]:
    """Return the acquisitions of a log reply, newest first."""
    logs = reply.get("logs") if isinstance(reply, dict) else None
    return _by_id(logs) if isinstance(logs, dict) else list(logs or ())


def _by_id(logs: dict) -> list:
    """Return the entries of a log that is keyed by id, newest first: the order of keys says nothing."""
    return [logs[k] for k in sorted(logs, key=lambda k: [int(n) for n in k.split("-")], reverse=True)]


def identity(info: dict) -> tuple:
    """Tell acquisitions apart: file, count, and the run id unless it is a time."""
    run_id = info.get("run_id")
    return (
        str(info.get("output_file")),
        info.get("n_images"),
        None if _is_time(run_id) else str(run_id or None),
    )


def _is_time(run_id) -> bool:
    """Tell a default run id: the time of the recording, or of the replay, in ns."""
    return isinstance(run_id, int) and 17 * 10**17 < run_id < 2 * 10**18


def masked(value, key: str = ""):
    """Return a reply with its volatile parts replaced by what kind of thing stood there."""
    if isinstance(value, dict):
        if value and all(re.fullmatch(r"\d+-\d+", k) for k in value):  # a log keyed by id
            return {"ids": [masked(v) for v in _by_id(value)]}
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


def settings_for(meta: dict, rows: list[dict]) -> dict:
    """Return the simulator's settings for a recording."""
    stack = str(meta["stack"])
    return {
        "dialect": stack.split("-")[0],
        "pydantic": 1 if stack.endswith("pydantic1") else 2,
        "simulation": any("n_generated_images" in str(row.get("reply")) for row in rows),
        "validator": "validator" in meta["scenario"],
    }


def began(rows: list[dict]) -> float:
    """Return when the scenario began, on the clock of its replies; infinite where nothing tells."""
    for row in rows:
        acquisition = acquisition_of(row.get("reply"))
        if acquisition and row["reply"]["message"] == "Writing started.":
            return acquisition["stats"]["start_time"] - row["t"] - 0.02
    return float("inf")


def running(rows: list[dict]) -> set[tuple]:
    """Return the identities of the acquisitions that a row shows running."""
    found = set()
    for row in rows:
        reply = row.get("reply") if isinstance(row.get("reply"), dict) else {}
        status = reply.get("writer") or {}
        if refused := REFUSED.match(str(reply.get("message"))):
            status = ast.literal_eval(refused[1])
        if status.get("state") == "WRITING":
            found.add(identity(status["acquisition"]["info"]))
    return found


def is_together(first: dict, second: dict) -> bool:
    """Tell two starts of which the second one was sent before the first one was answered."""
    return all(
        "/writer/write" in row.get("request", {}).get("path", "") and "elapsed_s" in row
        for row in (first, second)
    ) and (second["t"] - first["t"] < 0.02 and first["t"] + first["elapsed_s"] > second["t"] + 0.03)


def in_order_of_arrival(rows: list[dict]) -> list[dict]:
    """Put starts that were sent at once in the order in which the service took them.

    The replies show the first one that the writer opened; the last one it opened is what the status shows in
    the end. One that was refused came last.
    """
    rows = list(rows)
    i = 0
    while i < len(rows):
        j = i
        while j + 1 < len(rows) and is_together(rows[j], rows[j + 1]):
            j += 1
        if j > i:
            rows[i : j + 1] = _in_order(rows[i : j + 1], rows[j + 1 :])
        i = j + 1
    return rows


def _in_order(starts: list[dict], rest: list[dict]) -> list[dict]:
    shown = [identity(a["info"]) for row in (*starts, *rest) if (a := acquisition_of(row.get("reply")))]

    def place(row: dict) -> tuple:
        asked = identity_asked(row["request"].get("json"))
        refused = acquisition_of(row.get("reply")) is None
        return refused, asked != shown[0], shown.index(asked) if asked in shown else 0

    times = [row["t"] for row in starts]
    return [{**row, "t": t} for t, row in zip(times, sorted(starts, key=place))]


def differs(row, response) -> str | None:
    """Return how a reply differs from the recorded one; None if it does not."""
    request, wanted = row["request"], row.get("reply", row.get("reply_text"))
    what = f"{request['method']} {request['path']} {request.get('json', request.get('body', ''))}"
    if response.status_code != row["status_code"]:
        return f"{what}: code {response.status_code}, recorded {row['status_code']}: {response.text[:300]}"
    got_type = response.headers.get("Content-Type", "")
    headers = {k.lower(): v for k, v in (row.get("headers") or {}).items()}
    wanted_type = row.get("content_type") or headers.get("content-type")
    if wanted_type and got_type != wanted_type:
        return f"{what}: type {got_type!r}, recorded {wanted_type!r}"
    if "jpeg_shape" in row:
        return _differs_in_picture(row, response)
    if not isinstance(wanted, dict):
        return None
    got = response.json()
    if "openapi" in wanted:
        wanted, got = set(wanted["paths"]), set(got["paths"])
    if masked(got) != masked(wanted):
        return f"{what}:\n  got      {masked(got)}\n  recorded {masked(wanted)}"
    return None


def words_of(row: dict, i: int) -> str:
    """Return what a report calls a row."""
    if "request" not in row:
        return f"row {i}: note {str(row['note'])[:60]}"
    return f"row {i}: {row['request'].get('method')} {row['request'].get('path')}"


def servers_of(row: dict) -> dict:
    """Return the servers that a deployment's row shows."""
    reply = row.get("reply")
    return ((reply.get("deployment") if isinstance(reply, dict) else None) or {}).get("servers") or {}


def end_of(row) -> float:
    """Return when the reply of a row had come."""
    return row["t"] + (row.get("elapsed_s") or 0)


def path_of(row) -> str:
    return row["request"]["path"] if "request" in row else ""


def _differs_in_picture(row, response) -> str | None:
    """Compare one JPEG, or the first one of a stream, with the recorded shape."""
    with response:
        if path_of(row) == "/daq/live":
            head = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
            part = next(response.iter_content(2**20))
            if not part.startswith(head):
                return f"live stream: begins with {part[:60]!r}"
            picture = part.removeprefix(head)
        else:
            picture = response.content
    with Image.open(io.BytesIO(picture)) as image:
        shape = [image.height, image.width, len(image.getbands())]
    if shape == row["jpeg_shape"]:
        return None
    return f"{path_of(row)}: picture {shape}, recorded {row['jpeg_shape']}"


def sequence(replies) -> list[tuple]:
    """Collapse replies to the states they went through."""
    states = []
    for reply in replies:
        acquisition = acquisition_of(reply)
        state = (reply["writer"]["state"], acquisition["state"], acquisition["message"])
        if not states or states[-1] != state:
            states.append(state)
    return states
