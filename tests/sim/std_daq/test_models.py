"""What the two generations of pydantic make of the same body."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sfdaq_ophyd.sim.std_daq.rest_fastapi import bodies

WRONG = "wrong"
WRITE_REQUEST, DAQ_CONFIG = ({2: new, 1: old} for new, old in zip(bodies(2), bodies(1)))


def read(model, body, field):
    try:
        return getattr(model.model_validate(body), field)
    except ValidationError:
        return WRONG


@pytest.mark.parametrize(
    ("field", "value", "new", "old"),
    [
        ("bit_depth", 16.9, WRONG, 16),
        ("bit_depth", "16", 16, 16),
        ("bit_depth", "16.0", 16, WRONG),
        ("bit_depth", True, 1, 1),
        ("bit_depth", [16], WRONG, WRONG),
        ("detector_name", 5, WRONG, "5"),
        ("detector_name", [5], WRONG, WRONG),
        ("module_positions", {}, {}, {}),
        ("module_positions", [], WRONG, {}),
        ("module_positions", {"0": [0, 1, 2, 3]}, WRONG, WRONG),
    ],
)
def test_config_when_a_value_is_odd_then_each_generation_reads_it_its_way(field, value, new, old):
    assert (read(DAQ_CONFIG[2], {field: value}, field), read(DAQ_CONFIG[1], {field: value}, field)) == (
        new,
        old,
    )


def test_objects_when_they_are_lists_then_only_the_older_generation_takes_empty_ones():
    assert [read(DAQ_CONFIG[p], {"submodule_info": []}, "submodule_info") == WRONG for p in (2, 1)] == [
        True,
        False,
    ]
    assert [read(DAQ_CONFIG[p], [], "bit_depth") for p in (2, 1)] == [WRONG, None]
    assert [read(WRITE_REQUEST[p], [["n_images", 5]], "n_images") for p in (2, 1)] == [WRONG, WRONG]
