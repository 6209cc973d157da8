"""What the page asks of detectors and services: little, and nothing while nobody watches."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter

import numpy as np
import pytest
import requests
from websockets.sync.client import connect

from sfdaq_ophyd.clients import SimplonClient
from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.limits import Limit
from sfdaq_ophyd.session.config import SfdaqConfig
from sfdaq_ophyd.sim import Facility
from sfdaq_ophyd.web import Watch, config_of, picture
from sfdaq_ophyd.web.app import _Viewer
from sfdaq_ophyd.web.eiger import EigerSource
from sfdaq_ophyd.web.jungfrau import JungfrauSource
from sfdaq_ophyd.web.live_frame import LiveFrame
from sfdaq_ophyd.web.source import Rate, Source
from sfdaq_ophyd.web.sources import watch_of

RATE = 10  # as in the fixture `watch`


@contextlib.contextmanager
def viewers(url, n):
    with contextlib.ExitStack() as stack:
        address = url.replace("http", "ws") + "/api/live"
        yield [stack.enter_context(connect(address, open_timeout=120)) for _ in range(n)]


def state_of(socket, group, name):
    while isinstance(text := socket.recv(timeout=60), bytes) or group not in (message := json.loads(text)):
        pass  # a frame, the last minutes, or a curve
    return next(state for state in message[group] if state["name"] == name)


def image_requests(facility):
    return [entry for entry in facility.eiger.requests.entries() if "images/monitor" in str(entry)]


@pytest.mark.parametrize("n", [1, 10])
def test_detector_when_watched_by_many_then_no_more_is_taken_and_drawn_than_for_one(
    facility, series, watch, url, wait_for, n, monkeypatch
):
    drawn, draw = Counter(), picture._draw
    monkeypatch.setattr(
        picture, "_draw", lambda frame, view: drawn.update([frame.number]) or draw(frame, view)
    )
    source = next(source for source in watch.sources if source.name == "eiger")
    with viewers(url, n) as sockets:
        for socket in sockets:
            socket.send(json.dumps({"detector": "eiger"}))
        wait_for(lambda: source.n_taken > 0, "a first frame")
        facility.eiger.requests.clear()
        begin, first = time.monotonic(), source.n_taken
        wait_for(lambda: source.n_taken >= first + 8, "eight more frames")
        for socket in sockets:  # every viewer sees the frames
            while state_of(socket, "detectors", "eiger")["n_taken"] < first + 8:
                pass
        for _ in range(n):
            assert requests.get(f"{url}/api/picture/eiger.png", timeout=60).status_code == 200
        taken = len(image_requests(facility))
        assert 8 <= taken <= (time.monotonic() - begin) * RATE + 2
    assert drawn and set(drawn.values()) == {1}


def test_detectors_when_the_last_viewer_leaves_then_not_asked_any_more(
    facility, series, watch, url, wait_for
):
    with viewers(url, 1):
        wait_for(lambda: all(watch.frame(name) is not None for name in ("eiger", "jf")), "frames")
        assert facility.jungfrau.status()["subscribed"] == [1]
    wait_for(lambda: facility.jungfrau.status()["subscribed"] == [0], "the end of the subscription")
    wait_for(lambda: watch.n_viewers == 0, "nobody")
    pulse_id = facility.clock.now()
    facility.eiger.requests.clear()
    wait_for(lambda: facility.clock.now() > pulse_id + 50, "half a second")
    assert len(facility.eiger.requests.entries()) <= 3  # those under way


def test_monitor_when_watched_then_nothing_is_taken_out_of_it(facility, eiger, watch, wait_for):
    eiger.put("detector", "nimages", 3)
    eiger.arm()
    eiger.trigger(0.2)
    with watch, watch.viewer():
        wait_for(lambda: watch.frame("eiger"), "a frame")
    assert len(eiger.image_list()) == 3
    assert watch.frame("eiger").event_id.endswith("_2")


def test_jungfrau_when_watched_then_the_pixels_of_its_pulse(facility, watch, wait_for):
    with watch, watch.viewer():
        frame = wait_for(lambda: watch.frame("jf"), "a frame")
    assert frame.unit == "keV" and frame.event_id == str(frame.pulse_id)
    photons = facility.jungfrau.scene.photons(frame.pulse_id)
    y, x = np.unravel_index(np.argmax(np.where(photons < 25, photons, 0)), photons.shape)
    y, x = int(y + 2 * (y // 256)), int(x + 2 * (x // 256))  # gaps between chips
    if not frame.bad[y, x]:
        assert frame.pixel(x, y)["value"] == pytest.approx(9.3 * photons[photons < 25].max(), abs=9.3)
    assert frame.facts["n_saturated"] > 0  # the direct beam


def test_jungfrau_when_its_constants_are_missing_then_raw_and_said_so(facility, tmp_path, wait_for):
    config = config_of(facility, tmp_path).model_dump(by_alias=True)
    config["devices"] = {"jf": config["devices"]["jf"]}
    config["devices"]["jf"]["constants"]["gain_file"] = tmp_path / "none.h5"
    watch = watch_of(type(config_of(facility, tmp_path)).model_validate(config))
    with watch, watch.viewer():
        frame = wait_for(lambda: watch.frame("jf"), "a frame")
        assert frame.unit == "ADU, raw"
        assert "none.h5" in watch.state()["detectors"][0]["note"]
    raw = facility.jungfrau.scene.raw(frame.pulse_id)
    np.testing.assert_array_equal(frame.image, raw & 0x3FFF)


class Broken(Source):
    group = "writers"

    def __init__(self):
        super().__init__("broken", "test", "nowhere", 0.01)
        self.n_looks, self.ok = 0, False

    def look(self):
        self.n_looks += 1
        if not self.ok:
            raise ConnectionError("no such host")
        return {"state": "well"}

    def rest(self):
        pass


def test_source_when_it_fails_then_shown_and_tried_again_until_it_works(wait_for):
    source = Broken()
    with Watch([source]) as watch, watch.viewer():
        wait_for(lambda: watch.state()["writers"][0]["problem"] == "no such host", "the problem")
        source.ok = True
        wait_for(lambda: watch.state()["writers"][0].get("state") == "well", "its end")
        assert watch.state()["writers"][0]["problem"] == ""


def test_value_when_not_confirmed_for_longer_than_its_period_then_old_and_never_green_with_a_problem():
    source = Broken()
    assert (source.state()["age"], source.state()["level"]) == (None, "")
    source._last = {}, time.monotonic() - 12, 0.02
    state = source.state()
    assert state["level"] == "good" and 12 <= state["age"] and state["age"] > state["old_after"]
    source.problem = "gone"
    assert source.state()["level"] == "bad"


def test_jungfrau_when_no_stream_answers_or_all_are_silent_then_red():
    source = JungfrauSource("jf", "JF01T03V01", [f"tcp://127.0.0.1:{port}" for port in (1, 2, 3)])

    class Stream:
        endpoints, connected = "abc", [False] * 3

    source._stream = Stream
    assert source._condition(0) == ("busy", "")  # it has just begun to connect
    source._connecting = Limit(0.0)
    source._condition(0)
    assert source._condition(0) == ("bad", "none of 3 streams answers")
    Stream.connected = [True, True, False]
    assert source._condition(5) == ("busy", "1 of 3 streams do not answer")
    Stream.connected = [True] * 3
    assert source._condition(6) == ("good", "")
    source._silence = Limit(0.0)
    source._condition(6)
    assert source._condition(6) == ("bad", "none of 3 streams sends anything")
    assert source._condition(7)[0] == "good"


def test_eiger_when_its_image_was_there_before_the_page_then_no_age_is_made_up(
    facility, eiger, watch, wait_for
):
    eiger.put("detector", "nimages", 2)
    eiger.arm()
    eiger.trigger(0.2)
    with watch, watch.viewer():
        wait_for(lambda: watch.frame("eiger"), "the old frame")
        assert watch.detector("eiger").frame_age()["age"] is None
        eiger.arm()
        eiger.trigger(0.2)
        wait_for(lambda: watch.detector("eiger").frame_age()["age"] is not None, "a frame that came since")


def eiger_source(facility):
    return EigerSource("eiger", facility.eiger.url, period=0.01)


def test_eiger_when_no_frame_comes_any_more_then_no_rate_is_shown(facility, eiger, wait_for):
    """It is armed for further triggers, so its state does not tell."""
    eiger.put("detector", "ntrigger", 1_000_000)
    eiger.put("detector", "nimages", 20)
    source, rate_seen = eiger_source(facility), threading.Event()
    source.look()
    eiger.arm()

    def trigger_on():
        while not rate_seen.is_set():
            eiger.trigger(60.0)

    thread = threading.Thread(target=trigger_on)
    thread.start()
    try:
        wait_for(lambda: source.look()["rate"], "a rate")
        rate_seen.set()
        thread.join(60)
        seen = wait_for(lambda: (seen := source.look())["rate"] is None and seen, "no rate any more")
    finally:
        rate_seen.set()
        eiger.abort()
        thread.join(60)
        eiger.put("detector", "ntrigger", 1)
        source.rest()
    assert seen["state"] == "ready"


def test_eiger_when_its_image_came_during_an_outage_then_no_age_is_made_up(
    facility, eiger, wait_for, monkeypatch
):
    eiger.put("detector", "nimages", 2)
    source = eiger_source(facility)

    def take_two():
        before = source.n_taken
        eiger.arm()
        eiger.trigger(10.0)
        wait_for(lambda: source.look() and source.n_taken > before, "a frame")

    source.look()
    take_two()
    assert source.frame_age()["age"] is not None
    with monkeypatch.context() as outage:
        outage.setattr(source._client, "newest_image", _no_answer)
        source._image_due = 0.0
        with pytest.raises(ConnectionError):
            source.look()
        eiger.arm()
        eiger.trigger(10.0)
    source._image_due = 0.0
    seen = source.look()
    assert source.frame_age()["age"] is None and seen["rate"] is None
    take_two()
    assert source.frame_age()["age"] is not None
    source.rest()


@pytest.mark.parametrize("version", ["1.8.0", "1.6.0"])
def test_eiger_when_it_is_set_anew_then_each_image_has_the_numbers_of_its_own_series(version, tmp_path):
    options = {"eiger_shape": (32, 48), "eiger_dwell": 0, "eiger_api_version": version}
    with contextlib.ExitStack() as stack:
        facility = stack.enter_context(Facility(only=["eiger"], directory=tmp_path, **options))
        client = stack.enter_context(contextlib.closing(SimplonClient(facility.eiger.url, version)))
        client.initialize()
        client.put("monitor", "mode", "enabled")
        settings = {"count_time": 0.004, "frame_time": 0.005, "detector_distance": 0.1, "ntrigger": 2}
        for name, value in settings.items():
            client.put("detector", name, value)
        source = EigerSource("eiger", facility.eiger.url, version, period=0.01)
        stack.callback(source.rest)

        def set_centre(x):
            client.put("detector", "beam_center_x", x)

        def shown_centre(is_new=True):
            source._state_due = source._image_due = 0.0
            before = source.n_taken
            source.look()
            assert source.n_taken == before + is_new
            return source.frame.geometry and source.frame.geometry.centre[0]

        set_centre(2)
        client.arm()
        client.trigger(10.0)
        assert shown_centre() == 2
        client.trigger(10.0)  # the last one of its series
        set_centre(3)
        assert (source._client.state(), shown_centre()) == ("idle", 2)
        assert shown_centre(is_new=False) == 2
        client.arm()
        client.trigger(10.0)
        assert shown_centre() == 3
        client.abort()


def _no_answer(*args, **kwargs):
    raise ConnectionError("no answer")


def test_jungfrau_when_its_stream_is_shared_out_then_said_and_never_connected_to(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sender:
        sender.settimeout(0.0)
        config = SfdaqConfig.model_validate(
            {
                "directory": tmp_path,
                "devices": {
                    "jf": {
                        "class": "Jungfrau",
                        "detector_name": "JF01T03V01",
                        "stream": "assembled",
                        "pull": True,
                        "endpoints": [f"tcp://127.0.0.1:{sender.getsockname()[1]}"],
                    }
                },
            }
        )
        watch = watch_of(config)
        source = watch.detector("jf")
        seen = source.look()
        with pytest.raises(BlockingIOError):
            sender.accept()
    assert seen["note"] == "not asked: its images are shared out among those who listen"
    assert (seen["level"], source.kind) == ("", "Jungfrau JF01T03V01")


def test_watch_when_stopped_twice_or_started_again_then_well(wait_for):
    source = Broken()
    watch = Watch([source])
    for _ in range(2):
        watch.start()
        with watch.viewer():
            wait_for(lambda: source.n_looks, "a look")
        watch.stop()
        watch.stop()


class Replaced(LiveFrame):
    """A frame after which the next one comes as soon as the page reads its facts."""

    @property
    def facts(self):
        self.results["next"]()
        return {"number": self.number}


def live_frame(number, arrived, kind=LiveFrame, **options):
    good = np.zeros((4, 5), bool)
    return kind(
        number, np.ones((4, 5), "u2"), good, good, "counts", f"1_{number}", arrived=arrived, **options
    )


def test_state_when_the_next_frame_comes_meanwhile_then_the_age_is_that_of_the_frame_it_tells_of():
    source = EigerSource("eiger", "http://127.0.0.1:1")

    def come():
        source.frame = live_frame(2, time.monotonic())

    source.frame = live_frame(1, time.monotonic() - 100, Replaced, results={"next": come})
    state = source.state()
    assert state["frame"]["number"] == 1 and state["frame_age"]["age"] >= 100
    assert source.frame_age()["age"] < 100  # of the newest


def test_viewer_when_the_next_frame_comes_before_its_picture_is_drawn_then_the_age_is_the_drawn_one_s():
    source = EigerSource("eiger", "http://127.0.0.1:1")
    source.frame = live_frame(1, time.monotonic() - 100)
    sent = []

    class Socket:
        async def send_bytes(self, message):
            sent.append(json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")]))

    async def view():
        drawing = asyncio.Semaphore(0)
        viewer = _Viewer(Watch([source]), Socket(), drawing)
        viewer._wishes["eiger"] = picture.Wishes(detector="eiger")
        sending = asyncio.ensure_future(viewer._send_frames())
        await asyncio.sleep(0)  # it waits for its turn to draw
        assert drawing.locked() and "eiger" in viewer._sent
        source.frame = live_frame(2, time.monotonic())
        drawing.release()
        await sending

    asyncio.run(view())
    assert [head["facts"]["number"] for head in sent] == [1] and sent[0]["frame_age"]["age"] >= 100


def test_rate_when_counted_over_a_second_then_per_second_and_anew_after_a_reset():
    rate = Rate(window=1.0)
    assert rate.update(100, now=0.0) is None
    assert [rate.update(100 + 25 * i, now=i / 4) for i in range(1, 5)] == [None, None, None, 100.0]
    assert rate.update(3, now=2.0) is None


@pytest.mark.parametrize("rate", [0, -1, 11, float("nan")])
def test_rate_when_out_of_bounds_then_refused(facility, tmp_path, rate):
    with pytest.raises(RequestError, match="rate"):
        watch_of(config_of(facility, tmp_path), rate=rate)
