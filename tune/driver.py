"""One sitting of a study, from a plan and data to best.yaml: search, confirm, open test, record. All of it can be repeated.

Nothing here decides: `SearchJobs` and `ConfirmJobs` do, from the journal. Ctrl-C or SIGTERM once winds down with all saved.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import optuna
from rich.console import Console

from lfvd.corpus import Corpus
from lfvd.runinfo import run_info
from lfvd.trainer import check_fit
from tune import pool
from tune.confirm import ConfirmJobs, finalists, ranking, write_best
from tune.journal import DataSource, Study
from tune.live import ConfirmView, Display, SearchView
from tune.search import FAILED, SearchJobs
from tune.space import SearchPlan
from tune.tracking import Tracker


class NothingUsable(RuntimeError):
    """No trial or no finalist came to a result; the text shows the first error."""


@dataclass(kw_only=True)
class Interrupt:
    """Whether the user asked to stop."""

    requested: bool = False

    def __call__(self) -> bool:
        return self.requested


@contextmanager
def interruptible(console: Console) -> Iterator[Interrupt]:
    """SIGINT or SIGTERM once: the flag is set, and the work winds down by itself; twice: KeyboardInterrupt at once."""
    interrupt = Interrupt()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        console.print("winding down: everything is saved; press Ctrl-C again to leave at once", style="yellow")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def open_corpus(path: str | Path, plan: SearchPlan) -> Corpus:
    """The corpus, wholly checked and fit for every config that the plan may try. Raises CorpusError."""
    corpus = Corpus.load(path)
    subsets = plan.space["data.modalities"].choices if "data.modalities" in plan.space else ()
    for config in (plan.config, *(plan.config.with_values({"data.modalities": subset}) for subset in subsets)):
        check_fit(config, corpus)
    return corpus


def start_study(folder: Path, plan: SearchPlan, corpus: Corpus, data: str | Path) -> Study:
    """Begin or go on with a study in `folder`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.start(folder, plan, DataSource.of(corpus, data), run_info(plan.config.run.device))


def sit(
    study: Study,
    corpus: Corpus,
    console: Console,
    *,
    search: bool,
    address: str | None,
    tracking_uri: str,
    verbose: bool,
) -> bool:
    """Search (unless only confirming), confirm, open test, write best.yaml; True unless interrupted before the end.

    Raises NothingUsable where no trial, or no finalist, came through: the text shows the first error.
    """
    tracker = Tracker(study, tracking_uri)
    try:
        with interruptible(console) as interrupt, tracker:
            sealed = corpus.restricted("train", "valid")  # what leaves the driver holds no test split
            with pool.cluster(study.plan.resources, address=address, verbose=verbose):
                _warn_without_gpu(study, console)
                if search:
                    _search(study, sealed, console, interrupt, lambda: tracker.problem)
                if not interrupt.requested:
                    _confirm(study, sealed, console, interrupt)
            if not interrupt.requested:
                write_best(study, corpus)
            return not interrupt.requested
    finally:
        if tracker.problem:
            console.print(f"warning: {tracker.problem}", style="yellow", markup=False, soft_wrap=True)


def _search(
    study: Study,
    sealed: Corpus,
    console: Console,
    interrupt: Callable[[], bool],
    problem: Callable[[], str | None],
) -> None:
    jobs = SearchJobs(study, interrupt)
    if jobs.exhausted():
        return
    view = SearchView(jobs, problem)
    with Display(console, view.view, view.line):
        pool.run_jobs(jobs, sealed, study.plan.resources)


def _confirm(study: Study, sealed: Corpus, console: Console, interrupt: Callable[[], bool]) -> None:
    if not finalists(study):
        reasons = [t.user_attrs[FAILED] for t in study.trials if FAILED in t.user_attrs]
        raise NothingUsable(f"{study.folder}: no trial came to a result; the first error: {(reasons or ['none'])[0]}")
    jobs = ConfirmJobs(study, interrupt)
    if not jobs.exhausted():
        view = ConfirmView(jobs)
        with Display(console, view.view, view.line):
            pool.run_jobs(jobs, sealed, study.plan.resources)
    for error in jobs.errors:
        console.print(f"warning: a finalist is left out: {error}", style="yellow", markup=False, soft_wrap=True)
    if not interrupt() and not ranking(study):
        raise NothingUsable(f"{study.folder}: no finalist came through all seeds; the first error: {jobs.errors[0]}")


def _warn_without_gpu(study: Study, console: Console) -> None:
    gpu = study.plan.resources.gpu
    if gpu and not pool.sees_gpu(study.plan.resources):
        console.print(
            f"warning: the plan asks {gpu:g} GPU a trial, but torch sees none there: training on CPU", style="yellow"
        )
