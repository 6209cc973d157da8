"""A session from ``sfdaq.yaml``: what the startup files call."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, require
from ..log import keep_log
from .metadata import FileStore, PersistentMetadata, RedisStore, next_scan_id
from .publish import Lazy, lazy_catalog, lazy_publishers
from .simulated import load_and_simulate

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.preprocessors import SupplementalData

    from .devices import Entry

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


PROFILE = Path(__file__).parent / "profile_collection"
"""Startup files, ``sim.yaml`` and ``facility.example.yaml``; ``sfdaq init`` copies them."""

_BEC = (
    *("disable_baseline", "disable_heading", "disable_plots", "disable_table", "enable_baseline"),
    *("enable_heading", "enable_plots", "enable_table", "noplot_streams", "overplot", "peaks"),
)
_FACILITY = ("addresses", "broker", "clock", "directory", "eiger", "jungfrau", "pvs", "std_daq")


def config_path(folder: Path, given: str | None = None) -> Path:
    """Return the file to use.

    Parameters
    ----------
    folder : Path
        The profile; holds ``sfdaq.yaml`` where a beamline has its own.
    given : str, optional
        ``"sim"`` or a path. Default: the environment variable ``SFDAQ_CONFIG``, then ``sfdaq.yaml`` of the
        profile if it is there, then the simulated facility.
    """
    given = given or os.environ.get("SFDAQ_CONFIG", "")
    if given == "sim" or not given and not (folder / "sfdaq.yaml").exists():
        own = folder / "sim.yaml"
        return own if own.exists() else PROFILE / "sim.yaml"
    return Path(given) if given else folder / "sfdaq.yaml"


class Session:
    """Everything the startup files hand out. Making it contacts nothing but the store of the metadata.

    Where the file has a ``sim`` block, the simulators start in the background meanwhile.

    Parameters
    ----------
    path : str or Path
        The configuration file.

    Attributes
    ----------
    config : SfdaqConfig
    sim : SimulatedFacility or None
    facility : Lazy or None
        The running `Facility`, for ``facility.pvs.fail_next(...)``.
    RE : RunEngine
    sd : SupplementalData
        ``sd.baseline``; a device that could not be made is left out.
    catalog, bec : Lazy
    publishers : list of Lazy
        Catalog, BestEffortCallback and those of ``publish``; opened when the first plan runs, or at first use
    entries : list of Entry
        Every device of the file, those that could not be made included.
    suspenders : dict
        By name; installed.
    facts : dict
        The start document of the newest run, for file names: scan_id, pgroup and all else; and what the
        sf-daq broker says of the run, as ``run_number``.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        self.config, self.sim = load_and_simulate(self.path)
        self.entries: list[Entry] = []
        self.suspenders: dict[str, Any] = {}
        self.catalog = lazy_catalog(self.config)
        self.publishers = lazy_publishers(self.config)
        self.facility = None if self.sim is None else Lazy(self.sim.wait, "simulated facility", _FACILITY)
        self.bec = Lazy(_best_effort, "BestEffortCallback", _BEC)
        self.facts: dict[str, Any] = {}
        self.RE, self.sd = self._run_engine()

    @property
    def devices(self) -> dict[str, Any]:
        """The devices there are, by name; they are made at the first call."""
        from .devices import StdDaqWriter, make_devices

        if not self.entries:
            if self.sim is not None:
                self.sim.wait_for_pvs()
            self.entries = make_devices(self.config)
            made = {entry.name: entry.device for entry in self.entries}
            for device in made.values():
                if isinstance(device, StdDaqWriter):
                    device.fields = self.facts
            self.sd.baseline = [made[name] for name in self.config.baseline if made[name] is not None]
        return {entry.name: entry.device for entry in self.entries if entry.device is not None}

    def install_suspenders(self, plans: dict[str, Any]) -> dict[str, Any]:
        """Install the suspenders of the file; return, wrapped, those of `plans` that some do not hold.

        Parameters
        ----------
        plans : dict of str to callable
            All plans that the user has, by name.

        Returns
        -------
        dict of str to callable
            To be put in the place of those of the same name; signatures and docstrings are kept.

        Raises
        ------
        ConfigError
            A suspender names a device that is no signal or could not be made, or a plan that is not in
            `plans`.
        """
        from .suspenders import except_plans, make_suspenders

        self.suspenders = make_suspenders(self.config.suspenders, self.devices)
        for suspender in self.suspenders.values():
            self.RE.install_suspender(suspender)
        return except_plans(plans, self.config.suspenders, self.suspenders)

    def ready(self) -> None:
        """Wait until everything a plan needs is there: simulators, catalog, tables and plots.

        Every plan waits here before its first message, so that a catalog that cannot be opened costs no run.
        """
        if self.sim is not None:
            self.sim.wait()
        for each in (self.catalog, *self.publishers):
            each.wake()
        self.bec.wake()

    def report(self) -> str:
        """Return a line per device: name, class, address, and what is wrong with it."""
        width = max((len(entry.name) for entry in self.entries), default=0)
        lines = [f"{self.path}: {len(self.devices)} of {len(self.entries)} devices"]
        for entry in self.entries:
            mark = "" if not entry.problem else "  NOT MADE: " if entry.device is None else "  "
            lines.append(f"  {entry.name:{width}}  {entry.cls:12}  {entry.address}{mark}{entry.problem}")
        return "\n".join(lines)

    def _run_engine(self) -> tuple[RunEngine, SupplementalData]:
        from bluesky import RunEngine
        from bluesky.preprocessors import SupplementalData
        from bluesky.utils import ProgressBarManager

        config, block = self.config, self.config.metadata
        file = FileStore(config.directory / block.file)
        md = PersistentMetadata(RedisStore(block.redis, block.key) if block.redis else file)
        engine = RunEngine(md, scan_id_source=next_scan_id)  # type: ignore[arg-type] # takes any mapping
        facts = {"beamline": config.beamline, "pgroup": config.pgroup}
        for key, value in {**block.constant, **{key: value for key, value in facts.items() if value}}.items():
            md[key] = value
        engine.subscribe(self._remember, "start")
        setup(engine, self.catalog)
        for each in (*self.publishers, self.bec):
            engine.subscribe(each)
        data = SupplementalData()
        engine.preprocessors += [self._ready_first, data]
        if sys.stdout.isatty():
            engine.waiting_hook = ProgressBarManager()  # type: ignore[assignment] # bluesky gives it no type
        return engine, data

    def _remember(self, name: str, start: dict) -> None:
        from ..plans.run_number import START_KEY

        of_broker = start.get(START_KEY)
        self.facts.clear()
        self.facts.update({**(of_broker if isinstance(of_broker, dict) else {}), **start})

    def _ready_first(self, plan):
        self.ready()
        if not self.suspenders:
            return plan
        from .suspenders import look_now

        return look_now(plan, self.suspenders, self.RE)


def open_session(folder: str | Path, given: str | None = None) -> Session:
    """Open the session of a profile folder.

    Parameters
    ----------
    folder : str or Path
        The profile, which may hold a ``sfdaq.yaml``.
    given : str, optional
        ``"sim"`` or the path of a configuration file; see `config_path` for what is used without one.

    Returns
    -------
    Session
        With its RunEngine, and with the simulators starting where the file asks for them. Its devices are
        made when they are asked for.

    Raises
    ------
    ConfigError
        The file is not there, or it has mistakes: a line for each, with file, line and key. Also where the
        stored metadata are damaged.
    StorageError, ServiceUnreachable
        The file of the metadata cannot be written, or their Redis cannot be reached.
    """
    keep_log()
    path = config_path(Path(folder), given)
    if not path.exists():
        raise ConfigError(f"{path}: no such file. SFDAQ_CONFIG is 'sim' or the path of a sfdaq.yaml")
    return Session(path)


def _best_effort():
    require("session", "the BestEffortCallback", "matplotlib")
    from bluesky.callbacks.best_effort import BestEffortCallback

    return BestEffortCallback()
