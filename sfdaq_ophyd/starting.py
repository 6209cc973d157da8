"""A child process and its start: this fails when it does nothing more, not when the machine is slow.

A child says on its standard output what it is doing, ``STEP importing``, any number of times, and then the
line that its parent waits for. The parent's limit begins anew with every step, and time in which the child
had no CPU does not count.

Of a `Child` that line is READY; then come one JSON command per line, and one reply each. It ends when its
standard input does, so it never outlives its parent, however that ended.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from .errors import RequestError, ServiceTimeout, ServiceUnreachable
from .limits import BEAT, Limit, counted_time

logger = logging.getLogger(__name__)

STEP = "STEP "
"""What the line of a step begins with."""

END_TIMEOUT = 5.0
"""s that a child has to end in order before it is killed."""


@contextlib.contextmanager
def without_collection(*, ours: bool = False) -> Iterator[None]:
    """Import much: the collector, which finds nothing in what stays, would take a quarter of the time.

    Parameters
    ----------
    ours : bool
        This process is ours alone: what is there now stays to its end, and there too the collector need not
        look at it, which would take as long again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ours:
            gc.freeze()
            atexit.register(gc.freeze)
        if collects:
            gc.enable()


def report_step(what: str) -> None:
    """Child's side: say what it does from now on."""
    sys.stdout.write(f"{STEP}{what}\n")
    sys.stdout.flush()


def next_line(
    lines: queue.Queue[str | None] | queue.SimpleQueue[str | None],
    pid: int,
    *,
    what: str,
    timeout: float,
    said: Callable[[], str] = str,
    hint: str = "",
    on_step: Callable[[str], object] | None = None,
) -> str | None:
    """Return the next line of a child that is no step; None if its output ended.

    Parameters
    ----------
    lines : queue
        What a thread reads from the child's standard output, line by line without the newline; None at its
        end.
    what : str
        What is waited for, as a message names it: ``"start of the simulated jungfrau"``.
    timeout : float
        s without a step, not counting those in which we or the child had no CPU.
    said, hint : callable, str
        Returns what else the child said, for the message; what a person does about it.
    on_step : callable, optional
        Called with every step, and again while the child waits for a CPU: hand on to a parent of one's own
        with `report_step`.

    Raises
    ------
    ServiceTimeout
        With the step, and how long all has taken.
    """
    begun, step = counted_time(), "starting Python, importing"
    limit = ChildLimit(timeout, pid)
    while True:
        try:
            line = lines.get(timeout=limit.step())
        except queue.Empty:
            if limit.reached():
                took = f"step {step!r}, {counted_time() - begun:.0f} s after the beginning"
                raise ServiceTimeout(what, timeout, "; ".join(filter(None, [took, said()])), hint) from None
            if not limit.is_longer:
                continue
            step_now = f"{step}, waiting for a CPU"
        else:
            if line is None or not line.startswith(STEP):
                return line
            step = step_now = line.removeprefix(STEP)
            limit = ChildLimit(timeout, pid)
        logger.info("%s: %s", what, step_now)
        if on_step is not None:
            on_step(step_now)


class ChildLimit(Limit):
    """A limit for what a child process does: the time in which that had no CPU does not count either.

    Parameters
    ----------
    seconds : float
        The time that the child has.
    pid : int
        Of the child.

    Attributes
    ----------
    is_longer : bool
        Whether the last look found that it lasts longer than was to be seen before.
    """

    def __init__(self, seconds: float, pid: int):
        super().__init__(seconds)
        self._pid, self._starved, self.is_longer = pid, time_without_cpu(pid), False

    def reached(self) -> bool:
        """Whether the child has had its time; call it after each look."""
        self.is_longer = False
        if not super().reached():
            return False
        lately = time_without_cpu(self._pid) - self._starved
        if lately < BEAT:
            return True
        self.is_longer, self._starved, self.seconds = True, self._starved + lately, lately
        self.restart()
        return False


