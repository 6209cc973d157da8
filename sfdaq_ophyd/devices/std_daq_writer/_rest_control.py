"""The REST generations, D1 and D2: from READY to a closed file, and every known way in which that goes wrong.

Source: wire reference std-daq, sections 5 (transitions) and 10 (the flow). `stop` is sent only to an
acquisition of ours or to a writer in UNKNOWN: while READY it would change the log, and it would end other
people's work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...clients.std_daq import StdDaqClient
from ...clients.std_daq_rest import StdDaqRefused
from ...errors import Discarded, ServiceTimeout, ServiceUnreachable, SfdaqError
from ...limits import Limit
from ...wire.std_daq import Acquisition, AcquisitionState, DaqStatus, WriteRequest, WriterState
from ...wire.std_daq_config import DaqConfig
from ...wire.std_daq_writing import DataFile, Writing, WritingState, layout_of_one_file
from ._control import (
    DAQ_TEAM,
    PERIOD,
    RESCUE_LIMIT,
    DaqGone,
    DoubleStart,
    LostRecord,
    MissedStart,
    OtherGeneration,
    SlowCreation,
    Stalled,
    WriterDead,
    WriterFailed,
    WriterNotReady,
)
from ._rates import NO_IMAGES, PolledStats

logger = logging.getLogger(__name__)


def found(status: DaqStatus) -> str:
    """Say what a status shows, with the ids that tell whose it is."""
    a = status.acquisition
    whose = "" if a is None else f", run_id {a.run_id}, file {a.output_file}"
    return f"{status}{whose}"


SETTLE = 1.0
"""Seconds for which a failed start is watched: it may begin all the same."""

CANNOT_REACH = "Cannot reach WRITING"
CANNOT_START = "Cannot start new acquisition"

_STATES = {
    AcquisitionState.WAITING_IMAGES: WritingState.WAITING,
    AcquisitionState.ACQUIRING_IMAGES: WritingState.WRITING,
    AcquisitionState.WRITING: WritingState.WRITING,
    AcquisitionState.FLUSHING_IMAGES: WritingState.CLOSING,
    AcquisitionState.FAILED: WritingState.FAILED,
}


def writing_of(status: DaqStatus) -> Writing:
    """Return a status in our own words."""
    a = status.acquisition
    if a is None:
        return Writing(WritingState.IDLE, str(status), writer_state=str(status.state))
    interrupted = a.message.startswith("Interrupted")
    ended = WritingState.INTERRUPTED if interrupted else WritingState.FINISHED
    return Writing(
        state=_STATES.get(a.state, ended),
        words=str(status),
        run_id=a.run_id,
        text=a.message,
        writer_state=str(status.state),
        acquisition_state=str(a.state),
        n_images=a.n_images,
        n_requested=a.n_requested,
        n_completed=a.n_completed,
        start_time=a.start_time,
        stop_time=a.stop_time,
    )


class RestControl:
    """A DAQ with REST control, either dialect, as one device uses it: a `WriterControl`.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    writer : StdDaqClient
    on_status : callable
        Called with every status read, in our own words.

    Attributes
    ----------
    dead : bool
        Whether the writer did not answer when it was used last, which was told.
    news : Event
        Set by whoever knows that the status has changed.
    """

    takes_images_from = "a moment after WRITING on (0.1 s, more on a busy host)"

    def __init__(self, name: str, writer: StdDaqClient, on_status: Callable[[Writing], None]):
        self._name, self.writer, self._on_status = name, writer, on_status
        self._config: DaqConfig | None = None
        self._ours: WriteRequest | None = None
        self._known_ready = False
        self.dead = False
        self._rescue: threading.Thread | None = None
        self.news = threading.Event()

    def status(self) -> DaqStatus:
        """Read the status."""
        status = self.writer.status()
        self._on_status(writing_of(status))
        return status

    def config(self) -> DaqConfig | None:
        """Return what detector it writes; None if it is not configured."""
        try:
            self._config = self.writer.config()
        except StdDaqRefused as exc:
            if exc.code == 404 and self.writer.dialect == "websocket":
                raise OtherGeneration(f"{self._name}: {exc}") from exc
            raise
        return self._config

    def change_config(self, changes: Mapping[str, Any], timeout: float) -> DaqConfig:
        """Change the configuration; return it once it is deployed and the writer is READY again."""
        self.writer.set_config(dict(changes), timeout=timeout)
        config = self.config()
        assert config is not None  # it was set just now
        return config

    def stats(self) -> PolledStats:
        """Return the throughput of the last whole second, as the service is asked for it."""
        return PolledStats(self.writer.stats)

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return the one file, in the group named after the detector as `config` saw it last."""
        config = self._config or self.config()
        return [DataFile(request.output_file, layout_of_one_file(config.detector_name if config else ""))]

    def makes(self, output_file: str) -> list[str]:
        """Return the one file of an acquisition."""
        return [output_file]

    def close(self) -> None:
        """Close the session. Safe twice; the next call opens a new one."""
        self.writer.close()

    # ---- staging ------------------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Reset what may be reset once; refuse to touch somebody else's acquisition."""
        self.dead = False
        self._wait_for_rescue()
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
        """Stop what is ours, reset UNKNOWN; WriterNotReady if a person must restart it. Safe twice.

        A `dead` writer is left alone: it was told to stop already, and asking it takes seconds.
        """
        if self._ours is None or self.dead:
            return
        self._wait_for_rescue()
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
        self._on_status(writing_of(status))

    def _begin_rescue(self) -> None:
        """Stop a writer that does not answer, in a thread: the service waits for it for seconds."""

        def stop() -> None:
            try:
                self._reset()
            except SfdaqError as exc:
                logger.error("%s", exc)

        self._rescue = threading.Thread(target=stop, name=f"{self._name} stop", daemon=True)
        self._rescue.start()

    def _wait_for_rescue(self) -> None:
        rescue, self._rescue = self._rescue, None
        if rescue is not None:
            rescue.join(RESCUE_LIMIT)

    def _is_ours_writing(self, status: DaqStatus) -> bool:
        a = status.acquisition
        ours = a is not None and self._ours is not None and a.is_answer_to(self._ours)
        return status.state is WriterState.WRITING and ours

    # ---- starting -----------------------------------------------------------------------------------

    def start(self, request: WriteRequest) -> None:
        """Start; returns once the writer takes images of this request."""
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
        self._on_status(writing_of(status))
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
        limit = Limit(SETTLE)
        while not self._is_ours_writing(self.status()):
            if limit.reached():
                return False
            limit.wait(self.news, PERIOD)
            self.news.clear()
        return True

    # ---- until the end ------------------------------------------------------------------------------

    def watch(
        self,
        request: WriteRequest,
        given_up: threading.Event,
        timeout: float,
        why_silent: Callable[[Writing], str] = lambda writing: NO_IMAGES,
    ) -> Iterator[Writing]:
        """Yield how far our acquisition is, at each look; return once it is FINISHED."""
        n_before, limit = -1, Limit(timeout)
        while True:
            if given_up.is_set():
                raise Discarded(f"{self._name}: {request.output_file} given up")
            try:
                status = self.status()
            except (ServiceUnreachable, ServiceTimeout) as exc:
                raise DaqGone(
                    f"{self._name}: the DAQ is gone while {request.output_file} was written: {exc}"
                ) from exc
            a = self._check_ours(request, status)
            yield writing_of(status)
            if a.state is AcquisitionState.FAILED:
                raise WriterFailed(
                    f"{self._name}: the DAQ failed: {a.message!r}, {a.n_completed} of {a.n_images} images in "
                    f"{request.output_file}"
                )
            if status.state is WriterState.READY:
                self._known_ready = True
                return
            if a.n_completed != n_before:
                n_before = a.n_completed
                limit.restart()
            elif limit.reached():
                self._stall(request, status, a, timeout, why_silent)
            limit.wait(self.news, PERIOD)
            self.news.clear()

    def _check_ours(self, request: WriteRequest, status: DaqStatus) -> Acquisition:
        if status.acquisition is not None and status.acquisition.is_answer_to(request):
            return status.acquisition
        if status.state is WriterState.WRITING:
            raise DoubleStart(
                f"{self._name}: somebody else started while {request.output_file} was written: "
                f"{found(status)}"
            )
        raise LostRecord(
            f"{self._name}: the DAQ lost the acquisition of {request.output_file} (run_id {request.run_id}); "
            f"it shows {found(status)}. The service or its writer was restarted; the file may be unreadable"
        )

    def _stall(
        self,
        request: WriteRequest,
        status: DaqStatus,
        a: Acquisition,
        timeout: float,
        why_silent: Callable[[Writing], str],
    ) -> None:
        no_image = f"no image written to {request.output_file} for {timeout:g} s"
        came = f"{self._name}: {a.n_completed} of {request.n_images} frames came; {no_image}"
        if a.n_requested > a.n_completed:
            self.dead = True
            self._begin_rescue()
            raise WriterDead(
                f"{came}: the writer does not acknowledge the images it was given; last state {status}. "
                f"{DAQ_TEAM}"
            )
        why = why_silent(writing_of(status))
        try:
            self._reset()
        except WriterNotReady as exc:
            self.dead = True
            raise WriterDead(f"{came}; then {exc}") from exc
        raise Stalled(
            self._name,
            asked=request.n_images,
            got=a.n_completed,
            detail=f"{no_image}: {why}; last state {status}",
        )
