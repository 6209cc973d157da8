"""``sfdaq watch``: the live page."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError


def watch(
    config: Annotated[
        str,
        typer.Option(
            envvar="SFDAQ_CONFIG",
            help="'sim' or a sfdaq.yaml. Default: ./sfdaq.yaml, else sim.",
        ),
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than loopback ask for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8050,
    token: Annotated[
        str, typer.Option(envvar="SFDAQ_WATCH_TOKEN", help="In place of a random one, 16 characters or more.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Pictures per second of each detector, at most.")] = 4.0,
    port_base: Annotated[
        int, typer.Option(help="First port of a simulated facility that runs already, for a file with `sim`.")
    ] = 0,
    prefix: Annotated[str, typer.Option(help="Prefix of its PVs.")] = "",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a page with the newest frames, pulse id, writer, broker and runs, until Ctrl-C.

    Detectors are asked while somebody watches, and as often for ten viewers as for one.

    Example: sfdaq watch --config sim --port 0
    """
    os.environ.setdefault("OPHYD_CONTROL_LAYER", "caproto")  # before ophyd is imported
    from ..web import serve
    from ..web.sources import watch_of

    def ready(url: str) -> None:
        print(f"READY {url}", flush=True)
        if open_browser:
            webbrowser.open(url)

    with ExitStack() as stack:
        # the server raises the signal again once it has ended; what was made here is then taken away
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)))
        found = _load(config, port_base, prefix, stack)
        if found.control_layer:
            os.environ["OPHYD_CONTROL_LAYER"] = found.control_layer
        serve(watch_of(found, rate), host=host, port=port, token=token, ready=ready)


def _load(config: str, port_base: int, prefix: str, stack: ExitStack):
    from ..session import load_config

    if config == "sim" or not config and not Path("sfdaq.yaml").exists():
        from ..sim import Facility
        from ..web import config_of

        facility = stack.enter_context(Facility(eiger_model="1M"))
        return config_of(facility, facility.directory)
    found = load_config(Path(config or "sfdaq.yaml"), port=port_base, prefix=prefix)
    if found.sim is not None and not port_base:
        raise RequestError(
            "--port-base", port_base, f"the first port of the facility {config} starts; or --config sim"
        )
    return found
