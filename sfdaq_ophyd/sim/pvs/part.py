"""The PVs as a part of the Facility: an IOC in a child process, and a handle to it.

The IOC publishes the pulse id 100 times a second. In the process of the RunEngine its event loop would
compete for the interpreter with the scan it serves, in both directions; in a child it has its own.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping

from ...errors import RequestError, ServiceTimeout, ServiceUnreachable
from ..part import World
from .environment import LOOPBACK, acquire_port, ioc_environment, release_port

logger = logging.getLogger(__name__)

SUFFIXES = {
    "pulse_id": "RX-PULSEID",
    "event_code": "SoftEvt-EvtCode-SP",
    "shutter": "SHUTTER",
    "motor": "M1",
    "motor2": "M2",
    "beam_rate": "BEAM-RATE",
    "beam_intensity": "BEAM-INTENSITY",
    "diode": "DIODE",
}
"""Role to PV name behind the prefix."""

FAULTS = ("disconnect", "stall_pulse_id", "refuse_put", "motor_stuck", "motor_limit")

START_TIMEOUT = 20.0
REPLY_TIMEOUT = 10.0


class PvsPart(Mapping[str, str]):
    """PV names by role, and a handle to the IOC that serves them.

    Roles: ``pulse_id``, ``event_code`` (254 running, 255 stopped), ``shutter`` (Closed, Open), ``motor``,
    ``motor2``, ``beam_rate``, ``beam_intensity``, ``diode``.

    Parameters
    ----------
    world : World
        Clock, speed, seed and ports of the facility.
    prefix : str, optional
        Of every PV; default is random, so that no two facilities share a name.
    """

    name = "pvs"

    def __init__(self, world: World, *, prefix: str | None = None):
        self.prefix = f"SIM-{uuid.uuid4().hex[:6].upper()}:" if prefix is None else prefix
        self._world = world
        self._port = 0
        self._process: subprocess.Popen | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        self._lock = threading.Lock()
        self._back: threading.Timer | None = None
        self._started = False

    def __getitem__(self, role: str) -> str:
        return self.prefix + SUFFIXES[role]

    def __iter__(self) -> Iterator[str]:
        return iter(SUFFIXES)

    def __len__(self) -> int:
        return len(SUFFIXES)

    def start(self) -> None:
        """Choose a port, point this process's Channel Access clients to it, and start the IOC."""
        self._port = acquire_port(self._world.next_port())
        self._started = True
        try:
            with self._lock:
                self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the IOC and restore the Channel Access environment. Safe twice."""
        if self._back is not None:
            self._back.cancel()
            self._back = None
        with self._lock:
            self._started = False
            self._terminate()
        release_port(self._port)

    def addresses(self) -> dict[str, str]:
        """Return PV names by role, and ``ca`` where to search for them (EPICS_CA_ADDR_LIST)."""
        return {**self, "ca": f"{LOOPBACK}:{self._port}"}

    def read(self, role: str):
        """Return the present value of a role's PV, as the IOC holds it; of a motor, its readback."""
        return self._ask({"read": self._check_role(role)})

    def write(self, role: str, value) -> None:
        """Change a PV from inside, without Channel Access and at once; a motor jumps there.

        What the beam gives (pulse_id, beam_intensity, diode) cannot be written: RequestError.
        """
        self._ask({"write": self._check_role(role), "value": value})

    def fail_next(self, what: str, *, role: str = "", seconds: float | None = None) -> None:
        """Misbehave once.

        Parameters
        ----------
        what : str
            ``"disconnect"``: the IOC goes without a word and comes back after `seconds`, rebooted (None:
            at `reconnect`). ``"stall_pulse_id"``: the pulse-id PV stands for `seconds` (default 2).
            ``"refuse_put"``: the next put to `role` (event_code or shutter) fails. ``"motor_stuck"``,
            ``"motor_limit"``: the next move of `role` (default motor) stands half-way and never ends,
            or ends there at its limit switch.
        """
        if what not in FAULTS:
            raise ValueError(f"{what!r} is not one of {', '.join(FAULTS)}")
        if what == "disconnect":
            with self._lock:
                self._terminate(kill=True)
            if seconds is not None:
                self._back = threading.Timer(seconds, self.reconnect)
                self._back.daemon = True
                self._back.start()
        elif what == "stall_pulse_id":
            self._ask({"fail": what, "seconds": 2.0 if seconds is None else seconds})
        else:
            allowed = ("event_code", "shutter") if what == "refuse_put" else ("motor", "motor2")
            role = role or allowed[0]
            if role not in allowed:
                raise ValueError(f"{what} works for {' and '.join(allowed)}, not {role!r}")
            self._ask({"fail": what, "role": role})

    def reconnect(self) -> None:
        """Bring the IOC back after ``fail_next("disconnect")``, with every value as after a reboot."""
        with self._lock:
            if self._started and self._process is None:
                self._launch()

    def _check_role(self, role: str) -> str:
        if role not in SUFFIXES:
            raise RequestError("role", role, f"one of {', '.join(SUFFIXES)}")
        return role

    def _launch(self) -> None:
        world = self._world
        command = [sys.executable, "-m", __package__, "--control", "--prefix", self.prefix]
        command += ["--port", str(self._port), "--clock", str(world.clock.path)]
        command += ["--speed", str(world.speed), "--seed", str(world.seed)]
        self._lines = lines = queue.Queue()
        self._process = process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ioc_environment(self._port),
            start_new_session=True,  # Ctrl-C reaches the parent, which then ends the child in order
        )
        self._errors = errors = []

        def follow(stream, sink):
            with stream:
                for line in stream:
                    sink(line.rstrip("\n"))

        def complain(line):
            del errors[:-50]
            errors.append(line)
            logger.debug("%s: %s", self.prefix, line)

        threading.Thread(target=follow, args=(process.stderr, complain), daemon=True).start()
        threading.Thread(target=follow, args=(process.stdout, lines.put), daemon=True).start()
        first = self._next_line(time.monotonic() + START_TIMEOUT)
        if first is None or not first.startswith("READY"):
            failure = self._silence("start", START_TIMEOUT)
            self._terminate(kill=True)
            raise failure

    def _next_line(self, deadline: float) -> str | None:
        while time.monotonic() < deadline:
            try:
                return self._lines.get(timeout=0.05)
            except queue.Empty:
                if self._process is None or self._process.poll() is not None:
                    return None
        return None

    def _silence(self, what: str, timeout: float) -> Exception:
        said = "; ".join(self._errors[-3:]) or "no message"
        if self._process.poll() is not None:
            reason = f"it ended with {self._process.returncode}: {said}"
            return ServiceUnreachable(f"simulated IOC: {what}", url=self.prefix, reason=reason)
        return ServiceTimeout(f"simulated IOC: {what}", timeout, said)

    def _ask(self, command: dict):
        with self._lock:
            if self._process is None:
                raise ServiceUnreachable("simulated IOC", url=self.prefix, reason="not running")
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
            except OSError as exc:
                raise ServiceUnreachable("simulated IOC", url=self.prefix, reason=exc) from exc
            line = self._next_line(time.monotonic() + REPLY_TIMEOUT)
            if line is None:
                raise self._silence(f"answer to {command}", REPLY_TIMEOUT)
        reply = json.loads(line)
        if "error" in reply:
            raise RequestError("command", command, reply["error"])
        return reply["value"]

    def _terminate(self, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        try:
            process.stdin.close()
        except OSError:
            pass  # it was gone already
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
