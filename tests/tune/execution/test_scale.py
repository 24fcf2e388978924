"""A driver's work at a thousand slots: how often it waits for the disk, and that the benchmark measures what it says."""

import os
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.benchmarks import scale
from tune.search.trials import SearchJobs
from tune.study.study import OBJECTIVE, Study


@pytest.fixture
def forced(monkeypatch) -> list[tuple[str, bytes]]:
    """What is forced to disk: a file's name, and what it holds by then."""
    found, real = [], os.fsync

    def fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        found.append((path.name, path.read_bytes()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_disk_is_waited_for_once_a_start_and_thrice_an_end(make_study, forced):
    """With all values of a trial before a worker acts on them, and all its epochs before its end is told."""
    study = make_study()
    jobs = SearchJobs(study, lambda: False)
    jobs.finished(jobs.next(), None)  # the baseline, which waits in a queue before
    forced.clear()
    job = jobs.next()
    (name, text), *rest = forced
    assert (name, [name for name, _ in rest]) == ("journal.log", []), rest
    assert all(
        f'"param_name":"{key}"'.encode() in text.splitlines()[i]
        for i, key in zip((-3, -2, -1), study.plan.space, strict=True)
    )
    forced.clear()
    for epoch in (1, 2):
        jobs.report(job, {"epoch": epoch, "seconds": 0.5, "val/wf1": epoch / 10, OBJECTIVE: epoch / 10})
    assert forced == [], "a checkpoint would bring an epoch back"
    jobs.finished(job, None)
    (first, epochs), *others = forced
    assert (first, others[0][0], len(others)) == ("epochs.jsonl", "journal.log", 2)
    assert "checksums.json" in others[1][0]
    assert len(epochs.splitlines()) == 2


def test_the_benchmark_runs(tmp_path, monkeypatch):
    """Every trial to its end, every report counted."""
    monkeypatch.setattr(os, "fsync", os.fsync)  # which the benchmark times, to its process's end
    found = scale.grow(tmp_path / "study", 40)
    study = Study.open(tmp_path / "study")
    ended = Counter(trial.state for trial in study.trials)
    assert ended.keys() <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert ended.total() == 40
    assert found["reports"] == len(study.epochs()) + ended[TrialState.COMPLETE]
    assert all(value > 0 for name, value in found.items() if name.endswith(", ms"))
    assert scale.reopen(tmp_path / "study").keys() == {
        "reopened by Optuna, s",
        "rungs refilled, s",
        "MLflow's first look, s",
    }
