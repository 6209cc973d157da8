"""The broker as a part of the Facility: both services, the writers behind them, and the files they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...wire.broker import BEAMLINES, DIALECTS, Dialect, raw_directory
from ...wire.detector_name import DetectorName
from ..facility import World
from ..faults import Faults, check
from ..jungfrau.part import JungfrauPart
from ..pvs.part import PvsPart
from .detector_calls import DAP_CONFIG, SCRIPTS, dap_file
from .detector_files import CENTRAL, DetectorWriter, PedestalFiles, Scenes, stream_config
from .hardware import DetectorEntry, beamline_with, table_of
from .http import SiteServer, bind_pair
from .run_calls import config_file
from .site import DATA_BUFFERS, DETECTOR_BUFFER, Delays, Message, ServiceCall, Site
from .writers import (
    EPICS_WORDS,
    Consumer,
    ControlWriter,
    DataWriter,
    write_cameras,
    write_channels,
    write_pvs,
)

FAULTS = {
    "latency": "the reply takes `seconds` more",
    "hang": "no reply until the simulator stops; the request is never carried out",
    "drop_before": "the connection closes before the request is carried out",
    "drop_after": "the connection closes after the request is carried out",
    "garbage": "the request is carried out, the reply is HTML, or `body`, with code 200",
    "server_error": "HTTP 500",
    "refuse": "an error with `message` and `exception`; nothing is done",
    "wrong_run_number": "the reply is one too high",
    "message_broker_down": "the message broker cannot be reached",
    "close_pgroup": "`pgroup` is closed just before the next request",
    "run_info_unwritable": "the folder of run numbers cannot be written",
    "stray_meta_file": "a file too many in the run's ``meta/``, so that numbers drift",
    "trigger_stuck": "event codes are lost",
    "writer_absent": "the request to a writer vanishes",
    "writer_fails": "the writer of `source` writes an ``.err`` with `message`",
    "writer_silent": "the writer of `source` says it is finished, and there is no file",
    "missing_pulses": "`pulse_ids` did not arrive at the writer of `source`",
    "truncated_file": "the file of `source` ends half-way",
    "channels_offline": "`channels`, or the first, of `source` are left out, and the log says so",
    "power_on_fails": "a detector does not go on, with `message`",
    "pedestal_fails": "a pedestal is not taken, with `message`",
    "limping": "at once: `modules` of `detector` stop writing",
    "detector_stopped": "at once: `detector` stops",
}
"""Name and meaning of every fault; `source` is PVDATA, BSDATA, CAMERAS or a detector, default any."""

AT_ONCE = ("limping", "detector_stopped", "trigger_stuck")
"""Faults that are there as soon as they are named."""

FAST = 0.05
"""Default factor on the measured delays: 10 s become half a second."""


class BrokerPart:
    """Both services of a simulated sf-daq broker.

    Requests from this machine count as those of `beamline`, unless they carry ``X-Forwarded-For``.

    Parameters
    ----------
    world : World
        Clock, folder, speed, seed; its Jungfrau is one of the detectors, its PVs carry the trigger.
    dialect : {"current", "documented"}
    beamline : str, optional
        Default is the one the facility's Jungfrau belongs to, else bernina.
    pgroup : str or None
        A pgroup that exists and is open.
    running : iterable of str, optional
        Detectors that run from the start; default is the facility's Jungfrau, else the beamline's first.
    pvs : iterable of str, or None
        What the epics buffer records at the start; None: the beamline has no such buffer.
    delays : float
        Factor on the services' measured delays, 1.0 for the real ones; the facility's speed divides it.
    writers : bool
        False: requests vanish, as with no writer process running.
    pedestal_frames : int
        Frames per gain stage in a pedestal file; the real number is 1000.

    Attributes
    ----------
    beamline : str
        Beamline of callers from this machine.
    trigger : Trigger
        Of that beamline.
    root : Path
        The folder that stands for ``/sf``.
    site : Site
        Everything inside: tree, hardware, messages, triggers, faults.
    """

    name = "broker"

    def __init__(
        self,
        world: World,
        *,
        dialect: Dialect = "current",
        beamline: str | None = None,
        pgroup: str | None = "p12345",
        running: Iterable[str] | None = None,
        pvs: Iterable[str] | None = ("SIM:PRESSURE", "SIM:TEMPERATURE"),
        delays: float = FAST,
        writers: bool = True,
        pedestal_frames: int = 10,
    ):
        if dialect not in DIALECTS:
            raise RequestError("dialect", dialect, f"one of {', '.join(DIALECTS)}")
        if not delays >= 0:
            raise RequestError("delays", delays, "a factor of at least 0")
        self._world, self._pgroup, self.dialect = world, pgroup, dialect
        table, jungfrau = table_of(dialect), world.parts.get("jungfrau")
        scene = jungfrau.scene if isinstance(jungfrau, JungfrauPart) else None
        live = None if scene is None else scene.detector_name
        self.beamline = home = beamline or (live and beamline_with(table, live)) or "bernina"
        if home not in BEAMLINES:
            raise RequestError("beamline", home, f"one of {', '.join(BEAMLINES)}")
        if live is not None and beamline_with(table, live) is None:
            table[home] = (*table.get(home, ()), DetectorEntry(live, live, 12))
        self.site = site = Site(world, dialect, home, table, Delays(delays / world.speed), Faults(FAULTS))
        self.root, self.trigger = site.tree.sf, site.trigger(home)
        self._detectors = [entry.name for entry in table.get(home, ())]
        default = [live] if live in self._detectors else self._detectors[:1]
        self._running = list(default if running is None else running)
        self._pvs = pvs
        self._scenes = Scenes(world.seed, world.clock.view, scene)
        self._workers = self._make_workers(pedestal_frames) if writers else []
        self._broker, self._slow = self._services = SiteServer(site, "broker"), SiteServer(site, "slow")

    def _make_workers(self, pedestal_frames: int) -> list[Consumer]:
        site = self.site
        frames = DetectorWriter(site, self._scenes, PedestalFiles(site, self._scenes, pedestal_frames))
        handlers: dict[str, Callable[[Message], None]] = {
            "epics": DataWriter(site, write_pvs, words=EPICS_WORDS),
            "data3buffer": DataWriter(site, write_channels, DATA_BUFFERS),
            "imagebuffer": DataWriter(site, write_cameras, DATA_BUFFERS),
            "detector.retrieve": DataWriter(site, frames, DETECTOR_BUFFER),
            "detector.pedestal": ControlWriter(site),
        }
        return [Consumer(site, name, handle) for name, handle in handlers.items()]

    def launch(self) -> None:
        """Begin nothing: it needs what the others have started."""

    def start(self) -> None:
        """Lay out the file system and serve."""
        pvs = self._world.parts.get("pvs")
        if isinstance(pvs, PvsPart):
            self.trigger.use_pv(partial(pvs.read, "event_code"), partial(pvs.write, "event_code"))
        self._lay_out()
        port = self._world.next_port()
        if port:
            self._world.next_port()  # the slow broker's
        bind_pair(*self._services, port)
        for worker in self._workers:
            worker.start()
        for service in self._services:
            service.start()

    def stop(self) -> None:
        """End services and writers. Safe twice."""
        self.site.delays.stopped.set()
        for service in self._services:
            service.stop()
        for worker in self._workers:
            worker.stop()

    def _lay_out(self) -> None:
        """Make the home beamline's directories and configurations; what is there already stays."""
        site = self.site
        if self._pgroup is not None:
            self.make_pgroup(self._pgroup)
        site.tree.make(DAP_CONFIG)
        site.tree.make(SCRIPTS)
        if self._pvs is not None:
            config = {"pulse_id_pv": BEAMLINES[site.home].pulse_id_pv, "pv_list": list(self._pvs)}
            self._write(config_file(site.dialect, site.home), config)
        for name in self._running:
            detector = site.hardware[name]
            detector.configured = True
            detector.set_state("running")
            height, width = DetectorName.parse(name).raw_shape
            dap = {
                "beam_center_x": width / 2,
                "beam_center_y": height / 2,
                "detector_distance": 0.1,
                "do_peakfinder_analysis": False,
            }
            self._write(dap_file(name), dap)
            config = {
                "detector_name": name,
                "gain_file": f"/sf/jungfrau/config/gainMaps/{name}/gains.h5",
                "pedestal_file": f"{CENTRAL}/{name}/20200101_000000.h5",
            }
            self._write(stream_config(name), config)

    def _write(self, path: str, content: Any) -> None:
        tree = self.site.tree
        if not tree.exists(path):
            tree.make(path.rsplit("/", 1)[0])
            tree.write_json(path, content)

    @property
    def url(self) -> str:
        """Address of the broker."""
        return self._broker.url

    @property
    def slow_url(self) -> str:
        """Address of the slow broker."""
        return self._slow.url

    def make_pgroup(self, pgroup: str, beamline: str | None = None) -> Path:
        """Make a pgroup with an empty ``raw/``, and return where that lies."""
        return self.site.tree.make(raw_directory(beamline or self.beamline, pgroup))

    def requests(self, endpoint: str | None = None) -> list[ServiceCall]:
        """Return the requests so far, of one endpoint or all, in order of arrival."""
        logged = [entry for entry in self.site.requests if endpoint in (None, entry.endpoint)]
        return sorted(logged, key=lambda entry: entry.started)

    def messages(self) -> list[Message]:
        """Return what went over the message broker: requests to writers, and their status messages."""
        return list(self.site.messages.log)

    @property
    def n_waiting(self) -> int:
        """Requests that the writers have not finished."""
        return self.site.messages.n_waiting

    def on_message(self, listener: Callable[[Message], None]) -> None:
        """Call `listener` with every such message from now on, in the thread that sends it."""
        self.site.messages.listen(listener)

    def addresses(self) -> dict[str, str]:
        """Return both URLs and the folder that stands for ``/sf``."""
        return {"broker": self.url, "slow": self.slow_url, "root": str(self.root)}

    def fail_next(self, what: str, *, endpoint: str | None = None, times: int = 1, **details: Any) -> None:
        """Misbehave by name; `FAULTS` lists names and details.

        Parameters
        ----------
        endpoint : str, optional
            Only there; default is the next request, whatever it is.
        times : int
            How often.
        """
        if what not in AT_ONCE:
            self.site.faults.add(what, details, times, endpoint=endpoint)
            return
        check(FAULTS, what, details)
        if what == "trigger_stuck":
            self.trigger.stuck = 2 * times
            return
        detector = details.get("detector", (self._running or self._detectors)[0])
        modules = self.site.hardware[detector].modules
        for number in details.get("modules", range(len(modules))):
            modules[number].state = "stopped"
            self.site.hardware.write_latest(detector, number, age=3600)
