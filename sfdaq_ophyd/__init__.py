"""Bluesky and ophyd for PSI's detectors and data acquisition.

Devices live in `sfdaq_ophyd.devices`, plans in `sfdaq_ophyd.plans`, the catalog in
`sfdaq_ophyd.catalog`, the simulated facility in `sfdaq_ophyd.sim`. `setup` makes a RunEngine ready for them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session.startup import setup

__version__: str

__all__ = ["__version__", "setup"]


def __getattr__(name: str) -> object:
    """Look up what is asked for when it is: that imports more than all of the command line."""
    if name == "setup":
        from .session.startup import setup

        return setup
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        globals()[name] = version("sfdaq_ophyd")
    except PackageNotFoundError:  # a source tree that was never installed
        globals()[name] = "0.1.0"
    return globals()[name]
