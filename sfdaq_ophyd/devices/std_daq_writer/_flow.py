"""From a READY writer to a closed file: the flow of one acquisition, and every known way it goes wrong.

Source: contract std-daq.md, sections 5 (transitions) and 10 (the flow). `stop` is sent only to an acquisition
of ours or to a writer in UNKNOWN: while READY it would change the log, and it would end other people's work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ...clients.std_daq_errors import StdDaqRefused
from ...clients.std_daq_writers import FileWriter
from ...errors import Discarded, ServiceTimeout, ServiceUnreachable
from ...wire.std_daq import AcquisitionState, DaqStatus, WriteRequest, WriterState
from ._errors import (
    DAQ_TEAM,
    DaqGone,
    DoubleStart,
    LostRecord,
    MissedStart,
    SlowCreation,
    Stalled,
    WriterFailed,
    WriterNotReady,
    found,
)

logger = logging.getLogger(__name__)

PERIOD = 0.05
"""Seconds between two looks at the status; news from Redis shortens it."""

SETTLE = 1.0
"""Seconds for which a failed start is watched: it may begin all the same."""

CANNOT_REACH = "Cannot reach WRITING"
CANNOT_START = "Cannot start new acquisition"


class Flow:
    """The writer, as one device uses it.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    writer : FileWriter
    on_status : callable
        Called with every status read.
    """

    def __init__(self, name: str, writer: FileWriter, on_status: Callable[[DaqStatus], None]):
        self._name, self.writer, self._on_status = name, writer, on_status
        self._ours: WriteRequest | None = None
        self._known_ready = False
        self.news = threading.Event()

    def status(self) -> DaqStatus:
        """Read the status."""
        status = self.writer.status()
        self._on_status(status)
        return status

    # ---- staging ------------------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Reset what may be reset once; refuse to touch somebody else's acquisition."""
        status = self.status()
        ours = self._is_ours_writing(status)
        if status.state is WriterState.WRITING and not ours:
            raise WriterNotReady(
                f"{self._name}: somebody else is writing: {found(status)}. Wait for its end, or stop it"
            )
        stale = status.acquisition is not None and status.acquisition.message.startswith("ERROR")
        if ours or stale or status.state is WriterState.UNKNOWN:
            self._reset()
        self._known_ready = True

    def leave_ready(self) -> None:
        """Stop what is ours, reset UNKNOWN; WriterNotReady if a person must restart it. Safe twice."""
        if self._ours is None:
            return
        status = self.status()
        if self._is_ours_writing(status) or status.state is WriterState.UNKNOWN:
            self._reset()
        elif status.state is WriterState.WRITING:  # somebody else's; ours may still come up behind it
            return
        self._ours = None

    def _reset(self) -> None:
        try:
            status = self.writer.stop()
        except StdDaqRefused as exc:
            raise WriterNotReady(
                f"{self._name}: the writer did not become READY: {exc.said!r}. {DAQ_TEAM}"
            ) from exc
        self._on_status(status)

    def _is_ours_writing(self, status: DaqStatus) -> bool:
        a = status.acquisition
        ours = a is not None and self._ours is not None and a.is_answer_to(self._ours)
        return status.state is WriterState.WRITING and ours

    # ---- starting -----------------------------------------------------------------------------------

    def start(self, request: WriteRequest) -> None:
        """Start; returns once the writer takes images of this request.

        Raises
        ------
        WriterNotReady, WriterFailed, DoubleStart, SlowCreation, MissedStart
        """
        if not self._known_ready:
            self.make_ready()
        self._ours, self._known_ready = request, False
        try:
            status = self.writer.start(request)
        except StdDaqRefused as refused:
            if not self._explain(request, refused):
                raise WriterFailed(
                    f"{self._name}: the DAQ could not start {request.output_file}: {refused.said!r}"
                ) from refused
            status = self.writer.start(request)
        self._on_status(status)
        if status.acquisition is None or not status.acquisition.is_answer_to(request):
            if self._began_all_the_same(request):
                self._reset()
            raise DoubleStart(
                f"{self._name}: started {request.output_file} (run_id {request.run_id}), but the reply shows "
                f"{found(status)}: somebody else started at the same moment"
            )

    def _explain(self, request: WriteRequest, refused: StdDaqRefused) -> bool:
        """Find out what a refused start left behind; return whether to start once more."""
        if refused.said.startswith(CANNOT_START):
            self.make_ready()
            return True
        running = self._began_all_the_same(request)
        if refused.said.startswith("ERROR"):
            if running:
                logger.warning("%s: ghost start: %s; stopped, starting again", self._name, refused.said)
                self._reset()
            return running
        if not refused.said.startswith(CANNOT_REACH):
            return False
        self._reset()
        if running:
            raise SlowCreation(
                f"{self._name}: creating {request.output_file} for {request.n_images} images took longer "
                "than the service waits; it would write no image. Split the run"
            ) from refused
        raise MissedStart(
            self._name,
            asked=request.n_images,
            got=0,
            detail=f"{refused.said!r}: the writer was away, needs longer than the service waits to create "
            f"{request.output_file} for {request.n_images} images, or ended before the service looked",
        ) from refused

    def _began_all_the_same(self, request: WriteRequest) -> bool:
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            if self._is_ours_writing(self.status()):
                return True
            time.sleep(PERIOD)
        return False

    # ---- until the end ------------------------------------------------------------------------------

    def watch(self, request: WriteRequest, given_up: threading.Event, timeout: float):
        """Yield each status of our running acquisition; return once it is FINISHED.

        Parameters
        ----------
        given_up : Event
            Ends it with `Discarded`; the writer is stopped by `leave_ready`.
        timeout : float
            s without a new image after which it has stalled.

        Raises
        ------
        WriterFailed, DaqGone, LostRecord, DoubleStart, Stalled, Discarded
        """
        n_before, last_growth = -1, time.monotonic()
        while True:
            if given_up.is_set():
                raise Discarded(f"{self._name}: {request.output_file} given up")
            try:
                status = self.status()
            except (ServiceUnreachable, ServiceTimeout) as exc:
                raise DaqGone(
                    f"{self._name}: the DAQ is gone while {request.output_file} was written: {exc}"
                ) from exc
            self._check_ours(request, status)
            a = status.acquisition
            yield status
            if a.state is AcquisitionState.FAILED:
                raise WriterFailed(
                    f"{self._name}: the DAQ failed: {a.message!r}, {a.n_completed} of {a.n_images} images in "
                    f"{request.output_file}"
                )
            if status.state is WriterState.READY:
                self._known_ready = True
                return
            if a.n_completed != n_before:
                n_before, last_growth = a.n_completed, time.monotonic()
            elif time.monotonic() - last_growth > timeout:
                self._stall(request, status, timeout)
            self.news.wait(PERIOD)
            self.news.clear()

    def _check_ours(self, request: WriteRequest, status: DaqStatus) -> None:
        if status.acquisition is not None and status.acquisition.is_answer_to(request):
            return
        if status.state is WriterState.WRITING:
            raise DoubleStart(
                f"{self._name}: somebody else started while {request.output_file} was written: "
                f"{found(status)}"
            )
        raise LostRecord(
            f"{self._name}: the DAQ lost the acquisition of {request.output_file} (run_id {request.run_id}); "
            f"it shows {found(status)}. The service or its writer was restarted; the file may be unreadable"
        )

    def _stall(self, request: WriteRequest, status: DaqStatus, timeout: float) -> None:
        a = status.acquisition
        who = "the detector sends no images"
        if a.n_requested > a.n_completed:
            who = "the writer does not acknowledge the images it was given"
        raise Stalled(
            self._name,
            asked=request.n_images,
            got=a.n_completed,
            detail=f"no image written to {request.output_file} for {timeout:g} s: {who}; last state {status}",
        )
