"""Record a Jungfrau raw, then calibrated with constants from files."""

import tempfile

import bluesky.plans as bp
import numpy as np
from bluesky import RunEngine

from sfdaq_ophyd import setup
from sfdaq_ophyd.catalog import embedded_catalog
from sfdaq_ophyd.devices import Jungfrau
from sfdaq_ophyd.files import load_calibration
from sfdaq_ophyd.sim import Facility

NAME = "JF03T01V02"

with (
    tempfile.TemporaryDirectory() as folder,
    Facility(only=["jungfrau"], jungfrau_name=NAME, jungfrau_rate_multiplicator=10) as facility,
    embedded_catalog(f"{folder}/catalog") as catalog,
):
    RE = RunEngine()
    setup(RE, catalog)
    jf = Jungfrau(facility.jungfrau.endpoints, name="jf", detector_name=NAME, directory=f"{folder}/frames")
    (raw,) = RE(bp.count([jf]))

    files = facility.jungfrau.scene.write_constants(f"{folder}/constants")
    jf.use_calibration(load_calibration(NAME, files.gain, files.pedestal))
    (calibrated,) = RE(bp.count([jf]))

    for uid in (raw, calibrated):
        image = np.asarray(catalog[uid]["primary"]["jf_image"][0])
        print(f"{image.shape} {image.dtype}, median {np.nanmedian(image):.4g}")
