"""Pictures of the live page: ``make screenshots`` writes them to ``docs/_static``; look at them."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path

import bluesky.plans as bp
from bluesky import RunEngine
from ophyd.sim import hw
from PIL import Image

from sfdaq_ophyd.clients import SimplonClient, StdDaqClient
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.web import config_of
from sfdaq_ophyd.web.sources import watch_of
from tests.web.browser import Browser
from tests.web.conftest import SETTINGS, served

FOLDER = Path(__file__).parent / "_static"
GEOMETRY = {"beam_center_x": 500.0, "beam_center_y": 540.0, "detector_distance": 0.15}
SIZES = {"watch": (1500, 1000), "watch-phone": (390, 844)}
SHOWN = "[...document.querySelectorAll('.detector')].filter((card) => card.dataset.eventId).length"
PRESS = "for (const each of document.querySelectorAll('{}')) each.click()"


def main() -> None:
    """Start a facility, let everything run, and take the pictures."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        directory = Path(folder)
        options = {"eiger_model": "1M", "jungfrau_name": "JF01T03V01", "jungfrau_rate_multiplicator": 10}
        facility = stack.enter_context(Facility(directory=directory / "facility", **options))
        client = SimplonClient(facility.eiger.url)
        client.initialize()
        for name, value in {**SETTINGS, **GEOMETRY}.items():
            client.put("detector", name, value)
        client.put("monitor", "mode", "enabled")
        client.arm()
        threading.Thread(target=_series, args=(client,), daemon=True).start()
        StdDaqClient(facility.std_daq.url).stop_writer()
        _scans(directory / "catalog" / "documents")
        url = stack.enter_context(served(watch_of(config_of(facility, directory))))
        browser = Browser()
        stack.callback(browser.close)
        for name, size in SIZES.items():
            _take(browser, url, size, FOLDER / f"{name}.png")
        client.abort()


def _series(client: SimplonClient) -> None:
    with contextlib.suppress(Exception):  # it is aborted
        client.trigger(600.0)


def _scans(folder: Path) -> None:
    """Write the documents of two scans and of a third that goes on."""
    folder.mkdir(parents=True)
    devices = hw()
    for k, last in enumerate((None, None, 16), 1):
        lines = []
        engine = RunEngine({"scan_id": 40 + k}, call_returns_result=False)
        engine.subscribe(lambda name, doc, lines=lines: lines.append(json.dumps({"name": name, "doc": doc})))
        engine(bp.scan([devices.noisy_det, devices.det], devices.motor, -3 + k / 3, 3 + k / 3, 25))
        (folder / f"{k}.jsonl").write_text("\n".join(lines[:last]) + "\n")


def _take(browser: Browser, url: str, size: tuple[int, int], path: Path) -> None:
    view = {"deviceScaleFactor": 1, "mobile": False}
    browser.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], **view)
    browser.open(url)
    begin = time.monotonic()
    while browser.run(SHOWN) < 2 and time.monotonic() < begin + 120:
        time.sleep(0.2)
    browser.run(PRESS.format(".mark, .minutes summary"))
    time.sleep(15)  # curves over time need time
    height = browser.run("document.documentElement.scrollHeight")
    browser.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=height, **view)
    time.sleep(2)
    browser.screenshot(path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)


main()
