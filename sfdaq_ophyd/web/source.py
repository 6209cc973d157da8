"""What the page watches: a thread that looks now and then, while somebody watches; writer, broker and PVs."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..clients import BrokerClient, StdDaqClient, StdDaqOtherGeneration, StdDaqWriterSocket
from ..errors import shown_url
from ..wire.broker import Dialect
from ..wire.std_daq_socket import NOT_SHOWN
from .live_frame import LiveFrame

if TYPE_CHECKING:
    from ophyd import EpicsSignalRO

    from ..devices import PulseId


logger = logging.getLogger(__name__)


DUTY = 0.5
"""Share of its time a look may take: of a slow detector fewer frames are fetched."""

LONGEST_PAUSE = 5.0
"""s between looks at something that does not answer, or is slow."""

GRACE = 1.0
"""s by which a value may be older than its period before it is called old: no thread is punctual."""


class Source(ABC):
    """Look at something every `period` s; `state` tells what was seen last."""

    group = ""
    """Which part of the page shows it."""

    def __init__(self, name: str, kind: str, address: str, period: float):
        self.name, self.kind, self.address, self.period = name, kind, shown_url(address), period
        self.problem = ""
        self._last: tuple[dict[str, Any], float | None, float] = {}, None, 0.0  # what, when, how long it took
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, watched: threading.Event) -> None:
        """Look, whenever `watched` is set."""
        self._stop.clear()
        thread = threading.Thread(target=self._run, args=(watched,), name=f"watch {self.name}", daemon=True)
        thread.start()
        self._thread = thread

    def end(self) -> None:
        """Tell the thread to end; `stop` waits for it."""
        self._stop.set()

    def stop(self) -> None:
        """End the thread and let go of the service. Safe twice."""
        self.end()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    def state(self) -> dict[str, Any]:
        """Return what was seen last and how old that is; ready for JSON.

        ``age`` is in s, None before the first answer; beyond ``old_after`` it is old. ``level`` is "good",
        "busy" or "bad", "" while nothing is known.
        """
        seen, seen_at, took = self._last
        age = None if seen_at is None else round(time.monotonic() - seen_at, 2)
        about = {"name": self.name, "kind": self.kind, "address": self.address, "problem": self.problem}
        level = "bad" if self.problem else "" if age is None else seen.get("level", "good")
        old_after = max(self.period, min(took / DUTY, LONGEST_PAUSE)) + GRACE
        return {**about, **seen, "age": age, "old_after": round(old_after, 2), "level": level}

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Return what is to be seen now; whatever it raises is shown."""

    @abstractmethod
    def rest(self) -> None:
        """Let go of the service: nobody watches. Safe twice."""

    def _run(self, watched: threading.Event) -> None:
        failures = 0
        while not self._stop.is_set():
            if not watched.is_set():
                self.rest()
                while not watched.wait(0.1) and not self._stop.is_set():
                    pass
                continue
            begin = time.monotonic()
            try:
                seen = self.look()
                self._last = seen, begin, time.monotonic() - begin
                self.problem, failures = "", 0
            except Exception as exc:  # a page about trouble must survive it
                logger.debug("%s: %r", self.name, exc)
                self.problem, failures = str(exc) or type(exc).__name__, failures + 1
            took = time.monotonic() - begin
            pause = max(self.period - took, took * (1 / DUTY - 1), 0.25 * 2**failures if failures else 0.0)
            self._stop.wait(min(pause, max(self.period, LONGEST_PAUSE)))
        self.rest()


class Rate:
    """Events per second from a counter, over at least `window` s."""

    def __init__(self, window: float = 1.0):
        self._window = window
        self._marks: list[tuple[float, float]] = []  # time, count
        self.value: float | None = None

    def update(self, count: float, now: float | None = None) -> float | None:
        """Take a count and the time it was read at; return the rate, None until it is known."""
        now = time.monotonic() if now is None else now
        if self._marks and (count < self._marks[-1][1] or now < self._marks[-1][0]):
            self._marks, self.value = [], None  # counts anew
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] >= self._window:
            self._marks.pop(0)
        first = self._marks[0]
        if now - first[0] >= self._window:
            self.value = round((count - first[1]) / (now - first[0]), 2)
        return self.value


HISTORY, HISTORY_STEP = 300, 1.0
"""Marks kept of frame rate and loss rate, and s between two: five minutes."""

LONGEST_FRAME_PERIOD = 60.0
"""s; a frame that is older is old, however slow the detector."""


