"""Checks before a run number is taken, in one table; and which pedestal each detector has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ...clients import BrokerClient
from ...clients.broker_transport import read_json
from ...errors import SfdaqError
from ...wire.broker import PEDESTALS, clean_tag
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PULSE_RATE


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """One line of the table; `ok` is None if it cannot be told, which fails nothing."""

    what: str
    found: str
    ok: bool | None = True
    fix: str = ""


def table(checks: list[PreflightCheck]) -> str:
    """Return the checks as text, one line each."""
    width = max((len(check.what) for check in checks), default=0)
    marks = {True: "ok", False: "FAILED", None: "?"}
    return "\n".join(f"{marks[check.ok]:6} {check.what:{width}}  {check.found}" for check in checks)


def checks_of(
    client: BrokerClient,
    request: RetrieveRequest,
    pulse_rate: Callable[[], float],
    beam_rate: Callable[[], float] | None,
    max_pedestal_age: float,
) -> list[PreflightCheck]:
    """Check everything a run with this request needs; only reads, and never raises SfdaqError.

    `pulse_rate` measures that the pulse-id PV counts, in Hz, or raises SfdaqError; `beam_rate` returns that
    of the beam, in Hz, where there is a PV for it; a `max_pedestal_age` of 0 s accepts any.
    """
    checks = [_pgroup(client, request.pgroup)]
    unreachable = checks[0].ok is False and "not reachable" in checks[0].found
    if not unreachable and request.detectors:
        checks += _detectors(client, request)
    checks += [*_tag(request), _pulse_id(pulse_rate), *_rate(beam_rate, request)]
    checks += [PreflightCheck("parameters", trap, None) for trap in request.traps()]
    checks += [_pedestal(client, name, request.pgroup, max_pedestal_age) for name in request.detectors]
    return checks


def _pgroup(client: BrokerClient, pgroup: str) -> PreflightCheck:
    try:
        number = client.get_current_run_number(pgroup)
    except SfdaqError as exc:
        return PreflightCheck(
            f"pgroup {pgroup}", str(exc), False, "Is the broker up, the pgroup there and still open?"
        )
    return PreflightCheck(f"pgroup {pgroup}", f"open, last run number {number}")


def _detectors(client: BrokerClient, request: RetrieveRequest) -> Iterator[PreflightCheck]:
    try:
        allowed = client.get_allowed_detectors().names
        running = client.get_running_detectors()
    except SfdaqError as exc:
        yield PreflightCheck("detectors", str(exc), False, "Does this beamline have detectors?")
        return
    for name in request.detectors:
        what, limping = f"detector {name}", (running.limping or {}).get(name)
        if name not in allowed:
            yield PreflightCheck(what, "not of this beamline", False, f"Choose out of {', '.join(allowed)}.")
        elif name in running.running:
            yield PreflightCheck(what, "running")
        elif limping is not None:
            missing = ", ".join(map(str, limping.missing_modules))
            found = f"limping: modules {missing} do not write"
            yield PreflightCheck(what, found, False, "Check their fibres, or leave them out.")
        else:
            yield PreflightCheck(what, "does not write into the buffer", False, "Power it on with power_on.")


def _tag(request: RetrieveRequest) -> Iterator[PreflightCheck]:
    tag = request.directory_tag
    if tag is not None:
        cleaned = clean_tag(tag)
        found = repr(tag) if cleaned == tag else f"{tag!r} would become {cleaned!r} in the directory"
        fix = "Use at most 50 letters, digits, _ - + . and end with a letter or digit."
        yield PreflightCheck("user tag", found, cleaned == tag, fix)


def _pulse_id(pulse_rate: Callable[[], float]) -> PreflightCheck:
    try:
        rate = pulse_rate()
    except SfdaqError as exc:
        return PreflightCheck("pulse id", str(exc), False, "Without its PV nothing is acquired.")
    return PreflightCheck("pulse id", f"counts at {rate:.0f} Hz")


def _rate(beam_rate: Callable[[], float] | None, request: RetrieveRequest) -> Iterator[PreflightCheck]:
    if beam_rate is None:
        return
    factor = request.rate_multiplicator
    try:
        rate = float(beam_rate())
    except (SfdaqError, TimeoutError, ValueError) as exc:
        yield PreflightCheck("rate multiplicator", f"{factor}; beam rate unknown ({exc})", None)
        return
    expected = round(PULSE_RATE / rate) if rate > 0 else 0
    yield PreflightCheck(
        "rate multiplicator",
        f"{factor}; the beam comes at {rate:g} Hz",
        factor == expected if expected else None,
        f"Set rate_multiplicator to {expected}.",
    )


def _pedestal(client: BrokerClient, name: str, pgroup: str, limit: float) -> PreflightCheck:
    what, required = f"pedestal {name}", limit > 0
    newest = newest_pedestal(client.sf_root, pgroup, name)
    if newest is None:
        found = "none in this pgroup" if client.sf_root else "unknown: /sf is not mounted here"
        return PreflightCheck(what, found, False if required else None, "Take one with take_pedestal.")
    path, age = newest
    found = f"{age / 3600:.1f} h old, {path.name}"
    return PreflightCheck(what, found, not required or age <= limit, "Take a new one with take_pedestal.")


def newest_pedestal(sf_root: Path | None, pgroup: str, detector: str) -> tuple[Path, float] | None:
    """Return the latest evaluated pedestal of a detector in a pgroup, with its age in s, if there is one."""
    if sf_root is None:
        return None
    results = list(sf_root.glob(f"*/data/{pgroup}/raw/{PEDESTALS}/*.{detector}.res.h5"))
    if not results:
        return None
    newest = max(results, key=lambda path: path.name)
    try:
        taken = datetime.strptime(newest.name.split(".")[0], "%Y%m%d_%H%M%S").timestamp()
    except ValueError:
        taken = newest.stat().st_mtime
    return newest, max(0.0, time.time() - taken)


def pedestal_file(directory: Path, pgroup: str) -> Path:
    """Return where a device notes which pedestal was taken by which run."""
    return directory / pgroup / "pedestals.json"


def pedestals_in_use(
    pgroup: str, detectors: Iterable[str], sf_root: Path | None, directory: Path
) -> dict[str, dict[str, Any]]:
    """Return ``file``, ``age`` (s) and, where we took it, ``run_uid`` of each detector's newest pedestal."""
    known, found = known_pedestals(pedestal_file(directory, pgroup)), {}
    for name in detectors:
        newest = newest_pedestal(sf_root, pgroup, name)
        if newest is not None:
            path, age = newest
            ours = known.get(name, {})
            uid = {"run_uid": ours.get("run_uid", "")} if ours.get("file") == str(path) else {}
            found[name] = {"file": str(path), "age": age, **uid}
    return found


def known_pedestals(path: Path) -> dict[str, Any]:
    """Return which pedestals were taken by which run, as far as the file tells."""
    return {name: facts for name, facts in read_json(path).items() if isinstance(facts, dict)}
