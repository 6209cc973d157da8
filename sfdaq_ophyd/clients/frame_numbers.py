"""Which frames of an image stream were lost, by the numbers of those that came."""

from __future__ import annotations

from ._intake import StreamFrame

_NONE = range(0)


class FrameNumbers:
    """Follow the frame numbers of a stream, which grow by `step`, 1 or more, from frame to frame.

    A frame without a number counts as one step: sf-daq sends 0, and no pulse, where no module was complete.
    """

    def __init__(self, step: int):
        self._step = step
        self._acquisition = 0
        self._last: int | None = None

    def lost_before(self, frame: StreamFrame) -> range:
        """Return the numbers between the frame before and this one; none where the numbering starts anew.

        Parameters
        ----------
        frame : StreamFrame
            The next one that came; ask once for each, in their order.

        Returns
        -------
        range
            The numbers of the frames that were lost; empty where there are none.
        """
        if frame.acquisition != self._acquisition:
            self._acquisition, self._last = frame.acquisition, None
        last = self._last
        if frame.frame_number == 0 and frame.pulse_id is None and not frame.is_good:
            self._last = None if last is None else last + self._step
            return _NONE
        self._last = frame.frame_number
        return _NONE if last is None else range(last + self._step, frame.frame_number, self._step)