class DetectorSource(Source):
    """A detector that is looked at: `frame` is the newest one taken from it.

    Attributes
    ----------
    n_taken : int
        Frames taken from the detector, by all viewers together.
    history : deque of (time, rate, loss rate)
        s since the epoch, Hz, Hz; None where not known. Nothing is added while nobody watches.
    """

    group = "detectors"
    loss_name = "lost"
    """What `n_lost` counts."""

    def __init__(self, name: str, kind: str, address: str, period: float):
        super().__init__(name, kind, address, period)
        self.frame: LiveFrame | None = None
        self.n_taken = 0
        self.history: deque[tuple[float, float | None, float | None]] = deque(maxlen=HISTORY)
        self._loss, self._next_mark = Rate(), 0.0
        self._frame_period = 0.0

    def look(self) -> dict[str, Any]:
        """Take a frame, if there is a new one."""
        frame, about = self.take()
        if frame is not None:
            _ = frame.facts  # computed here, and not in the server's event loop
            before, self.frame = self.frame, frame
            if before is not None and before.arrived is not None and frame.arrived is not None:
                self._frame_period = frame.arrived - before.arrived
        n_lost = self.n_lost(about.get("counters", {}))
        loss = None if n_lost is None else self._loss.update(n_lost)
        if (now := time.monotonic()) >= self._next_mark:
            self._next_mark = now + HISTORY_STEP
            self.history.append((round(time.time(), 1), about.get("rate"), loss))
        return {**about, "loss_rate": loss}

    @abstractmethod
    def take(self) -> tuple[LiveFrame | None, dict[str, Any]]:
        """Return a frame not seen yet, or None; and state, rate, counters, note, level."""

    @abstractmethod
    def n_lost(self, counters: Mapping[str, int]) -> int | None:
        """Return how many frames were lost, whole or in part, since the page looks; None if not known."""

    def frame_age(self, frame: LiveFrame | None = None) -> dict[str, float | None]:
        """Return the age of a frame, s, and from which on it is old.

        None if the frame was there before the page looked. A frame is old when the next one is overdue, by
        the time between the last two.

        Parameters
        ----------
        frame : LiveFrame, optional
            One taken from this detector; the newest one if not given.
        """
        return self._age_of(self.frame if frame is None else frame)

    def _age_of(self, frame: LiveFrame | None) -> dict[str, float | None]:
        arrived = None if frame is None else frame.arrived
        age = None if arrived is None else round(time.monotonic() - arrived, 2)
        period = min(max(self.period, 1.5 * self._frame_period), LONGEST_FRAME_PERIOD)
        return {"age": age, "old_after": round(period + GRACE, 2)}

    def state(self) -> dict[str, Any]:
        """Return the frame's facts beside the rest."""
        frame = self.frame
        facts = frame.facts if frame else None
        about = {"n_taken": self.n_taken, "frame": facts, "frame_age": self._age_of(frame)}
        return {**super().state(), **about, "loss_name": self.loss_name}


SELDOM = 5.0
"""s between two looks at what is disturbed by them."""


class UnaskedSource(DetectorSource):
    """A detector that is named, and never connected to: `note` says why."""

    def __init__(self, name: str, kind: str, address: str, note: str):
        super().__init__(name, kind, address, SELDOM)
        self._note = note

    def take(self) -> tuple[None, dict[str, Any]]:
        """Return the note."""
        return None, {"state": "not shown", "level": "", "note": self._note}

    def n_lost(self, counters: Mapping[str, int]) -> None:
        """Return None: nobody knows."""

    def rest(self) -> None:
        """Do nothing."""


LIMIT = 1.0
"""s for an answer of a PV."""


class WriterSource(Source):
    """Watch a standard DAQ: state, progress and throughput.

    One with control by websocket is never connected to, for one of its clients alone is told the end of an
    acquisition: only its configuration is read, seldom.
    """

    group = "writers"

    def __init__(
        self,
        name: str,
        url: str,
        dialect: str = "auto",
        *,
        config_url: str | None = None,
        user: str = "sfdaq",
    ):
        super().__init__(name, "standard DAQ", url, 0.5)
        self._rest = partial(StdDaqClient, url, dialect, timeout=5.0)
        self._socket = partial(StdDaqWriterSocket, url, config_url, user=user, timeout=5.0)
        by_websocket = dialect == "websocket" or url.startswith("ws")
        self._told = by_websocket or dialect != "auto"
        self._client: StdDaqClient | StdDaqWriterSocket = self._socket() if by_websocket else self._rest()

    def look(self) -> dict[str, Any]:
        """Ask for status and statistics, or for the configuration."""
        try:
            return self._seen()
        except StdDaqOtherGeneration as exc:
            self._client.close()
            if self._told:
                raise
            self._client = self._socket() if exc.dialect == "websocket" else self._rest()
        return self._seen()

    def _seen(self) -> dict[str, Any]:
        if isinstance(self._client, StdDaqClient):
            self.period = 0.5
            return self._by_rest(self._client)
        self.period = SELDOM
        return self._by_websocket(self._client)

    def _by_rest(self, client: StdDaqClient) -> dict[str, Any]:
        status, stats = client.status(), client.stats()
        state = status.state.value
        level = {"UNKNOWN": "bad", "WRITING": "busy"}.get(state, "good")
        seen: dict[str, Any] = {"state": state, "level": level}
        if (last := status.acquisition) is not None:
            seen |= {"acquisition": last.state.value, "message": last.message, "file": last.output_file}
            seen |= {"n_done": last.n_completed, "n_images": last.n_images}
        if stats is not None:
            seen["detector_rate"] = round(stats.detector_images_per_second, 1)
            seen["writer_rate"] = round(stats.writer_images_per_second, 1)
        return seen

    def _by_websocket(self, client: StdDaqWriterSocket) -> dict[str, Any]:
        config = client.get_config()
        writers = f"{config.get('detector_name')}, {config.get('number_of_writers')} writers"
        return {"state": "not shown", "level": "", "message": f"{writers}; {NOT_SHOWN}"}

    def rest(self) -> None:
        """Close the connection."""
        self._client.close()


