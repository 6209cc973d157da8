"""The generations with REST, D1 and D2: from READY to a closed file, and every known way that goes wrong.

Source: wire reference std-daq, sections 4, 5 (transitions) and 10 (the flow). `stop` is sent only to an
acquisition of ours or to a writer in UNKNOWN: while READY it would change the log, and it would end other
people's work.
"""

from __future__ import annotations

import logging
import threading

from ...clients.std_daq import StdDaqClient
from ...clients.std_daq_service import StdDaqRefused
from ...errors import Discarded
from ...limits import Limit
from ...wire.std_daq import (
    DaqStatus,
    DataFile,
    FileLayout,
    WriteRequest,
    WriterState,
    Writing,
    writing_of,
)
from . import _control
from ._control import (
    PERIOD,
    RESCUE_LIMIT,
    DoubleStart,
    IsClosed,
    LostRecord,
    MissedStart,
    SlowCreation,
    WriterControl,
    WriterFailed,
)
from ._rates import PolledStats

logger = logging.getLogger(__name__)

SETTLE = 1.0
"""Seconds for which a failed start is watched: it may begin all the same."""

CANNOT_REACH, CANNOT_START = "Cannot reach WRITING", "Cannot start new acquisition"
NO_FOLDER, ERROR = "Output file folder", "ERROR"
"""How what the service says begins."""


