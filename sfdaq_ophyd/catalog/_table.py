"""A run as a table for the terminal."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import numpy as np

from ..errors import RequestError


def run_table(run, stream: str = "primary", *, columns: Sequence[str] | None = None, max_rows: int = 40):
    """Return one stream of a run as a table for rich to print.

    Parameters
    ----------
    run : bluesky_tiled_plugins BlueskyRun
        From ``catalog[uid]``.
    stream : str
        Name of the event stream.
    columns : sequence of str, optional
        Data keys. Default: every scalar, what was scanned first; images and arrays are left out.
    max_rows : int
        Of a longer run the middle is left out, and a row says how much.

    Returns
    -------
    rich.table.Table

    Raises
    ------
    RequestError
        No such stream, or a column that is none of its scalars.

    Examples
    --------
    ``rich.print(run_table(catalog[-1]))``
    """
    from rich.table import Table

    if stream not in list(run):
        raise RequestError("stream", stream, f"one of {sorted(run)}")
    scalars = scalar_keys(run, stream)
    chosen = list(scalars if columns is None else columns)
    if unknown := [key for key in chosen if key not in scalars]:
        raise RequestError("columns", unknown, f"some of {scalars}")
    values = run[stream].read(variables=[*chosen, "time"])
    table = Table(title=_title(run, stream))
    table.add_column("point", justify="right")
    for key in chosen:
        text = values[key].dtype.kind in "OUS"
        table.add_column(key, justify="left" if text else "right", overflow="fold")
    n_rows = len(values["time"])
    head = n_rows if n_rows <= max_rows else (max_rows + 1) // 2
    tail = min(n_rows - head, max_rows - head)
    for row in [*range(head), *range(n_rows - tail, n_rows)]:
        if row == n_rows - tail and n_rows > head + tail:
            table.add_row(
                "...", *[f"({n_rows - head - tail} more)" if key == chosen[0] else "" for key in chosen]
            )
        table.add_row(str(row + 1), *[_shown(key, values[key].values[row]) for key in chosen])
    return table


def scalar_keys(run, stream: str) -> list[str]:
    """Return the data keys of a stream that hold one value per event, the scanned ones first."""
    data_keys = run[stream].metadata["data_keys"]
    scalars = [key for key, spec in data_keys.items() if not spec.get("external") and not spec.get("shape")]
    dimensions = run.start.get("hints", {}).get("dimensions", [])
    scanned = [field for fields, _ in dimensions for field in fields if field in scalars]
    return list(dict.fromkeys([*scanned, *scalars]))


def _title(run, stream: str) -> str:
    start, stop = run.start, run.metadata.get("stop") or {}
    plan = start.get("plan_name", "run")
    number = f" {start['scan_id']}" if "scan_id" in start else ""
    return f"{plan}{number} ({start['uid'][:8]}), {stream}: {stop.get('exit_status', 'no stop document')}"


def _shown(key: str, value) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if key.endswith("timestamp") and math.isfinite(value):
            moment = datetime.datetime.fromtimestamp(float(value), datetime.UTC)
            return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
        return f"{value:.6g}"
    return "" if value is None else str(value)
