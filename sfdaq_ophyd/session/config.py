"""What ``sfdaq.yaml`` may hold: one model per block, every key with its meaning and its check."""

from __future__ import annotations

import builtins
import keyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from ..wire.broker import BEAMLINES
from .device_config import DeviceConfig, Number, Positive, UserPath, Whole

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


class Block(BaseModel):
    """A block of the file; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class SimConfig(Block):
    """Start the simulated facility; ``{port+3}`` and ``{prefix}`` elsewhere in the file are its."""

    speed: Literal["auto"] | Positive = Field(
        "auto", description="divides the services' own delays; auto: by 4, and the pulse clock waits"
    )
    start_timeout: Positive = Field(60.0, description="s without a sign of progress of a simulator")
    seed: Whole = Field(0, description="seed of all random numbers")
    only: list[Literal["pvs", "jungfrau", "eiger", "std_daq", "broker"]] | None = Field(
        None, description="parts to start; default: all"
    )
    options: dict[Name, Any] = Field({}, description="options of parts, e.g. eiger_model: 1M")


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
