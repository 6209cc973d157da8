"""Files that a command could not do: the first ones on the screen, all of them with traceback in the log."""

from __future__ import annotations

import logging
import sys

from ..log import count_lines, in_lines, keep_log, room

KEPT = 5
"""Lines of the screen that are kept for a bar, what to do, and where the log is."""

MOST_ADVICE = 2
"""Lines of what to do: of different failures the first ones."""

logger = logging.getLogger(__name__)


class FailedFiles:
    """What failed so far.

    Attributes
    ----------
    n : int
        Number of files.
    """

    def __init__(self):
        self.n, self._advice, self._fits = 0, list[str](), True

    def add(self, text: str, advice: str = "", traceback: str = "") -> None:
        """Put a failure in the log, and on the screen while there is room.

        Parameters
        ----------
        text, advice : str
            The sentence, with the file; what a person does, said once for all files.
        traceback : str
            For the log.
        """
        self.n += 1
        logger.info("%s\n%s", text, traceback)
        if advice and advice not in self._advice:
            self._advice.append(advice)
        lines = in_lines(f"sfdaq: {text.removesuffix(advice).rstrip()}", 2)
        self._fits = self._fits and room() - KEPT >= len(lines)
        if self._fits:
            _say(*lines)

    def end(self, n_files: int) -> None:
        """Say what a person does, how many of the files failed, and where the log is; nothing if none did."""
        if self.n:
            _say(*(in_lines(f"What to do: {each}", 1, "  ")[0] for each in self._advice[:MOST_ADVICE]))
            _say(f"sfdaq: {self.n} of {n_files} files failed; all are in {keep_log()}")


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)
        count_lines(line)
