"""The demo's course: facility, pedestal, scan, tables, pictures, report."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import ServiceTimeout, require
from ..limits import Limit
from ..log import attempt, count_lines, in_lines
from ..sim import Facility
from ..sim.child import HINT
from ..starting import without_collection
from .sim import SPEED, START_TIMEOUT

FRAMES_PER_FILE = 20
"""Images per file of the standard DAQ: as a rule, the frame that the live Jungfrau shows is among them."""

SCAN = -1.0, 3.0
"""mm; the sample is in the middle."""

LOOK = 0.1
"""s that a look at a device takes at the least."""

PULSES_PER_POINT = 10
"""Machine pulses the broker retrieves per point."""


class DemoDevices:
    """Devices of the simulated facility."""

    def __init__(
        self,
        facility: Facility,
        folder: Path,
        eiger_readout: str = "monitor",
        start_timeout: float = 60.0,
    ):
        from ophyd import EpicsMotor, EpicsSignal

        from ..devices import Eiger, PulseId, SfDaqBroker
        from ..session.devices import be_patient

        self._facility, self._folder = facility, folder
        be_patient()
        pvs = facility.pvs
        self.motor = EpicsMotor(pvs["motor"], name="motor")
        self.shutter = EpicsSignal(pvs["shutter"], name="shutter", string=True, put_complete=True)
        self.pulse_id = PulseId(pvs["pulse_id"], name="pulse_id")
        self.eiger = Eiger(
            facility.eiger.url,
            name="eiger",
            directory=self._made("eiger"),
            readout=eiger_readout,
            stream=facility.eiger.stream_endpoint,
        )
        self.sfdaq = SfDaqBroker(
            facility.broker.url,
            name="sfdaq",
            pgroup="p12345",
            pulse_id=self.pulse_id,
            beamline=facility.broker.beamline,
            detectors={facility.jungfrau.detector_name: {"adc_to_energy": True, "geometry": True}},
            channels=["SIM:INTENSITY"],
            n_pulses=PULSES_PER_POINT,
            sf_root=facility.broker.root,
            directory=self._made("sf-daq"),
        )
        for device in (self.motor, self.shutter, self.pulse_id, self.eiger, self.sfdaq):
            _connect(device, start_timeout)

    def scanned(self, pedestal: str) -> list:
        """Return the detectors of a scan; the writer brings the Jungfrau, calibrated by a pedestal's file."""
        from ..devices import Jungfrau, StdDaqWriter
        from ..files import load_calibration
        from ..session.simulated import address_of_daq

        sim = self._facility.jungfrau
        gains = sim.scene.write_constants(self._made("constants")).gain
        jungfrau = Jungfrau(
            sim.endpoints,
            name="jf",
            detector_name=sim.detector_name,
            directory=self._made("jf"),
            calibration=load_calibration(sim.detector_name, gains, pedestal),
            pulse_id=self.pulse_id,
        )
        daq = self._facility.std_daq
        writer = StdDaqWriter(
            **address_of_daq(daq),
            name="writer",
            redis_url=daq.redis_url or None,
            directory=self._made("std-daq"),
            detectors=[jungfrau],
        )
        writer.frames_per_trigger.put(FRAMES_PER_FILE)
        return [self.pulse_id, self.eiger, writer, self.sfdaq]

    def _made(self, name: str) -> Path:
        path = self._folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def _connect(device: Any, timeout: float) -> None:
    """Return once a device is connected; ServiceTimeout with what is not, if it was not in `timeout` s."""
    limit, longest = Limit(timeout), 0.5
    while True:
        try:
            device.wait_for_connection(timeout=max(limit.step(longest), LOOK))
            return
        except TimeoutError as exc:  # measured by others, by the clock on the wall
            if limit.reached():
                seen = exc.last_seen if isinstance(exc, ServiceTimeout) else str(exc)
                raise ServiceTimeout(f"{device.name}: connection", timeout, seen, HINT) from exc
            longest *= 2  # a slow answer comes too: the Eiger has this much for each request


class EigerReadout(Enum):
    """Interfaces of the Eiger that give frames one by one."""

    MONITOR = "monitor"
    STREAM = "stream"


class StdDaqDialect(Enum):
    """Generations of the standard DAQ: control by REST, old and new, and by websocket."""

    FLASK = "flask"
    FASTAPI = "fastapi"
    WEBSOCKET = "websocket"


NEXT = (
    ("init mybeamline", "a folder for your beamline; it begins with the simulated one"),
    ("session mybeamline", "an IPython session on it: devices, plans, RE and catalog"),
    ("watch --config sim", "a live page of a simulated beamline"),
    ("doctor --config sim", "is everything well there?"),
)
"""What to type after the demo, in the same folder, and what it gives."""


