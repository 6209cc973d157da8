"""Recorded calls of the published client and of its command line tools, and how they are made again."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Callable
from pathlib import Path

import requests
import std_daq_client

from sfdaq_ophyd import clients
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.wire.std_daq import WriteRequest
from sfdaq_ophyd.wire.std_daq_config import check_config

from .approach import Approach
from .notes import store_config
from .recording import acquisition_of, identity_asked
from .scene import START

METHODS = {
    "get_status": ("GET", "/writer/status", "writer"),
    "get_config": ("GET", "/daq/config", "config"),
    "get_stats": ("GET", "/daq/stats", "stats"),
    "get_logs": ("GET", "/daq/logs", "logs"),
    "get_deployment_status": ("GET", "/daq/deployment", "deployment"),
    "set_config": ("POST", "/daq/config", "config"),
    "start_writer_async": ("POST", START[0], "writer"),
    "start_writer_sync": ("POST", START[1], "writer"),
    "stop_writer": ("POST", "/writer/stop", "writer"),
}
"""Call of the client to method and path of its request, and key of what it returns."""

TOOLS = {
    "std_cli_get_status": ("get_status", "status"),
    "std_cli_get_config": ("get_config", "config"),
    "std_cli_set_config": ("set_config", "set-config"),
    "std_cli_get_logs": ("get_logs", "logs"),
    "std_cli_get_stats": ("get_stats", "stats"),
    "std_cli_get_deploy_status": ("get_deployment_status", "deploy-status"),
    "std_cli_write_async": ("start_writer_async", "write-async"),
    "std_cli_write_sync": ("start_writer_sync", "write-sync"),
    "std_cli_write_stop": ("stop_writer", "stop"),
}
"""Published tool to call of the client and subcommand of ours."""

SPEED = 8.0


def read_calls(path: Path) -> tuple[dict, list[dict]]:
    """Return the simulator's settings and the rows; only the newer dialect speaks of reports."""
    text, folder = path.read_text(), path.parent.name
    newer = "fastapi" in folder or "flask" not in folder and "reports" in text
    settings = {
        "dialect": "fastapi" if newer else "flask",
        "pydantic": 1 if "pydantic1" in folder else 2,
        "speed": SPEED,
    }
    rows = [json.loads(line) for line in text.splitlines()]
    return settings, [row for row in rows if "call" in row or "tool" in row]


def as_exchange(call: str, args: list, returned, raised: str | None, i: int) -> dict:
    """Return a call as the HTTP exchange it stands for."""
    method, path, payload = METHODS[call]
    reply = (
        {"status": "error", "message": raised}
        if raised
        else {"status": "ok", "message": "", payload: returned}
    )
    if call == "start_writer_async" and not raised:
        reply["message"] = "Writing started."
    request = {"method": method, "path": path, "json": args[0] if args else None}
    return {"t": float(i), "request": request, "reply": reply}


class Calls(Approach):
    """The rows of one recording on one fresh simulator; use as a context manager."""

    def __init__(self, settings: dict, exchanges: list[dict], wait_for):
        super().__init__(wait_for, **settings)
        self.exchanges, self.pending = exchanges, []

    def make(self, i: int, call: Callable):
        """Bring the simulator to where row `i` was made, and call; ("returned", value) or ("raised", exc)."""
        row = self.exchanges[i]
        self.approach(row, self.exchanges[i:])
        self._before_config(row["request"], row["reply"].get("config"))
        if row["reply"]["status"] == "ok" and row["request"]["path"] in START:
            self.sent.add(identity_asked(row["request"]["json"]))
        if row["request"]["path"] == START[1] and acquisition_of(row["reply"]):
            threading.Thread(target=self.help_sync, args=[acquisition_of(row["reply"])], daemon=True).start()
        try:
            return "returned", call()
        except Exception as exc:
            return "raised", exc

    def _before_config(self, request: dict, config) -> None:
        """Store what no row stored."""
        if not isinstance(config, dict):
            return
        ours = self.server.service.config()[0]
        if request["method"] == "POST":
            if self.status()["state"] == "WRITING":
                self.reset()  # our client changes nothing under somebody's acquisition
            changed = request["json"] or {}
            config = {**ours, **{key: value for key, value in config.items() if key not in changed}}
        if config != ours:
            store_config(self, config)


def same_exception(recorded: dict, exc: Exception) -> bool:
    """Tell whether a script that catches what the published client raised catches this as well."""
    name = recorded["type"].rpartition(".")[2]
    if name == "StdDaqAdminException":
        ours = not isinstance(exc, std_daq_client.StdDaqAdminException)
        return isinstance(exc, clients.StdDaqAdminException if ours else std_daq_client.StdDaqAdminException)
    found = getattr(requests.exceptions, name, None) or getattr(builtins, name, None) or RuntimeError
    return isinstance(exc, found)


def is_refused_by_us(call: str, args: list) -> bool:
    """Tell a call whose argument our client refuses although the service makes something of it."""
    try:
        if call.startswith("start_writer"):
            WriteRequest.from_dict(args[0], default_run_id=0)
        elif call == "set_config":
            check_config(args[0])
    except RequestError:
        return True
    return False
