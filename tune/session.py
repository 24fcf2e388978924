"""One sitting of a study, from a plan and data to best.yaml: search, confirm, open test, record. All of it can be repeated.

Nothing here decides: `SearchJobs` and `ConfirmJobs` do, from the journal. Ctrl-C, SIGTERM or `lfvd-tune stop` winds down with
all saved.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import optuna
from rich.console import Console

from lfvd.data.corpus import Corpus
from lfvd.files import InputError
from lfvd.training.environment import run_info
from lfvd.training.trainer import check_fit
from tune.best import write_best
from tune.execution import ray_cluster, ray_jobs
from tune.plan import SearchPlan
from tune.preflight import costs, doctor
from tune.preflight.result import CheckResult
from tune.report.report import write_report
from tune.search.confirmation import ConfirmJobs, finalists, settled
from tune.search.trials import FAILURE, SearchJobs
from tune.study import checkpoints
from tune.study.lock import Requests
from tune.study.plan_file import DataSource
from tune.study.study import BASELINE, Study, study_lock
from tune.terminal.live import ConfirmView, Display, SearchView
from tune.tracking.mlflow_writer import Tracker


class NothingUsable(RuntimeError):
    """No trial or no finalist came to a result; the text shows the first error."""


STOP = "stop"
"""What other shells ask of the driver to wind down (tune.study.lock)."""

ROOM_SECONDS = 10
"""How often a driver on a full disk looks whether there is room again."""

LOOK_SECONDS = 10
"""How often a driver looks whether a node has joined."""


@dataclass(kw_only=True)
class Interrupt:
    """Whether the user asked to stop, here or from another shell."""

    requests: Requests
    requested: bool = False

    def __call__(self) -> bool:
        self.requested = self.requested or STOP in self.requests
        return self.requested


@contextmanager
def interruptible(console: Console, requests: Requests) -> Iterator[Interrupt]:
    """SIGINT or SIGTERM once: the flag is set, and the work winds down by itself; twice: KeyboardInterrupt at once."""
    interrupt = Interrupt(requests=requests)

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


@contextmanager
def holding(folder: Path, console: Console) -> Iterator[None]:
    """Be the one driver of a study, and say what the last one left behind. Raises LockedError where one is at work."""
    with study_lock(folder) as found:
        for warning in found:
            _warn(console, warning)
        yield


def open_corpus(path: str | Path, plan: SearchPlan) -> Corpus:
    """The corpus, wholly checked and fit for every config that the plan may try. Raises CorpusError."""
    corpus = Corpus.load(path)
    subsets = plan.space["data.modalities"].choices if "data.modalities" in plan.space else ()
    for config in (plan.config, *(plan.config.with_values({"data.modalities": subset}) for subset in subsets)):
        check_fit(config, corpus)
    return corpus


def start_study(folder: Path, plan: SearchPlan, corpus: Corpus, data: str | Path, storage: str | None) -> Study:
    """Begin or go on with a study in `folder`, its checkpoints there or in another storage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    info = run_info(plan.config.run.device) | ({"storage": checkpoints.parse(storage)} if storage else {})
    return Study.start(folder, plan, DataSource.of(corpus, data), info)


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
    with sitting(study, console, tracking_uri) as (interrupt, tracker):
        sealed = corpus.restricted("train", "valid")  # what leaves the driver holds no test split
        with workers(study, sealed, console, interrupt=interrupt, address=address, verbose=verbose):
            if study.plan.confirm.baseline == "first":
                run(ConfirmJobs(study, interrupt, [BASELINE]), sealed, console)
            if search:
                _search(study, sealed, console, interrupt, lambda: tracker.problem)
            if not interrupt():
                _confirm(study, sealed, console, interrupt)
        if not interrupt():
            write_best(study, corpus)
            write_report(study)
        return not interrupt()


@contextmanager
def sitting(study: Study, console: Console, tracking_uri: str) -> Iterator[tuple[Interrupt, Tracker]]:
    """Work at a study that a person can interrupt and that MLflow follows."""
    tracker = Tracker(study, tracking_uri)
    try:
        with interruptible(console, Requests(study.folder)) as interrupt, tracker:
            study.wait_for_disk_space = _Room(console, interrupt)
            yield interrupt, tracker
    finally:
        if tracker.problem:
            _warn(console, tracker.problem)


