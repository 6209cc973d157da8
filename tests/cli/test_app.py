import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from sfdaq_ophyd import __version__
from sfdaq_ophyd.cli.app import COMMANDS, app, main

INSTALLED = [name for name in COMMANDS if find_spec(f"sfdaq_ophyd.cli.{name.replace('-', '_')}")]


def test_help_when_asked_then_lists_every_installed_command():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in INSTALLED:
        assert f" {name} " in result.output


@pytest.mark.parametrize("name", INSTALLED)
def test_help_when_asked_of_a_command_then_has_an_example(name):
    result = CliRunner().invoke(app, [name, "--help"], prog_name="sfdaq")
    assert result.exit_code == 0, result.output
    assert "Example" in result.output or "COMMAND" in result.output
    assert f"sfdaq {name}" in result.output


def test_help_when_asked_then_imports_nothing_heavy():
    """The demo and others choose a control layer before ophyd is imported: their modules do not."""
    code = (
        "import sys\n"
        "from sfdaq_ophyd.cli import main\n"
        "from sfdaq_ophyd.cli.app import COMMANDS\n"
        "heavy = {'ophyd', 'bluesky', 'tiled', 'caproto', 'h5py', 'fastapi', 'numba', 'dask'}\n"
        "for words in ([], *([name] for name in COMMANDS)):\n"
        "    sys.argv = ['sfdaq', *words, '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    if not words: print('numpy', 'numpy' in sys.modules)\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy False" in done.stdout and "loaded []" in done.stdout


def test_help_when_asked_then_costs_little_more_than_its_libraries():
    def cpu(code):
        code += "\nimport time; print('CPU', time.process_time())"
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        return float(done.stdout.rpartition("CPU ")[2])

    ours = "import sys; sys.argv = ['sfdaq', '--help']\nfrom sfdaq_ophyd.cli import main\n"
    ours += "try: main()\nexcept SystemExit: pass"
    pairs = [(cpu(ours), cpu("import typer, rich")) for _ in range(4)]
    assert min(one for one, _ in pairs) < 3 * min(other for _, other in pairs), pairs


def test_version_when_asked_then_printed():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output.strip()) == (0, __version__)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sim", "--only", "nix"], 1, "sfdaq: only='nix': expected names out of pvs"),
        (["sim", "--option", "foo"], 1, "sfdaq: --option='foo': expected NAME=VALUE"),
        (
            ["sim", "--option", "color=red"],
            1,
            "sfdaq: option='color': expected a name that starts with one of",
        ),
        (["sim", "--speed", "0"], 1, "sfdaq: speed=0.0: expected a number above 0"),
        (["sim", "--speed", "quick"], 2, "'quick' is neither a number nor auto"),
        (["nix"], 2, "No such command 'nix'"),
    ],
)
def test_sfdaq_when_told_nonsense_then_one_clear_line_and_exit_code(
    words, code, message, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["sfdaq", *words])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setitem(main.__globals__, "keep_log", lambda *serves: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    said, errors = capsys.readouterr()
    assert message in errors and "Traceback" not in errors and said == ""
    if code == 1:
        assert len(errors.strip().splitlines()) == 1
