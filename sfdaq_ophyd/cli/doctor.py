"""``sfdaq doctor``: is every configured address and PV well, and if not, what to do."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def doctor(
    config: Annotated[
        str, typer.Option(help="'sim' or a sfdaq.yaml. Default: SFDAQ_CONFIG, else ./sfdaq.yaml, else sim.")
    ] = "",
    limit: Annotated[float, typer.Option(min=1, help="s until everything must have answered.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Check every configured address and PV: one line each with latency, version, and what to do if it fails.

    With 'sim' the simulated facility is started, checked, and stopped. Exit code 1 if anything failed.

    Example: sfdaq doctor --config sfdaq.yaml
    """
    from ..session import config_path
    from ..session.simulated import load_and_simulate

    loaded, sim = load_and_simulate(config_path(Path(), config))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with ExitStack() as stack:
        if sim is not None:
            stack.callback(sim.close)
            sim.wait()
        from ..session.checks import (  # ophyd goes with it, and reads its environment
            checks_of,
            run_checks,
            told,
        )
        from ..session.devices import leave_quietly

        leave_quietly()
        all_well, findings = True, run_checks(checks_of(loaded), limit)
        if as_json:
            for finding in findings:
                all_well &= finding.ok
                print(json.dumps(dataclasses.asdict(finding)), flush=True)
        else:
            for line, well in told(findings):
                all_well &= well
                console.print(line, style="green" if well else "red")
    raise typer.Exit(0 if all_well else 1)
