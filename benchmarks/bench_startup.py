"""How long the profile takes to open."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .pairs import Ratio, interleave, result

PROFILE = Path(__file__).parents[1] / "profile_collection"
ROUNDS = 7


def opening_of_the_profile():
    """``ipython --profile-dir=profile_collection`` against ipython with bluesky and ophyd."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "SFDAQ_CONFIG": "sim"}
        ipython = [sys.executable, "-m", "IPython", "--colors=nocolor"]
        stamp = "import time; print('OPEN', time.time())"

        def opened(*words):
            begin = time.time()
            done = subprocess.run(
                [*ipython, *words], env=env, capture_output=True, text=True, timeout=300, check=True
            )
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("OPEN")]
            return float(line.split()[1]) - begin

        ours, bare = interleave(
            [
                lambda: opened(f"--profile-dir={PROFILE}", "-c", stamp),
                lambda: opened("-c", f"import bluesky, ophyd; {stamp}"),
            ],
            ROUNDS,
        )
    return result(
        "profile_collection: time to open / ipython with bluesky and ophyd",
        Ratio(ours, bare),
        most=2,
        baseline="ipython, import bluesky, ophyd",
        note=f"{np.median(ours):.2f} s, baseline {np.median(bare):.2f} s, simulators starting meanwhile",
    )


BENCHMARKS = [opening_of_the_profile]