@contextmanager
def workers(
    study: Study, sealed: Corpus, console: Console, *, interrupt: Interrupt, address: str | None, verbose: bool
) -> Iterator[None]:
    """Ray's workers, and what can be known in their cluster at once. Raises InputError where a run would fail there."""
    raise_or_warn(doctor.check_before_cluster(address), console)
    with ray_cluster.cluster(study.plan.resources, address=address, verbose=verbose):
        if study.plan.auto_gpu:
            study.plan, how = costs.measure_gpu_share(study.plan, sealed)
            console.print(f"`gpu: auto`: {how}", markup=False, soft_wrap=True)
        found = doctor.check_in_cluster(study, sealed, address)
        raise_or_warn(found, console)
        if any(result.check == "storage" and result.status != "ok" for result in found):
            study.paths.storage = checkpoints.node_local_folder(study.folder)
        with _newcomers(study, console):
            yield
        if not interrupt() and study.paths.storage == checkpoints.node_local_folder(study.folder):
            ray_cluster.run_on_each_node(checkpoints.clear, study.paths.storage)


@contextmanager
def _newcomers(study: Study, console: Console) -> Iterator[None]:
    """Says so, once, where a node joins that does not share the checkpoints' place, which was shared at the start."""
    if study.paths.storage == checkpoints.node_local_folder(study.folder):  # then the start has said it
        yield
        return
    done, seen = threading.Event(), ray_cluster.node_ids()

    def watch() -> None:
        nonlocal seen
        while not done.wait(LOOK_SECONDS):
            if (now := ray_cluster.node_ids()) - seen:
                result = doctor.check_storage(study.paths.storage, named="storage" in study.info)
                if result.status != "ok":
                    return _warn(console, f"a node joined: {result}")
            seen = now

    watcher = threading.Thread(target=watch, name="newcomers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


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
        ray_jobs.run_jobs(jobs, sealed, study.plan.resources)


def _confirm(study: Study, sealed: Corpus, console: Console, interrupt: Callable[[], bool]) -> None:
    if not finalists(study):
        reasons = [t.user_attrs[FAILURE] for t in study.trials if FAILURE in t.user_attrs]
        raise NothingUsable(f"{study.folder}: no trial came to a result; the first error: {(reasons or ['none'])[0]}")
    jobs = ConfirmJobs(study, interrupt)
    run(jobs, sealed, console)
    if not interrupt() and not settled(study):
        raise NothingUsable(f"{study.folder}: no finalist came through all seeds; the first error: {jobs.errors[0]}")


def run(jobs: ConfirmJobs, sealed: Corpus, console: Console) -> None:
    """Run what a confirmation wants, and tell what broke."""
    if not jobs.exhausted():
        view = ConfirmView(jobs)
        with Display(console, view.view, view.line):
            ray_jobs.run_jobs(jobs, sealed, jobs.study.plan.resources)
    for error in jobs.errors:
        _warn(console, f"a {jobs.study.kind} is left out: {error}")


def raise_or_warn(results: Iterable[CheckResult], console: Console) -> None:
    """Print a warning for each check that failed. Raises InputError for a check without which a search would fail."""
    for result in results:
        if result.status == "error":
            raise InputError(str(result))
        if result.status == "warning":
            _warn(console, str(result))


class _Room:
    """Waits on a full disk, and says so now and then."""

    def __init__(self, console: Console, interrupt: Interrupt) -> None:
        self.console, self.interrupt, self.told = console, interrupt, -math.inf

    def __call__(self, error: OSError) -> bool:
        """Wait a while → whether to try again, unless the user asked to stop."""
        if time.monotonic() - self.told > 600:
            _warn(self.console, f"{error.filename}: {error.strerror}: waiting for room; nothing is lost")
            self.told = time.monotonic()
        deadline = time.monotonic() + ROOM_SECONDS
        while time.monotonic() < deadline and not self.interrupt():
            time.sleep(0.2)
        return not self.interrupt()


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
