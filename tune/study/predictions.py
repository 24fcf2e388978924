"""What a confirmed config predicts for a split, seed by seed, kept in the study's folder: its figures need no data later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfvd.data import UNLABELLED
from lfvd.files import InputError, atomic_path, reason
from lfvd.training.metrics import confusion_matrix, wf1_by_length

if TYPE_CHECKING:
    from lfvd.data.corpus import Corpus
    from lfvd.training.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Of one config for one split: S seeds, N utterances in corpus order, m modalities."""

    seeds: np.ndarray  # [S]
    classes: np.ndarray  # [c] names
    modalities: np.ndarray  # [m] of l, a, v
    length_bins: np.ndarray  # upper ends of the paper's bins
    label: np.ndarray  # [N] -1 unlabelled
    dialogue: np.ndarray  # [N] index of the utterance's dialogue in the corpus
    length: np.ndarray  # [N] utterances of that dialogue
    prediction: np.ndarray  # [S, N]
    weight: np.ndarray  # [S, N, m] fusion weights

    @classmethod
    def of(
        cls, corpus: Corpus, found: Sequence[Evaluation], seeds: Sequence[int], modalities: Sequence[str]
    ) -> Predictions:
        """Gather the evaluations of a config's seeds on one split of a corpus."""
        first = found[0]
        return cls(
            seeds=np.array(seeds),
            classes=np.array(first.classes),
            modalities=np.array(modalities),
            length_bins=np.array(first.length_bins, int),
            label=first.label,
            dialogue=np.searchsorted(corpus.offset, first.row, side="right") - 1,
            length=first.length,
            prediction=np.stack([each.prediction for each in found]).astype(np.int16),
            weight=np.stack([each.weight for each in found]).astype(np.float32),
        )

    def save(self, path: Path) -> None:
        """Write atomically."""
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote. Raises InputError for a file that is not whole."""
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                return cls(**{field.name: file[field.name] for field in fields(cls)})
        except Exception as error:  # numpy raises a different kind for each way a file can be broken
            raise InputError(
                f"{path}: holds no readable predictions ({reason(error)}): delete it; `lfvd-tune confirm`, or "
                "`reproduce` again, writes it anew"
            ) from None

    @property
    def known(self) -> np.ndarray:
        """Whether an utterance is labelled [N]."""
        return np.asarray(self.label != UNLABELLED)

    def by_length(self) -> list[dict[str, float]]:
        """W-F1 in 0..1 by dialogue length (lfvd.training.metrics), of each seed."""
        known, bins = self.known, [int(end) for end in self.length_bins]
        label, length, classes = self.label[known], self.length[known], len(self.classes)
        return [wf1_by_length(label, run[known], length, bins=bins, classes=classes) for run in self.prediction]

    def confusion(self) -> np.ndarray:
        """Counts of (true, predicted) over all seeds [c, c]."""
        known, classes = self.known, len(self.classes)
        label = np.tile(self.label[known], len(self.seeds))
        return confusion_matrix(label, self.prediction[:, known].ravel(), classes)
