"""Jobs for tests on a real Ray, and what became of them."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

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
