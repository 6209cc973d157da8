"""Whatever fails, wherever: the stop document names the device, and tells the failure of the point itself."""

from __future__ import annotations

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky.utils import FailedStatus

from sfdaq_ophyd.devices import Eiger, Jungfrau, StdDaqWriter
from sfdaq_ophyd.errors import FramesMissing, ServiceRefused, ServiceTimeout, ServiceUnreachable, WireError
from sfdaq_ophyd.plans import fly
from sfdaq_ophyd.sim import Facility

from ..std_daq import simulated_daq
from .fake import FakeDetector, FakeWriter
from .run_engine_driver import drive, interruptible

NAME = "JF04T01V01"

FAILURES = {
    "refused": lambda: ServiceRefused("GET /some/path", url="http://there", said="no"),
    "timeout": lambda: ServiceTimeout("some reply", 3.0, "half of it"),
    "unreachable": lambda: ServiceUnreachable("PUT /some/path", url="http://there", reason="refused"),
    "bytes": lambda: WireError("not what was expected"),
    "missing": lambda: FramesMissing("det", asked=2, got=1),
    "disk": lambda: OSError(28, "No space left on device"),
    "bug": lambda: ZeroDivisionError("division by zero"),
    "key": lambda: KeyError("name"),
    "two words": lambda: ValueError("one", "two"),
}


@pytest.fixture(scope="module")
def facility():
    options = {"speed": "auto", "eiger_shape": (32, 48), "eiger_dwell": 0, "eiger_initialized": True}
    with Facility(
        only=["eiger", "jungfrau"], jungfrau_name=NAME, jungfrau_rate_multiplicator=4, **options
    ) as facility:
        yield facility


@pytest.fixture(scope="module")
def daq():
    with simulated_daq() as server:
        server.service.stop()
        yield server


@pytest.fixture(params=["base", "files", "eiger", "jungfrau", "writer"])
def det(request, tmp_path):
    if request.param == "base":
        return FakeDetector(name="det", directory=tmp_path)
    if request.param == "files":
        return FakeWriter(name="det", directory=tmp_path)
    if request.param == "writer":
        return StdDaqWriter(request.getfixturevalue("daq").url, name="det", directory=tmp_path / "raw")
    facility = request.getfixturevalue("facility")
    if request.param == "eiger":
        return Eiger(facility.eiger.url, name="det", directory=tmp_path)
    endpoints = facility.jungfrau.endpoints
    return Jungfrau(endpoints, name="det", directory=tmp_path, detector_name=NAME)


def failing(det, hook, exc):
    """Have a hook of the source raise, after it did its work."""
    function = getattr(det.source, hook)

    def fail(*args):
        function(*args)
        raise exc

    setattr(det.source, hook, fail)


def outside(det):
    return bpp.stage_wrapper(bpp.run_wrapper(bps.trigger_and_read([det])), [det])


def inside(det):
    return bpp.run_wrapper(bpp.stage_wrapper(bps.trigger_and_read([det]), [det]))


def words(exc):
    if isinstance(exc, OSError) and exc.errno:
        return "No space left"
    return "name" if isinstance(exc, KeyError) else str(exc)


@pytest.mark.parametrize("plan", [outside, inside, lambda det: fly([det], 2)])
@pytest.mark.parametrize("failure", list(FAILURES))
def test_point_when_it_fails_and_unstage_too_then_the_point_is_told(det, plan, failure, caplog):
    exc = FAILURES[failure]()
    told = words(exc)
    failing(det, "frames", exc)
    failing(det, "close", ServiceRefused("put back", url="http://elsewhere", said="never"))
    run = drive(interruptible(), lambda: plan(det))
    assert "det" in run.stop["reason"] and told in run.stop["reason"] and "never" not in run.stop["reason"]
    assert isinstance(run.error, FailedStatus) and told in str(run.error)
    assert any("never" in note for note in exc.__notes__) and "never" in caplog.text


@pytest.mark.parametrize("first", [0, 1])
def test_point_when_one_detector_fails_and_unstage_of_another_then_the_point_is_told(tmp_path, first, caplog):
    pair = [FakeDetector(name=name, directory=tmp_path) for name in ("good", "bad")]
    good, bad = pair
    failing(bad, "frames", exc := FAILURES["refused"]())
    failing(good, "close", ServiceRefused("put back", url="http://elsewhere", said="never"))
    order = pair[first:] + pair[:first]
    plan = bpp.run_wrapper(bpp.stage_wrapper(bps.trigger_and_read(order), order))
    run = drive(interruptible(), lambda: plan)
    assert run.stop["reason"].startswith("bad: ") and "never" not in run.stop["reason"]
    assert any("good: and while" in note for note in exc.__notes__) and "good: while" in caplog.text
    with pytest.raises(ServiceRefused, match="never"):
        good.stage(), good.unstage()


@pytest.mark.parametrize("failure", list(FAILURES))
def test_stage_when_it_fails_then_the_device_is_named(det, failure):
    exc = FAILURES[failure]()
    told = words(exc)
    failing(det, "open", exc)
    run = drive(interruptible(), lambda: inside(det))
    assert run.error is exc
    assert "det" in run.stop["reason"] and told in run.stop["reason"]
