"""Which generation a standard DAQ is of: its client, and its control once that is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...clients.std_daq import StdDaqClient
from ...clients.std_daq_socket import StdDaqWriterSocket
from ...wire.std_daq_writing import Writing
from ._control import WriterControl
from ._fastapi_control import FastApiControl
from ._flask_control import FlaskControl
from ._socket_control import SocketControl

_CONTROLS = {"flask": FlaskControl, "fastapi": FastApiControl, "websocket": SocketControl}


class Generation:
    """Contacts nothing when it is made.

    Parameters
    ----------
    url, dialect, config_url, user, timeout, restart_time
        As for `StdDaqWriter`.

    Attributes
    ----------
    client : StdDaqClient, StdDaqWriterSocket or None
        None where a control was given instead of an address.
    """

    def __init__(
        self,
        url: str | WriterControl,
        dialect: str,
        config_url: str | None,
        user: str,
        timeout: float,
        restart_time: float,
    ):
        self._address = url
        self._websocket = partial(
            StdDaqWriterSocket, config_url=config_url, user=user, timeout=timeout, restart_time=restart_time
        )
        self.client: StdDaqClient | StdDaqWriterSocket | None = None
        if isinstance(url, WriterControl):
            return
        if dialect == "websocket" or url.startswith(("ws://", "wss://")):
            self.client = self._websocket(url)
        else:
            self.client = StdDaqClient(url, dialect, timeout, restart_time=restart_time)

    def control(self, name: str, on_status: Callable[[Writing], None]) -> WriterControl:
        """Return the control of the DAQ, which is asked once, without side effects, unless it was told.

        Parameters
        ----------
        name : str
            Of the device.
        on_status : callable
            Called with what each look shows.
        """
        if isinstance(self._address, WriterControl):
            return self._address
        assert self.client is not None  # there is an address
        dialect = self.client.dialect
        if dialect == "websocket" and isinstance(self.client, StdDaqClient):
            self.client.close()
            self.client = self._websocket(self._address)
        return _CONTROLS[dialect](name, self.client, on_status)
