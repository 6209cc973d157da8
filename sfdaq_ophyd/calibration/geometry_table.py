"""Where the modules of the known detectors sit: the facility's geometry table.

Origins are in units of gap-expanded pixels, turns are counter-clockwise quarters. Source: contract
jungfrau.md, section 6.6, and its ``geometry_table.json``. A detector is looked up by its full name, then
without its version.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One detector: a module's (y, x) origins, its quarter turns, those of the whole, strip sensor or not."""

    origins: tuple[tuple[int, int], ...]
    module_turns: tuple[int, ...]
    turns: int
    strip: bool


def _row(y, x, module_turns=None, turns=0, strip=False) -> Row:
    return Row(tuple(zip(y, x)), tuple(module_turns or [0] * len(y)), turns, strip)


# fmt: off
TABLE: dict[str, Row] = {
    "JF01T03": _row([0, 550, 1100], [0, 0, 0]),
    "JF02T09V01": _row([0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1036, 2072, 3108, 4144, 5180, 6216, 7252, 8288]),
    "JF02T09": _row(
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [8288, 7252, 6216, 5180, 4144, 3108, 2072, 1036, 0],
        turns=2,
    ),
    "JF02T01": _row([0], [0], turns=2),
    "JF03T01": _row([0], [0]),
    "JF04T01": _row([0], [0]),
    "JF05T01": _row([0], [0], strip=True),
    "JF06T32": _row(
        [68, 0, 618, 618, 550, 550, 1168, 1168, 1100, 1100, 1718, 1718, 1650, 1650, 2268, 2268, 2200,
         2200, 2818, 2818, 2750, 2750, 3368, 3368, 3300, 3300, 3918, 3918, 3850, 3850, 4468, 4400],
        [972, 2011, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117, 66, 1106, 2145, 3184,
         66, 1106, 2145, 3184, 66, 1106, 2145, 3184, 66, 1106, 2145, 3184, 1106, 2145],
        turns=1,
    ),
    "JF06T08": _row(
        [68, 0, 618, 550, 1168, 1100, 1718, 1650],
        [0, 1039, 0, 1039, 67, 1106, 67, 1106],
        turns=1,
    ),
    "JF06T04": _row([68, 0, 618, 550], [0, 1039, 67, 1106], turns=1),
    "JF07T32": _row(
        [0, 0, 68, 68, 550, 550, 618, 618, 1100, 1100, 1168, 1168, 1650, 1650, 1718, 1718, 2200, 2200,
         2268, 2268, 2750, 2750, 2818, 2818, 3300, 3300, 3368, 3368, 3850, 3850, 3918, 3918],
        [68, 1107, 2146, 3185, 68, 1107, 2146, 3185, 68, 1107, 2146, 3185, 68, 1107, 2146, 3185, 0, 1039,
         2078, 3117, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117, 0, 1039, 2078, 3117],
    ),
    "JF07T03": _row([0, 550, 1100], [0, 0, 0]),
    "JF08T01": _row([0], [0]),
    "JF09T01": _row([0], [0]),
    "JF10T01": _row([0], [0], strip=True),
    "JF11T04": _row([0, 0, 0, 0], [9306, 6198, 3108, 0], strip=True),
    "JF12T04": _row([0, 0, 90, 90], [0, 3117, 0, 3117], strip=True),
    "JF13T01": _row([0], [0]),
    "JF14T01": _row([0], [0]),
    "JF15T08": _row([0, 149, 550, 699, 1100, 1249, 1649, 1798], [149, 1185, 149, 1185, 0, 1037, 0, 1037]),
    "JF16T03": _row([0, 550, 1100], [0, 0, 0]),
    "JF17T16": _row(
        [0, 69, 550, 619, 1100, 1169, 1650, 1719, 2200, 2269, 2750, 2819, 597, 667, 1636, 1706],
        [607, 1646, 607, 1646, 607, 1646, 538, 1577, 538, 1577, 538, 1577, 583, 3212, 514, 3143],
        module_turns=[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 3],
    ),
    "JF18T01": _row([0], [0], strip=True),
    "JF19T01": _row([0], [0]),
    "JF20T01": _row([0], [0]),
    "JF21T01": _row([0], [0]),
    "JF22T01": _row([0], [0], turns=3),
}
# fmt: on
"""Known detectors."""
