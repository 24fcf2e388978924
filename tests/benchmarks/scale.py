"""What the driver itself costs, with trials that take no time: `python tests/benchmarks/scale.py [TRIALS]`.

1. Through Ray: recorded curves, replayed on logical cores; what Ray and this machine bear.
2. Without Ray: sampler, rungs and journal at 100, 1,000 … TRIALS (10,000) trials of `search_spaces/meld.yaml` with 30 epochs
   at most, a tenth of the trials at a time, each size in a process of its own. Trials are sampled at random but for the last
   ones, which show what TPE takes with so many before them.

The aim: 1,000 slots at an epoch each 10 s are 100 reports a second; ten times as many must be handled.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import ray.tune as ray_tune

from lfvd.data.corpus import Corpus, CorpusInfo
from lfvd.files import read_yaml
from tune.execution import ray_cluster, ray_jobs
from tune.plan import SHIPPED, SearchPlan
from tune.search.job import Job, Result
from tune.search.trials import SearchJobs
from tune.sections import ResourcesPlan
from tune.study.plan_file import DataSource
from tune.study.study import OBJECTIVE, Study, study_lock
from tune.tracking.mlflow_runs import MlflowRuns

EPOCHS, CLASSES, SAMPLED, STEP = 30, 14, 20, 1000
"""Of a full trial; in a record, which makes 25 metrics; trials that TPE samples; reports between two looks of MLflow's."""

SLOTS, TRIALS = 8, 200
"""Through Ray; a slot is a process that takes two cores seconds to start."""


def curve(job: Job) -> Iterator[dict[str, Any]]:
    """A trial's records as the trainer would make them."""
    rng, best = np.random.default_rng(job.seed), 0.0
    top = 0.6 - 0.05 * abs(math.log10(job.config.optim.lr / 1e-4)) + 0.01 * rng.standard_normal()
    for epoch in range(1, EPOCHS + 1):
        score = float(top * (1 - 0.5 / epoch) + 0.005 * rng.standard_normal())
        best = max(best, score)
        losses = {
            f"train/loss{term}": 1 / score
            for term in ("", "_classification", "_cross_modal", "_supervised", "_distillation")
        }
        val = {"val/loss": 1 / score, "val/wf1": score, "val/acc": score + 0.01, OBJECTIVE: best}
        f1 = {f"val/f1/class{i}": score - 0.01 * i for i in range(CLASSES)}
        yield {"epoch": epoch, "seconds": 10 + score, **losses, **val, **f1}


