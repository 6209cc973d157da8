"""Simulated sf-daq broker: both services, both dialects, and the writers behind them."""

from .part import BrokerPart

__all__ = ["BrokerPart"]
