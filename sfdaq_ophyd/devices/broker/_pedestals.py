"""Pedestals: take one, and know when it is done by the best evidence there is."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FilesMissing, RequestError, ServiceTimeout, SfdaqError
from ...files.daq_file import CLOSING
from ...limits import Limit
from ...wire.broker import padded
from ...wire.broker_request import RetrieveRequest
from ...wire.json_text import load_json
from ...wire.pulse_id import PulseRange
from ._asking import labels
from ._data import TextRow
from ._jobs import Patience
from ._preflight import PEDESTALS, newest_pedestal

if TYPE_CHECKING:
    from ._device import SfDaqBroker


PERIOD = 0.2
MARGIN_PER_MODULE = 5.0
"""s on top of what the server announces, where nothing but time can tell that a pedestal is done."""


class Pedestals:
    """Calls for pedestals.

    Parameters
    ----------
    device : SfDaqBroker
    """

    def __init__(self, device: SfDaqBroker):
        self._device = device

    def begin_pedestal(
        self, patience: Patience, detectors: Sequence[str], pedestalmode: bool = False, run_uid: str = ""
    ) -> dict[str, Any]:
        """Queue a pedestal; return its request id, and the s it takes at least."""
        device = self._device
        extra = labels(None, **({"bluesky_run_uid": run_uid} if run_uid else {}))
        seconds = device.client.take_pedestal(
            device.pgroup.get(),
            list(detectors),
            rate_multiplicator=int(device.rate_multiplicator.get()),
            pedestalmode=pedestalmode,
            extra=extra,
        )
        return {"id": extra["client_request_id"], "seconds": seconds}

    def wait_for_pedestal(
        self,
        patience: Patience,
        pedestal: Mapping[str, Any] | None,
        detectors: Sequence[str],
        limit: float,
        run_uid: str = "",
    ) -> dict[str, Any]:
        """Wait until the log of each detector says that it is done.

        Returns
        -------
        dict
            Per detector: path of the evaluated pedestal; and ``evidence``, how it is known.

        Raises
        ------
        FilesMissing
            A writer failed; with its own words.
        ServiceTimeout
        """
        device, over = self._device, Limit(limit)
        root = device.client.sf_root
        if root is None or not root.is_dir():
            seconds = pedestal["seconds"] + MARGIN_PER_MODULE * len(detectors)
            patience.progress(0, 1, f"/sf is not mounted here: waiting {seconds:g} s, a guess")
            patience.wait(seconds)
            return {"files": {}, "evidence": f"{seconds:g} s went by: a guess, /sf is not mounted here"}
        stem: Path | None = None
        while True:
            stem = stem or self._own_stem(root, pedestal["id"])
            done, seen = self._progress(stem, detectors)
            patience.progress(len(done), len(detectors), seen)
            if len(done) == len(detectors):
                break
            if over.reached():
                raise ServiceTimeout(f"{device.name}: pedestal", limit, seen)
            patience.wait(PERIOD)
        self._remember(done, run_uid)
        return {"files": done, "evidence": "the writer's logs"}

    def pedestal_rows(self, patience: Patience, result: Mapping[str, Any] | None) -> TextRow | None:
        """Return what is to be collected: one row with the file of each detector, and the evidence."""
        if result is None:
            return None
        files = {f"{name}_pedestal": file for name, file in result["files"].items()}
        texts = files | {"pedestal_evidence": result["evidence"]}
        return TextRow("primary", self._device.name, texts)

    def _own_stem(self, root: Path, request_id: str) -> Path | None:
        """Find ``<stamp>`` of our request: the newest files first."""
        pgroup = self._device.pgroup.get()
        paths = sorted(root.glob(f"*/data/{pgroup}/raw/{PEDESTALS}/*.json"), reverse=True)
        for path in paths[:50]:
            try:
                if read_object(path).get("client_request_id") == request_id:
                    return path.with_suffix("")
            except (OSError, SfdaqError):
                continue  # being written
        return None

    def _progress(self, stem: Path | None, detectors: Sequence[str]) -> tuple[dict[str, str], str]:
        if stem is None:
            return {}, "queued, not begun"
        common = _lines(stem.with_name(f"{stem.name}.log"))
        done, seen = {}, [common[-1] if common else "queued"]
        for name in detectors:
            raw = stem.with_name(f"{stem.name}.{name}.h5")
            lines = _lines(stem.with_name(f"{stem.name}.{name}.log"))
            if raw.with_name(f"{raw.name}.err").exists():
                last = lines[-1] if lines else "no log"
                raise FilesMissing(self._device.name, {str(raw): f"the writer failed: {last}"})
            result = raw.with_name(f"{stem.name}.{name}.res.h5")
            if lines and CLOSING in lines[-1]:
                if not result.exists():
                    raise FilesMissing(self._device.name, {str(result): f"no result; log: {lines[-2:]}"})
                done[name] = str(result)
            elif lines:
                seen.append(f"{name}: {lines[-1]}")
        return done, "; ".join(seen)

    def _remember(self, files: Mapping[str, str], run_uid: str) -> None:
        path = self._known_file()
        known = _read_json(path) | {
            name: {"file": file, "run_uid": run_uid, "time": time.time()} for name, file in files.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(known, indent=1))
        partial.replace(path)

    def _known_file(self) -> Path:
        return known_file(self._device)


def known_file(device: SfDaqBroker) -> Path:
    """Return where the device notes which pedestal was taken by which run."""
    return device.asking.directory / device.pgroup.get() / "pedestals.json"


def pedestals_in_use(device: SfDaqBroker) -> dict[str, dict[str, Any]]:
    """Return file, age (s) and, where it was taken by us, run uid of each detector's newest pedestal."""
    known, found = _read_json(known_file(device)), {}
    for name in device.detectors.get():
        newest = newest_pedestal(device.client.sf_root, device.pgroup.get(), name)
        if newest is not None:
            path, age = newest
            ours = known.get(name, {})
            uid = {"run_uid": ours.get("run_uid", "")} if ours.get("file") == str(path) else {}
            found[name] = {"file": str(path), "age": age, **uid}
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_object(path)
    except (OSError, SfdaqError):
        return {}
    return {name: facts for name, facts in content.items() if isinstance(facts, dict)}


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []


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
