"""Build the scene of a recording on the simulator, and play its lines."""

from __future__ import annotations

import http.client
import json
import re
import threading
from urllib.parse import urlsplit

from sfdaq_ophyd.sim.broker import BrokerPart
from sfdaq_ophyd.sim.broker.detector_calls import dap_file
from sfdaq_ophyd.sim.broker.hardware import MODES, beamline_with
from sfdaq_ophyd.sim.broker.run_calls import config_file
from sfdaq_ophyd.sim.broker.site import POWER_ON_STEP
from sfdaq_ophyd.sim.clock import PulseClock
from sfdaq_ophyd.sim.facility import World
from sfdaq_ophyd.wire.broker import BEAMLINES
from sfdaq_ophyd.wire.broker_operations import OPERATIONS

from .broker_recording import expanded, reply_of

SIMULATED = re.compile(r"(JF\d\dT\d\dV\d\d)\b([^;]*(?:simulated|powered)[^;]*)")
STATES = ("running", "waiting", "transmitting", "run_finished", "error", "stopped")
SENSORS = {
    "TEMPERATURE_ADC": "temperature_adc",
    "TEMPERATURE_FPGA": "temperature_fpga",
    "TEMPERATURE_THRESHOLDS": "temperature_threshold",
}
UNITS = {"s": "", "ms": "e-3", "us": "e-6", "ns": "e-9"}


class Steps:
    """Hold a power-on at each of its steps until whoever looks has seen enough of it.

    Attributes
    ----------
    free : bool
        Nobody looks: go on by yourself.
    """

    def __init__(self, delays):
        self.free = False
        self._wait, delays.wait = delays.wait, self._wait_and_hold
        self._held, self._next = threading.Event(), threading.Semaphore(0)

    def _wait_and_hold(self, seconds: float) -> None:
        self._wait(seconds)
        if seconds != POWER_ON_STEP:
            return
        self._held.set()
        while not self._next.acquire(timeout=0.05) and not self.free:
            self._wait(0.0)  # leaves with the simulator
        self._held.clear()

    def go_on(self) -> None:
        """Let a power-on that is held make its next step."""
        if self._held.is_set():
            self._held.clear()
            self._next.release()


