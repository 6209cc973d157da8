"""Whatever is typed after ``sfdaq``: a usage error, one sentence of ours, or a result; never a surprise."""

from __future__ import annotations

import os
import signal
import socket

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sfdaq_ophyd.cli.app import COMMANDS, app, load
from sfdaq_ophyd.errors import RequestError, SfdaqError
from sfdaq_ophyd.sim import facility

PATHS = (
    "missing",
    "a-file",
    "a-folder",
    "a-file/below",
    "/dev/null/below",
    "/proc/below",
    "",
    "a\nb",
    "ü" * 300,
)
NUMBERS = ("-1", "0", "1", "-0.5", "nan", "inf", "1e999", "9" * 30, "x", "", "1,2", "0x10", "١")
WORDS = """
sim eiger std-daq,broker eiger_modl=1M eiger_model=3M eiger_model=[1,2] eiger_shape=7 eiger_port=-1
pvs_prefix=1 only=1 port_base=1 broker_delays=x broker_detectors=1 jungfrau_discard_policy=[] jungfrau_name=JF
= a=b std_daq_dialect=1 std_daq_maxlen=x eiger_model={ http://127.0.0.1:9 http:// http://[::1 ftp://h tcp://h:1
p12345 JF01T03V01 JF01T03V01={ 1,2,3,4 {} [] null {"a":1} nan ../.. ' -- - auto
""".split()


FILES = "config config_file directory file files gain pedestal request sf_root source target".split()
"""Options and arguments that are paths: nothing is written outside of the test's folder."""


class Served(SfdaqError):
    """Everything was in order; what follows is not this test's business."""


def leaves(command, path=()):
    """Every command that does something, with the words that lead to it."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield path, command
        return
    for name, subcommand in subcommands.items():
        yield from leaves(subcommand, (*path, name))


LEAVES = [leaf for name in COMMANDS for leaf in leaves(load(name), (name,))]


def values(parameter):
    """Return values for an option: right and wrong ones; nothing outside of the test's folder is written."""
    if parameter.name in FILES:
        return st.sampled_from(PATHS)
    numbers = st.sampled_from(NUMBERS)
    return st.one_of(
        st.sampled_from(WORDS), numbers, st.text(max_size=8).filter(lambda text: "/" not in text)
    )


@st.composite
def command_lines(draw):
    path, command = draw(st.sampled_from(LEAVES))
    words = list(path)
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            words += draw(st.lists(values(parameter), min_size=0 if draw(st.booleans()) else 1, max_size=2))
        elif parameter.name != "help" and draw(st.integers(0, 2)) == 0:
            words.append(parameter.opts[0])
            words += [] if parameter.is_flag else [draw(values(parameter))]
    return words


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of its own; no server starts, no address answers, no process is replaced."""

    def served(*args, **kwargs):
        raise Served

    def unreachable(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    folder = tmp_path_factory.mktemp("here")
    (folder / "a-file").write_text("1")
    (folder / "a-folder").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        for name in ("SFDAQ_CONFIG", "SFDAQ_BROKER_URL", "STD_DAQ_API_URL", "SFDAQ_WATCH_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setattr(socket, "getaddrinfo", unreachable)
        patch.setattr(os, "execv", served)
        patch.setattr(signal, "signal", lambda *args: signal.SIG_DFL)
        patch.setattr("sfdaq_ophyd.web.serve", served)
        patch.setattr("distributed.Client", unreachable)
        made = facility._made

        def not_started(*args):
            part = made(*args)
            part.launch, part.start, part.stop = dict, served, dict
            return part

        patch.setattr(facility, "_made", not_started)
        yield folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=command_lines())
@example(words=["sim", "--option", "eiger_model={"])
@example(words=["sim", "--option", "eiger_model=2026-13-45"])
@example(words=["sim", "--option", "eiger_model=" + "[" * 5000])
@example(words=["sim", "--option", "eiger_model=!!bool maybe"])
@example(words=["sim", "--option", "eiger_model=!!timestamp soon"])
@example(words=["sim", "--option", 'eiger_model="\\UFFFFFFFF"'])
def test_sfdaq_when_given_any_arguments_then_a_usage_error_or_a_sentence_of_ours(here, words):
    result = CliRunner().invoke(app, words)
    if not isinstance(result.exception, SystemExit | SfdaqError | None):
        assert isinstance(result.exception, OSError) and result.exception.filename is not None, words
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sim", "--option", "eiger_modl=1M"], "option='eiger_modl': expected one of eiger_api_version, "),
        (["sim", "--option", "eiger_model=3M"], "model='3M': expected one of 500K, 1M"),
        (["sim", "--option", "pvs_prefix=1"], "pvs_prefix=1: expected another value"),
        (["sim", "--option", "port_base=1"], "--option='port_base=1': expected "),
        (["sim", "--port-base", "99999"], "port_base=99999: expected 0 for free ports"),
        (["demo", "--eiger-model", "3M"], "model='3M': expected one of 500K, 1M"),
    ],
)
def test_sfdaq_when_an_option_of_a_simulator_is_wrong_then_what_is_right(here, words, said):
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, RequestError) and said in str(result.exception)


def test_commands_when_listed_then_all_are_tried():
    assert {path[0] for path, _ in LEAVES} == set(COMMANDS)
    assert len(LEAVES) > 30
