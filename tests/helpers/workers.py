"""Jobs for tests, run on a real Ray or in this process, and what became of them."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from lfvd.data.corpus import Corpus
from lfvd.data.folds import divide
from lfvd.training.trainer import train
from tune.execution.worker import _result
from tune.search.job import Job, Result


class Listed:
    """A source of listed jobs; stops nothing, remembers everything."""

    def __init__(self, jobs: list[Job], on_report: Callable[[Job, dict], None] = lambda job, record: None) -> None:
        self.waiting, self.on_report = list(jobs), on_report
        self.records: dict[str, list[dict]] = defaultdict(list)
        self.ended: dict[str, str] = {}
        self.faults: list[tuple[str, str, str]] = []

    def next(self) -> Job | None:
        return self.waiting.pop(0) if self.waiting else None

    def exhausted(self) -> bool:
        return not self.waiting

    def stopping(self) -> bool:
        return False

    def report(self, job: Job, record: dict) -> str | None:
        self.records[job.name].append(record)
        self.on_report(job, record)
        return None

    def finished(self, job: Job, result: Result) -> None:
        assert job.name not in self.ended
        self.ended[job.name] = "finished"

    def fault(self, job: Job, reason: str, then: str) -> None:
        self.faults.append((job.name, reason, then))

    def failed(self, job: Job, reason: str) -> None:
        assert job.name not in self.ended
        self.ended[job.name] = reason


def traces(checkpoint: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(checkpoint).with_suffix(".trace").read_text().splitlines()]


def untimed(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def run_here(source, corpus: Corpus, resources=None) -> None:
    """What tune.execution.ray_jobs.run_jobs does, in this process and one job after the other."""

    class Stop(Exception):
        pass

    while not source.exhausted() and (job := source.next()):

        def report(record, job=job):
            if source.report(job, json.loads(json.dumps(record))):
                raise Stop

        try:
            part = divide(corpus, **vars(job.division)) if job.division else corpus
            run = train(job.config, part, job.seed, checkpoint=job.checkpoint, report=report)
        except Stop:
            continue
        except ArithmeticError as error:
            source.failed(job, f"{type(error).__name__}: {error}")
        else:
            source.finished(job, _result(run, keep=job.keep))
