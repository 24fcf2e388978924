"""The checkpoint file of a run: everything that decides its remaining epochs. Shape legend: lfvd.data.batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lfvd.files import InputError, atomic_path, reason
from lfvd.training.metrics import Record, canonical_metrics


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or belongs to another run."""


@dataclass(kw_only=True)
class TrainResult:
    """A run so far, or finished: the best validation epoch, its weights, and every epoch's record."""

    seed: int
    best_epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)

    @property
    def best(self) -> Record:
        """The record of the best epoch."""
        return self.history[self.best_epoch - 1]

    @property
    def best_score(self) -> float:
        """The best `val/wf1` so far; -1 before the first epoch."""
        return float(self.best["val/wf1"]) if self.history else -1.0


def save_checkpoint(
    path: str | Path,
    *,
    identity: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    result: TrainResult,
) -> None:
    """Write everything that decides the rest of the run, atomically. identity: what must agree to continue it."""
    on_gpu = identity["device"] == "cuda"
    state = {
        "identity": dict(identity),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state() if on_gpu else None,
        "progress": {
            "history": result.history,
            "best_epoch": result.best_epoch,
            "best_score": result.best_score,
            "best_state": result.state,
        },
    }
    # An open file, since by a name torch hides a full disk in a RuntimeError.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_checkpoint(
    path: str | Path, *, identity: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainResult:
    """Continue where `save_checkpoint` left off: sets model, optimizer and random generators, returns the run so far.

    Raises CheckpointError for an unreadable checkpoint or one of another run.
    """
    state = _read(path)
    other = state["identity"]
    differing = [k for k in {**identity, **other} if identity.get(k) != other.get(k)]
    if differing:
        words = ", ".join(f"`{k}` {other.get(k)} there, {identity.get(k)} here" for k in differing)
        raise CheckpointError(f"{path}: belongs to another run ({words}): use another folder, or delete it")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: was written by another version of the model ({reason(error)}): delete it"
        ) from None
    torch.set_rng_state(state["generator"])
    if state["cuda_generator"] is not None:
        torch.cuda.set_rng_state(state["cuda_generator"])
    return _result(state)


def read_result(path: str | Path) -> TrainResult:
    """The run so far of a checkpoint, without training. Raises CheckpointError for an unreadable one."""
    return _result(_read(path))


def _read(path: str | Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state["identity"], state["progress"]["history"]
    except Exception as error:  # torch raises a different kind for each way a file can be broken
        raise CheckpointError(
            f"{path}: is not a readable checkpoint ({reason(error)}): delete it to start over"
        ) from None
    return state


def _result(state: dict[str, Any]) -> TrainResult:
    progress = state["progress"]
    return TrainResult(
        seed=state["identity"]["seed"],
        best_epoch=progress["best_epoch"],
        state=progress["best_state"],
        history=[canonical_metrics(record) for record in progress["history"]],
    )
