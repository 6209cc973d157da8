"""The websocket generation, D3: from idle to closed files, out of statuses that name no acquisition.

Source: wire reference std-daq, section 12. What is ours is known by having followed it from its start. A
start is never repeated, for it may be carried out late; `stop` is sent to an acquisition of ours only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ...clients.std_daq_socket import StdDaqWriterSocket
from ...errors import (
    DetectorStateError,
    Discarded,
    ServiceTimeout,
    ServiceUnreachable,
    UnknownOutcome,
    WireError,
)
from ...limits import Limit
from ...wire.std_daq import WriteRequest
from ...wire.std_daq_config import DaqConfig
from ...wire.std_daq_socket import BLOCK_SIZE, PushedStatus, Tracker, number_of_writers, start_command
from ...wire.std_daq_writing import DataFile, Writing, WritingState, layout_of_several_files
from ._control import (
    DAQ_TEAM,
    PERIOD,
    DaqGone,
    DoubleStart,
    Stalled,
    WriterDead,
    WriterFailed,
    WriterNotReady,
)
from ._rates import NO_IMAGES

logger = logging.getLogger(__name__)

BEGIN_LIMIT = 5.0
"""s until the driver shows that it has begun."""

CREATION_LIMIT = 15.0
"""s for the creation of files: the driver gives up on a missing folder after 5, on a dead writer never."""


class SocketControl:
    """A DAQ with control by websocket, as one device uses it: a `WriterControl`.

    Parameters
    ----------
    name : str
        Of the device, for messages.
    writer : StdDaqWriterSocket
    on_status : callable
        Called with what each look shows.
    """

    takes_images_from = "a moment after waiting_for_first_image on"

    def __init__(self, name: str, writer: StdDaqWriterSocket, on_status: Callable[[Writing], None]):
        self._name, self.writer, self._on_status = name, writer, on_status
        self.news, self.dead = writer.news, False
        self._config: DaqConfig | None = None
        self._lock = threading.Lock()
        self._ours: WriteRequest | None = None
        self._tracker, self._seen, self._followed = Tracker(0), 0, False

    # ---- the DAQ ------------------------------------------------------------------------------------

    def config(self) -> DaqConfig:
        """Return what detector it writes.

        Raises
        ------
        DetectorStateError
            Its images cannot be written.
        """
        config = self._config = self.writer.config()
        number_of_writers(config.raw)
        size = config.image_pixel_height * config.image_pixel_width * config.bit_depth // 8
        largest = config.raw.get("gpfs_block_size") or BLOCK_SIZE
        if isinstance(largest, int) and size > largest:
            raise DetectorStateError(
                f"{self._name}: an image of {size} bytes cannot be written: the DAQ takes {largest} at most"
            )
        return config

    def change_config(self, changes: Mapping[str, Any], timeout: float) -> DaqConfig:
        """Change the configuration; return it once the driver is idle again."""
        self.writer.set_config(dict(changes), timeout=timeout)
        return self.config()

    def stats(self) -> None:
        """Return None: this generation tells no throughput."""
        return

    def files(self, request: WriteRequest) -> list[DataFile]:
        """Return one file per writer: image i is in file ``i % N``."""
        config = self._config or self.config()
        n, layout = number_of_writers(config.raw), layout_of_several_files(config.detector_name)
        begin = _prefix(request.output_file)
        return [DataFile(f"{begin}{k}.h5", layout, k, n) for k in range(n)]

    def makes(self, output_file: str) -> list[str]:
        """Return the files of the writers, that of the metadata, and the name itself."""
        n = number_of_writers((self._config or self.config()).raw)
        return [output_file, *(f"{_prefix(output_file)}{k}.h5" for k in (*range(n), "Meta"))]

    def close(self) -> None:
        """Close the connection, unless an acquisition of ours may still begin, and must be known then."""
        if self._ours is None:
            self.writer.close()

    # ---- staging ------------------------------------------------------------------------------------

    def make_ready(self) -> None:
        """Stop what is left of ours; refuse to touch somebody else's acquisition."""
        self.dead = False
        status = self._status()
        if status.is_idle:
            self._ours = None
        elif self._is_ours_running() and self._followed:
            self._stop()
            self._ours = None
        else:
            raise WriterNotReady(
                f"{self._name}: somebody else is writing: {status}. Wait for its end, or stop it"
            )

    def leave_ready(self) -> None:
        """Stop what is ours. A `dead` writer is left alone: what it was sent may still be carried out."""
        if self._ours is None or self.dead:
            return
        if self._is_ours_running():
            self._stop()
        self._ours = None

    def _stop(self) -> None:
        try:
            self.writer.stop()
        except ServiceTimeout as exc:
            raise WriterNotReady(
                f"{self._name}: the writer did not become idle: {exc.last_seen!r}. {DAQ_TEAM}"
            ) from exc
        self._look()

    def _is_ours_running(self) -> bool:
        self._look()
        return self._ours is not None and not self._tracker.ended

    # ---- starting -----------------------------------------------------------------------------------

    def start(self, request: WriteRequest) -> None:
        """Start; returns once the writer takes images of this request."""
        path = PurePosixPath(request.output_file)
        user_id = (self._config or self.config()).writer_user_id
        prefix = _prefix(path.name)
        command = start_command(str(path.parent), prefix, request.n_images, user_id if user_id > 0 else None)
        if not self.writer.settled_status().is_idle:
            self.make_ready()
        try:
            with self._lock:
                self._tracker = Tracker(request.n_images)
                self._ours, self._followed = request, True
                self._seen = self.writer.send(command)
            self._follow_start(request)
        except (ServiceUnreachable, UnknownOutcome) as exc:
            raise DaqGone(
                f"{self._name}: the DAQ is gone while {request.output_file} was started: {exc}"
            ) from exc

    def _follow_start(self, request: WriteRequest) -> None:
        begin, limit, tracker = Limit(BEGIN_LIMIT), Limit(CREATION_LIMIT), self._tracker
        while True:
            self._look()
            if tracker.rejected:
                self._ours = None
                raise WriterNotReady(
                    f"{self._name}: somebody else is writing: the DAQ said {tracker.text!r}. Wait for its "
                    "end, or stop it"
                )
            if tracker.state is WritingState.FAILED:
                self._ours = None
                raise WriterFailed(
                    f"{self._name}: the DAQ could not start {request.output_file}: {tracker.text!r}; is the "
                    "folder there, and may the DAQ write to it?"
                )
            if tracker.state not in (WritingState.IDLE, WritingState.STARTING):
                return
            if tracker.state is WritingState.IDLE and begin.reached():
                self._ours = None
                raise WriterFailed(
                    f"{self._name}: the DAQ did not begin {request.output_file} within {begin.seconds:g} s: "
                    f"it shows {self._status()}. It is not asked again: all may be over already"
                )
            if limit.reached():
                self.dead = True
                raise WriterDead(
                    f"{self._name}: the DAQ creates {request.output_file} for {limit.seconds:g} s now: one "
                    f"of its writers does not answer, and will write it when it is back. {DAQ_TEAM}"
                )
            limit.wait(self.news, PERIOD)
            self.news.clear()

    # ---- until the end ------------------------------------------------------------------------------

    def watch(
        self,
        request: WriteRequest,
        given_up: threading.Event,
        timeout: float,
        why_silent: Callable[[Writing], str] = lambda writing: NO_IMAGES,
    ) -> Iterator[Writing]:
        """Yield how far our acquisition is, at each look; return once the driver has ended it."""
        before, limit, tracker = None, Limit(timeout), self._tracker
        while True:
            if given_up.is_set():
                raise Discarded(f"{self._name}: {request.output_file} given up")
            try:
                writing = self._look()
            except (ServiceUnreachable, ServiceTimeout, WireError) as exc:
                raise DaqGone(
                    f"{self._name}: the DAQ is gone while {request.output_file} was written: {exc}"
                ) from exc
            yield writing
            if tracker.rejected:
                self._ours = None
                raise DoubleStart(
                    f"{self._name}: started {request.output_file}, but the DAQ said {tracker.text!r}: "
                    "somebody else started at the same moment"
                )
            if tracker.state is WritingState.FAILED:
                raise WriterFailed(
                    f"{self._name}: the DAQ failed: {tracker.text!r}, {tracker.count} of {request.n_images} "
                    f"images in {request.output_file}"
                )
            if tracker.ended:
                self._ours = None
                return
            if (now := (tracker.state, tracker.count)) != before:
                before = now
                limit.restart()
            elif limit.reached():
                self._stall(request, writing, timeout, why_silent)
            limit.wait(self.news, PERIOD)
            self.news.clear()

    def _stall(
        self, request: WriteRequest, writing: Writing, timeout: float, why_silent: Callable[[Writing], str]
    ) -> None:
        no_image = f"no image written to {request.output_file} for {timeout:g} s"
        why = why_silent(writing)
        try:
            self._stop()
        except WriterNotReady as exc:
            self.dead = True
            came = f"{self._name}: {writing.n_completed} of {request.n_images} frames came; {no_image}"
            raise WriterDead(f"{came}; then {exc}") from exc
        raise Stalled(
            self._name,
            asked=request.n_images,
            got=writing.n_completed,
            detail=f"{no_image}: {why}; last state {writing}",
        )

    def _status(self) -> PushedStatus:
        self._look()
        return self.writer.status()

    def _look(self) -> Writing:
        """Take in what was pushed since the last look; return how far our acquisition is."""
        with self._lock:
            before = self.writer.is_connected
            pushes = self.writer.connect()
            if not before:
                self._seen, self._followed = 0, False
                if self._ours is not None and not self._tracker.ended:
                    logger.warning(
                        "%s: connected to the DAQ again, %s goes on", self._name, self._ours.output_file
                    )
            statuses, self._seen = pushes.since(self._seen)
            for status in statuses:
                self._tracker.see(status)
            newest = pushes.since(0)[0][-1]
            writing = self._writing(newest)
        self._on_status(writing)
        return writing

    def _writing(self, newest: PushedStatus) -> Writing:
        tracker, ours = self._tracker, self._ours
        n_images = tracker.n_images
        return Writing(
            state=tracker.state if ours is not None else WritingState.IDLE,
            words=f"{newest.state}, {tracker.count} of {n_images} images"
            if ours is not None
            else str(newest),
            run_id=None if ours is None else ours.run_id,
            text=tracker.text,
            writer_state=str(newest.state),
            acquisition_state=tracker.text,
            n_images=n_images,
            n_requested=tracker.count,
            n_completed=tracker.count,
            is_exact=tracker.is_exact,
        )


def _prefix(output_file: str) -> str:
    """Return how the names of the files begin: the name asked for, without its extension."""
    stem = output_file[: -len(ending)] if (ending := PurePosixPath(output_file).suffix) else output_file
    return f"{stem}_"
