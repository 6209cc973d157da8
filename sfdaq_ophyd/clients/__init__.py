"""One remote service each: blocking calls, finite timeouts, no ophyd."""

from ..wire.broker_request import RetrieveRequest
from ._stream_frame import StreamFrame
from .broker import BrokerClient
from .broker_main import BrokerTrap, pedestal_time
from .broker_recover import find_retrieval
from .broker_status import StatusListener
from .image_stream import ImageStream
from .module_stream import ModuleStream
from .simplon import SimplonClient
from .std_daq import StdDaqClient
from .std_daq_errors import (
    StdDaqAdminException,
    StdDaqBadReply,
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
    "BrokerClient",
    "BrokerTrap",
    "ImageStream",
    "ModuleStream",
    "RetrieveRequest",
    "SimplonClient",
    "SlowCreationWarning",
    "StatusListener",
    "StdDaqAdminException",
    "StdDaqBadReply",
    "StdDaqClient",
    "StdDaqInvalid",
    "StdDaqRedis",
    "StdDaqRefused",
    "StdDaqRequestError",
    "StdDaqTimeout",
    "StdDaqUnknownOutcome",
    "StdDaqUnreachable",
    "StreamFrame",
    "find_retrieval",
    "pedestal_time",
]
