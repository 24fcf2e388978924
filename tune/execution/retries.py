"""Attempts at jobs and retries: which job runs again, and where. Of Ray, it knows only the trial of an attempt.

A job whose worker or node is lost starts again from its checkpoint, before all others. A job for which a device was too small
starts once more, alone on a device. A worker whose epoch takes too long is killed, and its job starts again.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tune.search.job import Job, Result
from tune.sections import ResourcesPlan

RETRIES = 2
"""How often a job is started again from its checkpoint, without a new epoch in between; a lost node does not count."""

_T = TypeVar("_T")


class JobSource(Protocol):
    """Gives jobs and takes their reports. All calls come from one thread."""

    def next(self) -> Job | None:
        """A job to start now, or None."""

    def exhausted(self) -> bool:
        """Whether no job will ever be started again."""

    def stopping(self) -> bool:
        """Whether everything must wind down now; running jobs stay unfinished and continue another time."""

    def report(self, job: Job, record: dict[str, Any]) -> str | None:
        """An epoch's record → why the job must stop, or None. An epoch may come twice, after a retry."""

    def finished(self, job: Job, result: Result) -> None:
        """The job ran to its own end."""

    def fault(self, job: Job, reason: str, then: str) -> None:
        """Something happened to the job, and what is done about it; it is not the end."""

    def failed(self, job: Job, reason: str) -> None:
        """The job ended in an error."""


@dataclass(kw_only=True)
class Attempt:
    """One attempt at a job on a worker, a trial of Ray's. A retry is another attempt."""

    job: Job
    trial: Any = None
    last_report: float = field(default_factory=time.monotonic)
    """When it began to run, or last reported."""

    @property
    def running(self) -> bool:
        """Whether it has a worker."""
        return self.trial is not None and self.trial.status == "RUNNING"

    def end(self) -> None:
        """Kill its worker."""
        import ray

        ray.kill(self.trial.temporary_state.ray_actor)


class JobTracker:
    """Attempts at the jobs of a source, and which jobs get another one.

    Ray would take an error of the source itself (a broken disk, say) for one of the job, and go on: it is kept in `error`,
    everything winds down, and `run_jobs` raises it.
    """

    def __init__(self, source: JobSource, resources: ResourcesPlan) -> None:
        self.source, self.resources = source, resources
        self.attempts: dict[str, Attempt] = {}
        self.again: list[Job] = []
        self.failures: Counter[str] = Counter()  # of a job since its last epoch
        self.hung: set[str] = set()
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its Tuner for a restore that never comes

    def next(self, attempt: str, slots: int) -> Job | None:
        """A job to start now: first of all one that lost its worker."""
        # A job that waits for a device of its own comes first: others would take the device away from it again.
        waits = any(each.job.gpu > self.resources.gpu and not each.running for each in self.attempts.values())
        if waits or len(self.attempts) >= slots:
            return None
        job = self.again.pop(0) if self.again else self.source.next()
        if job is not None:
            self.attempts[attempt] = Attempt(job=job)
        return job

    def over(self) -> bool:
        """Whether no job runs, and none will."""
        return not self.attempts and not self.again and self.source.exhausted()

    def stopping(self) -> bool:
        """Whether everything must wind down."""
        return self.error is not None or self.source.stopping()

    def report(self, attempt: str, report: Mapping[str, Any]) -> bool:
        """A report of a worker (tune.execution.worker.run_job) → whether its attempt ends."""
        if attempt not in self.attempts:
            return True
        job = self.attempts[attempt].job
        self.attempts[attempt].last_report = time.monotonic()
        stop = True
        match report:
            case {"record": record}:
                self.failures[job.name] = 0
                stop = self._tell(self.source.report, job, json.loads(record)) is not None
            case {"fault": reason, "then": then}:
                self._tell(self.source.fault, job, reason, then)
                stop = False
            case {"result": result}:
                self._tell(self.source.finished, job, result)
            case {"failure": reason, "memory": _}:
                self._too_large(job, reason)
            case {"failure": reason}:
                self._tell(self.source.failed, job, reason)
            case _:
                self.error = AssertionError(f"a worker reports {sorted(report)}")
        if stop or self.error:
            del self.attempts[attempt]
        return stop or self.error is not None

    def lost(self, attempt: str, reason: str) -> None:
        """The attempt ended in an error of its worker or node: the job starts again, unless it failed too often.

        An attempt that has ended already is ignored.
        """
        if attempt not in self.attempts:
            return
        job = self.attempts.pop(attempt).job
        if attempt in self.hung:
            reason = f"no epoch within {self.resources.epoch_timeout} (`resources.epoch_timeout`): its worker was ended"
        if _DEVICE_FULL.search(reason):
            self._too_large(job, reason)
            return
        self.failures[job.name] += not _NODE_LOST.search(reason)
        if self.failures[job.name] > RETRIES:
            self._tell(self.source.failed, job, reason)
        else:
            self._retry(job, reason, "started again on another worker")

    def _too_large(self, job: Job, reason: str) -> None:
        """A device was too small for the job: it gets a whole one, once."""
        if 0 < job.gpu < 1:
            self._retry(dataclasses.replace(job, gpu=1.0), reason, "tried once more, alone on a device")
        else:
            self._tell(self.source.failed, job, reason)

    def _retry(self, job: Job, reason: str, then: str) -> None:
        self._tell(self.source.fault, job, reason, then)
        self.again.append(job)

    def end_hung(self) -> None:
        """Kill the workers whose epoch takes too long; Ray then reports them as lost."""
        late = time.monotonic() - self.resources.epoch_seconds
        for attempt, each in self.attempts.items():
            if not each.running:
                each.last_report = time.monotonic()
            elif each.last_report < late and attempt not in self.hung:
                self.hung.add(attempt)
                each.end()

    def _tell(self, method: Callable[..., _T], *arguments: Any) -> _T | None:
        if self.error is None:
            try:
                return method(*arguments)
            except Exception as error:
                self.error = error
        return None


_NODE_LOST = re.compile(
    r"node has died|node .*(was|is) (dead|terminated|preempted)|ActorUnavailableError", re.IGNORECASE
)
"""Ray's messages for a lost node, which is no failure of the job."""

_DEVICE_FULL = re.compile(r"(CUDA|HIP) error: out of memory|_STATUS_ALLOC_FAILED")
"""Messages of torch for a full device outside its own allocator: as a process opens it, or in a library such as cuBLAS."""
