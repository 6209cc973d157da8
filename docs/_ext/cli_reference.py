"""Write the page on the command line from what ``--help`` says."""

from pathlib import Path

from typer.testing import CliRunner

from sfdaq_ophyd.cli import app
from sfdaq_ophyd.cli.app import COMMANDS, load

HEAD = """# Command line

Written from `--help` when the documentation is built. An error is one line on standard error and exit code 1;
a command line that cannot be understood is exit code 2.
"""


def _help(*words: str) -> str:
    terminal = {"COLUMNS": "96", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*words, "--help"], env=terminal, prog_name="sfdaq")
    if result.exit_code:
        raise RuntimeError(f"sfdaq {' '.join(words)} --help failed: {result.output}")
    lines = [line.rstrip() for line in result.output.strip("\n").splitlines()]
    title = " ".join(["sfdaq", *words])
    return f"\n## {title}\n\n```text\n" + "\n".join(lines) + "\n```\n"


def write(_sphinx_app) -> None:
    """Write ``reference/api/cli.md``."""
    text = HEAD + _help()
    for name in COMMANDS:
        try:
            command = load(name)
        except ModuleNotFoundError:
            continue
        text += _help(name)
        for sub in getattr(command, "commands", {}):
            text += _help(name, sub)
    page = Path(__file__).parent.parent / "reference" / "api" / "cli.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(text)


def setup(app_) -> dict:
    """Write the page before Sphinx looks for pages."""
    app_.connect("builder-inited", write, priority=100)
    return {"parallel_read_safe": True}
