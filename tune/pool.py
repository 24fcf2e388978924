"""Jobs on Ray Tune: the only file that knows how Ray schedules. Search and confirmation are both a `Source` of jobs.

Ray asks for jobs through a Searcher and tells their reports to a Scheduler; both only pass on to the Source, which holds
all decisions and writes them to the journal. Ray's own snapshots are not used: they lag, and forget ASHA's rungs.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; without it each import warns
import ray
import ray.tune as ray_tune
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from lfvd.corpus import Corpus
from lfvd.files import InputError
from tune.space import ResourcesPlan
from tune.trial import Job, run_job

RETRIES = 2
"""How often a job whose worker died is started again, from its checkpoint."""

PROBE_SECONDS = 60
"""How long to wait for a place to look for a GPU."""

_T = TypeVar("_T")

_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # epochs.jsonl is the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver winds down itself
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # snapshots are not used
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a banner even at verbosity 0
}


class Source(Protocol):
    """Where jobs come from and their news go to. All calls come from one thread."""

    def next(self) -> Job | None:
        """A job to start now, or None."""

    def exhausted(self) -> bool:
        """Whether no job will ever be started again."""

    def stopping(self) -> bool:
        """Whether everything must wind down now; running jobs stay unfinished and continue another time."""

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """An epoch's record → why the job must stop, or None. An epoch may come twice, after a retry."""

    def finished(self, job: Job) -> None:
        """The job ran to its own end."""

    def failed(self, job: Job, reason: str) -> None:
        """The job ended in an error."""


