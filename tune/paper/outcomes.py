"""Results of a grid's rows beside the published ones: numbers in percent, differences in percentage points."""

from __future__ import annotations

from dataclasses import dataclass

from tune.best import SeedScores
from tune.paper.grid import Grid
from tune.paper.rows import REFERENCE, PaperRow, part_title
from tune.published import dataset_of, published
from tune.search.confirmation import FAILED
from tune.statistics import Difference, mean_std, paired

SPLITS = {"test": "test", "val": "validation"}
"""Prefix of a metric → name of its split."""

UNDECIDED = "not told apart"
"""Instead of a sign, where the interval of a difference holds zero."""


@dataclass(frozen=True, kw_only=True)
class RowOutcome:
    """A trained row of Tables 4 to 6 beside the published one."""

    row: PaperRow
    trial: int
    """Its number in the study's files."""
    mean: dict[str, float]
    """Of each `val/…` and, once evaluated, `test/…` metric over the seeds."""
    std: dict[str, float]
    paper: dict[str, float]
    """`acc` and `wf1`."""
    paper_change: float | None
    """The paper's W-F1 minus that of its unchanged row; None for the unchanged row itself."""
    change: Difference | None
    """Ours, paired over seeds; None also where the unchanged row was not trained, or there is one seed."""

    @property
    def gap(self) -> float | None:
        """Test W-F1 minus the published one."""
        return self.mean["test/wf1"] - self.paper["wf1"] if "test/wf1" in self.mean else None

    @property
    def agrees(self) -> str:
        """Whether W-F1 changes as in the paper: yes, no, UNDECIDED; empty where nothing is compared."""
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
        rows, self.left_out = grid.selected()
        reasons = {fault["trial"]: fault["reason"] for fault in grid.faults() if fault["then"] == FAILED}
        self.rows = [row for row in rows if grid.number(row) in self.scores]
        for row in (row for row in rows if row not in self.rows):
            why = reasons.get(grid.number(row), "it waits for its turn")
            self.left_out.append(f"{part_title(row.part)}, {row.name}: is not trained on all seeds ({why})")

    @property
    def split(self) -> str:
        """The split on which rows are compared: `test` once it was evaluated, else `val`."""
        return "test" if any("test/wf1" in scores[0] for scores in self.scores.values()) else "val"

    def percents(self, row: PaperRow) -> tuple[dict[str, float], dict[str, float]]:
        """Mean and standard deviation of each metric over seeds."""
        mean, std = mean_std(self.scores[self.grid.number(row)])
        return {k: 100 * v for k, v in mean.items()}, {k: 100 * v for k, v in std.items()}

    def wf1(self, row: PaperRow) -> list[float]:
        """W-F1 of each seed on `split`."""
        return [100 * each[f"{self.split}/wf1"] for each in self.scores[self.grid.number(row)]]

    def compared(self, part: str) -> list[RowOutcome]:
        """The rows of Table 4, 5 or 6, each against the unchanged one."""
        rows, name = [row for row in self.rows if row.part == part], REFERENCE[part]
        reference = next((row for row in rows if row.name == name), None)
        found = []
        for row in rows:
            mean, std = self.percents(row)
            acc, wf1 = self.paper[part][row.name]
            changed = row.name != name
            comparable = reference is not None and changed and len(self.seeds) > 1
            found.append(
                RowOutcome(
                    row=row,
                    trial=self.grid.number(row),
                    mean=mean,
                    std=std,
                    paper={"acc": acc, "wf1": wf1},
                    paper_change=wf1 - self.paper[part][name][1] if changed else None,
                    change=paired(self.wf1(row), self.wf1(reference)) if reference and comparable else None,
                )
            )
        return found


def _scores(grid: Grid) -> dict[int, SeedScores]:
    """Number of each row that has all its seeds → its `val/…` and, once evaluated, `test/…` for each seed, 0..1."""
    runs = {(run["trial"], run["seed"]): run for run in grid.confirmed()}
    seeds, tests = grid.plan.confirm.seeds, grid.test_scores()
    found = {}
    for n in grid.numbers:
        if all((n, seed) in runs for seed in seeds):
            each = [{k: v for k, v in runs[n, seed].items() if k.startswith("val/")} for seed in seeds]
            found[n] = [val | test for val, test in zip(each, tests.get(n, [{} for _ in seeds]), strict=True)]
    return found
