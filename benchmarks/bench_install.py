"""What an installation brings, and how long its import takes."""

from __future__ import annotations

import configparser
import os
import re
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from .pairs import Ratio, interleave, result

ROUNDS = 9
IMPORTS = {
    "": "sfdaq_ophyd.devices",
    "calibration": "sfdaq_ophyd.calibration._fused",
    "catalog": "sfdaq_ophyd.catalog, tiled.client",
    "web": "sfdaq_ophyd.web",
    "sim": "sfdaq_ophyd.sim.eiger, sfdaq_ophyd.sim.broker",
    "session": "IPython, matplotlib.pyplot, sfdaq_ophyd.session.devices",
    "all": "sfdaq_ophyd.devices, sfdaq_ophyd.catalog, sfdaq_ophyd.web, tiled.client",
}
"""Extra to what its user imports."""


def _requirements(extra: str) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).parents[1] / "setup.cfg")
    text = parser["options"]["install_requires"]
    if extra:
        text += "\n" + parser["options.extras_require"][extra]
    return [line for line in text.split("\n") if line]


def brought(extra: str) -> tuple[int, float]:
    """Return how many distributions an extra needs, this package included, and their size in MB."""
    found, size, waiting = set(), 0, [Requirement(line) for line in _requirements(extra)]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (name, *sorted(wanted.extras)) in found:
            continue
        try:
            dist = distribution(wanted.name)
        except PackageNotFoundError:
            continue  # another system's
        if name not in {each[0] for each in found}:
            paths = [path.locate() for path in dist.files or ()]
            size += sum(os.path.getsize(path) for path in paths if os.path.exists(path))
        found.add((name, *sorted(wanted.extras)))
        for needed in map(Requirement, dist.requires or ()):
            marks = [{"extra": each} for each in wanted.extras or {""}]
            if needed.marker is None or any(needed.marker.evaluate(mark) for mark in marks):
                waiting.append(needed)
    return len({each[0] for each in found}) + 1, size / 1e6


def _cpu(code: str) -> float:
    """Return the CPU of a process, s. Bytecode is kept, as that of an installed package is."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    env["OPHYD_CONTROL_LAYER"] = "caproto"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, check=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def sizes_and_imports():
    """Every extra against bluesky and ophyd."""
    codes = ["import bluesky, ophyd", *(f"import bluesky, ophyd, {what}" for what in IMPORTS.values())]
    base, *ours = interleave([lambda code=code: _cpu(code) for code in codes], ROUNDS)
    results = []
    for extra, figures in zip(IMPORTS, ours):
        n, size = brought(extra)
        results.append(
            result(
                f"import with [{extra}]" if extra else "import of the devices",
                Ratio(figures, base),
                most=1.2 if not extra else 10,
                baseline="import bluesky, ophyd",
                note=f"{n} distributions, {size:.0f} MB",
            )
        )
    return results


def help_of_the_command_line():
    """``sfdaq --help`` against ``import typer``; the note has its CPU, the goal is 0.3 s."""
    main = "import sys; sys.argv[1:] = ['--help']; sys.stdout = open('/dev/null', 'w'); "
    main += "from sfdaq_ophyd.cli import main; main()"
    ours, bare = interleave([lambda: _cpu(main), lambda: _cpu("import typer")], ROUNDS)
    note = f"{sorted(ours)[ROUNDS // 2]:.2f} s of CPU"
    return result("sfdaq --help", Ratio(ours, bare), most=4, baseline="import typer", note=note)


BENCHMARKS = [sizes_and_imports, help_of_the_command_line]
