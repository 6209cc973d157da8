"""The broker as a part of the Facility: both services, the writers behind them, and the files they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...wire.broker import BEAMLINES, DIALECTS, Dialect, raw_directory
from ...wire.detector_name import DetectorName
from ..faults import Faults, check
from ..jungfrau.part import JungfrauPart
from ..pvs.part import PvsPart
from ..world import World
from .beamline import DATA_BUFFERS, DETECTOR_BUFFER, Delays, Tree, Trigger
from .data_files import BufferWriter, PvWriter
from .detector_files import CENTRAL, PedestalEvaluation, Scenes, stream_config
from .detector_writer import DetectorWriter
from .faults import AT_ONCE, FAULTS
from .file_calls import DAP_CONFIG, SCRIPTS, config_file, dap_file
from .hardware import DetectorEntry, Hardware, Table, beamline_with, table_of
from .http import HttpService, LoggedRequest, bind_pair
from .messages import Message, Messages, Worker
from .site import Site
from .writers import EPICS_WORDS, ControlWriter, DataWriter

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
    detectors : dict, optional
        Detector table in place of the server's: see `detectors.Table`.
    running : iterable of str, optional
        Detectors that run from the start; default is the facility's Jungfrau, else the beamline's first.
    pvs : iterable of str, or None
        What the epics buffer records at the start; None: the beamline has no such buffer.
    delays : float
        Factor on the services' measured delays, 1.0 for the real ones; the facility's speed divides it.
    writers : bool
        False: requests vanish, as with no writer process running.
    max_frames : int
        Largest file the simulated writers make.
    pedestal_frames : int
        Frames per gain stage in a pedestal file.

    Attributes
    ----------
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
        detectors: Table | None = None,
        running: Iterable[str] | None = None,
        pvs: Iterable[str] | None = ("SIM:PRESSURE", "SIM:TEMPERATURE"),
        delays: float = FAST,
        writers: bool = True,
        max_frames: int = 2000,
        pedestal_frames: int = 10,
    ):
        if dialect not in DIALECTS:
            raise RequestError("dialect", dialect, f"one of {', '.join(DIALECTS)}")
        if not delays >= 0:
            raise RequestError("delays", delays, "a factor of at least 0")
        self._world, self._pgroup, self._writers = world, pgroup, writers
        table = table_of(dialect) if detectors is None else dict(detectors)
        jungfrau = world.parts.get("jungfrau")
        scene = jungfrau.scene if isinstance(jungfrau, JungfrauPart) else None
        live = None if scene is None else scene.detector_name
        home = beamline or (live and beamline_with(table, live)) or "bernina"
        if home not in BEAMLINES:
            raise RequestError("beamline", home, f"one of {', '.join(BEAMLINES)}")
        if live is not None and beamline_with(table, live) is None:
            table[home] = (*table.get(home, ()), DetectorEntry(live, live, 12))
        tree, faults = Tree(world.directory / "broker"), Faults(FAULTS)
        waits = Delays(delays / world.speed)
        messages = Messages(dialect, waits, faults)
        self.site = Site(dialect, home, tree, table, waits, world.clock, Hardware(tree), messages, faults)
        names = [entry.name for entry in table.get(home, ())]
        default = [live] if live in names else names[:1]
        self._running = list(default if running is None else running)
        self._detectors, self._pvs = names, pvs
        self._scenes = Scenes(world.seed, world.clock.view, scene)
        self._workers = self._make_workers(max_frames, pedestal_frames) if writers else []
        self._services = {
            "broker": HttpService(self.site, "broker"),
            "slow": HttpService(self.site, "slow"),
        }

    def _make_workers(self, max_frames: int, pedestal_frames: int) -> list[Worker]:
        site = self.site
        evaluation = PedestalEvaluation(site, self._scenes, pedestal_frames)
        channels = BufferWriter(site, cameras=False, max_rows=100_000)
        cameras = BufferWriter(site, cameras=True, max_rows=max_frames)
        frames = DetectorWriter(site, self._scenes, max_frames, evaluation)
        handlers: dict[str, Callable[[Message], None]] = {
            "epics": DataWriter(site, PvWriter(site), words=EPICS_WORDS),
            "data3buffer": DataWriter(site, channels, DATA_BUFFERS),
            "imagebuffer": DataWriter(site, cameras, DATA_BUFFERS),
            "detector.retrieve": DataWriter(site, frames, DETECTOR_BUFFER),
            "detector.pedestal": ControlWriter(site),
        }
        return [Worker(site.messages, name, handle, site.delays) for name, handle in handlers.items()]

    def launch(self) -> None:
        """Begin nothing: it needs what the others have started."""

    def start(self) -> None:
        """Lay out the file system and serve."""
        self._connect_trigger()
        self._lay_out()
        port = self._world.next_port()
        if port:
            self._world.next_port()  # the slow broker's
        bind_pair(self._services["broker"], self._services["slow"], port)
        for worker in self._workers:
            worker.start()
        for service in self._services.values():
            service.start()

    def stop(self) -> None:
        """End services and writers. Safe twice."""
        self.site.delays.stopped.set()
        for service in self._services.values():
            service.stop()
        for worker in self._workers:
            worker.join()

    def _lay_out(self) -> None:
        """Make the home beamline's directories and configurations; what is there already stays."""
        site = self.site
        if self._pgroup is not None:
            self.make_pgroup(self._pgroup)
        for directory in (DAP_CONFIG, SCRIPTS):
            site.tree.make(directory)
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

    def _connect_trigger(self) -> None:
        pvs = self._world.parts.get("pvs")
        if isinstance(pvs, PvsPart):
            self.site.triggers[self.site.home] = Trigger(
                self.site.delays,
                self.site.clock.now,
                lambda: pvs.read("event_code"),
                lambda value: pvs.write("event_code", value),
            )

    @property
    def url(self) -> str:
        """Address of the broker."""
        return self._services["broker"].url

    @property
    def slow_url(self) -> str:
        """Address of the slow broker."""
        return self._services["slow"].url

    @property
    def root(self) -> Path:
        """The folder that stands for ``/sf``."""
        return self.site.tree.sf

    @property
    def dialect(self) -> Dialect:
        """What it speaks."""
        return self.site.dialect

    @property
    def beamline(self) -> str:
        """Beamline of callers from this machine."""
        return self.site.home

    @property
    def trigger(self) -> Trigger:
        """Trigger of that beamline."""
        return self.site.trigger(self.site.home)

    def make_pgroup(self, pgroup: str, beamline: str | None = None) -> Path:
        """Make a pgroup with an empty ``raw/``, and return where that lies."""
        return self.site.tree.make(raw_directory(beamline or self.site.home, pgroup))

    def requests(self, endpoint: str | None = None) -> list[LoggedRequest]:
        """Return the requests so far, of one endpoint or all, in order of arrival."""
        logged = [entry for service in self._services.values() for entry in list(service.log)]
        chosen = [entry for entry in logged if endpoint in (None, entry.endpoint)]
        return sorted(chosen, key=lambda entry: entry.started)

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
        """Misbehave by name; `faults.FAULTS` lists names and details.

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
        detector = details.get("detector", self._running[0] if self._running else self._detectors[0])
        if what == "trigger_stuck":
            self.trigger.stuck = 2 * times
            return
        modules = self.site.hardware[detector].modules
        for number in details.get("modules", range(len(modules))):
            modules[number].state = "stopped"
            self.site.hardware.write_latest(detector, number, age=3600)
