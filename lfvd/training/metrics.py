"""Accuracy, weighted and per-class F1, confusion matrix, all from counts, equal to scikit-learn's; names of metrics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lfvd.files import InputWarning

Record = dict[str, Any]
"""Metrics of an epoch by name; lfvd.training.trainer explains each."""

RENAMED = {"train/loss_self": "train/loss_cross_modal", "train/loss_full": "train/loss_supervised"}
"""Metric names of earlier versions → of today."""


def canonical_metrics(record: Mapping[str, Any]) -> Record:
    """A record with the names of today; an InputWarning tells them where it has old ones."""
    if not RENAMED.keys().isdisjoint(record):
        pairs = ", ".join(f"`{old}` is now `{new}`" for old, new in RENAMED.items())
        warnings.warn(f"records of an earlier version: {pairs}", InputWarning, stacklevel=2)
    return {RENAMED.get(name, name): value for name, value in record.items()}


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts [c, c] of (true, predicted); label, prediction [N] in 0..c-1."""
    counts: np.ndarray = np.bincount(label * classes + prediction, minlength=classes * classes)
    return counts.reshape(classes, classes)


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class [c]; a class that is neither present nor predicted has 0."""
    hits = confusion.diagonal()
    total = confusion.sum(0) + confusion.sum(1)
    return np.asarray(np.divide(2.0 * hits, total, out=np.zeros(len(hits)), where=total > 0))


def weighted_f1(confusion: np.ndarray) -> float:
    """Support-weighted F1 (W-F1); 0 without any utterance."""
    support = confusion.sum(1)
    return float(f1_per_class(confusion) @ support / max(1, support.sum()))


def accuracy(confusion: np.ndarray) -> float:
    """Share of utterances on the diagonal; 0 without any utterance."""
    return float(confusion.trace() / max(1, confusion.sum()))


def scores(label: np.ndarray, prediction: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """`wf1`, `acc` and `f1/<class>`, all in 0..1, of label, prediction [N]."""
    confusion = confusion_matrix(label, prediction, len(classes))
    named = {f"f1/{name}": float(f1) for name, f1 in zip(classes, f1_per_class(confusion), strict=True)}
    return {"wf1": weighted_f1(confusion), "acc": accuracy(confusion), **named}


def wf1_by_length(
    label: np.ndarray, prediction: np.ndarray, length: np.ndarray, *, bins: Sequence[int], classes: int
) -> dict[str, float]:
    """W-F1 of the utterances of dialogues in each length bin (paper's Fig. 4), `≤5`, `6-13`, `>13` for bins (5, 13).

    label, prediction, length (of the utterance's dialogue, in utterances) [N]; a bin without utterances is left out.
    """
    edges = [0, *bins, np.iinfo(np.int64).max]
    result = {}
    for low, high in pairwise(edges):
        inside = (length > low) & (length <= high)
        if inside.any():
            name = f"≤{high}" if low == 0 else f">{low}" if high == edges[-1] else f"{low + 1}-{high}"
            result[name] = weighted_f1(confusion_matrix(label[inside], prediction[inside], classes))
    return result
