"""One remote service each: blocking calls, finite timeouts, no ophyd."""

from .std_daq import StdDaqClient
from .std_daq_errors import (
    StdDaqAdminException,
    StdDaqInvalid,
    StdDaqRefused,
    StdDaqRequestError,
    StdDaqTimeout,
    StdDaqUnknownOutcome,
    StdDaqUnreachable,
)
from .std_daq_redis import StdDaqRedis
from .std_daq_request import SlowCreationWarning

__all__ = [
    "SlowCreationWarning",
    "StdDaqAdminException",
    "StdDaqClient",
    "StdDaqInvalid",
    "StdDaqRedis",
    "StdDaqRefused",
    "StdDaqRequestError",
    "StdDaqTimeout",
    "StdDaqUnknownOutcome",
    "StdDaqUnreachable",
]
