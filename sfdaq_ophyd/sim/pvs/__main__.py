"""Serve the simulated PVs: ``python -m sfdaq_ophyd.sim.pvs --prefix SIM:``.

Prints ``READY <address> <prefix>`` once it serves. With ``--control`` it also takes one JSON command per
line on standard input, answers each with one line, and ends when the input does: so it never outlives its
parent, however that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time

from ...starting import report_step, without_collection
from ..child import make_parser, obey, running_clock, say_ready

with without_collection(ours=True):
    from caproto.asyncio.server import Context

    from .ioc import BeamlineIOC
    from .part import LOOPBACK, ioc_environment


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
