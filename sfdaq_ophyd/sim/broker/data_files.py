"""HDF5 files of PVs, channels and cameras (wire reference sf-daq-broker, section 13)."""

from __future__ import annotations

import io
import zlib
from typing import Any

import h5py
import numpy as np

from ..stamp import write_stamp
from .site import Site
from .writers import RunLog, WriterError, source_of

PV_PERIOD = 25
"""Pulses between changes of a simulated PV."""

CAMERA_SHAPE = (48, 64)
MAX_FOUND_DISTANCE = 1000
"""The epics writer fails if the last pulse it finds lies further from the asked one."""


def channel_value(name: str, pulse_ids: np.ndarray) -> np.ndarray:
    """Return what a simulated channel or PV reads at each pulse: one smooth curve per name."""
    phase = zlib.crc32(name.encode()) % 1000
    return np.sin((np.asarray(pulse_ids, "f8") % 100_000 + phase) / 50.0)


class PvWriter:
    """Write PVDATA: per PV the last change before the range, those inside, and the first after it.

    Parameters
    ----------
    site : Site
    """

    def __init__(self, site: Site):
        self._site = site

    def __call__(self, body: dict[str, Any], log: RunLog) -> None:
        """Write the file; WriterError if the range is not over."""
        first, last = body["start_pulse_id"], body["stop_pulse_id"]
        now = self._site.clock.now()
        if last > now:
            raise WriterError(f"stop pulse ID {last} is not in the buffer, the last is {now}")
        before, after = (first - 1) // PV_PERIOD * PV_PERIOD, -(-(last + 1) // PV_PERIOD) * PV_PERIOD
        if after - last > MAX_FOUND_DISTANCE:
            raise WriterError(f"pulse IDs found are more than {MAX_FOUND_DISTANCE} from those asked")
        changes = np.arange(before, after + 1, PV_PERIOD, dtype="i8")
        image = io.BytesIO()  # on disk at once, like the real writer's
        with h5py.File(image, "w") as file:
            for key, value in body["metadata"].items():
                file[key] = str(value)
            for name in body["channels"]:
                self._write_pv(file, name, changes, first)
        self._site.tree.local(body["output_file"]).write_bytes(image.getvalue())

    def _write_pv(self, file: h5py.File, name: str, changes: np.ndarray, first: int) -> None:
        """Write one PV; the change before the range is in no table of pulses, and has pulse id 0."""
        file.create_group(name)
        group, column = file.create_group(f"data/{name}"), (len(changes), 1)
        group["data"] = channel_value(name, changes).reshape(column)
        group["timestamp"] = (_seconds(self._site, changes) * 1e6).astype("u8").reshape(column)
        group["connected"] = np.ones(column, "u1")
        group.create_dataset("status", data=np.full(column, "NO_ALARM", object), dtype=h5py.string_dtype())
        group["pulse_id"] = np.where(changes < first, 0, changes).astype("u8").reshape(column)


class BufferWriter:
    """Write BSDATA or CAMERAS: one group per channel that is not offline, one row per pulse.

    Parameters
    ----------
    site : Site
    cameras : bool
        Images in place of scalars.
    max_rows : int
        Longer requests are refused: a simulator's disk is small.
    """

    def __init__(self, site: Site, *, cameras: bool, max_rows: int):
        self._site, self._cameras, self._max_rows = site, cameras, max_rows

    def __call__(self, body: dict[str, Any], log: RunLog) -> None:
        """Write the file; pulses that are not over yet are missing."""
        pulse_ids, offline = self._pulse_ids(body, log), self._offline(body)
        stamps = (_seconds(self._site, pulse_ids) * 1e9).astype("i8")
        with h5py.File(self._site.tree.local(body["output_file"]), "w") as file:
            file.attrs["file_create_datetime"] = self._site.delays.now().isoformat(sep=" ")
            for name in dict.fromkeys(body["channels"]):
                if name in offline:
                    log.write(f"check {name} not present in file")
                    continue
                group = file.create_group(name)
                if self._cameras:
                    group["data"] = self._images(pulse_ids)
                else:
                    _column(group, "data", channel_value(name, pulse_ids))
                _column(group, "pulse_id", pulse_ids)
                _column(group, "timestamp", stamps)

    def _offline(self, body: dict[str, Any]) -> tuple[str, ...]:
        fault = self._site.faults.take("channels_offline", source=source_of(body))
        return () if fault is None else tuple(fault.get("channels", body["channels"][:1]))

    def _pulse_ids(self, body: dict[str, Any], log: RunLog) -> np.ndarray:
        first, last = body["start_pulse_id"], body["stop_pulse_id"]
        if last - first >= self._max_rows:
            raise WriterError(f"the simulator writes at most {self._max_rows} rows, not {last - first + 1}")
        lost = set(range(self._site.clock.now() + 1, last + 1))
        if fault := self._site.faults.take("missing_pulses", source=source_of(body)):
            lost |= set(fault.get("pulse_ids", (first,)))
        if lost:
            log.write(f"{len(lost)} pulse IDs are missing")
        return np.array([pulse for pulse in range(first, last + 1) if pulse not in lost], "i8")

    def _images(self, pulse_ids: np.ndarray) -> np.ndarray:
        y, x = np.ogrid[0 : CAMERA_SHAPE[0], 0 : CAMERA_SHAPE[1]]
        spot = 1000 * np.exp(-(((y - 24) / 8) ** 2) - ((x - 32) / 10) ** 2)
        images = np.repeat(spot.astype("u2")[None], len(pulse_ids), 0)
        for image, pulse_id in zip(images, pulse_ids):
            write_stamp(image, int(pulse_id))
        return images


def _column(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write one number per row in the way of data_api3."""
    text = values.dtype == object
    filters = {"chunks": (1024 if text else 8192,), "compression": "gzip", "shuffle": True}
    dtype = h5py.string_dtype() if text else values.dtype
    group.create_dataset(name, data=values, dtype=dtype, maxshape=(None,), **filters)


def _seconds(site: Site, pulse_ids: np.ndarray) -> np.ndarray:
    return np.array([site.clock.time_of(int(pulse_id)) for pulse_id in pulse_ids], "f8")
