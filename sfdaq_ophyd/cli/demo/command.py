"""The demo's course: facility, devices, scan, table, pictures."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

SHOWN = ("timestamp", "event_id", "pulse_id", "total")
"""Per detector, the columns of its table."""


def demo(
    directory: Annotated[Path, typer.Option(help="Catalog, frames and pictures go here.")] = Path(
        "demo-output"
    ),
    points: Annotated[int, typer.Option(min=2, help="Points of the scan.")] = 7,
    speed: Annotated[float, typer.Option(help="Divide the services' own delays by this.")] = 2.0,
    eiger_model: Annotated[str, typer.Option(help="16M, 9M, 4M, 1M or 500K.")] = "4M",
) -> None:
    """Scan a motor with every detector, against simulators; print the run and write its pictures.

    Example: sfdaq demo --directory demo-output --points 5
    """
    os.environ.setdefault("OPHYD_CONTROL_LAYER", "caproto")  # before ophyd is imported
    import bluesky.plans as bp
    from bluesky import RunEngine
    from bluesky.utils import ProgressBarManager
    from ophyd import EpicsMotor

    from ...catalog import embedded_catalog
    from ...devices import PulseId
    from ...sim import Facility
    from .detectors import available

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    exhibits = available()
    parts = ["pvs", *(exhibit.part for exhibit in exhibits)]
    options = {"eiger_model": eiger_model}
    folder = directory.resolve() / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"Starting the simulated facility ({', '.join(parts)}) and the catalog ...")
    with (
        Facility(speed, only=parts, **options) as facility,
        embedded_catalog(directory / "catalog") as catalog,
    ):
        motor = EpicsMotor(facility.pvs["motor"], name="motor")
        pulse_id = PulseId(facility.pvs["pulse_id"], name="pulse_id")
        detectors = [exhibit.make(facility, folder, pulse_id) for exhibit in exhibits]
        for device in (motor, pulse_id, *detectors):
            device.wait_for_connection(timeout=10)
        run_engine = RunEngine()
        catalog.subscribe(run_engine)
        if console.is_terminal:
            run_engine.waiting_hook = ProgressBarManager()
            # ophyd's own bar divides by zero where the motor already stands at its target
            warnings.filterwarnings("ignore", "invalid value", RuntimeWarning, "ophyd.status")
        console.print(f"Scanning {motor.name} with {', '.join(d.name for d in (pulse_id, *detectors))} ...")
        (uid,) = run_engine(bp.scan([pulse_id, *detectors], motor, 0, 2, points))
        catalog.flush()
        show(console, catalog[uid], [detector.name for detector in detectors], directory)


def show(console: Console, run, detectors: list[str], directory: Path) -> None:
    """Print the run from the catalog, a table per detector, and write pictures of its frames."""
    from ...catalog import run_table, scalar_keys
    from ...catalog.pictures import write_pictures

    keys = scalar_keys(run, "primary")
    for name in detectors:
        columns = ["motor", *(key for part in SHOWN if (key := f"{name}_{part}") in keys)]
        console.print(run_table(run, columns=columns))
    for path in write_pictures(run, directory):
        console.print(f"Wrote {path}", soft_wrap=True)
