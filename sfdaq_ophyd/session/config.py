"""What ``sfdaq.yaml`` may hold: one model per block, every key with its meaning and its check."""

from __future__ import annotations

import builtins
import keyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from ..errors import shown_url
from ..wire.broker import BEAMLINES
from ..wire.detector_name import DetectorName


def _address(url: str) -> str:
    """Refuse an address whose host or port cannot be read."""
    scheme = url.partition(":")[0]
    try:
        parts = urlsplit(url)
        is_one = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError(f"{shown_url(url)!r}: expected {scheme}://host:port")
    return url


def _of_user(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as exc:
        raise ValueError(f"{str(path)!r:.80}: there is no such user") from exc


Http = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+"), AfterValidator(_address)]
HttpOrSocket = Annotated[
    str, StringConstraints(pattern=r"^(https?|wss?)://[^/\s]+"), AfterValidator(_address)
]
Tcp = Annotated[str, StringConstraints(pattern=r"^tcp://[^:\s]+:\d+$"), AfterValidator(_address)]
Pv = Annotated[str, StringConstraints(pattern=r"^[^\s{}]+$", max_length=100)]
Pgroup = Annotated[str, StringConstraints(pattern=r"^p\d{5}$")]
UserPath = Annotated[Path, AfterValidator(_of_user)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Whole = Annotated[int, Field(strict=True)]


class Block(BaseModel):
    """A block of the file; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _Device(Block):
    labels: list[str] = Field([], description="groups for %wa and %ct, beside that of the class")
    set: dict[str, Any] = Field(
        {}, description="signals to their values at the start; only settings kept here"
    )


class MotorConfig(_Device):
    """An EPICS motor record."""

    cls: Literal["Motor"] = Field(alias="class")
    pv: Pv = Field(description="of the record")


class SignalConfig(_Device):
    """A PV to read, and with class Signal to write."""

    cls: Literal["Signal", "ReadOnly"] = Field(alias="class")
    pv: Pv = Field(description="its name")
    string: bool = Field(False, description="read an enum as its text")


class PulseIdConfig(_Device):
    """The machine's pulse id."""

    cls: Literal["PulseId"] = Field(alias="class")
    pv: Pv = Field(description="its name")


class FileDetectorConfig(_Device):
    """A detector whose frames go into files."""

    directory: UserPath = Field(
        Path("frames"), description="where files go; relative to the file's `directory`"
    )


class EigerConfig(FileDetectorConfig):
    """An Eiger over SIMPLON."""

    cls: Literal["Eiger"] = Field(alias="class")
    url: Http = Field(description="of the detector control unit")
    api_version: Literal["1.6.0", "1.8.0"] | None = Field(None, description="default: asked of the server")
    mode: Literal["internal", "external", "monitor", "auto"] | None = Field(None, description="who runs it")
    readout: Literal["monitor", "stream", "filewriter"] = Field(
        "monitor", description="where images come from; stream and filewriter: every frame at full rate"
    )
    stream: Tcp | None = Field(None, description="of the stream; default: port 31001 of the host of `url`")
    files: UserPath | None = Field(
        None, description="folder in which the filewriter's files appear; default: they are fetched"
    )
    delete_files: bool = Field(False, description="delete them on the unit once they are here and whole")
    legacy_ids: Literal["refuse", "status", "local"] = Field("refuse", description="ids of API 1.6")
    timeout: Positive = Field(10.0, description="s of an HTTP call")

    @property
    def stream_endpoint(self) -> str:
        """Address of the stream: the one that is given, else port 31001 of the host of `url`."""
        from ..clients.eiger_stream import stream_of

        return self.stream or stream_of(self.url)


SHARED_OUT = "not asked: its images are shared out among those who listen"
"""What is said of an assembled stream that pushes: each of its images goes to one listener."""


class ConstantsConfig(Block):
    """Files and options of a Jungfrau's calibration, read when the detector is first staged."""

    gain_file: UserPath | list[UserPath] = Field(
        description="HDF5 file, or one binary file per module; relative to the file's `directory`"
    )
    pedestal_file: UserPath | list[UserPath] = Field(
        description=".res.h5, or one of OM's dark files per module"
    )
    pixel_mask_file: UserPath | None = Field(None, description="a further mask")
    options: dict[str, Any] = Field({}, description="of JungfrauCalibration, e.g. gap_pixels: false")


class ControlConfig(Block):
    """What a broker does to a Jungfrau while it is staged; set back at unstage."""

    broker: str = Field(description="name of a SfDaqBroker of `devices`")
    settings: dict[str, Any] = Field({}, description="any of exptime, delay (s), detector_mode, gain_mode")
    power_on: list[Whole] = Field([], description="modules that have power only while staged")


class JungfrauConfig(FileDetectorConfig):
    """A Jungfrau through its image streams."""

    cls: Literal["Jungfrau"] = Field(alias="class")
    detector_name: str = Field(pattern=r"^JF\d\dT\d\dV\d\d$", description="e.g. JF01T03V01")
    endpoints: list[Tcp] = Field(
        min_length=1, max_length=64, description="all of its modules, one per port; or the assembled one"
    )
    stream: Literal["modules", "assembled"] = Field("modules", description="which streams")
    pulse_id: str = Field(
        "", description="name of a PulseId of `devices`; frames before a trigger do not count"
    )
    constants: ConstantsConfig | None = Field(None, description="without them images stay raw")
    photon_energy: Positive | None = Field(None, description="keV; calibrated images then count photons")
    event_id: Literal["pulse", "frame"] = Field(
        "pulse", description="what event ids are: pulse ids or frame numbers"
    )
    frame_step: Whole | None = Field(
        None, ge=0, description="frame numbers grow by this, a jump is a lost frame; 0: jumps mean nothing"
    )
    rate_multiplicator: Whole = Field(1, ge=1, description="100 Hz / detector rate")
    disabled_modules: list[Whole] = Field([], description="modules that the assembled stream leaves out")
    converted_shape: tuple[Whole, Whole] | None = Field(
        None, description="rows and columns of an assembled stream that carries keV"
    )
    pull: bool = Field(False, description="the assembled stream is sf-daq's live (PUSH) one")
    control: ControlConfig | None = Field(None, description="settings while staged, through a broker")
    stream_options: dict[str, Any] = Field({}, description="e.g. incomplete: drop, max_age: 0.5")

    @model_validator(mode="after")
    def _all_endpoints(self) -> JungfrauConfig:
        n, n_modules = len(self.endpoints), DetectorName.parse(self.detector_name).n_modules
        if len(set(self.endpoints)) < n:
            raise ValueError("endpoints: one is there twice")
        if self.stream == "assembled" and n != 1:
            raise ValueError(f"endpoints: {n}, expected the one of the assembled stream")
        if self.stream == "modules" and (self.disabled_modules or self.converted_shape or self.pull):
            raise ValueError("disabled_modules, converted_shape, pull: only with `stream: assembled`")
        if self.stream == "modules" and n not in (n_modules, 2 * n_modules):
            raise ValueError(
                f"endpoints: {n}, expected all of {self.detector_name}: {n_modules}, or with two interfaces "
                f"{2 * n_modules}"
            )
        return self


class StdDaqWriterConfig(FileDetectorConfig):
    """A standard DAQ."""

    cls: Literal["StdDaqWriter"] = Field(alias="class")
    url: HttpOrSocket = Field(description="of the REST service; ws:// of a DAQ with control by websocket")
    config_url: Http | None = Field(None, description="of its configuration; default: port 5000 beside ws://")
    user: str = Field("sfdaq", min_length=1, description="as whom that is asked")
    redis_url: str | None = Field(None, pattern=r"^redis(s)?://.+$", description="of its Redis")
    dialect: Literal["auto", "flask", "fastapi", "websocket"] = Field("auto", description="which generation")
    template: str = Field(
        "{name}_{run_id}.h5", description="file names; also `{pgroup} {run_number} {scan_id} {point}`"
    )
    mounted: dict[str, str] = Field({}, description="folder on the DAQ's hosts to the same folder here")

    @property
    def by_websocket(self) -> bool:
        """Whether it is said here that it is controlled by websocket; with "auto" it is found out."""
        return self.dialect == "websocket" or self.url.startswith("ws")


class SfDaqBrokerConfig(_Device):
    """The sf-daq broker."""

    cls: Literal["SfDaqBroker"] = Field(alias="class")
    url: Http = Field(description="of the broker")
    slow_url: Http | None = Field(None, description="of the slow one; default: the next port")
    pgroup: Pgroup | None = Field(None, description="default: that of the file")
    pulse_id: str = Field("", description="name of a PulseId of `devices`; default: the beamline's PV")
    detectors: dict[str, dict[str, Any] | None] = Field({}, description="name to parameters")
    channels: list[str] = Field([], description="beam-synchronous channels")
    cameras: list[str] = Field([], description="cameras")
    pvs: list[str] = Field([], description="slow PVs")
    n_pulses: Whole = Field(1, ge=1, description="per acquisition")
    rate_multiplicator: Whole = Field(1, ge=1, description="100 Hz / detector rate")
    beam_rate: Pv | None = Field(None, description="PV of the repetition rate, for the check before a run")
    event_code: Pv | None = Field(None, description="PV of the beamline's trigger; default: the beamline's")
    sf_root: UserPath = Field(Path("/sf"), description="where the DAQ's /sf is mounted here")
    directory: UserPath = Field(Path("runs"), description="run tables; relative to the file's `directory`")
    register_files: Literal["run", "late"] = Field("run", description="when files are registered")
    check: bool = Field(True, description="check everything before each run")
    dialect: Literal["current", "documented", "auto"] = Field("current", description="of the service")


DeviceConfig = Annotated[
    MotorConfig
    | SignalConfig
    | PulseIdConfig
    | EigerConfig
    | JungfrauConfig
    | StdDaqWriterConfig
    | SfDaqBrokerConfig,
    Field(discriminator="cls"),
]


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]

SESSION_NAMES = frozenset(
    """
    In Out Path RE annotated bec bp bpp bps catalog configure_daq copy_user_files count exit facility fly
    get_ipython grid_scan list_grid_scan list_scan log_scan mv mvr open_session power_on preflight quit
    re_retrieve register_magics rel_grid_scan rel_list_grid_scan rel_list_scan rel_log_scan rel_scan
    retrieve_from_buffers scan sd session set_dap_settings set_detector_settings sf_count sf_grid_scan
    sf_list_scan sf_scan sleep spiral take_pedestal update_pv_list write_images
    """.split()
)
"""What the startup files and IPython call something."""


def _free(name: str) -> str:
    """Refuse the name of a device that would hide something else."""
    for what, names in (
        ("of the session", SESSION_NAMES),
        ("of Python", {*keyword.kwlist, *dir(builtins)}),
    ):
        if name in names:
            raise ValueError(f"{name!r} is a name {what}; a device of that name would hide it")
    return name


if TYPE_CHECKING:
    Beamline = str
else:
    Beamline = Literal["", *BEAMLINES]

DeviceName = Annotated[Name, AfterValidator(_free)]


class MetadataConfig(Block):
    """Where ``RE.md`` is kept, and what it always holds."""

    file: UserPath = Field(Path("metadata.json"), description="JSON file; relative to `directory`")
    redis: str = Field("", pattern=r"^(redis(s)?://.+)?$", description="redis://host/0, in place of the file")
    key: str = Field("sfdaq:metadata", description="key in Redis")
    constant: dict[str, Any] = Field({}, description="set at every start, e.g. facility: SwissFEL")


class CatalogConfig(Block):
    """The Tiled catalog: `embedded`, a server of our own, or `uri`, one of the facility."""

    embedded: UserPath = Field(
        Path("catalog"),
        validation_alias=AliasChoices("embedded", "directory"),
        description="folder of a server of our own; relative to `directory`",
    )
    uri: str = Field(
        "", pattern=r"^(https?://[^\s?]+)?$", description="of the facility's, in place of our own"
    )
    api_key_variable: Name = Field("TILED_API_KEY", description="environment variable with the key for `uri`")
    api_key_file: UserPath | None = Field(None, description="file with the key, in place of the variable")
    documents: UserPath = Field(
        Path("documents"), description="documents of runs beside `uri`; relative to `directory`"
    )
    start_timeout: Positive = Field(60.0, description="s without a sign of progress of our own one's start")

    @model_validator(mode="after")
    def _one_place(self) -> CatalogConfig:
        if self.uri and "embedded" in self.model_fields_set:
            raise ValueError("expected embedded or uri, not both")
        if self.uri:
            _address(self.uri)
            if "@" in self.uri:
                raise ValueError("uri: expected no login in it; its key goes into api_key_file or a variable")
        if not self.uri and self.api_key_file:
            raise ValueError("api_key_file goes with uri")
        return self


class PublishConfig(Block):
    """Send every document elsewhere. One of `zmq`, `kafka`."""

    zmq: str = Field("", pattern=r"^((tcp|ipc)://)?\S*$", description="host:port of a bluesky-0MQ-proxy")
    kafka: str = Field("", pattern=r"^\S*$", description="host:port of brokers, separated by commas")
    topic: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,249}$", description="of Kafka")
    prefix: str = Field("", pattern=r"^\S*$", description="of 0MQ messages, to tell publishers apart")
    format: Literal["msgpack", "json"] = Field("msgpack", description="how documents are packed")

    @model_validator(mode="after")
    def _one_way(self) -> PublishConfig:
        if bool(self.zmq) == bool(self.kafka):
            raise ValueError("expected exactly one of zmq, kafka")
        if bool(self.topic) != bool(self.kafka):
            raise ValueError("kafka and topic go together")
        return self


