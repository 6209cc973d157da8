"""Checks of a write request before it is sent: what `wire` can tell, plus folder and size."""

from __future__ import annotations

import ipaddress
import os
import time
import warnings
from urllib.parse import urlsplit

from ..wire.std_daq import SLOW_CREATION_IMAGES, WriteRequest
from .std_daq_errors import StdDaqRequestError, translated


class SlowCreationWarning(UserWarning):
    """So many images that creating the file may take longer than the 5 s the service waits."""


def check_request(write_request: object, *, shared_folders: bool) -> WriteRequest:
    """Return the checked request; an absent run id becomes the time in ns, as in the service.

    Parameters
    ----------
    write_request : dict
        As scripts pass it. Not modified.
    shared_folders : bool
        The DAQ sees this machine's folders.

    Raises
    ------
    StdDaqRequestError
        A value is wrong, or the folder is missing.
    """
    with translated():
        request = WriteRequest.from_dict(write_request, default_run_id=time.time_ns())
    if shared_folders and _folder_is_missing(request.output_file):
        raise StdDaqRequestError(
            "output_file", request.output_file, "a path in a folder that exists; create it first"
        )
    if request.n_images > SLOW_CREATION_IMAGES:
        warnings.warn(
            f"n_images={request.n_images}: above {SLOW_CREATION_IMAGES} creating the file can take longer "
            "than the 5 s the service waits; it then reports an error and writes no image. Split the run.",
            SlowCreationWarning,
            stacklevel=4,
        )
    return request


def is_this_machine(url: str) -> bool:
    """Tell whether `url` names a loopback address."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _folder_is_missing(path: str) -> bool:
    """Judge only below folders this machine has: of an unknown tree the service must be asked."""
    folder = os.path.dirname(path)
    if os.path.isdir(folder):
        return False
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder != "/"
