"""Requests of retrievals (wire reference sf-daq-broker, sections 4.1, 8)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import RequestError
from .broker import MAX_BODY
from .broker_parameters import (
    check_detectors,
    check_int,
    check_items,
    check_names,
    check_pgroup,
    plain,
    plain_fields,
    traps,
)
from .pulse_id import MAX_PULSE_DISTANCE, PulseRange, check_rate_multiplicator

SOURCES = {"pvs": "pv_list", "channels": "channels_list", "cameras": "camera_list"}
"""Our names of the lists of sources, and the wire's."""

STEP_KEYS = ("scan_values", "scan_readbacks", "scan_readbacks_raw", "scan_step_info")
"""Keys of scan_info kept per acquisition; all others freeze with the first one of a run."""

SERVER_KEYS = (
    "acquisition_number",
    "appended_directory_suffix",
    "beamline",
    "request_time",
    "unique_acquisition_run_number",
)
"""Keys of ``meta/acqNNNN.json`` that the server adds to a request."""

REQUEST_ID = "client_request_id"
"""Field of a request, stored in ``meta/acqNNNN.json``, that tells it from all others: each request that is
sent has a new one."""

_SENT_WHEN_EMPTY = ("run_number", "user_tag", "scan_info")


@dataclass(frozen=True, kw_only=True)
class RetrieveRequest:
    """One acquisition: which pulses of which sources go into which run. Checked when made.

    Parameters
    ----------
    pgroup : str
        E.g. ``p12345``.
    pulses : PulseRange
        Both ends included; at most 60002 pulses, and with `detectors` at least one multiple of
        `rate_multiplicator` inside. Must be over when the request is sent, or PVs fail.
    run_number : int, optional
        A number taken before. None takes a new one, which a refused request burns.
    rate_multiplicator : int
        The detectors run at 100 Hz divided by this.
    detectors : mapping of str to mapping
        Parameters per detector, ``{}`` for the defaults; see `DETECTOR_PARAMETERS`.
    channels, cameras, pvs : sequence of str
        Beam-synchronous channels, camera images (``:FPICTURE``), EPICS PVs.
    user_tag : str, optional
        Free text; part of the directory name if `append_user_tag_to_data_dir`, and then the same for
        every acquisition of a run.
    scan_info : mapping, optional
        Goes into ``meta/scan.json``; None lets the server write its dummy values.
    selected_pulse_ids : sequence of int
        Keep only these frames; about 7800 fit into a request.
    extra : mapping
        Further fields, stored in ``meta/acqNNNN.json``: client_name, run_uid, ...

    Raises
    ------
    RequestError
        Names the field; nothing was sent.
    """

    pgroup: str
    pulses: PulseRange
    run_number: int | None = None
    rate_multiplicator: int = 1
    detectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    channels: Sequence[str] = ()
    cameras: Sequence[str] = ()
    pvs: Sequence[str] = ()
    user_tag: str | None = None
    append_user_tag_to_data_dir: bool = False
    scan_info: Mapping[str, Any] | None = None
    selected_pulse_ids: Sequence[int] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__
        check_pgroup(self.pgroup)
        if not isinstance(self.pulses, PulseRange):
            raise RequestError("pulses", self.pulses, "a PulseRange")
        if self.pulses.last - self.pulses.first > MAX_PULSE_DISTANCE:
            raise RequestError("pulses", self.pulses, f"at most {MAX_PULSE_DISTANCE + 1} pulses: split() it")
        if self.run_number is not None:
            put(self, "run_number", check_int(self.run_number, "run_number"))
        put(self, "rate_multiplicator", check_rate_multiplicator(self.rate_multiplicator))
        put(self, "detectors", check_detectors(self.detectors))
        for name in SOURCES:
            put(self, name, check_names(getattr(self, name), name, cameras=name == "cameras"))
        if not (self.detectors or self.channels or self.cameras or self.pvs):
            raise RequestError("detectors, channels, cameras, pvs", None, "at least one source")
        if self.detectors:
            self.pulses.aligned(self.rate_multiplicator)
        if self.user_tag is not None and not isinstance(self.user_tag, str):
            raise RequestError("user_tag", self.user_tag, "a text")
        if not isinstance(self.append_user_tag_to_data_dir, bool):
            raise RequestError(
                "append_user_tag_to_data_dir", self.append_user_tag_to_data_dir, "true or false"
            )
        if self.scan_info is not None:
            put(self, "scan_info", _check_scan_info(self.scan_info))
        put(self, "selected_pulse_ids", self._check_selected())
        put(self, "extra", check_extra(self.extra))

    def _check_selected(self) -> list[int]:
        items = check_items(self.selected_pulse_ids, "selected_pulse_ids", "a list of pulse ids")
        selected = [check_int(item, "selected_pulse_ids") for item in items]
        outside = next((item for item in selected if item not in self.pulses), None)
        if outside is not None:
            raise RequestError("selected_pulse_ids", outside, f"ids within {self.pulses}")
        every = self.rate_multiplicator if self.detectors else 1
        if between := [item for item in selected if item % every]:
            expected = f"multiples of {every}: at {between[0]} no detector has a frame"
            raise RequestError("selected_pulse_ids", between[:3], expected)
        return selected

    @property
    def directory_tag(self) -> str | None:
        """The tag that goes into the directory name; None if none does."""
        return (self.user_tag or None) if self.append_user_tag_to_data_dir else None

    def traps(self) -> list[str]:
        """Return one sentence for each legal choice of parameters that loses data."""
        return traps(self.detectors, selected_pulse_ids=bool(self.selected_pulse_ids))

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object to send; sources and options that were not given are left out."""
        body = {**self.extra, "start_pulseid": self.pulses.first, "stop_pulseid": self.pulses.last}
        for name, wire in _WIRE_NAMES.items():
            value = getattr(self, name)
            if value or (value is not None and name in _SENT_WHEN_EMPTY):
                body[wire] = value
        return body

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> RetrieveRequest:
        """Read a request, or the ``meta/acqNNNN.json`` the broker made of one, and check it.

        What the server added is dropped, and so is the id of the old request; fields it only stores become
        `extra`.
        """
        if not isinstance(body, Mapping):
            raise RequestError("request", body, "a JSON object")
        missing = [key for key in ("pgroup", "start_pulseid", "stop_pulseid") if key not in body]
        if missing:
            raise RequestError("request", sorted(body), f"the keys {', '.join(missing)}")
        extra = {key: body[key] for key in body if key not in (*_WIRE_KEYS, *SERVER_KEYS, REQUEST_ID)}
        given = {name: body[wire] for name, wire in _WIRE_NAMES.items() if wire in body}
        return cls(pulses=PulseRange(body["start_pulseid"], body["stop_pulseid"]), extra=extra, **given)


_WIRE_NAMES = {
    one.name: SOURCES.get(one.name, one.name)
    for one in fields(RetrieveRequest)
    if one.name not in ("pulses", "extra")
}
_WIRE_KEYS = ("start_pulseid", "stop_pulseid", *_WIRE_NAMES.values())


def _check_scan_info(scan_info: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(scan_info, Mapping):
        raise RequestError(
            "scan_info", scan_info, "a dict, or None: null is fatal after the data were requested"
        )
    return plain_fields(scan_info, "scan_info")


def check_extra(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return fields the broker only stores or ignores, as plain JSON; RequestError if it uses one itself."""
    extra = {} if extra is None else extra
    if not isinstance(extra, Mapping):
        raise RequestError("extra", extra, "a dict")
    for key in extra:
        if key in (*_WIRE_KEYS, *SERVER_KEYS, "directory_name"):
            raise RequestError("extra", key, "keys the broker does not use itself")
    return plain_fields(extra, "extra")


def encode_body(fields: Mapping[str, Any]) -> bytes:
    """Return the body of a request; RequestError naming the largest field if the server would not read it."""
    body = json.dumps({key: plain(value, key) for key, value in fields.items()}, allow_nan=False).encode()
    if len(body) > MAX_BODY:
        size, field = max((len(json.dumps(plain(value, key))), key) for key, value in fields.items())
        raise RequestError(
            field, f"{size} bytes of {len(body)}", f"a request of at most {MAX_BODY} bytes: split it"
        )
    return body
