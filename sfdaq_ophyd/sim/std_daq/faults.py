"""Everything that can be made to go wrong, by name."""

from __future__ import annotations

FAULTS = {
    "slow_creation": "the next file takes `seconds` to be created",
    "creation_error": "the next file cannot be created: the writer says `text`",
    "late_subscription": "the driver subscribes `seconds` too late, and the first images are lost",
    "missed_writing": "the service looks away for `seconds` after a start, and does not see that it ran",
    "hidden_folder": "`folder`, or any, is not there for the service",
    "hang": "the next request to `path` is answered after `seconds`",
    "lost_reply": "the next request to `path` is carried out, its connection closed without a reply",
    "bad_frames": "the first `n` images of an acquisition have `status` (default 1)",
    "ring_overrun": "the detector sends at `rate` in place of the writer's: an acquisition takes `seconds`",
    "gap": "`n` images after the first are lost",
    "stall": "no more images after `after`, for `seconds` or to the end of the acquisition",
    "fewer_images": "an acquisition gets `n` images",
    "server_error": "a server reports `text` at the next deployment",
    "dies_writing": "the writer dies once `after` images are written",
    "stopped_by_other": "somebody else stops the writer once `after` images are written",
    "restarted_by_other": "somebody else starts another acquisition once `after` images are written",
    "writer_dies": "at once: the writer dies, and is back after `seconds`, or not",
    "redis_away": "at once: Redis is away for `seconds`; with `empty` it has forgotten all",
    "redis_empty": "at once: Redis has forgotten all",
    "rest_restarts": "at once: the service restarts, its writer does not",
    "ghost_start": "the next start fails, and the file of the one after it takes `seconds`",
}
"""Name and meaning of every fault."""

AT_ONCE = ("writer_dies", "redis_away", "redis_empty", "rest_restarts", "ghost_start")
"""Faults that happen when they are asked for."""
