"""The demo, as it is run: tables, pictures, and a report whose links all lead somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

pytestmark = pytest.mark.timeout(170)  # the fixture runs the demo whole

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
    options = ["--directory", "out", "--points", "3", "--eiger-model", "500K"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, "demo", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=160,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, folder / "out"


def columns(said, title):
    """The rows of a printed table, as lists of text."""
    _, _, after = said.partition(f"\n{title}\n")
    lines = after[: after.index("└")].splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_demo_when_run_then_eiger_and_jungfrau_are_in_one_scan(demo):
    said, errors, _ = demo
    eiger, jungfrau = columns(said, "Eiger"), columns(said, "Jungfrau, calibrated")
    assert [float(row[1]) for row in eiger] == [float(row[1]) for row in jungfrau] == [0, 1, 2]
    assert [row[3] for row in eiger] == ["1_0", "1_1", "1_2"]
    assert all(row[3] == row[4] for row in jungfrau), "the event id is the pulse id"
    assert len({row[3] for row in jungfrau}) == 3
    assert "\x1b" not in said and "%|" not in said + errors, "no progress bar in a pipe"


def test_demo_when_run_then_pedestal_first_and_its_run_is_named_by_the_scan(demo):
    said, _, out = demo
    assert said.index("take_pedestal 1") < said.index("sf_scan 2")
    page = (out / "report.html").read_text()
    uid = re.search(r"<dt>uid</dt><dd>(\S{8})", page)[1]
    assert re.search(rf"pedestal of JF01T03V01</dt><dd>.*\.res\.h5, \d+ s old, run {uid}", page)


def test_demo_when_run_then_run_and_acquisition_numbers_and_files_through_the_catalog(demo):
    said, _, out = demo
    broker = columns(said, "sf-daq broker")
    assert [(row[2], row[3]) for row in broker] == [("1", "1"), ("1", "2"), ("1", "3")]
    data = columns(said, "stream sfdaq_data")
    assert [row[1] for row in data] == ["1", "2", "3"]
    assert all(row[-3:] == ["10", "10", ""] for row in data), "frames of detector and channel; none missing"
    assert "sfdaq_data_2" not in said and "sfdaq_unused" not in said
    assert list(out.glob("pictures/*sfdaq_data-sfdaq_JF01T03V01-*.png"))


def test_demo_when_run_then_one_std_daq_file_per_point(demo):
    said, _, out = demo
    rows = [row for row in columns(said, "standard DAQ, one file per point") if row[0]]
    assert len(rows) == 3 and len({row[3] for row in rows}) == 3
    assert {row[4] for row in rows} == {"20"}
    assert len(list((out / "frames" / "std-daq").glob("*.h5"))) == 3


def test_demo_when_run_then_pictures_of_every_kind(demo):
    _, _, out = demo
    pictures = list((out / "pictures").glob("*.png"))
    for kind in ("eiger_image", "jf_image", "writer_image", "sfdaq_JF01T03V01"):
        assert sum(kind in picture.name for picture in pictures) == 2, kind
    for picture in pictures:
        assert len(Image.open(picture).convert("RGB").getcolors(2**24)) > 20


def test_report_when_written_then_all_links_lead_to_files_and_all_tables_are_in_it(demo):
    said, _, out = demo
    assert (out / "report.html").as_uri() in said
    page = Links()
    page.feed((out / "report.html").read_text())
    assert len(page.found) == 16
    assert all((out / link).is_file() for link in page.found)
    for title in ("Eiger", "Jungfrau, calibrated", "standard DAQ, one file per point", "sf-daq broker"):
        assert title in page.cells
        assert all(row[0] in page.cells for row in columns(said, title))
