"""What is wrong with sfdaq.yaml is told with file, line and key.

Found faults: yaml-hostile.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfdaq_ophyd.errors import ConfigError
from sfdaq_ophyd.session import load_config
from sfdaq_ophyd.session.checks import checks_of, run_checks
from sfdaq_ophyd.session.config import SfdaqConfig

PROFILE = Path(__file__).parents[2] / "profile_collection"


def write(tmp_path, text):
    path = tmp_path / "sfdaq.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beamline: bernina\nbeamlime: x\n", ":2: beamlime: no such key"),
        ("pgroup: 12345\n", ":1: pgroup: Input should be a valid string, not 12345"),
        ("pgroup: p1\n", ":1: pgroup: String should match pattern '^(p\\d{5})?$', not 'p1'"),
        ("beamline: nowhere\n", ":1: beamline: Input should be '', 'alvra'"),
        (
            "devices:\n  eiger:\n    class: Eiger\n    url: eiger-dcu\n",
            ":4: devices.eiger.url: String should match",
        ),
        ("devices:\n  eiger:\n    class: Eiger\n", ":2: devices.eiger.url: missing"),
        (
            "devices:\n  s: {class: SfDaqBroker, url: 'http://sf-daq:1000l'}\n",
            ":2: devices.s.url: 'http://sf-daq:1000l': expected http://host:port",
        ),
        (
            "devices:\n  s: {class: SfDaqBroker, url: 'https://sf-daq:99999'}\n",
            ":2: devices.s.url: 'https://sf-daq:99999': expected https://host:port",
        ),
        (
            "devices:\n  w: {class: StdDaqWriter, url: 'ws://:8080'}\n",
            ":2: devices.w.url: 'ws://:8080': expected ws://host:port",
        ),
        (
            "devices:\n  e: {class: Eiger, url: 'http://x', stream: 'tcp://x:99999'}\n",
            ":2: devices.e.stream: 'tcp://x:99999': expected tcp://host:port",
        ),
        (
            "catalog: {uri: 'http://tiled:8OOO'}\n",
            ":1: catalog: 'http://tiled:8OOO': expected http://host:port",
        ),
        (
            "catalog: {uri: 'https://me:s3cret@tiled.psi.ch'}\n",
            ":1: catalog: uri: expected no login in it; its key goes into api_key_file or a variable",
        ),
        (
            "sim: {options: {seed: 3}}\n",
            ":1: sim.options.seed: seed: expected a name that starts with one of pvs",
        ),
        ("sim: {options: {pvs_prefix: 'A:'}}\n", "the session itself sets pvs_prefix"),
        ("devices:\n  eiger: {class: Eigr, url: 'http://x'}\n", ":2: devices.eiger: Input tag 'Eigr'"),
        ("devices:\n  eiger: {url: 'http://x'}\n", ":2: devices.eiger: Unable to extract tag using"),
        ("devices:\n  2nd: {class: Motor, pv: A}\n", ":2: devices.2nd"),
        ("devices:\n  m: {class: Motor, pv: A}\n  m: {class: Motor, pv: B}\n", ":3: devices.m: given twice"),
        ("baseline: [motor]\n", "baseline: motor: no device 'motor'; there are none"),
        (
            "devices:\n  r: {class: ReadOnly, pv: R}\nsuspenders:\n  beam: {device: r}\n",
            ":4: suspenders.beam: expected exactly one of below, above, unless",
        ),
        (
            "devices:\n  r: {class: ReadOnly, pv: R}\nsuspenders:\n  b: {device: r, below: 5, resume: 1}\n",
            ":4: suspenders.b: resume lies on the wrong side",
        ),
        ("devices: [\n", ":2: not YAML"),
        (
            "devices:\n  jf: {class: Jungfrau, detector_name: JF01T03V01, pulse_id: beat,\n"
            "    endpoints: ['tcp://a:1', 'tcp://a:2', 'tcp://a:3']}\n",
            "devices: jf: pulse_id: no device 'beat'; there are jf",
        ),
        (
            "devices:\n  jf: {class: Jungfrau, detector_name: JF01T01V01, endpoints: ['tcp://a:1'],\n"
            "    control: {broker: nobody}}\n",
            "devices: jf: control: broker: no device 'nobody'",
        ),
        (
            "devices:\n  jf: {class: Jungfrau, detector_name: JF01T03V01, endpoints: ['tcp://a:1', 'tcp://a:2']}\n",
            ":2: devices.jf: endpoints: 2, expected all of JF01T03V01: 3, or with two interfaces 6",
        ),
        (
            "devices:\n  jf: {class: Jungfrau, detector_name: JF01T02V01, endpoints: ['tcp://a:1', 'tcp://a:1']}\n",
            ":2: devices.jf: endpoints: one is there twice",
        ),
        (
            "devices:\n  jf: {class: Jungfrau, detector_name: JF01T02V01, stream: assembled,\n"
            "    endpoints: ['tcp://a:1', 'tcp://a:2']}\n",
            ":2: devices.jf: endpoints: 2, expected the one of the assembled stream",
        ),
        (
            "devices:\n  jf: {class: Jungfrau, detector_name: JF01T01V01, pull: yes, endpoints: ['tcp://a:1']}\n",
            ":2: devices.jf: disabled_modules, converted_shape, pull: only with `stream: assembled`",
        ),
        (
            "devices:\n  e: {class: Eiger, url: 'http://x', timeout: yes}\n",
            ":2: devices.e.timeout: Input should",
        ),
        (
            "devices:\n  s: {class: SfDaqBroker, url: 'http://x', n_pulses: true}\n",
            ":2: devices.s.n_pulses: ",
        ),
        ("sim: {speed: true}\n", ":1: sim.speed: "),
        ("sim: {seed: false}\n", ":1: sim.seed: "),
        ("catalog: {start_timeout: on}\n", ":1: catalog.start_timeout: "),
        (
            "devices:\n  r: {class: ReadOnly, pv: R}\nsuspenders:\n  b: {device: r, below: true}\n",
            ":4: suspenders.b.below: ",
        ),
        (
            "devices:\n  e: {class: Eiger, url: 'http://x', timeout: .nan}\n",
            ":2: .nan: expected a finite number",
        ),
        ("metadata:\n  constant:\n    deep: [1, {x: -.inf}]\n", ":3: -.inf: expected a finite number"),
        ("metadata: {constant: {x: !!binary aGVsbG8=}}\n", ":1: 'aGVsbG8=': expected text, a number"),
        ('pgroup: "\\U00110000"\n', ": not YAML: "),
        ('pgroup: "\\UFFFFFFFF"\n', ": not YAML: "),
        (f"%YAML {'1' * 5000}.1\n--- {{}}\n", ": not YAML: "),
        ("beamline: bernina\npgroup: !!bool maybe\n", ":2: 'maybe': cannot be read as !!bool"),
        ('pgroup: !!int ""\n', ":1: '': cannot be read as !!int"),
        ('pgroup: !!float ""\n', ":1: '': cannot be read as !!float"),
        ("pgroup: !!timestamp soon\n", ":1: 'soon': cannot be read as !!timestamp"),
        (f"sim: {{}}\npgroup: '{{port+{'9' * 5000}}}'\n", ":2: pgroup: String should match"),
        (
            "beamline: bernina\ndirectory: ~nobody-of-this-name/x\n",
            ":2: directory: '~nobody-of-this-name/x': there is no such user",
        ),
        ("- a\n", ":1: expected a mapping"),
        ("devices: !!python/object/apply:os.system [id]\n", ":1: "),
    ],
)
def test_load_when_the_file_is_wrong_then_file_line_and_key(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 50000 values, with aliases written out"),
        ("devices: &a\n  x: *a\n", "lists and mappings more than 50 deep"),
        ("devices: &a [*a, *a]\n", "lists and mappings more than 50 deep"),
        ("[" * 100_000, "more than 50 deep"),
        ("{a: " * 100_000, "more than 50 deep"),
        ("- " * 50_000, "more than 50 deep"),
        ("x: " + "1:" * 500_000 + "1\n", "too long for a number"),
        ("x: " + "9" * 500_000 + "\n", "too long for a number"),
    ],
    ids=["aliases", "its own alias", "two", "brackets", "braces", "dashes", "base 60", "digits"],
)
def test_yaml_hostile_when_a_bomb_then_refused_before_it_is_written_out(tmp_path, text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(write(tmp_path, text))


def names_of_the_startup_files():
    for path in sorted((PROFILE / "startup").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.alias):
                yield (node.asname or node.name).partition(".")[0]
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


@pytest.mark.parametrize(
    "name", ["lambda", "None", "print", "In", *sorted(set(names_of_the_startup_files()))]
)
def test_yaml_hostile_when_a_device_would_hide_a_name_then_refused(tmp_path, name):
    text = f"devices:\n  {name}: {{class: Motor, pv: X}}\n"
    with pytest.raises(ConfigError, match=f":2: devices.{name}.*would hide it"):
        load_config(write(tmp_path, text))


def test_load_when_a_date_is_given_then_text_that_metadata_can_hold(tmp_path):
    config = load_config(write(tmp_path, "metadata: {constant: {since: 2026-11-26}}\n"))
    assert config.metadata.constant == {"since": "2026-11-26"}


def test_load_when_several_things_are_wrong_then_a_line_each(tmp_path):
    path = write(tmp_path, "pgroup: p1\nwrong: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["1", "2"]


def test_load_when_missing_or_too_large_then_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    for none in ("~nobody-of-this-name/sfdaq.yaml", "a\0.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(none)
    with pytest.raises(ConfigError, match="larger than"):
        load_config(write(tmp_path, "#" * (2**20 + 1)))


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_load_when_given_any_text_then_a_configuration_or_a_config_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(path)
    except ConfigError as exc:
        assert str(path) in str(exc)


def test_load_when_relative_folders_then_below_the_file(tmp_path):
    config = load_config(write(tmp_path, "directory: here\n"))
    assert config.directory == tmp_path / "here"


def test_load_when_no_folder_is_given_then_it_is_one_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_config(write(tmp_path, "")).directory == Path("/home/somebody/sfdaq")


def test_load_when_sim_then_ports_and_prefix_are_filled_in():
    config = load_config(PROFILE / "sim.yaml", port=21000, prefix="X:")
    assert config.devices["eiger"].url == "http://127.0.0.1:21006"
    assert config.devices["motor"].pv == "X:M1"


def test_load_when_the_example_of_a_facility_then_valid():
    assert set(load_config(PROFILE / "facility.example.yaml").devices) >= {"eiger", "jf", "writer", "sfdaq"}


def test_every_key_when_looked_up_then_described_and_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "sfdaq-yaml.md").read_text()

    def check(schema):
        for name, block in schema.get("properties", {}).items():
            assert name == "class" or block.get("description"), name
            assert f"`{name}`" in page, name

    whole = SfdaqConfig.model_json_schema(by_alias=True)
    check(whole)
    for block in whole["$defs"].values():
        check(block)


def test_checks_when_addresses_have_passwords_then_none_is_shown(tmp_path):
    """Found as `password-in-messages`."""
    text = """
