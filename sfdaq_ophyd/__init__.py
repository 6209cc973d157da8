"""Bluesky and ophyd for PSI's detectors and data acquisition.

Devices live in `sfdaq_ophyd.devices`, plans in `sfdaq_ophyd.plans`, the catalog in
`sfdaq_ophyd.catalog`, the simulated facility in `sfdaq_ophyd.sim`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sfdaq_ophyd")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.1.0"

__all__ = ["__version__"]
