"""One session of a study, from a plan and data to best.yaml: search, confirm, evaluate test, report. It can be repeated.

`SearchJobs` and `ConfirmJobs` decide what runs next, from the study's files. Ctrl-C, SIGTERM or `lfvd-tune stop` ends a session
early, with everything saved.
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

from lfvd.data import folds
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
from tune.search.confirmation import ConfirmJobs, averaged_trials, final_ranking, finalists
from tune.search.stages import OFFICIAL_DEAL, averaging
from tune.search.trials import FAILURE, SearchJobs
from tune.study import checkpoints
from tune.study.lock import Requests
from tune.study.plan_file import DataSource
from tune.study.study import BASELINE, Study, study_lock
from tune.terminal.live import ConfirmView, Display, SearchView
from tune.tracking.mlflow_writer import Tracker

STOP = "stop"
"""The request of another shell to end the session (tune.study.lock)."""

DISK_SECONDS = 10
"""Seconds between two attempts to write to a full disk."""

NODES_SECONDS = 10
"""Seconds between two looks for nodes that joined."""


class NothingUsable(RuntimeError):
    """No trial or no finalist came to a result; the text shows the first error."""


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Where a session runs and what it prints, besides its study."""

    tracking_uri: str
    """MLflow's."""
    address: str | None = None
    """Of a running Ray cluster; None: this machine."""
    verbose: bool = False
    """Whether Ray, Optuna and MLflow may log."""


@dataclass(kw_only=True)
class Interrupt:
    """Whether the user asked to stop, by a signal or from another shell."""

    requests: Requests
    requested: bool = False

    def __call__(self) -> bool:
        self.requested = self.requested or STOP in self.requests
        return self.requested


def open_corpus(path: str | Path, plan: SearchPlan) -> Corpus:
    """The corpus, checked completely, and checked to fit every config that the plan may try. Raises CorpusError.

    Where a corpus has no valid split and the plan has folds, one of them takes its place.
    """
    corpus, wanted = Corpus.load(path), plan.confirm.folds
    if wanted:
        folds.count_folds(corpus, wanted)
        if not len(corpus.indices("valid")):
            corpus = folds.divide(corpus, wanted, deal=OFFICIAL_DEAL, fold=0)
    subsets = plan.space["data.modalities"].choices if "data.modalities" in plan.space else ()
    for config in (plan.config, *(plan.config.with_values({"data.modalities": subset}) for subset in subsets)):
        check_fit(config, corpus)
    return corpus


@contextmanager
def lock_study(folder: Path, console: Console) -> Iterator[None]:
    """Lock a study, and warn of what the last session left unfinished. Raises LockedError where another session runs."""
    with study_lock(folder) as repairs:
        for repair in repairs:
            warn(console, repair)
        yield


@contextmanager
def started_study(
    folder: Path, plan: SearchPlan, data: str | Path, storage: str | None, console: Console
) -> Iterator[tuple[Study, Corpus]]:
    """Begin or continue a study in `folder`, locked while the block runs. storage: of checkpoints; None: the folder.

    Raises LockedError where another session runs, StudyError where the folder holds another study.
    """
    corpus = open_corpus(data, plan)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with lock_study(folder, console):
        info = run_info(plan.config.run.device) | ({"storage": checkpoints.parse(storage)} if storage else {})
        if plan.confirm.folds:
            info["folds"] = folds.count_folds(corpus, plan.confirm.folds)
        yield Study.start(folder, plan, DataSource.of(corpus, data), info), corpus


def run_session(
    study: Study, corpus: Corpus, console: Console, options: SessionOptions, *, search: bool = True
) -> bool:
    """Search (unless it only confirms), confirm, evaluate test, write best.yaml and the report; False if interrupted.

    Raises NothingUsable where no trial, or no finalist, came to a result: the text shows the first error.
    """
    with session_context(study, console, options.tracking_uri) as (interrupt, tracker):
        without_test = corpus.restricted("train", "valid")  # workers get no test split
        with ray_workers(study, without_test, console, interrupt, options):
            if study.plan.confirm.baseline == "first":
                run_confirmation(ConfirmJobs(study, interrupt, [BASELINE]), without_test, console)
            if search:
                jobs = SearchJobs(study, interrupt)
                _run_displayed(jobs, SearchView(jobs, lambda: tracker.problem), without_test, console)
            if not interrupt():
                _confirm(study, without_test, console, interrupt)
        if not interrupt():
            write_best(study, corpus)
            write_report(study)
        return not interrupt()


