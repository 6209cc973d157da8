"""What is asked for with every acquisition, and the request made of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ...errors import RequestError
from ...wire.broker_request import RetrieveRequest
from ...wire.pulse_id import PulseRange, check_rate_multiplicator, check_whole
from ._run_table import CHANNELS


@dataclass(frozen=True)
class Settings:
    """What is asked for with every acquisition: the values of the device's signals."""

    pgroup: str
    n_pulses: int
    rate_multiplicator: int
    detectors: Mapping[str, Mapping[str, Any]]
    channels: Sequence[str]
    cameras: Sequence[str]
    pvs: Sequence[str]
    user_tag: str
    append_user_tag: bool
    tolerate_missing: bool
    tolerate_missing_channels: bool
    file_timeout: float
    max_pedestal_age: float
    timeout: float

    def request(
        self,
        pulses: PulseRange,
        *,
        run_number: int | None = None,
        scan_info: Mapping[str, Any] | None = None,
        selected_pulse_ids: Sequence[int] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> RetrieveRequest:
        """Return the request for pulses.

        Parameters
        ----------
        pulses : PulseRange
        run_number : int, optional
        scan_info : mapping, optional
        selected_pulse_ids : sequence of int
        extra : mapping, optional
            Fields that the broker only stores.

        Returns
        -------
        RetrieveRequest

        Raises
        ------
        RequestError
            It names the setting that is wrong.
        """
        return RetrieveRequest(
            pgroup=self.pgroup,
            pulses=pulses,
            run_number=run_number,
            rate_multiplicator=self.rate_multiplicator,
            detectors=self.detectors,
            channels=self.channels,
            cameras=self.cameras,
            pvs=self.pvs,
            user_tag=self.user_tag or None,
            append_user_tag_to_data_dir=bool(self.user_tag) and bool(self.append_user_tag),
            scan_info=scan_info,
            selected_pulse_ids=selected_pulse_ids,
            extra=extra or {},
        )

    def check(self, name: str) -> RetrieveRequest:
        """Return a request with made-up pulses.

        Parameters
        ----------
        name : str
            Of the device.

        Returns
        -------
        RetrieveRequest

        Raises
        ------
        RequestError
            It names the signal that is wrong.
        """
        rate = check_rate_multiplicator(self.rate_multiplicator)
        n_pulses = check_whole(self.n_pulses, f"{name}.n_pulses")
        for limit in ("file_timeout", "timeout"):
            seconds = getattr(self, limit)
            if not isinstance(seconds, Real) or not 0 < float(seconds) < float("inf"):
                raise RequestError(f"{name}.{limit}", seconds, "a number of s above 0")
        try:
            return self.request(PulseRange.next_frames(0, n_pulses, rate))
        except RequestError as exc:
            raise RequestError(f"{name}.{exc.field}", exc.value, exc.expected) from exc

    def tolerates(self, source: str) -> bool:
        """Say of a source whether its file may lack frames, or channels.

        Parameters
        ----------
        source : str

        Returns
        -------
        bool
        """
        return bool(self.tolerate_missing_channels if source in CHANNELS else self.tolerate_missing)


def request_labels(run_uid: str = "", **more: Any) -> dict[str, Any]:
    """Return the fields of a request that only say whose it is; each time with a new request id.

    Parameters
    ----------
    run_uid : str
        Of Bluesky's run; empty without one.
    **more
        Further fields.

    Returns
    -------
    dict
    """
    uid = {"bluesky_run_uid": run_uid} if run_uid else {}
    return {"client_name": "sfdaq_ophyd", "client_request_id": str(uuid.uuid4()), **uid, **more}
