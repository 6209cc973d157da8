"""What the notes of a recording say was done, or seen, outside HTTP."""

from __future__ import annotations

import http.client
import json
import re
import threading
from pathlib import Path
from urllib.parse import urlsplit

import h5py
import redis

from .recording import masked
from .scene import START, Scene


def obey(scene: Scene, note: str) -> None:
    """Do what a note on a line of its own says."""
    if re.search(r"REST|service", note):
        if re.search(r"restart|start(ed)? again|back", note):
            scene.server.service.restart()
    elif "killed" in note:
        scene.server.fail_next("writer_dies")
    elif "writer" in note and "restarted" in note:
        scene.server.service.restart_writer()
    elif note == "Redis stopped":
        scene.server._embedded.stop()
    elif "Redis started again" in note:
        scene.server._embedded.stop(empty="empty" in note)
        scene.server._embedded.start()
        scene.redis = redis.Redis.from_url(scene.server.redis_url)
    elif "put back into Redis" in note:
        store_config(scene, scene.server.settings.first_config)
    elif user := re.search(r"writer_user_id=(-?\d+)", note):
        store_config(scene, {**scene.server.service.config()[0], "writer_user_id": int(user[1])})


def store_config(scene: Scene, config: dict) -> None:
    """Put a configuration into Redis by hand."""
    scene.redis.xadd("daq:config", {"json": json.dumps(config)})


def check(scene: Scene, note: dict) -> None:
    """Compare what a note says was seen with what is here."""
    for key, value in note.items():
        if key == "two requests on one connection":
            _check_connection(scene, value, note["outcome"])
        elif key == "data.shape":
            _check_file(scene, note)
        elif key == "files":
            assert {path.name for path in (scene.root / "raw").glob("*.h5")} >= set(value), note
        elif key == "XRANGE daq:log:<log_id>":
            _check_report(scene)
        elif key == "redis XRANGE daq:config:<config_id>":
            config_id = scene.server.service.config()[1]
            reports = scene.server.service.store.reports(config_id)
            words = sorted((fields["server_name"], fields["message"]) for _, fields in value)
            assert sorted((server, message) for _, server, message in reports) == words, note
        elif key.endswith(" length") and "log" in key:
            found = scene.redis.xlen(key.split()[0])
            assert found == value, f"{found}: {note}"
        elif key == "last daq:config entry":
            assert scene.server.service.config()[0] == json.loads(value), note


def _check_file(scene: Scene, note: dict) -> None:
    path = scene.root / Path(note["file"]).relative_to("/sls/test")
    if scene.status()["state"] == "WRITING":
        scene.reset()
    with h5py.File(path) as file:
        group = next(iter(file.values()))
        assert list(group["data"].shape) == note["data.shape"], note
        if "status.shape" in note:
            assert list(group["status"].shape) == note["status.shape"], note
        if "image_id" in note:
            written = [number > 0 for number in group["image_id"][:]]
            assert written == [number > 0 for number in note["image_id"]], note


def _check_report(scene: Scene) -> None:
    log_id = scene.newest_log_id()
    entries = scene.wait_for(lambda: scene.redis.xrange(f"daq:log:{log_id}"), "validator's report")
    report = json.loads(entries[0][1][b"json"])
    assert report["report_type"] == "file_validator"
    assert report["report"]["readable"] is True
    assert scene.wait_for(lambda: scene.redis.get(f"daq:gif:{log_id}"), "GIF")[:3] == b"GIF"


def _check_connection(scene: Scene, asked: dict, recorded: list[dict]) -> None:
    """Send two requests on one connection: what the second one meets is what was recorded."""
    connection = http.client.HTTPConnection(urlsplit(scene.server.url).netloc, timeout=60)
    outcome = []
    for _ in recorded:
        try:
            connection.request("POST", START[0], json.dumps(asked), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            outcome.append((reply.status, reply.will_close, masked(json.loads(reply.read()))))
        except (OSError, http.client.HTTPException):
            outcome.append(("lost",))
        threading.Event().wait(0.2)
    assert outcome == [
        ("lost",) if "error" in one else (one["status"], one["will_close"], masked(json.loads(one["body"])))
        for one in recorded
    ]
