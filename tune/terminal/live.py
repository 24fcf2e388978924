"""Live view of a search: a table on a terminal, one line a minute in a log file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.formatting import format_duration, format_params, format_percent
from tune.search.confirmation import ConfirmJobs
from tune.search.trials import SearchJobs, tally
from tune.study.study import BASELINE

LINE_SECONDS = 60

MAX_ROWS = 20
"""Running trials in the table; a thousand would take longer to draw than the driver has."""


class Display:
    """Shows `view()` while the block runs, live on a terminal; elsewhere prints `line()` once a minute and at the end."""

    def __init__(self, console: Console, view: Callable[[], RenderableType], line: Callable[[], str]) -> None:
        self.console, self.view, self.line = console, view, line
        self.live = Live(console=console, get_renderable=view, refresh_per_second=4) if console.is_terminal else None
        self.done = threading.Event()

    def __enter__(self) -> Display:
        if self.live is not None:
            self.live.start()
        else:
            threading.Thread(target=self._print_lines, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done.set()
        if self.live is not None:
            self.live.stop()
        else:
            self._print_line()

    def _print_lines(self) -> None:
        while not self.done.wait(LINE_SECONDS):
            self._print_line()

    def _print_line(self) -> None:
        self.console.print(self.line(), highlight=False, markup=False, soft_wrap=True)


class SearchView:
    """Progress of a search; problem: of MLflow, if there is one."""

    def __init__(self, jobs: SearchJobs, problem: Callable[[], str | None]) -> None:
        self.jobs, self.problem = jobs, problem
        self.epochs_before = jobs.spent.epochs

    def line(self) -> str:
        """`search 12/40 trials, 2 running, best trial 7 53.10, …`."""
        counts, best, problem = self._counts(), self._best(), self.problem()
        parts = [self._ended(counts)] + [f"{count} {state}" for state, count in counts.items() if count]
        parts += [f"best trial {best[0]} {format_percent(best[1])}"] if best else []
        return ", ".join([f"search {parts[0]}", *parts[1:], self._pace()]) + (f"; {problem}" if problem else "")

    def view(self) -> RenderableType:
        """Table of states, best, baseline and running trials."""
        jobs, counts, best, problem = self.jobs, self._counts(), self._best(), self.problem()
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        states = " · ".join(f"{count} {state}" for state, count in counts.items())
        ended = sum(counts.values()) - counts["running"]
        table.add_row("search", f"{self._ended(counts)}   {states}")
        table.add_row("", ProgressBar(total=jobs.plan.trials, completed=ended, width=40))
        table.add_row("pace", self._pace())
        if best:
            score = f"[bold green]{format_percent(best[1])}[/] val W-F1"
            table.add_row("best", f"{score}, trial {best[0]}   {format_params(jobs.params[best[0]])}")
        if BASELINE in jobs.best:
            score = f"{format_percent(jobs.best[BASELINE])} val W-F1"
            table.add_row("baseline", f"{score}, trial 0 (the base config's own values)")
        running = sorted(jobs.running.copy().values(), key=lambda each: each.trial.number)
        for each in running[:MAX_ROWS]:
            score = format_percent(each.best) if each.epochs else "first epoch"
            epoch = f"epoch {each.epochs}/{jobs.plan.scheduler.max_epochs}"
            table.add_row(f"trial {each.trial.number}", f"{epoch}   {score}")
        if len(running) > MAX_ROWS:
            table.add_row("", f"and {len(running) - MAX_ROWS} more")
        return Group(table, Text(problem, style="yellow")) if problem else table

    def _counts(self) -> dict[str, int]:
        return tally(self.jobs.states.copy().values())

    def _ended(self, counts: dict[str, int]) -> str:
        return f"{sum(counts.values()) - counts['running']}/{self.jobs.plan.trials} trials"

    def _best(self) -> tuple[int, float] | None:
        return max(self.jobs.best.copy().items(), key=lambda item: item[1], default=None)

    def _pace(self) -> str:
        spent, plan = self.jobs.spent, self.jobs.plan
        epochs = spent.epochs - self.epochs_before
        parts = [format_duration(spent.here)]
        ended = self.jobs.ended_here
        if ended:
            left = plan.trials - len(self.jobs.states) + len(self.jobs.running)
            parts.append(f"about {format_duration(spent.here / ended * left)} left")
            parts.append(f"{3600 * ended / spent.here:.0f} trials/h")
        parts.append(f"{3600 * epochs / max(spent.here, 1e-9):.0f} epochs/h")
        if plan.resources.gpu:
            parts.append(f"{spent.gpu_hours:.2f} GPU-hours")
        return " · ".join(parts)


class ConfirmView:
    """Progress of a confirmation: finalists, or rows of the paper's tables, by folds or seeds."""

    def __init__(self, jobs: ConfirmJobs) -> None:
        self.jobs = jobs
        self.started = time.monotonic()

    def line(self) -> str:
        """`confirmation over folds: 7 runs done, 3 pending, 1:20`."""
        return f"{self._done()}, {format_duration(time.monotonic() - self.started)}"

    def view(self) -> RenderableType:
        """A row a finalist, a column a fold or seed: validation W-F1, or the epoch of a running one."""
        title = f"{self._done()} · {format_duration(time.monotonic() - self.started)}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2))
        table.add_column(self.jobs.study.kind)
        stage, dropped = self.jobs.stage, {drop.trial: drop for drop in self.jobs.race.dropped}
        for unit in stage.units:
            table.add_column(f"{stage.unit} {unit}", justify="right")
        for number in self.jobs.numbers:
            name = escape(self.jobs.study.name_of(number))
            style = "dim" if number in dropped else None
            table.add_row(name, *(self._cell(number, unit) for unit in stage.units), style=style)
        if dropped:
            table.caption = "\n".join(f"trial {each.trial} {each.reason(stage.unit)}" for each in dropped.values())
            table.caption_justify = "left"
        return table

    def _cell(self, number: int, unit: int) -> str:
        key = (number, unit)
        if key in self.jobs.scores:
            return format_percent(self.jobs.scores[key])
        if key in self.jobs.running.copy().values():
            return f"[dim]epoch {len(self.jobs.history.get(key, []))}[/]"
        return "[dim]·[/]"

    def _done(self) -> str:
        jobs = self.jobs
        done = sum(number in jobs.numbers for number, _ in jobs.scores.copy())
        pending = f"{len(jobs.race.pending_runs)} pending" + " so far" * jobs.stage.racing
        return f"{jobs.study.work} over {jobs.stage.unit}s: {done} runs done, {pending}"
