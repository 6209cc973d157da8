"""The demo's one-page report: what was done, its tables and its pictures, as the catalog has them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, PackageLoader
from rich.table import Table

from .exhibits import Exhibit, short


def write_report(path: Path, exhibits: Iterable[Exhibit]) -> Path:
    """Write a page with a section per run, and return where it is.

    Parameters
    ----------
    path : Path
        The page; pictures are linked relative to it.
    exhibits : iterable of Exhibit
    """
    environment = Environment(loader=PackageLoader(__package__, ""), autoescape=True, trim_blocks=True)
    environment.filters.update(moment=_moment, rows=_rows, columns=_columns, short=short)
    template = environment.get_template("report.html")
    pictures = [[os.path.relpath(p, path.parent) for p in exhibit.pictures] for exhibit in exhibits]
    path.write_text(template.render(runs=list(zip(exhibits, pictures))), encoding="utf-8")
    return path


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _columns(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def _rows(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*[list(column.cells) for column in table.columns]))
