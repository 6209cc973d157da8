"""Measure functions beside each other: interleaved, so that all meet the same load of the machine.

A baseline that is measured before or after, with other work beside, says nothing. Here one round calls each
function once, in an order that turns by one from round to round; a ratio is the median of the ratios of the
rounds, and its spread, the middle half of them, is shown::

    ours, bare = interleave([timed(append), timed(write_chunk)], rounds=20)
    result("append a frame", Ratio(ours, bare), most=1.2, baseline="h5py's write_direct_chunk")

Baselines get as many threads as ours, and as much to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Make a function that calls `function` and returns how long it took, s."""

    def call() -> float:
        begun = time.perf_counter()
        function()
        return time.perf_counter() - begun

    return call


def interleave(functions: Sequence[Callable[[], float]], rounds: int, warm_up: int = 1) -> np.ndarray:
    """Call each function once per round and collect the figures they return (s, or things per s).

    Parameters
    ----------
    functions : sequence of callable
        Without arguments; each returns its figure. See `timed`.
    rounds : int
        Rounds that count.
    warm_up : int
        Rounds before them that do not.

    Returns
    -------
    numpy.ndarray
        Shape ``(len(functions), rounds)``: ``figures[i, k]`` is what function i returned in round k.
    """
    figures = np.empty((len(functions), warm_up + rounds))
    for k in range(warm_up + rounds):
        for i in np.roll(np.arange(len(functions)), -k):
            figures[i, k] = functions[i]()
    return figures[:, warm_up:]


NEAR = 1.1
"""How far from its limit a figure is still at it; one that is better by more shows that the limit is none."""


class Ratio:
    """Median and spread of the ratios of two series of figures that were measured pair by pair.

    Attributes
    ----------
    value : float
        Median of ``ours / theirs``.
    low, high : float
        Quartiles: half of the ratios lie between.
    n : int
        Number of pairs.
    """

    def __init__(self, ours, theirs):
        ratios = np.asarray(ours, dtype=float) / np.asarray(theirs, dtype=float)
        self.low, self.value, self.high = np.percentile(ratios, (25, 50, 75)).tolist()
        self.n = ratios.size

    def __str__(self) -> str:
        return f"{self.value:.3g} (half of {self.n} pairs between {self.low:.3g} and {self.high:.3g})"


def result(
    name: str,
    ratio: Ratio,
    *,
    baseline: str,
    most: float | None = None,
    least: float | None = None,
    limit: Ratio | None = None,
    note: str = "",
) -> dict:
    """Return the row of a benchmark: the ratio against a bar, more or less than which it should not be.

    Parameters
    ----------
    name, baseline, note : str
        For the table; the spread is put in front of the note.
    ratio : Ratio
        What was measured.
    most, least : float
        The bar; give one of the two.
    limit : Ratio, optional
        What the machine allows, to the same baseline and measured in the same rounds: a ratio that misses
        the bar, and is within `NEAR` of its limit, is at its limit.
    """
    if (most is None) == (least is None):
        raise TypeError("a bar is either `most` or `least`")
    met = ratio.value <= most if least is None else ratio.value >= least
    if not met and limit is not None:
        met = "at its limit" if 1 / NEAR <= ratio.value / limit.value <= NEAR else False
    spread = "one figure"
    if ratio.n > 1:
        spread = f"{ratio.low:.3g} to {ratio.high:.3g} (half of {ratio.n} pairs)"
    return {
        "name": name,
        "ratio": round(ratio.value, 3),
        "bar": f"<= {most:g}" if least is None else f">= {least:g}",
        "limit": None if limit is None else round(limit.value, 3),
        "met": met,
        "baseline": baseline,
        "note": f"{spread}; {note}" if note else spread,
    }
