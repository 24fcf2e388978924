"""`test_looks.jsonl`: every evaluation of the test split, entered before it happens; its scores follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tune.study import jsonl


class TestLog:
    """The test evaluations of one study; `append` adds a record to a file of the study's folder."""

    __test__ = False  # no class of tests

    def __init__(self, path: Path, append: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.path, self._append = path, append

    def log_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Enter an evaluation that is about to happen: time, host, command, trials, seeds."""
        self._append(self.path.name, evaluation)

    def log_scores(self, scores: Mapping[int, list[dict[str, float]]]) -> None:
        """Enter the scores of the last evaluation: trial → `test/…` metrics in the order of its seeds."""
        self._append(self.path.name, {"scores": scores})

    def evaluations(self) -> list[dict[str, Any]]:
        """All evaluations; `scores` is empty where one was cut short."""
        found: list[dict[str, Any]] = []
        for line in jsonl.read(self.path):
            if "trials" in line:
                found.append({"scores": {}, **line})
            else:
                found[-1]["scores"] = line["scores"]
        return found

    def scores(self, seeds: tuple[int, ...]) -> dict[int, list[dict[str, float]]]:
        """The last scores of each trial over these seeds, in their order: `test/…` metrics in 0..1."""
        whole = [each for each in self.evaluations() if each["seeds"] == list(seeds)]
        return {int(trial): rows for each in whole for trial, rows in each["scores"].items()}
