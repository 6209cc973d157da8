"""Misbehaviour by name."""

from __future__ import annotations

FAULTS = {
    "drop": "the next frame never reaches the monitor",
    "delay": "the next matching request is answered after `seconds` (default 1); `path` selects by substring",
    "hang": "the next matching request is never answered; `path` selects by substring",
    "error": "the next matching request is answered with `code` (default 500) and `text`; `path` selects",
    "cut": "the connection of the next matching request is closed without a reply; `path` selects",
    "cut_body": "the connection is closed in the middle of the next image",
    "truncate": "the next image is a whole reply, its TIFF cut to `keep` (default half) of its bytes",
    "content_type": "the next image is answered with `content_type` (default text/html) and an HTML body",
    "body": "the next image is a whole reply of the bytes `body`",
    "no_image": "the next request for an image is answered 408",
    "wrong_series": "the next frame carries another series number",
    "same_time": "every frame of the next series carries the time of the series",
    "no_private_ifd": "the next frame has no private IFD",
    "out_of_order": "the next frame reaches the monitor only after `after` (default 1) that follow it",
    "late_last": "the last frame of the next trigger comes out only after disarm",
    "detector_error": "the detector goes to state `error` at the next trigger",
    "lost_in_file": "the next image never reaches the filewriter",
    "cut_file": "the connection is closed in the next file, after `after` (default half) of its bytes",
    "short_file": "the next file is a whole reply, cut to `keep` (default half) of its bytes",
    "no_range": "the next request for a part of a file is answered with the whole file",
    "restart": "the service restarts before it answers the next matching request; `path` selects",
}
"""What `fail_next` takes: name and meaning. Each takes ``count`` (default 1): how often."""
