"""The printed run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sfdaq_ophyd.catalog import run_table
from sfdaq_ophyd.errors import RequestError

from .composed import Composed, frames_of, image_key, scalar, write_frames


@pytest.fixture(scope="module")
def run(catalog, tmp_path_factory):
    path = write_frames(tmp_path_factory.mktemp("frames") / "f.h5", frames_of(1, 6))
    run = Composed(catalog, scan_id=42, hints={"dimensions": [[["motor"], "primary"]]})
    keys = {
        "det_image": image_key(),
        "det_timestamp": scalar("number"),
        "det_event_id": scalar("string"),
        "det_is_good": scalar("boolean"),
        "spectrum": {"source": "t", "dtype": "array", "shape": [3]},
        "motor": scalar("number"),
    }
    stream = run.stream("primary", keys)
    stream.datum(run.frames("det_image", path), 0, 6)
    for i in range(6):
        stream.event(
            det_timestamp=1.7e9 + i,
            det_event_id=f"7/{i}",
            det_is_good=i != 2,
            spectrum=[1.0, 2.0, 3.0],
            motor=i / 2,
        )
    run.stop()
    return catalog[run.uid]


def printed(table):
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def test_table_when_printed_then_scalars_only_and_the_motor_first(run):
    text = printed(run_table(run))
    header = next(line for line in text.splitlines() if "point" in line)
    assert [c.strip(" ┃") for c in header.split("┃") if c.strip()] == [
        "point",
        "motor",
        "det_timestamp",
        "det_event_id",
        "det_is_good",
    ]
    assert "42" in text
    assert "success" in text
    assert "2023-11-14 22:13:23.000000" in text
    assert "7/5" in text
    assert text.count("no ") == 1


def test_table_when_longer_than_asked_then_the_middle_is_left_out(run):
    text = printed(run_table(run, columns=["det_event_id"], max_rows=3))
    assert [f"7/{i}" in text for i in range(6)] == [True, True, False, False, False, True]
    assert "(3 more)" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stream": "dark"}, "expected one of"), ({"columns": ["det_image"]}, "expected some of")],
)
def test_table_when_asked_for_what_is_not_there_then_request_error(run, options, message):
    with pytest.raises(RequestError, match=message):
        run_table(run, **options)
