import os
import socket
import sys
import types

import pytest

from sfdaq_ophyd.errors import RequestError, ServiceTimeout, ServiceUnreachable
from sfdaq_ophyd.sim import Facility, child
from sfdaq_ophyd.sim import facility as facility_module
from sfdaq_ophyd.sim.facility import World


class Recorder:
    """A part that notes what happens to it."""

    def __init__(self, log, name, fails=()):
        self.log, self.name, self.fails = log, name, fails

    def __call__(self, world, **options):
        self.log.append((self.name, "made", options))
        self.world = world
        return self

    def launch(self):
        self.log.append((self.name, "launch"))

    def start(self):
        self.log.append((self.name, "start"))
        if "start" in self.fails:
            raise RuntimeError(f"{self.name} does not start")

    def stop(self):
        self.log.append((self.name, "stop"))
        if "stop" in self.fails:
            raise RuntimeError(f"{self.name} does not stop")

    def addresses(self):
        return {"url": self.name}


@pytest.fixture
def parts(monkeypatch):
    """Put recorders in place of the parts; returns their log and how to make one fail."""
    log, module = [], types.ModuleType("recorders")
    table = {}
    for name in facility_module.PARTS:
        setattr(module, name, Recorder(log, name))
        table[name] = ("recorders", name)
    monkeypatch.setitem(sys.modules, "recorders", module)
    monkeypatch.setattr(facility_module, "PARTS", table)
    return log, module


def test_enter_when_all_parts_then_started_in_order_and_stopped_in_reverse(parts):
    log, _ = parts
    with Facility() as facility:
        started = [name for name, *what in log if what == ["start"]]
        assert started == list(facility_module.PARTS)
        assert facility.addresses() == {name: {"url": name} for name in started}
    assert [name for name, *what in log if what == ["stop"]] == started[::-1]


def test_enter_when_parts_start_then_all_were_launched_before_the_first_is_waited_for(parts):
    log, _ = parts
    with Facility():
        acts = [(name, *what) for name, *what in log if what in (["launch"], ["start"])]
    names = list(facility_module.PARTS)
    assert acts == [(name, "launch") for name in names] + [(name, "start") for name in names]


def test_speed_when_auto_then_parts_get_a_number_and_a_patient_clock(parts):
    _, module = parts
    with Facility(speed="auto", only="eiger", start_timeout=70) as facility:
        world = module.eiger.world
        assert (world.speed, world.start_timeout) == (4.0, 70) and facility.clock.patient
    with Facility(only="eiger") as facility:
        assert module.eiger.world.speed == 1.0 and not facility.clock.patient


def test_only_when_given_then_nothing_else_is_made(parts):
    log, _ = parts
    with Facility(only=["eiger", "pvs"]) as facility:
        assert [name for name, *what in log if what == ["start"]] == ["pvs", "eiger"]
        assert facility.broker is None and facility.jungfrau is None and facility.std_daq is None


def test_options_when_given_then_each_goes_to_its_part(parts):
    log, _ = parts
    with Facility(only=["eiger", "std_daq"], eiger_model="1M", std_daq_dialect="fastapi"):
        made = {name: what[1] for name, *what in log if what[0] == "made"}
    assert made == {"eiger": {"model": "1M"}, "std_daq": {"dialect": "fastapi"}}


def test_world_when_facility_has_settings_then_parts_see_them(parts, tmp_path):
    _, module = parts
    with Facility(speed=4, directory=tmp_path / "new", only="eiger", seed=7, port_base=4000) as facility:
        world = module.eiger.world
        assert (world.speed, world.seed, world.directory) == (4, 7, tmp_path / "new")
        assert world.clock is facility.clock
        assert [world.next_port(), world.next_port()] == [4000, 4001]
    assert (tmp_path / "new").is_dir(), "a directory that was given stays"


def test_next_port_when_no_base_then_the_system_chooses():
    assert World(clock=None, directory=None).next_port() == 0


def test_later_port_when_asked_then_numbers_of_the_others_stay():
    world = World(clock=None, directory=None, port_base=4000)
    ports = [world.next_port(), world.later_port(), world.later_port(), world.next_port()]
    assert ports == [4000, 4040, 4041, 4001]
    assert World(clock=None, directory=None).later_port() == 0


def test_directory_when_not_given_then_gone_afterwards(parts):
    with Facility(only="eiger") as facility:
        directory = facility.directory
        assert directory.is_dir()
    assert not directory.exists()
    assert not facility.clock.path.exists()


