"""Subtests whose outcome is looked at: for tests of the replays."""

from __future__ import annotations

import contextlib


class Collected:
    """What a subtest would report."""

    def __init__(self):
        self.played, self.failed = [], []

    @contextlib.contextmanager
    def test(self, name):
        self.played.append(name)
        try:
            yield
        except Exception as exc:
            self.failed.append((name, str(exc)))
