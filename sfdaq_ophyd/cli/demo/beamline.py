"""The demo's beamline: every device as a user would make it, told where the simulators are."""

from __future__ import annotations

from pathlib import Path

from ophyd import EpicsMotor, EpicsSignal

from ...devices import Eiger, Jungfrau, PulseId, SfDaqBroker, StdDaqWriter
from ...files import load_calibration
from ...session.devices import be_patient
from ...sim import Facility

FRAMES_PER_FILE = 20
"""Images per file of the standard DAQ: as a rule, the frame that the live Jungfrau shows is among them."""

SCAN = -1.0, 3.0
"""mm; the sample is in the middle."""

PULSES_PER_POINT = 10
"""Machine pulses the broker retrieves per point."""


class Beamline:
    """Devices of the simulated facility.

    Parameters
    ----------
    facility : Facility
        Running, with all its parts.
    folder : Path
        Where frames and run tables go; made if missing.
    """

    def __init__(self, facility: Facility, folder: Path):
        self._facility, self._folder = facility, folder
        be_patient()
        pvs = facility.pvs
        self.motor = EpicsMotor(pvs["motor"], name="motor")
        self.shutter = EpicsSignal(pvs["shutter"], name="shutter", string=True, put_complete=True)
        self.pulse_id = PulseId(pvs["pulse_id"], name="pulse_id")
        self.eiger = Eiger(facility.eiger.url, name="eiger", directory=self._made("eiger"))
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
            device.wait_for_connection(timeout=60)

    def scanned(self, pedestal: str) -> list:
        """Return the detectors of a scan; the writer brings the Jungfrau it writes.

        Parameters
        ----------
        pedestal : str
            File with which live images of the Jungfrau are calibrated.
        """
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
        writer = StdDaqWriter(
            self._facility.std_daq.url,
            name="writer",
            redis_url=self._facility.std_daq.redis_url,
            directory=self._made("std-daq"),
            detectors=[jungfrau],
        )
        writer.frames_per_trigger.put(FRAMES_PER_FILE)
        return [self.pulse_id, self.eiger, writer, self.sfdaq]

    def _made(self, name: str) -> Path:
        path = self._folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path
