"""What the broker's client adds to a call, and how long the check of a long range takes."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import numpy as np

from sfdaq_ophyd.clients import BrokerClient
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.wire.broker_request import RetrieveRequest
from sfdaq_ophyd.wire.pulse_id import PulseRange

from .pairs import Ratio, interleave, result, timed

CALLS = 200
LIMIT_OF_A_STEP, LIMIT_OF_A_CHECK = 5e-3, 1e-3


def request(first: int, n: int) -> RetrieveRequest:
    return RetrieveRequest(
        pgroup="p12345",
        run_number=0,
        pulses=PulseRange(first, first + n - 1),
        detectors={"JF01T03V01": {"adc_to_energy": True}},
        channels=["SAR:A", "SAR:B"],
        scan_info={"scan_name": "s", "name": ["x"], "scan_values": [1.0], "scan_readbacks": [1.01]},
    )


def overhead_of_a_retrieval():
    """BrokerClient.retrieve_from_buffers against the same bytes sent with http.client, in turns."""
    with (
        Facility(only=["broker"], broker_writers=False) as facility,
        BrokerClient(facility.broker.url) as client,
    ):
        address, first = urlsplit(facility.broker.url), facility.clock.now() - 1000
        body = json.dumps({**request(first, 100).to_wire(), "client_request_id": "0" * 36})

        def plain():
            connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/retrieve_from_buffers", body, headers)
            json.loads(connection.getresponse().read())
            connection.close()

        def through_the_client():
            client.retrieve_from_buffers(request(first, 100))

        ours, bare = interleave([timed(through_the_client), timed(plain)], rounds=CALLS)
    added = ours - bare
    return result(
        "broker client: time added to a retrieval / 5 ms",
        Ratio(added, np.full(CALLS, LIMIT_OF_A_STEP)),
        most=1.0,
        baseline="the same request with http.client",
        note=f"{np.median(ours) * 1e3:.2f} ms, baseline {np.median(bare) * 1e3:.2f} ms, "
        f"added {np.median(added) * 1e3:.2f} ms",
    )


def check_of_a_long_range():
    """Making and writing a request for 60 000 pulses, against json.dumps of the body it makes."""
    body = request(21_000_000_000, 60_000).to_wire()
    check, dump = lambda: request(21_000_000_000, 60_000).to_wire(), lambda: json.dumps(body)
    ours, bare = interleave([timed(check), timed(dump)], rounds=CALLS)
    return result(
        "broker client: check of 60 000 pulses / 1 ms",
        Ratio(ours, np.full(CALLS, LIMIT_OF_A_CHECK)),
        most=1.0,
        baseline="json.dumps of the same request",
        note=f"{np.median(ours) * 1e6:.0f} us, baseline {np.median(bare) * 1e6:.0f} us",
    )


BENCHMARKS = [overhead_of_a_retrieval, check_of_a_long_range]
