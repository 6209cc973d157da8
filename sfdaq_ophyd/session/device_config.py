"""What ``sfdaq.yaml`` may say of a device: one model per ``class``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..wire.detector_name import DetectorName

Http = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+")]
HttpOrSocket = Annotated[str, StringConstraints(pattern=r"^(https?|wss?)://[^/\s]+")]
Tcp = Annotated[str, StringConstraints(pattern=r"^tcp://[^:\s]+:\d+$")]
Pv = Annotated[str, StringConstraints(pattern=r"^[^\s{}]+$", max_length=100)]
Pgroup = Annotated[str, StringConstraints(pattern=r"^p\d{5}$")]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Whole = Annotated[int, Field(strict=True)]


class _Device(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

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
        """Where the stream is."""
        from ..clients.eiger_stream import stream_of

        return self.stream or stream_of(self.url)


class ConstantsConfig(BaseModel):
    """Files and options of a Jungfrau's calibration, read when the detector is first staged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gain_file: UserPath | list[UserPath] = Field(
        description="HDF5 file, or one binary file per module; relative to the file's `directory`"
    )
    pedestal_file: UserPath | list[UserPath] = Field(
        description=".res.h5, or one of OM's dark files per module"
    )
    pixel_mask_file: UserPath | None = Field(None, description="a further mask")
    options: dict[str, Any] = Field({}, description="of JungfrauCalibration, e.g. gap_pixels: false")


class ControlConfig(BaseModel):
    """What a broker does to a Jungfrau while it is staged; set back at unstage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    event_code: Pv | None = Field(None, description="PV of the beamline's trigger")
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
