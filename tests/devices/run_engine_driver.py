"""Run a plan, interrupt it at one message, and check every document and every frame it left behind.

For any detector on the base::

    for at in range(drive(interruptible(), plan).n_messages):
        run = drive(interruptible(), plan, "pause", at)
        check_run(run, n_points=3)
        check_files(run, directory)

The interruption is requested while message `at` is handed out: it takes effect after that message, or in the
middle of it if it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

import h5py
import hdf5plugin  # noqa: F401  registers the filter
from bluesky import RunEngine
from bluesky.utils import IllegalMessageSequence, RunEngineInterrupted, TransitionError
from event_model import DocumentNames, schema_validators, unpack_event_page

from sfdaq_ophyd.plans import save_once
from sfdaq_ophyd.sim.stamp import read_stamp

COMING_BACK = ("pause", "deferred pause", "suspend")
ENDING = ("abort", "stop", "halt")


@dataclass
class Run:
    """What one run of a plan left behind; `hit` are the messages that were interrupted, as in `numbered`."""

    documents: list = field(default_factory=list)
    n_messages: int = 0
    commands: list = field(default_factory=list)
    hit: list[tuple[str, int]] = field(default_factory=list)
    n_pauses: int = 0
    error: Exception | None = None
    gathered: dict[str, Stream] | None = None

    def named(self, name: str) -> list[dict]:
        return [doc for kind, doc in self.documents if kind == name]

    @property
    def stop(self) -> dict:
        return self.named("stop")[-1]


def interruptible(exact: bool = False) -> RunEngine:
    """A RunEngine that leaves signals alone; with `exact`, the preprocessor `save_once` installed."""
    engine = RunEngine(context_managers=[])
    if exact:
        engine.preprocessors.append(save_once)
    return engine


def drive(
    engine: RunEngine,
    make_plan: Callable,
    interruption: str | None = None,
    at: int | range | tuple[str, int] = -1,
) -> Run:
    """Run ``make_plan()``; request `interruption` at message `at`, or at several; resume until it is over.

    A message is its place in the run, or what `numbered` says of it, for the place may depend on time. Those
    that are handed out again after an interruption, which are the same objects, do not count; nor do those of
    a suspension itself.
    """
    run, seen = Run(), {}
    wanted = range(at, at + 1) if isinstance(at, int) else at

    def hook(msg):
        of_suspension = "_start_suspender" in run.commands[-3:] or "_resume_from" in str(run.commands[-1:])
        if id(msg) not in seen and not msg.command.startswith("_") and not of_suspension:
            this = (msg.command, sum(one.command == msg.command for one in seen.values()))
            if this == wanted if isinstance(wanted, tuple) else len(seen) in wanted:
                _request(engine, interruption)
                run.hit.append(this)
            seen[id(msg)] = msg
        run.n_messages += 1
        run.commands.append(msg.command)

    engine.msg_hook = hook
    token = engine.subscribe(lambda name, doc: run.documents.append((name, doc)))
    try:
        try:
            engine(make_plan())
        except RunEngineInterrupted:
            while engine.state == "paused":
                run.n_pauses += 1
                try:
                    engine.resume()
                except RunEngineInterrupted:
                    continue
    except Exception as exc:
        run.error = exc
    finally:
        engine.unsubscribe(token)
        engine.msg_hook = None
    return run


def numbered(commands: list[str]) -> list[tuple[str, int]]:
    """Return every message of an undisturbed run: its command, and the number of those of it before."""
    return [(command, commands[:k].count(command)) for k, command in enumerate(commands)]


def _request(engine: RunEngine, interruption: str) -> None:
    """Ask for it from the engine's own loop, so that it lands at this message and no other."""
    if interruption == "suspend":
        over = asyncio.Event()
        engine.request_suspend(over.wait)
        engine.loop.call_later(0.02, over.set)
        return
    request = {
        "pause": lambda: engine._request_pause_coro(False),
        "deferred pause": lambda: engine._request_pause_coro(True),
        "abort": lambda: engine._abort_coro("as the test wanted"),
        "stop": engine._stop_coro,
        "halt": engine._halt_coro,
    }[interruption]

    async def ask():
        with contextlib.suppress(TransitionError):  # it was over already
            await request()

    engine.loop.create_task(ask())


@dataclass
class Stream:
    """Rows and external arrays of one event stream, as a catalog would join them; some are images."""

    data_keys: dict
    rows: list[dict] = field(default_factory=list)
    seq_nums: list[int] = field(default_factory=list)
    arrays: dict[str, list[tuple[Path, str, int, int]]] = field(default_factory=lambda: defaultdict(list))
    images: dict[str, list[tuple[Path, str, int, int]]] = field(default_factory=lambda: defaultdict(list))


def streams(run: Run) -> dict[str, Stream]:
    """Validate every document, and gather the rows and images of each stream; once per run."""
    if run.gathered is None:
        run.gathered = _gather(run)
    return run.gathered


