"""What a `StdDaqWriter` shows: request, progress, state, configuration of its DAQ, and its changes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Signal

from ...errors import RequestError, shown_url
from ...wire.std_daq import WriteRequest, Writing
from ...wire.std_daq_config import INTEGERS, DaqConfig, DaqStats
from .._detector import FileDetector
from .._status import ActionStatus, Setting
from ..debts import Debts
from ._control import WriterControl
from ._source import START_LIMIT

logger = logging.getLogger(__name__)

MAX_UNUSED = 20
"""Files named in `unused`; the newest are kept."""


class Opening:
    """Whether the writer takes the images of the point just triggered; a status for those who ask.

    Attributes
    ----------
    asked : bool
        Whether anybody waits for it.
    """

    def __init__(self, device):
        self._device, self.asked = device, False
        self._ended: Future[None] = Future()
        self._status: ActionStatus | None = None

    def end(self, exc: Exception | None = None) -> None:
        """Note that it takes images, or why it does not; the first word counts."""
        with suppress(InvalidStateError):
            self._ended.set_result(None) if exc is None else self._ended.set_exception(exc)

    def status(self) -> ActionStatus:
        """Return the status, the same one each time."""
        self.asked = True
        if self._status is None:
            limit = START_LIMIT + float(self._device.timeout.get())
            status = self._status = ActionStatus(self._device, "start", limit, unit="steps")
            self._ended.add_done_callback(lambda ended: status.outcome(ended.result)())
        return self._status


BY_HAND = (
    "this device does not change it by itself: give either value to configure_daq, which sends it again; "
    "a DAQ that is not back then must be restarted by the DAQ team"
)


class Configuring:
    """Changes of one DAQ's configuration: one that does not come to its end is remembered, and told."""

    def __init__(self, name: str, address: str, directory: Path):
        self._debts = Debts(name, f"{shown_url(address)} configuration", directory, advice=BY_HAND)

    def change(self, control: WriterControl, changes: Mapping[str, Any], timeout: float) -> DaqConfig:
        """Change some keys within `timeout` s, noted until the DAQ is back; return the configuration then.

        What could not be finished before is sent although it may be stored already.
        """
        if not isinstance(changes, Mapping):
            raise RequestError("daq_config", changes, "a dictionary")
        stored, owed = control.config(), self._debts.owed()
        before = {key: stored.raw.get(key) if stored else None for key in changes}
        self._debts.hold({key: (before[key], changes[key]) for key in changes if key not in owed})
        try:
            config = control.change_config(changes, timeout, again=bool(owed))
        except RequestError:  # nothing was sent
            raise
        except BaseException as exc:
            for key, value in changes.items():
                if key not in owed or owed[key].back != value:  # else it is what was to be put back
                    self._debts.owe(key, left=value, back=before[key], reason=exc)
            raise
        finally:
            self._debts.release()
        self._debts.forget(*changes)
        return config

    def compare(self, config: DaqConfig) -> None:
        """Say in the log what is not finished; forget what is as it was before."""
        for key, debt in self._debts.owed().items():
            if config.raw.get(key) == debt.back:
                self._debts.forget(key)
            else:
                logger.warning("%s", debt)

    @property
    def unfinished(self) -> str:
        """What is not finished, and what a person does; empty if nothing is."""
        return "; ".join(map(str, self._debts.owed().values()))


class ArmedSignal(Signal):
    """``set`` gives the status that is done once the writer takes the images of the point just triggered."""

    def set(self, value, **kwargs):
        """Return the status of the start."""
        return self.parent.opening.status()


class ConfigSignal(Signal):
    """``set`` changes the DAQ's configuration, all keys or some, and is done when the DAQ is back."""

    def set(self, value, *, timeout: float = 60.0, **kwargs):
        """Return the status of the change; `timeout` in s."""
        return self.parent.change_config(value, timeout)


