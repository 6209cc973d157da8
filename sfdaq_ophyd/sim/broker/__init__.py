"""Simulated sf-daq broker: both services, both dialects, and the writers behind them."""

from .part import FAULTS, BrokerPart

__all__ = ["FAULTS", "BrokerPart"]
