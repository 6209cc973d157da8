"""The floors of setup.cfg hold, and a forbidden import is really caught."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
COMMAND = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "--config", str(root / "setup.cfg"), "--no-cache"],
        cwd=root,  # grimp finds the package from here, before the installed one
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("layers")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "sfdaq_ophyd", root / "sfdaq_ophyd", ignore=ignore)
    shutil.copy(REPO / "setup.cfg", root)
    return root


def test_floors_when_the_package_is_linted_then_kept(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 7 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken", "named"),
    [
        ("wire/pulse_id.py", "from .. import clients", "imports point down", "wire.pulse_id"),
        ("errors.py", "from . import wire", "imports point down", "errors"),
        ("devices/pulse_id.py", "from .. import plans", "imports point down", "devices.pulse_id"),
        ("clients/_http.py", "from .. import files", "imports point down", "clients._http"),
        ("sim/clock.py", "from .. import devices", "sim is the other end of the cable", "sim.clock"),
        ("sim/clock.py", "import bluesky", "sim is the other end of the cable", "sim.clock"),
        ("sim/world.py", "import ophyd", "sim is the other end of the cable", "sim.world"),
        ("wire/pulse_id.py", "import socket", "wire and calibration do no I/O", "wire.pulse_id"),
        ("wire/pulse_id.py", "import h5py", "wire and calibration do no I/O", "wire.pulse_id"),
        ("clients/simplon.py", "from . import std_daq", "do not know each other", "clients.simplon"),
        ("devices/eiger/_signals.py", "from .. import broker", "do not know each other", "devices.eiger"),
        ("clients/std_daq_config.py", "from . import std_daq", "no circles of imports", "clients"),
        ("devices/_status.py", "if 0: from . import _detector", "no circles of imports", "devices"),
    ],
)
def test_floors_when_a_forbidden_import_is_added_then_caught_and_named(copy, file, line, broken, named):
    path = copy / "sfdaq_ophyd" / file
    text = path.read_text()
    first = text.index("from __future__")
    path.write_text(text[:first] + text[first:].replace("\n", f"\n{line}\n", 1))
    try:
        done = lint(copy)
    finally:
        path.write_text(text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in done.stdout
    assert f"sfdaq_ophyd.{named}" in done.stdout


def test_floors_when_a_folder_is_on_no_floor_then_caught(copy):
    (copy / "sfdaq_ophyd" / "extra").mkdir()
    (copy / "sfdaq_ophyd" / "extra" / "__init__.py").write_text("")
    try:
        done = lint(copy)
    finally:
        shutil.rmtree(copy / "sfdaq_ophyd" / "extra")
    assert done.returncode == 1
    assert "extra" in done.stdout + done.stderr


def private_imports(root: Path) -> list[str]:
    """Return each import of a module's or a name's private part from outside of the package that has it."""
    found = []
    for path in sorted(root.rglob("*.py")):
        package = [root.name, *path.relative_to(root).parts[:-1]]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            for full in ([*base, alias.name] for alias in node.names):
                private = [i for i, part in enumerate(full) if part.startswith("_") and part[:2] != "__"]
                if full[0] == root.name and any(package[:i] != full[:i] for i in private):
                    found.append(f"{path.relative_to(root)}:{node.lineno}: {'.'.join(full)}")
    return found


def test_private_module_when_imported_then_by_its_own_package_alone():
    """Ruff's PLC2701 sees other projects' private names; ours it takes for one package."""
    assert private_imports(REPO / "sfdaq_ophyd") == []


def test_private_module_when_another_package_imports_it_then_found(tmp_path):
    for package in ("files", "devices/eiger"):
        (tmp_path / "ours" / package).mkdir(parents=True)
    (tmp_path / "ours/files/convert.py").write_text("from ._storage import writing\n")
    (tmp_path / "ours/devices/eiger/x.py").write_text(
        "from .._debts import Debts\nfrom ...files import _storage\n"
    )
    assert private_imports(tmp_path / "ours") == ["devices/eiger/x.py:2: ours.files._storage"]
