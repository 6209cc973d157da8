from __future__ import annotations

import json
import shutil
import subprocess

import h5py
import pytest
import redis
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from sfdaq_ophyd.limits import Limit

from ...ports import free_ports
from ...std_daq import simulated_daq, simulated_websocket_daq


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
    assert shutil.which("redis-server"), "apt install redis-server"
    (port,) = free_ports(1)
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


class Session:
    """A client: the statuses as they come, repeated ones once."""

    def __init__(self, server):
        self._connection = connect(server.ws_url, open_timeout=120, close_timeout=1)
        self.seen: list[dict] = []

    def __enter__(self):
        self._socket = self._connection.__enter__()
        return self

    def __exit__(self, *exc_info):
        self._connection.__exit__(*exc_info)

    def send(self, command):
        self._socket.send(command if isinstance(command, str) else json.dumps(command))

    def start(self, folder, n_images, **more):
        self.send({"command": "start", "path": str(folder), "n_image": n_images, **more})

    def stop(self):
        self.send({"command": "stop"})

    def next(self) -> dict:
        status = json.loads(self._socket.recv(60))
        if not self.seen or self.seen[-1] != status:
            self.seen.append(status)
        return status

    def until(self, *states, count=0) -> dict:
        limit = Limit(120)
        while (status := self.next())["status"] not in states or status.get("count", count) < count:
            assert not limit.reached(), f"{states} did not come after {self.states}"
        return status

    def gone(self) -> str:
        """Return how the connection ended."""
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                self.next()
        return "" if caught.value.rcvd is None else str(caught.value.rcvd.code)

    @property
    def states(self) -> list[str]:
        """States in order, neighbours of one name once."""
        names = [status["status"] for status in self.seen]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


@pytest.fixture(scope="package")
def websocket_server():
    with simulated_websocket_daq() as server:
        yield server


@pytest.fixture
def ws(websocket_server):
    """A running DAQ of the websocket generation: idle, all processes alive, whatever a test did before."""
    yield websocket_server
    websocket_server._faults.clear()
    websocket_server.source.follow_clock()
    websocket_server.restart_driver()  # first: a writer that is back dies of images
    websocket_server.restart_writer()


@pytest.fixture
def session(ws):
    with Session(ws) as session:
        yield session


def layout(path) -> dict:
    with h5py.File(path) as file:
        (group,) = file
        return {name: (each.shape, each.maxshape, each.chunks) for name, each in file[group].items()}


def ids(path) -> list[int]:
    with h5py.File(path) as file:
        (group,) = file
        return file[group]["metadata"]["image_id"].tolist()


def refuses(ws, wait_for):
    def refused():
        try:
            with connect(ws.ws_url):
                return False
        except ConnectionRefusedError:
            return not ws.alive()["driver"]
        except (OSError, ConnectionClosed, InvalidHandshake):  # its last moment
            return False

    wait_for(refused, "connections refused")