class SuspenderConfig(Block):
    """Hold plans while a signal says so. One of `below`, `above`, `unless`."""

    device: Name = Field(description="name of a Signal or ReadOnly of `devices`")
    below: Number | None = Field(None, description="hold while the value is below this")
    above: Number | None = Field(None, description="hold while the value is above this")
    unless: str | Number | None = Field(None, description="hold unless the value is this, e.g. Open")
    resume: Number | None = Field(
        None, description="for below and above: go on from this value; default: the same"
    )
    sleep: Number = Field(0.0, ge=0, le=3600, description="s to wait before going on")
    message: str = Field("", description="what to tell the user meanwhile")
    not_in: list[Name] = Field(
        [], description="plans it does not hold, e.g. take_pedestal closes the shutter"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> SuspenderConfig:
        if sum(value is not None for value in (self.below, self.above, self.unless)) != 1:
            raise ValueError("expected exactly one of below, above, unless")
        if self.resume is None:
            return self
        if self.unless is not None:
            raise ValueError("resume goes with below or above")
        too_low = self.below is not None and self.resume < self.below
        too_high = self.above is not None and self.resume > self.above
        if too_low or too_high:
            raise ValueError("resume lies on the wrong side of the threshold")
        return self


SimPart = Literal["pvs", "jungfrau", "eiger", "std_daq", "broker"]


def _of_part(name: str) -> str:
    """Refuse an option that is none of a part of the facility, or that the session sets."""
    if not name.startswith(tuple(f"{part}_" for part in get_args(SimPart))) or name == "pvs_prefix":
        expected = f"a name that starts with one of {', '.join(get_args(SimPart))} and _"
        raise ValueError(f"{name}: expected {expected}; the session itself sets pvs_prefix")
    return name


SimOption = Annotated[Name, AfterValidator(_of_part)]


class SimConfig(Block):
    """Start the simulated facility; ``{port+3}`` and ``{prefix}`` elsewhere in the file are its."""

    speed: Literal["auto"] | Positive = Field(
        "auto", description="divides the services' own delays; auto: by 4, and the pulse clock waits"
    )
    start_timeout: Positive = Field(60.0, description="s without a sign of progress of a simulator")
    seed: Whole = Field(0, description="seed of all random numbers")
    only: list[SimPart] | None = Field(None, description="parts to start; default: all")
    options: dict[SimOption, Any] = Field({}, description="options of parts, e.g. eiger_model: 1M")


class SfdaqConfig(Block):
    """The whole file."""

    beamline: Beamline = Field("", description="name the DAQ knows; goes into every run")
    pgroup: str = Field("", pattern=r"^(p\d{5})?$", description="p and five digits; goes into every run")
    directory: UserPath = Field(
        Path("~/sfdaq"),
        description="metadata, catalog, frames; relative to the file",
        validate_default=True,
    )
    control_layer: Literal["", "pyepics", "caproto"] = Field(
        "", description="Channel Access; default: ophyd's"
    )
    metadata: MetadataConfig = Field(MetadataConfig(), description="what every run carries")
    catalog: CatalogConfig = Field(CatalogConfig(), description="where runs go")
    publish: list[PublishConfig] = Field([], description="where every document goes beside the catalog")
    sim: SimConfig | None = Field(None, description="start the simulated facility first")
    devices: dict[DeviceName, DeviceConfig] = Field({}, description="variable name to device")
    baseline: list[Name] = Field([], description="devices read before and after every run")
    suspenders: dict[Name, SuspenderConfig] = Field({}, description="name to suspender")

    @model_validator(mode="after")
    def _names_exist(self) -> SfdaqConfig:
        used = {f"baseline: {name}": name for name in self.baseline}
        used |= {f"suspenders: {key}": each.device for key, each in self.suspenders.items()}
        for name, device in self.devices.items():
            control = getattr(device, "control", None)
            used[f"devices: {name}: pulse_id"] = getattr(device, "pulse_id", "")
            used[f"devices: {name}: control: broker"] = control.broker if control else ""
        for where, name in used.items():
            if name and name not in self.devices:
                raise ValueError(
                    f"{where}: no device {name!r}; there are {', '.join(self.devices) or 'none'}"
                )
        return self
