"""How far long work has come: a bar on a terminal, else a line a tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of things that are done, of `total`."""
    console = Console(highlight=False)
    if not console.is_terminal:
        yield _Lines(what, total)
        return
    # Room for the terminal's own `^C`: it would wrap a full line and leave half a bar behind.
    console = Console(highlight=False, width=console.width - 3)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.update(task, completed=count)


class _Lines:
    """`clips 1371/13708`, at the first call and whenever another tenth is done."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.tenth = -1

    def __call__(self, count: int) -> None:
        if (tenth := 10 * count // self.total) > self.tenth:
            self.tenth = tenth
            print(f"{self.what} {count}/{self.total}", flush=True)
