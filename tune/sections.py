"""The sections of a plan: which trials, how many epochs, on what, how long, and how the best are confirmed."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from lfvd.schema import CHECKED, NUMBER, Switch, Whole, as_number, require

MAX_SEED = 2**31 - 1

AUTO, FULL = "auto", "full"


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class SamplerPlan:
    kind: Literal["tpe", "random", "gp", "qmc"] = "tpe"
    """Optuna's sampler."""
    startup_trials: Annotated[Whole, Field(ge=0, le=100_000)] = 10
    """Random trials before tpe or gp begin to learn."""
    seed: Annotated[Whole, Field(ge=0, le=MAX_SEED)] = 0
    """Seed of the sampler; trial seeds derive from it and the trial's number."""


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class SchedulerPlan:
    kind: Literal["asha", "none"] = "asha"
    """asha stops trials at rungs; none runs each to the end."""
    grace_epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 3
    """Epochs before the first rung."""
    reduction: Annotated[Whole, Field(ge=2, le=100)] = 3
    """At each rung about one trial in this many goes on; rungs lie at grace_epochs times its powers."""
    max_epochs: Annotated[Whole, Field(ge=1, le=100_000)] = 80
    """Epochs of a full trial, and of every confirmation run."""


def _as_gpus(value: Any) -> float:
    """GPUs of a trial; `auto` is 0 until a timed epoch decides it. Raises ValueError for a share that none can have."""
    gpus = 0.0 if value == AUTO else as_number(value)
    if 0 < gpus < 0.01:
        raise ValueError("a share of a GPU must be at least 0.01: try 0.25")
    if 1 < gpus < 64 and gpus != int(gpus):
        raise ValueError(f"must be a share of one GPU or a whole number: try {int(gpus)}")
    return gpus


def _seconds(text: Any) -> float:
    """`90m` → 5400.0; 0 for anything that is not a duration."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(text).strip())
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0


_OR_AUTO: dict[str, Any] = {"type": ["number", "string"], "pattern": f"^{AUTO}$"}
_CONCURRENT = require(lambda v: v == AUTO or (type(v) is int and v >= 1), "must be auto or a whole number, at least 1")
_DURATION = require(lambda v: _seconds(v) > 0, "must be a number above 0 with s, m, h or d, such as 90m")
_PATTERN = Field(json_schema_extra={"pattern": r"^[0-9]+(\.[0-9]+)?\s*[smhd]$"})


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ResourcesPlan:
    cpu: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """CPU cores a trial; also its torch threads."""
    gpu: Annotated[float, Field(ge=0, le=64, json_schema_extra=_OR_AUTO), BeforeValidator(_as_gpus)] = 0.0
    """GPUs a trial; a fraction shares one; auto: as many trials share one as fit (SearchPlan.auto_gpu)."""
    max_concurrent: Annotated[int | str, _CONCURRENT, WithJsonSchema({**_OR_AUTO, "minimum": 1})] = AUTO
    """Trials at a time; auto: as many as the cluster holds. A number above that makes an autoscaling cluster grow."""
    epoch_timeout: Annotated[str, _DURATION, _PATTERN] = "30m"
    """A trial whose epoch takes longer counts as hung: its worker is ended, and it continues on another."""

    @property
    def epoch_seconds(self) -> float:
        """The longest epoch in seconds."""
        return _seconds(self.epoch_timeout)


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class BudgetPlan:
    wall: Annotated[str, _DURATION, _PATTERN] = ""
    """Time limit of the search, such as 90m or 8h; left out: none. Confirmation comes after it."""
    gpu_hours: Annotated[float, Field(ge=0, le=1e9), NUMBER] = 0.0
    """GPU-hours of the search (trial seconds x gpu share / 3600); 0: no limit."""

    @property
    def wall_seconds(self) -> float:
        """The time limit in seconds; inf without one."""
        return _seconds(self.wall) or math.inf


def _are_seeds(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and value and all(type(s) is int and 0 <= s <= MAX_SEED for s in value)
    return bool(whole) and len(set(value)) == len(value)


_DISTINCT = Field(min_length=1, json_schema_extra={"uniqueItems": True})
_OR_SESSION: dict[str, Any] = {"type": ["integer", "string"], "pattern": "^session$", "minimum": 0, "maximum": 100}
_FOLDS = require(
    lambda v: v == "session" or (type(v) is int and (v == 0 or 2 <= v <= 100)),
    "must be a whole number from 2 to 100, 0 for none, or session",
)
_OR_FULL: dict[str, Any] = {"type": ["integer", "string"], "pattern": f"^{FULL}$"}
_BASELINE_EPOCHS = require(
    lambda v: v == FULL or (type(v) is int and 0 <= v <= 100_000), "must be full or a whole number, at least 0"
)
_SEEDS = require(_are_seeds, "must be a list of different whole numbers, at least 0")


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ConfirmPlan:
    finalists: Annotated[Whole, Field(ge=1, le=1000)] = 12
    """Best trials that are compared with each other and with the baseline."""
    folds: Annotated[int | Literal["session"], _FOLDS, WithJsonSchema(_OR_SESSION)] = 5
    """Folds of train + valid over which finalists are compared, and one of which scores the search; session: one for each
    recording session (IEMOCAP); 0: the valid split scores the search, and finalists are compared on it over `seeds`."""
    folds_repeats: Annotated[Whole, Field(ge=1, le=100)] = 1
    """Deals of the dialogues into folds: finalists are compared over `folds` times this many runs."""
    seeds: Annotated[tuple[int, ...], _DISTINCT, _SEEDS] = (0, 1, 2, 3, 4)
    """Training seeds of winner and baseline on the official split; all averages of record are over these."""
    race: Switch = True
    """Stop comparing a finalist that is clearly behind the leader."""
    baseline: Literal["first", "last"] = "last"
    """Train the baseline for the comparison before the search, or after it."""
    baseline_epochs: Annotated[int | str, _BASELINE_EPOCHS, WithJsonSchema({**_OR_FULL, "minimum": 0})] = 0
    """Epochs of the baseline's runs after the search; full: the base's own `run.epochs`; 0: scheduler.max_epochs."""