class RestControl(WriterControl[StdDaqClient]):
    """A DAQ with REST control: "flask", D1 of spring 2023, or "fastapi", D2 of 2023 to 2024."""

    takes_images_from = "a moment after WRITING on (0.1 s, more on a busy host)"
    ready = "READY"
    _known_ready = False
    _had_acquisition = True

    def _status(self) -> DaqStatus:
        look = next(self._looks)
        status = self.writer.status()
        self._had_acquisition = status.acquisition is not None
        self._show(look, writing_of(status))
        return status

    def _show_reply(self, status: DaqStatus) -> None:
        """Show what a start or stop came to: the service looks at the end of it, not when it is asked."""
        self._show(next(self._looks), writing_of(status))

    def stats(self) -> PolledStats:
        """Return the throughput of the last whole second, as the service is asked for it."""
        return PolledStats(self.writer.stats)

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return the one file, in the group named after the detector as `config` saw it last."""
        return [DataFile(request.output_file, FileLayout(self._known_config().detector_name))]

    def makes(self, output_file: str) -> list[str]:
        """Return the one file of an acquisition."""
        return [output_file]

    def close(self) -> None:
        """Close the session, unless a start is under way. Safe twice; the next call opens a new one."""
        if self._aside_is_over.is_set():
            self._aside.leave()
            self.writer.close()

    # ---- staging ------------------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Reset what may be reset once; refuse to touch somebody else's acquisition."""
        self._wait_for_aside(RESCUE_LIMIT)
        self._reset()

    def _reset(self) -> None:
        self.dead = False
        status = self._status()
        ours = self._is_ours_writing(status)
        if status.state is WriterState.WRITING and not ours:
            raise self._occupied(_status_text(status))
        if ours or status.message.startswith(ERROR) or status.state is WriterState.UNKNOWN:
            self._stop()
        self._known_ready = True

    def leave_ready(self) -> None:
        """Stop what is ours, reset UNKNOWN; WriterNotReady if a person must restart it. Safe twice.

        A `dead` writer is left alone: it was told to stop already, and asking it takes seconds.
        """
        if self.dead:
            return
        self._wait_for_aside(_control.REACTION)
        if self._ours is not None:
            self._leave()

    def _leave(self) -> None:
        status = self._status()
        if self._is_ours_writing(status) or status.state is WriterState.UNKNOWN:
            self._stop()
        elif not _answers(status, self._ours):  # ours may still come up, also behind somebody else's
            return
        self._ours = None

    def _stop(self) -> None:
        try:
            status = self.writer.stop()
        except StdDaqRefused as exc:
            raise self._not_back(exc.said) from exc
        self._show_reply(status)

    def _is_ours_writing(self, status: DaqStatus) -> bool:
        return status.state is WriterState.WRITING and _answers(status, self._ours)

    # ---- starting -----------------------------------------------------------------------------------

    def start(self, request: WriteRequest, given_up: threading.Event, is_closed: IsClosed) -> None:
        """Start; returns once the writer takes images of this request, or the service gave up: 5 s."""
        problems: list[Exception] = []

        def start() -> None:
            try:
                if not self._known_ready:
                    self._reset()
                if not given_up.is_set():
                    self._start(request)
            except Exception as exc:
                problems.append(exc)
            if given_up.is_set():
                self._quietly(self._leave)

        over = self._aside_is_over = self._aside.do(start)
        while not over.wait(PERIOD):
            if given_up.is_set():
                raise Discarded(f"{self._name}: {request.output_file} given up")
        if problems:
            raise problems[0]

    def _start(self, request: WriteRequest) -> None:
        self._ours, self._known_ready = request, False
        try:
            status = self.writer.start(request)
        except StdDaqRefused as refused:
            if not self._explain(request, refused):
                raise WriterFailed(
                    f"{self._name}: the DAQ could not start {request.output_file}: {refused.said!r}"
                    f"{self._hint(refused.said)}"
                ) from refused
            status = self.writer.start(request)
        self._show_reply(status)
        if not _answers(status, request):
            if self._began_all_the_same(request):
                self._stop()
            started = f"{request.output_file} (run_id {request.run_id})"
            raise self._double_start(started, f"the reply shows {_status_text(status)}")

    def _explain(self, request: WriteRequest, refused: StdDaqRefused) -> bool:
        """Find out what a refused start left behind; return whether to start once more."""
        if refused.said.startswith(CANNOT_START):
            self._reset()
            return True
        running = self._began_all_the_same(request)
        if refused.said.startswith(ERROR):
            if running:
                logger.warning("%s: ghost start: %s; stopped, starting again", self._name, refused.said)
            status = self._status()
            if status.state is WriterState.WRITING and not _answers(status, request):
                return False
            self._stop()  # ends a start that still creates its file, too, and what is said of an earlier one
            return running
        if not refused.said.startswith(CANNOT_REACH):
            return False
        self._stop()
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
            f"{request.output_file} for {request.n_images} images, or ended before the service looked"
            f"{self._hint(refused.said)}",
        ) from refused

    def _hint(self, said: str) -> str:
        """Return what a refusal of this generation can mean beside what it says; empty where nothing."""
        if said.startswith(ERROR):
            return (
                "; it may say so of an earlier start, while this one takes long to create its file: it is "
                "stopped then"
            )
        if said.startswith(NO_FOLDER):  # as whom the service looks, and since when
            if self.dialect == "flask":
                return (
                    "; if it is there, the account that the service writes as may not enter it: it is the "
                    "one that was configured when the service started"
                )
            user = 0 if self._config is None else self._config.writer_user_id
            who = f"the account {user}" if user > 0 else "the account of the service"
            return f"; if it is there, {who}, which writes the files, may not enter it"
        if self.dialect == "fastapi" and said.startswith(CANNOT_REACH) and not self._had_acquisition:
            return "; before its first acquisition it does not say that it cannot create the file, either"
        return ""

    def _began_all_the_same(self, request: WriteRequest) -> bool:
        limit = Limit(SETTLE)
        while not self._is_ours_writing(self._status()):
            if limit.reached():
                return False
            self._wait(limit)
        return True

    # ---- until the end ------------------------------------------------------------------------------

    def _look_at(self, request: WriteRequest) -> Writing:
        status = self._status()
        if _answers(status, request):
            return writing_of(status)
        if status.state is WriterState.WRITING:
            raise DoubleStart(
                f"{self._name}: somebody else started while {request.output_file} was written: "
                f"{_status_text(status)}"
            )
        raise LostRecord(
            f"{self._name}: the DAQ lost the acquisition of {request.output_file} (run_id {request.run_id}); "
            f"it shows {_status_text(status)}. The service or its writer was restarted; the file may be "
            "unreadable"
        )

    def _note_end(self, writing: Writing) -> bool:
        self._known_ready = writing.writer_state == WriterState.READY
        return self._known_ready


def _answers(status: DaqStatus, request: WriteRequest | None) -> bool:
    a = status.acquisition
    return a is not None and request is not None and a.is_answer_to(request)


def _status_text(status: DaqStatus) -> str:
    """Say what a status shows, with the ids that tell whose it is."""
    a = status.acquisition
    whose = "" if a is None else f", run_id {a.run_id}, file {a.output_file}"
    return f"{status}{whose}"
