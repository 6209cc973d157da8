"""What the demo shows of a run, all of it read back from the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...catalog import run_table, scalar_keys, write_pictures

PICTURES_PER_IMAGE = 2
"""Of each kind of image, the first point and the last."""

DEVICES = {
    "the machine's pulse id": ("pulse_id",),
    "Eiger": ("eiger_timestamp", "eiger_event_id", "eiger_is_good", "eiger_total"),
    "Jungfrau, calibrated": ("jf_timestamp", "jf_event_id", "jf_pulse_id", "jf_frame_number", "jf_total"),
    "standard DAQ, one file per point": ("writer_file", "writer_run_id", "writer_n_completed"),
    "sf-daq broker": (
        "sfdaq_run_number",
        "sfdaq_acquisition_number",
        "sfdaq_start_pulse_id",
        "sfdaq_stop_pulse_id",
    ),
}
"""Columns of each table of the scan, beside the motor."""


@dataclass
class Exhibit:
    """A run as it is shown.

    Attributes
    ----------
    start, stop : dict
        The run's documents.
    tables : dict
        Title to table.
    pictures : list of Path
    """

    start: dict
    stop: dict
    tables: dict[str, Table] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def calibrating_file(run) -> str:
    """Return the file of a pedestal run with one detector."""
    files = run["primary"].read()
    (key,) = [key for key in files if key.endswith("_pedestal")]
    return str(files[key].values[0])


def show(console: Console, run, directory: Path) -> Exhibit:
    """Print the tables of a run and write its pictures."""
    exhibit = Exhibit(dict(run.start), dict(run.metadata["stop"]))
    exhibit.tables = tables(run)
    for title, table in exhibit.tables.items():
        console.print(f"\n{title}")
        console.print(table)
    for stream in run:
        if images := image_keys(run, stream):
            exhibit.pictures += write_pictures(
                run, directory, stream=stream, keys=images, max_points=PICTURES_PER_IMAGE
            )
    for path in exhibit.pictures:
        console.print(f"Wrote {path}", soft_wrap=True)
    return exhibit


def image_keys(run, stream: str) -> list[str]:
    """Return the keys of a stream that hold images: external, and two dimensions of more than one pixel."""
    data_keys = run[stream].metadata["data_keys"]
    return [
        key
        for key, spec in data_keys.items()
        if spec.get("external") and len(spec["shape"]) > 1 and min(spec["shape"][-2:]) > 1
    ]


def tables(run) -> dict[str, Table]:
    """Return the tables of a run: a table per device for a scan, a table per stream for what comes later."""
    found = {}
    for stream in run:
        scalars = scalar_keys(run, stream)
        devices = DEVICES if stream == "primary" and "motor" in scalars else {f"stream {stream}": scalars}
        for title, keys in devices.items():
            chosen = [key for key in keys if key in scalars]
            moved = ["motor"] if devices is DEVICES else []
            found[title] = run_table(run, stream, columns=[*moved, *chosen])
    return found
