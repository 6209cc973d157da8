"""The place where control of the detector itself plugs in. The streams alone need none: the detector runs."""

from __future__ import annotations

from typing import Protocol


class HardwareControl(Protocol):
    """What a service that controls the detector does for a staged `Jungfrau`.

    Both calls are bounded in time and raise an `SfdaqError` if they fail.
    """

    def prepare(self) -> None:
        """Find the detector as it is, remember it, and have it send frames."""

    def restore(self) -> None:
        """Leave the detector as `prepare` found it. Safe twice, and without `prepare`."""
