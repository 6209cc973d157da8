"""The page on reading data back says what is so."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "read-data-back.md"


def test_page_when_its_blocks_are_run_in_order_then_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 5
    names = {}
    try:
        for block in blocks:
            exec(block, names)
    finally:
        names["catalog"].close()
    assert names["images"].shape[0] == 5
    assert names["mean"].shape == names["images"].shape[1:]
    assert "motor" in capsys.readouterr().out
