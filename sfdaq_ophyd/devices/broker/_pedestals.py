"""Pedestals: take one, and know when it is done by the best evidence there is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...clients import BrokerClient
from ...clients.broker_transport import read_json
from ...errors import FilesMissing, ServiceTimeout
from ...files.daq_file import CLOSING
from ...files.storage import write_whole
from ...limits import Limit
from ...wire.broker import PEDESTALS
from ...wire.detector_name import DetectorName
from ._data_streams import TextRow
from ._preflight import known_pedestals, pedestal_file
from ._service import JobStatus
from ._settings import Settings, request_labels

PERIOD = 0.2
MARGIN, MARGIN_PER_MODULE = 10.0, 5.0
"""s on top of what the server announces, where nothing but time can tell that a pedestal is done."""


@dataclass(frozen=True)
class QueuedPedestal:
    """A pedestal that was queued: the id of its request, and the s it takes at least."""

    request_id: str
    seconds: float


class Pedestals:
    """Calls for pedestals.

    Parameters
    ----------
    name : str
        Of the broker device.
    client : BrokerClient
    settings : callable
        Returns what the device's signals say now.
    directory : Path
        Where it is noted which pedestal was taken by which run.
    """

    def __init__(self, name: str, client: BrokerClient, settings: Callable[[], Settings], directory: Path):
        self.name, self._client, self._settings, self._directory = name, client, settings, directory

    def begin_pedestal(
        self, detectors: Sequence[str], pedestalmode: bool = False, run_uid: str = ""
    ) -> QueuedPedestal:
        """Queue a pedestal.

        Parameters
        ----------
        detectors : sequence of str
        pedestalmode : bool
            The detector switches gains itself.
        run_uid : str
            Of Bluesky's run; empty without one.

        Returns
        -------
        QueuedPedestal
        """
        settings, labels = self._settings(), request_labels(run_uid)
        seconds = self._client.take_pedestal(
            settings.pgroup,
            list(detectors),
            rate_multiplicator=int(settings.rate_multiplicator),
            pedestalmode=pedestalmode,
            extra=labels,
        )
        return QueuedPedestal(labels["client_request_id"], seconds)

    def wait_for_pedestal(
        self,
        status: JobStatus,
        pedestal: QueuedPedestal,
        detectors: Sequence[str],
        limit: float,
        run_uid: str = "",
    ) -> dict[str, Any]:
        """Wait until the log of each detector says that it is done.

        Parameters
        ----------
        status : JobStatus
            To wait with.
        pedestal : QueuedPedestal
        detectors : sequence of str
        limit : float
            s.
        run_uid : str
            Of Bluesky's run; empty without one.

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
        over, root = Limit(limit), self._client.sf_root
        if root is None or not root.is_dir():
            n_modules = sum(DetectorName.parse(name).n_modules for name in detectors)
            seconds = pedestal.seconds + MARGIN + MARGIN_PER_MODULE * n_modules
            seen = f"/sf is not mounted here: waiting {seconds:g} s, a guess"
            status.show(0, 1, seen)
            status.pause(min(seconds, limit))
            if seconds > limit:
                raise ServiceTimeout(f"{self.name}: pedestal", limit, seen)
            return {"files": {}, "evidence": f"{seconds:g} s went by: a guess, /sf is not mounted here"}
        stem: Path | None = None
        while True:
            stem = stem or self._own_stem(root, pedestal.request_id)
            done, seen = self._progress(stem, detectors)
            status.show(len(done), len(detectors), seen)
            if len(done) == len(detectors):
                break
            if over.reached():
                raise ServiceTimeout(f"{self.name}: pedestal", limit, seen)
            status.pause(PERIOD)
        self._remember(done, run_uid)
        return {"files": done, "evidence": "the writer's logs"}

    def pedestal_rows(self, result: Mapping[str, Any] | None) -> TextRow | None:
        """Return what is to be collected: one row with the file of each detector, and the evidence.

        Parameters
        ----------
        result : mapping or None
            Of `wait_for_pedestal`.

        Returns
        -------
        TextRow or None
        """
        if result is None:
            return None
        files = {f"{name}_pedestal": file for name, file in result["files"].items()}
        texts = files | {"pedestal_evidence": result["evidence"]}
        return TextRow("primary", self.name, texts)

    def _own_stem(self, root: Path, request_id: str) -> Path | None:
        """Find ``<stamp>`` of our request: the newest files first."""
        pgroup = self._settings().pgroup
        paths = sorted(root.glob(f"*/data/{pgroup}/raw/{PEDESTALS}/*.json"), reverse=True)
        for path in paths[:50]:
            if read_json(path).get("client_request_id") == request_id:  # of one being written, nothing
                return path.with_suffix("")
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
                raise FilesMissing(self.name, {str(raw): f"the writer failed: {last}"})
            result = raw.with_name(f"{stem.name}.{name}.res.h5")
            if lines and CLOSING in lines[-1]:
                if not result.exists():
                    raise FilesMissing(self.name, {str(result): f"no result; log: {lines[-2:]}"})
                done[name] = str(result)
            elif lines:
                seen.append(f"{name}: {lines[-1]}")
        return done, "; ".join(seen)

    def _remember(self, files: Mapping[str, str], run_uid: str) -> None:
        path = pedestal_file(self._directory, self._settings().pgroup)
        known = known_pedestals(path) | {
            name: {"file": file, "run_uid": run_uid, "time": time.time()} for name, file in files.items()
        }
        write_whole(path, json.dumps(known, indent=1))


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
