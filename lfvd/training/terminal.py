"""What `lfvd train` and `lfvd evaluate` print: progress (a bar a seed on a terminal, else lines), and tables of scores."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from lfvd.terminal import format_mean_std, format_percent, progress_bars
from lfvd.training.metrics import Record
from lfvd.training.summary import Summary, headline
from lfvd.training.trainer import progress_text


class TrainingProgress:
    """A context that shows the training of some seeds; call it as `lfvd.training.runs.OnEpoch`."""

    def __init__(self, seeds: Sequence[int], epochs: int) -> None:
        self.epochs = epochs
        self.bars = progress_bars()
        self.tasks: dict[int, TaskID] = {}
        if self.bars is not None:
            for seed in seeds:
                self.tasks[seed] = self.bars.add_task(f"seed {seed}", False, total=epochs, of=epochs, state="waits")

    def __enter__(self) -> TrainingProgress:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.bars is not None:
            if kind is None:
                self._fill(except_seed=None)
            self.bars.stop()

    def __call__(self, seed: int, history: list[Record]) -> None:
        """Show the records of a seed so far."""
        if self.bars is not None:
            self._fill(except_seed=seed)
            self.bars.start_task(self.tasks[seed])
            state = progress_text(history) if history else "first epoch"
            self.bars.update(self.tasks[seed], completed=len(history), state=state)
        elif history:
            print(f"seed {seed}  epoch {history[-1]['epoch']}/{self.epochs}  {progress_text(history)}", flush=True)

    def _fill(self, *, except_seed: int | None) -> None:
        """Fill the bars of seeds that began and are over: with patience they may have stopped early."""
        assert self.bars is not None
        for task in self.bars.tasks:
            if task.completed and task.id != self.tasks.get(-1 if except_seed is None else except_seed):
                self.bars.update(task.id, total=task.completed)


def print_summary(summary: Summary) -> None:
    """Print the scores of each seed, then F1 by class and W-F1 by dialogue length over the seeds, in percent."""
    console = Console(highlight=False)
    console.print()
    console.print(headline(summary), markup=False, style="bold")
    console.print(_by_seed(summary))
    console.print(_by_class(summary))


def _by_seed(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("seed", "best epoch", "W-F1 %", "accuracy %", "cross-entropy"):
        table.add_column(name, justify="right")
    for seed, each in summary["seeds"].items():
        scores = each["scores"]
        numbers = format_percent(scores["wf1"]), format_percent(scores["acc"]), f"{scores['loss']:.4f}"
        table.add_row(seed, str(each["best_epoch"]), *numbers)
    if len(summary["seeds"]) > 1:
        mean, std = summary["mean"]["scores"], summary["std"]["scores"]
        table.add_section()
        loss = f"{mean['loss']:.4f} ± {std['loss']:.4f}"
        table.add_row("mean ± std", "", *(format_mean_std(mean[k], std[k]) for k in ("wf1", "acc")), loss)
    return table


def _by_class(summary: Summary) -> Table:
    table = Table("class", box=box.SIMPLE_HEAD)
    table.add_column("F1 %", justify="right")
    table.add_column("utterances", justify="right")
    mean, std = summary["mean"], summary["std"]
    names = [name for name in mean["scores"] if name.startswith("f1/")]
    confusion = next(iter(summary["seeds"].values()))["confusion"]
    for name, row in zip(names, confusion, strict=True):
        f1 = format_mean_std(mean["scores"][name], std["scores"][name])
        table.add_row(escape(name.removeprefix("f1/")), f1, str(sum(row)))
    if mean["by_length"]:
        table.add_section()
        table.add_row("dialogue of", "W-F1 %", "", style="bold")
        for name, wf1 in mean["by_length"].items():
            table.add_row(f"{name} utterances", format_mean_std(wf1, std["by_length"][name]), "")
    return table
