"""``sfdaq doctor``: is every configured address and PV well, and if not, what to do."""

from __future__ import annotations

import dataclasses
import json
import os
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

    with _configured(config_path(Path(), config)) as loaded:
        from ..session.checks import checks_of, run_checks  # ophyd goes with it, and reads its environment
        from ..session.devices import leave_quietly

        leave_quietly()
        failed = 0
        for finding in run_checks(checks_of(loaded), limit):
            failed += not finding.ok
            if as_json:
                print(json.dumps(dataclasses.asdict(finding)), flush=True)
            else:
                _show(finding)
    if not as_json:
        print(f"{failed} failed" if failed else "all well", flush=True)
    raise typer.Exit(1 if failed else 0)


class _configured:  # noqa: N801 - used as a function
    """Load a file; if it asks for simulators, run them meanwhile."""

    def __init__(self, path: Path):
        from ..session import load_config

        self._path, self.sim = path, None
        self.config = load_config(path)

    def __enter__(self):
        from ..session import load_config

        if self.config.sim is not None:
            from ..session.simulated import SimulatedFacility

            self.sim = SimulatedFacility()
            self.config = load_config(self._path, port=self.sim.port, prefix=self.sim.prefix)
            self.sim.start(self.config.sim, self.config.directory / "facility")
            self.sim.wait()
        if self.config.control_layer:
            os.environ.setdefault("OPHYD_CONTROL_LAYER", self.config.control_layer)
        return self.config

    def __exit__(self, *exc):
        if self.sim is not None:
            self.sim.close()


def _show(finding) -> None:
    from ..session.magics import line_of

    color = "green" if finding.ok else "red"
    Console(highlight=False, soft_wrap=True, markup=False).print(line_of(finding), style=color)
