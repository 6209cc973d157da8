"""Each service killed, paused and started again: what the screen says, and that it recovers by itself."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import yaml

from ..ports import free_ports
from .browser import Browser

SIM = [sys.executable, "-m"]
BROKER = """
import sys, signal
from sfdaq_ophyd.sim import Facility
with Facility(only=["broker"], port_base=int(sys.argv[1])):
    signal.pause()
"""
PAGE = "from sfdaq_ophyd.cli import main; main()"
CARD = """(() => {{
  const card = document.querySelector('{}');
  return JSON.stringify({{level: card?.dataset.level ?? '', old: card?.classList.contains('old') ?? true,
    text: card?.textContent ?? '', problem: card?.querySelector('.problem')?.textContent ?? ''}});
}})()"""


class Services:
    """The simulators and the page's server, each in a process (group) of its own."""

    def __init__(self, directory):
        eiger, module, assembled, live, daq, redis, broker, slow, ca, page = map(str, free_ports(10))
        sim = "sfdaq_ophyd.sim."
        settings = json.dumps({"rate_multiplicator": 20})
        self._commands = {
            "eiger": [*SIM, sim + "eiger", "--port", eiger, "--shape", "40x50", "--initialized"],
            "jf": [*SIM, sim + "jungfrau", "--name", "JF03T01V02", "--settings", settings]
            + ["--ports", f"{module},{assembled},{live}"],
            "writer": [*SIM, sim + "std_daq", "--port", daq, "--redis-port", redis],
            "sfdaq": [sys.executable, "-c", BROKER, broker],
            "pulse_id": [*SIM, sim + "pvs", "--prefix", "OUT:", "--port", ca],
            "page": [sys.executable, "-c", PAGE, "watch", "--config", "sfdaq.yaml", "--port", page],
        }
        devices = {
            "eiger": {"class": "Eiger", "url": f"http://127.0.0.1:{eiger}"},
            "jf": {"class": "Jungfrau", "detector_name": "JF03T01V02"}
            | {"endpoints": [f"tcp://127.0.0.1:{module}"]},
            "writer": {"class": "StdDaqWriter", "url": f"http://127.0.0.1:{daq}"},
            "sfdaq": {"class": "SfDaqBroker", "url": f"http://127.0.0.1:{broker}"}
            | {"slow_url": f"http://127.0.0.1:{slow}"},
            "pulse_id": {"class": "PulseId", "pv": "OUT:RX-PULSEID"},
            "motor": {"class": "Motor", "pv": "OUT:M1"},
        }
        config = {"pgroup": "p12345", "directory": str(directory), "devices": devices}
        (directory / "sfdaq.yaml").write_text(yaml.safe_dump(config))
        local = {"EPICS_CA_ADDR_LIST": f"127.0.0.1:{ca}", "EPICS_CA_AUTO_ADDR_LIST": "NO"}
        self._environment, self._directory = {**os.environ, **local}, directory
        self.url = f"http://127.0.0.1:{page}/"
        self._running = {}

    def start(self, *names):
        for name in names or self._commands:
            self._running[name] = subprocess.Popen(
                self._commands[name],
                env=self._environment,
                cwd=self._directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def send(self, number, *names):
        for name in names or list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running[name].pid, number)
            if number == signal.SIGKILL:
                self._running.pop(name).wait()


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    services = Services(tmp_path_factory.mktemp("outages"))
    services.start()
    yield services
    services.send(signal.SIGKILL)


@pytest.fixture(scope="module")
def page(services, wait_for):
    browser = Browser()
    wait_for(lambda: answers(services), "the page's server")
    browser.open(services.url)
    yield browser
    browser.close()
    services_errors = [error for error in browser.errors if '"source": "network"' not in error]
    assert not services_errors  # the browser itself notes that a server does not answer


def answers(services):
    with contextlib.suppress(OSError), socket.create_connection(services.url[7:-1].split(":"), timeout=1):
        return True


def card(page, name):
    selector = ".pulse" if name == "pulse_id" else f'[data-name="{name}"]'
    return json.loads(page.run(CARD.format(selector)))


def is_well(page, name):
    seen = card(page, name)
    level = ("good", "bad") if name == "writer" else ("good",)  # a DAQ just started knows no state
    return seen["level"] in level and not seen["old"] and not seen["problem"]


def is_out(page, name):
    """Return the card if it is red and, what the page itself knows, dimmed."""
    seen = card(page, name)
    if name == "jf":  # its numbers are the page's own; the frame is dimmed
        return seen if seen["level"] == "bad" and "no frame since" in seen["text"] else None
    return (
        seen if seen["level"] == "bad" and seen["old"] and (seen["problem"] or name == "pulse_id") else None
    )


def gone(page):
    box = "document.getElementById('gone')"
    return page.run(f"{box}.hidden ? '' : {box}.textContent")


def test_services_when_paused_or_killed_then_said_and_after_their_return_well(services, page, wait_for):
    """The Eiger is out while the others are well, and the other way round."""
    others = ["jf", "writer", "sfdaq", "pulse_id"]
    wait_for(lambda: all(is_well(page, name) for name in ["eiger", *others]), "all well")
    for stop, back in (
        (signal.SIGSTOP, lambda *names: services.send(signal.SIGCONT, *names)),
        (signal.SIGKILL, services.start),
    ):
        for out, well in ((others, ["eiger"]), (["eiger"], others)):
            services.send(stop, *out)
            said = {}
            for name in out:
                said[name] = wait_for(lambda name=name: is_out(page, name), f"{name} out")
            assert "none of 1 streams" in said.get("jf", {"text": "none of 1 streams"})["text"]
            assert "does not answer" in said.get("pulse_id", {"text": "does not answer"})["text"]
            if "pulse_id" in said:
                wait_for(lambda: "lost, " in page.text("#pvs .old"), "the motor lost")
            assert all(is_well(page, name) for name in well)
            back(*out)
            for name in out:
                wait_for(lambda name=name: is_well(page, name), f"the return of {name}")
            wait_for(lambda: page.text("#pvs .aged:not(.old)"), "the motor")
    assert gone(page) == ""


def test_page_when_its_server_is_paused_or_killed_then_says_so_and_recovers(services, page, wait_for):
    wait_for(lambda: is_well(page, "eiger"), "all well")
    for number in (signal.SIGSTOP, signal.SIGKILL):
        services.send(number, "page")
        words = wait_for(lambda: gone(page), "the words")
        assert words.startswith("The page's server does not answer since")
        assert page.run("document.body.className") == "gone"
        assert not page.violations()  # what is old can be read
        if number == signal.SIGSTOP:
            services.send(signal.SIGCONT, "page")
        else:
            services.start("page")
        wait_for(lambda: gone(page) == "" and is_well(page, "eiger"), "its return")
