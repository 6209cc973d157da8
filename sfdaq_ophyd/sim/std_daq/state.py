"""The status object of the service: what each event makes of it, in both dialects.

The service keeps one plain dictionary; its text stands in error messages and in Redis, so the order of the
keys matters.
"""

from __future__ import annotations

import copy
import time

UNKNOWN, READY, WRITING = "UNKNOWN", "READY", "WRITING"


class DaqState:
    """Status of writer and acquisition.

    Parameters
    ----------
    null_acquisition : bool
        Before the first acquisition it is null (D2), not an empty record (D1).
    """

    def __init__(self, *, null_acquisition: bool):
        self._null = null_acquisition
        self.status: dict = {}
        self.unknown()

    def unknown(self) -> None:
        """Forget the acquisition: the writer did not answer."""
        empty = {
            "state": "FINISHED",
            "message": "",
            "info": {"n_images": 0},
            "stats": {"n_write_completed": 0, "n_write_requested": 0, "start_time": None, "stop_time": None},
        }
        self.status = {"state": UNKNOWN, "acquisition": None if self._null else empty}

    def opened(self, info: dict) -> None:
        """Begin an acquisition: the writer has its file."""
        self.status = {
            "state": WRITING,
            "acquisition": {
                "state": "WAITING_IMAGES",
                "message": "",
                "stats": {
                    "n_write_completed": 0,
                    "n_write_requested": 0,
                    "start_time": time.time(),
                    "stop_time": None,
                },
                "info": info,
            },
        }

    def requested(self) -> None:
        """Count an image handed to the writer."""
        if self.acquisition is not None:
            self.acquisition["stats"]["n_write_requested"] += 1

    def acknowledged(self) -> int:
        """Count an image the writer has; return how many."""
        if self.acquisition is None or self.state != WRITING:
            return 0
        self.acquisition["state"] = "ACQUIRING_IMAGES"
        self.acquisition["stats"]["n_write_completed"] += 1
        return self.acquisition["stats"]["n_write_completed"]

    def failed(self, text: str) -> None:
        """Note a failed start: it turns the *previous* acquisition into FAILED, both times overwritten."""
        self.status["state"] = READY
        if self.acquisition is not None:
            now = time.time()
            self.acquisition.update(state="FAILED", message=text)
            self.acquisition["stats"].update(start_time=now, stop_time=now)

    def closed(self, message: str) -> bool:
        """End the acquisition, also one that had ended; return whether it belongs in the log."""
        self.status["state"] = READY
        if self.acquisition is None:
            return False
        self.acquisition.update(state="FINISHED", message=message)
        self.acquisition["stats"]["stop_time"] = time.time()
        return self.acquisition["stats"]["start_time"] is not None

    @property
    def state(self) -> str:
        """UNKNOWN, READY or WRITING."""
        return self.status["state"]

    @property
    def acquisition(self) -> dict | None:
        """The record itself."""
        return self.status["acquisition"]

    @property
    def error(self) -> str | None:
        """Text of the last error, as long as it stands there."""
        message = "" if self.acquisition is None else self.acquisition["message"]
        return message if message.startswith("ERROR") else None

    def snapshot(self) -> dict:
        """Copy the status."""
        return copy.deepcopy(self.status)
