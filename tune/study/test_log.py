"""Every evaluation of the test split, entered before it happens: with its scores by study, and in a ledger by data.

`test_looks.jsonl` in a study's folder has its evaluations and their scores. `test_evaluations.jsonl` beside the studies has those
of all studies of a results folder with the fingerprint of the data, also of studies that are there no more.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tune.study import jsonl
from tune.study.lock import NO_LOCKS

LEDGER = "test_evaluations.jsonl"


class TestLog:
    """The test evaluations of one study; `append` adds a record to a file of the study's folder."""

    __test__ = False  # no class of tests

    def __init__(self, path: Path, append: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.path, self._append = path, append

    def log_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Enter an evaluation that is about to happen: time, host, user, command, data, trials, seeds."""
        self._append(self.path.name, evaluation)

    def log_in_ledger(self) -> None:
        """Enter the last evaluation in the ledger, once."""
        evaluation = {k: v for k, v in self.evaluations()[-1].items() if k != "scores"}
        _add(self.path.parent.parent / LEDGER, {"study": self.path.parent.name, **evaluation})

    def log_scores(self, scores: Mapping[int, list[dict[str, float]]]) -> None:
        """Enter the scores of the last evaluation: trial → `test/…` metrics in the order of its seeds."""
        self._append(self.path.name, {"scores": scores})

    def evaluations(self) -> list[dict[str, Any]]:
        """All evaluations; `scores` is empty where one was cut short. Made again after that, it is the same evaluation."""
        return _read_evaluations(self.path)

    def scores(self, seeds: tuple[int, ...]) -> dict[int, list[dict[str, float]]]:
        """The last scores of each trial over these seeds, in their order: `test/…` metrics in 0..1."""
        whole = [each for each in self.evaluations() if each["seeds"] == list(seeds)]
        return {int(trial): rows for each in whole for trial, rows in each["scores"].items()}


def _read_evaluations(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in jsonl.read(path):
        if "trials" not in line:
            found[-1]["scores"] = line["scores"]
        elif not (found and not found[-1]["scores"] and _what(found[-1]) == _what(line)):
            found.append({"scores": {}, **line})
    return found


def _what(evaluation: Mapping[str, Any]) -> list[Any]:
    return [evaluation.get(key) for key in ("data", "trials", "seeds")]


def _add(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record to a file that several processes write, unless it is there; a torn last line is cut off."""
    line = f"{jsonl.dump(record)}\n".encode()
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        file.seek(0)
        content = file.read()
        if line not in content:
            file.truncate(content.rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def evaluations_of(data: str, results: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """All evaluations of test of the data with this fingerprint, each with its `study`, and the files that cannot be read.

    By the ledger and by the studies' own logs: they may be older than the ledger, or come from elsewhere.
    """
    found, unreadable = dict[str, dict[str, Any]](), list[Path]()
    for path in (results / LEDGER, *sorted(results.glob("*/test_looks.jsonl"))):
        try:
            lines = jsonl.read(path) if path.name == LEDGER else _read_evaluations(path)
        except (OSError, ValueError, LookupError):
            unreadable.append(path)
            continue
        for line in lines:
            entry = {k: v for k, v in line.items() if k not in ("study", "scores")}
            if entry.get("data") == data:  # of a renamed study the ledger has the old name
                found[json.dumps(entry, sort_keys=True)] = {"study": path.parent.name, **line}
    return list(found.values()), unreadable
