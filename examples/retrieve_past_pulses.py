"""Ask the sf-daq broker for the pulses that have just passed, as a run with a run number."""

from bluesky import RunEngine

from sfdaq_ophyd.devices import SfDaqBroker
from sfdaq_ophyd.plans import retrieve_from_buffers
from sfdaq_ophyd.sim import Facility

documents = []
with Facility(only=["pvs", "broker"], speed=10) as facility:
    RE = RunEngine()
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    sfdaq = SfDaqBroker(
        facility.broker.url,
        name="sfdaq",
        pgroup="p12345",
        pulse_id=facility.pvs["pulse_id"],
        detectors=["JF01T03V01"],
        sf_root=facility.broker.root,
    )
    sfdaq.wait_for_connection(timeout=10)
    sfdaq.pulse_id.wait_for_connection(timeout=10)
    now = sfdaq.pulse_id.get()
    RE(retrieve_from_buffers(sfdaq, now - 9, now))

for name, doc in documents:
    if name == "stream_resource":
        print(doc["uri"])
print(documents[-1][1]["exit_status"], documents[-1][1]["num_events"])
