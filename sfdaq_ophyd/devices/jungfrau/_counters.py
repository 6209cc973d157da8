"""The stream's counters as signals."""

from __future__ import annotations

from ophyd import Component as Cpt
from ophyd import SignalRO


class CounterSignal(SignalRO):
    """One of the stream's counters, as it is when it is read."""

    def __init__(self, *args, counter: str, **kwargs):
        super().__init__(*args, value=0, **kwargs)
        self._counter = counter

    def get(self, **kwargs) -> int:
        """Return the count since the device was staged."""
        return self.parent.source.stream.counters[self._counter]

    def describe(self) -> dict:
        """Describe the count."""
        (key,) = super().describe().values()
        return {self.name: {**key, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}}


def counter(name: str, doc: str) -> Cpt:
    """Declare the signal of a counter."""
    return Cpt(CounterSignal, counter=name, kind="normal", doc=doc)
