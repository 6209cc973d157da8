"""Calls of the slow broker, port 10003: detector settings and state, user files, online analysis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..errors import BrokerRefused, RequestError
from ..wire import broker_operations as ops
from ..wire.broker_parameters import check_detector, check_int, check_items, check_modules, check_pgroup
from ..wire.broker_reply import CopiedFiles, JfStats, Pings, copied_files
from ..wire.broker_settings import check_dap_settings, check_hardware_settings, check_script
from .broker_transport import BrokerTransport


class SlowCalls(BrokerTransport):
    """Calls to port 10003; see `BrokerClient`."""

    def get_detector_settings(self, detector_name: str) -> dict[str, Any]:
        """Return ``exptime`` and ``delay`` (s), ``detector_mode`` and ``gain_mode``.

        Where modules differ, times are lists and the gain mode is ``{mode: [modules]}``; modes may read
        ``"unknown"``.
        """
        return self.call(ops.GET_DETECTOR_SETTINGS, _detector(detector_name))

    def set_detector_settings(
        self, detector_name: str, parameters: Mapping[str, Any], *, timeout: float | None = None
    ) -> dict[str, tuple[Any, Any]] | None:
        """Change hardware settings; stops the trigger of the whole beamline for 8 to 9 s, also for no change.

        Parameters
        ----------
        parameters : mapping
            Any of ``exptime``, ``delay`` (s), ``detector_mode``, ``gain_mode``; all checked before.

        Returns
        -------
        dict of str to (old, new), or None
            What changed; None in the documented dialect, which does not tell.

        Raises
        ------
        BrokerRefused
            If `nothing_done` is False, earlier values stay changed and the trigger is left stopped.
        UnknownOutcome
            Read back, check the trigger PV, then repeat.
        """
        checked = check_hardware_settings(detector_name, parameters)
        body = {"detector_name": detector_name, "parameters": checked}
        if self.dialect == "documented":
            body |= checked  # the 2023 server reads them here, the document shows them there
        return self.call(ops.SET_DETECTOR_SETTINGS, body, timeout=timeout)

    def get_detector_status(self, detector_name: str) -> dict[str, list[int]]:
        """Return ``{state: [modules]}``.

        States: idle, error, waiting, run_finished, transmitting, running, stopped. While a detector is
        being powered on, the call can be refused with "No modules added".
        """
        return self.call(ops.GET_DETECTOR_STATUS, _detector(detector_name))

    def get_detector_temperatures(self, detector_name: str) -> dict[str, list[float]]:
        """Return ``TEMPERATURE_ADC``, ``_FPGA`` and ``_THRESHOLDS``, each a list over modules, degC."""
        return self.call(ops.GET_DETECTOR_TEMPERATURES, _detector(detector_name))

    def get_detector_pings(self, detector_name: str) -> Pings:
        """Return which modules answer on the network; works for detectors that were never configured."""
        return self.call(ops.GET_DETECTOR_PINGS, _detector(detector_name))

    def get_jfctrl_monitor(self, detector_name: str) -> dict[str, float]:
        """Return ``{"name [unit]": number}`` from the power control box; few detectors have one."""
        return self.call(ops.GET_JFCTRL_MONITOR, _detector(detector_name))

    def get_jfstats(self, detector_name: str) -> JfStats:
        """Return temperatures and, where there is a control box, its values and whether data are written."""
        return self.call(ops.GET_JFSTATS, {"det": check_detector(detector_name)})

    def power_on_modules(self, detector_name: str, modules: Iterable[int]) -> None:
        """Switch chip power and high voltage (120 V) of single modules on; 1 s."""
        self.call(ops.POWER_ON_MODULES, _modules(detector_name, modules))

    def power_off_modules(self, detector_name: str, modules: Iterable[int]) -> None:
        """Switch chip power and high voltage of single modules off."""
        self.call(ops.POWER_OFF_MODULES, _modules(detector_name, modules))

    def copy_user_files(self, pgroup: str, run_number: int, files: Iterable[str]) -> CopiedFiles:
        """Copy files into ``aux/`` of a run; what is there under the same name is overwritten.

        Parameters
        ----------
        run_number : int
            A run that has data already.
        files : iterable of str
            Absolute paths readable by the server, of the pgroup's group.

        Returns
        -------
        CopiedFiles
            Look at `failed`: a file that could not be copied does not stop the others and raises nothing.
        """
        files = [str(file) for file in check_items(files, "files", "a list of absolute paths")]
        names: dict[str, str] = {}
        for file in files:
            path = PurePosixPath(file)
            if not path.is_absolute():
                raise RequestError("files", file, "absolute paths")
            if names.setdefault(path.name, file) != file:
                raise RequestError(
                    "files", file, f"another name than {names[path.name]}: it would overwrite it"
                )
        body = {
            "pgroup": check_pgroup(pgroup),
            "run_number": check_int(run_number, "run_number"),
            "files": files,
        }
        try:
            result = self.call(ops.COPY_USER_FILES, body)
        except BrokerRefused as exc:
            if "error_files" not in exc.reply:
                raise
            result = copied_files(exc.reply, self.dialect)
        if self.dialect == "documented":
            copied = {names.get(name, path): path for name, path in result.copied.items()}
            return CopiedFiles(copied, result.failed)
        return result

    def get_dap_settings(self, detector_name: str) -> dict[str, Any]:
        """Return the settings of a detector's online analysis."""
        return self.call(ops.GET_DAP_SETTINGS, _detector(detector_name))

    def set_dap_settings(
        self, detector_name: str, parameters: Mapping[str, Any]
    ) -> dict[str, tuple[Any, Any]]:
        """Merge settings into a detector's online analysis and return what changed, ``{name: (old, new)}``.

        Of two clients, the last writer wins per setting.
        """
        body = {
            "detector_name": detector_name,
            "parameters": check_dap_settings(detector_name, parameters),
        }
        return self.call(ops.SET_DAP_SETTINGS, body)

    def upload_custom_dap_script(self, name: str, code: str) -> None:
        """Upload an analysis script for this beamline.

        The server tries it with one image, at most 0.1 s, and does not notice exceptions inside it.

        Parameters
        ----------
        name : str
            File name without directory; ``.py`` is added.
        code : str
            Defines ``proc(meta, image, mask)`` or a function named like the file. Parsed here, not run.
        """
        self.call(ops.UPLOAD_CUSTOM_DAP_SCRIPT, {"name": check_script(name, code), "code": code})


def _detector(detector_name: str) -> dict[str, str]:
    return {"detector_name": check_detector(detector_name)}


def _modules(detector_name: str, modules: Iterable[int]) -> dict[str, Any]:
    checked = check_modules(modules, check_detector(detector_name))
    if not checked:
        raise RequestError("modules", checked, "at least one module number")
    return {"detector_name": detector_name, "modules": checked}