def demo(
    directory: Annotated[Path, typer.Option(help="Catalog, frames, pictures and the report go here.")] = Path(
        "demo-output"
    ),
    points: Annotated[int, typer.Option(min=2, help="Points of the scan; 5 and more are fitted.")] = 7,
    speed: Annotated[Any, SPEED] = "auto",
    start_timeout: Annotated[float, START_TIMEOUT] = 60.0,
    eiger_model: Annotated[str, typer.Option(help="16M, 9M, 4M, 1M or 500K.")] = "1M",
    eiger_readout: Annotated[
        EigerReadout, typer.Option(help="Where images of the Eiger come from.")
    ] = EigerReadout.MONITOR,
    std_daq: Annotated[
        StdDaqDialect, typer.Option(help="Generation of the standard DAQ.")
    ] = StdDaqDialect.FLASK,
) -> None:
    """Take a pedestal and find the sample with a motor, all detectors and the broker of a simulated beamline.

    Then show what the catalog has of it: a table per run, the peak with its fit, pictures, a report.

    Example: sfdaq demo --directory demo-output --points 7 --eiger-model 4M
    """
    require("all", "the demo", "aiohttp", "bottle", "duckdb", "jinja2", "matplotlib", "tiled")
    os.environ.setdefault("OPHYD_CONTROL_LAYER", "caproto")  # before ophyd is imported
    with without_collection(ours=True):
        from bluesky import RunEngine
        from bluesky.utils import ProgressBarManager

        from .. import devices, setup  # noqa: F401 - those of the beamline
        from ..catalog import embedded_catalog
        from ..plans import sf_scan, take_pedestal
        from .demo_exhibits import calibrating_file, say, short, show_pedestal, show_scan, write_report

    directory = directory.resolve()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    parts = Facility(
        speed,
        directory / "facility",
        on_rate=_say_rate,
        start_timeout=start_timeout,
        eiger_model=eiger_model,
        std_daq_dialect=std_daq.value,
        std_daq_writable=directory / "frames",
    )
    with ExitStack() as stack:
        ctrl_c = stack.enter_context(_remembered_ctrl_c())
        _say(console, "Starting the simulated facility and the catalog ...")
        with attempt("starting the simulated facility and the catalog"):
            facility = stack.enter_context(parts)
            catalog = stack.enter_context(
                embedded_catalog(directory / "catalog", start_timeout=start_timeout)
            )
            beamline = DemoDevices(facility, directory / "frames", eiger_readout.value, start_timeout)
            if ctrl_c.is_set():
                raise KeyboardInterrupt
        run_engine = RunEngine()
        setup(run_engine, catalog)
        if console.is_terminal:
            run_engine.waiting_hook = ProgressBarManager()  # type: ignore[assignment] # bluesky gives it no type
            # ophyd's own bar divides by zero where the motor already stands at its target
            warnings.filterwarnings("ignore", "invalid value", RuntimeWarning, "ophyd.status")
        _say(console, "Taking a pedestal: shutter closed, three gain stages ...")
        with attempt("taking a pedestal"):
            dark = _run(run_engine, take_pedestal(beamline.sfdaq, shutter=beamline.shutter), ctrl_c)
            pedestal = calibrating_file(catalog[dark])
            _say(console, f"Pedestal: {short(pedestal, 69)}")
            detectors = beamline.scanned(pedestal)
        names = "pulse_id, eiger, jf, writer (standard DAQ), sfdaq (broker)"
        _say(console, f"Scanning {beamline.motor.name}: {names} ...")
        with attempt(f"scanning {beamline.motor.name} with {names}"):
            light = _run(run_engine, sf_scan(detectors, beamline.motor, *SCAN, points), ctrl_c)
        with attempt("showing what the catalog has"):
            catalog.flush()
            exhibits = [show_pedestal(catalog[dark]), show_scan(catalog[light], directory / "pictures")]
            for exhibit in exhibits:
                say(console, exhibit)
    report = write_report(directory / "report.html", exhibits)
    console.print(f"\nPictures: {directory / 'pictures'}\nReport: {report.as_uri()}", soft_wrap=True)
    console.print("\nNext:")
    for words, what in NEXT:
        console.print(f"  {_program()} {words:20}  # {what}", soft_wrap=True)


def _say(console: Console, text: str) -> None:
    """Print a line that a failure leaves room for."""
    console.print(text, soft_wrap=True)
    count_lines(text)


def _say_rate(text: str) -> None:
    """Print at which rate the pulse clock runs, in one line."""
    (line,) = in_lines(text, 1)
    print(line, file=sys.stderr, flush=True)
    count_lines(line)


def _program() -> str:
    """Return how this program is called from here."""
    given = Path(sys.argv[0])
    if given.name != "sfdaq" or shutil.which("sfdaq") == str(given.absolute()):
        return "sfdaq"
    return os.path.relpath(given)


@contextmanager
def _remembered_ctrl_c() -> Iterator[threading.Event]:
    """Yield what the first Ctrl-C sets, for an import that catches everything loses the KeyboardInterrupt.

    Further ones do not disturb the end in order.
    """
    pressed = threading.Event()

    def interrupt(*_) -> None:
        if not pressed.is_set():
            pressed.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if pressed.is_set() else before)


def _run(run_engine, plan, ctrl_c: threading.Event) -> str:
    """Run a plan of one run and return its uid; Ctrl-C ends it in order, and with it the demo."""
    from bluesky.utils import RunEngineInterrupted

    try:
        (uid,) = run_engine(plan)
    except RunEngineInterrupted:
        ctrl_c.set()
        run_engine.abort("Ctrl-C")
        raise KeyboardInterrupt from None
    return uid
