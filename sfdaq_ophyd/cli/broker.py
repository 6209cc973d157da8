"""``sfdaq broker``: one subcommand per call of the sf-daq broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..clients.broker import BrokerClient
from .broker_call import (
    Detector,
    Pgroup,
    call,
    changes_table,
    detector_table,
    lines,
    module_table,
    parsed_json,
    read_text,
    running_table,
    settings_table,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Talk to the sf-daq broker. The address comes from --url or SFDAQ_BROKER_URL.\n\n"
    "Example: sfdaq broker get-running-detectors --url http://sf-daq:10002",
)

Rate = Annotated[int, typer.Option("--rate", help="Detectors run at 100 Hz divided by this.")]


@call(app, detector_table)
def get_allowed_detectors(client: BrokerClient):
    """Table of the detectors of this console's beamline.

    Example: sfdaq broker get-allowed-detectors --json
    """
    return client.get_allowed_detectors()


@call(app, running_table)
def get_running_detectors(client: BrokerClient):
    """Table of running, limping and missing detectors, with their modules.

    Example: sfdaq broker get-running-detectors
    """
    return client.get_running_detectors()


@call(app, lines)
def power_on_detector(client: BrokerClient, detector: Detector):
    """Queue a full restart of a detector; the trigger of the beamline stops meanwhile.

    Example: sfdaq broker power-on-detector JF01T03V01
    """
    return {"message": client.power_on_detector(detector)}


@call(app, lines)
def advance_run_number(client: BrokerClient, pgroup: Pgroup):
    """Take a new run number.

    Example: sfdaq broker advance-run-number p12345
    """
    return {"run_number": client.advance_run_number(pgroup)}


@call(app, lines)
def get_current_run_number(client: BrokerClient, pgroup: Pgroup):
    """Show the last run number given out, by whomever it was taken.

    Example: sfdaq broker get-current-run-number p12345
    """
    return {"run_number": client.get_current_run_number(pgroup)}


@call(app, lines)
def retrieve_from_buffers(
    client: BrokerClient,
    pgroup: Annotated[str | None, typer.Argument(help="Not needed with --request.")] = None,
    first: Annotated[int | None, typer.Option(help="First pulse id.")] = None,
    last: Annotated[int | None, typer.Option(help="Last pulse id, included.")] = None,
    run_number: Annotated[
        int | None, typer.Option(help="A number taken before; default takes a new one.")
    ] = None,
    detector: Annotated[
        list[str] | None, typer.Option(help='NAME, or NAME={"parameter": value, ...}; may be repeated.')
    ] = None,
    channel: Annotated[list[str] | None, typer.Option(help="Beam-synchronous channel.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Camera image, ending in :FPICTURE.")] = None,
    pv: Annotated[list[str] | None, typer.Option(help="EPICS PV.")] = None,
    rate: Rate = 1,
    tag: Annotated[str | None, typer.Option(help="Free text, stored with the acquisition.")] = None,
    tag_in_directory: Annotated[
        bool, typer.Option(help="Put the tag into the name of the run directory.")
    ] = False,
    request: Annotated[
        Path | None, typer.Option(help="A JSON file like acqNNNN.json, in place of all others.")
    ] = None,
):
    """Ask for the data of past pulses: one acquisition of a run.

    Example: sfdaq broker retrieve-from-buffers p12345 --first 21000000000 --last 21000000099 --pv SAR:X
    """
    from ..wire.broker_request import RetrieveRequest

    body = parsed_json("request", read_text("request", request)) if request else {}
    if request is None:
        given = {
            "pgroup": pgroup,
            "start_pulseid": first,
            "stop_pulseid": last,
            "run_number": run_number,
            "rate_multiplicator": rate,
            "user_tag": tag,
            "append_user_tag_to_data_dir": tag_in_directory,
            "detectors": dict(_detector_option(text) for text in detector or ()),
            "channels_list": channel,
            "camera_list": camera,
            "pv_list": pv,
        }
        body = {key: value for key, value in given.items() if value is not None}
    return client.retrieve_from_buffers(RetrieveRequest.from_wire(body))


def _detector_option(text: str) -> tuple[str, dict]:
    name, _, parameters = text.partition("=")
    return name, parsed_json("detector", parameters) if parameters else {}


@call(app, lines)
def take_pedestal(
    client: BrokerClient,
    pgroup: Pgroup,
    detectors: Annotated[list[str], typer.Argument(help="Detector names.")],
    rate: Rate = 1,
    pedestalmode: Annotated[bool, typer.Option(help="The detector switches gains itself.")] = False,
):
    """Queue a pedestal. The beam must be off the detectors.

    Example: sfdaq broker take-pedestal p12345 JF01T03V01
    """
    seconds = client.take_pedestal(pgroup, detectors, rate_multiplicator=rate, pedestalmode=pedestalmode)
    return {"wait_at_least_s": seconds}


@call(app, lines)
def get_pvlist(client: BrokerClient):
    """List the PVs that the beamline's epics buffer records.

    Example: sfdaq broker get-pvlist
    """
    return {"pv_list": client.get_pvlist()}


@call(app, lines)
def set_pvlist(
    client: BrokerClient,
    pvs: Annotated[list[str] | None, typer.Argument(help="The whole new list.")] = None,
    file: Annotated[Path | None, typer.Option(help="One name per line, in place of arguments.")] = None,
    erase: Annotated[bool, typer.Option(help="Needed to store an empty list.")] = False,
):
    """Replace the whole list of recorded PVs; the epics buffer restarts.

    Example: sfdaq broker set-pvlist --file pvs.txt
    """
    from ..errors import RequestError

    names = (
        [line.strip() for line in read_text("file", file).splitlines() if line.strip()] if file else pvs or []
    )
    if not names and not erase:
        raise RequestError("pvs", names, "at least one name, or --erase")
    return {"pv_list": client.set_pvlist(names)}


@call(app, lines)
def close_pgroup_writing(
    client: BrokerClient,
    pgroup: Pgroup,
    confirm: Annotated[str | None, typer.Option(help="The pgroup once more; asked for if not given.")] = None,
):
    """Close a pgroup for ever: no more runs, pedestals or copies; archiving starts.

    Example: sfdaq broker close-pgroup-writing p12345 --confirm p12345
    """
    if confirm is None:
        confirm = typer.prompt(f"This cannot be undone. Type {pgroup} once more")
    client.close_pgroup_writing(pgroup, confirm=confirm)
    return {"closed": pgroup}


Settings = Annotated[list[str], typer.Argument(help="NAME=VALUE; values are JSON, bare words are texts.")]
Modules = Annotated[list[int], typer.Argument(help="Module numbers.")]


@call(app, settings_table)
def get_detector_settings(client: BrokerClient, detector: Detector):
    """Table of exposure time, delay, detector mode and gain mode.

    Example: sfdaq broker get-detector-settings JF01T03V01
    """
    return client.get_detector_settings(detector)


@call(app, changes_table)
def set_detector_settings(client: BrokerClient, detector: Detector, settings: Settings):
    """Change hardware settings; stops the trigger of the whole beamline for 8 s.

    Example: sfdaq broker set-detector-settings JF01T03V01 exptime=5e-6 gain_mode=dynamic
    """
    changed = client.set_detector_settings(detector, _settings(settings))
    return {} if changed is None else changed


@call(app, lines)
def get_detector_status(client: BrokerClient, detector: Detector):
    """Show modules by state.

    Example: sfdaq broker get-detector-status JF01T03V01
    """
    return client.get_detector_status(detector)


@call(app, module_table)
def get_detector_temperatures(client: BrokerClient, detector: Detector):
    """Table of temperatures per module, degC.

    Example: sfdaq broker get-detector-temperatures JF01T03V01
    """
    return client.get_detector_temperatures(detector)


@call(app, lines)
def get_detector_pings(client: BrokerClient, detector: Detector):
    """Show which modules answer on the network.

    Example: sfdaq broker get-detector-pings JF01T03V01
    """
    return client.get_detector_pings(detector)


@call(app, settings_table)
def get_jfctrl_monitor(client: BrokerClient, detector: Detector):
    """Show what the power control box says.

    Example: sfdaq broker get-jfctrl-monitor JF07T32V02
    """
    return client.get_jfctrl_monitor(detector)


@call(app, lines)
def get_jfstats(client: BrokerClient, detector: Detector):
    """Show temperatures, control box and whether data are written.

    Example: sfdaq broker get-jfstats JF07T32V02
    """
    return client.get_jfstats(detector)


@call(app, lines)
def power_on_modules(client: BrokerClient, detector: Detector, modules: Modules):
    """Switch chip power and high voltage of modules on.

    Example: sfdaq broker power-on-modules JF01T03V01 0 2
    """
    client.power_on_modules(detector, modules)
    return {"powered_on": modules}


@call(app, lines)
def power_off_modules(client: BrokerClient, detector: Detector, modules: Modules):
    """Switch chip power and high voltage of modules off.

    Example: sfdaq broker power-off-modules JF01T03V01 0 2
    """
    client.power_off_modules(detector, modules)
    return {"powered_off": modules}


@call(app, lines)
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


@call(app, settings_table)
def get_dap_settings(client: BrokerClient, detector: Detector):
    """Table of the settings of the online analysis.

    Example: sfdaq broker get-dap-settings JF01T03V01
    """
    return client.get_dap_settings(detector)


@call(app, changes_table)
def set_dap_settings(client: BrokerClient, detector: Detector, settings: Settings):
    """Merge settings into the online analysis.

    Example: sfdaq broker set-dap-settings JF01T03V01 detector_distance=0.092 laser_on=true
    """
    return client.set_dap_settings(detector, _settings(settings))


@call(app, lines)
def upload_custom_dap_script(
    client: BrokerClient,
    file: Annotated[Path, typer.Argument(help="A Python file that defines proc(meta, image, mask).")],
):
    """Upload a script for the online analysis.

    Example: sfdaq broker upload-custom-dap-script total.py
    """
    client.upload_custom_dap_script(file.stem, read_text("file", file))
    return {"uploaded": file.stem}


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
