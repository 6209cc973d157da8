"""The plain installation is small and enough for the devices; a feature beyond it names its extra."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sfdaq_ophyd.sim.facility import NEEDS

MOST_DISTRIBUTIONS = 40
"""What somebody who wants the devices gets, this package included."""

PLAIN = """
import importlib.abc, json, sys
absent, codes = json.load(sys.stdin)

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
said = {}
for code in codes:
    try:
        exec(code, {})
    except BaseException as exc:
        said[code] = f"{type(exc).__name__}: {exc}"
print("SAID", json.dumps(said))
"""

MODULES = [
    *(
        "errors",
        "wire.frame",
        "calibration",
        "clients",
        "files",
        "devices",
        "plans",
        "session",
        "catalog",
        "sim",
    ),
    *("cli.doctor", "cli.convert", "cli.repair", "cli.sim", "cli.std_daq", "cli.broker", "cli.watch"),
    *("cli.demo", "session.checks", "session.devices", "session.magics"),
]

FEATURES = {
    "from sfdaq_ophyd.calibration.jungfrau import choose_engine as c; c('numba')": "calibration",
    "from sfdaq_ophyd.catalog import embedded_catalog as c; c('catalog')": "catalog",
    "from sfdaq_ophyd.catalog.pictures import draw; draw(None, None, title='')": "catalog",
    "from sfdaq_ophyd.catalog import calibrated_images as c; c(None, 'jf')": "catalog",
    "import sfdaq_ophyd.web": "web",
    "from sfdaq_ophyd.cli.watch import watch; watch()": "web",
    "from sfdaq_ophyd.sim import Facility; Facility(only='eiger')": "sim",
    "from sfdaq_ophyd.sim import Facility; Facility(only='std_daq')": "sim",
    "from sfdaq_ophyd.sim import Facility; Facility(only='broker')": "sim",
    "from sfdaq_ophyd.cli.demo import demo; demo()": "all",
    "from sfdaq_ophyd.session.startup import _best_effort as b; b()": "session",
    "from sfdaq_ophyd.clients import StdDaqRedis; StdDaqRedis('redis://h:1')": "redis",
    "from sfdaq_ophyd.clients import StdDaqWriterSocket; StdDaqWriterSocket()": "websocket",
    "from sfdaq_ophyd.session import RedisStore; RedisStore('redis://h:1', 'md')": "redis",
    "from sfdaq_ophyd.clients.broker_status import StatusListener as s; s('amqp://h:1').start()": "rabbitmq",
    "from sfdaq_ophyd.files.convert import run; list(run([], scheduler='tcp://h:1'))": "cluster",
}
"""What fails without its extra, and the extra."""


@pytest.fixture(scope="module")
def plain() -> set[str]:
    """Distributions that ``pip install sfdaq-ophyd`` brings."""
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(Path(__file__).parents[1] / "setup.cfg")
    lines = setup_cfg["options"]["install_requires"].split("\n")
    found, waiting = {"sfdaq-ophyd"}, [Requirement(line) for line in lines if line]
    while waiting:
        wanted = waiting.pop()
        key = canonicalize_name(wanted.name)
        if key in found:
            continue
        found.add(key)
        try:
            needed = map(Requirement, requires(wanted.name) or [])
        except PackageNotFoundError:
            pytest.fail(f"{wanted} is needed and not installed")
        for other in needed:
            if other.marker is None or other.marker.evaluate({"extra": ""}):
                waiting.append(other)
    return found


@pytest.fixture(scope="module")
def said(plain) -> dict[str, str]:
    """What each line says in a process that sees the plain installation only."""
    owners = packages_distributions()
    absent = [name for name, dists in owners.items() if plain.isdisjoint(map(canonicalize_name, dists))]
    imports = [f"import sfdaq_ophyd.{name}" for name in MODULES]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        input=json.dumps([absent, [*imports, *FEATURES]]),
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SAID")] or [done.stderr]
    return json.loads(line.removeprefix("SAID"))


def test_plain_installation_when_counted_then_small(plain):
    assert len(plain) <= MOST_DISTRIBUTIONS, sorted(plain)


@pytest.mark.parametrize("name", MODULES)
def test_plain_installation_when_a_module_is_imported_then_it_works(said, name):
    assert said.get(f"import sfdaq_ophyd.{name}") is None


@pytest.mark.parametrize(("code", "extra"), FEATURES.items(), ids=list(FEATURES.values()))
def test_feature_when_its_extra_is_absent_then_says_which_one(said, code, extra):
    assert said[code].startswith("ExtraMissing: ")
    assert said[code].endswith(f"Install with: pip install 'sfdaq-ophyd[{extra}]'")


def test_requirement_when_named_in_the_code_then_the_whole_installation_has_it():
    calls = [
        call
        for path in (Path(__file__).parents[1] / "sfdaq_ophyd").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "require"
    ]
    named = {name.value for call in calls for name in call.args[2:] if isinstance(name, ast.Constant)}
    named |= {name for names in NEEDS.values() for name in names}
    assert len(named) > 10
    assert not [name for name in sorted(named) if importlib.util.find_spec(name) is None]
