"""A job: one training run for a worker, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lfvd.config import Config


@dataclass(frozen=True, kw_only=True)
class Division:
    """Train + valid without one fold, and that fold to be scored on (lfvd.data.folds.divide)."""

    folds: int | Literal["session"]
    deal: int
    fold: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run for a worker; a job with the same checkpoint continues where the last attempt ended."""

    name: str
    config: Config
    seed: int
    checkpoint: str
    """Where it lies: a path, or an address (tune.study.checkpoints)."""
    gpu: float
    division: Division | None = None
    """Of train + valid; None: the corpus's own."""
    keep: bool = False
    """Whether the best epoch's weights are wanted."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a job's run ended."""

    best_epoch: int
    epochs: int
    seconds: float
    best: dict[str, Any]
    """The best epoch's record."""
    weights: bytes
    """Its weights as a safetensors file; empty unless the job keeps them."""
