"""The beamline's PVs: timing, shutter, two motors, and the beam they see."""

from __future__ import annotations

import asyncio
import random
import time

from caproto.server import PVGroup, SubGroup, pvproperty

from ..clock import PULSE_PERIOD, PulseClock
from ..views import sample_at
from .motor import Motor

TRIGGER_RUNNING, TRIGGER_STOPPED = 254, 255
"""Event codes of the detectors' trigger (contract sf-daq-broker.md, section 12)."""

MAX_BURST = 100
"""Pulse ids published at most after a hold-up; older ones are skipped."""

SHUTTER_TRAVEL = 0.2
"""Seconds the shutter takes."""


class BeamlineIOC(PVGroup):
    """Timing, shutter, motors and beam of a simulated beamline.

    PVs
    ---
    RX-PULSEID (double)
        The machine's pulse id, +1 every 10 ms, stamped with the time of the pulse.
    SoftEvt-EvtCode-SP (long)
        Trigger of the detectors: 254 running, 255 stopped.
    SHUTTER (enum)
        Closed or Open; a put completes when the shutter has travelled.
    M1, M2 (motor)
        Two motor records, mm.
    BEAM-RATE (double)
        Repetition rate, Hz; write 0 to lose the beam.
    BEAM-INTENSITY (double)
        Pulse energy before the shutter, uJ, with 5 % noise.
    DIODE (double)
        Intensity behind the shutter and a slit at M1 = 1 mm, sigma 1 mm. There is the sample as well: the
        detectors see a reflection of it, as bright as the diode.
    """

    pulse_id = pvproperty(name="RX-PULSEID", value=0.0, precision=0, read_only=True, doc="pulse id")
    event_code = pvproperty(name="SoftEvt-EvtCode-SP", value=TRIGGER_RUNNING, doc="254 running, 255 stopped")
    shutter = pvproperty(
        name="SHUTTER", value="Open", dtype=bool, enum_strings=["Closed", "Open"], record="bo", doc="shutter"
    )
    motor = SubGroup(Motor, prefix="M1", doc="sample horizontal, mm")
    motor2 = SubGroup(Motor, prefix="M2", doc="sample vertical, mm")
    beam_rate = pvproperty(name="BEAM-RATE", value=100.0, units="Hz", precision=1, doc="repetition rate")
    beam_intensity = pvproperty(
        name="BEAM-INTENSITY", value=0.0, units="uJ", precision=1, read_only=True, doc="pulse energy"
    )
    diode = pvproperty(name="DIODE", value=0.0, precision=4, read_only=True, doc="intensity behind the slit")

    ROLES = (
        *("pulse_id", "event_code", "shutter", "motor", "motor2"),
        *("beam_rate", "beam_intensity", "diode"),
    )

    def __init__(self, prefix: str, *, clock: PulseClock, speed: float = 1.0, seed: int = 0):
        super().__init__(prefix)
        self._clock, self._speed = clock, speed
        self._random = random.Random(seed)
        self.stall_until = 0.0  # monotonic time; the pulse-id PV stands before
        self.refuse: set[str] = set()  # roles whose next put from a client fails
        for motor in (self.motor, self.motor2):
            motor.speed = speed
        self.motor.on_place = lambda dial: clock.show(sample=sample_at(dial))

    def read(self, role: str):
        """Return the value of a role; of a motor its readback."""
        item = getattr(self, self._check(role))
        return item.readback if isinstance(item, Motor) else item.value

    async def write(self, role: str, value) -> None:
        """Set a role at once, past every check and travel time."""
        item = getattr(self, self._check(role))
        if isinstance(item, Motor):
            await item.place(float(value))
        elif role in ("event_code", "shutter", "beam_rate"):
            await item.write(value, verify_value=False)
            self._clock.light = self.shutter.value == "Open" and self.beam_rate.value > 0
        else:
            raise ValueError(f"{role} is what the beam gives; it cannot be written")

    def _check(self, role: str) -> str:
        if role not in self.ROLES:
            raise KeyError(role)
        return role

    async def prepare(self) -> None:
        """Bring every PV to its first value; call before clients come."""
        await self.motor.prepare()
        await self.motor2.prepare()
        self.motor.on_place(self.motor.dial)
        await self.pulse_id.write(float(self._clock.now()))
        await self._shine()

    @pulse_id.startup
    async def pulse_id(self, instance, async_lib):
        """Publish every pulse id as the clock reaches it."""
        last, clock = int(instance.value), self._clock
        with clock.follow("pvs") as follower:
            while True:
                now = clock.now()
                if time.monotonic() >= self.stall_until:
                    for pulse_id in range(max(last + 1, now - MAX_BURST + 1), now + 1):
                        stamp = clock.time_of(pulse_id) if clock.running else time.time()
                        await instance.write(float(pulse_id), timestamp=stamp)
                    last = max(last, now)
                follower.finished(now)
                await asyncio.sleep(min(max(clock.due_in(now + 1), 0.001), PULSE_PERIOD))

    @event_code.putter
    async def event_code(self, instance, value):
        """Take the code, unless told to refuse."""
        self._check_refused("event_code")

    @shutter.putter
    async def shutter(self, instance, value):
        """Travel, unless told to refuse."""
        self._check_refused("shutter")
        state = value if isinstance(value, str) else instance.enum_strings[int(value)]
        if state != instance.value:
            await asyncio.sleep(SHUTTER_TRAVEL / self._speed)
        self._clock.light = state == "Open" and self.beam_rate.value > 0
        return state

    @beam_intensity.scan(period=0.1)
    async def beam_intensity(self, instance, async_lib):
        """Measure the beam."""
        await self._shine()

    def _check_refused(self, role: str) -> None:
        if role in self.refuse:
            self.refuse.discard(role)
            raise RuntimeError(f"{role}: put refused on request")

    async def _shine(self) -> None:
        pulse_energy = 500 * self._random.gauss(1, 0.05) if self.beam_rate.value > 0 else 0.0
        await self.beam_intensity.write(pulse_energy)
        through = pulse_energy if self.shutter.value == "Open" else 0.0
        await self.diode.write(through / 500 * sample_at(self.motor.dial))
