"""Replay of a recorded session with the websocket generation's control.

What lies between the rows is made up as they show that it must have been: images, dead writers, an
acquisition that ran before. What a client sends it sends once it has seen what the recorded one had seen.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
import threading
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ...std_daq import simulated_websocket_daq

RAW = "/sls/test/raw"
NUMBERS = ("n_image", "writer_id", "start_id")
TEXTS = ("path", "file_prefix")


class Client:
    """A session whose statuses are kept."""

    def __init__(self, url: str):
        self.seen: list[dict] = []
        self.closed: str | None = None
        self._connection = connect(url, open_timeout=120, close_timeout=1)
        self.socket = self._connection.__enter__()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        try:
            while True:
                self.seen.append(json.loads(self.socket.recv()))
        except ConnectionClosed as exc:
            self.closed = "no close frame received or sent" if exc.rcvd is None else f"{exc.rcvd.code} "

    def close(self):
        self._connection.__exit__(None, None, None)


def collapsed(statuses: list[dict]) -> tuple[tuple, ...]:
    """Return (status, reason, count of images in the end, how often), neighbours of one kind once."""
    found: list[list] = []
    for status in statuses:
        count = status.get("count") if status["status"] == "saving_file" else None
        key = [status["status"], status.get("reason"), count]
        if found and found[-1][:3] == key:
            found[-1][3] += 1
        else:
            found.append([*key, 1])
    return tuple(tuple(each) for each in found)


SHORT = ("creating_file", "stop", "saving_file", "waiting_for_first_image", "idle")
"""States of which ours may show one more: the recorded session did not look in time."""


ENDS = ("file_saved", "error")
"""States of which one session is told."""


@functools.cache
def agree(recorded: tuple[tuple, ...], ours: tuple[tuple, ...], several: bool) -> bool:
    """Tell whether two sequences are one, but for what a session may miss.

    Of several sessions one is told the end; it need not be the one that was.
    """
    if not recorded or not ours:
        return all(_may_be_missed(each, several) for each in recorded) and all(
            _may_be_more(each, several) for each in ours
        )
    if recorded[0][:3] == ours[0][:3] and agree(recorded[1:], ours[1:], several):
        return True
    if _may_be_missed(recorded[0], several) and agree(recorded[1:], ours, several):
        return True
    return _may_be_more(ours[0], several) and agree(recorded, ours[1:], several)


def _may_be_missed(each: tuple, several: bool) -> bool:
    state, reason, _, times = each
    short = times == 1 and state in SHORT and state != "idle"
    return reason is None and (short or several and state in ENDS)


def _may_be_more(each: tuple, several: bool) -> bool:
    state, reason, _, _ = each
    return state in SHORT or reason is None and several and state in ENDS


def kills(text: str) -> bool:
    """Tell whether the driver dies of a command, whatever it does."""
    try:
        command = json.loads(text)
    except ValueError:
        return False
    if not isinstance(command, dict) or not isinstance(command.get("command", ""), str):
        return True
    if command.get("command") != "start" or "path" not in command:
        return command.get("command") != "stop"
    numbers = (command.get(name, 0) for name in NUMBERS)
    return any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers) or any(
        not isinstance(command.get(name, ""), str) for name in TEXTS
    )


class WebsocketReplay:
    """One recorded scenario on one fresh simulator; use as a context manager.

    Parameters
    ----------
    meta : dict
    rows : list of dict
        All rows of the recording.
    wait_for : callable
        The fixture.
    """

    def __init__(self, meta: dict, rows: list[dict], wait_for):
        self.rows, self._wait_for = rows, wait_for
        self.patience = 60.0  # s; less once something differed
        self._root = Path(tempfile.mkdtemp(prefix="sls-"))
        (self._root / "raw").mkdir()
        self.processes = next((row["processes"] for row in rows if "processes" in row), {})
        names = {name for name in self.processes if re.fullmatch(r"w\d+", name)}
        told = re.search(r"(\d+) std_det_writer", str(meta.get("driver")))
        n_writers = int(told[1]) if told else max((int(name[1:]) + 1 for name in names), default=2)
        self._settings = {
            "speed": 8.0,
            "running": False,
            "n_writers": n_writers,
            "folders": {RAW: str(self._root / "raw")},
            "writable": (),
            "servers": (),
            "metadata_writer": not self.processes or "wm" in self.processes,
        }
        self._absent = [k for k in range(n_writers) if self.processes and f"w{k}" not in names]
        self.clients: dict[str, Client] = {}
        self._wanted: dict[str, list[dict]] = {}
        self._images = 0
        self._sent: list[str] = []
        self._prefixes: set[str] = set()

    def __enter__(self):
        self._server = simulated_websocket_daq(**self._settings)
        self.server = self._server.__enter__()
        return self

    def __exit__(self, *exc_info):
        for client in self.clients.values():
            client.close()
        self._server.__exit__(*exc_info)
        shutil.rmtree(self._root)

    def run(self, subtests) -> None:
        """Play every row, whatever differs on the way."""
        with subtests.test("what was before"):
            self._prime()
        for i, row in enumerate(self.rows):
            if (name := row.get("client")) and name not in self.clients:
                self.clients[name], self._wanted[name] = Client(self.server.ws_url), []
            if what := next((key for key in ("send", "event", "processes", "files") if key in row), None):
                with subtests.test(f"{i + 2}: {what} {str(row[what])[:60]}"):
                    getattr(self, f"_{what}")(row, i)
            elif "recv" in row:
                if row["recv"]["status"] == "recording":
                    self._let_images_come(i)
                self._wanted[row["client"]].append(row["recv"])
        for name, wanted in self._wanted.items():
            with subtests.test(f"what client {name} saw"):
                recorded, ours = collapsed(wanted), collapsed(self.clients[name].seen)
                assert agree(recorded, ours, len(self.clients) > 1), f"{ours}, not {recorded}"

    # ---- before the rows ----------------------------------------------------------------------------

    def _prime(self):
        for k in self._absent:
            self.server.fail_next("writer_dies", writer=k)
        first = next((row["recv"]["status"] for row in self.rows if "recv" in row), "idle")
        if first not in ("idle", "creating_file", "waiting_for_first_image", "recording"):
            raise AssertionError(f"no way to begin in state {first}")
        if first != "idle":
            before = Client(self.server.ws_url)
            n_images = max(row["recv"].get("count", 0) for row in self.rows if "recv" in row) or 16_777_215
            start = {"command": "start", "path": RAW, "file_prefix": "before_", "n_image": n_images}
            before.socket.send(json.dumps(start))
            self._wait_for(lambda: self.server.driver.shown == first, f"an acquisition that is {first}")
            before.close()

    # ---- one row each -------------------------------------------------------------------------------

    def _send(self, row: dict, i: int):
        name = row["client"]
        self._reach(*self.clients)
        if (self._wanted[name] or [{}])[-1].get("status") == "recording":
            counts = lambda: [status.get("count", 0) for status in self.clients[name].seen]  # noqa: E731
            self._wait_for(lambda: max(counts()) >= self._images, f"{self._images} images")
        text = row["send"] if isinstance(row["send"], str) else json.dumps(row["send"])
        if isinstance(row["send"], dict) and row["send"].get("command") == "start":
            self._images = 0
            if not kills(text):
                self._prefixes.add(str(row["send"].get("file_prefix", "file")))
        self._sent.append(text)
        self.clients[name].socket.send(text)

    def _event(self, row: dict, i: int):
        name = row["client"]
        if row["event"] == "connected":
            return
        client = self.clients[name]
        died = str(self.processes.get("driver", "running")).startswith("died")
        refused = str((self._wanted[name] or [{}])[-1].get("reason")).startswith("Invalid command! expected")
        if not died or row["detail"].startswith("1000") and not refused:
            self._reach(name)
            client.close()
            return
        if not (self._sent and kills(self._sent[-1])):  # the real one died of itself
            self._reach(name)
            self.server.fail_next("driver_dies")
        self._wait_for(lambda: client.closed is not None, f"the end of client {name}")
        assert client.closed == row["detail"]

    def _processes(self, row: dict, i: int):
        recorded = {name for name, words in row["processes"].items() if words == "running"}
        self._becomes(lambda: {name for name, lives in self.server.alive().items() if lives}, recorded)

    def _files(self, row: dict, i: int):
        begun = "|".join(map(re.escape, self._prefixes))
        listed = {name for name in row["files"] if begun and re.match(begun, name)}
        raw = self._root / "raw"
        self._becomes(lambda: {p.name for p in raw.iterdir() if not p.name.startswith("before_")}, listed)

    # ---- inside -------------------------------------------------------------------------------------

    def _becomes(self, ours, recorded: set[str]) -> None:
        """Wait until what there is of ours is what was recorded: files and writers take their time."""
        try:
            self._wait_for(lambda: ours() == recorded, "what was recorded", timeout=self.patience)
        except AssertionError:
            self.patience = 2.0
            raise AssertionError(f"{ours()}, not {recorded}") from None

    def _reach(self, *names: str) -> None:
        """Wait until clients have seen what they are recorded to have seen."""
        several = len(self.clients) > 1
        for name in names:
            wanted, client = collapsed(self._wanted[name]), self.clients[name]

            def there(wanted=wanted, client=client):
                return agree(wanted, collapsed(client.seen), several) or client.closed is not None

            try:
                self._wait_for(there, f"client {name}", timeout=self.patience)
            except AssertionError:
                self.patience = 2.0  # the rows after it may differ, too
                raise AssertionError(f"{name} saw {collapsed(client.seen)}, not {wanted}") from None

    def _n_images(self, i: int) -> int:
        """Return how many images the acquisition at row i has before anything but a stop is sent."""
        n = 0
        for row in self.rows[i:]:
            status = row.get("recv", {})
            n = max(n, status.get("count") or 0)
            stops = isinstance(row.get("send"), dict) and row["send"].get("command") == "stop"
            if status.get("status") == "saving_file" or n and "send" in row and not stops:
                return n
        return n

    def _let_images_come(self, i: int) -> None:
        more = self._n_images(i) - self._images
        if more > 0:
            self._reach(*self.clients)
            self._wait_for(lambda: self.server.driver.accepting, "images wanted")
            self._images += more
            self.server.source.burst(more, rate=more / 0.5)
