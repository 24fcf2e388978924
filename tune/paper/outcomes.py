"""What the rows of a grid came to, beside the published ones: numbers only, in percent; differences in percentage points."""

from __future__ import annotations

from dataclasses import dataclass

from tune.best import SeedScores
from tune.paper.grid import Grid
from tune.paper.rows import REFERENCE, Row, title
from tune.published import dataset_of, published
from tune.search.confirmation import FAILED, mean_std
from tune.statistics import Difference, paired

LEVEL = 0.95
"""Confidence of the intervals, each by itself."""

SPLITS = {"test": "test", "val": "validation"}
"""How metrics name a split, and people."""

UNDECIDED = "not told apart"
"""Instead of a sign, where the interval of a difference holds zero."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A trained row of Tables 4 to 6 beside the published one."""

    row: Row
    trial: int
    """Its number in the study's files."""
    mean: dict[str, float]
    """Of each `val/…` and, once opened, `test/…` metric over the seeds."""
    std: dict[str, float]
    paper: dict[str, float]
    """`acc` and `wf1`."""
    paper_change: float | None
    """The paper's W-F1 minus that of its unchanged row; None for the unchanged row itself."""
    change: Difference | None
    """Ours, paired over seeds; None also where the unchanged row was not trained, or there is one seed."""

    @property
    def agrees(self) -> str:
        """Whether the row moves W-F1 the same way as in the paper: yes, no, UNDECIDED; empty where nothing is compared."""
        if self.change is None or not self.paper_change:
            return ""
        if self.change.low <= 0 <= self.change.high:
            return UNDECIDED
        return "yes" if (self.change.mean > 0) == (self.paper_change > 0) else "no"


class Outcomes:
    """The rows that have all their seeds, and a sentence for each other one."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.seeds = grid, grid.plan.confirm.seeds
        self.paper = published()[dataset_of(grid.data.name)]
        self.scores = _scores(grid)
        rows, self.left_out = grid.arranged()
        reasons = {fault["trial"]: fault["reason"] for fault in grid.faults() if fault["then"] == FAILED}
        for row in rows:
            if (n := grid.number(row)) not in self.scores:
                why = reasons.get(n, "it waits for its turn")
                self.left_out.append(f"{title(row.part)}, {row.name}: is not trained on all seeds ({why})")
        self.rows = [row for row in rows if grid.number(row) in self.scores]

    @property
    def split(self) -> str:
        """What rows are compared on: test once it was opened, as in the paper, else validation."""
        return "test" if any("test/wf1" in scores[0] for scores in self.scores.values()) else "val"

    def percents(self, row: Row) -> tuple[dict[str, float], dict[str, float]]:
        """Mean and standard deviation of each metric over seeds."""
        mean, std = mean_std(self.scores[self.grid.number(row)])
        return {k: 100 * v for k, v in mean.items()}, {k: 100 * v for k, v in std.items()}

    def wf1(self, row: Row) -> list[float]:
        """W-F1 of each seed on `split`."""
        return [100 * each[f"{self.split}/wf1"] for each in self.scores[self.grid.number(row)]]

    def lines(self, part: str) -> list[Line]:
        """Table 4, 5 or 6."""
        found = {row.name: row for row in self.rows if row.part == part}
        return [self._line(row, found.get(REFERENCE[part])) for row in found.values()]

    def _line(self, row: Row, reference: Row | None) -> Line:
        mean, std = self.percents(row)
        acc, wf1 = self.paper[row.part][row.name]
        changed = row.name != REFERENCE[row.part]
        comparable = changed and reference is not None and len(self.seeds) > 1
        return Line(
            row=row,
            trial=self.grid.number(row),
            mean=mean,
            std=std,
            paper={"acc": acc, "wf1": wf1},
            paper_change=wf1 - self.paper[row.part][REFERENCE[row.part]][1] if changed else None,
            change=paired(self.wf1(row), self.wf1(reference), level=LEVEL) if comparable and reference else None,
        )


def _scores(grid: Grid) -> dict[int, SeedScores]:
    """Number of each row that has all its seeds → its `val/…` and, once opened, `test/…` for each seed, 0..1."""
    runs = {(run["trial"], run["seed"]): run for run in grid.confirmed()}
    seeds, tests = grid.plan.confirm.seeds, grid.test_scores()
    found = {}
    for n in grid.numbers:
        if all((n, seed) in runs for seed in seeds):
            each = [{k: v for k, v in runs[n, seed].items() if k.startswith("val/")} for seed in seeds]
            found[n] = [val | test for val, test in zip(each, tests.get(n, [{} for _ in seeds]), strict=True)]
    return found
