"""Text files beside the data of a detector: results of the online analysis, lists of frames for CrystFEL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from ...wire.detector_name import DaqRec


def write_dap(path: Path, pulse_ids: Iterable[int]) -> None:
    """Write one line per frame: pulse id, whether it is a hit, number of spots."""
    path.write_text("".join(f"{pulse_id} {pulse_id % 5 == 0:d} {pulse_id % 7}\n" for pulse_id in pulse_ids))


def write_crystfel_lists(data: Path, remote: str, detector: str) -> dict[str, int]:
    """Write ``.dark.lst`` and ``.light.lst``: which rows of a converted file have laser; frames by kind.

    Parameters
    ----------
    data : Path
        The converted file.
    remote : str
        Its path on the server, which stands in the lists.
    """
    with h5py.File(data) as file:
        name = next(name for name in file["data"] if name.split(":")[0] == detector)
        words = [DaqRec.decode(int(word)) for word in file[f"data/{name}/daq_rec"][:, 0]]
    rows: dict[str, list[int]] = {"dark": [], "light": []}
    for row, word in enumerate(words):
        rows["light" if word.laser and not word.dark_shot else "dark"].append(row)
    for kind, numbers in rows.items():
        if numbers:
            lines = "".join(f"{remote} //{number}\n" for number in numbers)
            data.with_suffix(f".{kind}.lst").write_text(lines)
    return {kind: len(numbers) for kind, numbers in rows.items()}
