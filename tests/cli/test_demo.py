"""The demo, as it is run: tables, pictures, and a report whose links all lead somewhere."""

import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from PIL import Image

from sfdaq_ophyd.cli.app import COMMANDS
from sfdaq_ophyd.cli.demo import DemoDevices, _connect
from sfdaq_ophyd.errors import ServiceTimeout

CODE = "from sfdaq_ophyd.cli import main; main()"


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.cells.append(data.strip())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    options = ["--directory", "out", "--points", "5", "--eiger-model", "500K"]
    options += ["--eiger-readout", "stream", "--std-daq", "websocket"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, "demo", *options],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, folder / "out"


def rows(said, plan):
    """The rows of a run's printed table, as lists of text."""
    _, _, after = said.partition(f"\n{plan} ")
    lines = after[: after.index("└")].splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_demo_when_run_then_one_table_per_run_with_every_detector_in_it(demo):
    said, errors, out = demo
    scan = rows(said, "sf_scan")
    assert [float(row[0]) for row in scan] == [-1, 0, 1, 2, 3]
    assert [row[1] for row in scan] == ["1_0", "1_1", "1_2", "1_3", "1_4"]
    assert len({row[3] for row in scan}) == 5 and {len(row[3]) for row in scan} == {11}, "pulse ids"
    written = sorted((out / "frames" / "std-daq").glob("writer_*[0-9][0-9].h5"))
    assert len(list((out / "frames" / "std-daq").glob("writer_*_[01].h5"))) == 2 * len(written)
    assert [row[5].lstrip("…") for row in scan] == [path.name[-18:] for path in written]
    assert max(len(line) for line in said.splitlines() if line.startswith("│")) <= 120
    assert "\x1b" not in said and "%|" not in said + errors, "no progress bar in a pipe"


def test_demo_when_run_then_pedestal_first_and_its_run_is_named_by_the_scan(demo):
    said, _, out = demo
    ((detector, file),) = rows(said, "take_pedestal")
    assert detector == "JF01T03V01" and file.endswith(".res.h5")
    assert said.index("Pedestal: …/") < said.index("Scanning") < said.index("take_pedestal 1")
    page = (out / "report.html").read_text()
    uid = re.search(r"<dt>uid</dt><dd>(\S{8})", page)[1]
    assert re.search(rf"pedestal of JF01T03V01</dt><dd[^>]*>.*\.res\.h5, \d+ s old, run {uid}", page)


@pytest.mark.parametrize("total", ["jf_total", "eiger_total"])
def test_demo_when_run_then_the_peak_is_where_the_simulated_sample_is(demo, total):
    said, _, _ = demo
    centre = re.search(rf"{total} peaks at motor = (\S+) ± (\S+) mm", said)
    assert float(centre[1]) == pytest.approx(1, abs=0.1) and float(centre[2]) < 0.1
    assert "The simulated sample stands at 1 mm" in said


def test_demo_when_run_then_live_frames_are_those_of_the_brokers_files(demo):
    said, _, _ = demo
    for row in rows(said, "sf_scan"):
        live, (first, last) = int(row[3]), row[6].split(" - ")
        assert row[7] == f"{live - int(first) + 1} of 10", row
        assert int(last) == (int(first) + 9) % 1000
    assert "5 of 5 live frames are of pulses that the broker's files have." in said
    shares = re.findall(r"live and from the broker's file: (\S+)% of", said)
    assert len(shares) == 2 and min(map(float, shares)) > 99.9


def test_demo_when_it_ends_then_it_names_commands_that_there_are(demo):
    said, _, _ = demo
    named = re.findall(r"^  sfdaq (\S+) ", said, re.MULTILINE)
    assert {"init", "session", "watch", "doctor"} == set(named) <= set(COMMANDS)


def test_demo_when_run_then_pictures_of_every_kind(demo):
    _, _, out = demo
    pictures = list((out / "pictures").glob("*.png"))
    for kind in ("eiger_image", "jf_image", "writer_image", "sfdaq_JF01T03V01"):
        assert sum(kind in picture.name for picture in pictures) == 2, kind
    for picture in pictures:
        assert len(Image.open(picture).convert("RGB").getcolors(2**24)) > 20


def test_report_when_written_then_all_links_lead_to_files_and_all_rows_are_in_it(demo):
    said, _, out = demo
    assert (out / "report.html").as_uri() in said
    page = Links()
    page.feed((out / "report.html").read_text())
    assert len(page.found) == 2 * 9
    assert all((out / link).is_file() for link in page.found)
    for row in rows(said, "sf_scan") + rows(said, "take_pedestal"):
        assert set(row) <= set(page.cells)
    assert any(cell.startswith("jf_total peaks at") for cell in page.cells)


class Device:
    """A device that connects, by the clock on the wall too late, at the look number `at`."""

    name = "motor"

    def __init__(self, at, lasts=0.0):
        self.at, self.lasts, self.looks = at, lasts, 0

    def wait_for_connection(self, timeout):
        self.looks += 1
        time.sleep(min(timeout, self.lasts))
        if self.looks < self.at:
            raise TimeoutError("Failed to connect to all signals: motor.user_setpoint (SIM:MOTOR)")


def test_connect_when_the_limit_has_passed_then_it_is_looked_at_once_more():
    device = Device(at=2, lasts=0.1)
    _connect(device, 0.05)
    assert device.looks == 2


def test_beamline_when_a_pv_is_not_served_then_its_limit_fails_with_the_pv_and_what_to_do(
    tmp_path, closed_port
):
    address = f"http://127.0.0.1:{closed_port}"
    facility = SimpleNamespace(
        pvs={role: f"NO:SUCH:{role}" for role in ("motor", "shutter", "pulse_id")},
        eiger=SimpleNamespace(url=address, stream_endpoint="tcp://127.0.0.1:9"),
        broker=SimpleNamespace(url=address, beamline="bernina", root=tmp_path),
        jungfrau=SimpleNamespace(detector_name="JF01T03V01"),
    )
    expected = r"^motor: connection: not done after 0\.3 s; last state Failed to connect.*NO:SUCH:motor\.VAL"
    with pytest.raises(ServiceTimeout, match=expected) as caught:
        DemoDevices(facility, tmp_path, start_timeout=0.3)
    assert "sfdaq demo or sim --start-timeout" in caught.value.hint
