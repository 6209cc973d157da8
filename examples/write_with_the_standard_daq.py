"""Have the standard DAQ write images at each point of a scan."""

import bluesky.plans as bp
from bluesky import RunEngine
from ophyd.sim import motor

from sfdaq_ophyd.devices import StdDaqWriter
from sfdaq_ophyd.sim import Facility

documents = []
with Facility(only=["jungfrau", "std_daq"], speed=10) as facility:
    folder = facility.directory / "files"  # the simulated DAQ writes nowhere else
    RE = RunEngine()
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    writer = StdDaqWriter(facility.std_daq.url, name="writer", directory=folder)
    writer.frames_per_trigger.put(4)
    RE(bp.scan([writer], motor, 0, 1, 3))

for name, doc in documents:
    if name == "event":
        print(doc["seq_num"], {key: value for key, value in doc["data"].items() if key.startswith("writer")})
    elif name == "stream_resource":
        print(doc["data_key"], doc["uri"])