class BrokerSource(Source):
    """Watch an sf-daq broker: running detectors and the last run number.

    Asked seldom, since it answers one caller at a time.
    """

    group = "brokers"

    def __init__(
        self,
        name: str,
        url: str,
        slow_url: str | None = None,
        *,
        wanted: Sequence[str] = (),
        pgroup: str = "",
        dialect: Dialect | Literal["auto"] = "current",
    ):
        super().__init__(name, "sf-daq broker", url, SELDOM)
        self._client = BrokerClient(url, slow_url, dialect)
        self._wanted, self._pgroup = wanted, pgroup

    def look(self) -> dict[str, Any]:
        """Ask for running detectors and, of a known pgroup, the last run number."""
        found = self._client.get_running_detectors()
        seen: dict[str, Any] = {
            "running": list(found.running),
            "limping": sorted(found.limping or {}),
            "missing": [name for name in self._wanted if name not in found.running],
            "pgroup": self._pgroup,
        }
        seen["level"] = "busy" if seen["limping"] or seen["missing"] else "good"
        if self._pgroup:
            seen["run_number"] = self._client.get_current_run_number(self._pgroup)
        return seen

    def rest(self) -> None:
        """Close the connections."""
        self._client.close()


STANDS_AFTER = 1.0
"""s without a new pulse id after which the machine's clock stands, as far as the page can see."""


class PulseIdSource(Source):
    """Watch the machine's pulse id and how fast it counts."""

    group = "pulse_ids"

    def __init__(self, name: str, pv: str):
        super().__init__(name, "pulse id", pv, 0.2)
        self._device: PulseId | None = None
        self._rate = Rate()
        self._value: int | None = None
        self._stands_since = 0.0

    def look(self) -> dict[str, Any]:
        """Ask the IOC for the pulse id of this moment."""
        if self._device is None:
            from ..devices import PulseId

            self._device = PulseId(self.address, name=self.name, timeout=LIMIT)
            self._device.wait_for_connection(timeout=LIMIT)
        pulse_id = self._device.get()
        now = time.monotonic()
        if pulse_id != self._value:
            self._value, self._stands_since = pulse_id, now
        stands = now - self._stands_since
        seen = {"value": pulse_id, "rate": self._rate.update(pulse_id), "level": "good"}
        return seen if stands < STANDS_AFTER else seen | {"level": "bad", "stands": round(stands, 1)}

    def rest(self) -> None:
        """Leave the PV."""
        if self._device is not None:
            self._device.destroy()
        self._device, self._rate = None, Rate()


class PvSource(Source):
    """Watch a PV."""

    group = "pvs"

    def __init__(self, name: str, pv: str, *, string: bool = False):
        super().__init__(name, "PV", pv, 0.5)
        self._string = string
        self._signal: EpicsSignalRO | None = None

    def look(self) -> dict[str, Any]:
        """Ask the IOC: what it pushed last would look fresh when it does not answer any more."""
        if self._signal is None:
            from ophyd import EpicsSignalRO

            self._signal = EpicsSignalRO(
                self.address, name=self.name, string=self._string, auto_monitor=False
            )
        self._signal.wait_for_connection(timeout=LIMIT)
        value = self._signal.get(timeout=LIMIT)
        units = self._signal.metadata.get("units")
        shown = f"{value:.6g}" if isinstance(value, float) else f"{value!s:.60}"
        return {"value": shown, "units": units or ""}

    def rest(self) -> None:
        """Leave the PV."""
        if self._signal is not None:
            self._signal.destroy()
        self._signal = None
