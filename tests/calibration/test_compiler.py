"""The kernel is compiled once, kept on disk, and ready before the first frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SCRIPT = """
import json, sys
import numpy as np
from sfdaq_ophyd.calibration import JungfrauCalibration

imported = "numba" in sys.modules
ones, zeros = np.ones((4, 512, 1024), "f4"), np.zeros((3, 512, 1024), "f4")
calibration = JungfrauCalibration("JF03T01V02", ones, zeros)
from sfdaq_ophyd.calibration._kernel import calibrate

ready = len(calibrate.overloads)
raw = np.zeros((512, 1024), "u2")
calibration(raw)
calibration.with_options(factor=2.0, mask_undefined_gain=True)(np.stack([raw, raw]))
print(json.dumps({
    "imported": imported,
    "ready": ready,
    "after": len(calibrate.overloads),
    "hits": sum(calibrate.stats.cache_hits.values()),
    "misses": sum(calibrate.stats.cache_misses.values()),
}))
"""


def test_kernel_when_used_in_two_processes_then_compiled_in_the_first_before_any_frame(tmp_path):
    def run():
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    first, second = run(), run()
    assert first == {"imported": False, "ready": 1, "after": 1, "hits": 0, "misses": 1}
    assert second == {"imported": False, "ready": 1, "after": 1, "hits": 1, "misses": 0}
