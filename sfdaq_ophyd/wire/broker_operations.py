"""Every call of both services: its request and reply, where it goes, and whether it may be repeated.

The client's methods and the shell's commands are made of this table. The simulator serves it, and refuses a
body without a key that a call needs, as today's server does; what the 2023 server demands, it knows itself.
A function here checks the arguments of a call and returns the body of the request, None without one; its
docstring is that of the client's method. The slow broker (port 10003) has detector settings and state, user
files and online analysis. What may be repeated is in the wire reference sf-daq-broker, section 15.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, ParamSpec, TypeVar

from ..errors import RequestError
from . import broker_reply as reply
from .broker import RUN_LOG_LEVEL, Dialect, Service
from .broker_parameters import (
    check_dap_settings,
    check_detector,
    check_hardware_settings,
    check_int,
    check_items,
    check_modules,
    check_names,
    check_pgroup,
)
from .broker_request import RetrieveRequest, check_extra
from .pulse_id import check_rate_multiplicator

Parameters = ParamSpec("Parameters")
Reply = TypeVar("Reply")
Body = dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Operation(Generic[Parameters, Reply]):
    """One call.

    Parameters
    ----------
    request : callable
        Checks its arguments and returns the body, None without one; its name is the path without the slash.
    service : {"broker", "slow"}
    current, documented : str or None
        HTTP method in each dialect; None where the dialect lacks the call.
    read : callable
        Returns the value of a reply, which is a success, of a dialect; raises WireError.
    repeat : bool
        Whether it may be sent again after its reply was lost.
    hint : str
        What to do when the outcome is unknown.
    needs : str
        Keys, with blanks between, that today's server demands of a body, in its order; none without a body.
    expected : str, optional
        Key that marks success in a reply without status (documented dialect).
    """

    request: Callable[Parameters, Body]
    service: Service
    current: str | None
    documented: str | None
    read: Callable[[dict[str, Any], Dialect], Reply]
    repeat: bool = True
    hint: str = ""
    needs: str = ""
    expected: str | None = None

    @property
    def name(self) -> str:
        """Path without the slash."""
        return self.request.__name__

    @property
    def only_reads(self) -> bool:
        """Whether the call changes nothing."""
        return self.current == "GET"

    def method(self, dialect: Dialect) -> str:
        """Return the HTTP method of the call in a dialect.

        Raises
        ------
        RequestError
            The dialect lacks the call.
        """
        method = self.current if dialect == "current" else self.documented
        if method is None:
            raise RequestError("dialect", dialect, f"one that knows {self.name!r}")
        return method


OPERATIONS: dict[str, Operation[..., Any]] = {}
"""Every call of both services, by name."""


def _operation(
    service: Service,
    current: str | None,
    documented: str | None,
    read: Callable[[dict[str, Any], Dialect], Reply],
    repeat: bool = True,
    hint: str = "",
    needs: str = "",
    expected: str | None = None,
) -> Callable[[Callable[Parameters, Body]], Operation[Parameters, Reply]]:
    def add(request: Callable[Parameters, Body]) -> Operation[Parameters, Reply]:
        made = Operation(request, service, current, documented, read, repeat, hint, needs, expected)
        OPERATIONS[made.name] = made
        return made

    return add


_BURNED = (
    "A number may have been used up: take another with advance_run_number, gaps are harmless; "
    "do not look it up with get_current_run_number, that may be another client's."
)
_REQUESTED = (
    "The data may have been requested or may still be: look for this client_request_id in the run's "
    "meta/acq*.json before asking again."
)
_QUEUED = "It may run or still be queued: look for its effect before asking again."
_READ_BACK = "Read back with get_detector_settings and check the trigger PV (254 is running), then repeat."


@_operation("broker", "GET", "GET", reply.allowed_detectors, expected="detectors")
def get_allowed_detectors() -> Body:
    """Return the detectors that belong to this console's beamline."""
    return None