def test_enter_when_a_part_does_not_start_then_the_others_are_stopped_and_nothing_is_left(parts):
    log, module = parts
    module.std_daq.fails = ("start",)
    facility = Facility()
    with pytest.raises(RuntimeError, match="std_daq does not start"):
        facility.__enter__()
    stopped = [name for name, *what in log if what == ["stop"]]
    assert stopped == ["broker", "std_daq", "eiger", "jungfrau", "pvs"]
    assert not facility.directory.exists() and not facility.clock.path.exists()


def test_enter_when_start_and_clean_up_both_fail_then_the_first_failure_is_raised_and_tells_the_second(parts):
    _, module = parts
    module.std_daq.fails, module.pvs.fails = ("start",), ("stop",)
    with pytest.raises(RuntimeError, match="std_daq does not start") as caught:
        Facility().__enter__()
    assert "pvs does not stop" in caught.value.__notes__[0]


def test_exit_when_a_part_does_not_stop_then_all_others_are_and_it_is_told(parts):
    log, module = parts
    module.eiger.fails = ("stop",)
    with pytest.raises(ExceptionGroup, match="did not stop cleanly") as caught, Facility():
        pass
    assert [str(exc) for exc in caught.value.exceptions] == ["eiger does not stop"]
    assert {name for name, *what in log if what == ["stop"]} == set(facility_module.PARTS)


def test_close_when_twice_then_nothing_happens(parts):
    facility = Facility()
    facility.__enter__()
    facility.close()
    facility.close()


def test_enter_when_used_again_then_starts_again(parts):
    log, _ = parts
    facility = Facility(only="eiger")
    for _ in range(2):
        with facility:
            assert facility.eiger is not None
    assert len([what for what in log if what == ("eiger", "stop")]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speed": 0}, "speed=0: expected a number above 0"),
        ({"speed": float("nan")}, "speed=nan: expected a number above 0"),
        ({"speed": "quick"}, "speed='quick': expected a number above 0, or \"auto\""),
        ({"start_timeout": 0}, "start_timeout=0: expected seconds above 0"),
        ({"only": ["eigr"]}, "only='eigr': expected names out of pvs"),
        ({"color": "red"}, "option='color': expected a name that starts with one of"),
    ],
)
def test_facility_when_an_argument_is_wrong_then_says_which_before_anything_starts(arguments, message):
    with pytest.raises(RequestError, match=message):
        Facility(**arguments)


def test_facility_when_real_parts_run_then_all_answer_and_nothing_stays(wait_for):
    import socket
    import threading
    from urllib.parse import urlsplit

    before = set(threading.enumerate())
    environment = os.environ.get("EPICS_CA_ADDR_LIST")
    with Facility(speed=10, eiger_model="500K") as facility:
        addresses = facility.addresses()
        assert set(addresses) == set(facility_module.PARTS)
        urls = [u for roles in addresses.values() for u in roles.values() if str(u).startswith("http")]
        assert len(urls) >= 4
        for url in urls:
            assert urlsplit(url).hostname == "127.0.0.1"
            socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60).close()
    for url in urls:
        with pytest.raises(OSError):
            socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60)
    assert os.environ.get("EPICS_CA_ADDR_LIST") == environment
    wait_for(lambda: not (set(threading.enumerate()) - before), "end of the threads")


def test_enter_when_a_child_does_nothing_more_then_fails_at_the_limit_with_its_step_and_what_to_do(
    tmp_path, monkeypatch
):
    hanging = "import time\nprint('STEP hanging', flush=True)\ntime.sleep(600)\n"
    (tmp_path / "caproto.py").write_text(hanging)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    facility = Facility(only="pvs", start_timeout=6.0)
    expected = (
        r"start of sfdaq_ophyd\.sim\.pvs: not done after 6 s; last state step 'hanging', \d+ s after the"
    )
    with pytest.raises(ServiceTimeout, match=expected) as caught:
        facility.__enter__()
    assert "start_timeout" in str(caught.value) and not facility.directory.exists()


def test_enter_when_a_child_ends_then_what_to_do_is_about_a_simulator(tmp_path, monkeypatch):
    (tmp_path / "caproto.py").write_text("raise SystemExit('no such library')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(ServiceUnreachable, match="its last words: .*no such library") as caught:
        Facility(only="pvs").__enter__()
    assert caught.value.advice == child.ENDED


@pytest.mark.parametrize("part", ["eiger", "broker"])
def test_facility_when_the_port_of_a_service_is_taken_then_its_address_is_named(part):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        address = rf"start of the simulated {part}: http://127\.0\.0\.1:{port} is not reachable .*in use"
        with pytest.raises(ServiceUnreachable, match=f"(?i){address}") as failed:
            Facility(only=[part], port_base=port).__enter__()
    assert "--port-base" in failed.value.advice