class Stage:
    """One simulator, furnished as the recording's `setup` says."""

    def __init__(self, first: dict, directory, *, writers: bool):
        self.clock = PulseClock()
        world = World(self.clock, directory)
        self.part = BrokerPart(
            world,
            dialect=first["dialect"],
            pgroup=None,
            running=(),
            pvs=None,
            writers=writers,
            delays=0.01 if writers else 0.0,
        )
        self.seconds = 1.8e9
        self.part.site.delays.wall_clock = lambda: self.seconds
        self.steps = Steps(self.part.site.delays)
        self.part.start()
        self.beamline = next(iter(first["setup"].get("pgroups") or ()), self.part.beamline)
        self._furnish({key: value for key, value in first["setup"].items() if value is not None})

    def _furnish(self, setup: dict) -> None:
        site, tree = self.part.site, self.part.site.tree
        tree.default_group = 0
        for beamline, pgroups in setup.get("pgroups", {}).items():
            for pgroup in pgroups:
                self.part.make_pgroup(pgroup, beamline)
        for name in setup.get("closed", ()):
            beamline, pgroup = name.split("/")
            run_info = f"/sf/{beamline}/data/{pgroup}/raw/run_info"
            tree.make(run_info)
            tree.write_text(f"{run_info}/CLOSED", "")
        for path in (*setup.get("dirs", ()), *setup.get("files", {})):
            tree.mount(path.split("/")[1])
        for path in setup.get("dirs", ()):
            tree.make(path.split(" (")[0])
        files = dict(setup.get("files", {}))
        files |= {config_file(site.dialect, bl): c for bl, c in setup.get("epics_config", {}).items()}
        files |= {dap_file(detector): c for detector, c in setup.get("dap_config", {}).items()}
        for path, text in files.items():
            tree.make(path.rsplit("/", 1)[0])
            tree.write_text(path, text if isinstance(text, str) else json.dumps(text))
        for module, age in setup.get("latest_age_s", {}).items():
            detector, number = module.split("/M")
            site.hardware.write_latest(detector, int(number), age)
        tree.group_ids.update(setup.get("group_ids", {}))
        for entries in site.table.values():
            for entry in entries:
                for module in site.hardware[entry.name].modules:
                    module.reachable = False
        self._heed(setup.get("note", ""))

    def _heed(self, note: str) -> None:
        """Bring triggers and detectors into the state the note tells of."""
        for beamline, words in trigger_words(note).items():
            trigger = self.part.site.trigger(beamline)
            if re.search(r"\b255\b", words):
                trigger.stop()
            if re.search(r"\b(?:not|no|cannot|unreachable|down)\b", words):
                trigger.stuck = 1_000_000
        for detector, words in SIMULATED.findall(note):
            self._power(detector, words)

    def _power(self, name: str, words: str) -> None:
        detector = self.part.site.hardware[name]
        detector.configured = True
        for module in detector.modules:
            module.reachable = True
            module.state = next((state for state in STATES if state in words), "idle")
            module.temperature_adc = module.temperature_fpga = 0
            for setting, value, unit in re.findall(r"(exptime|delay) ([\d.]+) (s|ms|us|ns)\b", words):
                setattr(module, setting, float(value + UNITS[unit]))
            self._set_modes([module], words)

    @staticmethod
    def _set_modes(modules, words: str) -> None:
        """Set the modes that are named, in the settings' words or in plain ones."""
        for setting, modes in MODES.items():
            for mode in modes:
                if re.search(rf"\b{re.sub('_| ', '[_ ]', mode).replace('gain', 'gain ?')}\b", words):
                    for module in modules:
                        setattr(module, setting, mode)

    def close(self) -> None:
        self.part.stop()
        self.clock.close()

    def act(self, words: str, wait_for) -> None:
        """Do what was done between two calls; words that name nothing the simulator has change nothing."""
        detectors = [d for d in self.part.site.hardware._detectors.values() if d.configured]
        modules = detectors[0].modules if detectors else []
        if found := re.search(r"(?:modules? ([\d, and]+)|detector) (?:is|are) (switched|set) to (.+)", words):
            self._set_modes(_chosen(modules, found[1]), found[3])
        elif found := re.search(r"(?:modules? ([\d, and]+)|detector) (?:is|are) (started|stopped)", words):
            for module in _chosen(modules, found[1]):
                module.state = "running" if found[2] == "started" else "idle"
        elif re.search(r"trigger PV .*reads \d+", words):
            for beamline, read in trigger_readings(words, self.beamline).items():
                assert self.part.site.trigger(beamline).value == read, words
        elif found := re.search(r"client sends (\w+) /(\w+) ?(\{.*\})? while", words):
            before = len(self.part.requests())
            self._give_up(found[1], found[2], found[3])
            wait_for(lambda: len(self.part.requests()) > before, "the request nobody waits for")

    def _give_up(self, method: str, endpoint: str, body: str | None) -> None:
        """Send a request and go before the server has time for it."""
        self.part.fail_next("latency", seconds=0.1)
        connection = self._connection(OPERATIONS[endpoint].service)
        headers = {"Content-Type": "application/json", **self._who(self.beamline)}
        connection.request(method, f"/{endpoint}", body, headers)
        connection.close()

    def _connection(self, service: str) -> http.client.HTTPConnection:
        address = urlsplit(self.part.url if service == "broker" else self.part.slow_url)
        return http.client.HTTPConnection(address.hostname, address.port, timeout=30)

    @staticmethod
    def _who(beamline: str | None, address: str | None = None) -> dict[str, str]:
        if beamline is None and address is None:
            return {}
        return {"X-Forwarded-For": address or f"{BEAMLINES[beamline].subnet}.10"}

    def send(self, exchange: dict):
        """Send one request; return code, headers and reply."""
        self.seconds += 2
        self.beamline = exchange.get("client") or self.beamline
        self._set_environment(exchange)
        request, headers = exchange["request"], self._who(exchange.get("client"), exchange.get("client_ip"))
        body = None
        if "json" in request:
            body, headers["Content-Type"] = json.dumps(expanded(request["json"])), "application/json"
        elif "body" in request:
            body = expanded(request["body"]).encode()
            headers |= {"Content-Type": request["content_type"]} if request.get("content_type") else {}
        connection = self._connection(exchange["service"])
        connection.request(request["method"], request["path"], body, headers)
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        return response.status, response.headers, reply_of(response.status, response.headers, raw)

    def _set_environment(self, exchange: dict) -> None:
        """Bring what the server only looks at into the state it had: RabbitMQ, network, sensors."""
        self.part.site.messages.up = exchange.get("amqp_server") != "down"
        reply, asked = exchange.get("reply"), exchange["request"].get("json")
        if not isinstance(reply, dict) or not isinstance(asked, dict):
            return
        name = asked.get("detector_name", asked.get("det"))
        if not isinstance(name, str) or beamline_with(self.part.site.table, name) is None:
            return
        detector = self.part.site.hardware[name]
        for number, module in enumerate(detector.modules):
            if "pings" in reply:
                module.reachable = number in reply["pings"]["responding"]
            for sensor, attribute in SENSORS.items():
                if "temperatures" in reply:
                    setattr(module, attribute, reply["temperatures"][sensor][number])
        if exchange["request"]["path"] in ("/get_jfctrl_monitor", "/get_jfstats"):
            failure = reply.get("exception", "ValueError")
            own = failure in ("ValidationError", "ValueError", "RuntimeError")
            detector.box_failure = None if own else type(failure, (OSError,), {})(reply["message"])
            detector.box = reply.get("parameters", detector.box)


def _chosen(modules: list, numbers: str | None) -> list:
    """Return the modules that are named, all if none is."""
    return modules if numbers is None else [modules[int(number)] for number in re.findall(r"\d+", numbers)]


def trigger_words(note: str) -> dict[str, str]:
    """Return what a note says of the trigger PV of each beamline.

    "trigger PVs of alvra and maloja are at 255, that of furka cannot be written": words follow the names they
    are about. Said of no beamline, they are about all; with some named, the others have none.
    """
    said: dict[str, str] = {}
    for clause in re.findall(r"[^;]*trigger PV[^;]*", note):
        names = [found for found in re.finditer(r"\w+", clause) if found[0] in BEAMLINES]
        if not names:
            said |= dict.fromkeys(BEAMLINES, clause)
        ends = [name.start() for name in names[1:]] + [len(clause)]
        words = ""
        for name, end in reversed(list(zip(names, ends))):
            own = clause[name.end() : end]
            words = own if re.search(r"\d|\b(?:works|not|no|cannot|unreachable|down)\b", own) else words
            said[name[0]] = words
    return (dict.fromkeys(BEAMLINES, "no such PV") | said) if said else {}


def trigger_readings(words: str, beamline: str) -> dict[str, int]:
    """Return what each trigger PV of an action read; one that is not named is that of `beamline`."""
    found = {
        name: re.search(rf"{re.escape(known.event_code_pv)}\D*?reads (\d+)", words)
        for name, known in BEAMLINES.items()
    }
    named = {name: int(match[1]) for name, match in found.items() if match}
    return named or {beamline: int(re.search(r"reads (\d+)", words)[1])}
