"""Serve the live page over the simulated facility, and look at it as a program.

``python examples/live_page.py --stay`` serves it until Ctrl-C, for a browser.
"""

import contextlib
import json
import socket
import sys
import tempfile
import threading

import requests
import uvicorn
from websockets.sync.client import connect

from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.web import config_of, make_app, serve
from sfdaq_ophyd.web.sources import watch_of

OPTIONS = {"only": ["jungfrau"], "jungfrau_name": "JF03T01V02", "jungfrau_rate_multiplicator": 10}

with tempfile.TemporaryDirectory() as folder, Facility(**OPTIONS) as facility:
    watch = watch_of(config_of(facility, folder))
    if "--stay" in sys.argv:
        serve(watch, ready=print)
        sys.exit()
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(make_app(watch), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with contextlib.closing(listener), connect(f"ws://{address}/api/live") as live:
        detector = {"n_taken": 0}
        while detector["n_taken"] < 3:
            message = live.recv(timeout=60)
            if isinstance(message, str) and "detectors" in (state := json.loads(message)):
                (detector,) = state["detectors"]
        frame = detector["frame"]
        print(f"{detector['name']}: pulse {frame['pulse_id']}, mean {frame['mean']} {frame['unit']}")
        png = requests.get(f"http://{address}/api/picture/jf.png?side=512&colour_map=inferno", timeout=10)
        print(f"picture of {len(png.content)} bytes, event {png.headers['X-Event-Id']}")
    server.should_exit = True
    thread.join()