def _gather(run: Run) -> dict[str, Stream]:
    found: dict[str, Stream] = {}
    names, resources, n_rows_of = {}, {}, defaultdict(int)
    seq_nums = defaultdict(list)
    for kind, doc in run.documents:
        schema_validators[DocumentNames[kind]].validate(doc)
        if kind == "descriptor":
            names[doc["uid"]] = doc["name"]
            stream = found.setdefault(doc["name"], Stream(doc["data_keys"]))
            assert doc["data_keys"] == stream.data_keys, "a stream declared again after a pause is the same"
        elif kind in ("event", "event_page"):
            for event in [doc] if kind == "event" else unpack_event_page(doc):
                stream = found[names[event["descriptor"]]]
                stream.rows.append(event["data"])
                stream.seq_nums.append(event["seq_num"])
        elif kind == "stream_resource":
            resources[doc["uid"]] = doc
        elif kind == "stream_datum":
            resource, indices = resources[doc["stream_resource"]], doc["indices"]
            assert indices["start"] == n_rows_of[resource["uid"]], "indices have no gap and start at 0"
            n_rows_of[resource["uid"]] = indices["stop"]
            path = Path(unquote(urlparse(resource["uri"]).path))
            where = (path, resource["parameters"]["dataset"], indices["start"], indices["stop"])
            stream, key = found[names[doc["descriptor"]]], resource["data_key"]
            stream.arrays[key].append(where)
            if len(stream.data_keys[key]["shape"]) == 3:
                stream.images[key].append(where)
            if key == next(iter(stream.data_keys)):
                seq_nums[doc["descriptor"]].append(doc["seq_nums"])
    for stream, ranges in ((found[names[uid]], ranges) for uid, ranges in seq_nums.items()):
        if not stream.rows:  # collected without events: ids and numbers are in the files
            stream.seq_nums = [k for one in ranges for k in range(one["start"], one["stop"])]
            stream.rows = _rows_in_files(stream)
    return found


def _rows_in_files(stream: Stream) -> list[dict]:
    columns = {}
    for key, parts in stream.arrays.items():
        if key not in stream.images:
            shape, columns[key] = stream.data_keys[key]["shape"], []
            for path, dataset, start, stop in parts:
                n = shape[0] if shape else 1
                with h5py.File(path, "r", swmr=True) as file:
                    values = file[dataset][start * n : stop * n]
                assert values.dtype == stream.data_keys[key]["dtype_numpy"]
                values = values.astype(str) if values.dtype.kind == "S" else values
                columns[key] += values.reshape(-1, *shape).tolist()
    return [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]


def check_run(
    run: Run,
    n_points: int | None = None,
    *,
    exact: bool = True,
    stamp_of: Callable[[str], int] = int,
    stream: str = "primary",
) -> None:
    """Check that rows and images agree, and that there are the points that were asked for.

    Parameters
    ----------
    n_points : int, optional
        Points of a finished run; None if it was ended early.
    exact : bool
        Whether every point is in the run once: True in our fly plan and with `save_once`. Without, bluesky
        may take a point again that was saved, and if that was the last one, the replay fails after the run's
        end. (A suspension requested while the plan's last message is handed out fails in bluesky in any
        case.)
    stamp_of : callable
        Event id to the number stamped into the frame.
    """
    found = streams(run)
    for one in found.values():
        _check_images(one, stamp_of)
    if n_points is None:
        return
    after_the_end = TransitionError if exact else TransitionError | IllegalMessageSequence
    assert run.error is None or isinstance(run.error, after_the_end), run.error
    assert run.stop["exit_status"] == "success"
    assert sorted(set(found[stream].seq_nums)) == list(range(1, n_points + 1))
    if exact:
        assert len(found[stream].rows) == n_points


def _check_images(stream: Stream, stamp_of: Callable[[str], int]) -> None:
    for key, parts in stream.images.items():
        name = key.rpartition("_image")[0]
        rows = iter(stream.rows)
        for path, dataset, start, stop in parts:
            with h5py.File(path, "r", swmr=True) as file:
                images = file[dataset]
                for index in range(start, stop):
                    row = next(rows)
                    ids = row[f"{name}_event_id"]
                    ids = [ids] if isinstance(ids, str) else ids
                    for k, event_id in enumerate(ids):
                        image = images[index * len(ids) + k]
                        if event_id:
                            assert read_stamp(image) == stamp_of(event_id), f"{key} row {index}"
                        else:
                            assert not image.any(), f"{key} row {index}: a gap must be empty"
        assert next(rows, None) is None, f"{key}: a row without its image"


def check_files(run: Run, directory: Path, unused: Iterable[str] = ()) -> None:
    """Check that the files hold what was registered, and nothing else, or are named in `unused`."""
    registered: dict[Path, int] = defaultdict(int)
    for one in streams(run).values():
        frames = {key: len(_ids(one, key)) for key in one.images}
        for key, parts in one.images.items():
            for path, _, start, stop in parts:
                registered[path] += (stop - start) * frames[key]
    present, told = {}, {Path(path): 0 for path in unused}
    for path in Path(directory).glob("*.h5"):
        with h5py.File(path, "r") as file:
            if "entry/data" not in file:  # somebody else's
                present[path] = registered.get(path, 0)
                continue
            group = file["entry/data"]
            assert len({len(group[column]) for column in group}) == 1
            belongs_to_no_point = path in told and path not in registered  # whatever had come by then
            present[path] = 0 if belongs_to_no_point else len(group["data"])
    assert present == {**told, **registered}


def _ids(stream: Stream, key: str) -> list:
    ids = stream.rows[0][key.rpartition("_image")[0] + "_event_id"]
    return [ids] if isinstance(ids, str) else ids
