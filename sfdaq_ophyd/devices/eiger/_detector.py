"""The Eiger as an ophyd device."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal

from ...clients.eiger_stream import stream_of
from ...clients.simplon import ARM_TIMEOUT, SLOW_PUT_TIMEOUT, SimplonClient
from ...errors import RequestError, ServiceTimeout, ServiceUnreachable, SfdaqError, shown_url
from ...limits import Limit
from ...wire.frame import FrameFormat
from ...wire.simplon import typed
from .._acquisition import LossPolicy, Rules
from .._detector import Detector
from .._source import Request
from .._status import ActionStatus, Setting, naming, whole_number
from .._store import PointStore, WrittenFileStore
from ..debts import Debts
from ._control import EigerControl, rank_of
from ._file_folder import FileFolder, MountedFolder
from ._files import FilesSource
from ._monitor import MonitorSource
from ._series import EigerSettings, LegacyIds, Mode, Readout, TimestampSource
from ._signals import EigerSignals, SimplonSignal
from ._source import SeriesSource, differs
from ._stream import EigerStreamSource

SAME_ENERGY = 1e-9
"""Two energies, or wavelengths, that differ by less of themselves are one: servers convert between them."""


class Eiger(EigerSignals, Detector):
    """A DECTRIS EIGER, run over HTTP (SIMPLON), read out by its monitor, its stream or its filewriter.

    Frames of the monitor are for looking and for slow scans, some ten per second. The stream has every frame
    at full rate; it goes compressed into the frame file as it comes, and `total` and `max` are computed of
    some of its frames, NaN for the others. The filewriter's own files are registered as they are, with what
    they tell of a frame: its number, and in the newer format its time. Constructing contacts nothing.

    Parameters
    ----------
    url : str
        The detector control unit, ``"http://host:port"``, or its monitor, ``".../monitor/api/1.8.0"``.
    name : str
        Start of all data keys.
    directory : str or Path
        Where frame files are made.
    api_version : str, optional
        ``"1.8.0"`` (EIGER2) or ``"1.6.0"`` (EIGER); found in `url` or asked of the server if not given.
    mode : str, optional
        ``"internal"``: this device arms and triggers. ``"external"``: it arms, hardware triggers.
        ``"monitor"``: somebody else runs the detector, frames are taken as they come. ``"auto"``, the default
        for the address of a monitor: internal, unless the detector is being run by somebody else or cannot be
        reached. Default ``"internal"``. With stream and filewriter internal or external.
    readout : str
        ``"monitor"``, the default, ``"stream"`` or ``"filewriter"``.
    stream : str, optional
        Endpoint of the stream; default ``"tcp://<host of url>:31001"``.
    files : str or Path, optional
        Folder of this machine in which the filewriter's files appear; without one they are fetched into
        `directory`.
    delete_files : bool
        Delete the filewriter's files on the unit once they are here and whole. The unit keeps them in memory.
    legacy_ids : str
        Where ids come from if the images have none (API 1.6): ``"refuse"`` (an error), ``"status"`` (asked of
        the server after each frame: no other client may take images meanwhile), ``"local"`` (counted here,
        ids are marked ``local_...``). Their `NAME_timestamp` is then the time of receipt.
    timeout : float
        s of an HTTP call; the signal `timeout` is the one for frames.
    **kwargs
        For `Detector`.

    Examples
    --------
    >>> eiger = Eiger("http://x06sa-dcu", name="eiger", directory="/data")  # doctest: +SKIP
    >>> eiger.exposure_time.put(0.1)  # doctest: +SKIP
    >>> RE(bp.count([eiger], 5))  # doctest: +SKIP
    """

    mode = Cpt(Setting, value=Mode.INTERNAL.value, kind="config", doc="internal, external, monitor or auto")
    n_triggers = Cpt(Setting, value=1000, kind="config", doc="triggers of one series in a step scan")
    statistics_every = Cpt(
        Setting,
        value=10,
        kind="config",
        doc="stream: numbers of every so many frames of a point or fly scan; bytes changed inside compressed "
        "blocks are seen in those frames only",
    )
    exclude_masked = Cpt(Setting, value=True, kind="config", doc="keep masked pixels out of total and max")
    legacy_ids = Cpt(Setting, value=LegacyIds.REFUSE.value, kind="config")
    timestamp_source = Cpt(
        Setting,
        value=TimestampSource.DETECTOR.value,
        kind="config",
        doc="which time `NAME_timestamp` is: detector (its own), or host (of receipt)",
    )
    n_stale = Cpt(Signal, value=0, kind="normal", doc="frames dropped because they were not of this exposure")
    changed_parameters = Cpt(Signal, value=(), kind="omitted", doc="what the last write changed")

    source: SeriesSource
    hinted: tuple[str, ...] = ("total", "max")

    def __init__(
        self,
        url: str,
        *,
        name: str,
        directory: str | Path,
        api_version: str | None = None,
        mode: str | None = None,
        readout: str = Readout.MONITOR.value,
        stream: str | None = None,
        files: str | Path | None = None,
        delete_files: bool = False,
        legacy_ids: str = LegacyIds.REFUSE.value,
        timeout: float = 10.0,
        **kwargs,
    ):
        if legacy_ids not in list(LegacyIds):
            raise RequestError("legacy_ids", legacy_ids, f"one of {', '.join(LegacyIds)}")
        self.client = SimplonClient(url, api_version, timeout)
        self._write_lock = threading.Lock()
        if (files is not None or delete_files) and readout != Readout.FILEWRITER:
            raise RequestError("readout", readout, "'filewriter', where files or delete_files are given")
        if files is not None and delete_files:
            raise RequestError(
                "delete_files", True, "False: what is on a mounted folder may be the unit's own"
            )
        control = EigerControl(self.client, name, Debts(name, shown_url(self.client.url), directory))
        folder = FileFolder(self.client, Path(directory), name)
        if files is not None:
            folder = MountedFolder(self.client, Path(files), name)
        source = self._new_source(readout, control, stream, folder, delete_files)
        super().__init__(source=source, name=name, directory=directory, **kwargs)
        source.on_stale = self.n_stale.put
        source.is_described = lambda: self._store is None or not self._store.is_fresh
        default = Mode.AUTO if "/monitor/api/" in url else Mode.INTERNAL
        self.mode.put(str(mode or default.value))
        self.legacy_ids.put(str(legacy_ids))
        if legacy_ids != LegacyIds.REFUSE and readout == Readout.MONITOR:
            self.timestamp_source.put(TimestampSource.HOST.value)
        if readout == Readout.FILEWRITER:
            self.hinted = ()
        self.show_signals_of(readout)

    def _new_source(
        self, readout: str, control: EigerControl, stream: str | None, files: FileFolder, delete_files: bool
    ) -> SeriesSource:
        """Return what brings the frames."""
        if readout == Readout.MONITOR:
            return MonitorSource(control)
        if readout == Readout.STREAM:
            return EigerStreamSource(control, stream or stream_of(self.client.url))
        if readout == Readout.FILEWRITER:
            return FilesSource(control, files, delete_files)
        raise RequestError("readout", readout, f"one of {', '.join(Readout)}")

    def _new_store(self, frame_format: FrameFormat, frames_per_point: int) -> PointStore:
        if isinstance(self.source, FilesSource):
            return WrittenFileStore(self.name, frame_format, frames_per_point)
        return super()._new_store(frame_format, frames_per_point)

    def settings(self) -> EigerSettings:
        """Return what the source needs at stage."""
        kinds: dict[str, type[StrEnum]] = {
            "mode": Mode,
            "legacy_ids": LegacyIds,
            "timestamp_source": TimestampSource,
        }
        for name, kind in kinds.items():
            if (value := getattr(self, name).get()) not in list(kind):
                raise RequestError(f"{self.name}.{name}", value, f"one of {', '.join(kind)}")
        return EigerSettings(
            mode=Mode(self.mode.get()),
            n_triggers=whole_number(f"{self.name}.n_triggers", self.n_triggers.get(), 1),
            frames_per_trigger=int(self.frames_per_trigger.get()),
            timeout=float(self.timeout.get()),
            exclude_masked=bool(self.exclude_masked.get()),
            legacy_ids=LegacyIds(self.legacy_ids.get()),
            loss_policy=LossPolicy(self.loss_policy.get()),
            statistics_every=whole_number(f"{self.name}.statistics_every", self.statistics_every.get(), 0),
            timestamp_source=TimestampSource(self.timestamp_source.get()),
        )

    def prepare(self, value: Any) -> ActionStatus:
        """Say what the next fly scan will be.

        Parameters
        ----------
        value : int or Mapping
            Number of points; or ``{"n_points": 100, "exposure_time": 0.01, ...}``: with any signal of this
            device that can be written to the detector, in any order.

        Returns
        -------
        ActionStatus
            Done when the detector is configured.
        """
        writes = dict(value) if isinstance(value, Mapping) else {"n_points": value}
        n_points = writes.pop("n_points", self.n_points.get())
        for name in writes:
            signal = getattr(self, name, None)
            if not isinstance(signal, SimplonSignal) or not signal.write_access:
                raise RequestError(
                    f"{self.name}.prepare", name, "n_points, or a signal of the detector's config"
                )
            signal.check_value(writes[name])
        names = self._in_order(writes)
        done = super().prepare(n_points)
        if not writes:
            return done
        status = ActionStatus(self, "prepare", 2 * SLOW_PUT_TIMEOUT * len(writes), unit="steps")
        return self.write_aside(status, lambda: [getattr(self, n).put(writes[n]) for n in names])

    def configure(self, d: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Set configuration signals, in an order in which none undoes what was set before it.

        Parameters
        ----------
        d : dict
            Value by name of the signal, in any order.

        Returns
        -------
        tuple of dict
            The configuration before and after.
        """
        return super().configure({name: d[name] for name in self._in_order(d)})

    def _in_order(self, names: Iterable[str]) -> list[str]:
        """Return names of signals in the order in which they are to be written."""
        return sorted(names, key=lambda name: rank_of(getattr(getattr(self, name, None), "path", "")))

    def initialize(self) -> None:
        """Initialize the detector: up to 2 min; its configuration returns to defaults.

        What this session had set is set no more; what an earlier scan could not put back is put back.
        """
        self.source.control.debts.owed(surely=True)  # refused before anything is forgotten
        self.source.control.session.clear()
        self.source.control.initialize()

    def prepare_write(self, signal: SimplonSignal) -> None:
        """Make the detector fit to take a new value: initialized, and no series open."""
        if signal.module != "detector":
            return
        if self.mode.get() != Mode.MONITOR and self.source.control.is_uninitialized():
            self.source.control.initialize()
        self.source.settings_change()

    def write(self, signal: SimplonSignal, value: Any) -> list[str]:
        """Write one parameter; read back every one the server says has changed, and return their names.

        A new exposure time also brings the frame time to the shortest that holds it; set `frame_time`
        afterwards for a longer one. An energy that is what it was is not sent: the server would set
        thresholds and flat field anew.

        Parameters
        ----------
        signal : SimplonSignal
            Whose parameter.
        value : object
            As the server takes it.

        Returns
        -------
        list of str
            Names of the parameters of that module that changed.

        Raises
        ------
        RequestError
            Images would not be any more what a run under way says they are; the old value is there again.
        """
        with self._write_lock:
            if signal in (self.photon_energy, self.wavelength, self.threshold_energy):
                if math.isclose(signal.get(), value, rel_tol=SAME_ENERGY):
                    self.source.control.note_set(signal.module, [signal.parameter], [])
                    self.changed_parameters.put(())
                    return []
            before = (
                self._times() if self.is_staged and signal in (self.exposure_time, self.frame_time) else {}
            )
            changed = self.client.put(signal.module, signal.parameter, value)
            if signal is self.exposure_time:
                changed += self._shorten_frame_time(value)
            if before:
                self._check_images(signal, value, before)
            elif self.is_staged and signal is self.trigger_start_delay:
                self.source.read_times()
            also = ["frame_time"] if signal is self.exposure_time else []
            self.source.control.note_set(signal.module, [signal.parameter, *also], changed)
            mirrors = {
                s.parameter: s
                for s in (getattr(self, n) for n in self.component_names)
                if isinstance(s, SimplonSignal) and s.module == signal.module and s.task == "config"
            }
            for name in dict.fromkeys(changed):
                if name in mirrors:
                    mirrors[name].get()
            self.changed_parameters.put(tuple(dict.fromkeys(changed)))
        return changed

    def _times(self) -> dict[str, float]:
        return {n: self.client.get("detector", "config", n).value for n in ("frame_time", "count_time")}

    def _check_images(self, signal: SimplonSignal, value: Any, before: dict[str, float]) -> None:
        """Put times back that change the bit depth, unless nobody was told of it yet."""
        now, store = self.source.read_format(), self._need_stage("write")
        if not (problem := differs(now, store.frame_format)):
            return
        if store.is_fresh:
            self._store = self._new_store(now, store.frames_per_point)
            self.source.frame_format = now
            return
        for name, was in before.items():
            self.client.put("detector", name, was)
        expected = f"a time that leaves images as the run describes them: {problem}; unstage first"
        raise RequestError(signal.name, value, expected)

    def _shorten_frame_time(self, exposure_time: float) -> list[str]:
        readout = typed(self.client.get("detector", "config", "detector_readout_time").value, "number")
        now = self.client.get("detector", "config", "frame_time")
        frame_time = typed(now.value, "number")
        if readout is None or frame_time is None:
            return []
        shortest = max(exposure_time + readout, now.minimum or 0.0)
        return self.client.put("detector", "frame_time", shortest) if frame_time > shortest else []

    def _acquire(self, request: Request, rules: Rules, **callbacks: Any) -> None:
        try:
            self.source.before_trigger()
        except SfdaqError as exc:
            self.failure = naming(exc, self.name)
            raise
        super()._acquire(request, rules, **callbacks)

    def _rules(self) -> Rules:
        """Give the source time to arm, and to say itself what went wrong."""
        arming = 0.0 if self.source.armed else ARM_TIMEOUT
        rules = super()._rules()
        timeout = rules.timeout + self.source.trigger_delay + arming + 10.0 + self.source.rest_time
        return replace(rules, timeout=timeout, frame_time=self.source.frame_time)

    def wait_for_connection(self, all_signals: bool = False, timeout: float | None = 2.0) -> None:
        """Return once the detector control unit was heard.

        Parameters
        ----------
        all_signals : bool
            As `ophyd.Device` has it; one answer is enough for all signals here.
        timeout : float, optional
            s; None waits for ever.

        Raises
        ------
        ServiceTimeout
            It was not, within `timeout` s; what came instead is told.
        RequestError
            It does not tell its API version: give `api_version`.
        """
        limit = Limit(timeout)
        while True:
            try:
                self.client.probe(None if timeout is None else max(limit.left, 0.1))
                return
            except (ServiceUnreachable, ServiceTimeout) as exc:
                if timeout is not None and limit.reached():
                    what = f"{self.name}: an answer of {self.client.url}"
                    raise ServiceTimeout(what, timeout, str(exc)) from exc
                time.sleep(limit.step(0.2))
