"""Names of files and directories below /sf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire.broker import (
    BEAMLINES,
    beamline_of_address,
    clean_tag,
    error_file,
    local_path,
    log_file,
    raw_file,
    run_directory,
)

FILE = "/sf/bernina/data/p12345/raw/run0001/data/acq0001.JF01T03V01.h5"


@pytest.mark.parametrize(
    ("tag", "cleaned"),
    [
        ("sample A/b:c#1", "sample_A_b_c_1"),
        ("a_b-c+d.e.", "a_b-c+d.e_"),
        ("///", "___"),
        ("probe-ä", "probe-_"),
        ("abcdefghij" * 6, "abcdefghij" * 5),
        ("", ""),
    ],
)
def test_tag_when_cleaned_then_as_measured(tag, cleaned):
    assert clean_tag(tag) == cleaned


@given(st.text())
def test_tag_when_anything_then_short_legal_and_stable(tag):
    cleaned = clean_tag(tag)
    assert len(cleaned) <= 50 and "/" not in cleaned and cleaned not in (".", "..")
    assert clean_tag(cleaned) == cleaned


@pytest.mark.parametrize(
    ("number", "tag", "name"),
    [
        (0, None, "run0000"),
        (12345, None, "run12345"),
        (-1, None, "run-001"),
        (7, "a b", "run0007-a_b"),
        (7, "", "run0007"),
    ],
)
def test_run_directory_when_named_then_as_the_server_does(number, tag, name):
    assert run_directory(number, tag) == name


def test_files_when_beside_the_data_then_where_the_writers_put_them():
    assert error_file(FILE).endswith("/data/acq0001.JF01T03V01.h5.err")
    assert log_file(FILE).endswith("/run0001/logs/acq0001.JF01T03V01.log")
    assert raw_file(FILE).endswith("/run0001/raw_data/acq0001.JF01T03V01.h5")


@pytest.mark.parametrize("path", ["/gpfs/x", "sf/x", "/sf/../etc/passwd", "", "/sfx/y"])
def test_local_path_when_not_below_sf_then_refused(path, tmp_path):
    with pytest.raises(RequestError, match="below /sf"):
        local_path(path, tmp_path)


def test_local_path_when_mounted_elsewhere_then_there(tmp_path):
    assert local_path(FILE, tmp_path) == tmp_path / FILE.removeprefix("/sf/")
    assert local_path(FILE).as_posix() == FILE


@pytest.mark.parametrize(("address", "name"), [("129.129.242.5", "alvra"), ("129.129.247.99", "furka")])
def test_beamline_when_address_is_in_its_network_then_found(address, name):
    assert beamline_of_address(address) is BEAMLINES[name]


@pytest.mark.parametrize("address", ["10.0.0.1", "129.129.241.1", "", "129.129.24"])
def test_beamline_when_address_is_nobodys_then_none(address):
    assert beamline_of_address(address) is None
