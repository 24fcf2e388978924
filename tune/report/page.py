"""HTML pages in one file: a Jinja template with Plotly figures → a page that opens offline, in light and dark.

Plotly's script is part of the page, and its content policy forbids every request. All text is escaped.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The page of a template that extends page.html.

    values: `title`, `facts`, `notices`, `answer` and `warnings` (lists of str), and what the template itself reads.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "figure_json": _figure_json, "headings": _headings}
    environment.globals |= {"zip": zip, "plotly": _plotly}
    style, script = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    return environment.get_template(template).render(style=style, script=script, **values)


def _prose(text: str) -> Markup:
    """A sentence with a capital first letter; text between backticks becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text[:1].upper() + text[1:]))))


def _figure_json(figure: go.Figure) -> Markup:
    """Data and layout for page.js, safe inside a script element; without a template: page.js has the page's colours."""
    content = figure.to_plotly_json()
    content["layout"].pop("template", None)
    text = to_json_plotly(content)
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _headings(sections: str) -> list[tuple[str, Markup]]:
    """Anchor and heading of each section of a page."""
    found = re.findall(r'<section id="(\w+)">\s*<h2>(.*?)</h2>', sections)
    return [(key, Markup(heading)) for key, heading in found]


@cache
def _plotly() -> Markup:
    return Markup(get_plotlyjs())
