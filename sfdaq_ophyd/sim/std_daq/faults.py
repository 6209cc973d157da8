"""Everything that can be made to go wrong, by name."""

from __future__ import annotations

from collections.abc import Mapping

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
    "dies_writing": "the writer (of several number `writer`) dies once `after` images are written",
    "stopped_by_other": "somebody else stops the writer once `after` images are written",
    "restarted_by_other": "somebody else starts another acquisition once `after` images are written",
    "writer_dies": "at once: the writer (of several number `writer`) dies; back after `seconds`, or not",
    "redis_away": "at once: Redis is away for `seconds`; with `empty` it has forgotten all",
    "redis_empty": "at once: Redis has forgotten all",
    "rest_restarts": "at once: the service restarts, its writer does not",
    "ghost_start": "the next start fails, and the file of the one after it takes `seconds`",
    "slow_saving": "the files of the next acquisition take `seconds` to be closed",
    "missed_state": "the next `state` is over before a session looks; an end was told to another session",
    "lost_stop": "the next stop before the first image is forgotten when that comes",
    "driver_dies_writing": "the driver dies once `after` images are written; back after `seconds`, or not",
    "driver_dies": "at once: the driver dies, and is back after `seconds`, or not",
    "config_missing": "the next request for the configuration, or to change it, finds no file",
    "secondary_down": "the next change of the configuration misses the second server: a 500, but done",
}
"""Name and meaning of every fault."""

AT_ONCE = ("writer_dies", "redis_away", "redis_empty", "rest_restarts", "ghost_start", "driver_dies")
"""Faults that happen when they are asked for."""

REST_ONLY = (
    *("late_subscription", "missed_writing", "hidden_folder", "ring_overrun", "server_error"),
    *("redis_away", "redis_empty", "rest_restarts", "ghost_start"),
)
"""Faults of what the websocket generation does not have, or does not do."""

WEBSOCKET_ONLY = (
    *("slow_saving", "missed_state", "lost_stop", "driver_dies_writing", "driver_dies"),
    *("config_missing", "secondary_down"),
)


def faults_of(dialect: str) -> Mapping[str, str]:
    """Return the faults that a dialect can have."""
    others = REST_ONLY if dialect == "websocket" else WEBSOCKET_ONLY
    return {name: meaning for name, meaning in FAULTS.items() if name not in others}
