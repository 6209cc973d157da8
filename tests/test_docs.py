"""Every Python block of the documentation runs, page by page, as a reader would type it; and every example.

The blocks of a page share one namespace and one empty directory; pages share a process, so that what they
import is imported once, and the catalog that they open, whose server takes longer to start than most pages. A
comment ``<!-- setup`` ... ``-->`` holds
code that runs unseen; ``<!-- not run: reason -->`` before a block leaves it out.
"""

import ast
import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
TESTED_ELSEWHERE = {
    "docs/how-to/queueserver.md",  # tests/test_queueserver.py begins with its commands, on ports of its own
}
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->|"
    r"(?P<skip><!-- not run: .+? -->\n)?^```\{?(?:code-block\} )?python\}?\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
FIRST = re.compile(
    r"\A(?:(?!^```).)*?^```console\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
BEAMLINE = """
beamline: bernina
pgroup: p12345
directory: data
control_layer: caproto
devices:
  motor: {class: Motor, pv: "NOBODY:M1"}
"""
PRINTED = {
    "calibrated_jungfrau.py": ["(1, 512, 1024) uint16", "(1, 514, 1030) float32"],
    "live_page.py": ["jf: pulse ", "keV", "picture of "],
    "retrieve_past_pulses.py": ["JF01T03V01", "success"],
    "scan_with_the_eiger.py": ["scan: 5 points", "1_0", "fly: images (20, "],
    "stream_without_bluesky.py": ["whole", "complete"],
    "write_with_the_standard_daq.py": ["1 {", "3 {", "file://"],
}
"""What must be in the output of each example."""

FOUND = {
    "read-data-back.md": ("assert images.shape[0] == 5 and mean.shape == images.shape[1:]", "motor"),
}
"""What must be so after a page, and what it must have printed."""

RUNNER = """
import gc, json, os, sys, traceback
from sfdaq_ophyd import catalog

opened, embedded_catalog = [], catalog.embedded_catalog

def shared_catalog(directory):
    if not opened:
        opened.append(embedded_catalog(sys.argv[1]))
        opened[0].close = opened[0].flush  # others go on with it
    return opened[0]

catalog.embedded_catalog = shared_catalog
asked, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for folder, output, parts in map(json.loads, asked):
    said = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1), os.dup2(said, 2), os.close(said)
    os.chdir(folder)
    names, ended = {"__name__": "__main__"}, "well"
    try:
        for path, line, code in parts:
            names["__file__"] = path
            exec(compile("\\n" * line + code, path, "exec"), names)
    except BaseException:
        traceback.print_exc()
        ended = "failed"
    names.clear()
    gc.collect()
    sys.stdout.flush(), sys.stderr.flush()
    print(ended, file=answers, flush=True)
"""
"""Runs pages one after the other, each in a namespace and a folder of its own."""


class Runner:
    """A process that runs pages and examples; a new one after one that did not answer."""

    def __init__(self, folder: Path):
        self._process, self._folder = None, folder

    def run(self, parts: list[tuple[str, int, str]], folder: Path) -> str:
        """Run what `blocks` gives; return what it printed, once it ended well."""
        place, output = folder / "page", folder / "output"
        place.mkdir()
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "MPLBACKEND": "Agg", "OPHYD_CONTROL_LAYER": "caproto"},
            )
        alarm = threading.Timer(280, self._process.kill)  # before pytest ends everything
        alarm.start()
        try:
            print(json.dumps([str(place), str(output), parts]), file=self._process.stdin, flush=True)
            ended = self._process.stdout.readline().strip()
        finally:
            alarm.cancel()
        assert ended == "well", output.read_text()[-5000:]
        return output.read_text()

    def close(self):
        if self._process is not None:
            try:
                self._process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with contextlib.closing(Runner(tmp_path_factory.mktemp("catalog"))) as runner:
        yield runner


def blocks(page: Path) -> list[tuple[str, int, str]]:
    text = page.read_text()
    found = []
    for match in BLOCK.finditer(text):
        if match["skip"]:
            continue
        group = "code" if match["code"] is not None else "setup"
        found.append((str(page), text.count("\n", 0, match.start(group)), match[group]))
    return found


def _runs(page: Path) -> bool:
    name = str(page.relative_to(REPO))
    return (
        "_build" not in name
        and "reference/api" not in name
        and name not in TESTED_ELSEWHERE
        and bool(blocks(page))
    )


def console(page: Path) -> list[list[str]]:
    """Return the commands of a page's first block, if that is of a console.

    ``pip install`` is left out: the gate installs the wheel.
    """
    match = FIRST.match(page.read_text())
    if match is None:
        return []
    lines = [line[2:] for line in match["code"].splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines if not line.startswith("pip install")]


