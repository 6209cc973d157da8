"""Serve the simulated PVs: ``python -m sfdaq_ophyd.sim.pvs --prefix SIM:``.

Timing, shutter, two motors, and the beam they see. Prints ``READY <address> <prefix>`` once it serves. With
``--control`` it also takes one JSON command per line on standard input, answers each with one line, and ends
when the input does: so it never outlives its parent, however that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import socket
import threading
import time

from ...starting import report_step, without_collection
from ..child import make_parser, obey, running_clock, say_ready

with without_collection(ours=__name__ == "__main__"):
    from caproto import SkipWrite
    from caproto.asyncio.server import Context
    from caproto.server import PVGroup, SubGroup, pvproperty

    from ...wire.broker import TRIGGER_RUNNING
    from ..clock import PULSE_PERIOD, PulseClock, sample_at
    from .part import LOOPBACK, ioc_environment

TICK = 0.02
"""Seconds between readback updates while moving."""

VELOCITY, RAMP, LIMIT = 10.0, 0.05, 50.0
"""mm/s, s until it is reached, and soft limit on both sides of 0, mm: what a motor's record says at first."""


def travel_time(distance: float, velocity: float, ramp: float) -> float:
    """Return the s a move of `distance` takes at `velocity`, reached after `ramp` s."""
    if distance <= velocity * ramp:  # never reaches full velocity
        return 2 * math.sqrt(distance * ramp / velocity)
    return distance / velocity + ramp


def travelled(distance: float, velocity: float, ramp: float, elapsed: float) -> float:
    """Return the distance covered `elapsed` s after the start, 0 to `distance`."""
    total = travel_time(distance, velocity, ramp)
    if elapsed >= total:
        return distance
    if elapsed > total / 2:  # braking mirrors accelerating
        return distance - travelled(distance, velocity, ramp, total - elapsed)
    if elapsed < ramp:
        return velocity / ramp * elapsed**2 / 2
    return velocity * (elapsed - ramp / 2)


