"""Pictures of the live page: ``make screenshots`` writes them to ``docs/_static``; look at them.

The gate takes them into ``docs/_build/screenshots``. What a program can see is checked: nothing alive is
dimmed, colour bars have units, no picture is blank.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

import bluesky.plans as bp
from bluesky import RunEngine
from ophyd.sim import hw
from PIL import Image

from sfdaq_ophyd.clients import SimplonClient, StdDaqClient
from sfdaq_ophyd.limits import Limit
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.web import config_of
from sfdaq_ophyd.web.sources import watch_of
from tests.web.browser import Browser
from tests.web.conftest import SETTINGS, served

SETUP = {"beam_center_x": 500.0, "beam_center_y": 540.0, "detector_distance": 0.15}
SETUP |= {"count_time": 0.2, "frame_time": 0.25}  # 4 Hz, as often as the page looks
SIZES = {"watch": (1500, 1000), "watch-phone": (390, 844)}
N_FRAMES, N_POINTS = 25, 12
"""What the page shows at least, of each detector and of the scan that goes on."""

CARDS = "[...document.querySelectorAll('.detector')]"
FRAMES = "document.querySelectorAll('.detector[data-event-id]').length"
OPEN = "for (const each of document.querySelectorAll('.mark, .minutes summary')) each.click()"
COUNT = f"""window.ids = {CARDS}.map(() => new Set());
setInterval(() => {CARDS}.forEach((card, i) => window.ids[i].add(card.dataset.eventId)), 100)"""
ENOUGH = f"""window.ids.every((ids) => ids.size > {N_FRAMES})
  && {CARDS}.every((card) => card.querySelector('.regions td'))
  && {CARDS}.every((card) => card.querySelector('.rates').textContent.includes('Hz'))
  && document.getElementById('scan').dataset.points >= {N_POINTS}"""
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
DIMMED = """[...document.querySelectorAll('.old')].filter((each) => each.offsetParent)
  .map((each) => `${each.id || each.className}: ${each.textContent.slice(0, 60)}`).join('; ')"""
UNITS = "[...document.querySelectorAll('.bar .unit')].map((each) => each.textContent)"


def main(folder: Path) -> None:
    """Start a facility, let everything run, and take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        options = {"eiger_model": "1M", "jungfrau_name": "JF01T03V01", "jungfrau_rate_multiplicator": 20}
        facility = stack.enter_context(Facility(directory=directory / "facility", **options))
        client = SimplonClient(facility.eiger.url)
        client.initialize()
        for key, value in {**SETTINGS, **SETUP}.items():
            client.put("detector", key, value)
        client.put("monitor", "mode", "enabled")
        client.arm()
        threading.Thread(target=_series, args=(client,), daemon=True).start()
        stack.callback(client.abort)
        StdDaqClient(facility.std_daq.url).stop_writer()
        going_on = _scans(directory / "catalog")
        url = stack.enter_context(served(watch_of(config_of(facility, directory))))
        browser = Browser(*SIZES["watch"])
        stack.callback(browser.close)
        browser.open(url)
        _wait(lambda: browser.run(FRAMES) == 2, "a frame of each detector")
        threading.Thread(target=_go_on, args=going_on, daemon=True).start()
        browser.run(COUNT)
        browser.run(OPEN)
        _wait(lambda: browser.run(ENOUGH), f"{N_FRAMES} frames of each detector, {N_POINTS} points")
        for name, size in SIZES.items():
            _take(browser, size, folder / f"{name}.png")
        units = browser.run(UNITS)
        assert units == ["counts, log", "keV, log"], units
        assert not browser.errors, browser.errors


def _series(client: SimplonClient) -> None:
    with contextlib.suppress(Exception):  # it is aborted
        client.trigger(600.0)


def _scans(folder: Path) -> tuple[Path, list[tuple[str, dict]]]:
    """Write two scans, as a catalog keeps them; return where a third goes, and its documents."""
    (folder / "documents").mkdir(parents=True)
    devices = hw()
    with contextlib.closing(sqlite3.connect(folder / "catalog.db")) as database, database:
        database.execute("create table nodes (id integer primary key, parent integer, metadata text)")
        for k in range(3):
            docs = []
            engine = RunEngine({"scan_id": 42 + k}, call_returns_result=False)
            engine.subscribe(lambda name, doc, docs=docs: docs.append((name, doc)))
            engine(bp.scan([devices.noisy_det, devices.det], devices.motor, -3 + k / 3, 3 + k / 3, 25))
            path = folder / "documents" / f"{k}.jsonl"
            if k == 2:
                return path, docs
            path.write_text("".join(map(_line, docs)))
            run = json.dumps({name: doc for name, doc in docs if name in ("start", "stop")})
            database.execute("insert into nodes (parent, metadata) values (0, ?)", (run,))


def _go_on(path: Path, docs: list[tuple[str, dict]]) -> None:
    with open(path, "w") as file:
        for k, (name, doc) in enumerate(itertools.chain(docs[:-1], itertools.repeat(docs[-2]))):
            doc["time"] = time.time()
            file.write(_line((name, doc)))
            file.flush()
            if name == "event":
                time.sleep(0.7 if k < N_POINTS else 5.0)  # it goes on while the pictures are taken


def _line(pair: tuple[str, dict]) -> str:
    return json.dumps({"name": pair[0], "doc": pair[1]}) + "\n"


def _take(browser: Browser, size: tuple[int, int], path: Path) -> None:
    """Take a picture of all of the page, at a moment at which it dims nothing."""
    view = {"deviceScaleFactor": 1, "mobile": False}
    browser.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], **view)
    browser.run(DRAWN)
    height = browser.run("document.documentElement.scrollHeight")
    browser.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=height, **view)
    seen = ["not looked at"]

    def is_taken() -> bool:
        browser.run(DRAWN)
        seen[0] = browser.run(DIMMED)
        if not seen[0]:
            browser.screenshot(path)
            seen[0] = browser.run(DIMMED)
        return not seen[0]

    _wait(is_taken, f"{path.name} with nothing dimmed", lambda: seen[0])
    assert browser.run("document.documentElement.scrollWidth") <= size[0], f"{path.name} is too wide"
    with Image.open(path) as picture:
        n_colours = len(picture.convert("RGB").getcolors(2**24))
        assert picture.size[0] == size[0] and n_colours > 500, f"{path.name} is blank: {n_colours} colours"
        picture.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def _wait(is_there, what: str, seen=lambda: "") -> None:
    limit = Limit(300)
    while not is_there():
        if limit.reached():
            raise SystemExit(f"{what} did not come within {limit.seconds:g} s: {seen()}")
        time.sleep(0.2)


main(Path(sys.argv[1]))
