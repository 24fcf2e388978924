"""What every command prints the same way: shares in percent, mean ± deviation, and one progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column


def format_percent(share: float) -> str:
    """`45.67` for 0.4567."""
    return f"{100 * share:.2f}"


def format_mean_std(mean: float, std: float | None) -> str:
    """`45.67 ± 1.20` in percent; `45.67` without a deviation."""
    return format_percent(mean) if std is None else f"{format_percent(mean)} ± {format_percent(std)}"


def progress_bars() -> Progress | None:
    """Bars for tasks with the fields `of`, their total, and `state`, a text; None where stdout is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        return None
    # Room for the terminal's own `^C`: it would wrap a full line and leave half a bar behind.
    console = Console(highlight=False, width=console.width - 3)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        TextColumn("{task.completed:.0f}/{task.fields[of]}", justify="right"),
        TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        expand=True,
    )


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of things that are done, of `total`: a bar, or a line a tenth."""
    bars, tenths = progress_bars(), set[int]()

    def tell(count: int) -> None:
        """`clips 1371/13708`, at the first call and whenever another tenth is done."""
        if (tenth := 10 * count // total) not in tenths:
            tenths.add(tenth)
            print(f"{what} {count}/{total}", flush=True)

    if bars is None:
        yield tell
        return
    with bars:
        task = bars.add_task(what, total=total, of=total, state="")
        yield lambda count: bars.update(task, completed=count)
