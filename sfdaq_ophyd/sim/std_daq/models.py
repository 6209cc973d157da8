"""Request and reply models of dialect D2, for both generations of pydantic the service ran with."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from .folders import check_path


def _old_integer(value: Any) -> int:
    """Convert as pydantic 1 did: 5.7 becomes 5, and "5.0" is no integer."""
    if value is None:
        raise PydanticCustomError("type_error.none.not_allowed", "none is not an allowed value")
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise PydanticCustomError("type_error.integer", "value is not a valid integer") from None


def _old_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


class ModulePositions(BaseModel):
    """Corners of a module in the image."""

    start_x: int
    start_y: int
    end_x: int
    end_y: int


class SubmoduleInfo(BaseModel):
    """Whatever is given here gets lost."""


def write_request(pydantic: int) -> type[BaseModel]:
    """Make the body model of write_async and write_sync for one generation of pydantic."""
    integer, text = (
        Annotated[int, BeforeValidator(_old_integer)],
        Annotated[str, BeforeValidator(_old_text)],
    )
    if pydantic == 2:
        integer, text = int, str
    return create_model(
        "WriteRequest",
        n_images=(integer, Field(ge=1)),
        output_file=(Annotated[text, AfterValidator(check_path)], ...),
        run_id=(integer, Field(default_factory=time.time_ns)),
    )


def daq_config(pydantic: int) -> type[BaseModel]:
    """Make the body model of POST /daq/config for one generation of pydantic."""
    integer = int if pydantic == 2 else Annotated[int, BeforeValidator(_old_integer)]
    integers = ("image_pixel_height", "image_pixel_width", "n_modules", "start_udp_port", "writer_user_id")
    return create_model(
        "DaqConfig",
        bit_depth=(integer | None, None),
        detector_name=(str | None, None),
        detector_type=(str | None, None),
        **dict.fromkeys(integers, (integer | None, None)),
        submodule_info=(SubmoduleInfo | None, None),
        module_positions=(dict[str, ModulePositions] | None, None),
    )


# ---- replies ----------------------------------------------------------------------------------------


class Reply(BaseModel):
    """Envelope of every reply; also of an error, which has nothing else and comes with code 200."""

    model_config = ConfigDict(extra="forbid")
    status: Literal["ok"]
    message: str


class ErrorReply(BaseModel):
    """Something failed inside the service."""

    model_config = ConfigDict(extra="forbid")
    status: Literal["error"]
    message: str


class SimulatorErrorReply(ErrorReply):
    """The UDP simulator is absent."""

    simulator: None


class Info(BaseModel):
    """What was asked for."""

    n_images: int
    output_file: str
    run_id: int


class AcquisitionStats(BaseModel):
    """Counts, and times in seconds since the epoch."""

    n_write_completed: int
    n_write_requested: int
    start_time: float | None
    stop_time: float | None


class Acquisition(BaseModel):
    """One acquisition."""

    state: str
    message: str
    info: Info
    stats: AcquisitionStats
    reports: list[dict] | None


class Writer(BaseModel):
    """Status of the writer."""

    state: Literal["UNKNOWN", "READY", "WRITING"]
    acquisition: Acquisition | None


class WriterReply(Reply):
    """Reply with the writer's status."""

    writer: Writer


class ConfigReply(Reply):
    """Reply with the configuration."""

    config: dict | None
    config_id: str | None


class StatsReply(Reply):
    """Reply with throughput."""

    stats: dict[str, dict[str, float]] | None


class LogsReply(Reply):
    """Reply with acquisitions by log id, newest first."""

    logs: dict[str, Acquisition]


class Deployment(BaseModel):
    """How far a configuration has got."""

    config_id: str | None
    status: Literal["UNKNOWN", "RUNNING", "SUCCESS", "ERROR"]
    message: str
    servers: dict[str, str] | None
    stats: dict[str, float] | None


class DeploymentReply(Reply):
    """Reply with the deployment."""

    deployment: Deployment


class SimulatorReply(Reply):
    """Reply of the UDP simulator."""

    simulator: dict


class FileMetadata(BaseModel):
    """What is in a file."""

    filename: str
    file_size: int
    log_id: str
    dataset_name: str
    n_images: int
    image_pixel_height: int
    image_pixel_width: int
    dtype: str


class FileReply(Reply):
    """Reply with a file's metadata."""

    file_metadata: FileMetadata
