"""The detector's configuration and series: what was found, what was set, what must be put back."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any, NamedTuple

from ...clients.simplon import ARM_TIMEOUT, SimplonClient
from ...errors import DetectorStateError, RequestError, ServiceRefused, ServiceUnreachable, SfdaqError
from ...wire.eiger_stream import MAX_SIDE
from ...wire.simplon import ARMED, BIT_DEPTHS, BUSY, DetectorState, Parameter, typed
from ..debts import Debts

logger = logging.getLogger(__name__)


OPEN_SERIES = "detector/command/disarm"
"""What is owed while a series of ours could not be ended."""

UID_LENGTH = 64
"""Of a series' unique id at the most; a detector's is a ULID of 26."""


MOST_THRESHOLDS = 8

DIFFERENCE = "difference"
"""What the stream calls the difference of two thresholds."""


FIRST = ("roi_mode", "photon_energy", "wavelength", "threshold_energy", "count_time", "frame_time")
"""Of the detector's config, in the order in which they are set: each sets some of those after it anew."""


def rank_of(path: str) -> int:
    """Return when ``"<module>/config/<name>"`` is to be set, among others; those of no rank come last."""
    name = path.removeprefix("detector/config/")
    return FIRST.index(name) if name in FIRST else len(FIRST)


class Times(NamedTuple):
    """How long things take, s; 0 where the detector does not say."""

    frame_time: float = 0.0
    """From frame to frame."""
    count_time: float = 0.0
    """Exposure of a frame."""
    delay: float = 0.0
    """From trigger to exposure."""


def measure(client: SimplonClient) -> SfdaqError | None:
    """Have temperature and humidity measured anew, where that is to be asked for; return why they are not."""
    try:
        client.update_status()
    except SfdaqError as exc:
        return exc
    return None


