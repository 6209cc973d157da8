"""The verbs of a writer that has detectors inside: theirs are joined to its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from ophyd import Component as Cpt

from .._fly_group import joined_page
from .._pulse_window import NextWindow, PulseWindow
from .._status import ActionStatus
from ._detector_group import DetectorGroup
from ._signals import WriterSignals


class WithDetectors(WriterSignals):
    """What staging, triggering and starting leave: those are the writer's."""

    next_window = Cpt(NextWindow, kind="omitted")
    _detectors: DetectorGroup

    def join_window(self, window: PulseWindow) -> PulseWindow | None:
        """Have detectors that count pulses take the frames of the next point out of a window.

        Parameters
        ----------
        window : PulseWindow
            Of all devices that are triggered together.

        Returns
        -------
        PulseWindow or None
            The one given; None if none of the detectors counts pulses.
        """
        if not self._detectors.join_window(window):
            return None
        window.hold(self.name)
        return window

    def read(self) -> OrderedDict:
        """Return ids, file, run id and counts of the point; then the detectors' readings."""
        return OrderedDict(**super().read(), **self._detectors.merged("read"))

    def describe(self) -> OrderedDict:
        """Describe what `read` returns, and the images."""
        return OrderedDict(**super().describe(), **self._detectors.merged("describe"))

    def read_configuration(self) -> OrderedDict:
        """Return the DAQ's configuration and the settings; then those of the detectors."""
        return OrderedDict(**super().read_configuration(), **self._detectors.merged("read_configuration"))

    def describe_configuration(self) -> OrderedDict:
        """Describe what `read_configuration` returns."""
        own = super().describe_configuration()
        return OrderedDict(**own, **self._detectors.merged("describe_configuration"))

    @property
    def hints(self) -> dict:
        """A few scalars for live plots."""
        fields = [f for detector in self._detectors.detectors for f in detector.hints.get("fields", ())]
        return {"fields": super().hints["fields"] + fields}

    def collect_asset_docs(self, index: int | None = None):
        """Yield the documents of the point's file, then those of the detectors."""
        yield from super().collect_asset_docs(index)
        if not self.flying:
            yield from self._detectors.documents()

    def pause(self) -> None:
        """Give up the point in flight, at the detectors too."""
        self._detectors.each("pause")
        super().pause()

    def resume(self) -> None:
        """Go on with a fly scan; the detectors follow once the writer is open again."""
        if not self.flying:
            self._detectors.each("resume")
        super().resume()

    def stop(self, *, success: bool = False) -> None:
        """Give up what is in flight, at the detectors too. Safe at any time, and twice."""
        self._detectors.each("stop")
        super().stop(success=success)

    # ---- fly scans ----------------------------------------------------------------------------------

    def prepare(self, value: Any) -> ActionStatus:
        """Say what the next fly scan will be, to the detectors too; see `Detector.prepare`."""
        prepared = super().prepare(value)
        self._detectors.prepare(self.n_points.get())
        return prepared

    def describe_collect(self) -> dict:
        """Return the data keys of a point, all external, and those of the detectors."""
        return {**super().describe_collect(), **self._detectors.merged("describe_collect")}

    def describe_flown(self) -> dict:
        """Return the data keys of a point, and those of the detectors."""
        return {**super().describe_flown(), **self._detectors.merged("describe_flown")}

    def get_index(self) -> int:
        """Return how many points the stream has, or may have now."""
        return self._detectors.index(super().get_index())

    @property
    def n_ready(self) -> int:
        """Points of a fly scan that this device and the detectors have, and that were not collected yet."""
        return self._detectors.n_ready(super().n_ready)

    def collect_flown(self, n_points: int, *, in_file: bool = False) -> Iterator[tuple[str, dict]]:
        """Yield the documents of the next `n_points` points, and those of the detectors."""
        yield from super().collect_flown(n_points, in_file=in_file)
        yield from self._detectors.collect_flown(n_points, in_file=in_file)

    def flown_pages(self) -> Iterator[dict]:
        """Yield one partial event page with the rows of all."""
        yield from joined_page([*super().flown_pages(), *self._detectors.pages()])
