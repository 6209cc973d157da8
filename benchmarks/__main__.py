"""Run benchmarks and write ``results.json``: ``python -m benchmarks [area...]``.

``python -m benchmarks busy`` is another thing: see `benchmarks.busy`.
Each ``bench_<area>.py`` lists functions in ``BENCHMARKS``; each returns a dict, or a list of dicts, with the
keys below. A ratio is to a baseline measured in the same run. Where the machine's memory sets a limit, that
was measured beside it too: "met" is "yes", "no" or "at its limit". Exit code 1 if any is "no".
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import busy

HERE = Path(__file__).parent
KEYS = ("name", "ratio", "bar", "limit", "met", "baseline", "note")


def areas() -> list[str]:
    """Name every area there is."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def measure(area: str) -> list[dict]:
    """Run one area; a benchmark that fails is a result that is not met."""
    module = importlib.import_module(f"benchmarks.bench_{area}")
    results = []
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
    return results


def show(results: list[dict]) -> None:
    """Print a table."""
    table = Table(*KEYS)
    for result in results:
        shown = {key: "" if result[key] is None else str(result[key]) for key in KEYS}
        ratio = "-" if result["ratio"] is None else f"{result['ratio']:.3g}"
        table.add_row(*(shown | {"ratio": ratio}).values())
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main(wanted: list[str]) -> int:
    """Measure the areas wanted, or all; of what is not measured, the file keeps the last result."""
    if wanted[:1] == ["busy"]:
        return busy.main(wanted[1:])
    unknown = [name for name in wanted if name not in areas()]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(areas())}", file=sys.stderr)
        return 2
    results = [result for area in wanted or areas() for result in measure(area)]
    path = HERE / "results.json"
    names = {result["name"] for result in results}
    earlier = json.loads(path.read_text()) if wanted and path.exists() else []
    kept = [result for result in earlier if result["name"] not in names]
    path.write_text(json.dumps(kept + results, indent=2, default=float) + "\n")
    show(results)
    return 1 if any(result["met"] == "no" for result in results) else 0


sys.exit(main(sys.argv[1:]))
