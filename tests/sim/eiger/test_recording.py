"""The recorded SIMPLON exchanges, sent again to our simulator: same codes, envelopes and lists of changes.

The recording is of another simulator. What in it a real detector does not do is listed in `EXCEPTIONS`
with the reason (golden README, "must not be imitated").
"""

from __future__ import annotations

import functools
import json
import threading

import pytest

from .conftest import Rest

EXCEPTIONS = {
    "/detector/api/version": "the recorded server has no such route; SIMPLON answers with the version",
    "/detector/api/1.8.0/command/initialize": "SIMPLON replies with an empty body",
    "/detector/api/1.8.0/config/description": "names another detector",
    "/detector/api/1.8.0/status/high_voltage/state": "missing in the recording; ADEiger reads it",
    "/detector/api/1.8.0/status/error": "typed string in the recording; string[] in the reference",
    "/monitor/api/1.8.0/status/error": "typed string in the recording; string[] in the reference",
    "/stream/api/1.8.0/status/error": "typed string in the recording; string[] in the reference",
    "/monitor/api/1.8.0/images/next": "no images in the recording; 408 here while the buffer is empty",
    "/monitor/api/1.8.0/images": "no images in the recording",
    "/monitor/api/1.8.0/command/clear": "missing in the recording",
    "/monitor/api/1.8.0/status/buffer_fill_level": "one integer in the recording; a pair in the reference",
    "/detector/api/1.8.0/command/trigger": "the text of a refused body names another command",
    "/filewriter/api/1.8.0/config/nimages_per_file": "int in the recording; uint in the reference",
    "/filewriter/api/1.8.0/config/image_nr_start": "int in the recording; uint in the reference",
}

NOT_OURS = {
    "incident_particle_type": "not in the contract",
    "threshold/1/number_of_excluded_pixels": "not in the contract",
    "threshold/2/number_of_excluded_pixels": "not in the contract",
    "total_flux": "not in the contract",
}


@pytest.fixture(scope="module")
def recording(request, data_dir):
    folder = request.config.getoption("--recordings") or data_dir / "eiger"
    files = sorted(folder.rglob("*rest*.jsonl")) if folder.exists() else []
    exchanges = [json.loads(line) for path in files for line in path.read_text().splitlines() if line.strip()]
    exchanges = [e for e in exchanges if "/api/" in e.get("request", {}).get("path", "")]
    if not exchanges:
        pytest.skip(f"no recorded SIMPLON exchanges in {folder}")
    return sorted(exchanges, key=lambda exchange: exchange["t_s"])


def send(rest, request):
    body = request["body"]
    payload = None if body is None else json.dumps(body)
    url = rest.part.url + request["path"]
    return rest.session.request(request["method"], url, data=payload, headers=request["headers"], timeout=30)


def differences(exchange, reply):
    """Say how our reply differs in shape from the recorded one."""
    path, recorded = exchange["request"]["path"], exchange["reply"]
    if path in EXCEPTIONS:
        return
    if reply.status_code != recorded["status"]:
        yield f"{path}: {reply.status_code} {reply.text[:80]!r}, recorded {recorded['status']}"
        return
    theirs = recorded.get("json")
    if theirs is None:
        if recorded.get("text", "").startswith("error during request") and reply.text != recorded["text"]:
            yield f"{path}: said {reply.text!r}, recorded {recorded['text']!r}"
        return
    ours = reply.json()
    if path.endswith("/keys"):
        missing = set(theirs) - set(ours) - set(NOT_OURS)
        if missing:
            yield f"{path}: lacks {sorted(missing)}"
    elif isinstance(theirs, list):
        if sorted(ours) != sorted(theirs):
            yield f"{path}: changed {ours}, recorded {theirs}"
    elif "value" in theirs:
        if not {"value", "value_type"} <= set(ours) or ours["value_type"] != theirs["value_type"]:
            yield f"{path}: {ours}, recorded {theirs}"
    elif set(ours) != set(theirs):
        yield f"{path}: {ours}, recorded {theirs}"


def test_simulator_when_sent_the_recorded_requests_then_its_replies_have_the_recorded_shape(
    recording, make_part, wait_for
):
    rest, found, triggers = Rest(make_part()), [], []
    for exchange in recording:
        request, reply = exchange["request"], exchange["reply"]
        acquiring = exchange["phase"].startswith("7")
        if request["path"].endswith("/command/trigger") and reply["elapsed_s"] > 0.5:
            arguments = (Rest(rest.part), request, found)
            triggers.append(threading.Thread(target=_trigger, args=arguments))
            triggers[-1].start()
        elif request["path"].endswith("/status/state") and acquiring:
            states = functools.partial(send, rest, request)
            wanted = reply["json"]["value"]
            wait_for(lambda s=states, w=wanted: s().json()["value"] == w, f"state {wanted}")
        else:
            found.extend(differences(exchange, send(rest, request)))
    for thread in triggers:
        thread.join(60)
    assert not found, "\n".join(found)


def _trigger(rest, request, found):
    reply = send(rest, request)
    if reply.status_code != 200 or "sequence id" not in reply.json():
        found.append(f"trigger: {reply.status_code} {reply.text!r}")
