"""A headless Chromium, driven over its own DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import requests
from websockets.sync.client import connect

START = 120.0


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, width: int = 1500, height: int = 1000):
        self._folder = Path(tempfile.mkdtemp(prefix="sfdaq-chromium-"))
        program = (
            shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        )
        assert program, "chromium is not installed; `make chromium` does it"
        words = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={self._folder}"]
        words += [f"--window-size={width},{height}", "--hide-scrollbars", "about:blank"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._end)
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        port = self._port()
        pages = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=300).json()
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        options = {"max_size": 2**26, "origin": None, "open_timeout": 300}
        self._socket = self._stack.enter_context(connect(address, **options))
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def _port(self) -> int:
        deadline = time.monotonic() + START
        file = self._folder / "DevToolsActivePort"
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(file.read_text().split()[0])
            assert self._process.poll() is None, f"chromium ended with {self._process.returncode}"
            time.sleep(0.02)  # no event tells when it listens
        raise AssertionError(f"chromium did not listen within {START:g} s")

    def ask(self, method: str, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=300))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(json.dumps(message["params"]["entry"])[:500])

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def run(self, script: str):
        """Return what a JavaScript expression gives."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def violations(self) -> list[tuple[str, list[str]]]:
        """Return what axe-core (MPL-2.0, `axe.min.js`) has to say against the page, rule by rule."""
        self.run(Path(__file__).with_name("axe.min.js").read_text() + "; 0")
        found = json.loads(self.run("axe.run().then((found) => JSON.stringify(found.violations))"))
        return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")

    def fact(self, card: str, name: str) -> str:
        """Return one of the facts below a card, by the card's name."""
        return self.text(f'[data-name="{card}"] dd[data-fact="{name}"]')

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
