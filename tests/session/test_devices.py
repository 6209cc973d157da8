"""Devices of a configuration file, made without contacting anything."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import types

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import ophyd
import pytest
import zmq
from bluesky import RunEngine
from ophyd import Component, Device, EpicsSignal, EpicsSignalRO, Kind

from sfdaq_ophyd.clients import StdDaqWriterSocket
from sfdaq_ophyd.devices import Eiger, Jungfrau, SfDaqBroker, StdDaqWriter
from sfdaq_ophyd.devices.jungfrau import BrokerControl
from sfdaq_ophyd.errors import ConfigError
from sfdaq_ophyd.plans import run_number_wrapper, save_once
from sfdaq_ophyd.session import config as blocks
from sfdaq_ophyd.session import load_config
from sfdaq_ophyd.session.devices import be_patient, leave_quietly, make_devices
from sfdaq_ophyd.session.startup import Session

TEXT = """
devices:
  jf:
    class: Jungfrau
    detector_name: JF01T03V01
    endpoints: [tcp://h:30001, tcp://h:30002, tcp://h:30003]
    stream_options: {incomplete: drop}
    control: {broker: sfdaq, settings: {gain_mode: fixed_gain1}}
  sfdaq: {class: SfDaqBroker, url: http://h:10002, pgroup: p12345}
  lone:
    class: Jungfrau
    detector_name: JF01T01V01
    endpoints: [tcp://h:30001]
    control: {broker: jf}
"""


def test_control_when_it_names_a_broker_then_is_given_and_else_the_device_says_why(tmp_path):
    (tmp_path / "sfdaq.yaml").write_text(TEXT)
    made = {entry.name: entry for entry in make_devices(load_config(tmp_path / "sfdaq.yaml"))}
    assert list(made) == ["jf", "sfdaq", "lone"]
    control = made["jf"].device._control
    assert isinstance(control, BrokerControl) and control.settings == {"gain_mode": "fixed_gain1"}
    assert made["lone"].device is None
    assert "control.broker: 'jf': expected the name of a SfDaqBroker" in made["lone"].problem


def test_writer_when_a_session_makes_it_then_file_names_know_the_run(tmp_path):
    path = tmp_path / "sfdaq.yaml"
    path.write_text(
        "pgroup: p12345\n"
        "directory: data\n"
        "devices:\n"
        "  writer:\n"
        "    class: StdDaqWriter\n"
        "    url: http://127.0.0.1:9\n"
        '    template: "{pgroup}/{scan_id:05d}_{point}.h5"\n'
    )
    session = Session(path)
    writer = session.devices["writer"]
    session._remember("start", {"pgroup": "p12345", "scan_id": 7})
    name = writer.settings().paths.next(name="writer", point=0, run_id=1)
    assert name.endswith("/p12345/00007_0.h5")


def test_writer_when_a_broker_numbers_the_run_then_file_names_know_the_number(tmp_path):
    path = tmp_path / "sfdaq.yaml"
    path.write_text(
        "pgroup: p12345\n"
        "directory: data\n"
        "devices:\n"
        "  sfdaq: {class: SfDaqBroker, url: http://127.0.0.1:9}\n"
        "  writer:\n"
        "    class: StdDaqWriter\n"
        "    url: http://127.0.0.1:9\n"
        '    template: "{pgroup}/run{run_number:04d}/{scan_id:05d}_{point:04d}.h5"\n'
    )
    session = Session(path)
    devices = session.devices
    broker, paths = devices["sfdaq"], devices["writer"].settings().paths
    broker.client.advance_run_number = lambda pgroup: 7
    names = []

    def note_name():
        names.append(paths.next(name="writer", point=0, run_id=1))
        yield from bps.null()

    engine = RunEngine()
    engine.subscribe(session._remember, "start")
    engine(run_number_wrapper(bpp.run_wrapper(note_name()), broker))
    assert names[0].endswith("/p12345/run0007/00001_0000.h5")
    session._remember("start", {"pgroup": "p12345", "scan_id": 2, "sf_daq": {"pgroup": "p99999"}})
    assert session.facts["pgroup"] == "p12345" and "run_number" not in session.facts


@pytest.mark.parametrize(
    "keys, control, config, user",
    [
        ("url: ws://daq", "ws://daq:8080", "http://daq:5000", "sfdaq"),
        ("url: ws://daq:81, config_url: http://other, user: me", "ws://daq:81", "http://other", "me"),
        ("url: http://daq:5000, dialect: websocket", "ws://daq:8080", "http://daq:5000", "sfdaq"),
    ],
)
def test_writer_when_it_is_controlled_by_websocket_then_by_the_addresses_of_the_file(
    tmp_path, keys, control, config, user
):
    (tmp_path / "sfdaq.yaml").write_text(f"devices:\n  writer: {{class: StdDaqWriter, {keys}}}\n")
    (entry,) = make_devices(load_config(tmp_path / "sfdaq.yaml"))
    client = entry.device.client
    assert isinstance(client, StdDaqWriterSocket)
    assert (client.url, client.config_url, client._user) == (control, config, user)


def test_run_engine_when_a_session_makes_it_then_points_are_saved_once_and_runs_numbered(tmp_path):
    (tmp_path / "sfdaq.yaml").write_text("directory: data\n")
    preprocessors = Session(tmp_path / "sfdaq.yaml").RE.preprocessors
    assert save_once in preprocessors and run_number_wrapper in preprocessors


def test_jungfrau_when_its_stream_is_assembled_then_all_its_options_have_keys(tmp_path):
    (tmp_path / "sfdaq.yaml").write_text("""
devices:
  live:
    class: Jungfrau
    detector_name: JF01T03V01
    stream: assembled
    endpoints: [tcp://h:9007]
    pull: yes
    disabled_modules: [1]
    frame_step: 2
    event_id: frame
  converted:
    class: Jungfrau
    detector_name: JF01T03V01
    stream: assembled
    endpoints: [tcp://h:9007]
    converted_shape: [1614, 1030]
""")
    made = {entry.name: entry.device for entry in make_devices(load_config(tmp_path / "sfdaq.yaml"))}
    live, converted = made["live"], made["converted"]
    assert live.event_ids.get() == "frame" and live.settings().frame_step == 2
    assert live.settings().process.frame_format.shape == (1024, 1024)
    assert live.source.stream._socket_type == zmq.PULL
    assert converted.settings().process.frame_format.shape == (1614, 1030)


@pytest.mark.parametrize(
    ("block", "cls", "resolved"),
    [
        (blocks.EigerConfig, Eiger, set()),
        (blocks.JungfrauConfig, Jungfrau, {"constants"}),  # becomes the calibration
        (blocks.StdDaqWriterConfig, StdDaqWriter, set()),
        (blocks.SfDaqBrokerConfig, SfDaqBroker, {"register_files"}),  # register
    ],
)
def test_block_when_its_keys_are_compared_then_the_constructor_takes_each(block, cls, resolved):
    of_all = {"cls", "labels", "set"}
    assert block.model_fields.keys() - of_all - resolved <= inspect.signature(cls).parameters.keys()


def test_eiger_when_the_file_says_its_readout_then_made_so_and_else_refused(tmp_path):
    path, wanted = tmp_path / "sfdaq.yaml", "devices:\n"
    for name, more in (
        ("monitor", ""),
        ("default", ", readout: stream"),
        ("stream", ", readout: stream, stream: 'tcp://other:9001'"),
        ("files", ", readout: filewriter, files: mounted"),
        ("fetched", ", readout: filewriter, delete_files: true"),
    ):
        wanted += f"  {name}: {{class: Eiger, url: 'http://dcu:8080'{more}}}\n"
    path.write_text(f"directory: .\n{wanted}")
    made = {entry.name: entry.device for entry in make_devices(load_config(path))}
    assert made["monitor"].monitor_mode.kind == made["stream"].stream_mode.kind == Kind.config
    assert made["default"].source.stream.endpoints == ["tcp://dcu:31001"]
    assert made["stream"].source.stream.endpoints == ["tcp://other:9001"]
    assert made["files"].filewriter_mode.kind == made["fetched"].filewriter_mode.kind == Kind.config
    path.write_text(wanted.replace("readout: stream", "readout: streem"))
    with pytest.raises(ConfigError, match="readout: .*'monitor', 'stream' or 'filewriter', not 'streem'"):
        load_config(path)


class Late:
    """Stands in for a method of Channel Access: `n` times it has no answer, after `outcome` says so."""

    def __init__(self, n, no_answer, answer):
        self.n_asked, self._n, self._no_answer, self._answer = 0, n, no_answer, answer

    def __call__(self, *args, **kwargs):
        self.n_asked += 1
        if self.n_asked > self._n:
            return self._answer
        threading.Event().wait(0.05)  # by the clock on the wall
        return self._no_answer()


class Pair(Device):
    one = Component(EpicsSignalRO, "ONE")


@pytest.fixture
def suspended(monkeypatch):
    """A process that can look at nothing, with the signals that a user of a session makes in it."""
    be_patient()
    monkeypatch.setattr("sfdaq_ophyd.limits.counted_time", lambda: 0.0)
    made = {"plain": EpicsSignalRO, "both": EpicsSignal, "pair": Pair}
    made = {name: cls("NOBODY", name=name) for name, cls in made.items()}
    yield made
    for each in made.values():
        each.destroy()


def refuse():
    raise TimeoutError("late by the clock on the wall")


@pytest.mark.parametrize("name, ask", [("plain", "get"), ("both", "get"), ("both", "get_setpoint")])
def test_signal_when_no_answer_came_while_this_process_was_suspended_then_it_is_asked_again(
    suspended, monkeypatch, name, ask
):
    signal = suspended[name]
    late = Late(1, lambda: None, {"value": 3.0, "timestamp": 1.0})
    monkeypatch.setattr(signal, "_ensure_connected", lambda *pvs, timeout: None)
    monkeypatch.setattr(signal._read_pv, "get_with_metadata", late)
    assert getattr(signal, ask)(timeout=0.05) == 3.0 and late.n_asked == 2


@pytest.mark.parametrize("name", ["plain", "both"])
def test_signal_when_it_could_not_connect_while_this_process_was_suspended_then_is_waited_for_again(
    suspended, monkeypatch, name
):
    late = Late(1, refuse, None)
    monkeypatch.setattr(suspended[name], "_ensure_connected", late)
    suspended[name].wait_for_connection(0.05)
    assert late.n_asked == 2


def test_device_when_it_could_not_connect_while_this_process_was_suspended_then_is_waited_for_again(
    suspended, monkeypatch
):
    now = [0.0]

    def sleep(seconds):
        threading.Event().wait(0.05)
        now[0] += 15.0

    monkeypatch.setattr("ophyd.device.ttime", types.SimpleNamespace(time=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(EpicsSignalRO, "connected", property(lambda self: now[0] > 0))
    suspended["pair"].wait_for_connection(timeout=10)


def test_signal_when_this_process_could_look_then_it_is_asked_once_and_no_longer_than_its_limit(monkeypatch):
    be_patient()
    signal, late = EpicsSignalRO("NOBODY", name="plain"), Late(9, lambda: None, None)
    try:
        monkeypatch.setattr(signal, "_ensure_connected", lambda *pvs, timeout: None)
        monkeypatch.setattr(signal._read_pv, "get_with_metadata", late)
        monkeypatch.setattr("sfdaq_ophyd.limits.NO_GAP", 10.0)  # however busy this machine is
        with pytest.raises(TimeoutError, match="Failed to read NOBODY within 0.05 sec"):
            signal.get(timeout=0.05)
        assert late.n_asked == 1
    finally:
        signal.destroy()


OWN = """
import ophyd.signal, ophyd.device
def methods():
    return [
        (cls.__name__, name, vars(cls).get(name))
        for cls in (ophyd.device.Device, ophyd.signal.EpicsSignalBase, ophyd.signal.EpicsSignal)
        for name in ("get", "get_setpoint", "wait_for_connection")
    ]
before = methods()
import sfdaq_ophyd, sfdaq_ophyd.devices, sfdaq_ophyd.plans, sfdaq_ophyd.session.devices
assert methods() == before
"""


def test_ophyd_when_the_devices_are_imported_then_it_is_as_it_was():
    subprocess.run([sys.executable, "-c", OWN], check=True, timeout=300)


def test_session_when_it_ends_while_pvs_connect_then_ophyd_s_threads_are_not_waited_for(monkeypatch):
    """They wait for PVs that nobody connects any more, each for as long as that may take."""
    hooks, stopping, going_on = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=going_on.wait, daemon=True)
    thread.start()
    dispatcher = types.SimpleNamespace(stop_event=stopping, stop=thread.join)
    context = types.SimpleNamespace(disconnect=lambda wait: None)
    monkeypatch.setattr(threading, "_register_atexit", hooks.append)
    monkeypatch.setattr("caproto.threading.pyepics_compat.PV.default_context", lambda: context)
    monkeypatch.setattr(ophyd, "cl", types.SimpleNamespace(name="caproto", get_dispatcher=lambda: dispatcher))
    leave_quietly()
    (leave,) = hooks
    leave()
    dispatcher.stop()  # as ophyd does it at the end
    assert stopping.is_set() and thread.is_alive()
    going_on.set()
