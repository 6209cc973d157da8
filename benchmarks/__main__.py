"""Run benchmarks and write ``results.json``: ``python -m benchmarks [area...] [--repeat N] [--load N]``.

``python -m benchmarks busy`` is another thing: see `benchmarks.busy`.
Each ``bench_<area>.py`` lists functions in ``BENCHMARKS``; each returns a dict, or a list of dicts, with the
keys below. A ratio is to a baseline measured in the same run. Where the machine's memory sets a limit, that
was measured beside it too: "met" is "yes", "no" or "at its limit". Exit code 1 if any is "no".

With ``--repeat`` all of that is done again and again, and a row is met if it was met each time; with
``--load`` it is done beside so many processes that spin.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import traceback
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import busy

HERE = Path(__file__).parent
KEYS = ("name", "ratio", "bar", "limit", "met", "load", "baseline", "note")
MET = ("yes", "at its limit", "no")
"""From the best to the worst."""

COLUMNS = """\
Measure, print a table and write benchmarks/results.json. What a row means:

  name      what is measured; the docstring of its function in benchmarks/bench_<area>.py says how
  ratio     the figure over that of the baseline: the median, where there are several
  bar       what the ratio should be, at most (<=) or at least (>=)
  limit     the ratio that this machine allows, measured in turns with it; the note or the docstring says how
  met       yes; no; or at its limit: it misses the bar, and is within a tenth of its limit
  load      number of processes that spun beside
  baseline  what is compared with, measured in turns with it, or a figure that is given
  note      the spread first (the middle half of the ratios), then the figures themselves

Exit code 1 if a row is not met, 130 after Ctrl-C or SIGTERM: the table has what was measured until then.
"""


def areas() -> list[str]:
    """Name every area there is."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def measure(area: str, results: list[dict]) -> None:
    """Run one area and append its rows; a benchmark that fails is a result that is not met."""
    module = importlib.import_module(f"benchmarks.bench_{area}")
    for function in module.BENCHMARKS:
        print(f"{area}: {function.__name__} ...", flush=True)
        try:
            measured = function()
        except Exception as exc:
            traceback.print_exc()
            measured = {"name": function.__name__, "met": False, "note": f"failed: {exc}"}
        for result in measured if isinstance(measured, list) else [measured]:
            met = result["met"] if isinstance(result["met"], str) else "yes" if result["met"] else "no"
            results.append({key: result.get(key) for key in KEYS} | {"met": met})


def in_all(runs: list[list[dict]]) -> list[dict]:
    """Return a row for each name: of the runs that met its bar worst, the middle one; and how all were."""
    if len(runs) == 1:
        return runs[0]
    rows: dict[str, list[dict]] = {}
    for result in (result for run in runs for result in run):
        rows.setdefault(result["name"], []).append(result)
    return [_in_all(each, len(runs)) for each in rows.values()]


def _in_all(rows: list[dict], n_runs: int) -> dict:
    met = Counter(row["met"] for row in rows)
    worst = next(word for word in reversed(MET) if met[word])
    like_it = [row for row in rows if row["met"] == worst]
    shown = sorted(like_it, key=lambda row: row["ratio"] or 0)[len(like_it) // 2]
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    spread = f"{min(ratios):.3g} to {max(ratios):.3g} in " if ratios else ""
    words = ", ".join(f"{met[word]} {word}" for word in MET if met[word])
    note = f"{spread}{len(rows)} of {n_runs} runs: {words}; {shown['note']}"
    return shown | {"met": worst if len(rows) == n_runs else "no", "note": note}


def show(results: list[dict]) -> None:
    """Print a table."""
    table = Table(*KEYS)
    for result in results:
        shown = {key: "" if result[key] is None else str(result[key]) for key in KEYS}
        ratio = "-" if result["ratio"] is None else f"{result['ratio']:.3g}"
        table.add_row(*(shown | {"ratio": ratio}).values())
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main(words: list[str]) -> int:
    """Measure the areas wanted, or all; of what is not measured, the file keeps the last result."""
    if words[:1] == ["busy"]:
        return busy.main(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=COLUMNS,
        epilog="python -m benchmarks busy --help: whether scans end well",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("area", nargs="*", help=f"of {', '.join(areas())}; default all")
    parser.add_argument("--repeat", type=int, default=1, help="how often; a row is met if it is each time")
    parser.add_argument("--load", type=int, default=0, help="number of processes that spin beside")
    options = parser.parse_args(words)
    unknown = [name for name in options.area if name not in areas()]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(areas())}")
    if options.repeat < 1 or options.load < 0:
        parser.error("--repeat is 1 or more, --load 0 or more")
    runs: list[list[dict]] = []
    with busy.spinning(options.load), contextlib.suppress(KeyboardInterrupt):
        for _ in range(options.repeat):
            runs.append([])
            for area in options.area or areas():
                measure(area, runs[-1])
        runs.append([])
    whole = len(runs) > options.repeat
    if not whole and len(runs) > 1:
        runs.pop()  # the areas that it lacks would count as missed
    results = [result | {"load": options.load} for result in in_all([run for run in runs if run])]
    path = HERE / "results.json"
    measured = {(result["name"], result["load"]) for result in results}
    earlier = json.loads(path.read_text()) if (options.area or options.load) and path.exists() else []
    kept = [result for result in earlier if (result["name"], result.get("load", 0)) not in measured]
    path.write_text(json.dumps(kept + results, indent=2, default=float) + "\n")
    show(results)
    if not whole:
        print("stopped before the end", flush=True)
        return 130
    return 1 if any(result["met"] == "no" for result in results) else 0


if __name__ == "__main__":
    busy.heed_signals()
    sys.exit(main(sys.argv[1:]))