def _ran(words: list[str], folder: Path) -> str:
    """Run to its end, or until a server says that it is ready; return what is wrong, empty if nothing."""
    assert words[0] == "sfdaq", words
    code = "from sfdaq_ophyd.cli import main; main()"
    env = {**os.environ, "MPLBACKEND": "Agg", "OPHYD_CONTROL_LAYER": "caproto", "BROWSER": "true"}
    with subprocess.Popen(
        [sys.executable, "-c", code, *words[1:]],
        cwd=folder,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        alarm = threading.Timer(280, process.kill)  # before pytest ends everything
        alarm.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it may be over
                process.stdin.write("exit\n" if words[1] == "session" else "\n" * 20)  # no answers
                process.stdin.close()
            said, ended = [], {0}
            for line in process.stdout:
                said.append(line)
                if line.startswith("READY"):
                    process.send_signal(signal.SIGINT)
                    ended = {0, -signal.SIGINT, 128 + signal.SIGINT}
            ended_well = process.wait() in ended
        finally:
            alarm.cancel()
    text = "".join(said)
    return "" if ended_well and "Traceback" not in text else f"{process.returncode}: {text[-5000:]}"


def _begins_with_commands(page: Path) -> bool:
    return str(page.relative_to(REPO)) not in TESTED_ELSEWHERE and bool(console(page))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if _begins_with_commands(p)], ids=lambda p: str(p.relative_to(REPO))
)
def test_page_when_its_first_commands_are_run_then_no_error(page, tmp_path):
    steps = re.findall(r"^(?:nice -n 19 )?make .*", (REPO / ".ci" / "run").read_text(), re.MULTILINE)
    made = {word for step in steps for word in step.split()}
    if page.name == "watch.md":
        (tmp_path / "sfdaq.yaml").write_text(BEAMLINE)
    for words in console(page):
        if words[0] == "make":  # the gate does that, in a fresh clone
            assert set(words) <= made, words
            continue
        words = [*words, "--port", "0"] if "watch" in words else words  # the usual one may be taken
        assert not _ran(words, tmp_path), words


@pytest.mark.parametrize("page", [p for p in PAGES if _runs(p)], ids=lambda p: str(p.relative_to(REPO)))
def test_page_when_its_blocks_are_run_in_order_then_no_error(page, runner, tmp_path):
    check, words = FOUND.get(page.name, ("", ""))
    assert words in runner.run([*blocks(page), (str(page), 0, check)], tmp_path)


def test_examples_when_listed_then_each_is_tested_and_described():
    assert {path.name for path in (REPO / "examples").glob("*.py")} == set(PRINTED)
    text = (REPO / "examples" / "README.md").read_text()
    assert all(f"`{name}`" in text for name in PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example_when_run_then_no_error_and_the_promised_output(name, runner, tmp_path):
    path = REPO / "examples" / name
    said = runner.run([(str(path), 0, path.read_text())], tmp_path)
    for words in PRINTED[name]:
        assert words in said, said


def test_blocks_when_a_page_has_all_kinds_then_in_order_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- setup\na = 1\n-->\ntext\n```python\nb = a\n```\n"
        "<!-- not run: needs hardware -->\n```python\nboom\n```\n"
        "```{code-block} python\nc = b\n```\n```text\nno\n```\n"
    )
    assert blocks(page) == [(str(page), 1, "a = 1\n"), (str(page), 5, "b = a\n"), (str(page), 12, "c = b\n")]


def test_bare_when_a_docstring_cites_a_section_without_its_page_then_it_is_found(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(REPO / "docs" / "_ext"))
    bare = importlib.import_module("wire_reference").bare
    whole = "As in wire reference std-daq, sections 4 (request), 5\n    and 12.1 (states)."
    assert bare(f'"""{whole}"""\nx = "section 3"  # section 4\n') == []
    assert bare(f'"""{whole}"""\ndef f():\n    """Said in\n    section 8.2."""\n') == ["section 8.2"]
    assert bare('x = 1\n"""A limit (sections 3 and 4)."""\n') == ["sections 3"]


STEP = re.compile(r"^\| \d+ \| `(?P<file>[\w/]+\.py)` \| `(?P<name>[\w.]+)` \|", re.MULTILINE)


MAP = REPO / "docs" / "explanations" / "architecture.md"


def test_map_when_it_names_files_and_functions_then_they_are_there():
    steps = list(STEP.finditer(MAP.read_text()))
    assert len(steps) > 25
    for step in steps:
        body = ast.parse((REPO / "sfdaq_ophyd" / step["file"]).read_text()).body
        for part in step["name"].split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, step[0]
            body = getattr(found[0], "body", [])


QUOTED = re.compile(r"`([\w/.*]+)`")


def test_rooms_when_they_name_files_and_folders_then_they_are_there():
    rooms = re.findall(r"^\| `(\w+)` \| (.* \|.*\|.*\|.*) \|$", MAP.read_text(), re.MULTILINE)
    named = [(floor, name) for floor, row in rooms for name in QUOTED.findall(row)]
    assert len(named) > 30
    for floor, name in named:
        here = REPO / "sfdaq_ophyd" / floor
        assert list(here.glob(f"{name}.py")) or (here / name).is_dir(), f"{floor}: {name}"


WHERE = re.compile(r"`(?P<name>[\w.]+)` (?:in|of) `(?P<path>\w[\w.]*/[\w/.]*)`")


def test_map_when_it_names_a_path_then_it_is_there_and_has_the_name_before_it():
    text, places = MAP.read_text(), (REPO, REPO / "sfdaq_ophyd")
    paths = {quoted for quoted in QUOTED.findall(text) if re.match(r"\w+/\w", quoted) and "*" not in quoted}
    lost = {path for path in paths if not any((place / path).exists() for place in places)}
    assert len(paths) > 30 and not lost
    said = list(WHERE.finditer(text))
    assert len(said) > 10
    for each in said:
        there = REPO / "sfdaq_ophyd" / each["path"]
        code = "".join(path.read_text() for path in (there.rglob("*.py") if there.is_dir() else [there]))
        assert re.search(rf"\b{each['name'].rpartition('.')[2]}\b", code), each[0]
