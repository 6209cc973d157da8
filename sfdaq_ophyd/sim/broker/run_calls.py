"""Calls about runs and their files: pgroups, run numbers, retrievals, lists of PVs, users' files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ...wire.broker import BEAMLINES, Dialect, acquisition, clean_tag, padded, raw_directory, run_directory
from ...wire.broker_request import SOURCES, STEP_KEYS
from ...wire.pulse_id import MAX_PULSE_DISTANCE, RATE_MULTIPLICATORS
from .site import Caller, NothingToDo, Site, Tree, ValidationError, check_belongs, required

_DUMMY = {
    "scan_name": "dummy",
    **dict.fromkeys(("name", "Id", "units"), ["dummy"]),
    "offset": [0],
    "conversion_factor": [1.0],
    **dict.fromkeys(("scan_values", "scan_readbacks", "scan_readbacks_raw"), [0]),
}


def dummy(dialect: Dialect) -> dict[str, Any]:
    """Return what counts as scan_info where a request has none."""
    return {key: value for key, value in _DUMMY.items() if dialect == "current" or key != "units"}


def append_step(
    tree: Tree, path: str, scan_info: Any, files: list[str], pulses: tuple[int, int], dialect: Dialect
) -> None:
    """Add one acquisition; the parameters of the first one stay."""
    if tree.exists(path):
        scan = tree.read_json(path)
    else:
        scan = {
            "scan_parameters": {key: scan_info[key] for key in scan_info if key not in STEP_KEYS},
            "scan_files": [],
            "pulseIds": [],
            **{key: [] for key in STEP_KEYS},
        }
    for key in STEP_KEYS:
        scan[key].append(scan_info.get(key, []))
    scan["scan_files"].append(files)
    scan["pulseIds"].append(list(pulses))
    tree.write_json(path, scan, sort_keys=dialect == "current")


def advance_run_number(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Take a new number."""
    pgroup = open_pgroup(site, request, caller)
    return _number(site, "advanced", caller, pgroup, pgroup.advance("LAST_RUN"))