@_operation("broker", "GET", "GET", reply.running_detectors, expected="detectors")
def get_running_detectors() -> Body:
    """Return which detectors write into the buffer; up to 30 s late after one stops."""
    return None


@_operation("broker", "POST", "POST", reply.message, False, _QUEUED, "detector_name")
def power_on_detector(detector_name: str) -> Body:
    """Queue a full restart of a detector and of the beamline's trigger; return the broker's words.

    Takes seconds to minutes; all detectors of the beamline miss frames meanwhile. Poll `get_detector_status`
    until running, then `get_running_detectors`. Failure is visible only on the status exchange. Never
    repeated: each call queues another restart.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    str
        The reply's message. It says that the restart was queued, not that it was done.

    Raises
    ------
    UnknownOutcome
        The reply was lost: the restart may run or be queued. Look at `get_detector_status` before asking
        again.
    BrokerRefused
        The detector is not of this beamline, or the broker could not queue the restart.

    Notes
    -----
    See wire reference sf-daq-broker, sections 3.3 and 9.
    """
    return _detector(detector_name)


@_operation("broker", "POST", "GET", reply.run_number, False, _BURNED, "pgroup")
def advance_run_number(pgroup: str, *, extra: Mapping[str, Any] | None = None) -> Body:
    """Take a new run number.

    Parameters
    ----------
    pgroup : str
        E.g. ``"p12345"``.
    extra : mapping, optional
        Further fields for the server's log, such as the uid of the run.

    Returns
    -------
    int
        The number, which is the caller's alone.

    Raises
    ------
    UnknownOutcome
        The reply was lost. Never repeated by itself: each executed call uses up a number. Take another, gaps
        are harmless.
    BrokerRefused
        The pgroup has no folder at this beamline, or it is closed.

    Notes
    -----
    See wire reference sf-daq-broker, sections 3.4 and 7.
    """
    return {**check_extra(extra), "pgroup": check_pgroup(pgroup)}


@_operation("broker", "GET", "GET", reply.run_number, needs="pgroup")
def get_current_run_number(pgroup: str) -> Body:
    """Return the last number given out, 0 if none; with several clients not necessarily one's own.

    A closed pgroup is refused.

    Parameters
    ----------
    pgroup : str
        E.g. ``"p12345"``.

    Returns
    -------
    int
        The number that `advance_run_number` gave last, to whomever.

    Raises
    ------
    BrokerRefused
        The pgroup has no folder at this beamline, or it is closed.

    Notes
    -----
    See wire reference sf-daq-broker, section 3.5.
    """
    return {"pgroup": check_pgroup(pgroup)}


@_operation("broker", "POST", "POST", reply.retrieval, False, _REQUESTED, "pgroup start_pulseid stop_pulseid")
def retrieve_from_buffers(request: RetrieveRequest) -> Body:
    """Ask for the data of past pulses: one acquisition of a run."""
    return request.to_wire()