def new_study(folder: Path, trials: int, **sections: Any) -> Study:
    """A study of the shipped plan for MELD."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source = read_yaml(SHIPPED / "meld.yaml")
    scheduler = {**source["scheduler"], "max_epochs": EPOCHS}
    source = {**source, "scheduler": scheduler, "trials": trials, "resources": {"cpu": 1}, **sections}
    plan = SearchPlan.from_dict(source, source="plan", folder=SHIPPED)
    return Study.start(folder, plan, DataSource(path="none", name="none", fingerprint="0" * 64, simulated=()), {})


class Watch:
    """Times calls: `seconds["next"]` holds what each took, `busy["next"]` how much of it the processor worked."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.busy: dict[str, float] = {}

    def __call__(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        """The action, timed under a name."""
        taken = self.seconds.setdefault(name, [])

        def timed(*arguments: Any, **named: Any) -> Any:
            start, busy = time.perf_counter(), time.thread_time()
            found = action(*arguments, **named)
            taken.append(time.perf_counter() - start)
            self.busy[name] = self.busy.get(name, 0.0) + time.thread_time() - busy
            return found

        return timed

    def ms(self, name: str, last: int = 0) -> float:
        """Median, of the last ones."""
        return 1000 * float(np.median(self.seconds[name][-last:]))


def search(study: Study, slots: int) -> Watch:
    """Run a study's trials, each one's next epoch in turn; what Optuna, SearchJobs and the projection take."""
    watch, jobs, projection = Watch(), SearchJobs(study, lambda: False), MlflowRuns(study)
    start, report, finish = watch("next", jobs.next), watch("report", jobs.report), watch("report", jobs.finished)
    study.optuna.ask, jobs._tell = watch("ask", study.optuna.ask), watch("end", jobs._tell)
    look, os.fsync = watch("look", projection.runs), watch("disk", os.fsync)
    tpe = dataclasses.replace(jobs.plan, sampler=dataclasses.replace(jobs.plan.sampler, kind="tpe"))
    at_work: dict[str, tuple[Job, Iterator[dict[str, Any]]]] = {}
    while at_work or not jobs.exhausted():
        while len(at_work) < slots and not jobs.exhausted():
            if len(jobs.states) == jobs.plan.trials - SAMPLED:
                jobs.plan = tpe
            job = start()
            at_work[job.name] = job, curve(job)
        for name, (job, records) in list(at_work.items()):
            record = next(records, None)
            if record is None:
                finish(job, None)
            if record is None or report(job, record):
                del at_work[name]
            if len(watch.seconds["report"]) % STEP == 0:
                look(live=True)
    look(live=True)
    return watch


def grow(folder: Path, trials: int) -> dict[str, float]:
    """A search from its first trial to its last, and what it took."""
    before = memory()
    with study_lock(folder):
        watch = search(new_study(folder, trials, sampler={"kind": "random"}), trials // 10)
    taken = np.array(watch.seconds["report"])
    seconds = np.bincount(np.cumsum(taken).astype(int))[:-1]
    rest = np.array(watch.seconds["next"]) - np.array(watch.seconds["ask"])
    own = 1000 * float(np.median(rest[-SAMPLED:])) + watch.ms("end", SAMPLED)
    each = len(taken) / trials
    return {
        "reports": len(taken),
        "reports a second, median": float(np.median(seconds)) if len(seconds) else len(taken) / taken.sum(),
        "reports a second, worst": float(np.min(seconds)) if len(seconds) else math.nan,
        "reports a second of processor time": len(taken) / watch.busy["report"],
        "one report, ms": watch.ms("report"),
        "one wait for the disk, ms": watch.ms("disk"),
        "one more trial: TPE, ms": watch.ms("ask", SAMPLED),
        "one more trial: the rest, ms": own,
        "reports a second with TPE": 1000 * each / (watch.ms("ask", SAMPLED) + own + each * watch.ms("report")),
        "MLflow's next look, ms": watch.ms("look", 5),
        "memory of it all, MB": memory() - before,
    }


def reopen(folder: Path) -> dict[str, float]:
    """What a driver that goes on with the study does first."""
    start = time.perf_counter()
    with study_lock(folder):
        study = Study.open(folder)
        opened = time.perf_counter()
        SearchJobs(study, lambda: False)
        ready = time.perf_counter()
    MlflowRuns(study).runs(live=True)
    return {
        "reopened by Optuna, s": opened - start,
        "rungs refilled, s": ready - opened,
        "MLflow's first look, s": time.perf_counter() - ready,
    }


def memory() -> float:
    """What this process holds, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def directly(sizes: list[int]) -> None:
    """Print a column for each size."""
    figures = []
    for trials in sizes:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder, fresh() as one, fresh() as other:
            study = Path(folder) / "study"
            figures.append(one.submit(grow, study, trials).result() | other.submit(reopen, study).result())
    print(f"{'trials':34}" + "".join(f"{trials:12,}" for trials in sizes))
    for name in figures[0]:
        print(f"{name:34}" + "".join(f"{each[name]:12,.{0 if each[name] >= 100 else 2}f}" for each in figures))


def fresh() -> ProcessPoolExecutor:
    """A process of its own."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def replay(config: dict[str, Any], corpus: Corpus) -> None:
    """Stands in for tune.execution.worker.run_job: all epochs at once."""
    records = list(curve(config["job"]))
    for record in records:
        ray_tune.report({"record": json.dumps(record)})
    seconds = sum(record["seconds"] for record in records)
    result = Result(best_epoch=EPOCHS, epochs=EPOCHS, seconds=seconds, best=records[-1], weights=b"")
    ray_tune.report({"result": result})


def through_ray(trials: int) -> None:
    """Print how many reports a second come through Ray's own loop, one driver and SLOTS workers on this machine."""
    corpus = Corpus(
        info=CorpusInfo(name="empty", classes=("a",), dialogues=("0",)),
        features={"l": np.zeros((1, 1), np.float32)},
        label=np.zeros(1, np.int64),
        speaker=np.zeros(1, np.int64),
        offset=np.array([0, 1]),
        split=np.zeros(1, np.int64),
    )
    ray_jobs.run_job = replay
    ray.init = functools.partial(ray.init, num_cpus=SLOTS)
    resources, times, busy = ResourcesPlan(cpu=1), [], []
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        study_lock(Path(folder) / "study"),
        ray_cluster.cluster(resources),
    ):
        jobs = SearchJobs(new_study(Path(folder) / "study", trials), lambda: False)
        report = jobs.report

        def noted(job: Job, record: dict[str, Any]) -> str | None:
            times.append(time.perf_counter())
            busy.append(time.process_time())
            return report(job, record)

        jobs.report = noted  # type: ignore[method-assign]
        ray_jobs.run_jobs(jobs, corpus, resources)
    half = len(times) // 2  # by then all workers are up
    count = len(times) - half
    print(
        f"{trials} trials, {len(times)} reports on {SLOTS} slots of Ray: {count / (times[-1] - times[half]):.0f} a second "
        f"on this machine, {1000 * (busy[-1] - busy[half]) / count:.1f} ms of the driver's processor time each\n"
    )


def main() -> None:
    """Both parts; TRIALS is the largest size of the second."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    through_ray(min(TRIALS, most))
    directly([size for size in (100, 1_000, 10_000) if size <= most])


if __name__ == "__main__":
    main()
