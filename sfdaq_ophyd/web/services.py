"""The writer and the broker, asked now and then for what they are doing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..clients import BrokerClient, StdDaqClient, StdDaqOtherGeneration, StdDaqWriterSocket
from ..wire.broker import Dialect
from ..wire.std_daq_socket import NOT_SHOWN
from .source import Rate, Source

if TYPE_CHECKING:
    from ophyd import EpicsSignalRO

    from ..devices import PulseId


LIMIT = 1.0
"""s for an answer of a PV."""

SELDOM = 5.0
"""s between two looks at what is disturbed by them."""


class WriterSource(Source):
    """Watch a standard DAQ: state, progress and throughput.

    One with control by websocket is never connected to, for one of its clients alone is told the end of an
    acquisition: only its configuration is read, seldom.

    Parameters
    ----------
    name, url : str
    dialect : {"auto", "flask", "fastapi", "websocket"}
    config_url : str, optional
        Of the configuration, beside a ``ws://...``.
    user : str
        As whom that is asked.
    """

    group = "writers"

    def __init__(
        self,
        name: str,
        url: str,
        dialect: str = "auto",
        *,
        config_url: str | None = None,
        user: str = "sfdaq",
    ):
        super().__init__(name, "standard DAQ", url, 0.5)
        self._rest = partial(StdDaqClient, url, dialect, timeout=5.0)
        self._socket = partial(StdDaqWriterSocket, url, config_url, user=user, timeout=5.0)
        by_websocket = dialect == "websocket" or url.startswith("ws")
        self._told = by_websocket or dialect != "auto"
        self._client: StdDaqClient | StdDaqWriterSocket = self._socket() if by_websocket else self._rest()

    def look(self) -> dict[str, Any]:
        """Ask for status and statistics, or for the configuration."""
        try:
            return self._seen()
        except StdDaqOtherGeneration as exc:
            self._client.close()
            if self._told:
                raise
            self._client = self._socket() if exc.dialect == "websocket" else self._rest()
        return self._seen()

    def _seen(self) -> dict[str, Any]:
        if isinstance(self._client, StdDaqClient):
            self.period = 0.5
            return self._by_rest(self._client)
        self.period = SELDOM
        return self._by_websocket(self._client)

    def _by_rest(self, client: StdDaqClient) -> dict[str, Any]:
        status, stats = client.status(), client.stats()
        state = status.state.value
        level = {"UNKNOWN": "bad", "WRITING": "busy"}.get(state, "good")
        seen: dict[str, Any] = {"state": state, "level": level}
        if (last := status.acquisition) is not None:
            seen |= {"acquisition": last.state.value, "message": last.message, "file": last.output_file}
            seen |= {"n_done": last.n_completed, "n_images": last.n_images}
        if stats is not None:
            seen["detector_rate"] = round(stats.detector_images_per_second, 1)
            seen["writer_rate"] = round(stats.writer_images_per_second, 1)
        return seen

    def _by_websocket(self, client: StdDaqWriterSocket) -> dict[str, Any]:
        config = client.get_config()
        writers = f"{config.get('detector_name')}, {config.get('number_of_writers')} writers"
        return {"state": "not shown", "level": "", "message": f"{writers}; {NOT_SHOWN}"}

    def rest(self) -> None:
        """Close the connection."""
        self._client.close()


class BrokerSource(Source):
    """Watch an sf-daq broker: running detectors and the last run number.

    Asked seldom, since it answers one caller at a time.

    Parameters
    ----------
    name, url, pgroup, dialect : str
    slow_url : str or None
    wanted : sequence of str
        Detectors that ought to run.
    """

    group = "brokers"

    def __init__(
        self,
        name: str,
        url: str,
        slow_url: str | None = None,
        *,
        wanted: Sequence[str] = (),
        pgroup: str = "",
        dialect: Dialect | Literal["auto"] = "current",
    ):
        super().__init__(name, "sf-daq broker", url, SELDOM)
        self._client = BrokerClient(url, slow_url, dialect)
        self._wanted, self._pgroup = wanted, pgroup

    def look(self) -> dict[str, Any]:
        """Ask for running detectors and, of a known pgroup, the last run number."""
        found = self._client.get_running_detectors()
        seen: dict[str, Any] = {
            "running": list(found.running),
            "limping": sorted(found.limping or {}),
            "missing": [name for name in self._wanted if name not in found.running],
            "pgroup": self._pgroup,
        }
        seen["level"] = "busy" if seen["limping"] or seen["missing"] else "good"
        if self._pgroup:
            seen["run_number"] = self._client.get_current_run_number(self._pgroup)
        return seen

    def rest(self) -> None:
        """Close the connections."""
        self._client.close()


STANDS_AFTER = 1.0
"""s without a new pulse id after which the machine's clock stands, as far as the page can see."""


class PulseIdSource(Source):
    """Watch the machine's pulse id and how fast it counts.

    Parameters
    ----------
    name, pv : str
    """

    group = "pulse_ids"

    def __init__(self, name: str, pv: str):
        super().__init__(name, "pulse id", pv, 0.2)
        self._device: PulseId | None = None
        self._rate = Rate()
        self._value: int | None = None
        self._stands_since = 0.0

    def look(self) -> dict[str, Any]:
        """Ask the IOC for the pulse id of this moment."""
        if self._device is None:
            from ..devices import PulseId

            self._device = PulseId(self.address, name=self.name, timeout=LIMIT)
            self._device.wait_for_connection(timeout=LIMIT)
        pulse_id = self._device.get()
        now = time.monotonic()
        if pulse_id != self._value:
            self._value, self._stands_since = pulse_id, now
        stands = now - self._stands_since
        seen = {"value": pulse_id, "rate": self._rate.update(pulse_id), "level": "good"}
        return seen if stands < STANDS_AFTER else seen | {"level": "bad", "stands": round(stands, 1)}

    def rest(self) -> None:
        """Leave the PV."""
        if self._device is not None:
            self._device.destroy()
        self._device, self._rate = None, Rate()


class PvSource(Source):
    """Watch a PV.

    Parameters
    ----------
    name, pv : str
    string : bool
        Read an enum as its text.
    """

    group = "pvs"

    def __init__(self, name: str, pv: str, *, string: bool = False):
        super().__init__(name, "PV", pv, 0.5)
        self._string = string
        self._signal: EpicsSignalRO | None = None

    def look(self) -> dict[str, Any]:
        """Ask the IOC: what it pushed last would look fresh when it does not answer any more."""
        if self._signal is None:
            from ophyd import EpicsSignalRO

            self._signal = EpicsSignalRO(
                self.address, name=self.name, string=self._string, auto_monitor=False
            )
        self._signal.wait_for_connection(timeout=LIMIT)
        value = self._signal.get(timeout=LIMIT)
        units = self._signal.metadata.get("units")
        shown = f"{value:.6g}" if isinstance(value, float) else f"{value!s:.60}"
        return {"value": shown, "units": units or ""}

    def rest(self) -> None:
        """Leave the PV."""
        if self._signal is not None:
            self._signal.destroy()
        self._signal = None
