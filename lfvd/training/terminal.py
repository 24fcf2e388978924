"""What a person sees of a training and of its scores: a bar a seed on a terminal, lines in a file, tables at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from lfvd.training import predictions
from lfvd.training.runs import Summary
from lfvd.training.trainer import Record


class Watch:
    """A context that shows the training of some seeds; call it as `lfvd.training.runs.Progress`."""

    def __init__(self, seeds: Sequence[int], epochs: int) -> None:
        self.epochs = epochs
        self.console = Console(highlight=False)
        self.bars: Progress | None = None
        self.tasks: dict[int, TaskID] = {}
        if self.console.is_terminal:
            # Room for the terminal's own `^C`: it would wrap a full line and leave half a bar behind.
            self.console = Console(highlight=False, width=self.console.width - 3)
            self.bars = _bars(self.console, epochs)
            self.tasks = {
                seed: self.bars.add_task(f"seed {seed}", total=epochs, start=False, what="waits") for seed in seeds
            }

    def __enter__(self) -> Watch:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.bars is not None:
            if kind is None:
                self._fill(*self.tasks)
            self.bars.stop()

    def __call__(self, seed: int, history: list[Record]) -> None:
        """Show the records of a seed so far."""
        if self.bars is None:
            self._line(seed, history)
            return
        self._fill(*(other for other in self.tasks if other != seed))
        self.bars.start_task(self.tasks[seed])
        self.bars.update(self.tasks[seed], completed=len(history), what=_state(history) if history else "first epoch")

    def _fill(self, *seeds: int) -> None:
        """Fill the bars of seeds that began and, with patience, may have stopped early."""
        assert self.bars is not None
        for task in self.bars.tasks:
            if task.completed and any(self.tasks[seed] == task.id for seed in seeds):
                self.bars.update(task.id, total=task.completed)

    def _line(self, seed: int, history: list[Record]) -> None:
        if history:
            last = history[-1]
            print(f"seed {seed}  epoch {last['epoch']}/{self.epochs}  {_state(history)}", flush=True)


def _state(history: list[Record]) -> str:
    """`loss 1.234  val W-F1 45.67  best 46.01 @12`, of the last epoch."""
    last = history[-1]
    best = max(history, key=lambda record: record["val/wf1"])
    return (
        f"loss {last['train/loss']:.3f}  val W-F1 {100 * last['val/wf1']:.2f}  "
        f"best {100 * best['val/wf1']:.2f} @{best['epoch']}"
    )


def _bars(console: Console, epochs: int) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
        TextColumn(f"{{task.completed:.0f}}/{epochs}", justify="right"),
        TextColumn("{task.fields[what]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        expand=True,
    )


def show(summary: Summary, console: Console | None = None) -> None:
    """Print the scores of each seed, then F1 by class and W-F1 by dialogue length over the seeds, in percent."""
    console = console or Console(highlight=False)
    console.print()
    console.print(predictions.title(summary), markup=False, style="bold")
    console.print(_by_seed(summary))
    console.print(_by_class(summary))


def _by_seed(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("seed", "best epoch", "W-F1 %", "accuracy %", "cross-entropy"):
        table.add_column(name, justify="right")
    for seed, each in summary["seeds"].items():
        scores = each["scores"]
        numbers = percent(scores["wf1"]), percent(scores["acc"]), f"{scores['loss']:.4f}"
        table.add_row(seed, str(each["best_epoch"]), *numbers)
    if len(summary["seeds"]) > 1:
        mean, std = summary["mean"]["scores"], summary["std"]["scores"]
        table.add_section()
        loss = f"{mean['loss']:.4f} ± {std['loss']:.4f}"
        table.add_row("mean ± std", "", *(_spread(mean[k], std[k]) for k in ("wf1", "acc")), loss)
    return table


def _by_class(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    table.add_column("F1 %", justify="right")
    table.add_column("utterances", justify="right")
    first: dict[str, Any] = next(iter(summary["seeds"].values()))
    mean, std = summary["mean"]["scores"], summary["std"]["scores"]
    names = [name for name in mean if name.startswith("f1/")]
    for name, row in zip(names, first["confusion"], strict=True):
        table.add_row(escape(name.removeprefix("f1/")), _spread(mean[name], std[name]), str(sum(row)))
    lengths, spread = summary["mean"]["by_length"], summary["std"]["by_length"]
    if lengths:
        table.add_section()
        table.add_row("dialogue of", "W-F1 %", "", style="bold")
        for name in lengths:
            table.add_row(f"{name} utterances", _spread(lengths[name], spread[name]), "")
    return table


def percent(share: float) -> str:
    """`45.67` for 0.4567."""
    return f"{100 * share:.2f}"


def _spread(mean: float, std: float | None) -> str:
    return percent(mean) if std is None else f"{percent(mean)} ± {percent(std)}"
