"""A server that has nothing but the monitor."""

from __future__ import annotations

import bluesky.plans as bp
import numpy as np

from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.wire.tiff_write import TiffTags, encode

from ...http_peer import reply_with, serving
from ..run_engine_driver import drive, interruptible, streams


def rows_of(run):
    return streams(run)["primary"].rows


def test_monitor_when_there_is_no_detector_module_then_the_images_say_it_all(tmp_path):
    """A server that has nothing but a monitor, as a proxy for displays may be."""
    frames = [encode(np.full((4, 8), k, "u2"), TiffTags(7, k, "0" * 26, k * 10**9)) for k in range(6)]
    with monitor_alone(frames) as url:
        eiger = Eiger(url + "/monitor/api/1.8.0", name="eiger", directory=tmp_path, timeout=60)
        run = drive(interruptible(), lambda: bp.count([eiger], 3))
    assert run.stop["exit_status"] == "success", run.error
    ids = [row["eiger_event_id"] for row in rows_of(run)]
    assert len(set(ids)) == 3 and [row["eiger_max"] for row in rows_of(run)] == [int(i[2:]) for i in ids]
    data = run.named("descriptor")[0]["configuration"]["eiger"]["data"]
    assert np.isnan(data["eiger_photon_energy"]) and data["eiger_state"] == ""


def monitor_alone(frames):
    """Serve ``images/next`` and ``config/mode``, and nothing else."""
    left = list(frames)

    def answer(handler):
        code, body = 404, b"404 Not Found"
        if "/monitor/api/1.8.0/images/next" in handler.path:
            code, body = (200, left.pop(0)) if left else (408, b"")
        elif handler.path.endswith("/monitor/api/1.8.0/config/mode"):
            code, body = 200, b'{"value": "enabled", "value_type": "string"}'
        reply_with(code, body)(handler)

    return serving(answer)
