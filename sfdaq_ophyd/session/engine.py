"""What our devices need of a RunEngine."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bluesky import RunEngine

logger = logging.getLogger(__name__)

_subscribed: weakref.WeakKeyDictionary[RunEngine, list[Callable]] = weakref.WeakKeyDictionary()


def setup(run_engine: RunEngine, catalog: Callable | None = None) -> list[str]:
    """Make a RunEngine ready for our devices; harmless when it is ready already.

    Two preprocessors come in front of every plan: :func:`sfdaq_ophyd.plans.save_once`, without which bluesky
    saves a point twice when a pause falls right behind its 'save'; and
    :func:`sfdaq_ophyd.plans.run_number_wrapper`, by which the runs of a `SfDaqBroker` have their run number
    and their files.

    Parameters
    ----------
    run_engine : RunEngine
    catalog : Catalog or another callback, optional
        Gets every document.

    Returns
    -------
    list of str
        A line for each thing that this call has installed; they are logged as well.

    Examples
    --------
    >>> from bluesky import RunEngine
    >>> from sfdaq_ophyd import setup
    >>> RE = RunEngine()
    >>> for line in setup(RE):
    ...     print(line)
    preprocessor save_once: a pause right behind a 'save' saves no point twice
    preprocessor run_number_wrapper: runs of the sf-daq broker get their number and their files
    >>> setup(RE)
    []
    """
    from ..plans import run_number_wrapper, save_once

    installed = []
    for preprocessor, what in (
        (save_once, "a pause right behind a 'save' saves no point twice"),
        (run_number_wrapper, "runs of the sf-daq broker get their number and their files"),
    ):
        if preprocessor not in run_engine.preprocessors:
            run_engine.preprocessors.append(preprocessor)
            installed.append(f"preprocessor {preprocessor.__name__}: {what}")
    known = _subscribed.setdefault(run_engine, [])
    if catalog is not None and catalog not in known:
        if hasattr(catalog, "subscribe"):
            catalog.subscribe(run_engine)
        else:
            run_engine.subscribe(catalog)
        known.append(catalog)
        installed.append(f"documents go to {catalog!r}")
    for line in installed:
        logger.info("%s", line)
    return installed
