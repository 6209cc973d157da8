"""Every Python block of the documentation runs, page by page, as a reader would type it.

The blocks of a page share one namespace and one empty directory. A comment ``<!-- setup`` ... ``-->`` holds
code that runs unseen; ``<!-- not run: reason -->`` before a block leaves it out.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
TESTED_ELSEWHERE = {"docs/how-to/read-data-back.md"}  # tests/catalog/test_docs.py also looks at its results
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->|"
    r"(?P<skip><!-- not run: .+? -->\n)?^```\{?(?:code-block\} )?python\}?\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
RUNNER = """
import json, sys
names = {"__name__": "__main__"}
for path, line, code in json.load(sys.stdin):
    exec(compile("\\n" * line + code, path, "exec"), names)
"""


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


@pytest.mark.timeout(150)
@pytest.mark.parametrize("page", [p for p in PAGES if _runs(p)], ids=lambda p: str(p.relative_to(REPO)))
def test_page_when_its_blocks_are_run_in_order_then_no_error(page, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(blocks(page)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=140,
        env={**os.environ, "MPLBACKEND": "Agg", "OPHYD_CONTROL_LAYER": "caproto"},
    )
    assert done.returncode == 0, done.stderr[-5000:]


def test_blocks_when_a_page_has_all_kinds_then_in_order_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- setup\na = 1\n-->\ntext\n```python\nb = a\n```\n"
        "<!-- not run: needs hardware -->\n```python\nboom\n```\n"
        "```{code-block} python\nc = b\n```\n```text\nno\n```\n"
    )
    assert blocks(page) == [(str(page), 1, "a = 1\n"), (str(page), 5, "b = a\n"), (str(page), 12, "c = b\n")]