@_operation("broker", "POST", "POST", reply.nothing, False, _QUEUED, "pgroup detectors")
def take_pedestal(
    pgroup: str,
    detectors: Sequence[str],
    *,
    rate_multiplicator: int = 1,
    pedestalmode: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Body:
    """Queue a pedestal. The beam must be off the detectors."""
    expected = "a list with at least one detector name"
    given = list(detectors) if isinstance(detectors, Mapping) else detectors
    if not (names := check_items(given, "detectors", expected)):
        raise RequestError("detectors", detectors, expected)
    if not isinstance(pedestalmode, bool):
        raise RequestError("pedestalmode", pedestalmode, "true or false")
    return {
        **check_extra(extra),
        "pgroup": check_pgroup(pgroup),
        "detectors": {check_detector(name, "detectors"): {} for name in names},
        "rate_multiplicator": check_rate_multiplicator(rate_multiplicator),
        "pedestalmode": pedestalmode,
        "run_log_level": RUN_LOG_LEVEL,
    }


@_operation("broker", "GET", "GET", reply.pv_list, expected="pv_list")
def get_pvlist() -> Body:
    """Return the PVs that the beamline's epics buffer records."""
    return None


@_operation("broker", "POST", "POST", reply.stored_pv_list, needs="pv_list")
def set_pvlist(pvs: Iterable[str]) -> Body:
    """Replace the whole list of recorded PVs, and return what was stored.

    The epics buffer restarts: a short gap in all PVs. Two clients can overwrite each other: read, merge,
    compare, and write only a changed list. An empty list erases it.

    Parameters
    ----------
    pvs : iterable of str
        Names of PVs. Each is sent once, in the order given.

    Returns
    -------
    list of str
        The list that the server stored.

    Raises
    ------
    RequestError
        `pvs` is a single text, or one of the names is empty, has blanks around it, or is that of a camera's
        images (``:FPICTURE``). Nothing was sent.

    Notes
    -----
    See wire reference sf-daq-broker, section 3.9.
    """
    return {"pv_list": check_names(pvs, "pv_list")}


@_operation("broker", "POST", "POST", reply.nothing, False, "Closing again is harmless.", "pgroup")
def close_pgroup_writing(pgroup: str) -> Body:
    """Close a pgroup for ever: no more runs, pedestals or copies; archiving starts."""
    return {"pgroup": check_pgroup(pgroup)}


@_operation("slow", "GET", "POST", reply.detector_settings, needs="detector_name")
def get_detector_settings(detector_name: str) -> Body:
    """Return ``exptime`` and ``delay`` (s), ``detector_mode`` and ``gain_mode``.

    Where modules differ, times are lists and the gain mode is ``{mode: [modules]}``; modes may read
    ``"unknown"``.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    dict
        Those of the four settings that the reply has, by name.

    Raises
    ------
    BrokerRefused
        The detector is not of this beamline, or was never configured on the server.

    Notes
    -----
    See wire reference sf-daq-broker, sections 5.3 and 10.
    """
    return _detector(detector_name)


@_operation("slow", "POST", "POST", reply.changed_settings, False, _READ_BACK, "parameters detector_name")
def set_detector_settings(detector_name: str, parameters: Mapping[str, Any]) -> Body:
    """Change hardware settings; stops the trigger of the whole beamline for 8 to 9 s, also for no change."""
    return {
        "detector_name": detector_name,
        "parameters": check_hardware_settings(detector_name, parameters),
    }


@_operation("slow", "GET", None, reply.detector_status, needs="detector_name")
def get_detector_status(detector_name: str) -> Body:
    """Return ``{state: [modules]}``.

    States: idle, error, waiting, run_finished, transmitting, running, stopped. While a detector is being
    powered on, the call can be refused with "No modules added".

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    dict of str to list of int
        The numbers of the modules that are in each state.

    Raises
    ------
    RequestError
        The server speaks the documented dialect, which lacks the call.
    BrokerRefused
        The detector is not of this beamline, or it has no modules on the server (yet).

    Notes
    -----
    See wire reference sf-daq-broker, sections 9 and 10.
    """
    return _detector(detector_name)


@_operation("slow", "GET", None, reply.temperatures, needs="detector_name")
def get_detector_temperatures(detector_name: str) -> Body:
    """Return ``TEMPERATURE_ADC``, ``_FPGA`` and ``_THRESHOLDS``, each a list over modules, degC.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    dict of str to list of float
        The temperatures in degC, one per module, under the full names ``TEMPERATURE_ADC``,
        ``TEMPERATURE_FPGA`` and ``TEMPERATURE_THRESHOLDS``.

    Raises
    ------
    RequestError
        The server speaks the documented dialect, which lacks the call.
    BrokerRefused
        The detector is not of this beamline, or was never configured on the server.

    Notes
    -----
    See wire reference sf-daq-broker, section 10.
    """
    return _detector(detector_name)


@_operation("slow", "GET", None, reply.pings, needs="detector_name")
def get_detector_pings(detector_name: str) -> Body:
    """Return which modules answer on the network; works for detectors that were never configured.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    Pings
        Module numbers: `responding`, and `unreachable`, which means the network or the power cable.

    Raises
    ------
    RequestError
        The server speaks the documented dialect, which lacks the call.
    BrokerRefused
        The detector is not of this beamline.

    Notes
    -----
    See wire reference sf-daq-broker, sections 9 and 10.
    """
    return _detector(detector_name)


@_operation("slow", "GET", None, reply.control_box, needs="detector_name")
def get_jfctrl_monitor(detector_name: str) -> Body:
    """Return ``{"name [unit]": number}`` from the power control box; few detectors have one.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF07T32V02"``: only the installations 2, 6, 7, 15 and 17 have a control box.

    Returns
    -------
    dict of str to float
        Each value under its name, which ends with its unit.

    Raises
    ------
    RequestError
        The server speaks the documented dialect, which lacks the call.
    BrokerRefused
        The detector is not of this beamline, or it has no control box.

    Notes
    -----
    See wire reference sf-daq-broker, section 10.
    """
    return _detector(detector_name)


@_operation("slow", "GET", None, reply.jfstats, needs="det")
def get_jfstats(detector_name: str) -> Body:
    """Return temperatures and, where there is a control box, its values and whether data are written.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    JfStats
        `temperatures` as of `get_detector_temperatures`; `parameters` and `writing` are None without a
        control box.

    Raises
    ------
    RequestError
        The server speaks the documented dialect, which lacks the call.
    BrokerRefused
        The detector is not of this beamline, or was never configured on the server.

    Notes
    -----
    See wire reference sf-daq-broker, section 10.
    """
    return {"det": check_detector(detector_name)}


@_operation("slow", "POST", None, reply.nothing, needs="modules detector_name")
def power_on_modules(detector_name: str, modules: Iterable[int]) -> Body:
    """Switch chip power and high voltage (120 V) of single modules on; 1 s.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.
    modules : iterable of int
        Their numbers, at least one, counted from 0.

    Raises
    ------
    RequestError
        The detector has no such module, none was given, or the server speaks the documented dialect, which
        lacks the call. Nothing was sent.
    BrokerRefused
        The detector is not of this beamline, or was never configured on the server.

    Notes
    -----
    See wire reference sf-daq-broker, section 10.
    """
    return _modules(detector_name, modules)


@_operation("slow", "POST", None, reply.nothing, needs="modules detector_name")
def power_off_modules(detector_name: str, modules: Iterable[int]) -> Body:
    """Switch chip power and high voltage of single modules off.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.
    modules : iterable of int
        Their numbers, at least one, counted from 0.

    Raises
    ------
    RequestError
        The detector has no such module, none was given, or the server speaks the documented dialect, which
        lacks the call. Nothing was sent.
    BrokerRefused
        The detector is not of this beamline, or was never configured on the server.

    Notes
    -----
    See wire reference sf-daq-broker, section 10.
    """
    return _modules(detector_name, modules)


@_operation("slow", "POST", "POST", reply.copied_files, needs="pgroup run_number")
def copy_user_files(pgroup: str, run_number: int, files: Iterable[str]) -> Body:
    """Copy files into ``aux/`` of a run; what is there under the same name is overwritten."""
    files = [str(file) for file in check_items(files, "files", "a list of absolute paths")]
    names: dict[str, str] = {}
    for file in files:
        path = PurePosixPath(file)
        if not path.is_absolute():
            raise RequestError("files", file, "absolute paths")
        if names.setdefault(path.name, file) != file:
            raise RequestError("files", file, f"another name than {names[path.name]}: it would overwrite it")
    return {"pgroup": check_pgroup(pgroup), "run_number": check_int(run_number, "run_number"), "files": files}


@_operation("slow", "GET", "POST", reply.dap_settings, needs="detector_name")
def get_dap_settings(detector_name: str) -> Body:
    """Return the settings of a detector's online analysis.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.

    Returns
    -------
    dict
        All settings that the server has stored, by name.

    Raises
    ------
    BrokerRefused
        The detector is not of this beamline, or has no settings there.

    Notes
    -----
    The names and their types are in wire reference sf-daq-broker, section 5.2.
    """
    return _detector(detector_name)


@_operation("slow", "POST", "POST", reply.changed_dap_settings, needs="parameters detector_name")
def set_dap_settings(detector_name: str, parameters: Mapping[str, Any]) -> Body:
    """Merge settings into a detector's online analysis and return what changed, ``{name: (old, new)}``.

    Of two clients, the last writer wins per setting.

    Parameters
    ----------
    detector_name : str
        E.g. ``"JF01T03V01"``, a detector of this beamline.
    parameters : mapping
        At least one setting, by name. The four lists of regions (``roi_x1``, ``roi_x2``, ``roi_y1``,
        ``roi_y2``) are of one length.

    Returns
    -------
    dict of str to (old, new)
        Only the settings that had another value before.

    Raises
    ------
    RequestError
        A name is unknown, or a value is of the wrong type; nothing was sent. The server checks neither.
    BrokerRefused
        The detector is not of this beamline; or, in the documented dialect, has no settings there.

    Notes
    -----
    See wire reference sf-daq-broker, sections 5.2 (names and types) and 10.3.
    """
    return {"detector_name": detector_name, "parameters": check_dap_settings(detector_name, parameters)}


@_operation(
    "slow", "POST", None, reply.nothing, False, "Uploading the same script again is harmless.", "name code"
)
def upload_custom_dap_script(name: str, code: str) -> Body:
    """Upload an analysis script for this beamline.

    The server tries it with one image, at most 0.1 s, and does not notice exceptions inside it.

    Parameters
    ----------
    name : str
        File name without directory; ``.py`` is added.
    code : str
        Defines ``proc(meta, image, mask)`` or a function named like the file. Parsed here, not run.

    Raises
    ------
    RequestError
        The name is no identifier, the code is no Python or lacks the function, the request is larger than the
        server reads (`MAX_BODY`), or the dialect is the documented one, which lacks the call. Nothing was
        sent.
    BrokerRefused
        The server did not take the script.
    UnknownOutcome
        The reply was lost; uploading the same script again is harmless.

    Notes
    -----
    See wire reference sf-daq-broker, section 10.4.
    """
    return {"name": check_script(name, code), "code": code}


def _detector(detector_name: str) -> dict[str, Any]:
    return {"detector_name": check_detector(detector_name)}


def _modules(detector_name: str, modules: Iterable[int]) -> dict[str, Any]:
    checked = check_modules(modules, check_detector(detector_name))
    if not checked:
        raise RequestError("modules", checked, "at least one module number")
    return {"detector_name": detector_name, "modules": checked}


def check_script(name: str, code: str) -> str:
    """Return the file name of a custom analysis script, which is parsed and never run.

    Parameters
    ----------
    name : str
        A Python identifier, with or without ``.py``.
    code : str
        The script.

    Returns
    -------
    str
        `name` with ``.py``.

    Raises
    ------
    RequestError
        The server could not use it: the name is no identifier, or the code is no Python, or it defines
        neither ``proc`` nor a function named like the file.
    """
    stem = name.removesuffix(".py") if isinstance(name, str) else name
    if not isinstance(stem, str) or not stem.isidentifier():
        raise RequestError("name", name, "a Python identifier, without directories")
    if not isinstance(code, str):
        raise RequestError("code", code, "the script as text")
    try:
        tree = ast.parse(code, f"{stem}.py")
    except (SyntaxError, ValueError, RecursionError) as exc:
        raise RequestError("code", code, f"Python code ({exc})") from exc
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not functions & {"proc", stem}:
        raise RequestError("code", code, f"a function proc(meta, image, mask), or one named {stem}")
    return f"{stem}.py"
