"""Subcommands of ``sfdaq broker`` for the slow broker: settings, state, user files, online analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..clients.broker import BrokerClient
from .broker_call import Detector, Pgroup, call, parsed_json, read_text
from .broker_tables import changes_table, lines, module_table, settings_table

Settings = Annotated[list[str], typer.Argument(help="NAME=VALUE; values are JSON, bare words are texts.")]
Modules = Annotated[list[int], typer.Argument(help="Module numbers.")]


def register(app: typer.Typer) -> None:
    """Add the subcommands to the group."""
    for function, show in _COMMANDS.items():
        call(app, show)(function)


def get_detector_settings(client: BrokerClient, detector: Detector):
    """Table of exposure time, delay, detector mode and gain mode.

    Example: sfdaq broker get-detector-settings JF01T03V01
    """
    return client.get_detector_settings(detector)


def set_detector_settings(client: BrokerClient, detector: Detector, settings: Settings):
    """Change hardware settings; stops the trigger of the whole beamline for 8 s.

    Example: sfdaq broker set-detector-settings JF01T03V01 exptime=5e-6 gain_mode=dynamic
    """
    changed = client.set_detector_settings(detector, _settings(settings))
    return {} if changed is None else changed


def get_detector_status(client: BrokerClient, detector: Detector):
    """Show modules by state.

    Example: sfdaq broker get-detector-status JF01T03V01
    """
    return client.get_detector_status(detector)


def get_detector_temperatures(client: BrokerClient, detector: Detector):
    """Table of temperatures per module, degC.

    Example: sfdaq broker get-detector-temperatures JF01T03V01
    """
    return client.get_detector_temperatures(detector)


def get_detector_pings(client: BrokerClient, detector: Detector):
    """Show which modules answer on the network.

    Example: sfdaq broker get-detector-pings JF01T03V01
    """
    return client.get_detector_pings(detector)


def get_jfctrl_monitor(client: BrokerClient, detector: Detector):
    """Show what the power control box says.

    Example: sfdaq broker get-jfctrl-monitor JF07T32V02
    """
    return client.get_jfctrl_monitor(detector)


def get_jfstats(client: BrokerClient, detector: Detector):
    """Show temperatures, control box and whether data are written.

    Example: sfdaq broker get-jfstats JF07T32V02
    """
    return client.get_jfstats(detector)


def power_on_modules(client: BrokerClient, detector: Detector, modules: Modules):
    """Switch chip power and high voltage of modules on.

    Example: sfdaq broker power-on-modules JF01T03V01 0 2
    """
    client.power_on_modules(detector, modules)
    return {"powered_on": modules}


def power_off_modules(client: BrokerClient, detector: Detector, modules: Modules):
    """Switch chip power and high voltage of modules off.

    Example: sfdaq broker power-off-modules JF01T03V01 0 2
    """
    client.power_off_modules(detector, modules)
    return {"powered_off": modules}


def copy_user_files(
    client: BrokerClient,
    pgroup: Pgroup,
    run_number: Annotated[int, typer.Argument(help="A run that has data.")],
    files: Annotated[list[str], typer.Argument(help="Absolute paths on the server.")],
):
    """Copy files into aux/ of a run; exit code 1 if any failed.

    Example: sfdaq broker copy-user-files p12345 7 /sf/bernina/data/p12345/res/notes.txt
    """
    from ..errors import SfdaqError

    result = client.copy_user_files(pgroup, run_number, files)
    if result.failed:
        reasons = "; ".join(f"{file}: {reason or 'not copied'}" for file, reason in result.failed.items())
        raise SfdaqError(f"{len(result.copied)} files copied, {len(result.failed)} not: {reasons}")
    return result


def get_dap_settings(client: BrokerClient, detector: Detector):
    """Table of the settings of the online analysis.

    Example: sfdaq broker get-dap-settings JF01T03V01
    """
    return client.get_dap_settings(detector)


def set_dap_settings(client: BrokerClient, detector: Detector, settings: Settings):
    """Merge settings into the online analysis.

    Example: sfdaq broker set-dap-settings JF01T03V01 detector_distance=0.092 laser_on=true
    """
    return client.set_dap_settings(detector, _settings(settings))


def upload_custom_dap_script(
    client: BrokerClient,
    file: Annotated[Path, typer.Argument(help="A Python file that defines proc(meta, image, mask).")],
):
    """Upload a script for the online analysis.

    Example: sfdaq broker upload-custom-dap-script total.py
    """
    client.upload_custom_dap_script(file.stem, read_text("file", file))
    return {"uploaded": file.stem}


_COMMANDS = {
    get_detector_settings: settings_table,
    set_detector_settings: changes_table,
    get_detector_status: lines,
    get_detector_temperatures: module_table,
    get_detector_pings: lines,
    get_jfctrl_monitor: settings_table,
    get_jfstats: lines,
    power_on_modules: lines,
    power_off_modules: lines,
    copy_user_files: lines,
    get_dap_settings: settings_table,
    set_dap_settings: changes_table,
    upload_custom_dap_script: lines,
}


def _settings(texts: list[str]) -> dict:
    """Read NAME=VALUE arguments; what is not JSON is a text."""
    from ..errors import RequestError

    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise RequestError("settings", text, "NAME=VALUE")
        try:
            settings[name] = parsed_json(name, value)
        except RequestError:
            settings[name] = value
    return settings
