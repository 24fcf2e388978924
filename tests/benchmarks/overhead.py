"""What scheduling costs: 50 one-second jobs on two slots, `python tests/benchmarks/overhead.py`. Ideal: 25 s."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import ray.tune as ray_tune
from turns import RUNS, median, seconds

from lfvd.config import Config
from lfvd.data.corpus import Corpus, CorpusInfo
from tune.execution import ray_cluster, ray_jobs
from tune.search.job import Job, Result
from tune.sections import ResourcesPlan

JOBS, SLOTS = 50, 2


def one_second(config: dict[str, Any], corpus: Corpus) -> None:
    """Stands in for tune.execution.worker.run_job: imports what it imports, sleeps, reports one epoch and the end."""
    import lfvd.training.trainer  # noqa: F401 (a worker pays for torch once)

    time.sleep(1)
    ray_tune.report({"record": "{}"})
    ray_tune.report({"result": Result(best_epoch=1, epochs=1, seconds=1.0, best={}, weights=b"")})


class Jobs:
    """A source of equal jobs."""

    def __init__(self) -> None:
        self.left, self.done = JOBS, 0

    def next(self) -> Job | None:
        """The next of the jobs."""
        if not self.left:
            return None
        self.left -= 1
        return Job(name=f"job{self.left}", config=Config(), seed=0, checkpoint="", gpu=0.0)

    def exhausted(self) -> bool:
        """All started."""
        return not self.left

    def stopping(self) -> bool:
        """Never."""
        return False

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """Nothing to decide."""
        return None

    def finished(self, job: Job, result: Result) -> None:
        """Count."""
        self.done += 1

    def fault(self, job: Job, reason: str, then: str) -> None:
        """No job may stumble here."""
        raise AssertionError(reason)

    def failed(self, job: Job, reason: str) -> None:
        """No job may fail here."""
        raise AssertionError(reason)


def measure() -> dict[str, float]:
    """The part `overhead` of results/benchmarks.json: wall time from Ray being up to the last job's end, against the ideal."""
    corpus = Corpus(
        info=CorpusInfo(name="empty", classes=("a",), dialogues=("0",)),
        features={"l": np.zeros((1, 1), np.float32)},
        label=np.zeros(1, np.int64),
        speaker=np.zeros(1, np.int64),
        offset=np.array([0, 1]),
        split=np.zeros(1, np.int64),
    )
    ray_jobs.run_job = one_second
    resources = ResourcesPlan(cpu=1, max_concurrent=SLOTS)
    taken = []
    for _ in range(RUNS):
        with ray_cluster.cluster(resources):
            jobs = Jobs()
            taken.append(seconds(lambda jobs=jobs: ray_jobs.run_jobs(jobs, corpus, resources)))
            assert jobs.done == JOBS
    return {"seconds": median(taken), "ideal": JOBS / SLOTS, "ratio": round(median(taken) * SLOTS / JOBS, 3)}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
