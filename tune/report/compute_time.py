"""What a study has used: hours of training, on GPUs or on processor cores, by trial and stage."""

from __future__ import annotations

from dataclasses import dataclass

from tune.study.study import Study


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Time of training and validation, times the share of a GPU, or without one the cores, that a trial had."""

    unit: str
    """`GPU-hours` or `core-hours`."""
    trials: dict[int, float]
    """Of each trial of the search that came to an epoch."""
    confirmation: float

    @property
    def search(self) -> float:
        """Of all trials, failed and stopped ones too."""
        return sum(self.trials.values())


def hours_of(study: Study) -> Hours:
    """Add up the study's epochs."""
    cores, on_gpu = study.plan.resources.cpu, False
    trials: dict[int, float] = {}
    confirmation = 0.0
    for record in study.tail("epochs.jsonl").new():
        on_gpu = on_gpu or "gpu" in record
        hours = record["seconds"] * record.get("gpu", cores) / 3600
        if record["stage"] == "search":
            trials[record["trial"]] = trials.get(record["trial"], 0.0) + hours
        elif record["stage"] == study.stage:
            confirmation += hours
    return Hours(unit="GPU-hours" if on_gpu else "core-hours", trials=trials, confirmation=confirmation)
