"""Fixtures of all tests. Servers on port 0, EPICS on loopback, no test waits for time to pass."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
import types
import weakref
from pathlib import Path

import bluesky.utils
import event_model
import hypothesis
import jsonschema_rs
import matplotlib
import pytest
from bluesky import RunEngine

from sfdaq_ophyd.limits import counted_time

matplotlib.use("Agg")
# The same examples in each run, so that the gate judges the change; others: --hypothesis-profile default
hypothesis.settings.register_profile("same examples", derandomize=True)
hypothesis.settings.load_profile("same examples")
os.environ.setdefault("EPICS_CA_ADDR_LIST", "127.0.0.1")
os.environ.setdefault("EPICS_CA_AUTO_ADDR_LIST", "NO")
os.environ.setdefault("OPHYD_CONTROL_LAYER", "caproto")
os.environ.setdefault("SFDAQ_LOG", os.devnull)

DATA = Path(__file__).parent / "data"


class QuickValidator:
    """The schema of one kind of document; event_model's own validator is asked about what is not valid.

    RunEngine and tests validate each document: half of the time of a short run, with jsonschema.
    """

    def __init__(self, validator):
        self._validator, self._is_valid = validator, jsonschema_rs.validator_for(validator.schema).is_valid

    def validate(self, doc, *args, **kwargs):
        with contextlib.suppress(ValueError, TypeError, OverflowError):  # no JSON: tuples, arrays
            if self._is_valid(doc):
                return
        self._validator.validate(doc, *args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._validator, name)


event_model.schema_validators.update(
    {name: QuickValidator(validator) for name, validator in event_model.schema_validators.items()}
)

# What a plan says that is never iterated: where it was made costs every plan more than its messages.
bluesky.utils.traceback = types.SimpleNamespace(format_stack=list)


def pytest_addoption(parser):
    parser.addoption(
        "--recordings",
        type=Path,
        default=None,
        help="folder of recorded exchanges to replay in place of the copies under tests/data",
    )


def pytest_configure(config):
    """A gate needs something to let through: refuse a folder without recordings."""
    gc.disable()  # until all is imported: that stays, and the collector would look at it again and again
    folder = config.getoption("recordings")
    if folder is not None and next(folder.rglob("*.json*"), None) is None:
        raise pytest.UsageError(f"--recordings {folder}: no recordings there")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The golden bytes."""
    return DATA


@pytest.fixture(scope="session")
def wait_for():
    """Wait for a condition with a deadline: ``wait_for(lambda: ..., "what")``."""

    def wait(condition, what="condition", timeout=300.0, period=0.005):
        deadline = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not met after {timeout:g} s; last value {value!r}")
            time.sleep(period)  # the one poll all tests share

    return wait


@pytest.fixture(scope="session")
def catalog(tmp_path_factory):
    """One catalog for all tests that only add runs to it: a start takes seconds."""
    from sfdaq_ophyd.catalog import embedded_catalog

    with embedded_catalog(tmp_path_factory.mktemp("catalog")) as catalog:
        yield catalog


@pytest.fixture
def closed_port():
    """A port where nobody answers, held so that nobody can."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


LONG = {
    "test_docs.py": 220,
    "a catalog/": 300,  # and what else has one
    "stock/": 125,
    "web/": 110,
    "sim/std_daq/test_recordings.py": 90,
    "plans/test_broker_plans.py": 85,
    "test_profile_collection.py": 85,
    "cli/test_one_screen.py": 55,
    "cli/test_demo.py": 45,
    "cli/test_doctor.py": 40,
    "test_queueserver.py": 35,
}
"""What takes long, and about how many s: most of it starts what its tests share."""

SHORT = ("wire/", "clients/")


def pytest_collection_modifyitems(items):
    """Have two of three workers begin with their share of what takes long, and all end with what does not.

    A worker gets a stretch of the list, all of as many tests; once it is done it takes tests from the ends of
    the others' stretches. So all are done at the same time, and what tests share is started once. What takes
    long computes for most of it; the third worker begins with tests that wait, which leave it the processors.
    """
    n = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if n == 1:
        return
    kinds = {kind: [] for kind in (*LONG, *SHORT, "")}
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name.startswith("catalog/") or {"catalog", "tiled_server"} & set(item.fixturenames):
            name = "a catalog/"
        kinds[next(kind for kind in kinds if name.startswith(kind))].append(item)
    first, seconds = [[] for _ in range(n)], [0] * n
    for kind, long in LONG.items():
        least = seconds.index(min(seconds[: max(1, 2 * n // 3)]))
        first[least] += kinds[kind]
        seconds[least] += long
    short, others, n_left = [item for kind in SHORT for item in kinds[kind]], kinds[""], len(items)
    items.clear()
    for n_workers, begin in zip(range(n, 0, -1), first):
        end, short = short[: len(short) // n_workers], short[len(short) // n_workers :]
        n_more = max(0, n_left // n_workers - len(begin) - len(end)) if n_workers > 1 else None
        items += [*begin, *others[:n_more], *end]
        others = others[n_more:] if n_workers > 1 else []
        n_left -= n_left // n_workers


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()
    counted_time()  # its thread begins with the first use, and is none that a test leaves behind


@pytest.fixture(scope="session", autouse=True)
def event_loops_go_with_their_run_engine():
    """Close the event loop that a forgotten RunEngine leaves behind: three descriptors and a thread each."""
    original = RunEngine.__init__

    def close(loop, thread):
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(60)
            loop.close()

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        weakref.finalize(self, close, self._loop, self._th).atexit = False

    RunEngine.__init__ = init
    yield
    RunEngine.__init__ = original


@pytest.fixture(scope="module", autouse=True)
def forgotten_run_engines_are_collected():
    """A RunEngine is a cycle of objects: the collector sees it after each file, and what stays only once."""
    yield
    gc.collect()
    gc.freeze()
