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
    assert "Contracts: 11 kept, 0 broken." in done.stdout


APART = "of different systems do not know each other"

FORBIDDEN = [
    ("wire.pulse_id", "from .. import clients", "clients", "imports point down"),
    ("errors", "from . import wire", "wire", "imports point down"),
    ("devices.pulse_id", "from .. import plans", "plans", "imports point down"),
    ("clients._http", "from .. import files", "files", "imports point down"),
    ("sim.clock", "from .. import devices", "devices", "sim is the other end of the cable"),
    ("sim.clock", "import bluesky", "bluesky", "sim is the other end of the cable"),
    ("sim.facility", "import ophyd", "ophyd", "sim is the other end of the cable"),
    ("wire.pulse_id", "import socket", "socket", "wire and calibration do no I/O"),
    ("wire.pulse_id", "import h5py", "h5py", "wire and calibration do no I/O"),
    ("clients.simplon", "from . import std_daq", "clients.std_daq", f"clients {APART}"),
    ("clients.eiger_stream", "from . import std_daq_socket", "clients.std_daq_socket", f"clients {APART}"),
    ("wire.simplon", "from . import image_header", "wire.image_header", f"wire formats {APART}"),
    ("files.daq_file", "from . import eiger_file", "files.eiger_file", f"files {APART}"),
    ("devices.eiger._signals", "from .. import broker", "devices.broker", f"devices {APART}"),
    ("devices.jungfrau._control", "from .. import broker", "devices.broker", f"devices {APART}"),
    ("devices.broker._run", "from . import _runner", "devices.broker._runner", "calls only down"),
    ("devices.broker._run", "import ophyd", "ophyd", "knows no ophyd"),
]
"""Module, what is added to it, what it then imports, and the rule that this breaks."""


CIRCLES = [
    ("clients.std_daq_service", "from . import std_daq", ".std_daq_service -> .std_daq"),
    ("devices._status", "if 0: from . import _detector", "._status -> ._detector"),
]
"""Module, what is added to it, and the arrow of the circle that comes about."""


def broken(root: Path, added: list[tuple[str, ...]]) -> str:
    """What the linter says of the package with lines added to modules, which are as before afterwards."""
    before: dict[Path, str] = {}
    for module, line, *_ in added:
        path = root / "sfdaq_ophyd" / f"{module.replace('.', '/')}.py"
        text = path.read_text()
        before.setdefault(path, text)
        first = text.index("from __future__")
        path.write_text(text[:first] + text[first:].replace("\n", f"\n{line}\n", 1))
    done = lint(root)
    for path, text in before.items():
        path.write_text(text)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def caught(copy):
    return broken(copy, FORBIDDEN)


@pytest.mark.parametrize(("module", "line", "imported", "rule"), FORBIDDEN)
def test_floors_when_a_forbidden_import_is_added_then_caught_and_named(caught, module, line, imported, rule):
    assert f"{rule} BROKEN" in caught
    ours = imported if line.startswith("import ") else f"sfdaq_ophyd.{imported}"
    assert f"sfdaq_ophyd.{module} -> {ours}" in caught


def test_floors_when_imports_go_in_circles_or_a_folder_is_on_no_floor_then_each_is_caught_and_named(copy):
    (copy / "sfdaq_ophyd" / "extra").mkdir()
    (copy / "sfdaq_ophyd" / "extra" / "__init__.py").write_text("")
    try:
        said = broken(copy, CIRCLES)
    finally:
        shutil.rmtree(copy / "sfdaq_ophyd" / "extra")
    assert "no circles of imports BROKEN" in said and all(arrow in said for *_, arrow in CIRCLES)
    assert "sfdaq_ophyd.extra" in said or "extra" in said.partition("imports point down BROKEN")[2]


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
