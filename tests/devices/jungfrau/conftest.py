"""A simulated one-module Jungfrau and devices on it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np
import pytest
from bluesky import RunEngine

from sfdaq_ophyd.calibration import JungfrauCalibration
from sfdaq_ophyd.devices import Jungfrau
from sfdaq_ophyd.sim import Facility

NAME = "JF04T01V01"


@pytest.fixture(scope="package")
def facility():
    """One simulated Jungfrau at 25 Hz for all tests; each leaves it as it found it."""
    options = {"jungfrau_name": NAME, "jungfrau_rate_multiplicator": 4}
    with Facility(speed="auto", only=["jungfrau"], **options) as facility:
        facility.jungfrau.scene.raw(0)
        yield facility


@pytest.fixture
def part(facility):
    yield facility.jungfrau
    facility.jungfrau.clear_faults()


@pytest.fixture
def make(part, tmp_path):
    """Make a device on the simulator: ``make(stream="assembled")``."""

    def make(directory=tmp_path, **options):
        assembled = options.get("stream") == "assembled"
        endpoints = part.assembled_endpoint if assembled else part.endpoints
        jungfrau = Jungfrau(endpoints, name="jf", directory=directory, detector_name=NAME, **options)
        jungfrau.timeout.put(30.0)
        return jungfrau

    return make


@pytest.fixture(scope="package")
def calibration(facility):
    constants = facility.jungfrau.scene.constants
    return JungfrauCalibration(
        NAME,
        constants.gain,
        constants.pedestal,
        constants.mask,
        gain_file="/x/gains.h5",
        pedestal_file="/x/today.res.h5",
    )


class Engine:
    """A RunEngine, and the documents it emitted."""

    def __init__(self):
        self.RE = RunEngine(context_managers=[])
        self.documents = []
        self.RE.subscribe(lambda name, doc: self.documents.append((name, doc)))

    def __call__(self, plan):
        self.documents.clear()
        return self.RE(plan)

    def named(self, name):
        return [doc for kind, doc in self.documents if kind == name]

    @property
    def rows(self):
        """Data of every event, of pages too."""
        rows = [doc["data"] for doc in self.named("event")]
        for page in self.named("event_page"):
            columns = page["data"]
            rows += [{key: columns[key][i] for key in columns} for i in range(len(page["seq_num"]))]
        return rows

    def images(self, key="jf_image"):
        """All images that were registered under a key, in order."""
        found = []
        keys = {doc["uid"]: doc for doc in self.named("stream_resource") if doc["data_key"] == key}
        for datum in self.named("stream_datum"):
            if datum["stream_resource"] in keys:
                resource = keys[datum["stream_resource"]]
                path = Path(unquote(urlparse(resource["uri"]).path))
                k = resource["parameters"]["chunk_shape"][1]
                with h5py.File(path, "r", swmr=True) as file:
                    rows = slice(k * datum["indices"]["start"], k * datum["indices"]["stop"])
                    found.append(file[resource["parameters"]["dataset"]][rows])
        return np.concatenate(found)


@pytest.fixture
def engine():
    return Engine()
