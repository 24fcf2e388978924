"""What result.json and <split>.json say: the scores of each seed and over the seeds, and how they name their data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lfvd.config import MODALITY_NAMES
from lfvd.data import UNLABELLED
from lfvd.training.evaluation import Evaluation
from lfvd.training.metrics import confusion_matrix

Summary = dict[str, Any]
"""Content of result.json and <split>.json: `data`, `split`, `seeds` → {best_epoch, scores, by_length, confusion, …},
and `mean`, `std` (None for a single seed) of scores and by_length over the seeds."""

SPLIT_NAMES = {"train": "train", "valid": "validation", "test": "test"}


def seed_scores(found: Evaluation) -> dict[str, Any]:
    """Scores, scores by dialogue length, and confusion counts [c, c] of a seed's predictions."""
    known = found.label != UNLABELLED
    confusion = confusion_matrix(found.label[known], found.prediction[known], len(found.classes))
    return {
        "scores": {"loss": found.loss, **found.scores()},
        "by_length": found.scores_by_length(),
        "confusion": confusion.tolist(),
    }


def summarise(
    data: Mapping[str, Any], trained_on: Mapping[str, Any], split: str, seeds: Mapping[int, Mapping[str, Any]]
) -> Summary:
    """Results of each seed on a split → with mean and sample standard deviation of every score over the seeds."""
    summary: Summary = {**data, "trained_on": trained_on, "split": split, "mean": {}, "std": {}}
    for group in ("scores", "by_length"):
        table = {k: np.array([each[group][k] for each in seeds.values()]) for k in next(iter(seeds.values()))[group]}
        summary["mean"][group] = {k: float(v.mean()) for k, v in table.items()}
        summary["std"][group] = {k: float(v.std(ddof=1)) if len(v) > 1 else None for k, v in table.items()}
    return {**summary, "seeds": {str(seed): dict(each) for seed, each in seeds.items()}}


def format_widths(widths: Mapping[str, int]) -> str:
    """`language 384 wide, audio 300 wide`."""
    return ", ".join(f"{MODALITY_NAMES[m]} {width} wide" for m, width in widths.items())


def data_id(data: Mapping[str, Any]) -> str:
    """`MELD 0a1b2c3d4e5f`: a corpus by name and the start of its fingerprint."""
    return f"{data.get('data')} {str(data.get('fingerprint'))[:12]}"


def headline(summary: Summary) -> str:
    """`MELD, validation split, 5 seeds; SIMULATED: audio, visual`: simulated in the data evaluated on, or trained on."""
    count = len(summary["seeds"])
    simulated = {*summary["simulated"], *summary["trained_on"]["simulated"]}
    text = f"{summary['data']}, {SPLIT_NAMES[summary['split']]} split, {count} seed{'s' * (count > 1)}"
    names = ", ".join(name for name in MODALITY_NAMES.values() if name in simulated)
    return f"{text}; SIMULATED: {names}" if names else text
