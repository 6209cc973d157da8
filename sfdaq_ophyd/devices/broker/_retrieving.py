"""Data of the past: a range of pulses, a list of pulses, or an acquisition once more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...wire.broker import padded
from ...wire.broker_request import RetrieveRequest
from ...wire.json_text import load_json
from ...wire.pulse_id import PulseRange
from ._asking import labels
from ._jobs import Patience

if TYPE_CHECKING:
    from ._device import SfDaqBroker

MAX_JSON = 16 * 2**20


class Retrieving:
    """Calls that ask for data of past pulses, for the run in use.

    Parameters
    ----------
    device : SfDaqBroker
    """

    def __init__(self, device: SfDaqBroker):
        self._device = device

    def retrieve(
        self,
        patience: Patience,
        start_pulse_id: int,
        stop_pulse_id: int,
        pulse_ids: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Ask for one range, both ends included, of which `pulse_ids` are kept; wait first until it is over.

        Returns
        -------
        dict
            What goes into the event.
        """
        device, pulses = self._device, PulseRange(start_pulse_id, stop_pulse_id)
        patience.wait_for(device.need_pulse_id().wait_past(pulses.last))
        run = device.asking.use_run(device, go_on=patience.check)
        request = device.request(
            pulses,
            run_number=run.number,
            selected_pulse_ids=list(pulse_ids or ()),
            extra=labels(run),
        )
        return device.note_taken(run, request)

    def saved_requests(
        self, patience: Patience, run_number: int, acquisition_number: int | None = None
    ) -> list[str]:
        """Return the ``meta/acqNNNN.json`` of a run, or of one acquisition, in order."""
        device = self._device
        pgroup, root = device.pgroup.get(), device.client.sf_root
        runs = f"*/data/{pgroup}/raw/run{padded(run_number)}"
        name = "acq*.json" if acquisition_number is None else f"acq{padded(acquisition_number)}.json"
        found = [*root.glob(f"{runs}/meta/{name}"), *root.glob(f"{runs}-*/meta/{name}")]
        if not found:
            raise RequestError("run_number", run_number, f"a run of {pgroup} with data, below {root}")
        return sorted(map(str, found))

    def retrieve_again(
        self, patience: Patience, path: str, changes: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask once more for what ``meta/acqNNNN.json`` says, with `changes`, for the run in use."""
        device, file = self._device, Path(path)
        body = read_object(file) | dict(changes or {})
        old = RetrieveRequest.from_wire(body)
        run = device.asking.use_run(device, old.run_number, patience.check)
        origin = {"rerun_of": f"run{padded(old.run_number or 0)}/{file.stem}"}
        extra = {key: value for key, value in old.extra.items() if key != "client_request_id"}
        request = dataclasses.replace(
            old, run_number=run.number, pgroup=run.pgroup, extra={**extra, **labels(run, **origin)}
        )
        return device.note_taken(run, request)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; RequestError or WireError if it holds none, OSError if unreadable."""
    if path.stat().st_size > MAX_JSON:
        raise RequestError("path", str(path), f"a file of at most {MAX_JSON} bytes")
    content = load_json(path.read_bytes())
    if not isinstance(content, dict):
        raise RequestError("path", str(path), "a JSON object in it")
    return content
