"""The live view: right figures in the line and in the table, and nothing that breaks the search."""

import io
import threading

from rich.console import Console

from tests.helpers import invented
from tests.helpers.invented import never
from tests.helpers.plans import PLAN
from tune.search.confirmation import ConfirmJobs
from tune.search.trials import SearchJobs
from tune.terminal.live import MAX_ROWS, ConfirmView, Display, SearchView


def shown(renderable, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def record(epoch: int, best: float) -> dict:
    """An epoch as a worker reports it."""
    return {"epoch": epoch, "seconds": 0.5, "val/wf1": best, "val/wf1_best": best}


def frozen(jobs: SearchJobs, monkeypatch, seconds: float) -> None:
    """A session of so many seconds."""
    jobs.spent.started = 0.0
    monkeypatch.setattr("tune.search.trials.time.monotonic", lambda: seconds)


def test_before_anything(make_study, monkeypatch):
    jobs = SearchJobs(make_study(), never)
    frozen(jobs, monkeypatch, 3.0)
    view = SearchView(jobs, lambda: None)
    assert view.line() == "search 0/6 trials, 0:03 · 0 epochs/h"
    assert "search" in shown(view.view())


def test_search_view(make_study, monkeypatch):
    """One trial finished, one stopped, one failed, one at its second epoch."""
    jobs = SearchJobs(make_study(resources={"gpu": 0.5}), never)
    first = jobs.next()
    for epoch in range(1, 5):
        jobs.report(first, record(epoch, 0.5))
    jobs.finished(first, None)
    assert jobs.report(jobs.next(), record(1, 0.01))
    jobs.failed(jobs.next(), "x")
    running = jobs.next()
    for epoch in (1, 2):
        assert jobs.report(running, record(epoch, 0.9123)) is None
    frozen(jobs, monkeypatch, 60.0)
    problem = []
    view = SearchView(jobs, lambda: problem[0] if problem else None)
    view.epochs_before = 0
    assert view.line() == (
        "search 3/6 trials, 1 running, 1 finished, 1 stopped, 1 failed, best trial 3 91.23, "
        "1:00 · about 1:00 left · 180 trials/h · 420 epochs/h · 0.00 GPU-hours"
    )
    text = shown(view.view())
    for part in (
        "3/6 trials   1 running · 1 finished · 1 stopped · 1 failed",
        "91.23 val W-F1, trial 3   lr ",
        "50.00 val W-F1, trial 0 (the base config's own values)",
        "trial 3   epoch 2/4   91.23",
    ):
        assert " ".join(part.split()) in " ".join(text.split()), part
    problem.append("MLflow at x does not work")
    assert view.line().endswith("; MLflow at x does not work")
    assert "MLflow at x does not work" in shown(view.view())


def test_a_thousand_running_trials_fill_no_more_than_a_screen(make_study):
    jobs = SearchJobs(make_study(trials=MAX_ROWS + 6), never)
    for _ in range(MAX_ROWS + 5):
        jobs.next()
    text = shown(SearchView(jobs, lambda: None).view())
    rows = [line.split()[1] for line in text.splitlines() if line.startswith("trial ")]
    assert rows == [str(number) for number in range(MAX_ROWS)]
    assert "and 5 more" in text


def test_confirm_view(make_study):
    study = make_study()
    invented.search(study, failing=(), by_hand=None)
    jobs = ConfirmJobs(study, never)
    view = ConfirmView(jobs)
    total = len(jobs.numbers) * len(PLAN["confirm"]["seeds"])
    assert view.line().startswith(f"confirmation over seeds: 0 runs done, {total} pending, 0:0")
    job = jobs.next()
    assert "epoch 0" in shown(view.view())
    jobs.report(job, {"epoch": 1, "seconds": 1.0})
    assert "epoch 1" in shown(view.view())
    jobs.running.clear()
    jobs.scores[jobs.numbers[0], 0] = 0.5
    jobs.scores[99, 0] = 0.7  # of a finalist that is one no more
    text = shown(view.view())
    assert "confirmation over seeds: 1 runs done" in text
    assert "50.00" in text
    assert "trial 0 (baseline)" in text
    assert "seed 0" in text


def test_lines_in_a_log_file(monkeypatch):
    """Without a terminal: a line now and then, and one at the end, as plain text."""
    monkeypatch.setattr("tune.terminal.live.LINE_SECONDS", 0.01)
    console = Console(file=io.StringIO(), width=20)
    three, count = threading.Event(), []

    def line() -> str:
        count.append(1)
        if len(count) == 3:
            three.set()
        return f"search {len(count)}/[9] trials, longer than the console is wide"

    with Display(console, lambda: "", line):
        three.wait()
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "search 1/[9] trials, longer than the console is wide"
    assert lines[-1].startswith("search ")
    assert len(lines) >= 4


def test_table_on_a_terminal():
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    with Display(console, lambda: "the table", lambda: "never"):
        pass
    assert "the table" in console.file.getvalue()
    assert "never" not in console.file.getvalue()
