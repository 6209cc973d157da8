"""One table of faults per simulator, and one way to arm and take them."""

import pytest

from sfdaq_ophyd.errors import RequestError
from sfdaq_ophyd.sim.broker import FAULTS as BROKER
from sfdaq_ophyd.sim.eiger import FAULTS as EIGER
from sfdaq_ophyd.sim.faults import Faults
from sfdaq_ophyd.sim.jungfrau.model import FAULTS as JUNGFRAU
from sfdaq_ophyd.sim.jungfrau.model import ModuleFaults
from sfdaq_ophyd.sim.pvs.part import FAULTS as PVS
from sfdaq_ophyd.sim.std_daq.settings import FAULTS as STD_DAQ


@pytest.mark.parametrize("table", [BROKER, EIGER, JUNGFRAU, PVS, STD_DAQ])
def test_fault_when_its_name_is_unknown_then_refused_with_the_list(table):
    with pytest.raises(ValueError, match="explode.*" + next(iter(table))):
        Faults(table).add("explode", {})


@pytest.mark.parametrize(
    ("table", "what", "details", "known"),
    [
        (BROKER, "latency", {"minutes": 1}, "seconds"),
        (BROKER, "limping", {"module": 1}, "modules"),
        (EIGER, "truncate", {"bytes": 1}, "keep"),
        (JUNGFRAU, "late", {"packets": 3}, "module"),
        (JUNGFRAU, "late", {"seconds": float("nan")}, "finite"),
        (JUNGFRAU, "silence", {"module": 1}, "nothing is sent"),
        (PVS, "refuse_put", {"seconds": 1}, "role"),
        (STD_DAQ, "stall", {"n": 1}, "after"),
    ],
)
def test_fault_when_a_detail_is_unknown_or_no_number_then_refused_with_what_it_takes(
    table, what, details, known
):
    faults = Faults(table)
    with pytest.raises(RequestError, match=known) as refused:
        faults.add(what, details)
    assert refused.value.field in details and not faults.armed


def test_fault_when_armed_for_a_place_then_taken_there_alone_and_as_often_as_told():
    faults = Faults(BROKER)
    faults.add("latency", {"seconds": 2}, 2, endpoint="get_pvlist")
    faults.add("latency", {})
    assert faults.take("latency", endpoint="set_pvlist") == {}, "the one for any place"
    assert faults.take("latency", endpoint="set_pvlist") is None
    assert faults.armed == ("latency", "latency")
    assert faults.take("latency", endpoint="get_pvlist")["seconds"] == 2
    faults.clear()
    assert faults.take("latency", endpoint="get_pvlist") is None


def test_fault_when_it_has_no_details_then_it_is_true_all_the_same():
    faults = Faults(STD_DAQ)
    faults.add("redis_empty", {})
    assert faults.take("redis_empty")


def test_fault_when_a_path_is_named_in_part_then_it_fits():
    faults = Faults(EIGER)
    faults.add("cut", {"path": "config"})
    assert faults.take("cut", path="/detector/api/1.8.0/status/state") is None
    assert faults.take("cut", path="/detector/api/1.8.0/config/nimages")


def test_fault_of_a_module_when_armed_n_times_then_of_module_0_unless_named():
    faults = ModuleFaults(JUNGFRAU)
    faults.add("late", {"n": 2})
    faults.add("late", {"module": 1})
    assert faults.take("late", module=1) and faults.take("late", module=1) is None
    assert faults.take("late", module=0) and faults.take("late", module=0)
    assert not faults.armed
