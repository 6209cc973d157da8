import re
import subprocess
import sys

import pytest
from PIL import Image


@pytest.mark.timeout(170)
def test_demo_when_run_then_table_of_the_run_and_pictures(tmp_path):
    code = "from sfdaq_ophyd.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "demo",
        "--directory",
        "out",
        "--points",
        "3",
        "--eiger-model",
        "500K",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=160)
    assert done.returncode == 0, done.stderr
    header = next(line for line in done.stdout.splitlines() if "eiger_event_id" in line)
    for column in ("motor", "eiger_timestamp", "eiger_event_id", "eiger_total"):
        assert column in header
    rows = re.findall(r"│ +(\d) │ +(\S+) │ (\S+ \S+) │ (\d+_\d+)", done.stdout)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [float(row[1]) for row in rows] == [0, 1, 2]
    assert [row[3] for row in rows] == ["1_0", "1_1", "1_2"]
    assert "\x1b" not in done.stdout and "%|" not in done.stdout + done.stderr, "no progress bar in a pipe"
    assert re.search(r"jf_event_id.*jf_pulse_id.*jf_total", done.stdout)
    pictures = list((tmp_path / "out").glob("*.png"))
    assert sum("eiger_image" in picture.name for picture in pictures) == 3
    assert sum("jf_image" in picture.name for picture in pictures) == 3
    for picture in pictures:
        assert len(Image.open(picture).convert("RGB").getcolors(2**24)) > 20