pgroup: p12345
devices:
  eiger: {class: Eiger, url: "http://me:s3cret@127.0.0.1:9"}
  writer: {class: StdDaqWriter, url: "http://me:s3cret@127.0.0.1:9", redis_url: "redis://:s3cret@127.0.0.1:9"}
  sfdaq: {class: SfDaqBroker, url: "http://me:s3cret@127.0.0.1:9"}
"""
    checks = checks_of(load_config(write(tmp_path, text)))
    findings = list(run_checks(checks))
    assert len(findings) >= 5 and not any("s3cret" in str(finding) for finding in findings)
    with pytest.raises(ConfigError) as info:
        load_config(write(tmp_path, text.replace('127.0.0.1:9"}', '127.0.0.1:port", n: 1}')))
    assert "s3cret" not in str(info.value)


@pytest.mark.parametrize(
    "text",
    [
        "devices:\n  w: {class: StdDaqWriter, url: 'http://x', redis_url: ':s3cret@host:6379'}\n",
        "metadata: {redis: 'user:s3cret@host/0'}\n",
        "devices:\n  e: {class: Eiger, url: '//me:s3cret" + "x" * 100 + "@host'}\n",
        "metadata: {redis: {url: 'user:s3cret@host/0'}}\n",
        "metadata: {redis: ['//user:s3cret@host/0']}\n",
    ],
)
def test_load_when_a_wrong_address_has_a_password_then_it_is_not_shown(tmp_path, text):
    """Found as `password-in-messages`."""
    with pytest.raises(ConfigError, match="not .*@host") as info:
        load_config(write(tmp_path, text))
    assert "s3cret" not in str(info.value)
