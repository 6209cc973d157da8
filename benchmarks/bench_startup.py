"""How long the profile takes to open."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROFILE = Path(__file__).parents[1] / "profile_collection"
ROUNDS = 5


def opening_of_the_profile():
    """``ipython --profile-dir=profile_collection`` against ipython with bluesky and ophyd."""
    times = {"ours": [], "baseline": []}
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "SFDAQ_CONFIG": "sim"}
        ipython = [sys.executable, "-m", "IPython", "--colors=nocolor"]
        stamp = "import time; print('OPEN', time.time())"
        commands = {
            "ours": [*ipython, f"--profile-dir={PROFILE}", "-c", stamp],
            "baseline": [*ipython, "-c", f"import bluesky, ophyd; {stamp}"],
        }
        for _ in range(ROUNDS):
            for name, command in commands.items():
                begin = time.time()
                done = subprocess.run(
                    command, env=env, capture_output=True, text=True, timeout=120, check=True
                )
                (line,) = [line for line in done.stdout.splitlines() if line.startswith("OPEN")]
                times[name].append(float(line.split()[1]) - begin)
    ours, baseline = (statistics.median(times[name]) for name in ("ours", "baseline"))
    return {
        "name": "profile_collection: time to open / ipython with bluesky and ophyd",
        "ratio": ours / baseline,
        "bar": "<= 2",
        "met": ours <= 2 * baseline,
        "baseline": "ipython, import bluesky, ophyd",
        "note": f"{ours:.2f} s, baseline {baseline:.2f} s, simulators starting meanwhile",
    }


BENCHMARKS = [opening_of_the_profile]
