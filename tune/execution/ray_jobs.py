"""Jobs on Ray Tune: runs all jobs of a `JobSource`, in the search and in the confirmation.

Ray asks for jobs through a Searcher and passes their reports to a Scheduler; both only forward to the JobTracker. All decisions
are the JobSource's, which writes them to the study. Ray's own snapshots are not used: they lag, and forget ASHA's rungs.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tune.execution.ray_cluster import concurrent, error_line  # first: it prepares Ray's import

# isort: split
import ray.tune as ray_tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from lfvd.data.corpus import Corpus
from tune.execution.retries import JobSource, JobTracker
from tune.execution.worker import run_job
from tune.sections import ResourcesPlan


class _JobSearcher(Searcher):  # type: ignore[misc]
    """JobTracker → Ray, as many jobs at a time as there are slots."""

    def __init__(self, tracker: JobTracker, slots: Callable[[], int]) -> None:
        super().__init__(metric="record", mode="max")
        self.tracker, self.slots = tracker, slots

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.tracker.over():
            return str(Searcher.FINISHED)
        job = self.tracker.next(trial_id, self.slots())
        return None if job is None else {"job": job}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the scheduler below is told too."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal holds the state."""


class _ReportForwarder(FIFOScheduler):  # type: ignore[misc]
    """Ray → JobTracker: each report once, and how each attempt ended."""

    def __init__(self, tracker: JobTracker) -> None:
        super().__init__()
        self.tracker = tracker

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self.tracker.attempts[trial.trial_id].trial = trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        ends = self.tracker.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        trial.last_result.pop("result", None)  # weights, which Ray would keep to the end
        self.tracker.lost(trial.trial_id, "the run ended without a result")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # Ray's own get_error looks where the file is copied to later.
        error = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        self.tracker.lost(trial.trial_id, error_line(error))


class _StopOnRequest(Stopper):  # type: ignore[misc]
    """Ends the run when the JobSource asks for it, or raised an error. Ray asks at each turn of its loop."""

    def __init__(self, tracker: JobTracker) -> None:
        self.tracker = tracker

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.tracker.end_hung()
        return self.tracker.stopping()


def run_jobs(source: JobSource, corpus: Corpus, resources: ResourcesPlan) -> None:
    """Run all jobs of a source on the cluster that is connected (tune.execution.ray_cluster.cluster).

    Returns when the source is exhausted or stopping. Raises what the source raised. The corpus goes into Ray's object store
    once; workers map it without a copy.
    """
    asked_at, nodes_hold = -math.inf, 0

    def slots() -> int:
        nonlocal asked_at, nodes_hold
        if resources.max_concurrent != "auto":
            # Also beyond the nodes there are: an autoscaler sees the demand, and adds some.
            return int(resources.max_concurrent)
        # Nodes come and go; asking them takes a while, so not at each call.
        if time.monotonic() - asked_at > 5:
            asked_at, nodes_hold = time.monotonic(), concurrent(resources)
        return nodes_hold

    def bundle(config: dict[str, Any]) -> PlacementGroupFactory:
        gpu = config["job"].gpu
        return PlacementGroupFactory([{"CPU": resources.cpu, **({"GPU": gpu} if gpu else {})}])

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, slots()))
    tracker = JobTracker(source, resources)
    with tempfile.TemporaryDirectory(prefix="lfvd-tune-") as scratch:
        ray_tune.Tuner(
            ray_tune.with_resources(ray_tune.with_parameters(run_job, corpus=corpus), bundle),
            tune_config=ray_tune.TuneConfig(
                search_alg=_JobSearcher(tracker, slots),
                scheduler=_ReportForwarder(tracker),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['job'].name}-{trial.trial_id}",
            ),
            run_config=ray_tune.RunConfig(
                name="ray", storage_path=str(Path(scratch).absolute()), verbose=0, stop=_StopOnRequest(tracker)
            ),
        ).fit()
    if tracker.error is not None:
        raise tracker.error
