"""The page in a real browser: frames move, and the numbers are those of the simulators."""

import json

import pytest

from sfdaq_ophyd.clients import BrokerClient, StdDaqClient
from sfdaq_ophyd.web.runs import FolderRuns

from .browser import Browser
from .test_runs import documents

pytestmark = pytest.mark.timeout(150)  # the first fixture starts a facility and a browser
PICTURE = "document.querySelector('[data-name=\"{}\"] canvas').toDataURL()"


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def page(browser, url, wait_for):
    browser.errors.clear()
    browser.open(url)
    wait_for(lambda: browser.text("h1 b") == "watch", "the page")
    yield browser
    browser.open("about:blank")
    assert not browser.errors


def data(page, card, name):
    return page.run(f"document.querySelector('[data-name=\"{card}\"]')?.dataset.{name} ?? ''")


@pytest.mark.parametrize("card", ["eiger", "jf"])
def test_frames_when_the_detector_runs_then_move(facility, series, page, wait_for, card):
    first = wait_for(lambda: data(page, card, "eventId"), "a picture", timeout=30)
    before = page.run(PICTURE.format(card))
    wait_for(lambda: data(page, card, "eventId") not in ("", first), "another picture", timeout=20)
    wait_for(lambda: page.run(PICTURE.format(card)) != before, "other pixels")


def test_pixel_when_under_the_cursor_then_the_value_of_the_detector(facility, eiger, page, wait_for):
    eiger.put("detector", "nimages", 2)
    series_id = eiger.arm()
    eiger.trigger(0.1)
    wait_for(lambda: data(page, "eiger", "eventId") == f"{series_id}_1", "the last picture", timeout=20)
    image = eiger.newest_image().image
    box = page.run(
        "JSON.stringify(document.querySelector('[data-name=eiger] canvas').getBoundingClientRect())"
    )
    box = json.loads(box)
    height, width = image.shape
    cursor = "document.querySelector('[data-name=\"eiger\"] .cursor').value"
    for x, y in ((30, 40), (200, 150), (120, 99)):
        at = (box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height)
        page.mouse("mouseMoved", *at)
        value = int(image[y, x])
        shown = "masked" if value >= 2 ** (8 * image.itemsize) - 2 else f"{value:,} counts"
        wanted = f"x {x}  y {y}  {shown}"
        wait_for(lambda wanted=wanted: page.run(cursor).startswith(wanted), wanted)


def test_rings_when_the_geometry_is_set_then_shown_and_else_not(facility, series, page, wait_for):
    rings = "document.querySelector('[data-name={}] .rings').hidden"
    wait_for(lambda: data(page, "eiger", "eventId") and data(page, "jf", "eventId"), "pictures", timeout=20)
    assert page.run(rings.format("eiger")) is False
    assert page.run(rings.format("jf")) is True


def test_wheel_when_turned_on_the_image_then_a_part_at_full_resolution(facility, series, page, wait_for):
    wait_for(lambda: data(page, "eiger", "eventId"), "a picture", timeout=20)
    box = json.loads(
        page.run("JSON.stringify(document.querySelector('[data-name=eiger] canvas').getBoundingClientRect())")
    )
    before = page.run(PICTURE.format("eiger"))
    at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse("mouseWheel", *at, deltaX=0, deltaY=-120)
    asked = (
        "performance.getEntriesByType('resource').some((e) => e.name.includes('region=24%2C20%2C216%2C180'))"
    )
    wait_for(lambda: page.run(asked), "the part")
    wait_for(lambda: page.run(PICTURE.format("eiger")) != before, "other pixels")


def test_numbers_when_the_clock_stands_then_the_pulse_id_of_the_machine(facility, page, wait_for):
    stood = facility.clock.pause()
    try:
        wait_for(lambda: page.run("document.getElementById('pulse-id').value") == str(stood), "the pulse id")
    finally:
        facility.clock.resume()


def test_writer_when_it_writes_then_its_progress_and_its_end(facility, page, wait_for):
    path = facility.directory / "x.h5"
    client = StdDaqClient(facility.std_daq.url)
    client.stop_writer()  # as after every start of the DAQ
    client.start_writer_async({"output_file": str(path), "n_images": 5})
    wait_for(lambda: page.fact("writer", "images") == "5 of 5", "all images", timeout=20)
    wait_for(lambda: page.fact("writer", "state") == "READY", "READY")
    assert page.fact("writer", "file") == str(path)


def test_broker_when_a_run_number_is_taken_then_shown(facility, page, wait_for):
    with BrokerClient(facility.broker.url, facility.broker.slow_url) as client:
        number = client.advance_run_number("p12345")
    wait_for(lambda: page.fact("sfdaq", "last run number") == str(number), "the number", timeout=20)
    assert page.fact("sfdaq", "running detectors") == facility.jungfrau.detector_name


def test_pvs_when_changed_at_the_ioc_then_on_the_page(facility, page, wait_for):
    facility.pvs.write("beam_rate", 25)
    try:
        wait_for(lambda: "beam_rate25 Hz" in page.text("#pvs table"), "the rate", timeout=20)
    finally:
        facility.pvs.write("beam_rate", 100)


def test_run_when_it_goes_on_then_its_progress(facility, watch, page, wait_for):
    folder = next(source for source in watch.sources if isinstance(source, FolderRuns))
    journal = folder._directory / "documents" / "run.jsonl"
    journal.parent.mkdir(parents=True)
    lines = [json.dumps({"name": name, "doc": doc}) + "\n" for name, doc in documents(4)]
    journal.write_text("".join(lines[:5]))
    points = '#run dd[data-fact="points"]'
    wait_for(lambda: page.text(points) == "3 of 4", "three points")
    assert page.run("document.querySelector('#run progress').value") == 3
    with open(journal, "a") as file:
        file.writelines(lines[5:])
    wait_for(lambda: "no run" in page.text("#run"), "its end")


def test_page_when_a_detector_does_not_answer_then_said_and_the_rest_goes_on(facility, page, wait_for):
    facility.eiger.fail_next("error", count=50)
    wait_for(lambda: page.text('[data-name="eiger"] .problem'), "the problem", timeout=20)
    first = data(page, "jf", "frame")
    wait_for(lambda: data(page, "jf", "frame") not in ("", first), "another picture", timeout=20)
    facility.eiger.faults.clear()
