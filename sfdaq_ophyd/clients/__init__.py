"""One remote service each: blocking calls, finite timeouts, no ophyd."""

from ..wire.broker_request import RetrieveRequest
from ._intake import StreamFrame
from .broker import BrokerClient, BrokerTrap, pedestal_time
from .broker_status import StatusListener
from .broker_transport import find_retrieval
from .eiger_stream import EigerFrame, EigerStream
from .image_stream import ImageStream
from .module_stream import ModuleStream
from .simplon import SimplonClient
from .std_daq import SlowCreationWarning, StdDaqClient
from .std_daq_redis import StdDaqRedis
from .std_daq_service import (
    StdDaqAdminException,
    StdDaqBadReply,
    StdDaqInvalid,
    StdDaqOtherGeneration,
    StdDaqRefused,
    StdDaqRequestError,
    StdDaqTimeout,
    StdDaqUnknownOutcome,
    StdDaqUnreachable,
)
from .std_daq_socket import StdDaqWriterSocket

__all__ = [
    "BrokerClient",
    "BrokerTrap",
    "EigerFrame",
    "EigerStream",
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
    "StdDaqOtherGeneration",
    "StdDaqRedis",
    "StdDaqRefused",
    "StdDaqRequestError",
    "StdDaqTimeout",
    "StdDaqUnknownOutcome",
    "StdDaqUnreachable",
    "StdDaqWriterSocket",
    "StreamFrame",
    "find_retrieval",
    "pedestal_time",
]