class Motor(PVGroup):
    """One motor record: VAL, RBV, DMOV, MOVN, STOP, HLM, LLM, SET and the other fields clients ask for.

    Attributes
    ----------
    speed : float
        Time runs this much faster while moving.
    """

    motor = pvproperty(
        name="",
        value=0.0,
        record="motor",
        precision=4,
        units="mm",
        doc="user position, mm; its fields are those of the motor record",
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.speed = 1.0
        self._move = 0  # counts moves; a motion that finds it changed has been superseded
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_place = lambda dial: None  # called with every position, before clients see it
        self.fault = ""  # "stuck" or "limit": spoils the next move

    async def prepare(self) -> None:
        """Write the initial field values; call before clients come."""
        fields = self.motor.field_inst
        await fields.engineering_units.write(self.motor.units)
        await fields.velocity.write(VELOCITY)
        await fields.seconds_to_velocity.write(RAMP)
        await fields.motor_step_size.write(1e-4)
        await fields.user_low_limit.write(-LIMIT)
        await fields.user_high_limit.write(LIMIT)
        await fields.done_moving_to_value.write(1)

    async def _put(self, instance, value):
        """Move there, or with SET say that it is there; done when it stands.

        caproto has refused what lies outside the limits.
        """
        if instance.field_inst.set_use_switch.value in ("Set", 1):
            await self._redefine(value)
        else:
            await instance.write(value, verify_value=False)
            await self._drive(value)
        raise SkipWrite

    async def _stop(fields, instance, value):  # noqa: N805 - caproto passes the fields
        """Stop, whatever moves."""
        if value:
            await fields.parent.group.halt()
        return 0

    async def _limit_above(fields, instance, value):  # noqa: N805
        """Let VAL's control limit follow HLM."""
        await fields.parent.write_metadata(upper_ctrl_limit=value)

    async def _limit_below(fields, instance, value):  # noqa: N805
        """Let VAL's control limit follow LLM."""
        await fields.parent.write_metadata(lower_ctrl_limit=value)

    motor.putter(_put)
    motor.fields.stop.putter(_stop)
    motor.fields.user_high_limit.putter(_limit_above)
    motor.fields.user_low_limit.putter(_limit_below)

    @property
    def readback(self) -> float:
        """Where the motor is, mm."""
        return self.motor.field_inst.user_readback_value.value

    @property
    def dial(self) -> float:
        """Where the motor is whatever the user calls it, mm."""
        return self.motor.field_inst.dial_readback_value.value

    async def place(self, position: float) -> None:
        """Be at `position` at once."""
        await self.halt()
        await self._show(position)
        await self.motor.write(position, verify_value=False)

    async def halt(self) -> None:
        """Stop where it is; the setpoint becomes the readback."""
        if not self._idle.is_set():
            self._move += 1
            await self.motor.write(self.readback, verify_value=False)
            await self._settle()

    async def _redefine(self, value: float) -> None:
        fields = self.motor.field_inst
        await fields.user_offset.write(value - fields.dial_readback_value.value)
        await fields.user_readback_value.write(value)
        await self.motor.write(value, verify_value=False)

    async def _drive(self, target: float) -> None:
        self._move += 1
        mine, fault, self.fault = self._move, self.fault, ""
        fields, loop = self.motor.field_inst, asyncio.get_running_loop()
        self._idle.clear()
        start = self.readback
        distance, sign = abs(target - start), 1 if target >= start else -1
        velocity, ramp = max(fields.velocity.value, 1e-6), max(fields.seconds_to_velocity.value, 1e-6)
        reach = distance if not fault else distance / 2
        await fields.direction_of_travel.write(int(sign > 0))
        await fields.done_moving_to_value.write(0)
        await fields.motor_is_moving.write(1)
        begin, gone = loop.time(), 0.0
        while gone < reach or fault == "stuck":
            left = travel_time(distance, velocity, ramp) / self.speed - (loop.time() - begin)
            await asyncio.sleep(min(TICK, max(left, 0.0)) if not fault else TICK)
            if mine != self._move:
                await self._idle.wait()
                return
            gone = min(travelled(distance, velocity, ramp, (loop.time() - begin) * self.speed), reach)
            await self._show(start + sign * gone if gone < distance else target)
        if fault == "limit":
            switch = fields.user_high_limit_switch if sign > 0 else fields.user_low_limit_switch
            await switch.write(1)
        elif gone == distance:
            await self._show(target)
            await fields.user_high_limit_switch.write(0)
            await fields.user_low_limit_switch.write(0)
        await self._settle()

    async def _show(self, position: float) -> None:
        fields = self.motor.field_inst
        dial = position - fields.user_offset.value
        self.on_place(dial)
        await fields.user_readback_value.write(position)
        await fields.dial_readback_value.write(dial)
        await fields.raw_readback_value.write(round(dial / fields.motor_step_size.value))

    async def _settle(self) -> None:
        fields = self.motor.field_inst
        await fields.motor_is_moving.write(0)
        await fields.done_moving_to_value.write(1)
        self._idle.set()


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
        Trigger of the detectors: 254 running, 255 stopped; without it they take no frame.
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
        item = getattr(self, role)
        return item.readback if isinstance(item, Motor) else item.value

    async def write(self, role: str, value) -> None:
        """Set a role at once, past every check and travel time."""
        item = getattr(self, role)
        if isinstance(item, Motor):
            await item.place(float(value))
        elif role in ("event_code", "shutter", "beam_rate"):
            await item.write(value, verify_value=False)
            self._show()
        else:
            raise ValueError(f"{role} is what the beam gives; it cannot be written")

    async def prepare(self) -> None:
        """Bring every PV to its first value; call before clients come."""
        await self.motor.prepare()
        await self.motor2.prepare()
        self.motor.on_place(self.motor.dial)
        self._show()  # an IOC that rebooted has forgotten what was closed or stopped
        await self.pulse_id.write(float(self._clock.now()))
        await self._shine()

    async def _publish_pulse_ids(self, instance, async_lib):
        """Publish every pulse id as the clock reaches it."""
        last, clock = int(instance.value), self._clock
        with clock.follow("pvs") as follower:
            while True:
                now = clock.now()
                if time.monotonic() >= self.stall_until:
                    for pulse_id in range(max(last + 1, now - MAX_BURST + 1), now + 1):
                        stamp = clock.time_of(pulse_id) if clock.running else time.time()
                        await instance.write(
                            float(pulse_id), timestamp=stamp, verify_value=False, update_fields=False
                        )  # no limits, no fields: half of the work
                    last = max(last, now)
                follower.finished(now)
                await asyncio.sleep(min(max(clock.due_in(now + 1), 0.001), PULSE_PERIOD))

    async def _put_event_code(self, instance, value):
        """Take the code, unless told to refuse."""
        self._check_refused("event_code")
        self._clock.show(triggered=value == TRIGGER_RUNNING)

    async def _put_shutter(self, instance, value):
        """Travel, unless told to refuse."""
        self._check_refused("shutter")
        state = value if isinstance(value, str) else instance.enum_strings[int(value)]
        if state != instance.value:
            await asyncio.sleep(SHUTTER_TRAVEL / self._speed)
        self._clock.light = state == "Open" and self.beam_rate.value > 0
        return state

    async def _put_beam_rate(self, instance, value):
        """Lose the beam, or get it back."""
        self._clock.light = self.shutter.value == "Open" and value > 0

    async def _measure(self, instance, async_lib):
        """Measure the beam."""
        await self._shine()

    pulse_id.startup(_publish_pulse_ids)
    event_code.putter(_put_event_code)
    shutter.putter(_put_shutter)
    beam_rate.putter(_put_beam_rate)
    beam_intensity.scan(period=0.1)(_measure)

    def _check_refused(self, role: str) -> None:
        if role in self.refuse:
            self.refuse.discard(role)
            raise RuntimeError(f"{role}: put refused on request")

    def _show(self) -> None:
        light = self.shutter.value == "Open" and self.beam_rate.value > 0
        self._clock.show(light=light, triggered=self.event_code.value == TRIGGER_RUNNING)

    async def _shine(self) -> None:
        pulse_energy = 500 * self._random.gauss(1, 0.05) if self.beam_rate.value > 0 else 0.0
        await self.beam_intensity.write(pulse_energy)
        through = pulse_energy if self.shutter.value == "Open" else 0.0
        await self.diode.write(through / 500 * sample_at(self.motor.dial))


async def answer(ioc: BeamlineIOC, command: dict) -> object:
    """Obey one command of the parent: read, write, or misbehave."""
    match command:
        case {"do": "read", "role": role}:
            return ioc.read(role)
        case {"do": "write", "role": role, "value": value}:
            await ioc.write(role, value)
        case {"do": "fail", "what": "stall_pulse_id", "seconds": seconds}:
            ioc.stall_until = time.monotonic() + seconds
        case {"do": "fail", "what": "refuse_put", "role": role}:
            ioc.refuse.add(role)
        case {"do": "fail", "what": what, "role": role}:
            getattr(ioc, role).fault = what.removeprefix("motor_")
        case _:
            raise ValueError(command)
    return None


async def serve(ioc: BeamlineIOC, port: int, prefix: str, control: bool) -> None:
    """Run the IOC until SIGINT, SIGTERM or, with `control`, the end of standard input."""
    if control:
        report_step("preparing the PVs")
    await ioc.prepare()
    context = Context(ioc.pvdb, [LOOPBACK])
    end, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)

    async def ready(async_lib):
        sock = context.tcp_sockets[LOOPBACK]
        # Inherited by the connections; without it every reply waits 40 ms for the client's delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            await asyncio.sleep(0.001)
        say_ready(f"{LOOPBACK}:{port}", prefix)
        if control:
            threading.Thread(target=take_commands, name="commands", daemon=True).start()

    def take_commands():
        with contextlib.suppress(RuntimeError):  # a signal was faster
            obey(lambda **command: asyncio.run_coroutine_threadsafe(answer(ioc, command), loop).result())
            loop.call_soon_threadsafe(end.set)

    server = asyncio.create_task(context.run(startup_hook=ready))
    await asyncio.wait([server, asyncio.create_task(end.wait())], return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()  # raises what ended it
    server.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await server


def main() -> None:
    """Parse the command line and serve."""
    parser = make_parser("sfdaq_ophyd.sim.pvs", BeamlineIOC.__doc__)
    parser.add_argument("--prefix", default="SIM:")
    parser.add_argument("--port", type=int, default=5064, help="search port (UDP) on loopback")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    with running_clock(parser) as (options, clock):
        os.environ.update(ioc_environment(options.port))
        ioc = BeamlineIOC(options.prefix, clock=clock, speed=options.speed, seed=options.seed)
        asyncio.run(serve(ioc, options.port, options.prefix, options.control))


if __name__ == "__main__":
    main()
