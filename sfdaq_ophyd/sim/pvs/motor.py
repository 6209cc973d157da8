"""A motor record that moves: trapezoidal velocity, soft limits, stop, and a redefinable position."""

from __future__ import annotations

import asyncio
import math

from caproto import SkipWrite
from caproto.server import PVGroup, pvproperty

TICK = 0.02
"""Seconds between readback updates while moving."""


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

    Parameters
    ----------
    velocity : float
        mm/s.
    ramp : float
        s to full velocity.
    limits : tuple of float
        Soft limits, mm.
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

    def __init__(self, *args, velocity=10.0, ramp=0.05, limits=(-50.0, 50.0), speed=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self._velocity, self._ramp, self._limits = velocity, ramp, limits
        self.speed = speed
        self._move = 0  # counts moves; a motion that finds it changed has been superseded
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_place = lambda dial: None  # called with every position, before clients see it
        self.fault = ""  # "stuck" or "limit": spoils the next move

    async def prepare(self) -> None:
        """Write the initial field values; call before clients come."""
        fields, (low, high) = self.motor.field_inst, self._limits
        await fields.engineering_units.write(self.motor.units)
        await fields.velocity.write(self._velocity)
        await fields.seconds_to_velocity.write(self._ramp)
        await fields.motor_step_size.write(1e-4)
        await fields.user_low_limit.write(low)
        await fields.user_high_limit.write(high)
        await fields.done_moving_to_value.write(1)

    @motor.putter
    async def motor(self, instance, value):
        """Move there, or with SET say that it is there; done when it stands.

        caproto has refused what lies outside the limits.
        """
        if instance.field_inst.set_use_switch.value in ("Set", 1):
            await self._redefine(value)
        else:
            await instance.write(value, verify_value=False)
            await self._drive(value)
        raise SkipWrite

    @motor.fields.stop.putter
    async def motor(fields, instance, value):  # noqa: N805 - caproto passes the fields
        """Stop, whatever moves."""
        if value:
            await fields.parent.group.halt()
        return 0

    @motor.fields.user_high_limit.putter
    async def motor(fields, instance, value):  # noqa: N805
        """Let VAL's control limit follow HLM."""
        await fields.parent.write_metadata(upper_ctrl_limit=value)

    @motor.fields.user_low_limit.putter
    async def motor(fields, instance, value):  # noqa: N805
        """Let VAL's control limit follow LLM."""
        await fields.parent.write_metadata(lower_ctrl_limit=value)

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
