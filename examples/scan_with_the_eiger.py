"""Scan a motor with an Eiger, step by step and on the fly; read the frames back."""

import tempfile

import bluesky.plans as bp
from bluesky import RunEngine
from ophyd.sim import motor

from sfdaq_ophyd import setup
from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.devices import Eiger
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim import Facility

with (
    tempfile.TemporaryDirectory() as folder,
    Facility(only=["eiger"], eiger_model="500K", speed=10) as facility,
    embedded_catalog(f"{folder}/catalog") as catalog,
):
    RE = RunEngine()
    setup(RE, catalog)
    eiger = Eiger(facility.eiger.url, name="eiger", directory=f"{folder}/frames")
    eiger.exposure_time.put(0.02)

    (uid,) = RE(bp.scan([eiger], motor, -1, 1, 5))
    points = catalog[uid]["primary"]
    ids = points.read(variables=["eiger_event_id"])["eiger_event_id"].values
    images = points["eiger_image"]
    print(f"scan: {len(ids)} points, images {images.shape}, events {', '.join(map(str, ids))}")

    (uid,) = RE(fly([eiger], 20))
    (stream,) = (name for name in catalog[uid] if name != "baseline")
    print(f"fly: images {catalog[uid][stream]['eiger_image'].shape} in stream {stream!r}")
