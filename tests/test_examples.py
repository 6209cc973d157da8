"""Every example runs, as a user would start it, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
PRINTED = {
    "calibrated_jungfrau.py": ["(1, 512, 1024) uint16", "(1, 514, 1030) float32"],
    "live_page.py": ["jf: pulse ", "keV", "picture of "],
    "retrieve_past_pulses.py": ["JF01T03V01", "success"],
    "scan_with_the_eiger.py": ["scan: 5 points", "1_0", "fly: images (20, "],
    "stream_without_bluesky.py": ["whole", "complete"],
    "write_with_the_standard_daq.py": ["1 {", "3 {", "file://"],
}
"""What must be in the output of each."""


def test_examples_when_listed_then_each_is_tested_and_described():
    assert {path.name for path in FOLDER.glob("*.py")} == set(PRINTED)
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{name}`" in text for name in PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example_when_run_then_no_error_and_the_promised_output(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "MPLBACKEND": "Agg", "OPHYD_CONTROL_LAYER": "caproto"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for words in PRINTED[name]:
        assert words in done.stdout, done.stdout
