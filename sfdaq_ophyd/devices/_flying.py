"""The verbs of a fly scan that all detectors have, the broker too: many points, collected while they come.

Bluesky's own stubs collect what is in files and nothing else: `describe_collect`, `get_index` and
`collect_asset_docs` give them images, ids and numbers as columns of a file. `FlyGroup`, for our `fly`, has
the ids and numbers as rows of events: `describe_flown`, `collect_flown` and `flown_pages`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ophyd import Device

from ..errors import DetectorStateError
from ._status import ActionStatus

OUR_PLAN = "sfdaq_ophyd.plans.fly does all of it"


@dataclass
class Flight:
    """A fly scan under way.

    Attributes
    ----------
    kicked_off, completed : ActionStatus
        What `kickoff` and `complete` return.
    completing : bool
        Whether `complete` was called.
    """

    kicked_off: ActionStatus
    completed: ActionStatus
    completing: bool = False


class Flying(Device, ABC):
    """A device that flies; where its points come from and go to, it says itself."""

    _flight: Flight | None = None
    _page: dict | None = None

    @property
    def flying(self) -> bool:
        """Whether points of a fly scan are coming, or wait to be collected."""
        return self._flight is not None

    def prepare(self, value: Any) -> ActionStatus:
        """Say what the next fly scan will be.

        Parameters
        ----------
        value : int or Mapping
            Number of points; or ``{"n_points": 100, ...}`` with what else the device takes.

        Returns
        -------
        ActionStatus
            Done.

        Raises
        ------
        RequestError
            No whole number of points, 1 or more.
        """
        self._prepare(dict(value) if isinstance(value, dict) else {"n_points": value})
        return ActionStatus.done_at_once(self, "prepare")

    @abstractmethod
    def _prepare(self, settings: dict[str, Any]) -> None:
        """Take what `prepare` was given, and count points anew."""

    @abstractmethod
    def kickoff(self) -> ActionStatus:
        """Start a fly scan; what an earlier one left uncollected is taken back. Done when armed."""

    def complete(self) -> ActionStatus:
        """Return the status of the whole fly scan, the same one each time.

        Returns
        -------
        ActionStatus
            Done when nothing more comes; a pause does not end it.

        Raises
        ------
        DetectorStateError
            No fly scan was kicked off.
        """
        flight = self._flight
        if flight is None:
            raise DetectorStateError(f"{self.name}: complete, but no fly scan was kicked off")
        if not flight.completing:
            flight.completing = True
            self._complete()
        return flight.completed

    def _complete(self) -> None:
        """Begin what is done only once the fly scan is to be completed."""

    def describe_collect(self) -> dict:
        """Return the data keys of a point whose ids and numbers are, as its images, external.

        Returns
        -------
        dict
            Data keys by name.

        Raises
        ------
        DetectorStateError
            The stream was not declared, as with ``bp.fly``: bluesky collects no files then.
        """
        is_declared = self._is_declared
        if self._flight is not None and self._flight.completing and not is_declared:
            raise DetectorStateError(
                f"{self.name}: collect needs a stream that was declared before: "
                f"bps.declare_stream({self.name}, name=..., collect=True). {OUR_PLAN}"
            )
        return self._external_keys()

    @property
    @abstractmethod
    def _is_declared(self) -> bool:
        """Whether the RunEngine asked for a description since stage."""

    @abstractmethod
    def _external_keys(self) -> dict:
        """Note that the RunEngine begins a stream, and return its data keys."""

    @abstractmethod
    def describe_flown(self) -> dict:
        """Return the data keys of a point whose ids and numbers are in events."""

    @property
    @abstractmethod
    def n_ready(self) -> int:
        """Points of a fly scan that were not collected yet."""

    @property
    @abstractmethod
    def n_collected(self) -> int:
        """Points saved since the stream was described, or the fly scan prepared."""

    @abstractmethod
    def get_index(self) -> int:
        """Return how many points the stream has, or may have now; counted anew after a `prepare`."""

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, dict]]:
        """Yield the documents of points of a fly scan that were not handed out yet.

        Parameters
        ----------
        index : int, optional
            No further than so many points; see `get_index`.
        """
        n_points = self.n_ready if index is None else min(self.n_ready, index - self.n_collected)
        yield from self.collect_flown(n_points, in_file=True)

    @abstractmethod
    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points.

        Parameters
        ----------
        n_points : int
            At most as many as are ready.
        in_file : bool
            Ids and numbers are columns of a file; else they are the rows of `flown_pages`.
        """

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page: the points whose documents `collect_flown` gave just before."""
        page, self._page = self._page, None
        if page is not None:
            yield page

    def _page_of(self, columns: Mapping[str, list], stamps: Sequence[float] | None = None) -> dict:
        """Return a partial event page of columns, with the time of each point; default is now."""
        n_points, now = len(next(iter(columns.values()))), time.time()
        data = {f"{self.name}_{key}": values for key, values in columns.items()}
        times = [now] * n_points
        return {"time": times, "data": data, "timestamps": {key: list(stamps or times) for key in data}}