class _Jobs(Searcher):  # type: ignore[misc]
    """Source → Ray, as many at a time as there are slots."""

    def __init__(self, source: Source, slots: Callable[[], int], gave_up: Callable[[str], None]) -> None:
        super().__init__(metric="record", mode="max")
        self.source, self.slots, self.gave_up = source, slots, gave_up
        self.running: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.source.exhausted():
            return str(Searcher.FINISHED)
        job = self.source.next() if len(self.running) < self.slots() else None
        if job is None:
            return None
        self.running.add(trial_id)
        return {"job": job}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.running.discard(trial_id)
        if error:
            self.gave_up(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal holds the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal holds the state."""


class _News(FIFOScheduler):  # type: ignore[misc]
    """Ray → Source: each report once, and how each job ended.

    Ray would take an error of the Source itself (a full disk, say) for one of the job, and go on: it is kept in `error`,
    everything winds down, and `run_jobs` raises it.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.ended: set[str] = set()
        self.broken: dict[str, Any] = {}
        self.error: Exception | None = None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        job: Job = trial.config["job"]
        if reason := result.get("failure"):
            self._end(trial, lambda: self.source.failed(job, reason))
            return str(TrialScheduler.STOP)
        stop = self._tell(lambda: self.source.report(job, json.loads(result["record"])))
        if stop:
            self.ended.add(trial.trial_id)
        return str(TrialScheduler.STOP if stop or self.error else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._end(trial, lambda: self.source.finished(trial.config["job"]))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Ray says so before each retry too; when it gave up, it also tells the searcher.
        self.broken[trial.trial_id] = trial

    def gave_up(self, trial_id: str) -> None:
        """The job's last retry ended in an error."""
        trial = self.broken[trial_id]
        # Ray's own get_error looks where the file is copied to later.
        reason = _cause(Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "")
        self._end(trial, lambda: self.source.failed(trial.config["job"], reason))

    def _end(self, trial: Any, tell: Callable[[], None]) -> None:
        if trial.trial_id not in self.ended and self.error is None:
            self.ended.add(trial.trial_id)
            self._tell(tell)

    def _tell(self, tell: Callable[[], _T]) -> _T | None:
        try:
            return tell()
        except Exception as error:
            self.error = self.error or error
            return None


class _WindDown(Stopper):  # type: ignore[misc]
    """Ends the run when the source says so, or broke."""

    def __init__(self, source: Source, news: _News) -> None:
        self.source, self.news = source, news

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.news.error is not None or self.source.stopping()


def _cause(text: str) -> str:
    """The exception's own line in Ray's error text, whose end may be boilerplate."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["the worker ended without a word"])[-1][:300]


def _last_line(error: object) -> str:
    lines = [line for line in str(error or "").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


@contextmanager
def cluster(resources: ResourcesPlan, *, address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """A Ray of this machine's own, or the named one. Raises InputError where no node can hold one trial."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    # At ERROR, Ray prints each lost worker's traceback across the live table; the journal holds the reason.
    level = logging.INFO if verbose else logging.CRITICAL
    logging.getLogger("ray").setLevel(level)
    if address is not None:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as `ray start` does; init only for `auto`
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # `local` unless named: a plain init follows the address file of any dead cluster and hangs.
        ray.init(address=address or "local", log_to_driver=verbose, logging_level=level)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if isinstance(error.__cause__ or error, ray.exceptions.AuthenticationError):
            raise InputError(
                f"--address {address}: the Ray cluster there wants another token: copy ~/.ray/auth_token of its head, "
                "or start it with RAY_AUTH_MODE=disabled"
            ) from None
        if address is None:
            raise  # no input of the user's
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({_last_line(error)}): start one with `ray start --head`"
        ) from None
    finally:
        for number, handler in handlers.items():  # Ray puts its own in their place
            signal.signal(number, handler)
    try:
        if _slots(resources) == 0:
            have = "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in _nodes())
            raise InputError(
                f"`resources` asks {resources.cpu} CPU and {resources.gpu:g} GPU a trial, but no node has that "
                f"(there is {have}): lower `resources.cpu` or `resources.gpu`, or name a cluster with --address"
            )
        yield
    finally:
        ray.shutdown()


def sees_gpu(resources: ResourcesPlan) -> bool:
    """Whether torch sees a device where a trial of these resources runs; Ray's GPUs may be numbers only."""

    @ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu)  # type: ignore[untyped-decorator]
    def probe() -> bool:
        import torch

        return torch.cuda.is_available()

    try:
        return bool(ray.get(probe.remote(), timeout=PROBE_SECONDS))
    except ray.exceptions.GetTimeoutError:
        return True  # the cluster is busy with other work: nothing is known


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _slots(resources: ResourcesPlan) -> int:
    """Trials that the nodes of the cluster hold at the same time."""
    return sum(
        int(min(node.get("CPU", 0) // resources.cpu, _shares(node.get("GPU", 0), resources.gpu))) for node in _nodes()
    )


def _shares(gpus: float, gpu: float) -> float:
    """Jobs that fit on a node's GPUs; a share below one never spans two devices."""
    if not gpu:
        return math.inf
    return int(gpus) * int(1 / gpu + 1e-9) if gpu < 1 else gpus // gpu


def run_jobs(source: Source, corpus: Corpus, resources: ResourcesPlan) -> None:
    """Run all jobs of a source on the cluster that `cluster` opened; returns when it is exhausted or stopping.

    Raises what the source raised.

    The corpus goes into Ray's object store once; workers map it without a copy.
    """
    seen = {"at": -math.inf, "slots": 0}

    def slots() -> int:
        # Nodes come and go; asking them takes a while, so not at each call.
        if time.monotonic() - seen["at"] > 5:
            seen.update(at=time.monotonic(), slots=_slots(resources))
        limit = resources.max_concurrent
        return int(seen["slots"] if limit == "auto" else min(int(limit), seen["slots"]))

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, slots()))
    bundle = {"CPU": resources.cpu, **({"GPU": resources.gpu} if resources.gpu else {})}
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(run_job, corpus=corpus), PlacementGroupFactory([bundle])
    )
    news = _News(source)
    with tempfile.TemporaryDirectory(prefix="lfvd-tune-") as scratch:
        tuner = ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=_Jobs(source, slots, news.gave_up),
                scheduler=news,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.config["job"].name,
            ),
            run_config=ray_tune.RunConfig(
                name="ray",
                storage_path=str(Path(scratch).absolute()),
                verbose=0,
                stop=_WindDown(source, news),
                failure_config=ray_tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        tuner.fit()
    if news.error is not None:
        raise news.error
