"""``sfdaq session``: a profile collection, opened in IPython."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, require


def session(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A profile: see sfdaq init.")] = Path("."),
    config: Annotated[
        str, typer.Option(help="'sim' or a sfdaq.yaml. Default: SFDAQ_CONFIG, else that of DIR.")
    ] = "",
    code: Annotated[str, typer.Option("-c", help="Run this and exit, as IPython does.")] = "",
) -> None:
    """Open a beamline session in IPython: devices, plans, RE and catalog by name.

    Example: sfdaq session mybeamline
    """
    require("session", "sfdaq session", "IPython", "matplotlib")
    if not (directory / "startup").is_dir():
        raise ConfigError(f"{directory}: no profile, for it has no folder startup. Make one: sfdaq init DIR")
    if config:
        os.environ["SFDAQ_CONFIG"] = config if config == "sim" else str(Path(config).absolute())
    words = [sys.executable, "-m", "IPython", f"--profile-dir={directory.absolute()}"]
    sys.stdout.flush()
    os.execv(sys.executable, [*words, "-c", code] if code else words)
