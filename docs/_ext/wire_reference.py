"""Check the docstrings' citations of the wire reference, and make links of them."""

import ast
import re
from pathlib import Path

from sphinx.util import logging

import sfdaq_ophyd

logger = logging.getLogger(__name__)

NUMBER = r"\d+(?:\.\d+)*"
REMARK = r"\s+\([^()]*\)"
CITED = re.compile(
    rf"wire\s+reference\s+(?P<page>[a-z-]+),\s+sections?\s+(?P<first>{NUMBER})"
    rf"(?P<more>(?:(?:{REMARK})?(?:,|\s+and|\s+to)\s+{NUMBER})*)"
)
BARE = re.compile(rf"\bsections?\s+{NUMBER}")
PAGES = Path(__file__).parent.parent / "reference" / "wire"


def label(page: str, number: str) -> str:
    """Return the label in front of a section's heading."""
    return f"wire-{page}-{number.replace('.', '-')}"


def bare(source: str) -> list[str]:
    """Return what docstrings of a module's text cite by number alone, as if there were one page."""
    texts = [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return [found[0] for text in texts for found in BARE.finditer(CITED.sub("", " ".join(text.split())))]


def check(_sphinx_app) -> None:
    """Warn of every citation whose section is on no page, or that does not name its page."""
    known = {
        name
        for page in PAGES.glob("*.md")
        for name in re.findall(r"^\((wire-.+)\)=$", page.read_text(), re.M)
    }
    for path in sorted(Path(sfdaq_ophyd.__file__).parent.rglob("*.py")):
        source = path.read_text()
        for words in bare(source):
            logger.warning("%s cites %r without the page of the wire reference", path.name, words)
        text = re.sub(r"\n\s*#?\s*", " ", source)
        for found in CITED.finditer(text):
            for number in re.findall(NUMBER, found["first"] + re.sub(REMARK, "", found["more"])):
                if label(found["page"], number) not in known:
                    logger.warning("%s cites %r, which is on no page", path.name, found[0])


def link(_app, _what, _name, _obj, _options, lines: list[str]) -> None:
    """Make a link of each citation of a docstring: to the first section it names."""

    def linked(found: re.Match) -> str:
        words = " ".join(found[0].split())
        return f":ref:`{words} <{label(found['page'], found['first'])}>`"

    lines[:] = CITED.sub(linked, "\n".join(lines)).split("\n")


def setup(app_) -> dict:
    """Check before anything is read; link as docstrings are."""
    app_.connect("builder-inited", check, priority=100)
    app_.connect("autodoc-process-docstring", link, priority=900)
    return {"parallel_read_safe": True}
