"""What tests of an Eiger's files have in common: runs, and what must be true after them."""

from __future__ import annotations

import bluesky.plans as bp
from bluesky import RunEngine

from sfdaq_ophyd.files.joined_images import OF_POINTS

from ..run_engine_driver import drive, interruptible, streams

LEGACY = "hdf5 nexus legacy nxmx"
V2024 = "hdf5 nexus v2024.2 nxmx"


def check_writer_as_found(client, **changed):
    found = {"mode": "disabled", "name_pattern": "series_$id", "nimages_per_file": 1000} | changed
    assert {name: client.get("filewriter", "config", name).value for name in found} == found


def take(catalog, plan):
    engine = RunEngine({})
    engine.subscribe(catalog)
    documents = []
    engine.subscribe(lambda name, doc: documents.append((name, doc)))
    (uid,) = engine(plan)
    return catalog[uid]["primary"], documents


def check_here(run, directory, n_refused=0):
    """Nothing but registered images, masters and files that were refused is in the device's folder."""
    here = {path for path in directory.glob("*.h5*") if not path.name.endswith("_master.h5")}
    named = {where[0] for one in streams(run).values() for where in one.images["eiger_image"]}
    wanted = named | {path.with_name(path.name.replace(OF_POINTS, "")) for path in named}
    assert here >= wanted and len(here) == len(wanted) + n_refused
    masters = {path.name.removesuffix("_master.h5") for path in directory.glob("*_master.h5")}
    assert masters == {path.name.rpartition("_data_")[0] for path in here}


def run_of(eiger, plan=None):
    return drive(interruptible(), plan or (lambda: bp.count([eiger])))