def time_without_cpu(pid: int) -> float:
    """Return how long a process was ready to run and had no CPU, s; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Child:
    """Start ``python -m module arguments...`` and talk to it.

    Parameters
    ----------
    timeout : float
        s without a step before READY, and for every reply; those in which it had no CPU do not count.
    env : dict, optional
        Its environment; default is ours.
    title, hint : str, optional
        What messages call it, default is `module`; what a person does about one that does not start.
    on_line : callable, optional
        Called with every line after READY, in a thread of this object: for a child that replies to nothing.
    on_step : callable, optional
        Called with every step of its start.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
        title: str = "",
        hint: str = "",
        on_line: Callable[[str], object] | None = None,
        on_step: Callable[[str], object] | None = None,
    ):
        self._module, self._timeout, self._env = module, timeout, env
        self._title, self._hint, self._on_line, self._on_step = title or module, hint, on_line, on_step
        self._arguments = [str(argument) for argument in arguments]
        self._process: subprocess.Popen[str] | None = None
        self.pid = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: deque[str] = deque(maxlen=50)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def launch(self, errors: int | IO[bytes] = subprocess.PIPE) -> None:
        """Begin to start; `wait` comes next.

        Parameters
        ----------
        errors : file, optional
            Takes the standard error; default is this object, which has its last words for messages.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=self._env,
            start_new_session=True,  # Ctrl-C reaches the parent, which then ends the child in order
        )
        assert process.stdout is not None  # a pipe
        self._process, self.pid, self._lines = process, process.pid, queue.Queue()
        self._ready = threading.Event()
        hear = partial(self._hear, self._lines, self._ready)
        follow = ((process.stdout, hear), (process.stderr, self._complain))
        self._threads = [
            threading.Thread(target=_follow, args=pair, daemon=True) for pair in follow if pair[0] is not None
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> str:
        """Return what follows READY, once it is there.

        Raises
        ------
        ServiceTimeout
            It reported nothing more.
        ServiceUnreachable
            It ended, with its last words, or said something else.
        """
        try:
            line = self._reply(f"start of {self._title}", self._on_step)
            if not line.startswith("READY"):
                self.stop()
                raise ServiceUnreachable(self._title, url="child process", reason=line)
        except BaseException:
            self.stop(kill=True)
            raise
        return line.removeprefix("READY").strip()

    def start(self) -> str:
        """Launch and wait."""
        self.launch()
        return self.wait()

    def ask(self, command: dict[str, Any]) -> Any:
        """Send a command, return its value; RequestError with the child's words if it refuses."""
        with self._lock:
            self.send(command)
            try:
                reply = json.loads(self._reply(f"{self._title}: answer to {command}"))
            except ServiceTimeout:
                self.stop(kill=True)  # its late answer is not the next command's
                raise
        if "error" in reply:
            raise RequestError("command", command, f"something else: {reply['error']}")
        return reply["value"]

    def send(self, command: dict[str, Any]) -> None:
        """Send a command, and wait for nothing; ServiceUnreachable if it does not run."""
        process = self._process
        if process is None or process.stdin is None:
            raise ServiceUnreachable(self._title, url="child process", reason="not running")
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
        except (OSError, ValueError) as exc:  # it ended, or was stopped meanwhile
            raise ServiceUnreachable(self._title, url="child process", reason=exc) from exc

    @property
    def listening(self) -> bool:
        """Whether it runs, and has said READY."""
        return self.running and self._ready.is_set()

    @property
    def running(self) -> bool:
        """Whether it was started, and has neither been stopped nor ended by itself."""
        return self._process is not None and self._process.poll() is None

    def stop(self, kill: bool = False) -> None:
        """End the child and wait for it; with `kill`, without giving it a chance. Safe twice."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        if kill:
            process.kill()
        try:
            process.stdin.close()
        except OSError:
            pass  # it was gone already
        limit = ChildLimit(END_TIMEOUT, process.pid)
        while process.poll() is None and not limit.reached():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(limit.step())
        if process.poll() is None:
            process.kill()
            process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    def _hear(self, lines: queue.Queue[str | None], ready: threading.Event, line: str | None) -> None:
        if line is not None and self._on_line is not None and ready.is_set():
            self._on_line(line)
            return
        if line is not None and line.startswith("READY"):
            ready.set()
        lines.put(line)

    def _complain(self, line: str | None) -> None:
        if line is not None:
            self._said.append(line)
            logger.debug("%s: %s", self._module, line)

    def _reply(self, what: str, on_step: Callable[[str], object] | None = None) -> str:
        line = next_line(
            self._lines,
            self.pid,
            what=what,
            timeout=self._timeout,
            said=self._last_words,
            hint=self._hint,
            on_step=on_step,
        )
        if line is None:
            raise ServiceUnreachable(what, url="child process", reason=self._why_it_ended())
        return line

    def _why_it_ended(self) -> str:
        self._threads[1].join(1)
        return f"it ended; its last words: {self._last_words() or 'none'}"

    def _last_words(self) -> str:
        return "; ".join(list(self._said)[-5:])


def _follow(stream: IO[str], sink: Callable[[str | None], object]) -> None:
    with stream:
        for line in stream:
            sink(line.rstrip("\n"))
    sink(None)