class EigerControl:
    """Configure, arm and disarm one detector, and leave it as it was found. Safe from several threads.

    `session` is what this session set through the device, ``"<module>/config/<name>"`` to value: a detector
    that was reset gets it again, in the order of `FIRST`; if that fails, before it is used next. What could
    not be put back is in `debts`.
    """

    def __init__(self, client: SimplonClient, name: str, debts: Debts):
        self.client, self.name, self.debts = client, name, debts
        self.session: dict[str, object] = {}
        self._last_series, self._uid_before = 0, ""
        self._changed: dict[str, tuple[object, object]] = {}  # what was there, what was set
        self._unset: set[str] = set()  # of these, what may be as it was set before
        self._lock = threading.RLock()
        self._touched = False
        self._is_reset = False  # and not all is set again

    def check_version(self) -> None:
        """Raise RequestError if the server speaks another API version than we do."""
        spoken = self.client.discover_version()
        if spoken not in (None, self.client.version):
            raise RequestError(
                f"{self.name}: api_version",
                self.client.version,
                f"{spoken!r}, which {self.client.url} speaks",
            )

    def make_idle(self) -> None:
        """Bring the detector to ``idle``: initialize it if need be, end a series somebody left open.

        Raises
        ------
        DetectorStateError
            It is in ``error`` or another state that a person must look at.
        """
        state = self.client.wait_while(BUSY, ARM_TIMEOUT, f"{self.name}: the detector to be idle")
        if state == DetectorState.NA:
            self.initialize()
            state = self.client.state()
        if state in ARMED:
            logger.warning("%s: found in state %s; disarming", self.name, state)
            self.client.disarm()
            state = self.client.state()
        if state != DetectorState.IDLE:
            raise self.state_error(state)
        if self._is_reset:
            self._set_again()

    def initialize(self) -> None:
        """Initialize a detector that started anew; set what this session had set, and pay what is owed."""
        self.debts.owed(surely=True)  # what was left there is gone with the reset: only now it can be refused
        logger.info("%s: initializing the detector", self.name)
        was_reset, self._is_reset = self._is_reset, True
        try:
            with self.debts.reset():
                self.client.initialize()
        except ServiceUnreachable:  # nothing was sent
            self._is_reset = was_reset
            raise
        self._last_series = 0
        self._set_again()
        self.pay()

    def pay(self, only: str = "") -> None:
        """Put back what an earlier staging could not; no series is open."""
        if not only:
            self.debts.forget(OPEN_SERIES)
        self.debts.pay(self.value, self._put_all, only=only)

    def note_set(self, module: str, parameters: Iterable[str], changed: Iterable[str]) -> None:
        """Note that this session set parameters, last of all; a detector that was reset gets them again.

        What `changed` with them is noted as it is now, if the session had set it before. What an earlier
        staging owed of them is owed no more.
        """
        owed = self.debts.owed()
        for name in (f"{module}/config/{parameter}" for parameter in parameters):
            self.session.pop(name, None)
            self.session[name] = None
            if name in owed:
                self.debts.forget(name)
        names = {f"{module}/config/{parameter}" for parameter in (*parameters, *changed)}
        self.session |= {name: self.value(name) for name in self.session if name in names}

    def was_reset(self, series_id: int) -> bool:
        """Whether the detector was reset since the last series; it is set again then, and to be armed again.

        Series are counted from 1 after that. The new one was armed with other settings, and is ended. Where
        somebody else armed it in between, and left it otherwise than it was set here, that is told.
        """
        last, self._last_series = self._last_series, series_id
        if self._is_reset:
            self.abort()
            self._set_again()
            return True
        if not last or series_id == last + 1:
            return False
        self._is_reset = series_id <= last
        wanted = self._settings
        others = {name: now for name, value in wanted.items() if (now := self.value(name)) != value}
        if series_id > last and others:
            told = ", ".join(
                f"{name} is {now!r}, was set to {wanted[name]!r}" for name, now in others.items()
            )
            logger.warning("%s: somebody else used the detector, or restarted it: %s", self.name, told)
        if series_id > last or not others:
            self._is_reset = False
            return False
        self.abort()
        self._set_again()
        return True

    @property
    def _settings(self) -> dict[str, object]:
        """What was set by this session, then by this staging."""
        return self.session | {name: left for name, (_, left) in self._changed.items()}

    def _set_again(self) -> None:
        settings = dict(sorted(self._settings.items(), key=lambda item: rank_of(item[0])))
        if settings:
            told = ", ".join(f"{name} {value!r}" for name, value in settings.items())
            logger.warning("%s: the detector was reset; set again as it was set here: %s", self.name, told)
        for name, value in settings.items():
            if self.value(name) != value:  # an energy takes 10 s, and sets thresholds anew
                self._put(name, value)
        with self._lock:
            changed = {path: values for path, values in self._changed.items() if values[0] != values[1]}
        self.debts.hold(changed)
        self._is_reset = False

    def _put_all(self, settings: dict[str, object]) -> None:
        for name, value in settings.items():
            self._put(name, value)

    def value(self, name: str) -> object:
        """Read ``"<module>/config/<name>"``; None where this detector does not have it."""
        found = self.read(name)
        return None if found is None else found.value

    def _put(self, name: str, value: object) -> None:
        module, _, parameter = name.split("/", 2)
        self.client.put(module, parameter, value)

    def working_state(self) -> DetectorState:
        """Return the detector's state; raise if there is no going on in it."""
        state = self.client.state()
        if state in (DetectorState.ERROR, DetectorState.NA):
            raise self.state_error(state)
        return state

    def typed(self, name: str, kind: str) -> Any:
        """Return a value of the detector's config; None where it does not tell one of this kind."""
        return typed(self.value(f"detector/config/{name}"), kind)

    def times(self) -> Times:
        """Read the times the detector is set to."""
        names = ("frame_time", "count_time", "trigger_start_delay")
        return Times(*(max(0.0, float(self.typed(name, "number") or 0.0)) for name in names))

    def size(self) -> tuple[tuple[int, int], int] | None:
        """Read shape (y, x) and bit depth; None where there is no detector module to ask."""
        sizes = range(1, MAX_SIDE + 1)
        expected = {
            "y_pixels_in_detector": sizes,
            "x_pixels_in_detector": sizes,
            "bit_depth_image": BIT_DEPTHS,
        }
        found = {name: self.read(f"detector/config/{name}") for name in expected}
        values = []
        for name, parameter in found.items():
            if parameter is None:
                return None
            values.append(typed(parameter.value, "integer"))
            if values[-1] not in expected[name]:
                wanted = f"1 to {MAX_SIDE}" if expected[name] is sizes else f"one of {BIT_DEPTHS}"
                told = f"{self.name}: detector/config/{name} is {parameter.value!r:.80}"
                raise DetectorStateError(f"{told}, expected {wanted}")
        height, width, bits = values
        return (height, width), bits

    def thresholds(self) -> list[int]:
        """Return the numbers of the thresholds that are enabled; none where the detector has but one."""
        modes = (self.value(f"detector/config/threshold/{n}/mode") for n in range(1, MOST_THRESHOLDS + 1))
        known = takewhile(lambda mode: mode is not None, modes)
        return [n for n, mode in enumerate(known, 1) if mode == "enabled"]

    def channels(self) -> list[str]:
        """Return the names of an exposure's images: of each threshold in use, and of their difference."""
        names = [f"threshold_{n}" for n in self.thresholds()]
        if self.value("detector/config/threshold/difference/mode") == "enabled":
            names.append(DIFFERENCE)
        return names or ["threshold_1"]

    def state_error(self, state: DetectorState) -> DetectorStateError:
        """Return the error for a state in which there is no going on."""
        told = ""
        with contextlib.suppress(SfdaqError):
            errors = self.client.get("detector", "status", "error").value
            told = f", status/error {errors!r:.200}" if errors else ""
        advice = {
            DetectorState.NA: "it was restarted; stage the device again to initialize it",
            DetectorState.ERROR: "look at the detector, then initialize it",
        }.get(state, "expected 'idle'")
        return DetectorStateError(f"{self.name}: the detector is in state '{state}'{told}; {advice}")

    def read(self, path: str) -> Parameter | None:
        """Return ``"<module>/config/<name>"``; None where this detector does not have it.

        Some servers have no 404 for that, but a failure: then their list of names tells.
        """
        module, _, name = path.split("/", 2)
        try:
            return self.client.get(module, "config", name)
        except ServiceRefused as exc:
            if exc.code != 404 and ((exc.code or 0) < 500 or self._lists(module, name)):
                raise
            if module == "detector" and self.is_uninitialized():
                raise self.state_error(DetectorState.NA) from exc
            return None

    def _lists(self, module: str, name: str) -> bool:
        try:
            return name in self.client.keys(module, "config")
        except SfdaqError:
            return True  # for all that is known

    def is_uninitialized(self) -> bool:
        """Whether the detector was not initialized since it started: it has no configuration then."""
        try:
            return self.client.state() == DetectorState.NA
        except SfdaqError:
            return False  # not known; or there is a monitor, and no detector module to ask

    def set(self, wanted: dict[str, object]) -> None:
        """Set ``"<module>/config/<name>"``, in that order, remembering what was there.

        Nothing is sent for what is so already, or what this detector does not have.
        """
        changes = {}
        for path, value in wanted.items():
            parameter = self.read(path)
            if parameter is None:
                continue
            with self._lock:
                found, _ = self._changed.get(path, (parameter.value, None))
                self._changed[path] = found, value
            if parameter.value != value:
                parameter.check(f"{self.name}: {path}", value)
                changes[path] = found, value
                if parameter.value != found:  # a value of ours, which stays if this fails
                    with self._lock:
                        self._unset.add(path)
        self.debts.hold(changes)
        for path, (_, value) in changes.items():
            self._put(path, value)
            with self._lock:
                self._unset.discard(path)

    def found(self, path: str) -> object:
        """Return the value of ``"<module>/config/<name>"`` that was found, and will be put back."""
        with self._lock:
            if path in self._changed:
                return self._changed[path][0]
        return self.value(path)

    def arm(self) -> int:
        """Open a series."""
        self._uid_before = self._uid()
        with self._lock:
            self._touched = True
        series_id = self.client.arm()
        with self._lock:
            self._touched = True
        logger.info("%s: armed, series %d", self.name, series_id)
        return series_id

    def told_uid(self) -> str:
        """Return the unique id of the open series; empty if none is told, or still that of the one before."""
        uid = self._uid()
        return "" if uid == self._uid_before else uid

    def _uid(self) -> str:
        try:
            uid = self.client.get("detector", "status", "series_unique_id").value
        except SfdaqError:
            return ""
        return uid if isinstance(uid, str) and len(uid) <= UID_LENGTH else ""

    def abort(self) -> None:
        """End the series opened here, if any. Safe twice."""
        with self._lock:
            touched, self._touched = self._touched, False
        if not touched:
            return
        try:
            if self.client.wait_while(BUSY, ARM_TIMEOUT, f"{self.name}: the end of arming") in ARMED:
                self.client.abort()
        except BaseException:
            with self._lock:
                self._touched = True  # not known to be over: the next call tries again
            raise

    def restore(self, read_on: Callable[[], object] = lambda: None) -> None:
        """End the series, and put back what was set. Safe twice.

        `read_on` is called once the series is over, and everything else still as it was for that.
        What cannot be put back is owed, and said in the log; a detector that is not reached is tried once.
        """
        problem: SfdaqError | None = None
        try:
            self.abort()
        except SfdaqError as exc:
            self.debts.owe(OPEN_SERIES, left="armed", back="disarmed", reason=exc)
            problem = exc
        else:
            self.debts.forget(OPEN_SERIES)
            read_on()
        with self._lock:
            found, self._changed = self._changed, {}
            unset, self._unset = self._unset, set()
        for path, (before, left) in reversed(found.items()):
            if before == left and path not in unset:
                continue
            try:
                if isinstance(problem, ConnectionError | TimeoutError):  # it is away: tried once
                    raise problem
                now = self.value(path)
                if now is not None and now != before:
                    self._put(path, before)
            except SfdaqError as exc:
                problem = exc
                self.debts.owe(path, left=left, back=before, reason=exc, unsure=path in unset)
        self.debts.release()
