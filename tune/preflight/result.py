"""Result of a preflight check, and how a terminal shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Status = Literal["ok", "unknown", "warning", "error"]
"""`unknown`: could not be checked; `error`: a search would fail."""

_MARKS = {"ok": ("✓", "green"), "unknown": ("?", "yellow"), "warning": ("✗", "yellow"), "error": ("✗", "red")}


@dataclass(frozen=True)
class CheckResult:
    """Result of one check. As text: the message and its remedy in one sentence."""

    check: str
    status: Status
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


def print_result(result: CheckResult, console: Console) -> None:
    """Print `✓ check  message`, or ✗ or ? by the status; the remedy on lines below."""
    mark, style = _MARKS[result.status]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1, style=style)
    grid.add_column(width=9)
    grid.add_column(overflow="fold")
    grid.add_row(mark, result.check, Text(result.message))
    if result.remedy:
        grid.add_row("", "", Text(f"→ {result.remedy}", style="bold"))
    console.print(grid)
