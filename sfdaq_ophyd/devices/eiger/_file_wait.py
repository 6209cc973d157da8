"""Wait for a file of the filewriter, and find out whether it can still come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from ...errors import ServiceRefused, ServiceTimeout, ServiceUnreachable
from ...limits import Limit
from ...wire.simplon_states import DetectorState
from .._source import Progress
from ._control import EigerControl
from ._file_folder import FileFolder
from ._triggers import SoftwareTriggers

logger = logging.getLogger(__name__)

WAIT = 0.25
"""s between two looks, at the most."""

SOON = 0.02
"""s between the first two looks after an exposure."""

GRACE = 2.0
"""s after an exposure for a file to come, before the series is ended, which closes the last one."""


class FileWait:
    """The next file of a series, and why it does not come.

    Parameters
    ----------
    control : EigerControl
    folder : FileFolder
    triggers : SoftwareTriggers or None
        Those of the exposure; None where they come from outside.
    stop : threading.Event
        Set to give up.
    timeout : float
        s from the end of the series on, and without an answer of the unit.
    longest : float
        s in which nothing changes.

    Attributes
    ----------
    over : bool
        Whether it does not come.
    ended : bool
        Whether the series was ended here.
    why : str
        What was seen then.
    """

    def __init__(
        self,
        control: EigerControl,
        folder: FileFolder,
        triggers: SoftwareTriggers | None,
        stop: threading.Event,
        *,
        timeout: float,
        longest: float,
    ):
        self._control, self._client, self._folder = control, control.client, folder
        self._triggers, self._stop, self._timeout = triggers, stop, timeout
        self._limit, self._grace, self._away = Limit(longest), Limit(GRACE), Limit(timeout)
        self._rest: Limit | None = None  # from the end of the series on
        self._seen: tuple = ()
        self._n_quiet = 0  # looks at a filewriter that was done
        self.over = self.ended = False
        self.why = ""

    def until_ready(self, name: str, n_images: int) -> Iterator[Progress]:
        """Yield progress until a file of `n_images`, or the last one of its series, is ready, or over."""
        pause, looked = SOON, Limit(WAIT)
        while not self._stop.is_set() and not self.over:
            if self._triggers is not None:
                self._triggers.check(self._control)
            if self._exposing:
                self._grace.restart()
            try:
                if self._folder.is_ready(name, n_images if self._rest is None else 1):
                    return
                if looked.left == 0:
                    looked.restart()
                    yield Progress(0, self._look())
                self._away.restart()
            except (ServiceUnreachable, ServiceTimeout, ServiceRefused) as exc:
                if self._away.reached() or (isinstance(exc, ServiceRefused) and (exc.code or 0) < 500):
                    raise
                logger.warning("%s: %s; trying again", self._control.name, exc)
            self._stop.wait(WAIT if self._exposing else pause)
            pause = min(WAIT, pause * (1 if self._exposing else 2))

    @property
    def _exposing(self) -> bool:
        return self._triggers is not None and not self._triggers.done

    def _look(self) -> str:
        """Find out whether the file can still come, now that it is not there; return what was seen."""
        state, (writer, free) = self._control.working_state(), self._writer()
        told = f"detector '{state}', filewriter '{writer}', {free} bytes free"
        if self._exposing or (state, writer, free) != self._seen:
            self._limit.restart()
        self._seen = state, writer, free
        if self._rest is not None:
            self._n_quiet += writer != "acquire"
            self.over = self._rest.reached() or (self._n_quiet > 1 and self._rest.elapsed > GRACE)
            self.why += f"; {self._folder.why}" if self.over and self._folder.why else ""
            return told
        exposed = self._triggers is not None and not self._exposing and self._grace.reached()
        if state == DetectorState.IDLE or exposed or self._limit.reached() or writer == "error":
            self.why, self._rest = told, Limit(self._timeout)
            if state != DetectorState.IDLE:
                self.ended = True  # which closes the last file
                self._control.disarm()
        return told

    def _writer(self) -> tuple[str, object]:
        """Return state and free bytes of the filewriter, as far as it tells."""
        try:
            state = str(self._client.get("filewriter", "status", "state").value)
            return state, self._client.get("filewriter", "status", "buffer_free").value
        except ServiceRefused as exc:
            if (exc.code or 0) >= 500:
                raise
            return "unknown", "unknown"
