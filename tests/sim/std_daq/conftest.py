from __future__ import annotations

import shutil
import subprocess

import pytest
import redis

from ...std_daq import simulated_daq


@pytest.fixture(scope="package", params=["flask", "fastapi"])
def daq(request):
    """A running DAQ per dialect; READY."""
    with simulated_daq(dialect=request.param) as server:
        server.service.stop()
        yield server


class RedisServer:
    """The real server on a free port; it can be stopped and started again."""

    def __init__(self, directory, port):
        self.directory, self.port, self._process = directory, port, None
        self.url = f"redis://127.0.0.1:{port}/0"

    def start(self):
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
        ]
        self._process = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)

    def stop(self, *, empty=False):
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture
def redis_server(tmp_path, wait_for):
    """redis-server from apt, started; its end is awaited."""
    import socket

    assert shutil.which("redis-server"), "apt install redis-server"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = RedisServer(tmp_path, port)
    server.start()
    with redis.Redis(port=port) as client:

        def up():
            try:
                return client.ping()
            except redis.ConnectionError:
                return False

        wait_for(up, "redis-server")
    yield server
    server.stop()