def _confirm(study: Study, without_test: Corpus, console: Console, interrupt: Interrupt) -> None:
    if not finalists(study):
        reasons = [t.user_attrs[FAILURE] for t in study.trials if FAILURE in t.user_attrs]
        first = f"the first error: {reasons[0]}" if reasons else "none ended, or all have the base's own values"
        raise NothingUsable(f"{study.folder}: no trial beside the baseline came to a result; {first}")
    jobs = ConfirmJobs(study, interrupt)
    run_confirmation(jobs, without_test, console)
    errors = jobs.errors
    while (trials := averaged_trials(study)) and not final_ranking(study) and not interrupt():
        jobs = ConfirmJobs(study, interrupt, trials, averaging(study))
        run_confirmation(jobs, without_test, console)
        errors += jobs.errors
        if trials == averaged_trials(study):
            break  # else the winner failed, and the next one takes its place
    if not interrupt() and not final_ranking(study):
        raise NothingUsable(f"{study.folder}: no candidate could be confirmed: {'; '.join(errors)}")


def run_confirmation(jobs: ConfirmJobs, without_test: Corpus, console: Console) -> None:
    """Run the missing runs of a stage, and warn of each that failed."""
    _run_displayed(jobs, ConfirmView(jobs), without_test, console)
    for error in jobs.errors:
        warn(console, f"a {jobs.study.kind} is left out: {error}")


def _run_displayed(
    jobs: SearchJobs | ConfirmJobs, view: SearchView | ConfirmView, without_test: Corpus, console: Console
) -> None:
    if not jobs.exhausted():
        with Display(console, view.view, view.line):
            ray_jobs.run_jobs(jobs, without_test, jobs.study.plan.resources)


@contextmanager
def session_context(study: Study, console: Console, tracking_uri: str) -> Iterator[tuple[Interrupt, Tracker]]:
    """While the block runs, the user can interrupt it, a full disk is waited for, and MLflow gets the records."""
    interrupt, tracker = Interrupt(requests=Requests(study.folder)), Tracker(study, tracking_uri)
    study.wait_for_disk_space = wait_for_disk_space(console, interrupt)
    try:
        with _signals(interrupt, console), tracker:
            yield interrupt, tracker
    finally:
        if tracker.problem:
            warn(console, tracker.problem)


@contextmanager
def _signals(interrupt: Interrupt, console: Console) -> Iterator[None]:
    """SIGINT or SIGTERM once sets the flag; twice raises KeyboardInterrupt. Only the main thread can handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        console.print("winding down: everything is saved; press Ctrl-C again to leave at once", style="yellow")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def ray_workers(
    study: Study, without_test: Corpus, console: Console, interrupt: Interrupt, options: SessionOptions
) -> Iterator[None]:
    """Connect to Ray and make the quick checks. Raises InputError where a run would fail there."""
    raise_or_warn(doctor.check_before_cluster(options.address), console)
    with ray_cluster.cluster(study.plan.resources, address=options.address, verbose=options.verbose):
        if study.plan.auto_gpu:
            study.plan, how = costs.measure_gpu_share(study.plan, without_test)
            console.print(f"`gpu: auto`: {how}", markup=False, soft_wrap=True)
        results = doctor.check_in_cluster(study, without_test, options.address)
        raise_or_warn(results, console)
        shared = not any(result.check == "storage" and result.status != "ok" for result in results)
        if shared:
            with _warning_of_new_nodes(study, console):
                yield
            return
        study.paths.storage = checkpoints.node_local_folder(study.folder)
        yield
        if not interrupt():
            ray_cluster.run_on_each_node(checkpoints.clear, study.paths.storage)


@contextmanager
def _warning_of_new_nodes(study: Study, console: Console) -> Iterator[None]:
    """Warn once if a node joins that does not share the storage of the checkpoints."""
    done, seen = threading.Event(), ray_cluster.node_ids()

    def watch() -> None:
        nonlocal seen
        while not done.wait(NODES_SECONDS):
            if (now := ray_cluster.node_ids()) - seen:
                result = doctor.check_storage(study.paths.storage, named="storage" in study.info)
                if result.status != "ok":
                    return warn(console, f"a node joined: {result}")
            seen = now

    watcher = threading.Thread(target=watch, name="new-nodes", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def wait_for_disk_space(console: Console, interrupt: Callable[[], bool]) -> Callable[[OSError], bool]:
    """A function that waits some seconds after an error of a full disk → whether to try again. It warns now and then."""
    warned = -math.inf

    def wait(error: OSError) -> bool:
        nonlocal warned
        if time.monotonic() - warned > 600:
            warn(console, f"{error.filename}: {error.strerror}: waiting for room; nothing is lost")
            warned = time.monotonic()
        deadline = time.monotonic() + DISK_SECONDS
        while time.monotonic() < deadline and not interrupt():
            time.sleep(0.2)
        return not interrupt()

    return wait


def raise_or_warn(results: Iterable[CheckResult], console: Console) -> None:
    """Print a warning for each check that failed. Raises InputError for a check without which a search would fail."""
    for result in results:
        if result.status == "error":
            raise InputError(str(result))
        if result.status == "warning":
            warn(console, str(result))


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