def get_current_run_number(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the last number given out."""
    pgroup = open_pgroup(site, request, caller)
    return _number(site, "retrieved", caller, pgroup, pgroup.last("LAST_RUN"))


def close_pgroup_writing(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Close a pgroup."""
    required(request, "pgroup")
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.check_open("already ")
    pgroup.close()
    return {"message": f"{pgroup.name} closed for writing"}


def open_pgroup(site: Site, request: Any, caller: Caller) -> PGroup:
    """Return the pgroup of a request, which must be open."""
    required(request, "pgroup")
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.check_open()
    return pgroup


def _number(site: Site, done: str, caller: Caller, pgroup: PGroup, number: int) -> dict[str, Any]:
    message = f"successfully {done} run number for {caller.beamline} {pgroup.name}"
    return site.sends_current({"message": message, "run_number": number}, {"message": str(number)})


class PGroup:
    """One pgroup at one beamline, whose directory must be there: ValidationError. The name is not checked."""

    def __init__(self, tree: Tree, beamline: str, name: str):
        self._tree, self.name = tree, name
        self.raw = raw_directory(beamline, name)
        if not tree.exists(self.raw):
            raise ValidationError(f"pgroup directory {self.raw} not reachable")
        self.run_info = f"{self.raw}run_info"

    def check_open(self, already: str = "") -> None:
        """Refuse a closed pgroup; `already` is "already " where the server says so."""
        if self._tree.exists(f"{self.run_info}/CLOSED"):
            words = f"is {already}closed for writing"
            raise ValidationError(f"pgroup directory {self.raw} {words}", f"{self.raw} {words}")

    def close(self) -> None:
        """Close it, for ever."""
        self.make_run_info()
        self._tree.write_text(f"{self.run_info}/CLOSED", "")

    def make_run_info(self) -> None:
        """Make the directory of the counters."""
        make_directory(self._tree, self.run_info)

    def last(self, counter: str) -> int:
        """Return a counter, ``LAST_RUN`` or ``LAST_ARUN``; it starts at 0, and the file is made."""
        self.make_run_info()
        path = f"{self.run_info}/{counter}"
        if not self._tree.exists(path):
            self._tree.write_text(path, "0")
        return int(self._tree.read_text(path))

    def advance(self, counter: str) -> int:
        """Count up by one and return the new number."""
        number = self.last(counter) + 1
        self._tree.write_text(f"{self.run_info}/{counter}", str(number))
        return number


def make_directory(tree: Tree, path: str) -> None:
    """Make a directory with its parents; ValidationError, in the server's words, where a file stands."""
    try:
        tree.make(path)
    except OSError as exc:
        reason = f"{type(exc).__name__}: [Errno {exc.errno}] {exc.strerror}: {path!r}"
        raise ValidationError(f"cannot create directory {path} (due to: {reason})") from exc


_DOCUMENTED_PULSES = "no start or stop pluseid provided in request parameters"


def retrieve_from_buffers(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Queue requests for data, and write the run's ``meta/``."""
    required(request, "pgroup")
    required(request, "start_pulseid", "stop_pulseid", documented=_DOCUMENTED_PULSES)
    beamline, name = caller.beamline, request["pgroup"]
    start, stop = (_pulse_id(request, key) for key in ("start_pulseid", "stop_pulseid"))
    _check_range(stop - start)
    rate = request.get("rate_multiplicator", 1)
    if rate not in RATE_MULTIPLICATORS:
        raise ValidationError(
            '"rate_multiplicator" not from allowed values {ALLOWED_RATE_MULTIPLICATORS}',
            "rate_multiplicator is not allowed one",
        )
    pgroup = PGroup(site.tree, beamline, name)
    run_number = _run_number(pgroup, request)
    directory, suffix = _directory(site, pgroup, request, run_number)
    pgroup.check_open()
    _check_sources(site, request, beamline)
    request = dict(request)
    for key in ("channels_list", "pv_list"):
        if key in request:
            request[key] = list(dict.fromkeys(request[key]))

    for name in ("", "/meta", "/data", "/logs"):
        make_directory(site.tree, directory + name)
    number = _acquisition_number(site, directory)
    unique = pgroup.advance("LAST_ARUN")
    request |= {
        "start_pulseid": start,
        "stop_pulseid": stop,
        "beamline": beamline,
        "acquisition_number": number,
        "unique_acquisition_run_number": unique,
        "request_time": site.delays.request_time(),
        "run_number": run_number,
        **({} if suffix is None else {"appended_directory_suffix": suffix}),
    }
    json_path = f"{directory}/meta/{acquisition(number)}.json"
    site.tree.write_json(json_path, request, sort_keys=site.dialect == "current")

    site.messages.connect()
    files = []
    for routing_key, body in _messages(site, request, pgroup, directory, json_path, int(rate)):
        site.messages.send(routing_key, body)
        files.append(body["output_file"])
    scan_info = request.get("scan_info", dummy(site.dialect))
    append_step(site.tree, f"{directory}/meta/scan.json", scan_info, files, (start, stop), site.dialect)
    return {
        "message": "request(s) to retrieve data sent" if site.dialect == "current" else "OK",
        "run_number": str(run_number),
        "acquisition_number": str(number),
        "unique_acquisition_number": str(unique),
        "files": files,
    }


def _pulse_id(request: dict, key: str) -> int:
    try:
        return int(request[key])
    except Exception as exc:
        raise ValidationError(
            f'bad "{key}" provided in the request parameters (due to: {type(exc).__name__}: {exc})',
            "bad start or stop pluseid provided in request parameters",
        ) from exc


def _check_range(distance: int) -> None:
    documented = "number of pulse_id problem: too large or negative request"
    if distance > MAX_PULSE_DISTANCE:
        raise ValidationError(
            f"requested number of pulses {distance} too large (max. {MAX_PULSE_DISTANCE})", documented
        )
    if distance < 0:
        raise ValidationError(f"requested number of pulses {distance} negative", documented)


def _run_number(pgroup: PGroup, request: dict) -> Any:
    if "run_number" not in request:
        return pgroup.advance("LAST_RUN")
    run_number = request["run_number"]
    if run_number > pgroup.last("LAST_RUN"):
        raise ValidationError(
            f'requested "run_number" {padded(run_number)} not generated by sf-daq',
            f"requested run_number{run_number} generated not by sf-daq",
        )
    return run_number


def _directory(site: Site, pgroup: PGroup, request: dict, run_number: Any) -> tuple[str, str | None]:
    """Return the run's directory and the tag in its name; refuse a tag that does not fit what is there."""
    tag, suffix = request.get("user_tag"), None
    if request.get("append_user_tag_to_data_dir", False) and tag is not None and len(tag) > 0:
        suffix = clean_tag("".join(item if isinstance(item, str) and len(item) == 1 else "_" for item in tag))
    directory = pgroup.raw + run_directory(run_number, suffix)
    existing = [
        site.tree.remote(path) for path in site.tree.local(pgroup.raw).glob(f"run{padded(run_number)}*")
    ]
    if existing and directory not in existing:
        run = padded(run_number)
        raise ValidationError(
            f"run {run} exists already but with different tag(s) {existing} than the requested {tag}",
            f"data directory for this run {run} already exists with different tag : {existing}, "
            f"than requested {tag}",
        )
    return directory, suffix


def _check_sources(site: Site, request: dict, beamline: str) -> None:
    if not any(key in request for key in (*SOURCES.values(), "detectors")):
        raise NothingToDo("request did not contain any channels to be written to file")
    if "detectors" not in request:
        return
    detectors = request["detectors"]
    if not isinstance(detectors, dict):
        raise ValidationError(
            f'"detectors" provided in the request parameters ({detectors}) is not a dictionary',
            f"{detectors} is not dictionary",
        )
    if detectors:
        check_belongs(site, beamline, *detectors)


def _acquisition_number(site: Site, directory: str) -> int:
    if site.faults.take("stray_meta_file"):
        site.tree.write_text(f"{directory}/meta/stray", "")
    return len(list(site.tree.local(f"{directory}/meta").iterdir())) or 1


def widened(start: int, stop: int, rate: int) -> tuple[int, int]:
    """Return the range asked of PVs, channels and cameras."""
    if rate == 1:
        return start, stop
    return start - (start % rate == 0), stop + (stop % rate == 0)


def narrowed(start: int, stop: int, rate: int) -> tuple[int, int]:
    """Return the range asked of detectors; without a multiple of the rate inside, it begins at pulse 0.

    Pulse 0 itself counts as not found, at any rate.
    """
    first, last = -(-start // rate) * rate or rate, stop // rate * rate
    return (first if first <= stop else 0), (last if last >= start else stop)


def _messages(
    site: Site, request: dict, pgroup: PGroup, directory: str, json_path: str, rate: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield routing key and body of each writer's request, in the order of ``files``."""
    start, stop = widened(request["start_pulseid"], request["stop_pulseid"], rate)
    metadata = {
        "general/created": site.delays.request_time(),
        "general/instrument": request["beamline"],
        "general/process": "sf_daq_broker.broker_manager",
        "general/user": request["pgroup"][1:6],
    }

    def body(writer_type: str, channels: Any, source: str) -> dict[str, Any]:
        stem = f"{acquisition(request['acquisition_number'])}.{source}"
        return {
            "writer_type": writer_type,
            "channels": channels,
            "start_pulse_id": start,
            "stop_pulse_id": stop,
            "output_file": f"{directory}/data/{stem}.h5",
            "run_log_file": f"{directory}/logs/{stem}.log",
            "metadata": metadata,
            "timestamp": time.time(),
        }

    epics = f"epics_{request['beamline']}"
    for key, routing_key, writer_type, source in (
        ("pv_list", epics, epics, "PVDATA"),
        ("channels_list", "bs.*", "data3buffer", "BSDATA"),
        ("camera_list", "bs.*", "imagebuffer", "CAMERAS"),
    ):
        if request.get(key):
            yield routing_key, body(writer_type, request[key], source)
    first, last = narrowed(request["start_pulseid"], request["stop_pulseid"], rate)
    for name, parameters in (request.get("detectors") or {}).items():
        channels = {
            "det_start_pulse_id": first,
            "det_stop_pulse_id": last,
            "rate_multiplicator": rate,
            "path_to_pgroup": pgroup.raw,
            "run_file_json": json_path,
            "run_info_directory": f"{directory}/logs",
            "directory_name": directory.rsplit("/", 1)[1],
            "request_time": request["request_time"],
            "beamline": request["beamline"],
            "pgroup": request["pgroup"],
            "detector_name": name,
            "detectors": {name: parameters},
        }
        if "selected_pulse_ids" in request:
            channels["selected_pulse_ids"] = request["selected_pulse_ids"]
        yield "detector.retrieve", body("detector_buffer", channels, name)


_STAMPS = {"current": "%Y-%m-%d_%H:%M:%S", "documented": "%d-%b-%Y_%H:%M:%S"}


def config_directory(dialect: Dialect) -> str:
    """Return where the services keep their configurations."""
    return f"/home/{'svcusr-sfdaq' if dialect == 'current' else 'dbe'}/service_configs"


def config_file(dialect: Dialect, beamline: str | None) -> str:
    """Return the configuration of a beamline's epics buffer."""
    return f"{config_directory(dialect)}/sf.{beamline}.epics_buffer.json"


def stamp(site: Site) -> str:
    """Return the time as it stands in the names of backup files."""
    return site.delays.now().strftime(_STAMPS[site.dialect])


def get_pvlist(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Return the list."""
    if site.dialect == "documented":
        try:
            beamline = caller.beamline
        except ValidationError:
            beamline = None
        path = config_file(site.dialect, beamline)
        if not site.tree.exists(path):
            return {"status": f"failure, epics config file not exist for this beamline {beamline}"}
        return {"status": None, "pv_list": site.tree.read_json(path)["pv_list"]}
    path = _existing_config(site, caller.beamline)
    message = f"successfully retrieved list of PVs for {caller.beamline}"
    return {"message": message, "pv_list": site.tree.read_json(path)["pv_list"]}


def set_pvlist(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Replace the list; types are not checked."""
    beamline = caller.beamline
    path = _existing_config(site, beamline)
    pvs = list(dict.fromkeys(request["pv_list"] if site.dialect == "current" else request.get("pv_list", [])))
    config = {"pulse_id_pv": _pulse_id_pv(site, beamline, path), "pv_list": pvs}
    directory, name = path.rsplit("/", 1)
    backup = (
        site.tree.remote(site.tree.make(f"{directory}/backup")) if site.dialect == "current" else directory
    )
    site.tree.write_json(path, config)
    site.tree.write_json(f"{backup}/{name}.{stamp(site)}", config)
    return site.sends_current(
        {"message": f"successfully changed list of PVs for {beamline}", "pv_list": pvs}, {"message": pvs}
    )


def _pulse_id_pv(site: Site, beamline: str, path: str) -> str:
    """Return what stays beside the list; in 2023 it was Alvra's for every beamline."""
    if site.dialect == "documented":
        return BEAMLINES["alvra"].pulse_id_pv
    return site.tree.read_json(path).get("pulse_id_pv", BEAMLINES[beamline].pulse_id_pv)


def _existing_config(site: Site, beamline: str) -> str:
    path = config_file(site.dialect, beamline)
    if not site.tree.exists(path):
        raise ValidationError(
            f"epics buffer config file {path} does not exist for beamline {beamline}",
            f"failure, epics config file not exist for this beamline {beamline}",
        )
    return path


def copy_user_files(site: Site, request: Any, caller: Caller) -> dict[str, Any]:
    """Copy files into ``aux/`` of a run; one that fails does not stop the others."""
    current = site.dialect == "current"
    raw = _open_pgroup(site, request, caller) if current else _open_pgroup_documented(site, request, caller)
    target = f"{_run_directory(site, raw, request['run_number'])}/aux"
    make_directory(site.tree, target)
    files = request.get("files", [])
    if current:
        files = sorted(set(files))
    failed = {file: reason for file in files if (reason := _copy(site, file, target))}
    copied = {file: _destination(file, target) for file in files if file not in failed}
    if not current:
        return {
            "message": "user file copy finished, check error_files list",
            "destination_file_path": [copied[file] for file in files if file in copied],
            "error_files": [file for file in files if file in failed],
        }
    return {
        "status": "error" if failed else "ok",
        "message": 'copying user file(s) finished with errors, check "error_files"'
        if failed
        else "copying user file(s) finished successfully",
        "destination_files": copied,
        "error_files": failed,
    }


def _open_pgroup(site: Site, request: Any, caller: Caller) -> str:
    """Return the pgroup's ``raw/``; its ``run_info/`` is made where there is none."""
    pgroup = PGroup(site.tree, caller.beamline, request["pgroup"])
    pgroup.make_run_info()
    pgroup.check_open("already ")
    return pgroup.raw


def _open_pgroup_documented(site: Site, request: Any, caller: Caller) -> str:
    """Return the pgroup's ``raw/``, which need not be there: then no run is."""
    required(request, "pgroup")
    raw = raw_directory(caller.beamline, request["pgroup"])
    if site.tree.exists(raw):
        PGroup(site.tree, caller.beamline, request["pgroup"]).check_open()
    required({key: value for key, value in request.items() if value is not None}, "run_number")
    return raw


def _run_directory(site: Site, raw: str, run_number: Any) -> str:
    shown = padded(run_number)  # a string is filled up on the right: "3" looks for run 3000
    runs = sorted(site.tree.local(raw).glob(f"run{shown}*"))
    if not runs:
        raise ValidationError(
            f"run {shown} does not exist in this pgroup", f"no such run {run_number} in the pgroup"
        )
    return site.tree.remote(runs[0])


def _destination(file: str, target: str) -> str:
    return f"{target}/{PurePosixPath(file).name}"


def _copy(site: Site, file: str, target: str) -> str:
    """Copy one file and return why it could not be copied; empty if it was."""
    if not site.tree.exists(file):
        return f'file "{file}" does not exist'
    source_group, target_group = site.tree.group_id(file), site.tree.group_id(target)
    if source_group != target_group:
        return f'group ID mismatch for file "{file}": source {source_group} vs. target {target_group}'
    destination = _destination(file, target)
    if not site.tree.local(file).is_file():
        return f"[Errno 21] Is a directory: {file!r}"
    if PurePosixPath(file) == PurePosixPath(destination):
        return f"{file!r} and {destination!r} are the same file"
    shutil.copyfile(site.tree.local(file), site.tree.local(destination))
    return ""
