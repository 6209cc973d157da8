"""What reached Redis during a scenario, compared with the recorded entries."""

from __future__ import annotations

import json
from pathlib import Path

from .recording import identity, is_named, masked
from .scene import Scene

KEYS = ("daq:status", "daq:config", "daq:log", "daq:stat")


def ends(scene: Scene) -> dict[str, str]:
    """Return the newest id of each stream."""
    found = {key: scene.redis.xrevrange(key, count=1) for key in KEYS}
    return {key: entries[0][0].decode() if entries else "0-0" for key, entries in found.items()}


def read_entries(path: Path) -> dict[str, list[dict]]:
    """Return the recorded contents by key, in order."""
    found: dict[str, list[dict]] = {key: [] for key in KEYS}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry.get("key") in found:
            assert set(entry["fields"]) == {"json"}
            found[entry["key"]].append(json.loads(entry["fields"]["json"]))
    return found


def check(scene: Scene, since: dict[str, str], path: Path) -> None:
    """Compare all that came after `since` with the recorded entries."""
    recorded = read_entries(path)
    n_logged = len(recorded["daq:log"])
    scene.wait_for(lambda: len(scene.redis.xrange("daq:log", f"({since['daq:log']}", "+")) >= n_logged, "log")
    came = {}
    for key in KEYS:
        entries = scene.redis.xrange(key, f"({since[key]}", "+")
        assert all(set(fields) == {b"json"} for _, fields in entries)
        came[key] = [json.loads(fields[b"json"]) for _, fields in entries]
    assert came["daq:config"] == recorded["daq:config"]
    assert list(map(masked, came["daq:log"])) == list(map(masked, recorded["daq:log"]))
    for stat in came["daq:stat"]:
        assert masked(stat) == masked(recorded["daq:stat"][0])
    assert _states(came["daq:status"], scene) == _states(recorded["daq:status"], scene)


def _states(statuses: list[dict], scene: Scene) -> list[tuple]:
    """Return the states that the scenario's own acquisitions went through; doubled entries count once."""
    states = []
    for status in statuses:
        acquisition = status["acquisition"]
        if not is_named(acquisition) or identity(acquisition["info"]) not in scene.sent:
            continue
        state = (
            status["state"],
            acquisition["state"],
            acquisition["message"],
            list(status),
            list(acquisition),
        )
        if not states or states[-1] != state:
            states.append(state)
    return states
