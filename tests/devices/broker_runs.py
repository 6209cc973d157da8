"""Runs of the broker device, and what they left behind."""

from __future__ import annotations

from bluesky.utils import FailedStatus

from .run_engine_driver import drive, interruptible, streams


def run(plan):
    return drive(interruptible(), lambda: plan)


def cause(result):
    """The exception behind a failed status."""
    error = result.error
    return error.__cause__ or error.args[0].exception() if isinstance(error, FailedStatus) else error


def streams_of(result):
    """Rows of each stream, and (path, dataset) of each row by key; validates every document."""
    found = {}
    for name, stream in streams(result).items():
        parts = {
            key: [(path, dataset) for path, dataset, *_ in where] for key, where in stream.arrays.items()
        }
        found[name] = (stream.rows, parts)
    return found
