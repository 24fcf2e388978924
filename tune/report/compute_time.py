"""Compute time of a study: hours of training, on GPUs or on processor cores, by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tune.search.stages import FOLDS
from tune.study.study import Study


@dataclass(frozen=True, kw_only=True)
class ComputeTime:
    """Hours of training and validation, times the share of a GPU, or without one the cores, of a trial."""

    unit: str
    """`GPU-hours` or `core-hours`."""
    trials: int
    """Trials of the search with at least one epoch."""
    search: float
    """Of all trials, failed and stopped ones too."""
    confirmation: float


def compute_time(study: Study) -> ComputeTime:
    """Sum up the study's epochs."""
    records = study.epochs()
    hours = [record["seconds"] * record.get("gpu", study.plan.resources.cpu) / 3600 for record in records]

    def total(stage: str) -> float:
        return math.fsum(each for record, each in zip(records, hours, strict=True) if record["stage"] == stage)

    return ComputeTime(
        unit="GPU-hours" if any("gpu" in record for record in records) else "core-hours",
        trials=len({record["trial"] for record in records if record["stage"] == "search"}),
        search=total("search"),
        confirmation=total(study.stage) + total(FOLDS),
    )
