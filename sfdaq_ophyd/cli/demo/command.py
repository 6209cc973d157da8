"""The demo's course: facility, pedestal, scan, tables, pictures, report."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ...errors import require
from ...log import attempt
from ...starting import without_collection
from ..sim import SPEED, START_TIMEOUT, say_rate

NEXT = (
    ("init mybeamline", "a folder for your beamline; it begins with the simulated one"),
    ("session mybeamline", "an IPython session on it: devices, plans, RE and catalog"),
    ("watch --config sim", "a live page of a simulated beamline"),
    ("doctor --config sim", "is everything well there?"),
)
"""What to type after the demo, in the same folder, and what it gives."""


def demo(
    directory: Annotated[Path, typer.Option(help="Catalog, frames, pictures and the report go here.")] = Path(
        "demo-output"
    ),
    points: Annotated[int, typer.Option(min=2, help="Points of the scan; 5 and more are fitted.")] = 7,
    speed: Annotated[Any, SPEED] = "auto",
    start_timeout: Annotated[float, START_TIMEOUT] = 60.0,
    eiger_model: Annotated[str, typer.Option(help="16M, 9M, 4M, 1M or 500K.")] = "1M",
) -> None:
    """Take a pedestal and find the sample with a motor, all detectors and the broker of a simulated beamline.

    Then show what the catalog has of it: a table per run, the peak with its fit, pictures, a report.

    Example: sfdaq demo --directory demo-output --points 7 --eiger-model 4M
    """
    require("all", "the demo", "aiohttp", "bottle", "duckdb", "flask", "jinja2", "matplotlib", "tiled")
    os.environ.setdefault("OPHYD_CONTROL_LAYER", "caproto")  # before ophyd is imported
    with without_collection(ours=True):
        from bluesky import RunEngine
        from bluesky.utils import ProgressBarManager

        from ... import setup
        from ...catalog import embedded_catalog
        from ...plans import sf_scan, take_pedestal
        from ...sim import Facility
        from .beamline import SCAN, Beamline
        from .exhibits import calibrating_file, say, short, show_pedestal, show_scan
        from .report import write_report

    directory = directory.resolve()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    limit = {"start_timeout": start_timeout}
    options = {"eiger_model": eiger_model, "std_daq_writable": directory / "frames"}
    parts = Facility(speed, directory / "facility", on_rate=say_rate, **options, **limit)
    with ExitStack() as stack:
        ctrl_c = stack.enter_context(_remembered_ctrl_c())
        console.print("Starting the simulated facility and the catalog ...")
        with attempt("starting the simulated facility and the catalog"):
            facility = stack.enter_context(parts)
            catalog = stack.enter_context(embedded_catalog(directory / "catalog", **limit))
            beamline = Beamline(facility, directory / "frames")
            if ctrl_c.is_set():
                raise KeyboardInterrupt
        run_engine = RunEngine()
        setup(run_engine, catalog)
        if console.is_terminal:
            run_engine.waiting_hook = ProgressBarManager()
            # ophyd's own bar divides by zero where the motor already stands at its target
            warnings.filterwarnings("ignore", "invalid value", RuntimeWarning, "ophyd.status")
        console.print("Taking a pedestal: shutter closed, three gain stages ...")
        with attempt("taking a pedestal"):
            dark = _run(run_engine, take_pedestal(beamline.sfdaq, shutter=beamline.shutter), ctrl_c)
            pedestal = calibrating_file(catalog[dark])
            console.print(f"Pedestal: {short(pedestal, 80)}", soft_wrap=True)
            detectors = beamline.scanned(pedestal)
        names = "pulse_id, eiger, jf, writer (standard DAQ) and sfdaq (broker)"
        console.print(f"Scanning {beamline.motor.name} with {names} ...")
        with attempt(f"scanning {beamline.motor.name} with {names}"):
            light = _run(run_engine, sf_scan(detectors, beamline.motor, *SCAN, points), ctrl_c)
        with attempt("showing what the catalog has"):
            catalog.flush()
            exhibits = [show_pedestal(catalog[dark]), show_scan(catalog[light], directory / "pictures")]
            for exhibit in exhibits:
                say(console, exhibit)
    report = write_report(directory / "report.html", exhibits)
    console.print(f"\nPictures: {directory / 'pictures'}\nReport: {report.as_uri()}", soft_wrap=True)
    console.print("\nNext:")
    for words, what in NEXT:
        console.print(f"  {_program()} {words:20}  # {what}", soft_wrap=True)


def _program() -> str:
    """Return how this program is called from here."""
    given = Path(sys.argv[0])
    if given.name != "sfdaq" or shutil.which("sfdaq") == str(given.absolute()):
        return "sfdaq"
    return os.path.relpath(given)


@contextmanager
def _remembered_ctrl_c() -> Iterator[threading.Event]:
    """Yield what the first Ctrl-C sets, for an import that catches everything loses the KeyboardInterrupt.

    Further ones do not disturb the end in order.
    """
    pressed = threading.Event()

    def interrupt(*_) -> None:
        if not pressed.is_set():
            pressed.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if pressed.is_set() else before)


def _run(run_engine, plan, ctrl_c: threading.Event) -> str:
    """Run a plan of one run and return its uid; Ctrl-C ends it in order, and with it the demo."""
    from bluesky.utils import RunEngineInterrupted

    try:
        (uid,) = run_engine(plan)
    except RunEngineInterrupted:
        ctrl_c.set()
        run_engine.abort("Ctrl-C")
        raise KeyboardInterrupt from None
    return uid
