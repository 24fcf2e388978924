"""Grids of the paper's rows on a small corpus."""

import csv
from pathlib import Path

from lfvd.data.corpus import Corpus
from tests.helpers import workers
from tests.helpers.invented import never
from tune.paper.grid import Grid, read_base, start_grid
from tune.search.confirmation import ConfirmJobs

SEEDS = (0, 1)

PLAN = {
    "base": "meld",
    "set": {"model.width": 8, "model.latent": 2, "model.heads": 2, "model.dag_layers": 1, "optim.lr": 0.02},
    "space": {"loss.temperature": {"low": 0.05, "high": 1.0}},
    "scheduler": {"kind": "none", "max_epochs": 1},
    "trials": 1,
    "confirm": {"folds": 0, "seeds": list(SEEDS)},
}


def begin(folder: Path, plan: Path, corpus: Corpus, *parts: str) -> Grid:
    """Start a grid, or go on with it."""
    return start_grid(folder, read_base(str(plan)), parts, corpus=corpus, data="small.safetensors", storage=None)


def work(grid: Grid, corpus: Corpus, interrupted=never) -> ConfirmJobs:
    """Train the rows that are missing, in this process."""
    jobs = ConfirmJobs(grid, interrupted, grid.numbers)
    workers.run_here(jobs, corpus.restricted("train", "valid"))
    return jobs


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
