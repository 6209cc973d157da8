"""Serve the page until Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable

from ..errors import ServiceUnreachable
from .access import token_for
from .app import make_app
from .watch import Watch


def serve(
    watch: Watch,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    token: str = "",
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page; returns after Ctrl-C or SIGTERM.

    Parameters
    ----------
    watch : Watch
    host : str
        Where to listen. Any address but this machine's own asks viewers for a token.
    port : int
        0 takes a free one.
    token : str
        In place of a random one, 16 characters or more.
    ready : callable
        Called with the address to open, the token in it.

    Raises
    ------
    ServiceUnreachable
        The address is in use, or not this machine's.
    """
    import uvicorn

    token = token_for(host, token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as exc:
        raise ServiceUnreachable("listening for viewers", url=f"{host}:{port}", reason=exc) from exc
    shown = f"[{host}]" if family is socket.AF_INET6 else host
    url = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets=sockets)
            ready(url)

    options = {
        "log_config": None,  # its records go where those of the process go
        "log_level": "warning",
        "access_log": False,
        "timeout_graceful_shutdown": 2,
        "ws_max_size": 4096,
    }
    with listener:
        Server(uvicorn.Config(make_app(watch, token), **options)).run(sockets=[listener])
