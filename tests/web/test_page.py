"""The page in a real browser: frames move, and the numbers are those of the simulators."""

import json
import re

import pytest

from sfdaq_ophyd.clients import BrokerClient, StdDaqClient
from sfdaq_ophyd.web.runs import FolderRuns

from .browser import Browser
from .test_curve import scan
from .test_runs import documents

PICTURE = "document.querySelector('[data-name=\"{}\"] .view canvas').toDataURL()"


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
    first = wait_for(lambda: data(page, card, "eventId"), "a picture")
    before = page.run(PICTURE.format(card))
    wait_for(lambda: data(page, card, "eventId") not in ("", first), "another picture")
    wait_for(lambda: page.run(PICTURE.format(card)) != before, "other pixels")


def test_pixel_when_under_the_cursor_then_the_value_of_the_detector(facility, eiger, page, wait_for):
    eiger.put("detector", "nimages", 2)
    series_id = eiger.arm()
    eiger.trigger(0.1)
    wait_for(lambda: data(page, "eiger", "eventId") == f"{series_id}_1", "the last picture")
    image = eiger.newest_image().image
    box = page.run(
        "JSON.stringify(document.querySelector('[data-name=eiger] .view canvas').getBoundingClientRect())"
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
    wait_for(lambda: data(page, "eiger", "eventId") and data(page, "jf", "eventId"), "pictures")
    assert page.run(rings.format("eiger")) is False
    assert page.run(rings.format("jf")) is True


def test_wheel_when_turned_on_the_image_then_a_part_at_full_resolution(facility, series, page, wait_for):
    wait_for(lambda: data(page, "eiger", "eventId"), "a picture")
    before, whole = page.run(PICTURE.format("eiger")), data(page, "eiger", "region")

    def part():
        region = data(page, "eiger", "region")
        if region == whole:  # the page may still move: turn it where the image is now
            x, y, width, height = box(page, "[data-name=eiger] .view canvas")
            page.mouse("mouseWheel", x + width / 2, y + height / 2, deltaX=0, deltaY=-120)
            wait_for(lambda: data(page, "eiger", "region") != whole, "a part", timeout=60, period=0.2)
            return False
        x0, y0, x1, y1 = map(int, region.split(","))
        return (x1 - x0, y1 - y0) == (192, 160)

    wait_for(part, "the part")
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
    wait_for(lambda: page.fact("writer", "images") == "5 of 5", "all images")
    wait_for(lambda: page.fact("writer", "state") == "READY", "READY")
    assert page.fact("writer", "file") == str(path)


def test_broker_when_a_run_number_is_taken_then_shown(facility, page, wait_for):
    with BrokerClient(facility.broker.url, facility.broker.slow_url) as client:
        number = client.advance_run_number("p12345")
    wait_for(lambda: page.fact("sfdaq", "last run number") == str(number), "the number")
    assert page.fact("sfdaq", "running detectors") == facility.jungfrau.detector_name


def test_pvs_when_changed_at_the_ioc_then_on_the_page(facility, page, wait_for):
    facility.pvs.write("beam_rate", 25)
    try:
        wait_for(lambda: "beam_rate25 Hz" in page.text("#pvs table"), "the rate")
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


NUMBERS = """(() => {
  const card = document.querySelector('[data-name="eiger"]');
  const texts = (which) => [...card.querySelectorAll(which)].map((each) => each.textContent);
  const ids = [card.dataset.eventId, card.dataset.frame];
  const shown = ['dd[data-fact="event id"]', '.of', '.regions caption', '.regions td'].flatMap(texts);
  return JSON.stringify([...ids, ...shown]);
})()"""


def test_numbers_when_frames_move_then_those_of_the_picture(facility, series, page, wait_for):
    """One message brings both: at any moment all ids on a card are the same."""
    wait_for(lambda: data(page, "eiger", "eventId"), "a picture")
    press(page, "eiger", ".mark")
    wait_for(lambda: page.run("document.querySelectorAll('[data-name=eiger] .regions td').length"), "sums")
    seen = set()

    def look():
        event_id, number, fact, words, caption, *_ = json.loads(page.run(NUMBERS))
        assert (
            fact == event_id
            and re.match(rf"(frame |no frame since [\d.]+ s; this is ){event_id}\b", words)
            and caption == f"of frame {event_id}"
        )
        seen.add(number)
        return len(seen) > 3

    wait_for(look, "four frames")


def press(page, card, selector):
    page.run(f"document.querySelector('[data-name={card}] {selector}').click()")


def key(page, name, text=""):
    for kind in ("keyDown", "keyUp"):
        page.ask(
            "Input.dispatchKeyEvent", type=kind, key=name, **({"text": text} if kind == "keyDown" else {})
        )


def test_keyboard_when_used_alone_then_zoom_colours_scale_and_limits(facility, series, page, wait_for):
    wait_for(lambda: data(page, "eiger", "eventId"), "a picture")
    focused = "document.activeElement.tagName + document.activeElement.className"
    for _ in range(10):  # Tab alone leads there
        if page.run(focused) == "CANVAS":
            break
        page.ask("Input.dispatchKeyEvent", type="rawKeyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert page.run(focused) == "CANVAS"
    key(page, "+", "+")
    wait_for(lambda: data(page, "eiger", "region") == "24,20,216,180", "a part")
    key(page, "ArrowRight")
    wait_for(lambda: data(page, "eiger", "region") == "48,20,240,180", "a step to the right")
    key(page, "0", "0")
    wait_for(lambda: data(page, "eiger", "region") == "0,0,240,200", "the whole frame")
    bar = "document.querySelector('[data-name=eiger] .{}').textContent"
    gradient = "document.querySelector('[data-name=eiger] .gradient').style.background"
    before = page.run(gradient)
    key(page, "c", "c")
    wait_for(lambda: page.run(gradient) != before, "other colours")
    key(page, "l", "l")
    wait_for(lambda: page.run(bar.format("unit")) == "counts, linear", "another scale")
    page.run("document.querySelector('[data-name=eiger] .handle.high').focus()")
    automatic = float(page.run("document.activeElement.getAttribute('aria-valuenow')"))
    for _ in range(3):
        key(page, "ArrowLeft")
    given = "document.querySelector('[data-name=eiger] input.high').value"
    wait_for(lambda: page.run(given), "a limit")
    wait_for(lambda: page.run(bar.format("high-end")) != "", "its end of the bar")
    assert float(page.run(given)) < automatic
    key(page, "Delete")
    wait_for(lambda: page.run(given) == "", "the automatic limit")
    limits = "for (const [end, value] of [['low', 9], ['high', 5]]) {{ const input = {}; {} }}"
    change = "input.value = value; input.dispatchEvent(new Event('change'));"
    page.run(limits.format("document.querySelector(`[data-name=eiger] input.${end}`)", change))
    wait_for(lambda: "less than high" in page.text('[data-name="eiger"] .note'), "what is wrong with them")
    number = data(page, "eiger", "frame")
    wait_for(lambda: data(page, "eiger", "frame") != number, "frames go on")


def test_line_and_limits_when_dragged_then_profile_and_colours(facility, series, page, wait_for):
    wait_for(lambda: data(page, "eiger", "eventId"), "a picture")
    page.run("document.querySelector('[data-name=eiger] .drag').value = 'line'")
    x, y, width, height = box(page, "[data-name=eiger] .view canvas")
    drag(page, (x + width / 4, y + height / 4), (x + width / 2, y + height / 3))
    plot = "document.querySelectorAll('[data-name=eiger] .profile canvas').length"
    wait_for(lambda: page.run(plot), "the profile")
    page.run("document.querySelector('[data-name=eiger] .handle.low').scrollIntoView({block: 'center'})")
    x, y, width, height = box(page, "[data-name=eiger] .handle.low")
    drag(page, (x + width / 2, y + height / 2), (x + width / 2 + 30, y + height / 2))
    given = "document.querySelector('[data-name=eiger] input.low').value"
    wanted = wait_for(lambda: page.run(given), "a limit")
    shown = "document.querySelector('[data-name=eiger] .low-end').textContent.replace(',', '')"
    wait_for(lambda: float(page.run(shown)) == pytest.approx(float(wanted), rel=0.02), "its end of the bar")


def box(page, selector):
    script = f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
    return json.loads(page.run(script + "return JSON.stringify([b.x, b.y, b.width, b.height]); })()"))


def drag(page, begin, end):
    page.mouse("mouseMoved", *begin)
    page.mouse("mousePressed", *begin, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", *end, button="left", buttons=1)
    page.mouse("mouseReleased", *end, button="left", clickCount=1)


def test_scan_when_it_goes_on_then_its_points_against_the_motor_and_the_last_one(watch, page, wait_for):
    folder = next(source for source in watch.sources if isinstance(source, FolderRuns))
    documents_folder = folder._directory / "documents"
    documents_folder.mkdir(parents=True, exist_ok=True)
    points = "document.getElementById('scan').dataset.points"
    for scan_id, n in ((1, 4), (2, 3)):
        docs = list(scan([0.0, 1.0, 2.0, 3.0], [1.0, 5.0, 2.0, 1.0], scan_id=scan_id))
        for _, doc in docs:
            doc["time"] -= 3600.0
        lines = [json.dumps({"name": name, "doc": doc}) + "\n" for name, doc in docs]
        (documents_folder / f"{scan_id}.jsonl").write_text("".join(lines[: 2 + n]))
        uid = docs[0][1]["uid"]
        wait_for(lambda uid=uid: page.run("document.getElementById('scan').dataset.uid") == uid, "the scan")
        wait_for(lambda n=n: page.run(points) == str(n), "its points")
    with open(documents_folder / "2.jsonl", "a") as file:
        file.write(lines[5])
    wait_for(lambda: page.run(points) == "4", "one more point")
    assert page.run("document.querySelector('#scan .signal').value") == "diode"
    legend = page.run("[...document.querySelectorAll('#scan .legend li')].map((li) => li.textContent).join()")
    assert legend == "2 , 4 points (newest),1 , 4 points"
    assert page.run("document.querySelectorAll('#scan canvas').length") == 1
    for part in ("scan", "run"):  # as old as the newest point, however often the page looks
        assert page.text(f"#{part} .age") == "point 60 min ago"
        assert page.run(f"document.getElementById('{part}').classList.contains('old')")
    with open(documents_folder / "2.jsonl", "a") as file:
        file.writelines(lines[6:])
    wait_for(lambda: page.run("document.querySelectorAll('#scan:not(.old)').length"), "its end")
    assert page.text("#scan .age") == "point 60 min ago"


@pytest.mark.parametrize("width", [390, 1500])
def test_page_when_seen_on_a_phone_or_a_screen_then_fits_and_passes_axe(
    facility, series, page, wait_for, width
):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.ask("Emulation.setDeviceMetricsOverride", **size)
    try:
        wait_for(
            lambda: data(page, "eiger", "eventId") and data(page, "jf", "eventId"), "pictures", timeout=60
        )
        for card in ("eiger", "jf"):
            press(page, card, ".mark")
            press(page, card, ".minutes summary")
        wait_for(lambda: page.run("document.querySelectorAll('.minutes canvas').length") == 2, "last minutes")
        for part in (".minutes summary", ".counted"):
            assert page.text(f"[data-name=eiger] {part} .age").endswith(" ago")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert not page.violations()
    finally:
        page.ask("Emulation.clearDeviceMetricsOverride")
