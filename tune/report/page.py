"""A page that is one file: sentences, tables and figures → HTML that opens offline, on a phone, in light and dark.

Plotly's script is part of the file, and a content policy in it forbids every request. All text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from lfvd.files import write_text


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure that Plotly draws, without a template of its own: the page brings colours for light and dark."""

    kind: ClassVar[str] = "chart"
    plot: go.Figure
    label: str
    """What it shows, for those who cannot see it."""
    title: str = ""
    """Small heading above it, where a section has several."""
    least: int = 0
    """Pixels below which it does not shrink but scrolls in its box."""

    @property
    def json(self) -> Markup:
        """Data and layout for the page's script, safe inside a script element."""
        figure = self.plot.to_plotly_json()
        figure["layout"].pop("template", None)
        text = to_json_plotly(figure)
        return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))

    @property
    def height(self) -> int:
        """Pixels, so that the page does not jump while it is drawn."""
        return int(self.plot.layout.height or 400)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: the first cell names it."""

    cells: Sequence[str]
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows; all columns but the first are figures, unless `prose`."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    prose: bool = False


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A confusion matrix: counts[true][predicted], shaded by the share of the true class."""

    kind: ClassVar[str] = "matrix"
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    title: str

    @property
    def shares(self) -> list[list[float]]:
        """Percent of the true class."""
        return [[100 * count / max(1, sum(row)) for count in row] for row in self.counts]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Lines to be copied, or a file."""

    kind: ClassVar[str] = "listing"
    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence; `warning` marks what a reader must not miss."""

    kind: ClassVar[str] = "note"
    text: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parts that stand side by side where there is room."""

    kind: ClassVar[str] = "group"
    parts: Sequence[Chart | Matrix]


Part = Chart | Table | Matrix | Listing | Note | Group


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, how to read what follows, and the parts."""

    key: str
    """Its anchor."""
    title: str
    how: str
    """Sentences that say what is shown and how to read it."""
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page says: first the answer, then the sections."""

    kicker: str
    """What kind of page it is."""
    title: str
    facts: Sequence[str]
    """What, how much and when, in a few words each."""
    notices: Sequence[str] = ()
    """Boxes above everything else."""
    answer: Sequence[str]
    """The statement; its first sentence is set large."""
    summary: Sequence[Part] = ()
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()

    @property
    def figures(self) -> int:
        """Charts on the page."""
        parts = [*self.summary, *(part for section in self.sections for part in section.parts)]
        flat = [each for part in parts for each in (part.parts if isinstance(part, Group) else (part,))]
        return sum(isinstance(each, Chart) for each in flat)


def write_page(path: Path, page: Page) -> Path:
    """Write a page atomically."""
    write_text(path, render(page))
    return path


def render(page: Page) -> str:
    """The whole file."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        page=page, style=Markup(style), script=Markup(script), plotly=_plotly() if page.figures else ""
    )


def _prose(text: str) -> Markup:
    """A sentence with its first letter large, and what stands between backticks as code."""
    text = text[:1].upper() + text[1:]
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def _plotly() -> Markup:
    return Markup(get_plotlyjs())
