"""Which beamline a request comes from (contract section 2.2)."""

from __future__ import annotations

from ...wire.broker import SUBNET_LENGTH, Dialect, beamline_of_address
from .refusals import ValidationError

_REJECTED = "can not determine from which console request came, rejected"


def beamline_of(address: str, dialect: Dialect) -> str:
    """Return the name of the beamline of a client address.

    Raises
    ------
    ValueError
        It is nobody's (current).
    ValidationError
        It is nobody's (documented, where diavolezza does not exist yet).
    """
    beamline = beamline_of_address(address)
    if dialect == "documented":
        if beamline is None or beamline.name == "diavolezza" or len(address) == SUBNET_LENGTH:
            raise ValidationError(_REJECTED)
        return beamline.name
    if len(address) < SUBNET_LENGTH:
        raise ValueError(f"cannot extract subnet from requester network IP {address}")
    if beamline is None:
        raise ValueError(f"cannot match requester network IP {address} to beamline")
    return beamline.name
