"""Bringing the simulator to where the next recorded reply says that the service was."""

from __future__ import annotations

import ast
import contextlib
from collections import Counter

from .recording import REFUSED, acquisition_of, identity, is_named, log_of
from .scene import NOBODY, RAW, START, Scene

FROM_READY = ("ERROR", "Cannot reach WRITING", "Your acquisition")
"""How the messages begin of starts that were refused only after the writer was found READY."""


class Approach(Scene):
    """Look at a recorded reply and do what must have been done before it."""

    pending: list
    flows = bursts = False

    def approach(self, row: dict, rest: list[dict]) -> None:
        """Prepare for `row`, the first of `rest`."""
        reply, path = row.get("reply"), row["request"]["path"]
        if not isinstance(reply, dict):
            reply = {}
        if path in START:
            self._before_start(row, reply, rest)
        elif isinstance(reply.get("writer"), dict):
            if (reply["writer"]["state"], row["request"]["method"]) != ("READY", "GET"):
                self._block(reply["writer"]["acquisition"])
            self._before_status(reply["writer"], row["request"]["method"] == "GET", rest)
        elif "logs" in reply:
            self._before_logs(log_of(reply))
        elif reply.get("stats"):
            self.wait_for(self.server.service.stats, "the first entry of the stats")
        elif servers := (reply.get("deployment") or {}).get("servers"):
            self._before_deployment(servers, str(row.get("note")))
        note = str(row.get("note"))
        if "Hz detector" in note:
            self.flow()
        if "Hz live data" in note:
            self.source.burst(1000, rate=20.0)
        if "detector stopped" in note:
            self.flows = False
            self.source.silence()
        if "file deleted" in note:
            (self.root / "raw" / "view.h5").unlink()

    def flow(self) -> None:
        """Let the detector send by itself, as the real one did, until it is silenced."""
        self.flows = True
        self.source.burst(100_000, rate=100.0 * self.server.settings.speed)

    def _before_start(self, row: dict, reply: dict, rest: list[dict]) -> None:
        message = str(reply.get("message", ""))
        if refused := REFUSED.match(message):
            self._before_status(ast.literal_eval(refused[1]), True, rest)
            return
        if not (reply.get("status") == "ok" or message.startswith(FROM_READY)):
            return
        if self.status()["state"] == "WRITING":
            self.finish(_fate(self.status()["acquisition"], rest))
        if self.status()["state"] != "READY":
            self.reset()
        if message.startswith("ERROR") and self.status()["acquisition"] is None:
            self.perform(NOBODY)
        body = row["request"].get("json")
        if (
            message.startswith("Cannot reach WRITING")
            and isinstance(body, dict)
            and body.get("n_images") == 1
        ):
            if self.server.service.writer.listening and body["output_file"] != f"{RAW}/isdir.h5":
                self.server.fail_next("missed_writing", seconds=60)
                self.source.burst(100_000, rate=1000.0)
                self.bursts = True

    def _before_status(self, status: dict, looking: bool, rest: list[dict]) -> None:
        wanted, acquisition, ours = status["state"], status["acquisition"], self.status()
        if not is_named(acquisition):
            if wanted == "UNKNOWN":
                if ours["state"] != wanted and not self._is_busy():
                    self.lose()
                return
            if is_named(ours["acquisition"]):
                self.lose()
            if looking and self.status()["state"] == "UNKNOWN":
                self.reset()
            return
        if wanted == "WRITING" or not looking and not self.is_known(acquisition):
            self._let_begin(acquisition, rest)
        elif not self.is_known(acquisition):
            if identity(acquisition["info"]) not in self.sent and acquisition["state"] == "FINISHED":
                self.perform(acquisition)
            return
        if self.status()["state"] == "WRITING":
            self.drive_to(acquisition)
            stats, info = acquisition["stats"], acquisition["info"]
            if looking and wanted == "READY":
                if stats["n_write_completed"] < info["n_images"]:
                    self.reset()
                self.wait_for(lambda: self.status()["state"] == "READY", "end of the acquisition")

    def _let_begin(self, acquisition: dict, rest: list[dict]) -> None:
        """Wait for an acquisition that was asked for; ask for it where no row did."""
        if self.is_running(acquisition):
            return
        if self._is_busy() or identity(acquisition["info"]) in self.sent:
            with contextlib.suppress(AssertionError):
                self.wait_for(lambda: self.is_running(acquisition), "an acquisition asked for", timeout=3)
                return
        if self.status()["state"] == "WRITING":
            self.finish(_fate(self.status()["acquisition"], rest))
        self.begin(acquisition)

    def _is_busy(self) -> bool:
        """Tell whether a request is still without its reply."""
        return any(thread.is_alive() for _, thread in self.pending)

    def _block(self, acquisition: dict | None) -> None:
        """Wait until the driver is blocked by a dead writer, where the record shows that it was."""
        if not is_named(acquisition):
            return
        stats, driver = acquisition["stats"], self.server.service._driver
        if (waiting := stats["n_write_requested"] - stats["n_write_completed"]) > 5:
            blocked = lambda: driver._outstanding == waiting and driver._inbox.qsize() > 5  # noqa: E731
            self.wait_for(blocked, "a blocked driver")

    def _before_logs(self, wanted: list[dict]) -> None:
        """Carry out what stands in the log and was not sent by any row."""
        service = self.server.service
        if not wanted or not service.store.redis.ping():
            return
        keys = Counter(map(_key, wanted))

        def ours() -> Counter:
            return Counter(_key(acquisition) for _, acquisition in service.logs(1000))

        def all_is_there() -> bool:
            status, newest = self.status(), service.logs(1)
            ended = status["state"] == "READY" and is_named(status["acquisition"])
            return status["state"] == "READY" and (not ended or bool(newest) and self.is_known(newest[0][1]))

        with contextlib.suppress(AssertionError):  # what just ended may be on its way to Redis
            self.wait_for(
                lambda: ours() >= keys or all_is_there(), "entries of the log", timeout=10, period=0.05
            )
        if ours() >= keys:
            return
        logged = ours()
        for acquisition in reversed(wanted):
            if logged[_key(acquisition)]:
                logged[_key(acquisition)] -= 1
            elif self.is_running(acquisition):
                self.finish(acquisition)
            elif self.is_known(acquisition) or identity(acquisition["info"]) not in self.sent:
                self.perform(acquisition)
        with contextlib.suppress(AssertionError):  # what was carried out just now is on its way to Redis too
            self.wait_for(lambda: ours() >= keys, "entries of the log", timeout=30, period=0.05)

    def _before_deployment(self, servers: dict, note: str) -> None:
        service = self.server.service
        if service._deployer is None:
            service.add_servers(sorted(servers))
        elif "injected" in note:
            config_id = service.config()[1]
            now = {server: message for _, server, message in service.store.reports(config_id)}
            for server, message in servers.items():
                if now.get(server) != message:
                    service.store.report(config_id, server, message)


def _key(acquisition: dict) -> tuple:
    return identity(acquisition["info"]), acquisition["message"]


def _fate(acquisition: dict, rest: list[dict]) -> dict | None:
    """Return how a running acquisition ended, from a later row."""
    for row in rest:
        found = [*log_of(row.get("reply"))]
        if current := acquisition_of(row.get("reply")):
            found.append(current)
        for other in found:
            if identity(other["info"]) == identity(acquisition["info"]) and other["stats"]["stop_time"]:
                return other
    return None
