"""What a check found, and how a person sees it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check's answer. As text: one sentence with the remedy."""

    check: str
    found: str
    ok: bool | None = True
    """None: not known."""
    remedy: str = ""
    fatal: bool = False
    """Whether a search would fail of it."""

    def __str__(self) -> str:
        return f"{self.found}: {self.remedy}" if self.remedy else self.found


def show(finding: Finding, console: Console) -> None:
    """`✓ check  found`, or ✗, or ? where it is not known; the remedy below it."""
    mark, style = {True: ("✓", "green"), False: ("✗", "red" if finding.fatal else "yellow"), None: ("?", "yellow")}[
        finding.ok
    ]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1, style=style)
    grid.add_column(width=9)
    grid.add_column(overflow="fold")
    grid.add_row(mark, finding.check, Text(finding.found))
    if finding.remedy:
        grid.add_row("", "", Text(f"→ {finding.remedy}", style="bold"))
    console.print(grid)