class WriterSignals(FileDetector):
    """The signals of a `StdDaqWriter`, and how they follow the DAQ."""

    mode = Cpt(Setting, value="point", kind="config", doc='"point" or "run": one file per what')
    settle_time = Cpt(Setting, value=0.3, kind="config", doc="s from WRITING to others, if no images flow")
    file = Cpt(Signal, value="", doc="file of the point, on the DAQ's hosts")
    n_images = Cpt(Signal, value=0, doc="images asked for")
    run_id = Cpt(Signal, value="", doc="text: it exceeds 2**53")
    message = Cpt(Signal, value="", doc="the DAQ's last word on the acquisition")
    n_requested = Cpt(Signal, value=0, doc="images handed to the writer")
    n_completed = Cpt(Signal, value=0, doc="images acknowledged by the writer")
    start_time = Cpt(Signal, value=math.nan, doc="of the file, s since the epoch, the DAQ's clock")
    stop_time = Cpt(Signal, value=math.nan, doc="of the file; NaN while it is open")
    ring_lag = Cpt(Signal, value=0.0, doc="images the writer was seen behind the detector, of a ring of 100")
    unused = Cpt(Signal, value="", doc="files since stage that belong to no point, one per line")
    writer_state = Cpt(Signal, value="", kind="omitted")
    acquisition_state = Cpt(Signal, value="", kind="omitted")
    detector_rate = Cpt(Signal, value=math.nan, kind="omitted", doc="images per second; NaN if unknown")
    writer_rate = Cpt(Signal, value=math.nan, kind="omitted", doc="images per second; NaN if unknown")
    detector_name = Cpt(Signal, value="", kind="config")
    detector_type = Cpt(Signal, value="", kind="config")
    config_id = Cpt(Signal, value="", kind="config")
    bit_depth = Cpt(Signal, value=0, kind="config")
    image_pixel_height = Cpt(Signal, value=0, kind="config")
    image_pixel_width = Cpt(Signal, value=0, kind="config")
    n_modules = Cpt(Signal, value=0, kind="config")
    start_udp_port = Cpt(Signal, value=0, kind="config")
    writer_user_id = Cpt(Signal, value=0, kind="config")
    module_positions = Cpt(Signal, value="", kind="config", doc="JSON text")
    armed = Cpt(ArmedSignal, value=0, kind="omitted")
    daq_config = Cpt(ConfigSignal, value=0, kind="omitted")

    def _show_status(self, writing: Writing) -> None:
        self.writer_state.put(writing.writer_state)
        if writing.run_id is not None and str(writing.run_id) == self.run_id.get():
            self.acquisition_state.put(writing.acquisition_state)
            self.message.put(writing.text)
            self.n_requested.put(writing.n_requested)
            self.n_completed.put(writing.n_completed)
            self.start_time.put(math.nan if writing.start_time is None else writing.start_time)
            self.stop_time.put(math.nan if writing.stop_time is None else writing.stop_time)

    def _show_request(self, request: WriteRequest, path: str) -> None:
        self.file.put(path)
        self.n_images.put(request.n_images)
        self.run_id.put(str(request.run_id))
        self.message.put("")
        for signal, nothing in ((self.n_requested, 0), (self.n_completed, 0), (self.ring_lag, 0.0)):
            signal.put(nothing)
        for signal in (self.start_time, self.stop_time):
            signal.put(math.nan)

    def _show_config(self, config: DaqConfig) -> None:
        for key in ("detector_name", "detector_type", *INTEGERS):
            getattr(self, key).put(getattr(config, key))
        self.module_positions.put(json.dumps(config.module_positions))
        self.config_id.put(config.config_id or "")

    def _show_rates(self, stats: DaqStats | None) -> None:
        self.detector_rate.put(math.nan if stats is None else stats.detector_images_per_second)
        self.writer_rate.put(math.nan if stats is None else stats.writer_images_per_second)

    def _show_unused(self, path: str) -> None:
        self.unused.put("\n".join([*self.unused.get().splitlines(), path][-MAX_UNUSED:]))
