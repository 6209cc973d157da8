"""What a user gets by installing, and what the build makes of a git tag."""

import ast
import configparser
import importlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import bluesky.plans as bp
import pytest
from bluesky import RunEngine

import sfdaq_ophyd

REPO = Path(__file__).parents[1]
DISTRIBUTIONS = {"yaml": "pyyaml", "zmq": "pyzmq", "PIL": "pillow", "epics": "pyepics"}
"""Where a module comes in a distribution of another name."""
COMES_ALONG = {
    "urllib3",
    "starlette",
    "sqlalchemy",
    "pandas",
    "llvmlite",
    "pydantic_core",
    "click",
}
"""Imported, and part of the interface of a distribution that is declared."""


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    return parser


def test_version_when_installed_then_the_package_says_the_same():
    assert sfdaq_ophyd.__version__ == version("sfdaq_ophyd")


def test_console_script_when_installed_then_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="sfdaq")
    from sfdaq_ophyd.cli import main

    assert script.load() is main


@pytest.mark.parametrize("extra", ["calibration", "catalog", "web", "sim", "all", "test", "docs", "dev"])
def test_extras_when_listed_then_present(setup_cfg, extra):
    assert setup_cfg["options.extras_require"][extra].strip()


def test_public_names_when_imported_then_there():
    """The names of the architecture page that exist so far."""
    names = {
        "sfdaq_ophyd.devices": ["PulseId"],
        "sfdaq_ophyd.sim": ["Facility"],
        "sfdaq_ophyd.catalog": ["embedded_catalog"],
        "sfdaq_ophyd.errors": ["SfdaqError"],
    }
    for module, wanted in names.items():
        assert set(wanted) <= set(
            importlib.import_module(module).__all__ if module[-6:] != "errors" else wanted
        )


def test_dependencies_when_the_package_imports_something_then_it_is_declared(setup_cfg):
    requirements = setup_cfg["options"]["install_requires"] + "".join(
        setup_cfg["options.extras_require"].values()
    )
    declared = {re.split(r"[\[<>=~;]", line)[0].strip().lower() for line in requirements.split("\n")}
    used = {name for path in (REPO / "sfdaq_ophyd").rglob("*.py") for name in _imported(path)}
    used -= set(sys.stdlib_module_names) | {"sfdaq_ophyd"} | COMES_ALONG
    missing = {DISTRIBUTIONS.get(name, name).lower().replace("_", "-") for name in used} - declared
    assert not missing


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _git(root, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@pytest.mark.parametrize(("tag", "expected"), [("v1.2.3", r"1\.2\.3"), (None, r"0\.1\.\d.*")])
def test_version_when_built_from_git_then_the_tag_or_the_fallback(tmp_path, tag, expected):
    scm = pytest.importorskip("setuptools_scm")
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "one")
    if tag:
        _git(tmp_path, "tag", tag)
    found = scm.get_version(root=tmp_path, fallback_version="0.1.0")
    assert re.fullmatch(expected, found), found


def test_repository_when_listed_then_has_what_a_project_needs():
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "Makefile", ".ci/run", ".pre-commit-config.yaml"):
        assert (REPO / name).is_file(), name
    assert "BSD 3-Clause" in (REPO / "LICENSE").read_text()


def test_gate_when_read_then_calls_everything():
    text = (REPO / ".ci" / "run").read_text()
    for target in ("test", "lint", "docs", "demo", "wheel"):
        assert re.search(rf"^(nice -n 19 )?make .*\b{target}\b", text, re.M)
    lint = (REPO / "Makefile").read_text()
    assert "ruff check" in lint and "lint-imports" in lint and "sphinx-build -W" in lint


def test_setup_when_called_twice_then_it_says_what_it_installs_and_the_second_installs_nothing():
    engine, seen = RunEngine(context_managers=[]), []

    def catalog(name, doc):
        seen.append(name)

    said = sfdaq_ophyd.setup(engine, catalog)
    assert [line.split(":")[0] for line in said[:2]] == [
        "preprocessor save_once",
        "preprocessor run_number_wrapper",
    ]
    assert said[2].startswith("documents go to") and len(said) == 3
    assert sfdaq_ophyd.setup(engine, catalog) == []
    engine(bp.count([], 1))
    assert seen.count("start") == 1 and len(engine.preprocessors) == 2
